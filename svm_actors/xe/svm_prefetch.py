"""PREFETCH of mirrored memory (gpusvm section 8).

Range by range, with vm.lock held for write and no reservation: find or make the range, move its pages to where they are
wanted, get them, write the entries.  What the process has not mapped is skipped.  Pages that will not move, or move
again before the entries are written, end the prefetch of their range without an error: the next fault tries again.

Simplified: the kernel moves all ranges first and binds them in one go with the other operations of the ioctl; there,
a race at the end gives up all of them, and one in the middle the whole ioctl (SVM-S10).  Here each range is
through before the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.engine.errors import EAGAIN, EFAULT, ENOENT, EOPNOTSUPP, EPERM, KernelError
from svm_actors.xe.svm_range import XeSvmRange

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.xe.fault_vm import XeFaultVm
    from svm_actors.xe.vm_vma import XeVma


async def prefetch_ranges(vm: XeFaultVm, vma: XeVma, span: tuple[int, int], region: str | None) -> None:
    """Pages ``span`` to ``vram``, ``system``, or where the vma prefers them.

    -ENOENT closed, -EFAULT dying process, -EPERM, -EIO memory that cannot be mirrored, -ENOMEM, -EBUSY.
    """
    vm.assert_locked()
    gpusvm = vm.svm.gpusvm
    wanted = vma if region is None else vma.preferring(region)
    target = wanted.preferred_pagemap(vm.device)
    vpn, end = span
    while vpn < end:
        try:
            range_ = await _find(vm, vma, vpn)
        except ENOENT:
            following = await gpusvm.find_vma_start(vpn, end)
            if following <= vpn:  # gone and come back between the two looks
                continue
            vpn = following
            continue
        await _prefetch_one(vm, vma, range_, target)
        vpn = range_.end


def _ctx(vm: XeFaultVm, vma: XeVma, target: DrmPagemap | None, threshold: int = 0) -> GpusvmCtx:
    return GpusvmCtx(
        device_private_page_owner=None if target is None else vm.owner,
        check_pages_threshold=threshold,
        read_only=vma.read_only,
        devmem_possible=vm.device.is_dgfx,
    )


async def _find(vm: XeFaultVm, vma: XeVma, vpn: int) -> XeSvmRange:
    """Made with no threshold: chunks need not be populated.  Dead ranges first, as in a fault (SVM-R04)."""
    await vm.gc.collect()
    range_ = await vm.svm.gpusvm.range_find_or_insert(vpn, vma.start, vma.end, _ctx(vm, vma, None))
    assert isinstance(range_, XeSvmRange)
    return range_


async def _prefetch_one(vm: XeFaultVm, vma: XeVma, range_: XeSvmRange, target: DrmPagemap | None) -> None:
    if range_.has_valid_mapping and range_.pages.dpagemap is target:
        return
    ctx = _ctx(vm, vma, target)
    try:
        await _move(vm, range_, ctx, target)
        await vm.svm.get_pages(range_, ctx)
        fence = await vm.pt.bind_range(range_, vma.read_only)
    except (EAGAIN, EOPNOTSUPP, EFAULT, EPERM) as error:
        vm.engine.parts.of(give_up)(vm, error)
        return
    await fence.wait()


def give_up(vm: XeFaultVm, _error: KernelError) -> None:
    """SVM-R28: a race that was lost is no error of the ioctl: the next fault tries again (SVM-B58).

    Nor does it concern anything but its own range (SVM-S10).
    """
    vm.engine.count("SVM-R28")
    vm.engine.count("prefetch.gave_up")


async def _move(vm: XeFaultVm, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap | None) -> None:
    """-EAGAIN when it would not go to device memory."""
    if target is not None and range_.flags.migrate_devmem:
        try:
            await vm.svm.alloc_vram(range_, ctx, target)
        except KernelError:
            raise EAGAIN from None
    elif target is None and range_.pages.dpagemap is not None:
        await vm.svm.gpusvm.range_evict(range_)
