"""Reverse mapping: from a folio to every entry that maps it (core_mm sections 2 to 5).

``try_to_migrate`` replaces entries by MIGRATION entries in every mm, with a CLEAR event each;
``remove_migration_ptes`` puts them back, pointing at wherever the page ended up, without event;
``try_to_unmap`` is reclaim's version and leaves SWAP entries.

The walk visits VMAs in interval-tree order: by page offset, then by age, so parents before
children and the old place of an mremap before the new one (MM-R12, MM-R13).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from svm_actors.engine.locks import RwSem
from svm_actors.mm.constants import Vm
from svm_actors.mm.folio import Folio
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.vma import Vma, anon_vma_shareable

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.swap import SwapSlot


class AnonVma:
    """Groups the VMAs that may map the same anonymous pages."""

    def __init__(self, core: CoreMm, name: str, root: AnonVma | None = None) -> None:
        self.name = name
        self.root: AnonVma = self if root is None else root.root
        """The first of the fork tree; every VMA of the tree is linked to it."""
        self.rwsem: RwSem = RwSem(core.engine, f"{name}.rwsem", "anon_vma") if root is None else root.rwsem
        """The root's: one lock for a whole fork tree, or a move in the child would escape a walk of the parent's."""
        self.vmas: list[Vma] = []

    def link(self, vma: Vma) -> None:
        """Add a VMA, younger than all present ones."""
        self.vmas.append(vma)
        vma.anon_vma_chain.append(self)

    def in_order(self) -> list[Vma]:
        """VMAs in interval-tree order: by page offset, then by age: a parent before its children (MM-R12)."""
        return sorted(self.vmas, key=lambda vma: vma.pgoff)


# -- anon_vma bookkeeping of VMAs -----------------------------------------------------------


def anon_vma_prepare(core: CoreMm, vma: Vma) -> AnonVma:
    """Give a VMA its anon_vma at the first anonymous page, borrowing a neighbour's if a merge
    could ever join them.  -ENOMEM."""
    if vma.anon_vma is None:
        vmas = vma.mm.vmas
        for near in (vmas.next(vma.end), vmas.previous(vma.start)):
            if near is not None and anon_vma_shareable(near, vma):
                vma.anon_vma = near.anon_vma
                break
        else:
            core.engine.faults.fail("memory")
            vma.anon_vma = core.new_anon_vma()
        assert vma.anon_vma is not None
        vma.anon_vma.link(vma)
    return vma.anon_vma


async def anon_vma_clone(target: Vma, source: Vma) -> None:
    """The target may map every page the source maps (split, mremap, merge).

    Waits for walkers: one that does not know the target would miss an entry that moves there (MM-R13).
    """
    if source.anon_vma_chain:
        async with source.anon_vma_chain[0].rwsem.writing():
            for anon_vma in source.anon_vma_chain:
                if anon_vma not in target.anon_vma_chain:
                    anon_vma.link(target)
    if target.anon_vma is None:
        target.anon_vma = source.anon_vma


async def anon_vma_fork(core: CoreMm, child: Vma, parent: Vma) -> None:
    """The child maps the ancestors' pages; its own pages go to an anon_vma of its own."""
    if parent.anon_vma is None:
        return
    async with parent.anon_vma.rwsem.writing():
        for anon_vma in parent.anon_vma_chain:
            anon_vma.link(child)
        child.anon_vma = core.new_anon_vma(parent.anon_vma)
        child.anon_vma.link(child)


async def unlink_anon_vmas(vma: Vma) -> None:
    """The VMA maps nothing any more.  Waits for walkers."""
    if vma.anon_vma_chain:
        async with vma.anon_vma_chain[0].rwsem.writing():
            for anon_vma in vma.anon_vma_chain:
                anon_vma.vmas.remove(vma)
            vma.anon_vma_chain.clear()
    vma.anon_vma = None


# -- folio bookkeeping ----------------------------------------------------------------------


def folio_add_new_anon_rmap(folio: Folio, vma: Vma, vpn: int) -> None:
    """First mapping of a fresh anonymous folio: exclusive to this mm."""
    folio.anon = True
    folio.anon_vma = vma.anon_vma
    folio.index = vma.offset_of(vpn)
    folio.anon_exclusive = True
    folio.add_mapping()


# -- the walk -------------------------------------------------------------------------------

Visitor = Callable[[Vma, int], Awaitable[bool]]


async def rmap_walk(folio: Folio, visit: Visitor) -> None:
    """Call ``visit(vma, vpn)`` for every VMA that may map the folio, until one answers False.

    Holds the anon_vma rwsem (or, for page cache, nothing: i_mmap is read as it stands).
    """
    if folio.anon_vma is not None:
        anon_vma = folio.anon_vma
        async with anon_vma.rwsem.reading():
            for vma in anon_vma.in_order():
                vpn = vma.address_of(folio.index)
                if vpn is not None and not await visit(vma, vpn):
                    return
    elif folio.mapping is not None:
        for vma in list(folio.mapping.vmas):
            vpn = vma.address_of(folio.index)
            if vpn is not None and not await visit(vma, vpn):
                return


