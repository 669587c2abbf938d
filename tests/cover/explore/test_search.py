"""The search itself: verdicts, replays of what it finds, data choices, what it refuses; searching scenarios."""

from __future__ import annotations

from typing import Any

import pytest
from explore_toys import drawing, held, lost_update

from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import run
from svm_actors.explore.search import Bound, Found, SearchError, rising, search, search_scenario
from svm_actors.explore.strategies import Replay
from svm_actors.explore.toys import Variable, lost, reorder, run_toy, same

REDUCTIONS: tuple[Any, ...] = ("none", "sleep", "dpor")


def run_program(program: Any, chooser: Chooser, **options: Any) -> BaseException | None:
    home = DirectBackend()
    engine = Engine(home, chooser, **options)
    try:
        home.run(program(engine))
    except Exception as error:
        return error
    return None


# -- verdicts ----------------------------------------------------------------------------------


def test_a_spent_budget_is_no_completeness() -> None:
    found = search(lambda chooser: run_toy(same(3, 2), chooser), budget=89)
    assert (found.runs, found.complete, found.verdict) == (89, False, "budget spent")
    found = search(lambda chooser: run_toy(same(3, 2), chooser), budget=90)
    assert (found.runs, found.complete, found.verdict) == (90, True, "complete within this bound")


def test_blocked_runs_count_against_the_budget() -> None:
    found = search(lambda chooser: run_toy(reorder(2), chooser), "sleep", budget=20)
    assert found.runs + found.blocked == 20
    assert not found.complete


def test_a_rising_bound_stops_at_its_limit_or_its_budget() -> None:
    assert rising(lambda chooser: run_toy(same(2, 2), chooser), "preemptions", 2)[0] == 2
    bound, found = rising(lambda chooser: run_toy(same(3, 2), chooser), "delays", 9, budget=12)
    assert (bound, found.complete) == (2, False)


def test_a_program_without_choices_has_one_run() -> None:
    found = search(lambda chooser: run_toy(same(1, 5), chooser))
    assert (found.runs, found.complete, found.failing) == (1, True, 0)


# -- what it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_first_failing_run_can_be_replayed(reduction: Any) -> None:
    found = search(lambda chooser: run_toy(lost(2, 1), chooser), reduction)
    assert isinstance(found.first, PropertyFailed)
    again = Replay(found.choices, found.arities)
    assert isinstance(run_toy(lost(2, 1), again), PropertyFailed)
    assert again.finished


def test_a_search_is_the_same_every_time() -> None:
    def once() -> Found:
        found = search(lambda chooser: run_toy(reorder(2), chooser))
        found.first = str(found.first)
        return found

    assert once() == once()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_data_choices_are_searched_too(reduction: Any) -> None:
    """Two tasks draw one of three and touch nothing in common: nine outcomes, one order is enough."""
    seen: set[tuple[int, ...]] = set()

    async def program(engine: Engine) -> None:
        drawn = [0, 0]

        async def body(index: int) -> None:
            await engine.step("write", Variable(f"own{index}"))
            drawn[index] = engine.choose(3, "which")

        async with engine.nursery() as nursery:
            for index in range(2):
                nursery.start_soon(body, index)
        seen.add(tuple(drawn))

    found = search(lambda chooser: run_program(program, chooser), reduction)
    assert found.complete
    assert seen == {(one, other) for one in range(3) for other in range(3)}
    assert found.runs == (9 if reduction != "none" else 54)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_time_orders_what_no_resource_does(reduction: Any) -> None:
    """A sleeper sees what was done before time passed, in whatever order that was."""
    seen: set[tuple[int, ...]] = set()

    async def program(engine: Engine) -> None:
        log: list[int] = []
        x = Variable("x")

        async def body(index: int, nap: int) -> None:
            await engine.step("write", x)
            log.append(index)
            await engine.sleep(nap)
            log.append(index)

        async with engine.nursery() as nursery:
            nursery.start_soon(body, 0, 20)
            nursery.start_soon(body, 1, 10)
        seen.add(tuple(log))

    assert search(lambda chooser: run_program(program, chooser), reduction).complete
    assert seen == {(0, 1, 1, 0), (1, 0, 1, 0)}


def test_an_op_that_was_never_done_still_races() -> None:
    """The first run fails before the other task gets anywhere; its turn comes all the same."""

    async def program(engine: Engine) -> None:
        x = Variable("x")
        written: list[int] = []

        async def writer() -> None:
            await engine.step("write", x)
            written.append(1)

        async def reader() -> None:
            await engine.step("read", x)
            assert written, "read before it was written"

        async with engine.nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(writer)

    for reduction in ("sleep", "dpor"):
        found = search(lambda chooser: run_program(program, chooser), reduction)  # type: ignore[arg-type]
        assert (found.complete, found.runs, found.failing) == (True, 2, 1)


# -- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sleep", "dpor"])
def test_a_bound_does_not_go_with_a_reduction(reduction: Any) -> None:
    with pytest.raises(ValueError, match="a bound on delays needs reduction 'none'"):
        search(lambda chooser: run_toy(same(2, 1), chooser), reduction, bound=Bound("delays", 1))


def test_racing_timers_are_refused() -> None:
    async def program(engine: Engine) -> None:
        async def sleeper() -> None:
            await engine.sleep(5)

        async with engine.nursery() as nursery:
            nursery.start_soon(sleeper)
            nursery.start_soon(sleeper)

    with pytest.raises(SearchError, match="racing timers"):
        search(lambda chooser: run_program(program, chooser, race_timers=True), "none")


def test_a_program_that_is_not_deterministic_is_refused() -> None:
    runs: list[int] = []

    async def program(engine: Engine) -> None:
        runs.append(len(runs))

        async def body() -> None:
            if len(runs) % 2:
                await engine.step("write", Variable("x"))

        async with engine.nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(body)

    with pytest.raises(SearchError, match="not deterministic"):
        search(lambda chooser: run_program(program, chooser), "none")


def test_a_data_choice_that_comes_and_goes_is_refused() -> None:
    runs: list[int] = []

    async def program(engine: Engine) -> None:
        runs.append(len(runs))
        engine.choose(2 + len(runs), "drifting")

    with pytest.raises(SearchError, match="not deterministic: data choice 'drifting'"):
        search(lambda chooser: run_program(program, chooser), "none")


# -- scenarios ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_scenario_is_searched_to_the_end(reduction: Any) -> None:
    found = search_scenario(lost_update, reduction)
    assert found.complete
    assert 0 < found.failing < found.runs
    failure = found.first
    assert isinstance(failure, Failure)
    assert "an update was lost" in failure.message
    again = run(lost_update, chooser=Replay(found.choices, found.arities), backend="direct")
    assert again.failure is not None
    assert again.failure.signature == failure.signature


def test_reductions_make_fewer_runs_of_a_scenario() -> None:
    counts = [search_scenario(lost_update, reduction).runs for reduction in REDUCTIONS]
    assert counts[0] > 10 * counts[1] == 10 * counts[2]


def test_the_draws_of_a_scenario_are_searched() -> None:
    found = search_scenario(drawing)
    assert (found.complete, found.runs, found.failing) == (True, 5, 1)


def test_a_scenario_that_holds_holds_within_a_bound() -> None:
    found = search_scenario(held, "none", bound=Bound("delays", 1), budget=200)
    assert (found.complete, found.failing) == (True, 0)
    assert set(found.costs) == {0, 1}
