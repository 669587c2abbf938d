"""Suspicions of pagemap section 11."""

from __future__ import annotations

from typing import Final

from benchmarks._suspicion import Suspicion

NO_BLOCKS: Final = "There are no large pages and no block entries: every folio is one page."

PGM: Final = (
    Suspicion(
        "PGM-S01",
        "the migration of a huge hole always counts as overtaken",
        "an unpopulated window of 2 MiB is one hole, moves as one folio, and is counted as one page of 512, so the "
        "migration may be reported as lost although all of it moved, and be made again by way of RAM.",
        "holes of single pages, which are counted right.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "PGM-S02",
        "an eviction cannot take a block apart",
        "a large device folio for which there is no large RAM folio is copied to small ones, and then the step that "
        "moves the mapping may refuse, in all three passes: device memory stays full while RAM is fragmented.",
        "evictions of single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "PGM-S03",
        "an allocation outlives the address space it was made for",
        "a device allocation has a bare pointer to the address space it was made for.  A child that still maps its "
        "pages keeps it alive after the parent's exit and the end of the VM, and an eviction may look at a freed "
        "structure.",
        "mended: the allocation keeps the structure.  Planted, the pointer is bare.",
        bug="PGM-S03",
    ),
    Suspicion(
        "PGM-S04",
        "a dying process fails the allocations of others",
        "an eviction that meets an allocation of a process without users ends with -EFAULT, which is not turned into "
        "\"try another victim\"; so whoever needed the memory may fail with it.  A lack of RAM does the same.",
        "mended: any victim that cannot be moved is passed over.  Planted, the error ends the search.",
        bug="PGM-S04",
    ),
    Suspicion(
        "PGM-S05",
        "copies that failed are committed",
        "only the last job of a copy is waited for, and the error of no fence is read; a reset between submission and "
        "commit may leave pages with whatever was in them.",
        "mended; planted as MM-B13, the same guard.",
        same="MM-B13",
    ),
    Suspicion(
        "PGM-S06",
        "the shrinker clears the pointer to its successor",
        "the scan takes an inactive pagemap off its list and lets go of the lock; a lookup that comes in between makes "
        "a new one and stores it; the scan may then clear the pointer to the new one, which nobody finds any more.",
        "mended: the scan looks what is stored.  Planted, it clears whatever is there.  What a fault does with a "
        "region that cannot be found is not modelled; the leak is.",
        bug="PGM-S06",
    ),
    Suspicion(
        "PGM-S07",
        "the shrinker uses a cache that was freed",
        "the scan has taken a pagemap off its list and let go of the lock; device removal does not find it there, "
        "frees the cache, and the scan may lock what is freed.",
        "mended: the removal waits for the scan.  Planted, it does not.",
        bug="PGM-S07",
    ),
    Suspicion(
        "PGM-S08",
        "an operation that is missing leaks the reference on the allocation",
        "a migration that finds copy or populate operations missing returns before it takes over the reference it was "
        "given, and several ways out of the making of a pagemap may release what was never taken.",
        "migrations that fail at any later step (PGM-R34).",
        reason="No table of operations is incomplete here, and the making of a region cannot fail half way.",
    ),
    Suspicion(
        "PGM-S09",
        "a fault on a device block spins when the page is locked",
        "where the lock of a block is taken, a fault returns at once and comes again, and may keep the holder's work "
        "off that CPU.",
        "faults on single pages, which sleep; a CPU that is kept busy is not modelled.",
        reason=f"{NO_BLOCKS}  There are no CPUs to keep busy.",
    ),
    Suspicion(
        "PGM-S10",
        "a block that a CPU fault takes apart is copied for nothing",
        "the split of a block is refused while the fault holds a reference, so the first fault may copy 2 MiB for "
        "nothing and only the second one gets on.",
        "faults on single pages.",
        reason=NO_BLOCKS,
    ),
    Suspicion(
        "PGM-S11",
        "the source of a move between devices is not retired",
        "finalize unlocks a source before it puts it; between the two an eviction of the source's allocation may lock "
        "it and copy content that has left already.",
        "mended: sources of moves between devices are retired like those of moves home.  Planted, they are not.",
        bug="PGM-S11",
    ),
    Suspicion(
        "PGM-S12",
        "a device-to-device copy does not guard its source against unbinding",
        "the target of such a copy is guarded against removal of its device, the source may not be: its copy engine "
        "could be used after it has gone.",
        "the guard of the target (PGM-R28).",
        reason="Unbinding takes the driver away and not the hardware, so an engine works on after it.",
    ),
    Suspicion(
        "PGM-S13",
        "long waits with mmap_lock held",
        "a walk without an owner, or with another one, faults a page home that is in its timeslice, again and again "
        "with mmap_lock read-held; meanwhile everybody who changes that address space may have to wait.",
        "as in 7.3.4: an mmap of other memory waits for the rest of a timeslice of 5 ms.",
        script="stalled_mmap",
        noticed=("suspected",),
    ),
    Suspicion(
        "PGM-S13 driver",
        "the same with the driver-wide lock held exclusively",
        "a migration to device memory that was lost is tried once more with the driver-wide lock held for write, and "
        "the range is brought home first; where that waits for a timeslice, the migrations of all other processes and "
        "devices may wait with it.",
        "as in 7.3.4: the first store of another process waits for the rest of a timeslice of 5 ms.",
        script="stalled_migration",
        noticed=("suspected",),
    ),
    Suspicion(
        "PGM-S14",
        "a spinlock is taken in an interrupt that others hold with interrupts on",
        "the free of a folio in an interrupt may put the last reference on a pagemap, which takes the shrinker's lock; "
        "others hold that lock with interrupts on.",
        "both paths, in tasks of their own.",
        reason="There are no interrupts that stop a task on its CPU.",
    ),
)
