"""Mappings of huge pages from a pool (MAP_HUGETLB; core_mm sections 1 and 9).

Such memory cannot be migrated to a device (migrate_vma_setup: -EINVAL), is never reclaimed, and is cut only at
multiples of 2 MiB (-EINVAL).  A fault brings in all 2 MiB at once, and a read allocates as well: there is no huge zero
page.

Simplified: entries and folios are those of 512 single pages, so copy-on-write after fork goes page by page; the pool
is as large as RAM, and running out of it is SIGBUS at the fault.  Shared mappings are ordinary shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL, ENOMEM
from svm_actors.engine.signalling import might_alloc
from svm_actors.mm.constants import PTRS_PER_PTE, Vm
from svm_actors.mm.messages import SIGBUS
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.rmap import anon_vma_prepare, folio_add_new_anon_rmap

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.folio import Folio
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.mm.vma import Vma

HUGE_PAGES = PTRS_PER_PTE
"""A huge page, in pages."""


def check_cut(mm: Mm, start: int, end: int) -> None:
    """hugetlb_vm_op_split: no huge page is cut.  -EINVAL."""
    for at in (start, end):
        vma = mm.vmas.find(at)
        if vma is not None and vma.start < at:
            check_aligned(vma, at)


def check_aligned(vma: Vma, *pages: int) -> None:
    """-EINVAL unless these are boundaries of huge pages, or the mapping has none."""
    if vma.flags & Vm.HUGETLB and any(page % HUGE_PAGES for page in pages):
        raise EINVAL


async def hugetlb_no_page(core: CoreMm, vma: Vma, vpn: int, write: bool) -> None:
    """The first touch of a huge page of private memory.  SIGBUS when there is none left."""
    await core.engine.step("write", vma, "anon_vma_prepare")
    anon_vma_prepare(core, vma)
    folios = await _huge_page(core)
    first = vpn - vpn % HUGE_PAGES
    await core.engine.step("pte_write", vma.mm.page_table, first)
    if vma.mm.page_table.get(vpn) is None:
        for index, folio in enumerate(folios):
            folio.uptodate = True
            folio_add_new_anon_rmap(folio, vma, first + index)
            vma.mm.page_table.set(first + index, Pte(Entry.PRESENT, folio, write, write, True))
            vma.mm.rss.anon += 1
    _drop(folios)


async def _huge_page(core: CoreMm) -> list[Folio]:
    might_alloc(core.engine, "a huge page")
    await core.engine.step("alloc", core.allocator)
    folios: list[Folio] = []
    try:
        core.engine.faults.fail("page")
        while len(folios) < HUGE_PAGES:
            folios.append(core.allocator.alloc_now("fault"))
    except ENOMEM:
        _drop(folios)
        raise SIGBUS from None
    return folios


def _drop(folios: list[Folio]) -> None:
    for folio in folios:
        folio.put("fault")
