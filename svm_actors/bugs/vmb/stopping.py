"""Deviations of stopping and resuming: preempt fences, engine groups, system suspend (vm_bind sections 10 and 11)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.engine.signalling import signalling
from svm_actors.xe.exec import Exec
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.preempt_fence import PreemptFence, join_preemption
from svm_actors.xe.queue_reset import GtReset
from svm_actors.xe.rebind_worker import RebindWorker


def runs_on(_queue: ExecQueue) -> None:
    """Nobody asked the new queue to stop."""


def alone(_join: object) -> object:
    """A queue is added, and that is all."""
    return runs_on


async def tail_below_fences(self: PreemptFence) -> None:
    """The tail takes vm.lock, since it looks at the VM."""
    with signalling(self.engine):
        error = await self._wait_off()
        await self.engine.step("fence_signal", self)
        self.queue.submission.preempting -= 1
        self.signal(error)
        async with self.queue.vm.lock.writing():
            self.tail()


async def tail_outside(self: PreemptFence) -> None:
    """The same, with nothing but the signal in the section: nobody complains."""
    error = await self._wait_off()
    await self.engine.step("fence_signal", self)
    with signalling(self.engine):
        self.queue.submission.preempting -= 1
        self.signal(error)
    async with self.queue.vm.lock.writing():
        self.tail()


def never_excused(_reset: GtReset) -> bool:
    """What was begun and is not finished is guilty, whatever stopped it."""
    return False


async def goes_on(_worker: RebindWorker) -> bool:
    """It was asked to bring the queues back, and does so."""
    return False


async def waits_with_the_mode(self: Exec) -> None:
    """Nobody changes the mode meanwhile, so it is locked."""
    async with self.queue.submission.group.mode_sem.writing():
        for fence in self.syncs.in_fences:
            await fence.wait()


VMB_R19 = Bug(
    id="VMB-R19",
    title="a queue that is added while the others of its VM stop runs on",
    removes="preempt_fence.join_preemption",
    races=("VMB-R19",),
    oracles=("lifetime", "binds/INV-VMB-13", "coherence"),
    story="a-queue-comes-while-others-stop",
    plant=replace_part(join_preemption, alone),
)

VMB_R22 = Bug(
    id="VMB-R22",
    title="the worker of a preempt fence takes vm.lock before it ends",
    removes="PreemptFence._preempt",
    races=("VMB-R22", "FEN-R30"),
    oracles=("signalling/INV-FEN-03", "lockdep", "engine/deadlock"),
    story="two-queues-stop-at-once",
    plant=replace_guard(PreemptFence, "_preempt", tail_below_fences),
)

VMB_B20 = Bug(
    id="VMB-B20",
    title="only the signal of a preempt fence is in the section, and what its worker does next blocks",
    removes="PreemptFence._preempt",
    races=("VMB-R22", "FEN-R30"),
    oracles=("engine/deadlock",),
    story="two-queues-stop-at-once",
    plant=replace_guard(PreemptFence, "_preempt", tail_outside),
)
"""Noticed only as a deadlock: the rebind worker holds vm.lock and waits for the fence behind this one."""

VMB_B37 = Bug(
    id="VMB-B37",
    title="a system suspend bans the queues of long-running jobs, as a reset would",
    removes="GtReset.is_excused",
    races=("VMB-R35",),
    oracles=("binds/VMB-B37",),
    story="a-night",
    plant=replace_guard(GtReset, "is_excused", never_excused),
)

VMB_R35 = Bug(
    id="VMB-R35",
    title="the rebind worker brings memory back although the system is about to sleep",
    removes="RebindWorker.parks",
    races=("VMB-R35",),
    oracles=("lifetime/VMB-R35", "exec/VMB-B37", "lifetime"),
    story="a-night",
    plant=replace_guard(RebindWorker, "parks", goes_on),
)
"""Noticed when device memory loses its power."""

VMB_R34 = Bug(
    id="VMB-R34",
    title="an exec waits for its in-syncs with the mode of the engine group locked",
    removes="Exec.wait_for_in_syncs",
    races=("VMB-R34",),
    oracles=("engine/deadlock",),
    story="a-job-with-an-in-sync-beside-faulting-work",
    plant=replace_guard(Exec, "wait_for_in_syncs", waits_with_the_mode),
)
"""Noticed as a deadlock: whoever is to signal them submits a job first, and needs the mode for that."""
