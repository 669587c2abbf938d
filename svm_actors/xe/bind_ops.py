"""Operations of one bind ioctl on the VA tree: make, commit, unwind (vm_bind sections 7.1 and 8.5).

A request becomes a list of drm_gpuvm operations, each of them an :class:`XeOp`, which is committed to the
tree at once: the next request of an array sees it.  Page tables follow later, all at one go.  So an
error in between has to undo everything in reverse: vmas that were taken out are put back with the range
they had (VMB-B17), new ones are destroyed, and the VM is what it was (INV-VMB-08).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import GpuvaOps, Op, OpMap, OpPrefetch, OpRemap, OpUnmap
from svm_actors.engine.errors import KernelError
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.validation import keeping_out

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm_gem import GemObject
    from svm_actors.xe.svm_prefetch import RangePrefetch
    from svm_actors.xe.vm_mode import XeBindVm


class OpKind(enum.Enum):
    """What an operation does to the page table."""

    MAP = "map"
    UNMAP = "unmap"
    REMAP = "remap"
    PREFETCH = "prefetch"
    REBIND = "rebind"
    """The kernel's own: entries are written again."""


@attrs.define(eq=False)
class XeOp:
    """xe_vma_op."""

    kind: OpKind
    """What."""
    vma: XeBindVma
    """The new vma of a map, the old one of an unmap or remap, the one in question otherwise."""
    prev: XeBindVma | None = None
    """REMAP: the piece that stays on the left."""
    next: XeBindVma | None = None
    """REMAP: the piece that stays on the right."""
    skip_prev: bool = False
    """Its entries stay as they are."""
    skip_next: bool = False
    """Its entries stay as they are."""
    region: str | None = None
    """PREFETCH in fault mode: where its object should be; None: where it belongs."""
    ranges: RangePrefetch | None = None
    """PREFETCH of a mirror: what of it."""

    def new_vmas(self) -> list[XeBindVma]:
        """Vmas that exist because of it."""
        if self.kind is OpKind.MAP:
            return [self.vma]
        return [vma for vma in (self.prev, self.next) if vma is not None]

    @property
    def removes(self) -> bool:
        """The vma goes."""
        return self.kind in (OpKind.UNMAP, OpKind.REMAP)


