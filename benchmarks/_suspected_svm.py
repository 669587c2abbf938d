"""Suspicions of gpusvm section 12."""

from __future__ import annotations

from typing import Final

from benchmarks._suspicion import Suspicion

SHOWN: Final = ("suspected",)
"""The oracle of the scripts in scenarios/suspected."""

SVM: Final = (
    Suspicion(
        "SVM-S01",
        "a fault is retried for ever when a part of its range loses a permission",
        "fault service retries -EFAULT, -EPERM and -EOPNOTSUPP of get_pages without a bound unless device memory is "
        "demanded.  It relies on the lookup of the range to fail once the memory is bad, but that looks only at the "
        "address of the fault and takes an existing range as it is.  When mprotect cuts the VMA under a range, a fault "
        "in the part that is still good may go round for as long as the process leaves it so, with vm->lock held.",
        "as in 7.3.4, for mprotect to read-only and to none, and for a read-only mirror over memory that nobody may "
        "read (tests/cover/xe/test_svm_suspected.py).  Not modelled: ranges past the end of a file, guard and poisoned "
        "pages, which would do the same.  Other VMs are served meanwhile, and the loop ends when the mapping changes. "
        " The livelock is called stable: every fair schedule that was tried stays in.",
        script="permission_split",
        noticed=("liveness/livelock-stable",),
        step_budget=4_000,
    ),
    Suspicion(
        "SVM-S02",
        "the GPU writes a device page that fork has made read-only",
        "the walk answers a device page of the own owner in place even if its CPU entry is read-only and write was "
        "asked for, and get_pages does not read the write bit of the answer.  After a fork the parent's GPU may write "
        "to the page that the child shares, and the child would read it.",
        "mended by default (docs/design/svm_s02.md); planted, the write bit is not looked at.  Both policies are "
        "complete, and `create_vm(write_bit=\"7.3.4\")` is the same without planting.",
        bug="SVM-S02",
    ),
    Suspicion(
        "SVM-S03",
        "the cache of the last vma holds one that a collection freed",
        "fault service looks up a vma, its garbage collection replaces that vma because its attributes reset "
        "themselves, the lookup is made again and the fault is served; then the service may store the first vma in the "
        "cache of the last fault, after the removal has cleared it.  The next fault would look at freed memory.",
        "the model looks every vma up; planted, one is remembered as described.  What a dead vma says is not used, "
        "only that it is asked.  The model frees a replaced vma a little later than 7.3.4, from a worker.",
        bug="SVM-S03",
    ),
    Suspicion(
        "SVM-S04",
        "a second event for user memory does not wait for the TLB flush of the first",
        "while the flush of one event is under way, its wait put off to the second pass, another event for the same "
        "user mapping finds entries that are zapped already: it may flush nothing, wait for nothing, and let the core "
        "free a page that the GPU still has in its TLB.",
        "mended: a notifier waits for every flush it relies on.  Planted, it waits for its own only.",
        bug="SVM-S04",
    ),
    Suspicion(
        "SVM-S05",
        "a range that madvise removes is dropped before its unbind is through",
        "madvise unbinds a range that reaches over its edge without waiting, unmaps it for DMA and takes it off the "
        "tree.  An event that comes then finds no range and returns, and pages may be freed while entries or "
        "translations of the GPU still lead there.",
        "mended: madvise waits for the unbind.  Planted, it does not.  That a failure of the unbind is ignored is "
        "not modelled.",
        bug="SVM-S05",
    ),
    Suspicion(
        "SVM-S06",
        "a refused fault is acknowledged as served, and comes again for ever",
        "errors of get_pages that are not retried (-EBUSY, -ENOMEM, -EINTR, -EINVAL, and the others in atomic mode "
        "with no tries left) leave fault service by its success exit.  The hardware repeats the access, and a cause "
        "that lasts may keep it at that.",
        "as in 7.3.4; here the cause is RAM that has run out.  There is no OOM killer, which would end it on a kernel, "
        "and the bound after which the hardware gives up is the model's.",
        script="refused_but_served",
        noticed=SHOWN,
    ),
    Suspicion(
        "SVM-S07",
        "an atomic fault is satisfied by system memory",
        "when migration fails before anything was invalidated and tries are left, get_pages finds its array valid and "
        "does not look at the demand for device memory; system pages are bound and the fault acknowledged.  Where "
        "atomics do not work on system memory the access may fault again without end.",
        "as in 7.3.4; device memory is too small for the range.",
        script="atomic_in_system_memory",
        noticed=SHOWN,
    ),
    Suspicion(
        "SVM-S08",
        "the span of a TLB flush forgets ranges before the last one",
        "the span of the flush is computed from the event anew for each range that is hit, so the widening for a range "
        "before the last one, which may begin before the event, may be lost.",
        "mended; planted, only the last widening counts.  The hardware of the model flushes exactly what it is told.",
        bug="SVM-S08",
    ),
    Suspicion(
        "SVM-S08 rounded",
        "the same with flushes as today's hardware rounds them",
        "commands are rounded to a naturally aligned power of two, which takes the range before in again; so nothing "
        "should come of SVM-S08 today.",
        "planted as above, with flushes that are rounded so.  The rounding of spans of 2 MiB and more to 16 MiB is "
        "not needed here.",
        script="flushes_of_todays_hardware",
        bug="SVM-S08",
        schedules=1_000,
        exhaustive=True,
    ),
    Suspicion(
        "SVM-S09",
        "a permission to unmap mirrored memory outlives the operation it was for",
        "mapping a mirror sets a permission on the operations of the whole ioctl, so a later unmap in the same array, "
        "over another mirror with ranges in it, may be allowed; ranges and entries would stay without a vma.",
        "mended: the permission ends with its operation.  Planted, it does not.",
        bug="SVM-S09",
    ),
    Suspicion(
        "SVM-S10",
        "of an array of binds with a prefetch some are committed and none is carried out",
        "a prefetch in an array that cannot migrate ends the ioctl with -ENODATA, which is reported as success.  What "
        "the array unmapped before may be out of the tree by then, with its entries alive and its vma never freed.",
        "the model gives up single ranges of a prefetch and never abandons an array.  Planted, the migration phase "
        "ends it (here device memory is too small).",
        bug="SVM-S10",
    ),
    Suspicion(
        "SVM-S10 finished",
        "the same array is finished although its page-table work was given up",
        "when the race is lost at pre-commit, the page-table work is aborted and the operations are finished all the "
        "same: what was unmapped is destroyed at once, and its memory may be given away, while its entries are alive.",
        "ranges that are prefetched are committed together with all other operations of the array; the model drops "
        "those that lose the race.  The script puts what is suspected in the place of that.",
        script="finished_without_work",
        placed=True,
        noticed=("lifetime",),
    ),
    Suspicion(
        "SVM-S11",
        "mirror vmas with different flags are merged",
        "a mirror that is mapped absorbs neighbours whose attributes are default, whatever they were created with, so "
        "a read-only mirror may become writable.",
        "mended: neighbours must be alike.  Planted, they need not.  The probe a page too far is searched under "
        "[vm_bind 18 c](#vm_bind-18-c-a-mirror-looks-for-its-right-neighbour-a-page-too-far).",
        bug="SVM-S11",
    ),
    Suspicion(
        "SVM-S12",
        "a preferred location is compared by its file number",
        "madvise takes a preferred location for unchanged when file number and policy are the same; another region of "
        "that device, or a reused number, may be passed over.",
        "two locations, the own device and system memory, compared by name.",
        reason="Files of devices and their regions are not there to be named.",
    ),
    Suspicion(
        "SVM-S13",
        "madvise on a part of an object's mapping zaps all of it and flushes the part",
        "vmas of objects are not split by madvise: all entries of one may be cleared and marked, and only the interval "
        "that was asked for is flushed.  A later move of the object finds nothing to zap, flushes nothing, and frees "
        "memory under translations.",
        "the model passes objects over, as their attributes are not there.  Planted, they are zapped as described, "
        "whatever the attribute; that is more often than 7.3.4 would.",
        bug="SVM-S13",
    ),
    Suspicion(
        "SVM-S14",
        "a prefetching read of a read-only vma is refused",
        "the test for a read-only vma compares the whole access type, with its prefetch bit, so a prefetching read may "
        "be answered with -EPERM.",
        "accesses are reads, writes and atomics.",
        reason="The access of a fault has no prefetch bit.",
    ),
    Suspicion(
        "SVM-S15",
        "the set-up of a prefetch leaves its loop too early",
        "the loop over what a prefetch is made of ends at the first vma of an object; what lies behind may keep region "
        "0 or no ranges, and is not prefetched.",
        "mended; planted, the loop ends there.  The model has no region 0 to fall back to: what is left out is not "
        "touched at all.",
        bug="SVM-S15",
    ),
    Suspicion(
        "SVM-S16",
        "what the GPU writes is not marked dirty",
        "nothing marks pages dirty that the GPU writes, but for the CPU's own write fault on the way; a page that is "
        "writable and clean may be dropped by reclaim with what the GPU wrote.",
        "mended; planted as MM-B37, the same guard.",
        same="MM-B37",
    ),
    Suspicion(
        "SVM-S17",
        "what is left after a partial unmap stays in device memory",
        "the SVM core expects its drivers to bring the rest of a partly unmapped range home; the collector destroys "
        "the range and may leave its pages where they are.",
        "as in 7.3.4.  Reads stay coherent, so this is a question of placement and of the memory that such pages hold "
        "on to, not of data.",
        script="survivors",
        noticed=SHOWN,
    ),
)
