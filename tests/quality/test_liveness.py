"""Livelocks are found, named and told apart from contention (exploration digest, section 1.4; core_mm section 11)."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from svm_actors.drm.pagemap import DrmPagemap, PopulateMm
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.errors import EBUSY
from svm_actors.engine.locks import RwSem
from svm_actors.explore.liveness import judge
from svm_actors.explore.liveness.lasso import Hunt
from svm_actors.explore.run import Run, replay, run
from svm_actors.explore.strategies import FairPct, Pct
from svm_actors.explore.strategies.fair_pct import prefix_of
from svm_actors.explore.strategies.pct import cycled_depth
from svm_actors.explore.targets import subject_named
from svm_actors.mm import memory
from svm_actors.mm.core import CoreMm
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import CpuFault
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.vma import Vma
from svm_actors.world import Config, World

PAGE = 4096
Scenario = Callable[[World], Coroutine[Any, Any, None]]


def make(scenario: Scenario, seed: int = 1, step_budget: int = 4000, **options: Any) -> Run:
    return run(scenario, seed=seed, strategy="random", step_budget=step_budget, backend="direct", **options)


# -- many readers of one device page (core_mm L1, MM-B01) ---------------------------------------


def readers(count: int) -> Scenario:
    """So many threads read a page that lies in VRAM."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        addr = await process.mmap(PAGE)
        await process.write(addr, b"x")
        await vm.store(addr, b"y")
        async with world.nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(process.read, addr, name="reader")

    return scenario


class Historic:
    """do_swap_page as it was before 6.15, with a driver that makes its migrations one after the other."""

    def __init__(self) -> None:
        self.locks: dict[int, tuple[CoreMm, RwSem]] = {}

    def driver_lock(self, core: CoreMm) -> RwSem:
        """The driver's exclusive lock: first come, first served."""
        if id(core) not in self.locks:
            self.locks[id(core)] = core, RwSem(core.engine, "driver_exclusive", "driver_exclusive")
        return self.locks[id(core)][1]

    async def device_private_fault(
        self, core: CoreMm, vma: Vma, vpn: int, seen: Pte, write: bool, vma_locked: bool
    ) -> memory.Fault:
        """Reference first, then the driver's lock, then the page lock."""
        if vma_locked:
            return memory.Fault.RETRY
        folio = seen.folio
        await core.engine.step("get", folio)
        if vma.mm.page_table.get(vpn) != seen:
            return memory.Fault.DONE
        folio.get("fault")
        lock = self.driver_lock(core)
        await lock.write()
        try:
            await folio.lock.acquire()
            await folio.pgmap.ops.migrate_to_ram(VmFault(vma.mm, vma, vpn, write, folio))
        finally:
            if not core.engine.closing:
                folio.lock.release()
                lock.release()
        await core.engine.step("put", folio)
        folio.put("fault")
        return memory.Fault.DONE


