"""PREFETCH of mirrored memory (gpusvm section 8).

In three parts, with vm.lock held for write throughout.  While the array is taken apart, ranges are found or made, as
whoever wants to unmap their mirror later in the array must meet them.  Then, before any reservation, their pages are
moved to where they are wanted and got.  Their entries are written with those of all other operations, in the order of
the array (:mod:`svm_actors.xe.pt_bind`): a mapping that a mirror took the place of is gone from the page table by then.

What the process has not mapped is skipped.  Pages that will not move, or move again before the entries are written,
end the prefetch of their range without an error, and of no other: the next fault tries again.  In 7.3.4 a race at the
end gives up all of them, and one in the middle the whole ioctl (SVM-S10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.engine.errors import EAGAIN, EFAULT, ENOENT, EOPNOTSUPP, EPERM, KernelError
from svm_actors.xe.svm_range import XeSvmRange

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.xe.fault_vm import XeFaultVm
    from svm_actors.xe.pt import Entries
    from svm_actors.xe.vm_vma import XeVma


@attrs.define(eq=False)
class RangePrefetch:
    """What one operation prefetches of one mirror vma."""

    vm: XeFaultVm
    """Whose."""
    vma: XeVma
    """The mirror."""
    target: DrmPagemap | None
    """Device memory to move to; None: home."""
    ranges: list[XeSvmRange] = attrs.field(factory=list)
    """Those that are not bound there already, without a reference."""
    cursors: list[tuple[XeSvmRange, Entries]] = attrs.field(factory=list)
    """Entries of those whose pages are still valid, as the last pass found them."""

    # -- while the array is taken apart ------------------------------------------------------

    async def find(self, span: tuple[int, int]) -> None:
        """Ranges of pages ``span``.

        -ENOENT closed, -EFAULT dying process, -EPERM, -EIO memory that cannot be mirrored, -ENOMEM, -EBUSY.
        """
        self.vm.assert_locked()
        vpn, end = span
        while vpn < end:
            try:
                range_ = await self._find(vpn)
            except ENOENT:
                following = await self.vm.svm.gpusvm.find_vma_start(vpn, end)
                if following <= vpn:  # gone and come back between the two looks
                    continue
                vpn = following
                continue
            if not (range_.has_valid_mapping and range_.pages.dpagemap is self.target):
                self.ranges.append(range_)
            vpn = range_.end

    async def _find(self, vpn: int) -> XeSvmRange:
        """Made with no threshold: chunks need not be populated.  Dead ranges first, as in a fault (SVM-R04)."""
        await self.vm.gc.collect()
        range_ = await self.vm.svm.gpusvm.range_find_or_insert(
            vpn, self.vma.start, self.vma.end, self._ctx(None)
        )
        assert isinstance(range_, XeSvmRange)
        return range_

    def _ctx(self, target: DrmPagemap | None) -> GpusvmCtx:
        return GpusvmCtx(
            device_private_page_owner=None if target is None else self.vm.owner,
            check_pages_threshold=0,
            read_only=self.vma.read_only,
            devmem_possible=self.vm.device.is_dgfx,
        )

    # -- before any reservation --------------------------------------------------------------

    async def fetch(self) -> None:
        """Move pages and get them.  -ENOMEM and what else get_pages raises that is no race."""
        found, self.ranges = self.ranges, []
        for range_ in found:
            if range_.flags.unmapped:  # and taken apart, perhaps, while another was looked for
                continue
            try:
                await self._move(range_)
                await self.vm.svm.get_pages(range_, self._ctx(self.target))
            except (EAGAIN, EOPNOTSUPP, EFAULT, EPERM) as error:
                self.vm.engine.parts.of(give_up)(self.vm, error)
            else:
                self.ranges.append(range_)

    async def _move(self, range_: XeSvmRange) -> None:
        """-EAGAIN when it would not go to device memory."""
        target = self.target
        if target is not None and range_.flags.migrate_devmem:
            try:
                await self.vm.svm.alloc_vram(range_, self._ctx(target), target)
            except KernelError:
                raise EAGAIN from None
        elif target is None and range_.pages.dpagemap is not None:
            await self.vm.svm.gpusvm.range_evict(range_)

    # -- with the reservations ---------------------------------------------------------------

    async def take_cursors(self) -> None:
        """Take them under the lock, stage the entries without it; they may go stale from then on (SVM-R49)."""
        self.cursors = []
        pt = self.vm.pt
        async with self.vm.svm.gpusvm.notifier_lock.reading():
            for range_ in self.ranges:
                try:
                    self.cursors.append((range_, pt.entries(range_, pt.cursor(range_), self.vma.read_only)))
                except EAGAIN as error:
                    self.vm.engine.parts.of(give_up)(self.vm, error)


def is_still_valid(vm: XeFaultVm, range_: XeSvmRange) -> bool:
    """Pre-commit, with notifier_lock held: False gives this range up."""
    try:
        vm.pt.precommit_range(range_)
    except EAGAIN as error:
        vm.engine.parts.of(give_up)(vm, error)
        return False
    return True


def give_up(vm: XeFaultVm, _error: KernelError) -> None:
    """SVM-R28: a race that was lost is no error of the ioctl: the next fault tries again (SVM-B58).

    Nor does it concern anything but its own range (SVM-S10).
    """
    vm.engine.count("SVM-R28")
    vm.engine.count("prefetch.gave_up")