class BindOps:
    """xe_vma_ops: all operations of an ioctl, in order."""

    def __init__(self, vm: XeBindVm) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.ops: list[XeOp] = []

    # -- commit ----------------------------------------------------------------------------

    async def commit(self, made: GpuvaOps, new: XeBindVma | None) -> None:
        """vm_bind_ioctl_ops_parse: apply one list; ``new`` is the vma of its map.  -ENOMEM."""
        for op in made:
            await self.commit_one(op, new)

    async def commit_one(self, op: Op, new: XeBindVma | None) -> None:
        vm, gpuvm = self.vm, self.vm.gpuvm
        match op:
            case OpMap():
                assert new is not None
                await link(vm, new)
                gpuvm.va_insert(new, op)
                self.ops.append(XeOp(OpKind.MAP, new))
            case OpUnmap(va=va):
                assert isinstance(va, XeBindVma)
                self.check_unmap(va, va.addr, va.end)
                gpuvm.va_unmap(op)
                va.destroyed = True
                self.ops.append(XeOp(OpKind.UNMAP, va))
            case OpRemap(unmap=unmap):
                assert isinstance(unmap.va, XeBindVma)
                await self._remap(op, unmap.va)
            case OpPrefetch(va=va):
                assert isinstance(va, XeBindVma)
                self.ops.append(XeOp(OpKind.PREFETCH, va))

    async def _remap(self, op: OpRemap, old: XeBindVma) -> None:
        self.check_unmap(
            old,
            old.addr if op.prev is None else op.prev.addr + op.prev.range,
            old.end if op.next is None else op.next.addr,
        )
        rest_of = self.vm.engine.parts.of(piece_of)
        xe_op = XeOp(OpKind.REMAP, old)
        try:
            if op.prev is not None:
                self.engine.faults.fail("memory")
                xe_op.prev = rest_of(old, op.prev)
                xe_op.skip_prev = old.keeps_entries_at(xe_op.prev.end)
            if op.next is not None:
                self.engine.faults.fail("memory")
                xe_op.next = rest_of(old, op.next)
                xe_op.skip_next = old.keeps_entries_at(xe_op.next.addr)
            for piece in xe_op.new_vmas():
                await link(self.vm, piece)
        except KernelError:
            await self._discard(xe_op.new_vmas())
            raise
        self.vm.gpuvm.va_remap(xe_op.prev, xe_op.next, op)
        old.destroyed = True
        self.ops.append(xe_op)

    def check_unmap(self, vma: XeBindVma, start: int, end: int) -> None:
        """May [start, end) of a vma go?  Always, except in fault mode."""

    # -- the way back ------------------------------------------------------------------------

    async def unwind(self) -> None:
        """vm_bind_ioctl_ops_unwind: in reverse, until the VM is as it was."""
        gpuvm = self.vm.gpuvm
        while self.ops:
            op = self.ops.pop()
            for vma in op.new_vmas():
                gpuvm.va_remove(vma)
            await self._discard(op.new_vmas())
            if op.removes:
                self.restore(op.vma)

    def restore(self, vma: XeBindVma) -> None:
        """VMB-B17: back in with the range it had, and alive again."""
        vma.destroyed = False
        self.vm.gpuvm.va_insert(vma)
        if vma.userptr is not None:
            vma.userptr.revive()

    async def _discard(self, vmas: Iterable[XeBindVma]) -> None:
        for vma in vmas:
            vma.destroyed = True
            if vma.obj is not None:
                await self.vm.unlink_locked(vma)
            if vma.userptr is not None:
                vma.userptr.unlink()
            self.vm.destroy_on(vma, None)

    # -- what it is about --------------------------------------------------------------------

    def objects(self) -> list[GemObject]:
        """Objects that are touched, each once, in order."""
        found: dict[GemObject, None] = {}
        for op in self.ops:
            for vma in (op.vma, *op.new_vmas()):
                if vma.obj is not None:
                    found[vma.obj] = None
        return list(found)

    def removed(self) -> list[XeBindVma]:
        """Vmas that go."""
        return [op.vma for op in self.ops if op.removes]


def piece_of(old: XeBindVma, op: OpMap) -> XeBindVma:
    """What stays of a vma that is cut: a vma of its own, with the same backing and what it permits (SVM-B21)."""
    userptr = None if old.userptr is None else old.userptr.piece(op.addr - old.addr, op.range)
    piece = XeBindVma(
        old.xe_vm, op.addr, op.range, bo=old.bo, offset=op.offset, userptr=userptr, read_only=old.read_only,
        mirror=None if old.mirror is None else old.mirror.part(op.addr, op.addr + op.range),
    )  # fmt: skip
    piece.born()
    piece.deferred = old.deferred
    piece.large = old.large
    return piece


async def link(vm: XeBindVm, vma: XeBindVma) -> None:
    """Attach a vma to its object: gpu_vm_bo, object list, list of external objects.  -ENOMEM, -EINTR.

    User memory is watched and pinned from here on (-EFAULT); a null vma has nothing to attach to.
    """
    if vma.userptr is not None:
        await vma.userptr.attach(vma)
    obj = vma.obj
    if obj is not None:
        async with keeping_out(vm.device.region.vram):
            await _link_locked(vm, vma, obj)


async def _link_locked(vm: XeBindVm, vma: XeBindVma, obj: GemObject) -> None:
    new_exec = vm.engine.parts.of(DrmExec)
    with new_exec(vm.engine, f"{vm.name}.link", interruptible=True, ignore_duplicates=True) as exec_:

        async def body(exec_: DrmExec) -> None:
            await exec_.lock_obj(vm.r_obj)
            await exec_.lock_obj(obj)

        await exec_.until_all_locked(body)
        vm_bo = await vm.gpuvm.vm_bo_obtain_locked(obj)
        vm.gpuvm.va_link(vma, vm_bo)
        await vm.gpuvm.vm_bo_extobj_add(vm_bo)
        await vm.gpuvm.vm_bo_put(vm_bo)
