"""Deviations in who holds a page, and for how long: waiters, migrations, and what a failed one leaves behind."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard
from svm_actors.mirror.mended import MendedMigration
from svm_actors.mm import memory, migrate_device
from svm_actors.mm.folio import Folio
from svm_actors.mm.migrate_types import MigrateVma


def leave_them(_migration: MendedMigration, _args: MigrateVma) -> None:
    """finalize will see to the destinations."""


def nobody_uses_it(_source: Folio, _fault_page: Folio | None) -> bool:
    """The count was right when the page was unmapped."""
    return True


async def wait_with_reference(folio: Folio) -> None:
    """So that the page does not go away meanwhile."""
    folio.get("wait")
    await folio.lock.wait_clear()
    folio.put("wait")


async def look_at_the_page(folio: Folio) -> None:
    """Whoever wakes up takes the page that was waited for."""
    await folio.lock.wait_clear()
    folio.get("fault")
    folio.put("fault")


MM_B47 = Bug(
    id="MM-B47",
    title="a migration that ran out of memory is finalized with destinations that were never committed",
    removes="MendedMigration.give_back",
    races=("MM-R14",),
    oracles=("structure", "lifetime", "coherence", "engine", "leaks", "copies"),
    story="device-finds-no-ram",
    plant=replace_guard(MendedMigration, "give_back", leave_them),
)

MM_B55 = Bug(
    id="MM-B55",
    title="a migration commits without counting references again",
    removes="migrate_device.exact_references",
    races=("MM-R11",),
    oracles=("migrations", "coherence", "lifetime"),
    story="eviction-under-many-looks",
    plant=replace_function(migrate_device.exact_references, nobody_uses_it),
)

MM_B69 = Bug(
    id="MM-B69",
    title="whoever waits for a locked device page holds a reference on it",
    removes="memory.wait_for_locker",
    races=("MM-R07", "MM-R24"),
    oracles=("migrations/MM-R07", "liveness"),
    story="readers-of-a-device-page",
    plant=replace_function(memory.wait_for_locker, wait_with_reference),
)

MM_R24 = Bug(
    id="MM-R24",
    title="whoever has waited for a device page goes on with that page and not with the entry",
    removes="memory.wait_for_locker",
    races=("MM-R24", "MM-R07"),
    oracles=("lifetime/INV-05",),
    story="device-page-is-freed-under-waiters",
    plant=replace_function(memory.wait_for_locker, look_at_the_page),
)
