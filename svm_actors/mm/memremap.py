"""Device memory known to the core MM: dev_pagemap (core_mm section 4, pagemap section 1).

The driver creates one per memory region.  The core MM calls back through :class:`DevPagemapOps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.mm.content import ZERO
from svm_actors.mm.folio import Folio, Kind

if TYPE_CHECKING:
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.vma import Vma


@attrs.define
class VmFault:
    """What a fault handler is told (struct vm_fault)."""

    mm: Mm
    """The faulting address space; mmap_lock is held for read."""
    vma: Vma
    """The VMA of the fault."""
    vpn: int
    """Faulting virtual page number."""
    write: bool
    """True for a write access."""
    page: Folio
    """The device page, locked and referenced by the core for the whole call."""
    pause_ns: int = 0
    """Out: the handler did nothing for now; pause this long (virtual ns) before the refault."""


class DevPagemapOps(Protocol):
    """Callbacks of a device memory region."""

    async def migrate_to_ram(self, fault: VmFault) -> None:
        """Bring the faulting page home, or return having done nothing: the access is retried.

        Raises ``ENOMEM`` (VM_FAULT_OOM) or ``EFAULT`` (VM_FAULT_SIGBUS).  Contract in
        core_mm section 10: set ``fault_page``, never lock or unlock it.
        """
        ...

    def folio_free(self, folio: Folio) -> None:
        """The last reference is gone.  May run under a page-table lock: must not sleep."""
        ...


class DevPagemap:
    """struct dev_pagemap of the device-private kind."""

    def __init__(
        self, engine: Engine, name: str, owner: object, base_pfn: int, npages: int, ops: DevPagemapOps
    ) -> None:
        self.engine = engine
        self.name = name
        self.owner = owner
        """Cookie: pages, migrations and GPU VMs of one owner take each other's pages in place."""
        self.base_pfn = base_pfn
        self.npages = npages
        self.ops = ops
        self.live: dict[int, Folio] = {}
        """Device folios in use, by pfn."""
        self._generation: dict[int, int] = {}

    def zone_device_page_init(self, pfn: int, reason: str) -> Folio:
        """A device page handed out again: locked, one reference, all leftovers wiped."""
        if pfn in self.live:
            raise EngineError(f"{self.name}: device page {pfn:#x} is handed out while in use")
        folio = Folio(self.engine, pfn, self._generation.get(pfn, 0), Kind.DEVICE_PRIVATE)
        folio.pgmap = self
        folio.content = ZERO
        folio.get("born")
        folio.rename_ref("born", reason)
        folio.lock.trylock_now()
        self.live[pfn] = folio
        return folio

    def free_zone_device_folio(self, folio: Folio) -> None:
        """The last put: give the page back to the driver."""
        del self.live[folio.pfn]
        self._generation[folio.pfn] = folio.generation + 1
        folio.anon_vma = None
        self.ops.folio_free(folio)
