"""Deviations of eviction by physical pages (pagemap section 5, E1 to E4).

An eviction believes nothing but ``detached``, makes three passes each of which starts afresh, waits for nobody, and
keeps its hands off a process that is on its way out.
"""

from __future__ import annotations

from collections.abc import Callable

from svm_actors.bugs.bug import Bug, replace_function, replace_guard, replace_part
from svm_actors.drm.pagemap_dma import DmaBatch
from svm_actors.drm.pagemap_ram import EvictPasses, _Home
from svm_actors.drm.pagemap_zdd import Devmem
from svm_actors.engine.errors import EBUSY, ENOSPC, KernelError
from svm_actors.mm.core import CoreMm
from svm_actors.mm.folio import Folio
from svm_actors.mm.migrate_types import MigratePfn
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.rmap import rmap_walk, try_to_migrate, try_to_migrate_one
from svm_actors.xe.evict import answer_of


def one_more(_passes: EvictPasses, _number: int) -> int | None:
    """The next pass will do it; which one that is, is not counted."""
    return 1


def counts_pages(original: type[EvictPasses]) -> type[EvictPasses]:
    """A subclass that is through when everything it could get hold of has moved."""

    class CountsPages(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            self.taken: list[MigratePfn] = []

        def skip_retired(self, src: list[MigratePfn]) -> None:
            super().skip_retired(src)
            self.taken = [entry for entry in src if entry.folio is not None]

        def finished(self, devmem: Devmem) -> bool:
            return super().finished(devmem) or all(entry.migrate for entry in self.taken)

    return CountsPages


async def waits_its_time(passes: EvictPasses, devmem: Devmem) -> None:
    """Memory pressure can wait, too."""
    await passes.engine.sleep(max(0, devmem.timeslice_expiration - passes.engine.now), "timeslice")


async def takes_a_user(_passes: EvictPasses, mm: Mm) -> None:
    """mmget, where it takes mmget_not_zero."""
    await mm.engine.step("get", mm, "mm_users")
    mm.users += 1


def counts_on(original: type[EvictPasses]) -> type[EvictPasses]:
    """A subclass whose count of pages to map is used up by the first pass: the later ones map none."""

    class CountsOn(original):  # type: ignore[misc, valid-type]
        first = True

        async def start_pass(self, number: int) -> None:
            await super().start_pass(number)
            self.first = not number

        async def copy_home(self, src: list[MigratePfn], dst: list[Folio | None], devmem: Devmem) -> None:
            await super().copy_home(src, dst if self.first else [None] * len(dst), devmem)

    return CountsOn


def keeps_the_window(original: type[EvictPasses]) -> type[EvictPasses]:
    """A subclass that links the pages of a later pass behind those of the pass before, into a window that has gone."""

    class KeepsTheWindow(original):  # type: ignore[misc, valid-type]
        linked = 0

        async def start_pass(self, number: int) -> None:
            await super().start_pass(number)
            self.linked = self.linked if number else 0

        def new_batch(self) -> DmaBatch:
            batch: DmaBatch = super().new_batch()
            batch.linked = self.linked
            return batch

        async def copy_home(self, src: list[MigratePfn], dst: list[Folio | None], devmem: Devmem) -> None:
            await super().copy_home(src, dst, devmem)
            self.linked += sum(folio is not None for folio in dst)

    return KeepsTheWindow


def remembers_nothing(_home: _Home, _src: list[MigratePfn]) -> None:
    """A page whose content has gone looks like any other."""


async def first_mapping_only(core: CoreMm, folio: Folio) -> None:
    """The walk ends at the first VMA that could map the page."""

    async def visit(vma: object, vpn: int) -> bool:
        await try_to_migrate_one(core, folio, vma, vpn)  # type: ignore[arg-type]
        return False

    await rmap_walk(folio, visit)


def bare_pointer(_devmem: Devmem) -> None:
    """As 7.3.4: the GPU VM holds the structure, for as long as it is open."""


def busy_is_all_there_is(_original: object) -> Callable[[KernelError], KernelError]:
    """As 7.3.4: -EBUSY means another victim, everything else the end."""
    return lambda error: ENOSPC() if isinstance(error, EBUSY) else error


PGM_B01 = Bug(
    id="PGM-B01",
    title="an eviction makes passes until everything has gone, however long others hold on to a page",
    removes="EvictPasses.next_pass",
    races=("PGM-R03", "SVM-R14"),
    oracles=("liveness",),
    story="eviction-of-a-held-page",
    plant=replace_guard(EvictPasses, "next_pass", one_more),
)

PGM_B37 = Bug(
    id="PGM-B37",
    title="an eviction is through when every page it could lock has moved",
    removes="EvictPasses.finished",
    races=("PGM-R03", "SVM-R14"),
    oracles=("eviction/RULE-48", "lifetime"),
    story="faults-and-eviction",
    plant=replace_part(EvictPasses, counts_pages),
)

PGM_B34 = Bug(
    id="PGM-B34",
    title="an eviction waits until the minimum stay of the pages is over",
    removes="EvictPasses.pass_over_timeslice",
    races=("PGM-R32",),
    oracles=("device-memory",),
    story="eviction-in-a-timeslice",
    plant=replace_guard(EvictPasses, "pass_over_timeslice", waits_its_time),
)
"""Noticed by the client who waits for the memory, with nobody else about."""

PGM_R20 = Bug(
    id="PGM-R20",
    title="an eviction takes a user of an address space that has none left",
    removes="EvictPasses.hold_user",
    races=("PGM-R20",),
    oracles=("engine", "lifetime", "leaks", "model"),
    story="eviction-and-exit",
    plant=replace_guard(EvictPasses, "hold_user", takes_a_user),
)
"""Its put is the last one, once more: the address space is torn down twice."""

PGM_S03 = Bug(
    id="PGM-S03",
    title="an allocation does not hold the address space it was made for",
    removes="Devmem.hold_mm",
    races=("PGM-R20",),
    oracles=("lifetime/PGM-S03",),
    story="eviction-and-exit",
    plant=replace_guard(Devmem, "hold_mm", bare_pointer),
)
"""As 7.3.4: a child still maps the pages, or the BO is only waiting for its put, and the structure has been freed."""

PGM_S04 = Bug(
    id="PGM-S04",
    title="a victim that belongs to a dying process ends the search for device memory",
    removes="evict.answer_of",
    races=("PGM-R20",),
    oracles=("scenario/EFAULT",),
    story="allocation-beside-a-dying-process",
    plant=replace_part(answer_of, busy_is_all_there_is),
)
"""As 7.3.4: the process next door, which is well, gets -EFAULT."""

PGM_B17 = Bug(
    id="PGM-B17",
    title="the count of pages to map is kept from one eviction pass to the next, which then maps nothing",
    removes="EvictPasses.start_pass",
    races=("PGM-R27",),
    oracles=("coherence", "copies/INV-15"),
    story="eviction-and-looks",
    plant=replace_part(EvictPasses, counts_on),
)

PGM_B25 = Bug(
    id="PGM-B25",
    title="the state of the IOVA window is kept from one eviction pass to the next",
    removes="_Home.new_batch",
    races=("PGM-R27",),
    oracles=("lifetime/RULE-22",),
    story="eviction-and-looks",
    plant=replace_part(EvictPasses, keeps_the_window),
)

PGM_B23 = Bug(
    id="PGM-B23",
    title="pages whose content has gone home are not marked, and can be copied home again",
    removes="_Home.retire_sources",
    races=("PGM-R15",),
    oracles=("migrations/RULE-53",),
    story="fault-and-eviction-of-the-same",
    plant=replace_guard(_Home, "retire_sources", remembers_nothing),
)
"""An eviction that locks such a page between the unlock and the put of the CPU fault makes an orphan of the copy."""

PGM_B40 = Bug(
    id="PGM-B40",
    title="the walk that unmaps a page for migration stops at the first address space",
    removes="rmap.try_to_migrate",
    races=("PGM-R03", "SVM-R20", "RULE-07", "RULE-16"),
    oracles=("device-memory",),
    story="eviction-of-shared-pages",
    plant=replace_function(try_to_migrate, first_mapping_only),
)
"""Pages shared by fork never leave device memory, though nobody else is about."""
