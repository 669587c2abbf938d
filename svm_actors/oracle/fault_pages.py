"""How a CPU fault on a device page treats it (core_mm sections 10 and 14, gpusvm section 9, pagemap section 9).

* INV-28, RULE-03: whoever faults has the page locked and referenced before the driver is called and until it has
  answered, and not any more when the fault is through.
* RULE-01, RULE-02: when such a fault has moved a page, and when the driver answers, the thread has taken no lock but
  the core MM's own.  What it held before, because a device faults and not a CPU, is its caller's.
* INV-29, RULE-51: an answer without an error has taken the device entry away, unless the page is in its timeslice or
  somebody else was seen to have a reference or an entry.
"""

from __future__ import annotations

from typing import Any

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Lock
from svm_actors.mm.events import FaultPageLeft, FaultPageServed, FaultPageTaken, FolioMigrated, MigrationRefused
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.page_table import Entry

CORE_LOCKS = frozenset({"anon_vma", "folio_lock", "mmap_lock", "vma_lock"})
"""Classes of locks that belong to the core MM."""


@attrs.define(eq=False)
class Asked:
    """A fault the driver was asked to serve."""

    fault: VmFault
    """What it was told."""
    held: list[Lock]
    """Locks that are not the core MM's, and which the thread had before."""
    hindered: bool = False
    """Somebody else was seen to have a reference or an entry of the page."""


class FaultPages:
    """Listens to CPU faults on device pages."""

    name = "fault_pages"
    hears = (FaultPageLeft, FaultPageServed, FaultPageTaken, FolioMigrated, MigrationRefused)

    def __init__(self, world: Any) -> None:
        self.engine: Engine = world.engine
        self.open: list[Asked] = []
        """Faults that have asked the driver and are not through."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is FaultPageTaken:
            self._held(event.fault)
            self.open.append(Asked(event.fault, self._locks()))
        elif kind is FaultPageServed:
            self._held(event.fault)
            self._answered(event.fault)
        elif kind is FaultPageLeft:
            self._left(event.fault)
        else:
            for asked in self.open:
                if asked.fault.page is event.source:
                    self._happened(asked, event)

    def _fail(self, rule: str, text: str) -> None:
        raise PropertyFailed(self.name, rule, text)

    def _held(self, fault: VmFault) -> None:
        """INV-28, RULE-03."""
        page = fault.page
        if not page.lock.held_by_me():
            self._fail("INV-28", f"the driver is asked for {page!r}, which its fault has not locked")
        if not page.refs.get("fault"):
            self._fail("RULE-03", f"the driver is asked for {page!r}, and its fault has no reference")

    def _left(self, fault: VmFault) -> None:
        """INV-28: unlocked, once; whoever locks it next is another thread."""
        self.open = [asked for asked in self.open if asked.fault is not fault]
        if fault.page.lock.held_by_me():
            self._fail("INV-28", f"a fault is through and keeps {fault.page!r} locked")

    def _locks(self) -> list[Lock]:
        task = self.engine.current
        return [] if task is None else [lock for lock in task.thread.held if lock.lock_class not in CORE_LOCKS]

    def _happened(self, asked: Asked, event: FolioMigrated | MigrationRefused) -> None:
        """Of the pages that come along with the one of the fault, the end of the call tells."""
        if isinstance(event, MigrationRefused):
            asked.hindered |= bool(event.mapcount or event.references)
        elif event.by_fault:
            self._no_lock(asked, "brings home")

    def _answered(self, fault: VmFault) -> None:
        for asked in self.open:
            if asked.fault is fault:
                self._no_lock(asked, "answers a fault on")
                self._explained(asked)

    def _no_lock(self, asked: Asked, doing: str) -> None:
        """RULE-01, RULE-02."""
        for lock in self._locks():
            if lock not in asked.held:
                self._fail("RULE-02", f"the driver {doing} {asked.fault.page.name} with {lock.name} held (RULE-01)")

    def _explained(self, asked: Asked) -> None:
        """INV-29, RULE-51."""
        fault, page = asked.fault, asked.fault.page
        pte = fault.mm.page_table.get(fault.vpn)
        stays = pte is not None and pte.kind is Entry.DEVICE_PRIVATE and pte.folio is page
        if stays and not fault.pause_ns and not asked.hindered:
            self._fail("INV-29", f"a fault on {page!r} is served, nobody was in the way, and the page stays (RULE-51)")
