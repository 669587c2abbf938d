"""The bind ioctl (vm_bind section 7).

All under ``vm.lock`` for write.  Arguments are checked; every operation of the array is turned into
drm_gpuvm operations and committed to the VA tree at once; then all reservations involved are taken in one
ww transaction, new objects are made resident, and the page table is updated in one go, by the CPU or by a
job.  An error before that point puts everything back.

The ioctl answers when the work is queued; its out-fences signal when the next job that waits for them
sees the mapping, which includes the TLB flush.  Binds on one queue complete in order, binds on different
queues do not, but for page tables they share and moves of memory.  The kernel does not order an
unbind behind jobs that use the mapping: whoever unbinds says so with an in-sync (VMB-R12).

What is different in fault mode is in :mod:`svm_actors.xe.fault_bind`.

Simplified: always asynchronous, as Xe is.  Without faults there are no memory regions to prefetch to, so PREFETCH
makes resident and writes entries again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.unwrap import merge
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import OpMap
from svm_actors.engine.errors import EAGAIN, EBUSY, EINVAL, KernelError
from svm_actors.xe.bind_ops import BindOps, OpKind, XeOp
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.preempt_fence import add_preempt_fences
from svm_actors.xe.pt_bind import FENCES_PER_BIND, PtBind
from svm_actors.xe.sync import Sync, SyncList, one_fence
from svm_actors.xe.userptr import new_userptr
from svm_actors.xe.validation import validating

if TYPE_CHECKING:
    from svm_actors.xe.bind_queue import BindQueue
    from svm_actors.xe.gem import XeBo
    from svm_actors.xe.vm_mode import XeBindVm


class BindKind(enum.Enum):
    """drm_xe_vm_bind_op: what is asked for."""

    MAP = "map"
    MAP_USERPTR = "map_userptr"
    MAP_MIRROR = "map_mirror"
    UNMAP = "unmap"
    UNMAP_ALL = "unmap_all"
    PREFETCH = "prefetch"


class BindFlag(enum.IntFlag):
    """DRM_XE_VM_BIND_FLAG_*."""

    READONLY = 1
    """The GPU may only read."""
    IMMEDIATE = 2
    """Write entries at once; always so without faults."""
    NULL = 4
    """No object: reads give 0, writes are dropped."""
    DUMPABLE = 8
    """Part of a core dump; no effect."""
    MADVISE_AUTORESET = 16
    """MAP_MIRROR: attributes go with the memory that they were set for (:mod:`svm_actors.xe.autoreset`)."""


KNOWN_FLAGS: Final = 31


@attrs.frozen
class BindOp:
    """One operation of the array; addresses and lengths in pages."""

    kind: BindKind
    """What to do."""
    addr: int = 0
    """First page of the GPU address range."""
    npages: int = 0
    """Length; 0 for UNMAP_ALL."""
    bo: XeBo | None = None
    """MAP: what to map.  UNMAP_ALL: whose mappings go."""
    offset: int = 0
    """MAP: first page inside the object.  MAP_USERPTR: first page of the process's memory."""
    flags: int = 0
    """:class:`BindFlag` bits; anything else is refused."""
    region: str | None = None
    """PREFETCH in fault mode: ``vram`` or ``system``; None: wherever it belongs."""
    placement: str = "vram"
    """MAP_MIRROR: preferred location of its pages, ``vram`` or ``system``."""


async def vm_bind(
    vm: XeBindVm, ops: Sequence[BindOp], *, queue: BindQueue | None = None, syncs: Sequence[Sync] = ()
) -> None:
    """DRM_IOCTL_XE_VM_BIND.

    -EINVAL bad argument, -ENOENT closed or banned VM, -EOPNOTSUPP sync of the wrong kind, -EFAULT user memory
    that is not there, -EBUSY a user fence of what goes is not signaled, -ENOMEM, -EINTR.  In fault mode -EAGAIN, after
    which user space's wrapper calls again, never gets out of here.
    """
    while True:
        await vm.before_bind()
        try:
            async with vm.device.power.gate:
                await _vm_bind(vm, ops, queue, syncs)
            return
        except EAGAIN:
            vm.engine.count("bind.again")


async def _vm_bind(vm: XeBindVm, ops: Sequence[BindOp], queue: BindQueue | None, syncs: Sequence[Sync]) -> None:
    await vm.lock.write()
    try:
        for op in ops:
            check(vm, op)
        if queue is not None and (queue.vm is not vm or queue.killed):
            raise EINVAL
        vm.check_open()
        vm.engine.faults.fail("memory")
        parsed = SyncList.parse(syncs, lr=vm.lr)
        try:
            ioctl = vm.engine.parts.of(vm.ioctl_class)(vm, queue or vm.default_queue, parsed)
            await ioctl.run(ops)
        finally:
            parsed.cleanup()
    finally:
        vm.lock.release()


