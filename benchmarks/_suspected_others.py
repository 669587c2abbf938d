"""Suspicions of vm_bind section 18, and what came up while the model was built."""

from __future__ import annotations

from typing import Final

from benchmarks._suspicion import Suspicion

OTHERS: Final = (
    Suspicion(
        "vm_bind 18 a",
        "a list of operations leaks a record when an allocation fails",
        "when there is no memory for the right piece of a cut, the left piece is freed and the record of the unmap may "
        "not be.",
        "lists of operations, which are not allocated one by one; failed ioctls leave the VM as it was (INV-VMB-08).",
        reason="The allocation that fails is a record of the kernel's; there is nothing to leak.",
    ),
    Suspicion(
        "vm_bind 18 b",
        "the set-up of a prefetch leaves its loop at the first vma that is no mirror",
        "later prefetches of the same request may keep region 0.",
        "see SVM-S15.",
        same="SVM-S15",
    ),
    Suspicion(
        "vm_bind 18 c",
        "a mirror looks for its right neighbour a page too far",
        "the neighbour is asked for at the page behind the one that follows, so a hole of one page may be swallowed "
        "and mirrored.",
        "mended; the script puts the suspected probe in place.",
        script="right_neighbour",
        placed=True,
        noticed=("suspected",),
    ),
    Suspicion(
        "vm_bind 18 d",
        "a partial acknowledgement of a TLB flush arms its timer on another work queue",
        "one place arms the timer of outstanding flushes on another queue than the others do, so its order against "
        "their work may differ.",
        "one timer, in one place.",
        reason="Which queue runs a timer is not part of the model.",
    ),
    Suspicion(
        "vm_bind 18 e",
        "comments and code disagree",
        "header comments still speak of the WRITE slot for external objects, of a rebind worker that reads, and of a "
        "restart operation.",
        "what the code is said to do.  The WRITE slot is planted as VMB-B03 and noticed.",
        reason="It is a question of text.",
    ),
    Suspicion(
        "killed queue",
        "the preempt fence of a killed queue signals while the hardware runs its job",
        "the fence of a queue that is dead to the driver may signal at once, with -ENOENT, without a look whether the "
        "hardware has let go of its context.  Whoever waits for the fence, a move or a notifier, would take memory "
        "away from a job that still runs.",
        "mended: the fence of a dead queue waits until it is off (tests/cover/xe/test_dead_queues.py).  The script "
        "puts the suspected behaviour in place.  What else may take a killed queue off first on real hardware is not "
        "known here.",
        script="killed_queue",
        placed=True,
        noticed=("lifetime/INV-05",),
    ),
    Suspicion(
        "zapped rest",
        "the rest of a mapping that is cut after an eviction is taken for valid",
        "a rest whose entries can stay (vm_bind 8.5) is given `tile_present` of the mapping that was cut, and nothing "
        "gives it `tile_invalidated`.  In a VM in fault mode an eviction zaps the entries of an object's mappings and "
        "says so in that mask only.  After a cut the rest would count as bound: a fault on it is acknowledged at once, "
        "the access faults again, and so on until something else zaps or binds it.  An atomic does not take that "
        "exit, and user memory has no such rest.",
        "mended: a rest takes over both (tests/cover/xe/test_fault_vm.py).  The script puts the suspected behaviour in "
        "place, with a bound on how often the hardware comes back.  No race is needed.",
        script="forgotten_invalidation",
        placed=True,
        noticed=("suspected",),
    ),
    Suspicion(
        "page between devices",
        "a job waits for as long as two devices pull one page to and fro",
        "a job with a dma-fence waits until faulting queues of its engines are off, and a context with a fault under "
        "way answers when that is served.  Two VMs in fault mode, of two devices that both insist on one page "
        "(RULE-11), may keep the first fault from being served, and with it the fence.",
        "as in 7.3.4, with time slices that may end early.  The search asks for more than three moves of the page "
        "while the job waits; that it goes on for ever is not claimed, as time slices double.",
        script="job_behind_ping_pong",
        noticed=("suspected",),
        race_timers=True,
    ),
    Suspicion(
        "VMB-B02 moves",
        "of moves alone, a job that does not wait for external objects shows nothing",
        "every move of an object brings an update of entries that waits for it, whose own fence is in the VM's "
        "reservation; so the defect VMB-B02 should not show by moves alone.",
        "planted; a VM, its job and evictions of an external object.  It does show where another VM's rewrite is "
        "queued in the object (`rewrite-of-a-shared-object`), which is how VMB-B02 is found.",
        script="moves_bring_a_rebind",
        bug="VMB-B02",
        schedules=1_000,
    ),
    Suspicion(
        "VMB-B07 list",
        "mappings that an error leaves on the repin list show there and nowhere else",
        "whoever pins next finds them there and pins them again, and every change of their memory lists them once "
        "more; so the defect VMB-B07 should be seen in the list, when such a mapping is destroyed, and not in what a "
        "job reads.",
        "planted.  In 200 runs of its story, 99 of which failed, nothing but a look at the list noticed it.",
        bug="VMB-B07",
    ),
    Suspicion(
        "lock order",
        "two digests order mmap_lock and vm_lock differently",
        "vm_bind section 2 has mmap_lock outside of vm->lock, gpusvm section 1.7 has it inside; if the kernel took "
        "both orders, two threads could wait for each other.",
        "vm->lock outside, as fault service and pinning need it (docs/design/lock_order.md).  A run in which anybody "
        "takes vm->lock with mmap_lock held would fail, by the lock-dependency checker; the search is in random "
        "programs over VMs in fault mode.  So the order of vm_bind 2 is taken for a slip of that list.",
        target="fault-bind",
        noticed=("lockdep", "engine/deadlock"),
        schedules=200,
        step_budget=50_000,
    ),
)
