"""Deviations of the way home by CPU fault (pagemap section 4, C1 to C6).

What they have in common: a CPU fault may find everything done, half done or moved elsewhere, and each of these is
success.  Who takes one for a failure kills the process; who does not look whose page it is moves the wrong ones.
"""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.pagemap_ram import ToRam
from svm_actors.drm.pagemap_zdd import Devmem, Zdd
from svm_actors.engine.errors import EBUSY, EFAULT, KernelError
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import MigrateVmaFinalize, MigrateVmaPages
from svm_actors.mm.migrate_types import MigratePfn, MigrateVma

SIGBUS = ("scenario/SIGBUS", "scenario")


def loser_fails(_home: ToRam, args: MigrateVma) -> bool:
    """Nothing to collect is an error of the call, which the core MM turns into SIGBUS."""
    if not args.cpages:
        raise EFAULT
    return False


def whole_or_nothing(_home: ToRam, args: MigrateVma, moved: int) -> KernelError | None:
    """A fault that could not bring the whole window home has failed."""
    return EBUSY() if moved < args.npages else None


def whole_window(_home: ToRam, _fault: VmFault, start: int, end: int) -> tuple[int, int]:
    """The allocation's window as it is, wherever the VMA ends."""
    return start, end


def any_page(_home: ToRam, entry: MigratePfn, _allocation: Zdd | None) -> bool:
    """Whatever was collected goes, and the fault page's allocation copies it."""
    return entry.migrate and entry.folio is not None


def no_minimum_stay(_home: ToRam, _devmem: Devmem) -> bool:
    """Now is as good as later."""
    return False


def not_exempt(_home: ToRam, _args: MigrateVma, _fault: VmFault) -> None:
    """The page that faults is a page like any other."""


def finalizes_first(original: type[ToRam]) -> type[ToRam]:
    """A subclass that points the CPU at the destinations, then fills them."""

    class FinalizesFirst(original):  # type: ignore[misc, valid-type]
        async def _move(self, args: MigrateVma, zdd: Zdd) -> KernelError | None:
            self.skip_retired(args.src)
            sources = [entry.folio for entry in args.src]
            args.dst = await self.populate_ram(args.src, zdd)
            targets = list(args.dst)
            await self.core.call(MigrateVmaPages(args))
            self.retire_sources(args.src)
            for folio in (*sources, *targets):
                if folio is not None:
                    folio.get("copy")
            moved = [entry.migrate for entry in args.src]
            await self.core.call(MigrateVmaFinalize(args))
            src = [MigratePfn(folio, went) for folio, went in zip(sources, moved, strict=True)]
            dst = [folio if went else None for folio, went in zip(targets, moved, strict=True)]
            await self.copy_home(src, dst, zdd.devmem)
            for folio in (*sources, *targets):
                if folio is not None:
                    folio.put("copy")
            return None

    return FinalizesFirst


PGM_R01 = Bug(
    id="PGM-R01",
    title="a CPU fault that finds nothing left to move, because another one was faster, has failed",
    removes="ToRam.nothing_collected",
    races=("PGM-R01",),
    oracles=SIGBUS,
    story="fault-on-dropped-pages",
    plant=replace_guard(ToRam, "nothing_collected", loser_fails),
)

PGM_B35 = Bug(
    id="PGM-B35",
    title="a CPU fault that brings only a part of its window home has failed",
    removes="ToRam.judge_moved",
    races=("PGM-R01", "RULE-04", "RULE-57"),
    oracles=SIGBUS,
    story="faults-and-eviction",
    plant=replace_guard(ToRam, "judge_moved", whole_or_nothing),
)

PGM_B45 = Bug(
    id="PGM-B45",
    title="the window of a CPU fault is not cut to the VMA",
    removes="ToRam.clip",
    races=("PGM-R09",),
    oracles=SIGBUS,
    story="fault-in-a-cut-window",
    plant=replace_guard(ToRam, "clip", whole_window),
)
"""The core MM refuses the walk, and the access with it."""

PGM_B31 = Bug(
    id="PGM-B31",
    title="a CPU fault takes pages of other allocations in its window along",
    removes="ToRam.wanted",
    races=("PGM-R10",),
    oracles=("migrations/RULE-47", "lifetime"),
    story="fault-in-a-shifted-window",
    plant=replace_guard(ToRam, "wanted", any_page),
)
"""Noticed by the allocation next door, whose minimum stay is not over."""

PGM_B30 = Bug(
    id="PGM-B30",
    title="a CPU fault does not look at the timeslice",
    removes="ToRam.in_timeslice",
    races=("PGM-R11",),
    oracles=("migrations/RULE-47",),
    story="fault-in-a-timeslice",
    plant=replace_guard(ToRam, "in_timeslice", no_minimum_stay),
)

PGM_B51 = Bug(
    id="PGM-B51",
    title="a migration is not told which page the CPU fault has locked and referenced",
    removes="ToRam.exempt_fault_page",
    races=("PGM-R29",),
    oracles=("liveness", "engine", "lifetime", "fault_pages/INV-29"),
    story="faults-and-writes",
    plant=replace_guard(ToRam, "exempt_fault_page", not_exempt),
)
"""Its lock cannot be had, so it never moves, and the access is tried again for ever."""

PGM_B41 = Bug(
    id="PGM-B41",
    title="CPU entries name the destination before the copy has been made",
    removes="ToRam._move",
    races=("PGM-R25",),
    oracles=("coherence", "scenario", "copies/INV-15"),
    story="faults-and-writes",
    plant=replace_part(ToRam, finalizes_first),
)