def check(vm: XeBindVm, op: BindOp) -> None:
    """vm_bind_ioctl_check_args.  -EINVAL."""
    if op.flags & ~KNOWN_FLAGS:
        raise EINVAL
    if op.kind is BindKind.UNMAP_ALL:
        if op.bo is None or op.npages or op.addr:
            raise EINVAL
        return
    vm.gpuvm.check_range(op.addr, op.npages)
    if (op.kind is BindKind.MAP_MIRROR or op.region is not None) and not vm.faulting:
        raise EINVAL
    if op.flags & BindFlag.MADVISE_AUTORESET and op.kind is not BindKind.MAP_MIRROR:
        raise EINVAL
    null = bool(op.flags & BindFlag.NULL)
    if null and (op.kind is not BindKind.MAP or op.bo is not None):
        raise EINVAL
    if op.kind is BindKind.MAP and not null:
        check_map(vm, op)
    elif op.kind is not BindKind.MAP and (op.bo is not None or vm.mm is None):
        raise EINVAL


def check_map(vm: XeBindVm, op: BindOp) -> None:
    """The object is there, the range inside it, and a local object is this VM's.  -EINVAL."""
    bo = op.bo
    if bo is None or op.offset < 0 or op.offset + op.npages > bo.npages:
        raise EINVAL
    if bo.is_local and vm.gpuvm.is_extobj(bo):
        raise EINVAL


