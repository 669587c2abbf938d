"""What leaves device memory, leaves once; what goes in, goes in whole; nobody is pulled back early.

* RULE-53: the content of a device page that has gone elsewhere is never copied out of that page again.  Who would do
  so finds the page unlocked and not yet put, and makes an orphan of the copy.
* PGM-R06: nobody but the migration has a reference on a page when it stops being the page; the ledger of the page says
  who has.
* RULE-47: no CPU fault moves a page before its allocation's timeslice, counted from when entries may name it, is over.
* RULE-55: the memory's reservation is held from before the copies until finalize is through.
* RULE-56: a device page has its zone data before an entry can name it.
* RULE-58: a migration to device memory that reports success has committed every page of its window.

All of it is read from the commits; what the drivers believe (retire flags, deadlines, counts) is not looked at.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.pagemap_events import DevmemFilled, DevmemPlaced
from svm_actors.drm.pagemap_zdd import Devmem, Zdd
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.events import FolioMigrated
from svm_actors.mm.folio import Folio

ORACLE = "migrations"


class Migrations:
    """Listens to commits."""

    name = ORACLE
    hears = (DevmemFilled, DevmemPlaced, FolioMigrated)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.left: set[tuple[int, int]] = set()
        """Device pages whose content has gone, by frame and generation."""
        self.deadlines: dict[str, int] = {}
        """Virtual time before which no CPU fault may move an allocation, by name."""
        self.committed: dict[str, int] = {}
        """Pages committed to an allocation, by its name."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is FolioMigrated:
            self._committed(event)
        elif kind is DevmemPlaced:
            self._reserved(event.devmem)
            if event.timeslice_ns:
                self.deadlines[event.devmem.name] = self.world.engine.now + event.timeslice_ns
        elif kind is DevmemFilled:
            self._reserved(event.devmem)
            self._filled(event.devmem.name, event.devmem.npages)

    def _committed(self, event: FolioMigrated) -> None:
        source = event.source
        if source is not None:
            self._held(source, event.by_fault)
        left = None if source is None else allocation_of(source)
        if source is not None and left is not None:
            self._left(source)
            if event.by_fault:
                self._pulled_back(source, left)
        self._arrived(event.target)

    def _held(self, source: Folio, by_fault: bool) -> None:
        """PGM-R06: the collector's reference, and that of the fault on the page, are all there is."""
        expected = {"collect": 1, "fault": int(by_fault)}
        others = [reason for reason, count in sorted(source.refs.items()) if count > expected.get(reason, 0)]
        if others:
            raise PropertyFailed(ORACLE, "PGM-R06", f"{source!r} is moved though others have it: {', '.join(others)}")

    def _left(self, source: Folio) -> None:
        """RULE-53."""
        page = (source.pfn, source.generation)
        if page in self.left:
            raise PropertyFailed(ORACLE, "RULE-53", f"{source.name} is moved out again, though its content has gone")
        self.left.add(page)

    def _pulled_back(self, source: Folio, name: str) -> None:
        """RULE-47."""
        early = self.deadlines.get(name, 0) - self.world.engine.now
        if early > 0:
            raise PropertyFailed(ORACLE, "RULE-47", f"a CPU fault moves {source.name} of {name} {early} ns too early")

    def _arrived(self, target: Folio) -> None:
        """RULE-56; and one more page of its allocation."""
        if target.is_device_private and target.zone_device_data is None:
            raise PropertyFailed(ORACLE, "RULE-56", f"entries may name {target.name}, which has no zone data")
        name = allocation_of(target)
        if name is not None:
            self.committed[name] = self.committed.get(name, 0) + 1

    def _reserved(self, devmem: Devmem) -> None:
        """RULE-55."""
        resv = getattr(devmem.buffer, "resv", None)
        if resv is not None and not resv.held_by_me():
            raise PropertyFailed(ORACLE, "RULE-55", f"{devmem.name} is filled, and nobody holds its reservation")

    def _filled(self, name: str, npages: int) -> None:
        """RULE-58."""
        moved = self.committed.get(name, 0)
        if moved < npages:
            raise PropertyFailed(ORACLE, "RULE-58", f"{name} counts as filled with {moved} of {npages} pages")


def allocation_of(folio: Folio) -> str | None:
    """Name of the allocation a device page belongs to; None for RAM, and for devices without allocations."""
    zdd = folio.zone_device_data
    return zdd.devmem.name if isinstance(zdd, Zdd) else None
