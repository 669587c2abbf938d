"""A GPU address space that user space fills, and the sync objects binds and jobs carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_wait import WaitFlags, wait_array
from svm_actors.engine.errors import ENOENT
from svm_actors.engine.signals import restarting
from svm_actors.gpu.program import Instruction, Result, Step
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.world.address_space import AddressSpace
from svm_actors.world.process import Process, pages_of
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.exec import Execution, exec_ioctl
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.preempt_fence import add_lr_queue
from svm_actors.xe.sync import Sync
from svm_actors.xe.user_fence import UserFence
from svm_actors.xe.vm_bind import BindKind, BindOp, vm_bind
from svm_actors.xe.vm_mode import XeBindVm
from svm_actors.xe.wait_user_fence import SECOND, CpuMemory, WaitFlag, wait_user_fence

if TYPE_CHECKING:
    from svm_actors.world.world import World


class UserSyncobj(Syncobj):
    """A syncobj as user space has it: an in- or out-fence of binds and jobs."""

    async def wait(self, timeout: int = MAX_SCHEDULE_TIMEOUT) -> None:
        """Sleep until something was submitted and is done.  -ETIME."""
        flags = WaitFlags.ALL | WaitFlags.FOR_SUBMIT
        await restarting(self.engine, lambda: wait_array(self.engine, [self], flags=flags, timeout=timeout))

    @property
    def done(self) -> bool:
        """Something was submitted and is done."""
        return self.fence is not None and self.fence.is_signaled()

    def sync_in(self) -> Sync:
        """As an in-fence."""
        return Sync(self)

    def sync_out(self) -> Sync:
        """As an out-fence."""
        return Sync(self, signal=True)


class BindVm(AddressSpace):
    """A GPU address space that user space fills: objects are bound into it and jobs submitted to it.

    Addresses, lengths and offsets are bytes, multiples of the page size.
    """

    def __init__(self, world: World, vm: XeBindVm) -> None:
        super().__init__(world)
        self.vm: XeBindVm = vm

    async def create_bo(
        self, length: int, *, placement: str = "vram", external: bool = False, name: str | None = None
    ) -> XeBo:
        """A buffer object, local to this VM unless ``external``.  -ENOENT when that VM is closed."""
        name = name or self.world.core.new_name("bo")
        kind = self.vm.device.engine.parts.of(XeBo)
        local = None if external else self.vm
        if local is not None:
            self._lookup()
        try:
            async with self.vm.device.power.gate:
                bo = await restarting(
                    self.vm.engine,
                    lambda: kind.create(self.vm.device, name, pages_of(length), placement=placement, vm=local),
                )
        finally:
            if local is not None:
                local.gpuvm.put_now()
        self.world.bos.append(bo)
        return bo

    async def close_bo(self, bo: XeBo) -> None:
        """User space drops its handle; mappings keep the object alive.  ValueError when it was dropped before."""
        self.world.bos.remove(bo)
        await bo.put()

    def _lookup(self) -> None:
        """xe_vm_lookup: a close under way does not free the VM before the ioctl is through.  -ENOENT."""
        if not self.vm.size:
            raise ENOENT
        self.vm.get()

    async def bind(
        self,
        addr: int,
        bo: XeBo | None,
        *,
        offset: int = 0,
        length: int | None = None,
        flags: int = 0,
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """MAP an object; without one (and with the NULL flag) a null mapping."""
        length = bo.npages * PAGE_SIZE - offset if length is None and bo is not None else length
        await self.bind_array([self.map_op(addr, bo, length or 0, offset, flags)], queue=queue, syncs=syncs)

    async def bind_userptr(
        self,
        addr: int,
        user_addr: int,
        length: int,
        *,
        flags: int = 0,
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """MAP memory of the process."""
        op = BindOp(
            BindKind.MAP_USERPTR, pages_of(addr), pages_of(length), offset=pages_of(user_addr), flags=flags
        )
        await self.bind_array([op], queue=queue, syncs=syncs)

    async def unbind(
        self, addr: int, length: int, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """UNMAP a range; mappings that reach out of it keep the rest."""
        await self.bind_array([self.unmap_op(addr, length)], queue=queue, syncs=syncs)

    async def unbind_all(self, bo: XeBo, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()) -> None:
        """UNMAP_ALL: every mapping of one object."""
        await self.bind_array([BindOp(BindKind.UNMAP_ALL, bo=bo)], queue=queue, syncs=syncs)

    async def prefetch(
        self, addr: int, length: int, *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """PREFETCH: make resident what is mapped there, and write its entries again."""
        await self.bind_array(
            [BindOp(BindKind.PREFETCH, pages_of(addr), pages_of(length))], queue=queue, syncs=syncs
        )

    async def bind_array(
        self, ops: Sequence[BindOp], *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
    ) -> None:
        """Any operations, in order, as one."""
        await restarting(self.vm.engine, lambda: vm_bind(self.vm, ops, queue=queue, syncs=syncs))

    @staticmethod
    def map_op(addr: int, bo: XeBo | None, length: int, offset: int = 0, flags: int = 0) -> BindOp:
        """One MAP for :meth:`bind_array`."""
        return BindOp(BindKind.MAP, pages_of(addr), pages_of(length), bo, pages_of(offset), flags)

    @staticmethod
    def unmap_op(addr: int, length: int) -> BindOp:
        """One UNMAP for :meth:`bind_array`."""
        return BindOp(BindKind.UNMAP, pages_of(addr), pages_of(length))

    def bind_queue(self) -> BindQueue:
        """A further bind queue."""
        return self.vm.create_bind_queue()

    def user_fence(self, process: Process, addr: int, value: int) -> UserFence:
        """Eight bytes that get a value: memory of the process for a bind, at an address of the GPU for a job."""
        kind = self.vm.device.engine.parts.of(UserFence)
        return kind(self.world.core, process.mm, addr, value, self.vm.ufence_wq)

    async def wait_user_fence(
        self, memory: CpuMemory, addr: int, op: str, value: int, *, timeout: int = SECOND, **options: Any
    ) -> int:
        """Sleep until a user fence compares as ``op`` says; ``memory`` is a process, or an object for its own bytes.

        ``timeout`` in ns.  See :func:`svm_actors.xe.wait_user_fence.wait_user_fence` for options, answer and errors.
        """
        engine = self.vm.engine
        begin = engine.now

        async def call() -> int:
            relative = timeout >= 0 and not options.get("flags", 0) & WaitFlag.ABSTIME
            left = max(0, timeout - (engine.now - begin)) if relative else timeout
            return await wait_user_fence(self.vm, memory, addr, op, value, timeout=left, **options)

        return await restarting(engine, call)

    async def create_queue(self) -> ExecQueue:
        """A queue to submit programs to; in ``lr`` mode one that can be preempted.  -ENOENT once the VM is closed."""
        if self.vm.lr:
            return await add_lr_queue(self.vm, self.vm.device)
        async with self.vm.lock.reading():
            self.vm.check_open()
            return self.vm.engine.parts.of(ExecQueue)(self.vm, self.vm.device)

    async def submit(
        self,
        queue: ExecQueue,
        program: Iterable[Step],
        ins: Sequence[UserSyncobj] = (),
        outs: Sequence[UserSyncobj] = (),
        *,
        syncs: Sequence[Sync] = (),
    ) -> Execution:
        """Submit a program, to run after ``ins`` and to signal ``outs``; the answer can be waited for."""
        every = [*(one.sync_in() for one in ins), *(one.sync_out() for one in outs), *syncs]
        return await restarting(self.vm.engine, lambda: exec_ioctl(queue, tuple(program), every))

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a program on the compute engine at once, without a queue and without a fence."""
        return await self.vm.device.gpu.compute.run(self.vm.asid, tuple(program))
