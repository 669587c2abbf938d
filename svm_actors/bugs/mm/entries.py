"""Deviations of page-table sections: an entry is not looked at again, or comes out of one with too much permission."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, replace_part
from svm_actors.engine.parts import Parts
from svm_actors.mirror.mended import MendedCommands
from svm_actors.mirror.mirror import Mirror
from svm_actors.mirror.page_table import Tag
from svm_actors.mm import exclusive, fork, memory, rmap
from svm_actors.mm.folio import Folio
from svm_actors.mm.messages import MakeDeviceExclusive
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.vma import Vma


def always_the_same(_mm: Mm, _vpn: int, _seen: Pte | None) -> bool:
    """It was so a moment ago."""
    return True


def only_present_is_shared(vma: Vma, pte: Pte) -> Pte:
    """What the CPU cannot write anyway is copied as it is."""
    shared = fork.shared_entry(vma, pte)
    if pte.kind in (Entry.DEVICE_PRIVATE, Entry.MIGRATION):
        return shared._replace(writable=pte.writable, exclusive=pte.exclusive)
    return shared


def plant_remembered_permission(parts: Parts) -> None:
    """MIGRATE_PFN_WRITE, noted when the entry was taken away, says what comes back."""
    was_writable: dict[Folio, bool] = {}

    def install(vma: Vma, vpn: int, pte: Pte) -> None:
        was_writable[pte.folio] = pte.writable
        rmap.install_migration_entry(vma, vpn, pte)

    def restore(vma: Vma, vpn: int, pte: Pte, target: Folio) -> None:
        writable = was_writable.get(pte.folio, pte.writable)
        rmap.restore_entry(vma, vpn, pte._replace(writable=writable, exclusive=pte.exclusive or writable), target)

    parts.replace(rmap.install_migration_entry, lambda _original: install)
    parts.replace(rmap.restore_entry, lambda _original: restore)


def no_second_look(mm: Mm, vpn: int, folio: Folio) -> bool:
    """The page that GUP found is the page."""
    pte = mm.page_table.get(vpn)
    if pte is not None and pte.dirty:
        folio.dirty = True
    mm.page_table.set(vpn, Pte(Entry.DEVICE_EXCLUSIVE, folio))
    return True


def unlocked_too_early(original: type[MendedCommands]) -> type[MendedCommands]:
    """A subclass that lets go of the folio first."""

    class UnlocksTooEarly(original):  # type: ignore[misc, valid-type]
        async def program_exclusive(self, mirror: Mirror, vpn: int, folio: Folio) -> bool:
            folio.lock.release()
            current = await super().program_exclusive(mirror, vpn, folio)
            await folio.lock.acquire()
            return bool(current)

    return UnlocksTooEarly


async def sampled_before(commands: MendedCommands, mirror: Mirror, vpn: int) -> None:
    """The sequence is read first, so the event of one's own is in the way."""
    while True:
        seq = await mirror.notifier.read_begin()
        folio = await commands.core.call(MakeDeviceExclusive(mirror.mm, vpn, None))
        async with mirror.mutex:
            current = not mirror.stale(mirror.notifier, seq)
            if current:
                mirror.pt.store(vpn, folio, Tag.ATOMIC)
        folio.lock.release()
        folio.put("exclusive")
        if current:
            return


MM_B53 = Bug(
    id="MM-B53",
    title="a page fault does not look at the entry again after it has dropped the page-table lock",
    removes="memory.pte_unmap_same",
    races=("MM-R10", "MM-R19"),
    oracles=("structure", "coherence", "lifetime", "entries/INV-25"),
    story="first-touch-of-one-page",
    plant=replace_function(memory.pte_unmap_same, always_the_same),
)

MM_B57 = Bug(
    id="MM-B57",
    title="fork leaves entries of device pages and of migrating pages writable on both sides",
    removes="fork.shared_entry",
    races=("MM-R12",),
    oracles=("structure/INV-12", "structure/INV-13", "coherence"),
    story="device-writes-while-forking",
    plant=replace_function(fork.shared_entry, only_present_is_shared),
)

MM_B58 = Bug(
    id="MM-B58",
    title="what a migration restores is as writable as it was when it was collected",
    removes="rmap.restore_entry",
    races=("MM-R16", "MM-R12"),
    oracles=("permissions/MM-R16", "structure", "coherence", "lifetime", "entries/INV-27"),
    story="pages-change-protection-under-eviction",
    plant=plant_remembered_permission,
)

MM_R28 = Bug(
    id="MM-R28",
    title="make_device_exclusive replaces the entry without a second look at it",
    removes="exclusive.install_exclusive",
    races=("MM-R28",),
    oracles=("structure", "lifetime", "coherence"),
    story="device-wants-pages-alone",
    plant=replace_function(exclusive.install_exclusive, no_second_look),
)

MM_B62 = Bug(
    id="MM-B62",
    title="an exclusive page is unlocked before the device is programmed",
    removes="MendedCommands.program_exclusive",
    races=("MM-R28",),
    oracles=("mirrors/INV-03", "lifetime", "coherence"),
    story="device-wants-every-page-alone",
    plant=replace_part(MendedCommands, unlocked_too_early),
)

MM_B72 = Bug(
    id="MM-B72",
    title="a device that asks for exclusive access is thrown back by the event it has caused itself",
    removes="MendedCommands._make_exclusive",
    races=("MM-R28",),
    oracles=("liveness",),
    story="device-has-a-page-to-itself",
    plant=replace_guard(MendedCommands, "_make_exclusive", sampled_before),
)
