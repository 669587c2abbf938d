"""The mended mirror driver with a callback in two passes (core_mm section 6, "Two-pass"; MM-R30 to MM-R33).

The first pass makes every walk stale, under the mutex, and asks the device to flush; the second one waits for the flush
and takes the entries away.  In between the device may still use them, which is legal, since the start has not
returned; nothing new can be stored, since readers wait.  Each callback has a finish object of its own.
"""

from __future__ import annotations

from svm_actors.mirror.mended import MendedDevice, MendedMirror
from svm_actors.mm.mmu_notifier import FinishObject, IntervalNotifier, NotifierRange


class Flush:
    """The second pass of one callback."""

    def __init__(self, mirror: TwoPassMirror, event: NotifierRange) -> None:
        self.mirror = mirror
        self.event = event

    async def finish(self) -> None:
        """The flush lets the accesses under way end, which they do by themselves: the mutex stands for them."""
        async with self.mirror.mutex:
            self.mirror.flushed(self.event)


class TwoPassMirror(MendedMirror):
    """Leaves its entries to the second pass."""

    async def invalidate(  # type: ignore[override]
        self, notifier: IntervalNotifier, event: NotifierRange, seq: int
    ) -> bool | FinishObject:
        """Called by the core MM; the answer of a first pass that succeeded is its second one."""
        return Flush(self, event) if await super().invalidate(notifier, event, seq) else False

    def retire(self, event: NotifierRange) -> None:
        """Not yet."""

    def flushed(self, event: NotifierRange) -> None:
        """Now."""
        super().retire(event)


class TwoPassDevice(MendedDevice):
    """A device whose invalidations are slow."""

    mirror_class = TwoPassMirror
