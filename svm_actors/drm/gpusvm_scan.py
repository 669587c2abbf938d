"""Where are the pages of a range, and bring them home (gpusvm section 4, end).

Both look at virtual addresses, so they take and drop mmap_lock inside hmm and serve the fault handler
only; physical eviction lives in the pagemap (design rule 2).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from svm_actors.drm.gpusvm_pages import HMM_RANGE_DEFAULT_TIMEOUT, DrmGpusvmPages
from svm_actors.drm.gpusvm_range import GpusvmRange
from svm_actors.engine.errors import EBUSY, ETIME, KernelError
from svm_actors.mm.hmm_types import Hmm, HmmRange
from svm_actors.mm.messages import HmmRangeFaultUnlocked

if TYPE_CHECKING:
    from svm_actors.mm.memremap import DevPagemap


class Scan(Enum):
    """enum drm_gpusvm_scan_result."""

    UNPOPULATED = "unpopulated"
    """A page is missing, or could not be looked at."""
    EQUAL = "equal"
    """All in the region asked about."""
    OTHER = "other"
    """All in one other region."""
    SYSTEM = "system"
    """All in RAM."""
    MIXED_DEVICE = "mixed_device"
    """In several regions."""
    MIXED = "mixed"
    """In RAM and in device memory."""


def classify(walk: HmmRange, pgmap: DevPagemap | None) -> Scan:
    """What a snapshot says; MIXED is sticky."""
    regions: list[DevPagemap | None] = []
    for pfn in walk.pfns:
        if pfn.folio is None:
            return Scan.UNPOPULATED
        if pfn.folio.pgmap not in regions:
            regions.append(pfn.folio.pgmap)
    if regions == [None]:
        return Scan.SYSTEM
    if None in regions:
        return Scan.MIXED
    if len(regions) > 1:
        return Scan.MIXED_DEVICE
    return Scan.EQUAL if regions[0] is pgmap else Scan.OTHER


class DrmGpusvmPlacement(DrmGpusvmPages):
    """The layer that asks for and changes placement by virtual address."""

    async def scan_mm(self, range_: GpusvmRange, owner: object, pgmap: DevPagemap | None) -> Scan:
        """drm_gpusvm_scan_mm: advisory; no fault is taken, any error reads as UNPOPULATED."""
        while True:
            try:
                walk = await self.new_walk(range_.interval, range_.start, range_.end, Hmm.NONE, owner)
                await self.core.call(HmmRangeFaultUnlocked(walk, HMM_RANGE_DEFAULT_TIMEOUT))
            except KernelError as error:
                self.scan_failed(error)
                return Scan.UNPOPULATED
            async with self.notifier_lock.reading():
                if not walk.notifier.read_retry(walk.notifier_seq):
                    return classify(walk, pgmap)
            self.engine.count("gpu.retry.scan")

    def scan_failed(self, _error: KernelError) -> None:
        """A way out of its own: no lock is held yet (SVM-B03)."""
        self.engine.count("gpu.scan_failed")

    async def range_evict(self, range_: GpusvmRange, *, write: bool = False) -> None:
        """drm_gpusvm_range_evict: to RAM through the CPU fault path; pages inside a timeslice are waited for.

        -EFAULT mm dying or VMA gone, -ETIME after 1000 ms, -ENOMEM.  ``write`` asks for writable entries,
        which breaks copy-on-write as well: an addition for the write-bit policy, not in 7.3.4.
        """
        flags = Hmm.REQ_FAULT | Hmm.REQ_WRITE if write else Hmm.REQ_FAULT
        walk = await self.new_walk(range_.interval, range_.start, range_.end, flags, None)
        try:
            await self._fault_in(self.mm, walk, self.engine.now + HMM_RANGE_DEFAULT_TIMEOUT)
        except EBUSY:
            raise ETIME from None
        self.engine.count("gpu.range_evict")
