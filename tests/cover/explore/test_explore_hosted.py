"""A world inside the user's own trio run."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from explore_toys import held, lost_update

import svm_actors
from svm_actors.engine.errors import Deadlock, EngineError, PropertyFailed
from svm_actors.explore.run import run
from svm_actors.explore.settings import UnknownName
from svm_actors.world import Config, World
from svm_actors.xe.svm import XeSvm


def hosted_trace(scenario: Any, **options: Any) -> list[str]:
    async def main() -> list[str]:
        manager = svm_actors.open_world(record=True, **options)
        async with manager as world:
            await scenario(world)
        return manager.engine.trace()

    return trio.run(main)


@pytest.mark.parametrize("seed", range(5))
def test_it_runs_what_run_runs(seed: int) -> None:
    recorded = run(held, seed=seed, strategy="random", record=True).trace
    assert recorded is not None
    assert hosted_trace(held, seed=seed, strategy="random") == list(recorded)


def test_the_configuration_reaches_the_world() -> None:
    async def main() -> None:
        async with svm_actors.open_world(Config(gpus=3)) as world:
            assert world.gpu(2).gpu.name == "gpu2"

    trio.run(main)


def test_an_exception_of_the_body_passes_unchanged() -> None:
    error = KeyError("mine")

    async def main() -> None:
        async with svm_actors.open_world():
            raise error

    with pytest.raises(KeyError) as caught:
        trio.run(main)
    assert caught.value is error


def test_a_failure_elsewhere_is_raised_on_the_way_out() -> None:
    async def bad() -> None:
        raise PropertyFailed("toy", "INV-99", "seen")

    async def main() -> None:
        async with svm_actors.open_world() as world, world.nursery() as nursery:
            nursery.start_soon(bad)

    with pytest.raises(PropertyFailed, match="INV-99"):
        trio.run(main)


def test_what_is_left_over_is_found_on_the_way_out() -> None:
    async def main() -> None:
        async with svm_actors.open_world() as world:
            process = world.process()
            await process.write(await process.mmap(4096), b"x")
            world.processes.clear()

    with pytest.raises(PropertyFailed, match="alive at teardown"):
        trio.run(main)


def test_a_deadlock_on_the_way_out_is_raised() -> None:
    async def waits(world: World) -> None:
        await world.engine.join(world.engine.tasks[1])

    async def main() -> None:
        async with svm_actors.open_world() as world:
            world.spawn(waits(world), "waits")

    with pytest.raises(Deadlock, match="main/waits"):
        trio.run(main)


def test_a_failing_schedule_fails_here_too() -> None:
    seed = next(seed for seed in range(50) if not run(lost_update, seed=seed, strategy="random").ok)
    with pytest.raises(AssertionError, match="an update was lost"):
        hosted_trace(lost_update, seed=seed, strategy="random")


def test_cancellation_from_outside_passes_on() -> None:
    async def main() -> str:
        with trio.move_on_after(3600) as scope:
            async with svm_actors.open_world():
                scope.cancel()
                await trio.lowlevel.checkpoint()
        return "cancelled" if scope.cancelled_caught else "not"

    assert trio.run(main) == "cancelled"


def test_names_are_checked_before_anything_starts() -> None:
    with pytest.raises(UnknownName, match="unknown strategy"):
        svm_actors.open_world(strategy="psychic")
    with pytest.raises(UnknownName, match="unknown bug"):
        svm_actors.open_world(bugs=["SVM-B"])


def test_bugs_are_planted() -> None:
    async def main() -> str:
        async with svm_actors.open_world(bugs=["SVM-B50"]) as world:
            return world.engine.parts.of(XeSvm).submit_tlb_flush.__name__

    assert trio.run(main) == "no_flush"


def test_a_closed_world_is_closed() -> None:
    async def main() -> None:
        async with svm_actors.open_world() as world:
            process = world.process()
        with pytest.raises(EngineError, match="closed"):
            await process.mmap(4096)

    trio.run(main)


def test_two_worlds_can_follow_each_other_in_one_trio_run() -> None:
    async def main() -> None:
        for seed in range(2):
            async with svm_actors.open_world(seed=seed, strategy="random") as world:
                await held(world)

    trio.run(main)