def test_a_driver_lock_behind_a_reference_livelocks_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the lock finds the references of those who wait for it, and gives up: a cycle of all eight."""
    monkeypatch.setattr(memory, "device_private_fault", Historic().device_private_fault)
    result = make(readers(8))
    failure = result.failure
    assert failure is not None
    assert (failure.kind, failure.oracle, failure.rule) == ("livelock", "liveness", "livelock-stable")
    first, *rest = failure.message.splitlines()
    assert first.startswith("livelock (stable): retry loop PGM-R01")
    assert "cpu.fault" in first
    assert "migrate.refs +8" in rest[1]
    assert "main/reader" in rest[2]
    again = replay(readers(8), result.token, backend="direct")
    assert again.failure is not None
    assert again.failure.signature == failure.signature


def test_page_locks_do_not() -> None:
    """The model as it is: lock first, wait without a reference (MM-R07)."""
    results = [make(readers(8), seed) for seed in range(10)]
    assert [result.failure for result in results] == [None] * 10
    assert sum(result.counters.get("MM-R07", 0) for result in results) > 10


def test_one_reader_of_the_historic_kind_has_nobody_to_fight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_private_fault", Historic().device_private_fault)
    assert make(readers(1)).failure is None


# -- two devices that want one range (PGM-R14, SVM-R09, SVM-B20) ----------------------------------


def fight(*, alone_the_second_time: bool) -> Scenario:
    """Two GPUs bring one page to their own memory, use it for a while, and are done if it is still there.

    A device that meets the other's migration gets -EBUSY and brings the page home.  The guard is that the
    second attempt is made alone.
    """

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        await process.write(addr, b"x")
        mm, vpn = process.mm, addr // PAGE
        lock = RwSem(world.engine, "migrate_lock", "migrate_lock")

        async def attempt(pagemap: DrmPagemap) -> bool:
            try:
                await pagemap.call(PopulateMm(mm, vpn, vpn + 1))
            except EBUSY:
                world.engine.count("SVM-R09")
                await world.core.call(CpuFault(mm, vpn, False))
                return False
            for _ in range(60):
                await world.engine.step("local")
            entry = mm.page_table.get(vpn)
            return entry is not None and entry.kind is Entry.DEVICE_PRIVATE and entry.folio.pgmap is pagemap.pgmap

        async def gpu(number: int) -> None:
            pagemap = world.gpu(number).driver.pagemap
            await lock.read()
            done = await attempt(pagemap)
            lock.release()
            while not done:
                await (lock.write() if alone_the_second_time else lock.read())
                done = await attempt(pagemap)
                lock.release()

        async with world.nursery() as nursery:
            nursery.start_soon(gpu, 0)
            nursery.start_soon(gpu, 1)

    return scenario


def test_two_devices_evict_each_other() -> None:
    """Fair turns go round for ever; whether every fair schedule does depends on the cycle it is in."""
    verdicts = set()
    for seed in range(4):
        failure = make(fight(alone_the_second_time=False), seed, 3000, config=Config(gpus=2)).failure
        assert failure is not None
        assert failure.kind == "livelock"
        assert "SVM-R09" in failure.message.splitlines()[0]
        verdicts.add(failure.rule)
    assert verdicts == {"livelock-stable", "livelock-transient"}


def test_the_second_attempt_alone_ends_it() -> None:
    for seed in range(10):
        result = make(fight(alone_the_second_time=True), seed, 3000, config=Config(gpus=2))
        assert result.failure is None
    hunt = Hunt((), 0, 4000)
    assert run(fight(alone_the_second_time=True), chooser=hunt, config=Config(gpus=2), backend="direct").failure is None
    assert hunt.lasso is None


# -- controls ------------------------------------------------------------------------------------


def test_contention_that_runs_out_of_steps_is_no_livelock() -> None:
    """Eight readers with too small a budget: fair runs end, so nothing is proved."""
    failure = make(readers(8), step_budget=250).failure
    assert failure is not None
    assert (failure.kind, failure.rule) == ("budget", "step-budget")


def test_a_scenario_without_end_is_no_livelock() -> None:
    """It retries nothing, or it gets something done in every round."""

    async def sleeps(world: World) -> None:
        while True:
            await world.sleep(1)

    async def reads(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        while True:
            await process.read(addr)

    for scenario in (sleeps, reads):
        failure = make(scenario, step_budget=1000).failure
        assert failure is not None
        assert failure.kind == "budget"


def test_an_unfair_schedule_proves_nothing() -> None:
    """One thread retries for as long as the other is kept from running; a fair schedule lets it run."""

    async def waiting(world: World) -> None:
        done: list[bool] = []

        async def polls() -> None:
            while not done:
                world.engine.count("toy.retry")
                await world.engine.step("local")

        async def acts() -> None:
            await world.engine.step("local")
            done.append(True)

        async with world.nursery() as nursery:
            nursery.start_soon(polls)
            nursery.start_soon(acts)

    class Starving:
        name = "starving"

        def schedule(self, running: Any, candidates: list[Any], timer: bool) -> int:
            return 0

        def data(self, count: int, label: str) -> int:
            return 0

    result = run(waiting, chooser=Starving(), step_budget=1000, backend="direct")
    assert result.failure is not None
    assert result.failure.kind == "budget"
    assert judge(lambda chooser: run(waiting, chooser=chooser, backend="direct"), (), "0") is None


# -- a fault that is retried for ever (SVM-S01) -----------------------------------------------------


def test_a_fault_on_half_a_range_that_lost_its_permission_goes_round() -> None:
    """The retry loop is in a worker that the scenario did not start; the requests it makes are numbered anew."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process, placement="system", chunk_pages=(2, 1))
        addr = await process.mmap(2 * PAGE, addr=0x1_0000_0000, fixed=True)
        await process.write(addr, b"a")
        await process.write(addr + PAGE, b"b")
        await vm.store(addr, b"y")
        await process.mprotect(addr + PAGE, PAGE, "r")
        await vm.store(addr, b"z")

    failure = make(scenario).failure
    assert failure is not None
    assert failure.rule == "livelock-stable", "the cycle begins long after the last choice there was"
    assert re.search(r"retry loop .*SVM-S01, gpu\.retry\.get_pages\.EPERM", failure.message)
    assert "gpu0.pagefault1/HmmRangeFaultUnlocked" in failure.message


def test_faults_that_starve_a_third_task_come_to_an_end() -> None:
    """A CPU fault and a GPU fault took a page from each other for two million steps of PCT: not a livelock."""
    seed, horizon = "42/eviction/7713", 59
    depth = cycled_depth(seed)

    def ends(chooser: Chooser) -> Run:
        return run(subject_named("eviction@7713"), chooser=chooser, backend="direct", step_budget=30_000, digest=False)

    unfair = ends(Pct(seed, depth, horizon)).failure
    assert unfair is not None
    assert unfair.kind == "budget"
    assert ends(FairPct(seed, prefix_of(horizon, 30_000), depth, horizon)).ok