class Ioctl:
    """One call, from the array to the fences."""

    ops_class = BindOps

    def __init__(self, vm: XeBindVm, queue: BindQueue, syncs: SyncList) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.queue = queue
        self.syncs = syncs
        self.bind_ops = vm.device.engine.parts.of(self.ops_class)(vm)
        self.array = False
        """More than one operation was asked for."""

    async def run(self, ops: Sequence[BindOp]) -> None:
        """Commit to the tree, then to the page table; or neither."""
        if not ops:
            self._only_syncs()
            return
        self.array = len(ops) > 1
        try:
            await self.parse_all(ops)
            await self.before_locks()
            await validating(self.vm.device.region.vram, self.execute)
        except KernelError:
            self.engine.count("bind.unwound")
            await self.bind_ops.unwind()
            raise

    def _only_syncs(self) -> None:
        """No operations: out-fences get what the queue has last submitted.  -EINVAL for anything else (7.2)."""
        if self.syncs.in_fences or self.syncs.user_fences:
            raise EINVAL
        self._install(self.queue.last_fences())

    # -- the tree ----------------------------------------------------------------------------

    async def parse_all(self, ops: Sequence[BindOp]) -> None:
        """VMB-R29: one after the other, as each must find the tree as the one before has left it."""
        for op in ops:
            await self.parse(op)

    async def parse(self, op: BindOp) -> None:
        """vm_bind_ioctl_ops_create and parse, for one of the array."""
        gpuvm = self.vm.gpuvm
        self.engine.faults.fail("memory")
        match op.kind:
            case BindKind.MAP | BindKind.MAP_USERPTR:
                await self.map(op)
            case BindKind.UNMAP:
                await self.bind_ops.commit(gpuvm.sm_unmap_ops_create(op.addr, op.npages), None)
            case BindKind.UNMAP_ALL:
                await self._unmap_all(op)
            case BindKind.PREFETCH:
                await self.bind_ops.commit(gpuvm.prefetch_ops_create(op.addr, op.npages), None)
            case BindKind.MAP_MIRROR:
                raise EINVAL

    async def map(self, op: BindOp) -> None:
        """A new vma in the place of what is there."""
        vma = await self.new_vma(op)
        committed = len(self.bind_ops.ops)
        try:
            self.engine.faults.fail("memory")
            made = self.vm.gpuvm.sm_map_ops_create(OpMap(op.addr, op.npages, vma.obj, vma.offset))
            await self.bind_ops.commit(made, vma)
        except KernelError:
            if all(done.vma is not vma for done in self.bind_ops.ops[committed:]):
                vma.destroyed = True
                if vma.userptr is not None:
                    vma.userptr.unlink()
                self.vm.destroy_on(vma, None)
            raise

    async def new_vma(self, op: BindOp) -> XeBindVma:
        """xe_vma_create; user memory is pinned here, before any reservation is taken.  -EFAULT."""
        self.engine.faults.fail("memory")
        userptr = None
        read_only = bool(op.flags & BindFlag.READONLY)
        if op.kind is BindKind.MAP_USERPTR:
            userptr = new_userptr(self.vm, op.offset, op.npages, read_only=read_only)
        offset = op.offset if op.bo is not None else 0
        vma = XeBindVma(
            self.vm, op.addr, op.npages, bo=op.bo, offset=offset, userptr=userptr, read_only=read_only
        )
        vma.born()
        return vma

    async def _unmap_all(self, op: BindOp) -> None:
        """Every mapping of one object; nothing when it is not mapped here."""
        bo = op.bo
        assert bo is not None
        await bo.resv.lock_interruptible()
        try:
            mine = [vm_bo for vm_bo in bo.gpuva.bos if vm_bo.vm is self.vm.gpuvm]
            lists = [self.vm.gpuvm.bo_unmap_ops_create(vm_bo) for vm_bo in mine]
        finally:
            bo.resv.unlock()
        for made in lists:
            made.ops = [op for op in made.ops if not op.va.destroyed]  # type: ignore[union-attr]
            await self.bind_ops.commit(made, None)

    # -- the page table ------------------------------------------------------------------------

    async def before_locks(self) -> None:
        """What cannot be done under a reservation: in fault mode mirrored memory moves."""

    async def execute(self) -> None:
        """vm_bind_ioctl_ops_execute: lock everything, make it resident, update, publish."""
        vm = self.vm
        with self.engine.parts.of(DrmExec)(
            self.engine, f"{vm.name}.bind", interruptible=True, ignore_duplicates=True, memory=vm.memory,
            inject=vm.inject_contention,
        ) as exec_:
            await exec_.until_all_locked(self._lock_and_prep)
            self.check_user_fences()
            if self.vm.lr:
                await add_preempt_fences(self.vm, exec_)
            self.engine.faults.fail("fence")  # for the one fence of it all: nothing may fail behind the next line
            bind = self.engine.parts.of(PtBind)(self.vm, self.queue, self.bind_ops.ops, self.syncs.in_fences)
            fences = await bind.run(exec_)
            await self._fini(fences)

    async def _lock_and_prep(self, exec_: DrmExec) -> None:
        """Lock and reserve; validate what is mapped.  May run several times.

        One operation may make room at the cost of other objects of the VM; an array may not, for it could throw
        out what it has mapped just before (VMB-B16).
        """
        vm = self.vm
        await exec_.prepare_obj(vm.r_obj, FENCES_PER_BIND)
        for obj in self.bind_ops.objects():
            await exec_.prepare_obj(obj, FENCES_PER_BIND)
        for op in self.bind_ops.ops:
            if op.kind is not OpKind.UNMAP:
                await self.validate_op(op, exec_)
        # Validation has used slots of its own.
        for locked in exec_.objects:
            locked.resv.reserve(FENCES_PER_BIND + len(vm.exec_queues))

    async def validate_op(self, op: XeOp, exec_: DrmExec) -> None:
        """Make resident what the operation will write entries of."""
        for vma in (op.vma, *op.new_vmas()):
            if vma.bo is not None:
                await vma.bo.validate(exec_, evict_own=self.may_evict_own())

    def may_evict_own(self) -> bool:
        """VMB-B16: not in an array, where the victim may be what was made resident a moment ago."""
        return not self.array

    def check_user_fences(self) -> None:
        """-EBUSY: what goes away has a user fence that is still to be written (VMB-R28)."""
        for op in self.bind_ops.ops:
            fence = op.vma.ufence if op.removes else None
            if fence is None:
                continue
            if not fence.signalled:
                self.engine.count("bind.ufence_busy")
                raise EBUSY
            if not fence.written.signaled:
                self.engine.count("VMB-R28")

    async def _fini(self, fences: list[Fence]) -> None:
        """vm_bind_ioctl_ops_fini: under the reservations still."""
        vm = self.vm
        with self.engine.faults.set_aside():
            out = self._merged(fences)
        for op in self.bind_ops.ops:
            if op.kind is OpKind.REMAP and op.vma in vm.rebind_list:
                vm.rebind_list.update(dict.fromkeys(op.new_vmas()))
        for vma in self.bind_ops.removed():
            vm.rebind_list.pop(vma, None)
            if vma.userptr is not None:
                vma.userptr.unlink()
            await vm.gpuvm.va_unlink(vma)
            vm.destroy_on(vma, out)
        self._install_out(out)

    def _install(self, fences: list[Fence]) -> None:
        self._install_out(self._merged(fences))

    def _merged(self, fences: list[Fence]) -> Fence:
        return one_fence(merge(self.engine, fences))

    def _install_out(self, out: Fence) -> None:
        """Out-syncs, and user fences of the vmas that were made."""
        self.syncs.install(out)
        for ufence in self.syncs.user_fences:
            ufence.write_after(out, self.queue)
            for op in self.bind_ops.ops:
                for vma in op.new_vmas():
                    vma.ufence = ufence


