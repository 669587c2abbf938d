"""Schedules as Hypothesis data: the same engine, and failures that shrink with their inputs."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from svm_actors.explore.run import Run, replay
from svm_actors.testing.strategies import Schedule, schedules, world_runs
from svm_actors.world import World

PAGE = 4096
PHASES = (Phase.generate, Phase.shrink)
"""Explaining a failure traces every line of the model, which takes ten times as long as running it."""
FEW = settings(max_examples=30, database=None, deadline=None, derandomize=True, phases=PHASES)
MANY = settings(FEW, max_examples=400)


async def lost_update(world: World, threads: int = 2, spare: int = 0) -> None:
    """A counter raised without a lock; ``spare`` threads only read."""
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"\0")

    async def raises() -> None:
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        for _ in range(threads):
            nursery.start_soon(raises)
        for _ in range(spare):
            nursery.start_soon(process.read, addr)
    assert await process.read(addr, 1) == bytes((threads,)), "an update was lost"


async def ping_pong(world: World, pages: int = 1, rounds: int = 1) -> None:
    """CPU and GPU write the same pages in turns."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap(pages * PAGE)
    for _ in range(rounds):
        async with world.nursery() as nursery:
            nursery.start_soon(vm.store, addr, b"gpu")
            nursery.start_soon(process.write, addr + (pages - 1) * PAGE, b"cpu")


async def drawing(world: World) -> None:
    assert world.choose(100, "toy") < 20


@FEW
@given(run=world_runs(ping_pong, pages=st.integers(1, 3), rounds=st.integers(1, 2)))
def test_every_drawn_schedule_holds(run: Run) -> None:
    assert run.ok, run.failure
    assert run.strategy == "hypothesis"


def test_inputs_and_schedule_shrink_together() -> None:
    runs = world_runs(lost_update, threads=st.integers(2, 5), spare=st.integers(0, 3))
    run = find(runs, lambda run: not run.ok, settings=MANY)
    assert "threads=2" in run.subject.name
    assert "spare=0" in run.subject.name
    assert run.failure is not None
    assert run.failure.rule == "assert"


def test_a_planted_race_is_found_small_and_replays() -> None:
    """SVM-B41: the notifier callback returns before the TLB flush it asked for is through."""
    run = find(
        world_runs(ping_pong, bugs=["SVM-B41"], pages=st.integers(1, 3), rounds=st.integers(1, 3)),
        lambda run: run.failure is not None and run.failure.rule == "INV-01",
        settings=MANY,
    )
    assert re.search(r"pages=1, rounds=[12]\)", run.subject.name)
    assert run.failure is not None
    assert replay(run.subject, run.token).failure == run.failure


def test_the_report_names_the_switches_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    @MANY
    @given(schedule=schedules())
    def race(schedule: Schedule) -> None:
        assert schedule.run(lost_update).ok

    with pytest.raises(AssertionError) as caught:
        race()
    notes = "\n".join(caught.value.__notes__)
    assert "an update was lost" in notes
    assert "svm-actors-token v" in notes
    switches = re.findall(r"choice \d+: (\S+) instead of (\S+)", notes)
    assert 1 <= len(switches) <= 4


def test_the_canonical_schedule_is_the_simplest() -> None:
    run = find(world_runs(lost_update), lambda run: True, settings=FEW)
    assert run.ok
    assert run.trace_digest == CANONICAL.trace_digest


def test_data_choices_are_drawn_too() -> None:
    run = find(world_runs(drawing), lambda run: not run.ok, settings=MANY)
    assert run.tape[-1] == 20, "the smallest value that fails"
    with pytest.raises(NoSuchExample):
        find(world_runs(drawing, limit=0), lambda run: not run.ok, settings=FEW)


class First(Random):
    """Draws the first alternative of every choice."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        return 0


CANONICAL = Schedule(First()).run(lost_update)


class Ends(Random):
    """As Hypothesis does when an example has grown too large."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        raise Ended


class Ended(BaseException):
    pass


def test_an_example_that_hypothesis_ends_is_no_failure_of_the_run() -> None:
    with pytest.raises(Ended):
        Schedule(Ends()).run(ping_pong)
