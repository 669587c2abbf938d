"""Failures: how exceptions become kinds, and which failures are the same."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from explore_toys import endless, held, inverted, lost_update, refused, stuck

from svm_actors.engine.errors import EBUSY, EngineError, PropertyFailed
from svm_actors.explore.failure import Failure, normalise
from svm_actors.explore.run import BACKENDS, run
from svm_actors.world import World


def failure_of(scenario: Any, **options: Any) -> Failure:
    failure = run(scenario, backend="direct", **options).failure
    assert failure is not None
    return failure


async def _raises_key_error(world: World) -> None:
    raise KeyError("what")


async def _calls_a_verb_wrongly(world: World) -> None:
    world.gpu(7)


async def _breaks_the_model(world: World) -> None:
    process = world.process()
    process.mm = None  # type: ignore[assignment]
    await process.mmap(4096)


async def _oracle(world: World) -> None:
    raise PropertyFailed("toy oracle", "INV-99", "page 0x12 is gone\nsecond line")


async def _misuse(world: World) -> None:
    raise EngineError("toy lock must be held here")


async def _busy(world: World) -> None:
    raise EBUSY


async def _plain_assert(world: World) -> None:
    number = 3
    assert number == 4


async def _group(world: World) -> None:
    raise ExceptionGroup("several", [ExceptionGroup("inner", [PropertyFailed("o", "R", "t")]), KeyError("x")])


async def _leaves(world: World) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("scenario", "kind", "oracle", "rule"),
    [
        (_oracle, "property", "toy oracle", "INV-99"),
        (_plain_assert, "property", "scenario", "assert"),
        (inverted, "property", "lockdep", "INV-24"),
        (stuck, "deadlock", "engine", "deadlock"),
        (_misuse, "error", "engine", "EngineError"),
        (_busy, "error", "scenario", "EBUSY"),
        (refused, "error", "scenario", "EINVAL"),
        (_raises_key_error, "error", "scenario", "KeyError"),
        (_calls_a_verb_wrongly, "error", "scenario", "ValueError"),
        (_leaves, "error", "scenario", "SystemExit"),
        (_breaks_the_model, "internal", "model", "AttributeError"),
        (_group, "property", "o", "R"),
    ],
)
def test_what_ended_the_run_tells_the_kind(scenario: Any, kind: str, oracle: str, rule: str) -> None:
    failure = failure_of(scenario)
    assert (failure.kind, failure.oracle, failure.rule) == (kind, oracle, rule)


def test_a_spent_step_budget_is_no_verdict() -> None:
    failure = failure_of(endless, step_budget=50)
    assert (failure.kind, failure.rule) == ("budget", "step-budget")
    assert "budget of 50" in failure.message


def test_messages_say_where_in_the_scenario() -> None:
    assert "test_explore_failure.py" in failure_of(_raises_key_error).message
    assert failure_of(refused).message.startswith("EINVAL was raised at ")


def test_the_headline_is_one_line() -> None:
    assert failure_of(_oracle).headline == "toy oracle [INV-99]: page 0x12 is gone"


def test_equal_failures_under_many_schedules_are_one_class() -> None:
    failing = [run(lost_update, backend="direct", strategy="random", seed=seed) for seed in range(80)]
    failures = [one.failure for one in failing if one.failure is not None]
    assert len(failures) > 5
    assert len({failure.signature for failure in failures}) == 1
    assert len({failure.timeline for failure in failures}) > 1, "the schedules do differ"


def test_different_failures_are_different_classes() -> None:
    scenarios = (stuck, inverted, refused, _oracle, _plain_assert, _busy)
    assert len({failure_of(scenario).hash for scenario in scenarios}) == len(scenarios)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("page 0x7f12 of p3 holds b'\\x01ab'", "page 0x1 of p12 holds b'z'"),
        ("alive: ram=1, [1, 2, 3]", "alive: ram=55, [9]"),
        ("CLEAR [7efffffff,7f0000000) of p0", "CLEAR [10000,fffffffffab) of p1"),
        ("main/t1.0/Madvise.4", "main/t22.1/Madvise.13"),
        ("reads b\"it's\" at 3", "reads b'' at 4"),
        ("two  blanks", "two blanks"),
        ("<folio:b ram refs[lru_batch=1,map=2] map=2>", "<folio:1a ram refs[map=3] map=3>"),
        ("CLEAR [a,b) of p0, p0.vma[a-f]", "CLEAR [7f,100) of p0, p0.vma[10-1f]"),
    ],
)
def test_numbers_and_contents_do_not_make_a_class(one: str, other: str) -> None:
    assert normalise("property", one) == normalise("property", other)


def test_words_do() -> None:
    assert normalise("property", "ram is alive") != normalise("property", "swap is alive")
    for text in ("the face is dead", "a so-be-it", "a list [dead] of be, add"):
        assert normalise("property", text) == text, "a word is not a number"


def test_deadlocks_are_told_apart_by_the_ops_that_are_stuck() -> None:
    def message(*ops: str) -> str:
        lines = [f"  main/t{index} is blocked in {op}; its thread holds nothing" for index, op in enumerate(ops)]
        return "\n".join(["deadlock at virtual time 17 ns: ...", *lines, "  wait-for cycle: a -> b -> a"])

    assert normalise("deadlock", message("lock x1", "lock y")) == normalise(
        "deadlock", message("lock y", "lock x2", "lock x3")
    )
    assert normalise("deadlock", message("lock x")) != normalise("deadlock", message("lock z"))


def test_budgets_are_told_apart_by_the_op_that_took_the_steps() -> None:
    def message(task: str, op: str) -> str:
        return f"step budget of 9 spent at 1 ns; most frequent of the last 5 steps: {task}: {op} (3 times)"

    assert normalise("budget", message("main", "sleep")) == normalise("budget", message("main/x.4", "sleep"))
    assert normalise("budget", message("main", "sleep")) != normalise("budget", message("main", "lock a"))


def test_the_timeline_ends_at_the_step_that_failed_on_both_back_ends() -> None:
    def facts(backend: Any) -> Any:
        one = run(lost_update, backend=backend, strategy="random", seed=failing_seed())
        assert one.failure is not None
        assert one.failure.timeline[-1].number == one.steps
        return one.failure

    direct, hosted = (facts(backend) for backend in BACKENDS)
    assert direct == hosted
    assert direct.timeline == hosted.timeline
    assert [step.number for step in direct.timeline] == list(
        range(direct.timeline[0].number, direct.timeline[-1].number + 1)
    )


def failing_seed() -> int:
    return next(seed for seed in range(50) if not run(lost_update, backend="direct", strategy="random", seed=seed).ok)


@pytest.mark.parametrize("scenario", [stuck, lost_update])
def test_tasks_that_were_alive_are_the_same_on_both_back_ends(scenario: Any) -> None:
    seed = failing_seed()
    direct, hosted = (run(scenario, backend=backend, strategy="random", seed=seed).failure for backend in BACKENDS)
    assert direct is not None
    assert hosted is not None
    assert direct.tasks == hosted.tasks


def test_live_tasks_say_who_waits_for_what() -> None:
    states = {task.task: (task.op, task.state) for task in failure_of(stuck).tasks}
    assert states["main/wait_event.0"] == ("wait toy.queue", "blocked")
    assert states["main"][1] == "blocked"
    assert "core_mm" not in states, "an actor that waits for work is not part of the story"


def test_failures_cross_process_borders_whole() -> None:
    failure = failure_of(lost_update, strategy="random", seed=failing_seed())
    copy = pickle.loads(pickle.dumps(failure))
    assert copy == failure
    assert (copy.signature, copy.hash) == (failure.signature, failure.hash)


def test_a_run_that_held_has_no_failure() -> None:
    assert run(held, backend="direct").failure is None
