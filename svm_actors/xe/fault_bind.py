"""The bind ioctl on a VM in fault mode (vm_bind sections 7 and 11, gpusvm section 8).

MAP makes the vma and nothing else, unless IMMEDIATE asks for entries.  PREFETCH moves objects where they are wanted and
writes entries of what it finds; user memory is pinned again for it (VMB-B12).

CPU_ADDR_MIRROR maps memory of the process at its own addresses; only the vma is made.  Neighbours that are alike, and
what it overlaps of them, become one vma with it, and their ranges stay.  Nothing else may take mirrored memory
away while there are ranges in it: -EBUSY.  The one exception, a mirror mapped over all of a mirror vma, belongs to one
operation; in 7.3.4 the permission stays on for the rest of the array (SVM-S09).  It also asks that both are
read-only or neither, as ranges keep their entries, and neighbours become one only if their placement is the same as
well; 7.3.4 compares neither, and looks for the right neighbour a page too far (SVM-S11).

An ioctl that fails after it has prefetched into a mirror vma of its own takes those ranges apart again; the digest
is silent, but ranges without a vma are no state to be in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from svm_actors.engine.errors import EBUSY, EINVAL
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.xe.bind_ops import BindOps, OpKind, XeOp
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.svm_prefetch import RangePrefetch
from svm_actors.xe.vm_attr import DEFAULT_ATTR
from svm_actors.xe.vm_bind import BindFlag, BindKind, BindOp, Ioctl
from svm_actors.xe.vm_vma import XeVma

if TYPE_CHECKING:
    from svm_actors.drm.exec import DrmExec
    from svm_actors.xe.fault_vm import XeFaultVm


class FaultBindOps(BindOps):
    """Operations on the tree of a VM that may mirror the process."""

    vm: XeFaultVm
    replaced_by: BindOp | None = None
    """The operation under way, if it maps a mirror."""

    def check_unmap(self, vma: XeBindVma, start: int, end: int) -> None:
        """-EBUSY: mirrored memory with ranges in it stays as it is (7.4); unmap it in the process first."""
        if vma.mirror is None or self._may_stay(vma, start, end):
            return
        if self.vm.svm.gpusvm.has_mapping(start, end):
            self.vm.engine.count("bind.svm_busy")
            raise EBUSY

    def _may_stay(self, vma: XeBindVma, start: int, end: int) -> bool:
        """Its ranges go over to the new mirror vma: all of it goes, and what is writable stays writable."""
        op = self.replaced_by
        whole = (start, end) == (vma.addr, vma.end)
        return op is not None and whole and bool(op.flags & BindFlag.READONLY) == vma.read_only

    def end_permission(self) -> None:
        """SVM-S09: it was for one operation, not for the rest of the array (RULE-33)."""
        self.replaced_by = None

    async def unwind(self) -> None:
        """What a failed ioctl has prefetched into vmas of its own goes with them."""
        new = [op.vma for op in self.ops if op.kind is OpKind.MAP and op.vma.mirror is not None]
        await super().unwind()
        for vma in new:
            await self.vm.drop_ranges(vma.addr, vma.end)


class FaultIoctl(Ioctl):
    """One call."""

    ops_class = FaultBindOps
    vm: XeFaultVm
    bind_ops: FaultBindOps

    # -- the tree ----------------------------------------------------------------------------

    async def parse(self, op: BindOp) -> None:
        """-EINVAL a region or placement that does not exist, a mirror outside the process's addresses."""
        if op.region not in (None, "vram", "system"):
            raise EINVAL
        first = len(self.bind_ops.ops)
        if op.kind is BindKind.MAP_MIRROR:
            await self._map_mirror(op)
        else:
            await super().parse(op)
        if op.kind is BindKind.PREFETCH:
            await self._prepare_prefetch(op, self.bind_ops.ops[first:])

    async def _map_mirror(self, op: BindOp) -> None:
        if op.placement not in ("vram", "system") or op.addr + op.npages > TASK_PAGES:
            raise EINVAL
        if op.flags & ~(BindFlag.READONLY | BindFlag.DUMPABLE | BindFlag.MADVISE_AUTORESET):
            raise EINVAL
        start, end = self.absorb(op)
        self.bind_ops.replaced_by = op
        try:
            await self.map(BindOp(op.kind, start, end - start, flags=op.flags, placement=op.placement))
        finally:
            self.bind_ops.end_permission()

    def absorb(self, op: BindOp) -> tuple[int, int]:
        """xe_vm_find_cpu_addr_mirror_vma_range: the span with the neighbours that are alike."""
        start, end = op.addr, op.addr + op.npages
        left = self.vm.find_vma(start - 1) if start else None
        right = self.vm.find_vma(end)
        if left is not None and self.is_alike(left, op):
            start = left.addr
        if right is not None and self.is_alike(right, op):
            end = right.end
        return start, end

    def is_alike(self, vma: XeBindVma, op: BindOp) -> bool:
        """SVM-S11: what one permits and the other does not must not become one."""
        mirror = vma.mirror
        read_only = bool(op.flags & BindFlag.READONLY)
        if mirror is None or mirror.attr != DEFAULT_ATTR:
            return False
        autoreset = bool(op.flags & BindFlag.MADVISE_AUTORESET)
        alike = (mirror.read_only, mirror.preferred_loc, mirror.autoreset)
        return alike == (read_only, op.placement, autoreset)

    async def new_vma(self, op: BindOp) -> XeBindVma:
        """Entries come with the first fault, unless they were asked for."""
        if op.kind is not BindKind.MAP_MIRROR:
            vma = await super().new_vma(op)
            vma.deferred = not op.flags & BindFlag.IMMEDIATE
            return vma
        read_only = bool(op.flags & BindFlag.READONLY)
        autoreset = bool(op.flags & BindFlag.MADVISE_AUTORESET)
        self.engine.faults.fail("memory")
        mirror = XeVma(op.addr, op.addr + op.npages, read_only, op.placement, autoreset=autoreset)
        vma = XeBindVma(self.vm, op.addr, op.npages, read_only=read_only, mirror=mirror)
        vma.deferred = True
        vma.born()
        return vma

    # -- prefetch ----------------------------------------------------------------------------

    async def _prepare_prefetch(self, op: BindOp, made: list[XeOp]) -> None:
        """Before any reservation: user memory is pinned (VMB-B12), SVM ranges are found."""
        for prefetch in self.to_prepare(made):
            prefetch.region = op.region
            vma = prefetch.vma
            if vma.userptr is not None:
                await self.pin_for_prefetch(vma)
            elif vma.mirror is not None:
                span = max(vma.addr, op.addr), min(vma.end, op.addr + op.npages)
                wanted = vma.mirror if op.region is None else vma.mirror.preferring(op.region)
                target = wanted.preferred_pagemap(self.vm.device)
                prefetch.ranges = RangePrefetch(self.vm, vma.mirror, target)
                await prefetch.ranges.find(span)

    async def before_locks(self) -> None:
        """SVM ranges are moved where they are wanted."""
        await fetch_all(self.bind_ops.ops)

    def to_prepare(self, made: list[XeOp]) -> list[XeOp]:
        """SVM-S15: all of them, whatever lies between."""
        return made

    async def pin_for_prefetch(self, vma: XeBindVma) -> None:
        """Stale pages would make the commit answer -EAGAIN for ever (VMB-B12).  -EFAULT."""
        if vma.userptr.stale():
            await vma.userptr.pin_pages()

    async def validate_op(self, op: XeOp, exec_: DrmExec) -> None:
        """Objects whose entries are written; those of a MAP wait for a fault, a PREFETCH may want them elsewhere."""
        if op.kind is OpKind.PREFETCH and op.region is not None and op.vma.bo is not None:
            await op.vma.bo.migrate(op.region)
        elif not op.vma.deferred or op.vma.present or op.kind is OpKind.PREFETCH:
            await super().validate_op(op, exec_)


async def fetch_all(ops: Iterable[XeOp]) -> None:
    """Of all operations, in order.  -ENOMEM and what else get_pages raises that is no race."""
    for op in ops:
        if op.ranges is not None:
            await op.ranges.fetch()
