"""DRM_IOCTL_XE_MADVISE and the query of memory attributes (gpusvm section 8; vm_bind section 8.4).

Arguments are checked and the garbage collector's work is awaited.  Then, with vm.lock for write, mirror vmas are split
at both ends of the interval, the attribute is set on all of them inside it, and where that changed something GPU
entries are zapped and flushed under notifier_lock: the next fault looks at the attributes again.  Nothing is moved
here, and pages that stay mapped for DMA stay where they are until something else moves them.

A range that reaches over an end would belong to two vmas, so it goes before the split (SVM-R26): pages in device
memory are brought home, entries and DMA mappings removed.  Unlike 7.3.4, which goes on while the removal of entries
is still queued (SVM-S05), this waits for it.

Attributes that end with their memory are in :mod:`svm_actors.xe.autoreset`.

Simplified: attributes are those of mirrored memory; objects and user memory are passed over and not split.  There is
no purgeable state.  Files of other devices are not there to be named as a preferred location (-ENOENT).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.gpuvm_ops import OpMap, OpRemap
from svm_actors.engine.errors import EINVAL, ENOENT, KernelError
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.xe import pat
from svm_actors.xe.bind_ops import piece_of
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.fault_bind import FaultBindOps, FaultIoctl
from svm_actors.xe.queue_events import MadviseCuts
from svm_actors.xe.svm_range import XeSvmRange
from svm_actors.xe.sync import SyncList
from svm_actors.xe.vm_attr import DEFAULT_ATTR, LOCATIONS, Atomic, DevmemFd, MemRangeAttr, MigrationPolicy
from svm_actors.xe.vm_bind import BindKind, BindOp

if TYPE_CHECKING:
    from svm_actors.xe.fault_vm import XeFaultVm
    from svm_actors.xe.vm_vma import XeVma


class Attribute(enum.IntEnum):
    """DRM_XE_MEM_RANGE_ATTR_*."""

    PREFERRED_LOC = 0
    """Where pages should be."""
    ATOMIC = 1
    """Who may do atomics."""
    PAT = 2
    """Caching."""


@attrs.frozen
class Madvise:
    """drm_xe_madvise; addresses in bytes."""

    start: int
    """First byte, a multiple of 4 KiB."""
    range: int
    """Bytes, a multiple of 4 KiB and not 0."""
    type: int
    """:class:`Attribute`; anything else is refused."""
    devmem_fd: int = DevmemFd.DEFAULT_DEVICE
    """PREFERRED_LOC: :class:`DevmemFd`, or a file of a device."""
    migration_policy: int = MigrationPolicy.ALL_PAGES
    """PREFERRED_LOC: :class:`MigrationPolicy`."""
    region_instance: int = 0
    """PREFERRED_LOC: which memory of that device."""
    atomic: int = Atomic.UNDEFINED
    """ATOMIC: :class:`Atomic`."""
    pat_index: int = 0
    """PAT: index into the table."""
    reserved: tuple[int, ...] = ()
    """Must be zero."""

    @property
    def span(self) -> tuple[int, int]:
        """Pages [start, end)."""
        return self.start >> PAGE_SHIFT, (self.start + self.range) >> PAGE_SHIFT


def check(args: Madvise) -> None:
    """madvise_args_are_sane.  -EINVAL; -ENOENT for a file there is not."""
    if args.start % PAGE_SIZE or args.range % PAGE_SIZE or args.range < PAGE_SIZE or args.start < 0:
        raise EINVAL
    if any(args.reserved):
        raise EINVAL
    match args.type:
        case Attribute.PREFERRED_LOC:
            check_preferred_loc(args)
        case Attribute.ATOMIC:
            if args.atomic not in [*Atomic]:
                raise EINVAL
        case Attribute.PAT:
            if not pat.is_valid(args.pat_index):
                raise EINVAL
        case _:
            raise EINVAL


def check_preferred_loc(args: Madvise) -> None:
    """-EINVAL, -ENOENT."""
    if args.devmem_fd < DevmemFd.DEFAULT_SYSTEM or args.migration_policy not in [*MigrationPolicy]:
        raise EINVAL
    if args.devmem_fd > 0:
        raise ENOENT
    if args.region_instance:
        raise EINVAL


async def madvise(vm: XeFaultVm, args: Madvise) -> None:
    """xe_vm_madvise_ioctl.  -EINVAL, -ENOENT closed or banned VM; a split made before an error stays."""
    check(args)
    await vm.before_bind()
    async with vm.device.power.gate, vm.lock.writing():
        vm.check_open()
        vm.gpuvm.check_range(args.span[0], args.span[1] - args.span[0])
        await vm.engine.parts.of(VmMadvise)(vm, args).run()


class VmMadvise:
    """One call, vm.lock held for write."""

    def __init__(self, vm: XeFaultVm, args: Madvise) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.args = args
        self.start, self.end = args.span

    async def run(self) -> None:
        """Split, set, zap; the last two in one section (SVM-R25, SVM-B48).

        What is still to be reset goes first, or it would take what is set now.
        """
        await self.vm.gc.reset_emptied()
        for edge in (self.start, self.end):
            await self.drop_straddlers(edge)
        await self.split()
        async with self.vm.notifier_lock.reading():
            changed = [vma for vma in self.mirror_vmas() if self.apply(vma)]
            if changed:
                await self.zap(changed)

    def mirror_vmas(self) -> list[XeVma]:
        """Of the interval; after the split none reaches out of it.

        SVM-S13: objects are not split, so a zap of theirs would reach further than the flush.
        """
        overlapping = self.vm.gpuvm.tree.overlapping(self.start, self.end)
        return [vma.mirror for vma in overlapping if isinstance(vma, XeBindVma) and vma.mirror is not None]

    # -- the split -----------------------------------------------------------------------------

    async def drop_straddlers(self, edge: int) -> None:
        """SVM-R26: no range outlives the vma it is in: one that reaches over a cut goes (SVM-B29)."""
        vma = self.vm.find_vma(edge)
        if vma is None or vma.mirror is None or vma.addr == edge:
            return
        for range_ in self.vm.svm.gpusvm.ranges(edge - 1, edge + 1):
            if range_.start < edge < range_.end:
                self.engine.count("SVM-R26")
                assert isinstance(range_, XeSvmRange)
                await self.drop(range_)

    async def drop(self, range_: XeSvmRange) -> None:
        """xe_svm_unmap_address_range for one range.

        SVM-R41: entries first, and they are gone before the rest (SVM-S05).
        """
        vm = self.vm
        if range_.pages.dpagemap is not None:
            try:
                await vm.svm.gpusvm.range_evict(range_)
            except KernelError as error:
                self.engine.count(f"gpu.range_evict.{error.code}")
        await vm.pt.unbind_range(range_)
        await vm.resv.wait_all()
        if range_.flags.unmapped or vm.notifier_lock.holders():
            self.engine.count("SVM-R41")
        await vm.gc.collect_now(range_)

    async def split(self) -> None:
        """xe_vm_alloc_madvise_vma: no mirror vma reaches over an end of the interval."""
        ioctl = MadviseSplit(self.vm, self.vm.default_queue, SyncList())
        await ioctl.run([BindOp(BindKind.MAP_MIRROR, self.start, self.end - self.start)])

    # -- the attribute ---------------------------------------------------------------------------

    def apply(self, vma: XeVma) -> bool:
        """madvise_funcs: set it; False when it was so already."""
        args, before = self.args, (vma.preferred_loc, vma.attr)
        if args.type == Attribute.PREFERRED_LOC:
            vma.preferred_loc = LOCATIONS[DevmemFd(args.devmem_fd)]
            vma.attr = attrs.evolve(vma.attr, migration_policy=MigrationPolicy(args.migration_policy))
        elif args.type == Attribute.ATOMIC:
            vma.attr = attrs.evolve(vma.attr, atomic_access=Atomic(args.atomic))
        else:
            vma.attr = attrs.evolve(vma.attr, pat_index=args.pat_index)
        return before != (vma.preferred_loc, vma.attr)

    async def zap(self, changed: list[XeVma]) -> None:
        """SVM-R25: under notifier_lock, so no notifier zaps and marks beside it (SVM-B48).

        Nothing fails between a mark and the flush (RULE-26).
        """
        svm = self.vm.svm
        if self.vm.notifier_lock.parked:
            self.engine.count("SVM-R25")
        await svm.wait_bookkeeping()
        zapped = False
        for vma in changed:
            for range_ in svm.gpusvm.ranges(vma.start, vma.end):
                assert isinstance(range_, XeSvmRange)
                zapped |= await self.vm.pt.zap_range(range_)
        if zapped:
            self.engine.count("madvise.zapped")
            await svm.wait_tlb_flush(await svm.submit_tlb_flush((self.start, self.end)))


class MadviseOps(FaultBindOps):
    """The cut of mirror vmas: their ranges stay, those in the way are gone."""

    def check_unmap(self, vma: XeBindVma, start: int, end: int) -> None:
        """The exception to -EBUSY (7.4)."""


class MadviseSplit(FaultIoctl):
    """The ioctl's machinery for a change of the tree that changes no entry (INV-VMB-15)."""

    ops_class = MadviseOps

    async def parse(self, op: BindOp) -> None:
        """Each part inside takes its attributes from the vma that it was cut out of."""
        old: XeBindVma | None = None
        self.vm.engine.emit(MadviseCuts(self.vm, False))
        for made in self.vm.gpuvm.madvise_ops_create(OpMap(op.addr, op.npages)):
            if isinstance(made, OpRemap):
                assert isinstance(made.unmap.va, XeBindVma)
                old = made.unmap.va
            if old is None or old.mirror is None:
                continue
            new = self.vm.engine.parts.of(piece_of)(old, made) if isinstance(made, OpMap) else None
            await self.bind_ops.commit_one(made, new)
        self.vm.engine.emit(MadviseCuts(self.vm, True))

    def check_user_fences(self) -> None:
        """What is cut stays mapped, so nobody has to wait for the fence of its bind."""


async def query_mem_range_attrs(vm: XeFaultVm, start: int, length: int) -> list[MemRangeAttr]:
    """DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS: every vma that overlaps, whole.  -EINVAL, -ENOENT closed."""
    if start % PAGE_SIZE or length % PAGE_SIZE or length <= 0:
        raise EINVAL
    first, end = start >> PAGE_SHIFT, (start + length) >> PAGE_SHIFT
    async with vm.lock.reading():
        vm.check_open()
        return [_answer(vma) for vma in vm.vmas() if vma.addr < end and first < vma.end]


def _answer(vma: XeBindVma) -> MemRangeAttr:
    mirror = vma.mirror
    attr = DEFAULT_ATTR if mirror is None else mirror.attr
    return MemRangeAttr(
        vma.addr << PAGE_SHIFT,
        vma.end << PAGE_SHIFT,
        "vram" if mirror is None else mirror.preferred_loc,
        attr.migration_policy,
        attr.atomic_access,
        attr.pat_index,
    )
