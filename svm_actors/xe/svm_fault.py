"""The fault loop of a mirrored address: F1 to F9 (gpusvm section 5, design rule 3).

One big retry loop validated at commit.  Nothing is locked out: what moved meanwhile shows as an error
of one of the steps, and the loop begins again.

Three ways out of it are suspected to be wrong in 7.3.4, and the model takes them as the kernel does:

* SVM-S01: -EFAULT, -EPERM and -EOPNOTSUPP of get_pages are retried without any bound unless device
  memory is demanded.  Counted when an attempt fails as the one before did although nothing happened in
  between, that is, when retrying cannot help.
* SVM-S06: any other error leaves by the success exit: the access is replayed by the hardware.
* SVM-S07: pages that are mapped already are not asked where they are, so an atomic for which migration
  failed is bound to system memory, and the hardware faults again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.drm.pagemap import DrmPagemap
from svm_actors.drm.pagemap_ram import REFAULT_INTERVAL_NS
from svm_actors.engine.errors import EACCES, EAGAIN, EFAULT, EOPNOTSUPP, EPERM, KernelError
from svm_actors.gpu.fault import PageFault
from svm_actors.mm.constants import PAGE_SHIFT
from svm_actors.xe.svm_range import XeSvmRange

if TYPE_CHECKING:
    from svm_actors.xe.svm import XeSvm
    from svm_actors.xe.vm_vma import XeVma

ATOMIC_TIMESLICE_NS = 5_000_000
"""atomic_svm_timeslice_ms: 5."""
DEVMEM_ONLY_TRIES = 3
PAGES_64K = 16


@attrs.frozen
class RangeFound:
    """Emitted by a fault that has found its range, before it uses it."""

    fault: PageFault
    """Which fault."""
    range: XeSvmRange
    """What it found."""


class SvmFault:
    """Service of one fault on one GPU VMA; vm->lock is held for write throughout."""

    def __init__(self, svm: XeSvm, vma: XeVma, fault: PageFault) -> None:
        self.svm = svm
        self.vm = svm.vm
        self.engine = svm.engine
        self.vma = vma
        self.fault = fault
        self.devmem_only = svm.needs_vram(fault.access, vma.attr.atomic_access)
        self.tries = DEVMEM_ONLY_TRIES if self.devmem_only else 1
        """Migrations left."""
        self.timeslice_ns = self.first_timeslice()
        self._last: tuple[XeSvmRange, str, int] | None = None
        """Range, error and sequence of the last failed get_pages."""

    def first_timeslice(self) -> int:
        """SVM-R10: pages the device insists on stay for a while, or the CPU has them back at once (SVM-B08); ns."""
        return ATOMIC_TIMESLICE_NS if self.devmem_only else 0

    async def run(self) -> None:
        """Until the fault is served.  -EACCES, -EAGAIN (look the GPU VMA up again), errors of F1, F3, F6, F8."""
        self.vm.assert_locked()
        self.vm.device.count_stat("svm_pagefault_count")
        while not await self._attempt():
            pass

    async def _attempt(self) -> bool:
        """F1 to F9 once; False starts again."""
        await self.collect_garbage()
        target = self._target()
        ctx = self._ctx(target)
        range_ = await self._find(ctx)
        self._count(range_, "pagefault")
        if self.devmem_only and not range_.flags.migrate_devmem:
            return self.refuse_atomic()
        if self._is_served(range_, target):
            self.engine.count("gpu.fault.valid")
            self._count(range_, "valid_pagefault")
            return True
        if not await self._migrate(range_, ctx, target):
            return False
        mapped = await self._get_pages(range_, ctx)
        if mapped is not None:
            return mapped
        return await self._bind(range_, target)

    def _count(self, range_: XeSvmRange, what: str) -> None:
        """svm_4K_pagefault_count and its like: once per attempt, by the size of the range."""
        kilobytes = range_.npages << (PAGE_SHIFT - 10)
        size = f"{kilobytes >> 10}M" if kilobytes >= 1024 else f"{kilobytes}K"
        self.vm.device.count_stat(f"svm_{size}_{what}_count")

    async def collect_garbage(self) -> None:
        """F1, SVM-R04: ranges of memory that is gone must not be found again (RULE-17, SVM-B42)."""
        await self.vm.gc.run()

    def _target(self) -> DrmPagemap | None:
        """F2: where the pages should be; None is system memory."""
        return self.vm.device.pagemap if self.devmem_only else self.vma.preferred_pagemap(self.vm.device)

    def _ctx(self, target: DrmPagemap | None) -> GpusvmCtx:
        """F2: SVM-R55: without a target the owner is None, which pulls the pages home (SVM-B16)."""
        return GpusvmCtx(
            device_private_page_owner=self.vm.owner if target is not None else None,
            check_pages_threshold=self.vm.check_pages_threshold,
            timeslice_ns=self.timeslice_ns,
            read_only=self.vma.read_only,
            devmem_possible=self.vm.device.is_dgfx,
            devmem_only=self.devmem_only,
        )

    async def _find(self, ctx: GpusvmCtx) -> XeSvmRange:
        """F3."""
        vma = self.vma
        vpn = max(self.fault.vpn, vma.start)
        range_ = await self.svm.gpusvm.range_find_or_insert(vpn, vma.start, vma.end, ctx)
        assert isinstance(range_, XeSvmRange)
        if self.engine.listeners:
            self.engine.emit(RangeFound(self.fault, range_))
        return range_

    def _is_served(self, range_: XeSvmRange, target: DrmPagemap | None) -> bool:
        """F5, SVM-R27: somebody bound it already.  Read without a lock: a stale yes only faults again."""
        if not range_.has_valid_mapping:
            return False
        if not self.is_in_place(range_, target):
            return False
        if self.svm.gpusvm.notifier_lock.holders():
            self.engine.count("SVM-R27")
        return not self._must_upgrade(range_)

    def is_in_place(self, range_: XeSvmRange, target: DrmPagemap | None) -> bool:
        """SVM-R10: for an atomic that insists on device memory it is not enough to be bound (SVM-B09)."""
        return not self.devmem_only or range_.pages.dpagemap is target

    def refuse_atomic(self) -> bool:
        """F4, SVM-R53: memory that cannot migrate will never do; to say it was served brings it back (SVM-B32)."""
        raise EACCES

    def _must_upgrade(self, range_: XeSvmRange) -> bool:
        return self.vm.write_bit.must_upgrade(range_, self.fault.vpn, self.fault.access)

    # -- F6 --------------------------------------------------------------------------

    async def _migrate(self, range_: XeSvmRange, ctx: GpusvmCtx, target: DrmPagemap | None) -> bool:
        """F6: bring the range to the target if it is not there; False starts again without migrating."""
        self.tries = max(self.tries - 1, -1)  # what is below says nothing more, and a retry is in the same state
        if self.tries < 0 or target is None or not range_.flags.migrate_devmem:
            return True
        if range_.pages.dpagemap is target or self.is_too_small(range_):
            return True
        self.timeslice_ns <<= 1
        self.engine.count("migrate.attempt")
        try:
            await self.svm.alloc_vram(range_, ctx, target)
        except KernelError as error:
            self.engine.count(f"gpu.retry.alloc_vram.{error.code}")
            if not self.devmem_only:
                return False
            if self.tries:
                return True
            raise
        return True

    def is_too_small(self, range_: XeSvmRange) -> bool:
        """Where device memory comes in 64 KiB, a range below that, and only below, stays (SVM-B12)."""
        return self.vm.device.needs_64k and range_.npages < PAGES_64K

    # -- F7 --------------------------------------------------------------------------

    async def _get_pages(self, range_: XeSvmRange, ctx: GpusvmCtx) -> bool | None:
        """F7: None goes on to the bind, False starts again, True leaves by the success exit."""
        try:
            await self.svm.get_pages(range_, ctx)
            await self._upgrade(range_)
        except (EOPNOTSUPP, EFAULT, EPERM) as error:
            self.timeslice_ns <<= 1
            await self.let_process_die()
            if self.tries > 0 or not self.devmem_only:
                self._note_retry(range_, error)
                return False
            self.engine.count("SVM-S06")
            return True
        except KernelError:
            self.engine.count("SVM-S06")
            return True
        return None

    async def _upgrade(self, range_: XeSvmRange) -> None:
        """SVM-R38: a write to a page the CPU may only read: home and writable first, then once more.

        Not in 7.3.4 (SVM-S02).  -EOPNOTSUPP when it did so, as for a placement that had to be repaired.
        """
        if not self._must_upgrade(range_):
            return
        self.engine.count("SVM-R38")
        await self.svm.gpusvm.range_evict(range_, write=True)
        raise EOPNOTSUPP

    def _note_retry(self, range_: XeSvmRange, error: KernelError) -> None:
        """Window events of a retry: SVM-R10 the pages were pulled back, SVM-S01 nothing has changed."""
        self.engine.count(f"gpu.retry.get_pages.{error.code}")
        if self.devmem_only and isinstance(error, EFAULT):
            self.engine.count("SVM-R10")
        attempt = (range_, error.code, range_.interval.seq)
        if self._last is not None and self._last[0] is range_ and self._last[1:] == attempt[1:]:
            self.engine.count("SVM-S01")
        self._last = attempt

    async def let_process_die(self) -> None:
        """SVM-R21: the OOM reaper has been here, so no walk will succeed; the retries end with the last user of the mm.

        The kernel's worker spins until then, and so does an atomic that is told after its few tries that it was served
        (SVM-S06).  Whoever spins here would keep the clock from those that sleep meanwhile: a CPU fault waits for the
        timeslice of a page, the reaper for its next attempt.
        """
        if self.vm.mm.unstable:
            await self.engine.sleep(REFAULT_INTERVAL_NS, "dying process")

    # -- F8 and F9 -------------------------------------------------------------------

    async def _bind(self, range_: XeSvmRange, target: DrmPagemap | None) -> bool:
        """F8, F9: bind and wait for the fence; False when the pages moved before the commit."""
        if self.devmem_only and range_.pages.dpagemap is not target:
            self.engine.count("SVM-S07")
        try:
            fence = await self.vm.pt.bind_range(range_, self.vma.read_only)
        except EAGAIN:
            self.timeslice_ns <<= 1
            self.engine.count("gpu.retry.bind")
            return False
        await fence.wait()
        return True


async def handle_pagefault(svm: XeSvm, vma: XeVma, fault: PageFault) -> None:
    """xe_svm_handle_pagefault: the outer loop; -EAGAIN means the GPU VMA was replaced (SVM-R24).  -EINVAL."""
    while True:
        try:
            await svm.engine.parts.of(SvmFault)(svm, vma, fault).run()
            return
        except EAGAIN:
            svm.engine.count("SVM-R24")
            vma = svm.vm.mirror_vma(fault.vpn)
