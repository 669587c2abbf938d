"""Deviations of a device driver's side of the notifier contract: what it keeps, skips, or maps with too much right."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, together
from svm_actors.mirror.commands import Commands
from svm_actors.mirror.mended import MendedMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.hmm_types import HmmPfn
from svm_actors.mm.mmu_notifier import Event, NotifierRange


def any_migration(_mirror: MendedMirror, event: NotifierRange) -> bool:
    """A migration is a migration, whoever makes it."""
    return event.event is Event.MIGRATE


def the_end_is_handled_elsewhere(_mirror: MendedMirror, event: NotifierRange) -> bool:
    """The process is going; our own teardown will see to it."""
    return event.event is Event.RELEASE


def keep_what_is_reclaimed(mirror: Mirror, event: NotifierRange) -> None:
    """Only what is unmapped goes; for the rest the sequence must do."""
    if event.event is not Event.CLEAR:
        mirror.pt.erase(event.start, mirror.last_erased(event))


async def nobody_holds_it(_mirror: Mirror) -> None:
    """The subscription holds mm_count, which seems to be enough."""


async def pin_what_is_dead(commands: Commands, mirror: Mirror) -> None:
    """mmget without a look whether there is a user left."""
    await commands.engine.step("get", mirror.mm, "mm_users")
    mirror.mm.users += 1


def always_writable(_mirror: Mirror, _found: HmmPfn) -> Tag:
    """The device may write whatever it may read."""
    return Tag.WRITABLE


MM_B61 = Bug(
    id="MM-B61",
    title="a driver skips every MIGRATE event and not its own alone",
    removes="MendedMirror.filters",
    races=("MM-R21",),
    oracles=("invalidation/INV-01", "lifetime", "coherence"),
    story="devices-take-turns",
    plant=replace_guard(MendedMirror, "filters", any_migration),
)

MM_B63 = Bug(
    id="MM-B63",
    title="a callback says that it is done and leaves the device its translations",
    removes="Mirror.retire",
    races=("MM-R01", "MM-R03", "MM-R17"),
    oracles=("invalidation/INV-01",),
    story="device-reads-what-is-dropped",
    plant=replace_guard(Mirror, "retire", keep_what_is_reclaimed),
)

MM_B64 = Bug(
    id="MM-B64",
    title="a driver ignores RELEASE while its workers may still use the pages",
    removes="MendedMirror.filters",
    races=("MM-R23",),
    oracles=("invalidation/INV-01",),
    story="device-outlives-the-process",
    plant=replace_guard(MendedMirror, "filters", the_end_is_handled_elsewhere),
)

MM_B65 = Bug(
    id="MM-B65",
    title="a device fault walks an address space that it does not hold",
    removes="Mirror.hold_mm",
    races=("MM-R23",),
    oracles=("structure", "leaks", "mirrors", "lifetime", "invalidation/INV-01", "entries/INV-33"),
    story="device-faults-as-the-process-exits",
    plant=together(
        replace_guard(Mirror, "hold_mm", nobody_holds_it),
        replace_guard(Mirror, "let_mm_go", nobody_holds_it),
    ),
)

MM_R23 = Bug(
    id="MM-R23",
    title="a migration brings an address space that is exiting back to life",
    removes="Commands._pin_mm",
    races=("MM-R23",),
    oracles=("engine", "leaks", "mirrors", "lifetime"),
    story="device-outlives-the-process",
    plant=replace_guard(Commands, "_pin_mm", pin_what_is_dead),
)

MM_B74 = Bug(
    id="MM-B74",
    title="a device maps pages writable whatever the walk says of the CPU entry",
    removes="Mirror.permission",
    races=("MM-R17", "MM-R19"),
    oracles=("coherence", "mirrors/INV-04"),
    story="device-writes-while-forking",
    plant=replace_guard(Mirror, "permission", always_writable),
)
