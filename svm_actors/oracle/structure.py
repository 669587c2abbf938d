"""Page tables, folios and swap slots agree with each other (INV-06 to INV-13, INV-31, INV-32, INV-03, INV-04).

A walk over everything, so it runs when the world is quiet (end of a scenario, before teardown) and,
in small worlds, after every invalidation region as well.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.folio import Folio
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import InvalidateEnded
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rss import Rss
from svm_actors.xe.fault_vm import XeFaultVm

SMALL_WORLD = 24
"""Live folios up to which the walk also runs in the middle of things."""


class Structure:
    """Counts what points where and compares it with what the folios say."""

    name = "structure"
    hears = (InvalidateEnded,)

    def __init__(self, world: Any) -> None:
        self.world = world

    def __call__(self, event: Any) -> None:
        """After an invalidation region of a small world."""
        if type(event) is InvalidateEnded and len(self.world.allocator.live) <= SMALL_WORLD:
            self.check()

    def check(self) -> None:
        """Walk every page table; raise at the first disagreement."""
        mappings: Counter[str] = Counter()
        slots: Counter[str] = Counter()
        for mm in self.world.core.mms.values():
            for vpn, pte in mm.page_table.items():
                if pte.kind is Entry.SWAP:
                    slots[pte.folio.name] += 1
                elif not pte.folio.is_zero:
                    self._entry(mm, vpn, pte)
                    mappings[pte.folio.name] += pte.is_mapping
        for folio in self._folios():
            self._folio(folio, mappings[folio.name])
        for slot in self.world.core.swap.live.values():
            if slot.count != slots[slot.name]:
                self._fail("INV-32", f"{slot.name} counts {slot.count} entries, there are {slots[slot.name]}")
        for mm in self.world.core.mms.values():
            self._counters(mm)

    def _fail(self, rule: str, text: str) -> None:
        raise PropertyFailed(self.name, rule, text)

    def _folios(self) -> list[Folio]:
        found = list(self.world.allocator.live.values())
        for device in self.world.gpus:
            found += device.driver.pagemap.pgmap.live.values()
        for mirror_device in self.world.mirror_devices:
            found += [folio for pgmap in mirror_device.pgmaps() for folio in pgmap.live.values()]
        return found

    def _counters(self, mm: Mm) -> None:
        """INV-31."""
        found = Rss.of([pte for _vpn, pte in mm.page_table.items()])
        if mm.rss != found:
            self._fail("INV-31", f"{mm.name} counts {mm.rss}, its entries are {found}")

    # -- one entry -------------------------------------------------------------------

    def _entry(self, mm: Mm, vpn: int, pte: Pte) -> None:
        folio: Folio = pte.folio
        where = f"{mm.name} page {vpn:#x} ({pte.kind.value}, {folio.name})"
        if not folio.refcount:
            self._fail("INV-10", f"{where} names a free page")
        if pte.kind is Entry.MIGRATION:
            if not folio.lock.locked:
                self._fail("INV-08", f"{where}: the migrating page is not locked")
        elif pte.kind is Entry.DEVICE_PRIVATE:
            if not folio.is_device_private or not folio.anon or folio.lru or folio.swapcache:
                self._fail("INV-11", f"{where} is no plain anonymous device page")
            if pte.writable and folio.mapcount > 1:
                self._fail("INV-12", f"{where} is writable but shared by {folio.mapcount} entries")
        elif pte.kind is Entry.PRESENT and folio.anon and pte.writable and not folio.anon_exclusive:
            self._fail("INV-13", f"{where} is writable but not exclusive")

    # -- one folio -------------------------------------------------------------------

    def _folio(self, folio: Folio, entries: int) -> None:
        if folio.refcount != sum(folio.refs.values()):
            self._fail("INV-06", f"{folio!r}: the count is {folio.refcount}")
        if folio.mapcount != entries or folio.refs.get("map", 0) != entries:
            self._fail("INV-07", f"{folio!r} is named by {entries} entries")
        if folio.anon_exclusive and folio.anon and folio.mapcount > 1:
            self._fail("INV-13", f"{folio!r} is exclusive and mapped {folio.mapcount} times")

    # -- GPU page tables at rest -------------------------------------------------------

    def check_translations(self) -> None:
        """INV-03, INV-04: every GPU entry names the page the CPU entry names, and no more permission."""
        for device in self.world.gpus:
            for vm in device.driver.vms.values():
                mm: Mm = vm.mm
                for vpn, gpu_pte in vm.page_table.items():
                    self._translation(device.gpu.name, mm, vpn, gpu_pte)
            for bind_vm in device.driver.bind_vms.values():
                if isinstance(bind_vm, XeFaultVm):
                    self._fault_vm(device.gpu.name, bind_vm)

    def _fault_vm(self, gpu: str, vm: XeFaultVm) -> None:
        """The same for what a VM filled by user space shows of its process."""
        for vpn, gpu_pte in vm.page_table.items():
            page = vm.shown_page(vpn)
            if page is not None:
                self._translation(gpu, vm.mm, page, gpu_pte)

    def _translation(self, gpu: str, mm: Mm, vpn: int, gpu_pte: Any) -> None:
        pte = mm.page_table.get(vpn)
        where = f"{gpu} maps {mm.name} page {vpn:#x}"
        if pte is None or pte.kind not in (Entry.PRESENT, Entry.DEVICE_PRIVATE):
            self._fail("INV-03", f"{where}, the CPU does not ({'nothing' if pte is None else pte.kind.value})")
            return
        folio: Folio = pte.folio
        if (folio.pfn, folio.generation) != (gpu_pte.folio_pfn, gpu_pte.generation):
            self._fail("INV-03", f"{where} to page {gpu_pte.folio_pfn:#x}, the CPU to {folio.name}")
        if gpu_pte.writable and not pte.writable:
            self._fail("INV-04", f"{where} writable, the CPU read-only")