async def try_to_migrate(core: CoreMm, folio: Folio) -> None:
    """Put a MIGRATION entry for every entry of the locked folio, in every address space (SVM-R20, PGM-B40)."""

    async def visit(vma: Vma, vpn: int) -> bool:
        await try_to_migrate_one(core, folio, vma, vpn)
        return bool(folio.mapcount)

    await rmap_walk(folio, visit)


async def try_to_migrate_one(core: CoreMm, folio: Folio, vma: Vma, vpn: int) -> None:
    """One mapping: CLEAR event around the change of the entry."""
    event = NotifierRange(vma.mm, Event.CLEAR, vpn, vpn + 1, rmap=True)
    subscriptions = vma.mm.subscriptions
    await subscriptions.invalidate_range_start(event)
    await core.engine.step("pte_write", vma.mm.page_table, vpn)
    pte = vma.mm.page_table.get(vpn)
    if pte is not None and pte.is_mapping and pte.folio is folio:
        core.engine.parts.of(install_migration_entry)(vma, vpn, pte)
    await subscriptions.invalidate_range_end(event)


def install_migration_entry(vma: Vma, vpn: int, pte: Pte) -> None:
    """The ptl section: MIGRATION entry in, mapping reference and mapcount out."""
    folio: Folio = pte.folio
    exclusive = folio.anon_exclusive
    folio.engine.parts.of(fold_dirty)(folio, pte)
    folio.anon_exclusive = False
    writable = pte.writable and pte.kind is not Entry.DEVICE_EXCLUSIVE
    vma.mm.page_table.set(
        vpn,
        Pte(Entry.MIGRATION, folio, writable, pte.dirty, pte.young, exclusive or writable),
    )
    folio.remove_mapping()


def fold_dirty(folio: Folio, pte: Pte) -> None:
    """MM-B07: the entry goes, and with it what it knew: the folio takes the dirty bit over (INV-16)."""
    if pte.kind is Entry.PRESENT and pte.dirty:
        folio.dirty = True


async def remove_migration_ptes(core: CoreMm, source: Folio, target: Folio) -> None:
    """Point every MIGRATION entry of ``source`` at ``target``; both folios locked by the caller."""

    async def visit(vma: Vma, vpn: int) -> bool:
        await core.engine.step("pte_write", vma.mm.page_table, vpn)
        core.engine.parts.of(restore_if_there)(core, vma, vpn, source, target)
        return True

    await rmap_walk(target, visit)


def restore_if_there(core: CoreMm, vma: Vma, vpn: int, source: Folio, target: Folio) -> None:
    """MM-R14: an entry that a zap has forgotten stays forgotten: the last reference is the migration's then."""
    pte = vma.mm.page_table.get(vpn)
    if pte is not None and pte.kind is Entry.MIGRATION and pte.folio is source:
        core.engine.parts.of(restore_entry)(vma, vpn, pte, target)
    elif pte is None:
        core.engine.count("MM-R15" if target.is_device_private else "MM-R14")


def restore_entry(vma: Vma, vpn: int, pte: Pte, target: Folio) -> None:
    """The ptl section: the entry kind, not any remembered flag, decides permission (MM-R16, MM-B58)."""
    target.add_mapping()
    if target.anon:
        target.anon_exclusive = pte.exclusive
    if target.is_device_private:
        entry = Pte(Entry.DEVICE_PRIVATE, target, pte.writable)
    else:
        entry = Pte(
            Entry.PRESENT, target, pte.writable, pte.dirty and target.dirty, pte.young, protnone=not vma.flags & 7
        )
    vma.mm.page_table.set(vpn, entry)


async def try_to_unmap(core: CoreMm, folio: Folio, slot: SwapSlot) -> None:
    """Reclaim: replace every entry by a SWAP entry, CLEAR event each.  Folio locked, in swap cache."""

    async def visit(vma: Vma, vpn: int) -> bool:
        event = NotifierRange(vma.mm, Event.CLEAR, vpn, vpn + 1, rmap=True)
        await vma.mm.subscriptions.invalidate_range_start(event)
        await core.engine.step("pte_write", vma.mm.page_table, vpn)
        table = vma.mm.page_table
        pte = table.get(vpn)
        mapped = pte is not None and pte.folio is folio and pte.kind in (Entry.PRESENT, Entry.DEVICE_EXCLUSIVE)
        locked = mapped and bool(vma.flags & Vm.LOCKED)  # one mlocked mapping keeps the page
        if pte is not None and mapped and not locked:
            if pte.dirty:
                folio.dirty = True
            slot.count += 1
            table.set(vpn, Pte(Entry.SWAP, slot, exclusive=folio.anon_exclusive))
            vma.mm.rss.anon -= 1
            vma.mm.rss.swap += 1
            folio.anon_exclusive = False
            folio.remove_mapping()
        await vma.mm.subscriptions.invalidate_range_end(event)
        return bool(folio.mapcount) and not locked

    await rmap_walk(folio, visit)
