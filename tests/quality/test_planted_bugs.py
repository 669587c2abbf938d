"""Each planted bug is found within a stated number of schedules, by an oracle it names; without it nothing fails.

A hunt is a small scenario and random schedules from seed 1 on.  Measured over 300 schedules, SVM-B37 is found
in one of five, SVM-B41 in two of three, PGM-B36 in three of four, the others nearly always; the budgets
are several times that, so that a change that makes a bug hard to find is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest

from svm_actors.bugs import BUGS, Bug, replace_guard
from svm_actors.drm.pagemap_ram import EvictPasses
from svm_actors.explore.run import Run, run
from svm_actors.gpu.program import Load, Store
from svm_actors.world import Config, Process, World
from svm_actors.xe.pt import XePt
from svm_actors.xe.svm import XeSvm

PAGE = 4096
BASE = 0x1_0000_0000
VPN = BASE // PAGE
CHUNKS: dict[str, Any] = {"chunk_pages": (4, 1), "check_pages_threshold": 0}

Scenario = Callable[[World], Coroutine[Any, Any, None]]


async def memory(world: World, npages: int) -> Process:
    """A process with memory at BASE."""
    process = world.process()
    await process.mmap(npages * PAGE, addr=BASE, fixed=True)
    return process


async def pause(world: World, most: int) -> None:
    """Let others go first by up to so many steps."""
    for _ in range(world.choose(most, "pause")):
        await world.engine.step("local")


# -- the hunts ----------------------------------------------------------------------------------


async def bind_against_reclaim(world: World) -> None:
    """The GPU maps two pages while reclaim takes them."""
    process = await memory(world, 2)
    vm = await world.gpu().create_vm(process, placement="system")
    await process.write(BASE, b"a")
    await process.write(BASE + PAGE, b"b")

    async def reclaim() -> None:
        for _ in range(8):
            await pause(world, 50)
            await process.swap_out(BASE, 2 * PAGE)

    async with world.nursery() as nursery:
        nursery.start_soon(reclaim)
        nursery.start_soon(vm.run, [Load(VPN), Load(VPN + 1), Store(VPN, 1, b"c"), Load(VPN + 1)] * 2)


async def use_against_reclaim(world: World) -> None:
    """The GPU keeps using a page while reclaim takes it."""
    process = await memory(world, 1)
    vm = await world.gpu().create_vm(process, placement="system")
    await vm.store(BASE, b"a")
    async with world.nursery() as nursery:
        nursery.start_soon(process.swap_out, BASE, PAGE)
        nursery.start_soon(vm.run, [Load(VPN)] * 3)


async def unmap_across_two_ranges(world: World) -> None:
    """The end of one range and the beginning of the next go; the GPU goes on in the first."""
    process = await memory(world, 8)
    vm = await world.gpu().create_vm(process, placement="system", **CHUNKS)
    await vm.store(BASE, b"x")
    await vm.store(BASE + 4 * PAGE, b"y")
    async with world.nursery() as nursery:
        nursery.start_soon(process.munmap, BASE + 3 * PAGE, 2 * PAGE)
        nursery.start_soon(vm.run, [Load(VPN)] * 40)


async def evict_against_mremap(world: World) -> None:
    """Memory pressure while the CPU moves a mapping that lives on the device."""
    process = await memory(world, 4)
    vm = await world.gpu().create_vm(process, **CHUNKS)
    for index in range(4):
        await vm.store(BASE + index * PAGE, bytes([index + 1]))

    async def move() -> None:
        await process.mremap(BASE, 4 * PAGE, 4 * PAGE, to=BASE + 16 * PAGE)

    async def evict() -> None:
        await pause(world, 80)
        await world.gpu().evict(4 * PAGE)

    async with world.nursery() as nursery:
        nursery.start_soon(move)
        nursery.start_soon(evict)


@attrs.frozen
class Hunt:
    """How one bug is looked for."""

    scenario: Scenario
    """What runs."""
    budget: int
    """Schedules within which it must be found."""
    rules: frozenset[str]
    """What may be broken first."""


HUNTS = {
    "SVM-B37": Hunt(bind_against_reclaim, 40, frozenset({"INV-01", "INV-03", "INV-05", "RULE-18"})),
    "SVM-B41": Hunt(use_against_reclaim, 10, frozenset({"INV-01", "RULE-18"})),
    "SVM-B50": Hunt(use_against_reclaim, 1, frozenset({"INV-01"})),
    "SVM-S08": Hunt(unmap_across_two_ranges, 5, frozenset({"RULE-18"})),
    "PGM-B36": Hunt(evict_against_mremap, 10, frozenset({"RULE-48"})),
}


def once(scenario: Scenario, seed: int, bugs: tuple[str, ...] = ()) -> Run:
    """One random schedule."""
    return run(
        scenario,
        seed=seed,
        strategy="random",
        bugs=bugs,
        config=Config(vram_pages=8),
        backend="direct",
        step_budget=100_000,
        digest=False,
    )


def test_every_bug_of_a_mirroring_vm_is_hunted() -> None:
    """Those of VMs that user space fills are hunted in test_planted_binds.py."""
    assert sorted(HUNTS) == sorted(bug for bug in BUGS if not bug.startswith(("VMB-", "FEN-")))


@pytest.mark.parametrize("bug", sorted(HUNTS))
def test_found_within_its_budget(bug: str) -> None:
    hunt = HUNTS[bug]
    for seed in range(1, hunt.budget + 1):
        failure = once(hunt.scenario, seed, (bug,)).failure
        if failure is not None:
            assert failure.kind == "property", failure
            assert failure.rule in hunt.rules, failure
            named = BUGS[bug].oracles
            assert failure.oracle in named or f"{failure.oracle}/{failure.rule}" in named, failure
            return
    pytest.fail(f"{bug} was not found in {hunt.budget} schedules")


@pytest.mark.parametrize("scenario", sorted({hunt.scenario for hunt in HUNTS.values()}, key=lambda f: f.__name__))
def test_without_bugs_nothing_fails(scenario: Scenario) -> None:
    for seed in range(1, 101):
        failure = once(scenario, seed).failure
        assert failure is None, (seed, failure)


# -- the catalogue and its mechanism ----------------------------------------------------------------


@pytest.mark.parametrize("bug", [BUGS[bug] for bug in HUNTS], ids=lambda bug: bug.id)
def test_the_guard_it_removes_exists_and_cites_its_race(bug: Bug) -> None:
    """The entry names a real method, whose docstring names the race or the rule, and the bug."""
    home = {cls.__name__: cls for cls in (XePt, XeSvm, EvictPasses)}
    owner, method = bug.removes.split(".")
    text = getattr(home[owner], method).__doc__ or ""
    assert bug.id in text or bug.id == "PGM-B36"
    assert bug.title[0].islower()
    assert not bug.title.endswith(".")


def test_bugs_can_be_planted_together_and_reach_gpus_built_later() -> None:
    async def scenario(world: World) -> None:
        first = world.gpu()
        for bug in BUGS.values():
            bug.install(world)
        for device in (first, world.gpu(1)):
            parts = device.driver.parts
            assert parts.pt.precommit_range.__name__ == "no_recheck"
            assert parts.svm.wait_tlb_flush.__name__ == "do_not_wait"
            assert parts.svm.submit_tlb_flush.__name__ == "no_flush"
            assert parts.svm.widen.__name__ == "forget_earlier_ranges"
            assert parts.gc.__name__ == "GarbageCollector"
            assert type(device.driver.pagemap.evict_passes).__name__ == "EvictsByAddress"

    assert run(scenario, config=Config(gpus=2), backend="direct").failure is None


def test_a_bug_in_one_world_is_not_in_the_next() -> None:
    hunt = HUNTS["SVM-B50"]
    assert once(hunt.scenario, 1, ("SVM-B50",)).failure is not None
    assert once(hunt.scenario, 1).failure is None


def test_a_guard_that_does_not_exist_cannot_be_replaced() -> None:
    async def scenario(world: World) -> None:
        world.hooks.append(replace_guard("pt", "no_such_guard", lambda: None))
        with pytest.raises(TypeError, match="XePt has no guard no_such_guard"):
            world.gpu()

    run(scenario, backend="direct")
