"""Objects of gpusvm: notifiers, ranges and their flags (gpusvm sections 1.2 to 1.6).

A notifier is one interval subscription, aligned to the notifier size, so notifiers never overlap and a
range never crosses one.  A range is one chunk of the CPU address space that the GPU mirrors; its bounds
never change (RULE-29), it is never split or merged.

The notifier tree of a VM is protected by the driver's lock alone.  A range tree is changed with the
driver's lock held for write *and* notifier_lock held for read; it is walked under either the driver's
lock or notifier_lock for write (section 1.7).

Flags are small tuples published whole: a reader takes one snapshot (RULE-27).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import attrs
from sortedcontainers import SortedDict

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.mmu_notifier import IntervalNotifier

if TYPE_CHECKING:
    from svm_actors.drm.gpusvm import DrmGpusvm
    from svm_actors.drm.gpusvm_pages import GpusvmPages
    from svm_actors.mm.mmu_notifier import FinishObject, NotifierRange


@attrs.frozen
class GpusvmCtx:
    """drm_gpusvm_ctx: how one call is to behave (section 1.6)."""

    device_private_page_owner: object = None
    """Device pages of this owner stay where they are; None brings all of them home."""
    check_pages_threshold: int = 0
    """Chunks up to this many pages, but for single pages, must be populated by the CPU already."""
    timeslice_ns: int = 0
    """Minimum stay of migrated pages, virtual ns."""
    in_notifier: bool = False
    """The caller is a notifier callback and holds notifier_lock for write."""
    read_only: bool = False
    """The GPU must not write: map towards the device only, ask the CPU for no write."""
    devmem_possible: bool = False
    """New ranges may live in device memory."""
    devmem_only: bool = False
    """System pages will not do (-EFAULT)."""
    allow_mixed: bool = False
    """One request may hold device and system pages side by side."""


class RangeFlags(NamedTuple):
    """Flags of a range, published whole."""

    migrate_devmem: bool = False
    """May live in device memory; fixed at creation (RULE-29)."""
    unmapped: bool = False
    """An UNMAP event hit it: it is dead and waits for the garbage collector.  Set only."""
    partial_unmap: bool = False
    """That event did not cover all of it."""


class GpusvmRange:
    """drm_gpusvm_range over pages [start, end).  Drivers subclass it."""

    __slots__ = ("end", "flags", "gpusvm", "notifier", "refs", "start")

    def __init__(self, gpusvm: DrmGpusvm) -> None:
        self.gpusvm = gpusvm
        self.notifier: GpusvmNotifier | None = None
        self.start = 0
        self.end = 0
        self.refs = 1
        """The tree's reference, plus holders; the last put must not happen under notifier_lock (RULE-21)."""
        self.flags = RangeFlags()

    @property
    def npages(self) -> int:
        """Size in pages: the chunk that was chosen."""
        return self.end - self.start

    @property
    def interval(self) -> IntervalNotifier:
        """The subscription that watches this range."""
        assert self.notifier is not None
        return self.notifier.interval

    def must_live(self) -> None:
        """SVM-R48: whoever comes across a range has a reference, or a lock that keeps it in the tree."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "SVM-R48", f"{self!r} is used after it was freed")

    def get(self) -> None:
        """drm_gpusvm_range_get."""
        self.refs += 1

    def __repr__(self) -> str:
        return f"<range [{self.start:x}-{self.end:x}) {self.flags}>"


class GpusvmNotifier:
    """drm_gpusvm_notifier over pages [start, end): an interval subscription and its ranges."""

    __slots__ = ("end", "gpusvm", "interval", "ranges", "removed", "start")

    def __init__(self, gpusvm: DrmGpusvm, start: int, end: int) -> None:
        self.gpusvm = gpusvm
        self.start = start
        self.end = end
        self.interval = IntervalNotifier(f"{gpusvm.name}.notifier[{start:x}]", self)
        self.ranges: SortedDict = SortedDict()
        """Ranges by first page; they never overlap."""
        self.removed = False
        """The subscription is gone already: removing the last range must not remove it again (SVM-R50)."""

    async def invalidate(self, _notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool | FinishObject:
        """IntervalOps: hand the event to the gpusvm actor of this VM."""
        return await self.gpusvm.invalidate(self, event, seq)

    def find(self, vpn: int) -> GpusvmRange | None:
        """The range that covers a page."""
        index = self.ranges.bisect_right(vpn)
        if not index:
            return None
        found: GpusvmRange = self.ranges.peekitem(index - 1)[1]
        return found if found.end > vpn else None

    def overlapping(self, start: int, end: int) -> list[GpusvmRange]:
        """Ranges that touch [start, end), in address order."""
        if end <= start:
            return []
        found = []
        first = self.find(start)
        if first is not None:
            found.append(first)
        found += [self.ranges[key] for key in self.ranges.irange(start + (first is not None), end - 1)
                  if first is None or key >= first.end]
        return found

    def __repr__(self) -> str:
        return f"<{self.interval.name} ranges={len(self.ranges)}>"


def set_unmapped(range_: GpusvmRange, pages: list[GpusvmPages], event: NotifierRange) -> None:
    """drm_gpusvm_range_set_unmapped: notifier_lock held for write.  Idempotent (SVM-R05)."""
    range_.gpusvm.assert_notifier_write()
    for item in pages:
        item.flags = item.flags._replace(unmapped=True)
    partial = range_.flags.partial_unmap or range_.start < event.start or range_.end > event.end
    range_.flags = range_.flags._replace(unmapped=True, partial_unmap=partial)
