"""A small driver that follows the notifier protocol, and the ways to run a body under many schedules.

:class:`MiniGpu` faults with the unlocked walk, validates under its lock and keeps a page map; every
access it makes is told to the coherence oracle, every translation left behind is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from mm_rig import FIRST, Rig, ToyDevice

from svm_actors.engine.errors import EFAULT, EngineError, KernelError, PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.mm import messages as m
from svm_actors.mm.events import CpuAccess
from svm_actors.mm.folio import Folio
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmPfn, HmmRange
from svm_actors.mm.mmu_notifier import IntervalNotifier, InvalidateReturned, NotifierRange
from svm_actors.workload.litmus_run import FewSwitches

READ, WRITE = Hmm.REQ_FAULT, Hmm.REQ_FAULT | Hmm.REQ_WRITE

Body = Callable[[Rig], Coroutine[Any, Any, None]]

NOTICED = (AssertionError, EngineError, KernelError)
"""What a broken guard ends a run with: a property, a deadlock, a spent budget, an error nobody expects."""


class MiniGpu:
    """One subscription over part of the arena, one lock, one page map."""

    def __init__(self, rig: Rig, name: str = "gpu", owner: object = None) -> None:
        self.rig = rig
        self.owner = owner
        self.lock = Mutex(rig.engine, f"{name}.user_lock", "user_lock")
        self.notifier = IntervalNotifier(name, self)
        self.map: dict[int, tuple[Folio, int, bool]] = {}
        """Page: the folio, its generation when it was mapped, writable."""
        rig.engine.listeners.append(self.listen)

    async def open(self, page: int = 0, n: int = 16) -> None:
        await self.rig.core.call(m.IntervalNotifierInsert(self.notifier, self.rig.mm, FIRST + page, n))

    async def close(self) -> None:
        """Nobody faults any more: forget everything, then leave."""
        self.map.clear()
        await self.rig.core.call(m.IntervalNotifierRemove(self.notifier))

    # -- the callback ------------------------------------------------------------------

    def ignores(self, event: NotifierRange) -> bool:
        """The owner filter; this driver uses none."""
        return False

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> Any:
        if self.ignores(event):
            return True
        async with self.lock:
            notifier.set_seq(seq)
            self.drop(event)
        return True

    def drop(self, event: NotifierRange) -> None:
        for vpn in [vpn for vpn in self.map if event.start <= vpn < event.end]:
            del self.map[vpn]

    def listen(self, event: Any) -> None:
        """INV-01: nothing is left in the range once the start has returned."""
        if type(event) is InvalidateReturned and event.range.mm is self.rig.mm:
            left = [vpn for vpn in self.map if event.range.start <= vpn < event.range.end]
            if left and not self.may_keep(event.range):
                raise PropertyFailed("gpu", "INV-01", f"page {left[0] - FIRST} is still mapped")

    def may_keep(self, event: NotifierRange) -> bool:
        """Events after which translations are allowed to be there."""
        return False

    # -- faults ------------------------------------------------------------------------

    async def walk(self, vpn: int, request: Hmm) -> tuple[int, HmmPfn]:
        range_ = HmmRange(self.notifier, 0, vpn, vpn + 1, [HMM_NONE], request, dev_private_owner=self.owner)
        await self.rig.core.call(m.HmmRangeFaultUnlocked(range_))
        return range_.notifier_seq, range_.pfns[0]

    async def fault(self, vpn: int, write: bool) -> None:
        """Until a walk is still valid under the lock."""
        while True:
            seq, pfn = await self.walk(vpn, WRITE if write else READ)
            async with self.lock:
                if self.notifier.read_retry(seq):
                    self.rig.engine.count("MM-R03")
                    continue
                self.publish(vpn, pfn, write)
                return

    def publish(self, vpn: int, pfn: HmmPfn, write: bool) -> None:
        """Map what the walk found, with no more permission than it found (INV-04).  -EFAULT: not enough."""
        assert pfn.folio is not None
        if write and not pfn.write:
            raise EFAULT
        self.map[vpn] = (pfn.folio, pfn.folio.generation, pfn.write)

    # -- accesses ----------------------------------------------------------------------

    async def _translate(self, page: int, write: bool) -> Folio:
        vpn = FIRST + page
        while True:
            await self.rig.engine.step("local")
            entry = self.map.get(vpn)
            if entry is not None and (entry[2] or not write):
                entry[0].check_live(entry[1], "the device")
                return entry[0]
            await self.fault(vpn, write)

    async def load(self, page: int) -> int:
        folio = await self._translate(page, False)
        data = folio.content.read(0, 1)
        self.rig.engine.emit(CpuAccess(self.rig.mm, FIRST + page, 0, data, False, folio))
        return data[0]

    async def store(self, page: int, value: int, offset: int = 0) -> None:
        folio = await self._translate(page, True)
        folio.content = folio.content.write(offset, bytes([value]))
        self.rig.engine.emit(CpuAccess(self.rig.mm, FIRST + page, offset, bytes([value]), True, folio))

    def check(self) -> None:
        """INV-03 and INV-04: at rest the map names what the CPU entries name, and may do no more."""
        for vpn, (folio, generation, writable) in self.map.items():
            folio.check_live(generation, "the device")
            pte = self.rig.mm.page_table.get(vpn)
            assert pte is not None, "the CPU maps nothing there"
            assert pte.folio is folio
            assert pte.writable or not writable


class Device(ToyDevice):
    """A device that is not surprised when the page it was asked for has been unmapped meanwhile."""

    async def _copy_home(self, src: list[Any], dst: list[Folio | None]) -> None:
        for entry in src:
            entry.migrate = entry.migrate and entry.valid
        await super()._copy_home(src, dst)


def device(rig: Rig, kind: type[ToyDevice] = Device) -> ToyDevice:
    """A device whose pages the structure oracle counts too."""
    toy = kind(rig)
    rig.structure.world.mirror_devices.append(SimpleNamespace(pgmaps=lambda: [toy.pgmap]))
    return toy


async def together(rig: Rig, *works: Any) -> None:
    """Run coroutine functions, or (function, arguments ...) tuples, at once."""
    async with rig.engine.nursery() as nursery:
        for work in works:
            function, *arguments = work if isinstance(work, tuple) else (work,)
            nursery.start_soon(function, *arguments)


def race(body: Body, schedule: int, budget: int = 20_000) -> Rig:
    """One run: 0 is fifo, odd numbers are random walks, even ones switch seldom."""
    rig = Rig("random" if schedule else "fifo", schedule)
    rig.engine.step_budget = budget
    if schedule and not schedule % 2:
        rig.engine.chooser = FewSwitches(schedule)
    return rig.run(body)


@attrs.frozen
class Row:
    """One row of the race table: a scenario, and what breaks it."""

    body: Body
    """Held by the correct model under every schedule."""
    mutants: dict[str, Callable[[pytest.MonkeyPatch], None]]
    """Guard removals by id; each must be noticed."""


def mutants_of(rows: dict[str, Row]) -> list[tuple[str, str]]:
    """(row, bug) of every guard removal, for parametrize."""
    return [(row, bug) for row in rows for bug in rows[row].mutants]


def first_failure(body: Body, schedules: int) -> int | None:
    """The first schedule under which the body fails, None when it never does."""
    for schedule in range(schedules):
        try:
            race(body, schedule)
        except NOTICED:
            return schedule
    return None
