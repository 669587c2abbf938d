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

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Lock
from svm_actors.mm.events import FaultPageLeft, FaultPageServed, FaultPageTaken, FolioMigrated, MigrationRefused
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.page_table import Entry

CORE_LOCKS = frozenset({"anon_vma", "folio_lock", "mmap_lock", "vma_lock"})
"""Classes of locks that belong to the core MM."""


class FaultPages:
    """Listens to CPU faults on device pages."""

    name = "fault_pages"
    hears = (FaultPageLeft, FaultPageServed, FaultPageTaken, FolioMigrated, MigrationRefused)

    def __init__(self, world: Any) -> None:
        self.engine: Engine = world.engine
        self.refused: dict[int, bool] = {}
        """By frame of a page under a CPU fault: somebody else was in the way."""
        self.before: dict[int, list[Lock]] = {}
        """By frame: the locks of the thread when it asked the driver."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is FaultPageTaken:
            self._held(event.fault)
            self.refused[event.fault.page.pfn] = False
            self.before[event.fault.page.pfn] = self._locks()
        elif kind is FaultPageServed:
            self._held(event.fault)
            self._no_lock(event.fault.page, "answers a fault on")
            self._explained(event.fault)
        elif kind is FaultPageLeft:
            self._left(event.fault)
        elif kind is FolioMigrated:
            if event.by_fault:
                self._no_lock(event.source, "brings home")
        elif event.source.pfn in self.refused and (event.mapcount or event.references):
            self.refused[event.source.pfn] = True

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
        self.refused.pop(fault.page.pfn, None)
        self.before.pop(fault.page.pfn, None)
        if fault.page.lock.held_by_me():
            self._fail("INV-28", f"a fault is through and keeps {fault.page!r} locked")

    def _locks(self) -> list[Lock]:
        task = self.engine.current
        return [] if task is None else [lock for lock in task.thread.held if lock.lock_class not in CORE_LOCKS]

    def _no_lock(self, page: Folio, doing: str) -> None:
        """RULE-01, RULE-02.  Of the pages that come along with the one of the fault, the end of the call tells."""
        before = self.before.get(page.pfn)
        for lock in self._locks():
            if before is not None and lock not in before:
                self._fail("RULE-02", f"the driver {doing} {page.name} with {lock.name} held (RULE-01)")

    def _explained(self, fault: VmFault) -> None:
        """INV-29, RULE-51."""
        page = fault.page
        pte = fault.mm.page_table.get(fault.vpn)
        stays = pte is not None and pte.kind is Entry.DEVICE_PRIVATE and pte.folio is page
        if stays and not fault.pause_ns and not self.refused[page.pfn]:
            self._fail("INV-29", f"a fault on {page!r} is served, nobody was in the way, and the page stays (RULE-51)")
