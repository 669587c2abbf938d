"""What a VM is to exec queues, and what queues keep in the VM (vm_bind sections 2, 9 and 10).

A VM that can be submitted to has a :class:`VmExecs` as ``vm.execs``.  It holds the rebind worker, and the
hooks with which exec and worker make the VM usable: pin userptrs, write page-table entries.

The list of queues is changed under vm.lock for write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from svm_actors.xe.rebind_worker import RebindWorker

if TYPE_CHECKING:
    from svm_actors.dma_buf.fence import Fence
    from svm_actors.dma_buf.resv import DmaResv
    from svm_actors.drm.exec import DrmExec
    from svm_actors.drm.gpuvm import DrmGpuvm
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.locks import RwSem
    from svm_actors.gpu.page_table import GpuPageTable
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.wait_user_fence import UfenceQueue


class ExecVm(Protocol):
    """A VM with a drm_gpuvm, as exec sees it."""

    engine: Engine
    name: str
    asid: int
    lock: RwSem
    """vm->lock."""
    notifier_lock: RwSem
    """Read by whoever checks that nothing is stale and publishes a fence; write in the notifier."""
    gpuvm: DrmGpuvm
    """Its mappings and object lists."""
    page_table: GpuPageTable
    """What the hardware walks."""
    resv_dma: DmaResv
    """vm.resv."""
    exec_queues: list[Any]
    """Its queues, in order of creation."""
    tlb_flush_seqno: int
    """Raised by whoever rewrites entries in use; the next job of each queue flushes in its ring (VMB-B13)."""
    banned: bool
    """An operation failed half way."""
    ufence_wq: UfenceQueue
    """Who waits for user fences."""
    rebind_list: dict[Any, None]
    """Mappings whose entries must be written again."""

    @property
    def lr(self) -> bool:
        """Long-running mode: queues have preempt fences, and jobs publish nothing."""

    @property
    def faulting(self) -> bool:
        """Fault mode: long-running without preempt fences; its queues exclude dma-fence jobs."""

    @property
    def closed(self) -> bool:
        """Closed or banned."""

    @property
    def execs(self) -> VmExecs:
        """The state below."""

    def ban(self) -> None:
        """Nothing more is run or bound; its queues are killed."""


def _never() -> bool:
    return False


async def _no_userptrs() -> None:
    return


async def _no_rebinds(_exec: DrmExec) -> list[Fence]:
    return []


@attrs.frozen
class ExecHooks:
    """How the VM is made usable; the defaults are those of a VM without userptrs and rebind list."""

    needs_repin: Callable[[], bool] = _never
    """Some userptr was invalidated since it was pinned; a hint unless notifier_lock is held."""
    repin: Callable[[], Awaitable[None]] = _no_userptrs
    """Pin those again, under vm->lock for write and no reservation."""
    rebind: Callable[[DrmExec], Awaitable[list[Fence]]] = _no_rebinds
    """Write the entries of everything on the rebind list, under the reservations locked; answers the fences."""


class VmExecs:
    """The exec side of one VM."""

    worker_class = RebindWorker

    def __init__(self, vm: ExecVm, device: XeDevice, hooks: ExecHooks | None = None) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.submission = device.submission
        self.hooks = hooks or ExecHooks()
        self.rebind = device.engine.parts.of(self.worker_class)(self)

    @property
    def queues(self) -> list[ExecQueue]:
        """Queues of the VM, in order of creation."""
        return self.vm.exec_queues

    def preemption_under_way(self, but: ExecQueue) -> bool:
        """Some other queue's preempt fence was asked to signal."""
        fences = [queue.preempt_fence for queue in self.queues if queue is not but and not queue.dead]
        return any(fence is not None and fence.enabled for fence in fences)

    def needs_work(self) -> bool:
        """Jobs may not run before something is pinned, made resident or bound again; every reservation is held."""
        return self.hooks.needs_repin() or len(self.vm.gpuvm.evicted) > 0 or len(self.vm.rebind_list) > 0

    async def make_valid(self, exec_: DrmExec) -> list[Fence]:
        """VMB-R07: objects resident, entries written; again if the one has undone the other.

        A rebind allocates page tables, which may evict what was just validated.  Under every reservation
        of the VM; slots have to be reserved once more afterwards.
        """
        gpuvm, fences = self.vm.gpuvm, []
        rounds = 0
        while True:
            if rounds:
                self.engine.count("VMB-R07")
            rounds += 1
            if len(gpuvm.evicted):
                await gpuvm.validate(exec_)
            fences += await self.hooks.rebind(exec_)
            if not self.must_validate_again():
                return fences

    def must_validate_again(self) -> bool:
        """VMB-R07: something was evicted meanwhile."""
        return len(self.vm.gpuvm.evicted) > 0

    async def flush(self) -> None:
        """VM close, with no lock held: the rebind worker is through and does not come back."""
        await self.rebind.disable()

    def statistics(self) -> dict[str, int]:
        """0 after close."""
        return {"queues": len(self.queues)}
