"""No address gets a new mapping before what was mapped there is gone (core_mm section 5, munmap; MM-R02).

munmap takes the mappings out of the tree, lets readers of mmap_lock in and then zaps.  A new mapping needs mmap_lock
for write, so none can begin over a range whose zap is not through: its first pages would be zapped with the old ones.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.events import RangeChanged, RangeChanging


class AddressSpace:
    """Listens to system calls that change what is mapped."""

    name = "address_space"
    hears = (RangeChanged, RangeChanging)

    def __init__(self) -> None:
        self.unmapping: list[RangeChanging] = []

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is RangeChanging:
            self._changing(event)
        elif kind is RangeChanged and event.what == "unmap":
            self._unmapped(event)

    def _changing(self, event: RangeChanging) -> None:
        if event.what == "unmap":
            self.unmapping.append(event)
        elif event.what == "map":
            self._none_left(event, event.start, event.end)
        elif event.what == "move":
            self._none_left(event, event.to_start, event.to_start + event.end - event.start)

    def _none_left(self, event: RangeChanging, start: int, end: int) -> None:
        for old in self.unmapping:
            if old.mm is event.mm and old.start < end and start < old.end:
                text = f"{event.mm.name}: [{start:x},{end:x}) is mapped anew while the unmap of it is under way"
                raise PropertyFailed(self.name, "MM-R02", text)

    def _unmapped(self, event: RangeChanged) -> None:
        for old in self.unmapping:
            if (old.mm, old.start, old.end) == (event.mm, event.start, event.end):
                self.unmapping.remove(old)
                return
