"""Shrinking: what comes out is smaller, fails the same way, and says why it cannot be smaller."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from explore_toys import HELD, drawing, held, lost_update, script, stuck
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.explore.run import BACKENDS, Run, TokenMismatch, replay, run
from svm_actors.explore.shrink import NotReproduced, Shrinker, Shrunk, choices, explain, operations, shrink
from svm_actors.explore.shrink.joining import Access, Footstep, dependences, join_stretches, joined, past
from svm_actors.explore.shrink.recording import Case, Recording
from svm_actors.explore.strategies import Replay
from svm_actors.explore.strategies.guided import Guided, InOrder, Recorder
from svm_actors.explore.subject import Scenario, Subject, subject_of
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import TokenError, decode, encode
from svm_actors.world import World

PAGE = 4096
BUG = "SVM-B41"


def failing(scenario: Scenario | Subject, bugs: tuple[str, ...] = (), first: int = 0, strategy: str = "random") -> Run:
    """The first failing run from a seed on."""
    seeds = range(first, first + 400)
    runs = (run(scenario, seed=seed, strategy=strategy, bugs=bugs, backend="direct") for seed in seeds)
    return next(one for one in runs if not one.ok)


@cache
def shrunk_toy() -> tuple[Run, Shrunk]:
    one = failing(lost_update)
    return one, shrink(lost_update, one.token, seconds=None)


@cache
def shrunk_story() -> tuple[Run, Shrunk]:
    one = failing(subject_named("dontneed@0"), (BUG,))
    return one, shrink(subject_named("dontneed@0"), one.token, seconds=None)


async def needs_three(world: World) -> None:
    """Fails when three draws of seven are not 0 and the first of them is at least 4."""
    values = [world.choose(10, f"draw {number}") for number in range(7)]
    assert not (values[1] >= 4 and values[3] and values[6]), "three draws"


async def handed_over(world: World) -> None:
    """Fails when the second task stops the first between its two steps, three times over."""
    turns: list[str] = []

    async def thread(name: str, steps: int) -> None:
        for _ in range(steps):
            turns.append(name)
            await world.engine.step("local")

    async with world.nursery() as nursery:
        nursery.start_soon(thread, "a", 6)
        nursery.start_soon(thread, "b", 6)
        nursery.start_soon(thread, "c", 6)
    text = "".join(turns)
    assert "ab" not in text[:-1] or "ba" not in text or "c" not in text[:4], "the turns meet"


# -- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [shrunk_toy, shrunk_story])
def test_the_shrunk_run_fails_the_same_and_is_smaller(make: Callable[[], tuple[Run, Shrunk]]) -> None:
    one, shrunk = make()
    assert one.failure is not None
    assert shrunk.failure.signature == one.failure.signature
    assert shrunk.merit < shrunk.original
    assert shrunk.complete
    assert not shrunk.unnecessary


def test_a_lost_update_is_one_preemption() -> None:
    _, shrunk = shrunk_toy()
    assert shrunk.merit[:4] == (0, 0, 1, 1)
    kinds = [switch.kind for switch in shrunk.switches]
    assert kinds.count("preemption") == 1
    assert all(switch.necessary for switch in shrunk.switches)


def test_the_token_replays_strictly_on_both_back_ends() -> None:
    _, shrunk = shrunk_story()
    known = decode(shrunk.token)
    assert known.target == shrunk.run.subject.name
    assert known.strategy == "shrunk"
    for backend in BACKENDS:
        again = replay(subject_named(known.target), shrunk.token, backend=backend)
        assert again.failure == shrunk.failure
        assert again.trace_digest == shrunk.run.trace_digest


def test_the_whole_scenario_finds_the_operations_that_a_token_keeps() -> None:
    _, shrunk = shrunk_story()
    again = replay(subject_named("dontneed@0"), shrunk.token, backend="direct")
    assert again.trace_digest == shrunk.run.trace_digest
    assert again.subject.name == shrunk.run.subject.name


def test_shrinking_again_changes_nothing() -> None:
    for one, scenario in ((shrunk_toy()[1], lost_update), (shrunk_story()[1], subject_named("dontneed@0"))):
        again = shrink(scenario, one.token, seconds=None)
        assert again.merit == one.merit
        assert again.run.trace == one.run.trace


def test_the_operations_left_are_named() -> None:
    _, shrunk = shrunk_story()
    assert [str(operation) for _, operation in shrunk.operations] == [
        "p0 before: mmap pages 0-3, rw, private",
        "vm 0: create, on gpu 0, for p0",
    ]
    assert shrunk.run.subject.name == "dontneed@0?keep=0,8"


def test_a_program_drawn_from_the_tape_keeps_its_draws() -> None:
    whole = subject_named("random-small@5")
    one = failing(whole, ("SVM-B50",))
    shrunk = shrink(whole, one.token, seconds=None)
    assert shrunk.merit.operations <= 6
    assert shrunk.run.subject.name.startswith("random-small@5?keep=")
    assert replay(subject_named(shrunk.run.subject.name), shrunk.token).failure == shrunk.failure


def test_data_draws_are_reset_and_lowered() -> None:
    shrunk = shrink(needs_three, failing(needs_three).token)
    assert [(draw.label, draw.value) for draw in shrunk.draws] == [("draw 1", 4), ("draw 3", 1), ("draw 6", 1)]
    assert all(draw.necessary for draw in shrunk.draws)
    assert shrunk.merit.faults == 3


def test_what_fails_in_the_canonical_schedule_needs_no_choice() -> None:
    shrunk = shrink(stuck, failing(stuck).token)
    assert shrunk.failure.kind == "deadlock"
    assert shrunk.merit.deviations == 0


@pytest.mark.parametrize("name", ["random-small@0", "unmap@0", "mirror-threads@0", "strace-demo@1"])
def test_a_recorded_trace_has_the_digest_of_the_run(name: str) -> None:
    """A name in the trace may not depend on when it is read: recorded steps are told at the end of the run."""
    plain, recorded = (
        run(subject_named(name), seed=5, strategy="random", backend="direct", record=record) for record in (False, True)
    )
    assert plain.trace_digest == recorded.trace_digest


# -- properties ------------------------------------------------------------------------------------

SCENARIOS = (lost_update, needs_three, handed_over, drawing)


@settings(deadline=None, max_examples=15)
@given(scenario=st.sampled_from(SCENARIOS), seed=st.integers(0, 10_000), strategy=st.sampled_from(["random", "pct"]))
def test_never_larger_and_always_the_same_failure(scenario: Scenario, seed: int, strategy: str) -> None:
    one = run(scenario, seed=seed, strategy=strategy, backend="direct")
    if one.failure is None:
        return
    shrunk = shrink(scenario, one.token, seconds=None, runs=150)
    assert shrunk.failure.signature == one.failure.signature
    assert shrunk.merit <= shrunk.original
    assert replay(scenario, shrunk.token, backend="direct").failure == shrunk.failure


@settings(deadline=None, max_examples=30)
@given(scenario=st.sampled_from(SCENARIOS), seed=st.integers(0, 10_000))
def test_deviations_by_name_make_the_same_run_again(scenario: Scenario, seed: int) -> None:
    """The basis of it all: a plan is the run; an order is the run."""
    case = Case(subject_of(scenario), run(scenario, backend="direct").settings, "0", ())
    one = run(scenario, seed=seed, strategy="random", backend="direct")
    first = case.record(None, Recorder(Replay(one.tape, one.arity)), trace=True)
    again = case.record(None, Guided(first.plan), trace=True)
    assert (again.run.tape, again.run.trace) == (one.tape, first.run.trace)
    in_order = case.record(None, InOrder(first.plan, first.order), trace=True)
    assert in_order.run.trace == first.run.trace


# -- the passes, one by one ---------------------------------------------------------------------------


def begun(scenario: Scenario | Subject, bugs: tuple[str, ...] = (), first: int = 0) -> Shrinker:
    """A shrinker at its beginning."""
    one = failing(scenario, bugs, first)
    subject = subject_of(scenario)
    case = Case(subject, one.settings, one.seed, bugs)
    return Shrinker(case, case.record(None, Recorder(Replay(one.tape, one.arity))))


def test_the_shortest_prefix_drops_what_comes_late() -> None:
    shrinker = begun(lost_update)
    before = [one.point for one in shrinker.best.deviations]
    choices.shortest_prefix(shrinker)
    after = [one.point for one in shrinker.best.deviations]
    assert 0 < len(after) <= len(before)
    assert after == before[: len(after)]


def test_resetting_leaves_only_what_is_needed() -> None:
    shrinker = begun(handed_over)
    choices.reset_choices(shrinker)
    for one in shrinker.best.deviations:
        assert not shrinker.without([one.point])


def test_dropping_operations_keeps_those_that_are_needed() -> None:
    shrinker = begun(subject_named("dontneed@0"), (BUG,))
    operations.drop_operations(shrinker)
    assert shrinker.best.kept is not None
    assert 0 in shrinker.best.kept, "nothing fails without a mapping"
    assert 8 in shrinker.best.kept, "nor without a VM"
    assert shrinker.merit.operations < 8


def test_dropping_operations_leaves_a_plain_scenario_alone() -> None:
    shrinker = begun(lost_update)
    operations.drop_operations(shrinker)
    assert shrinker.runs == 0


def test_joining_takes_switches_away_without_changing_the_failure() -> None:
    shrinker = begun(subject_named("dontneed@0"), (BUG,))
    before = shrinker.merit
    join_stretches(shrinker)
    assert shrinker.merit < before
    assert shrinker.merit.preemptions < before.preemptions
    assert shrinker.runs <= 4, "the order is computed, one run confirms it"


def test_lowering_takes_the_smallest_value_that_does() -> None:
    shrinker = begun(needs_three)
    choices.reset_choices(shrinker)
    choices.lower_choices(shrinker)
    values = {one.point.label: one.chosen for one in shrinker.best.deviations}
    assert values["draw 3"] == values["draw 6"] == 1
    assert 4 <= values["draw 1"] < 10


async def blocks_between(world: World) -> None:
    """Fails when the second thread comes before the first is through; the first sleeps on the way."""
    log: list[str] = []

    async def first() -> None:
        await world.engine.step("local")
        await world.sleep(5)
        log.append("first")

    async def second() -> None:
        await world.engine.step("local")
        log.append("second")

    async def third() -> None:
        await world.engine.step("local")

    async with world.nursery() as nursery:
        for thread in (first, third, second):
            nursery.start_soon(thread)
    assert log != ["second", "first"], "the wrong order"


def test_a_preemption_becomes_a_choice_where_the_task_blocks() -> None:
    shrinker = begun(blocks_between)
    choices.reset_choices(shrinker)
    choices.defer_preemptions(shrinker)
    assert shrinker.merit.preemptions == 0


def test_runs_and_seconds_bound_the_search() -> None:
    one, full = shrunk_story()
    assert full.runs > 30
    for seconds, runs in ((None, 20), (1e-9, None)):
        short = shrink(subject_named("dontneed@0"), one.token, seconds=seconds, runs=runs)
        assert not short.complete
        assert short.runs <= 20
        assert short.merit <= short.original
        assert all(switch.necessary is not False for switch in short.switches)
        assert replay(subject_named("dontneed@0"), short.token).failure == short.failure


def test_the_same_runs_give_the_same_result() -> None:
    one, full = shrunk_story()
    again = shrink(subject_named("dontneed@0"), one.token, seconds=None)
    assert (again.token, again.runs, again.switches) == (full.token, full.runs, full.switches)


# -- orders -----------------------------------------------------------------------------------------


def footsteps(text: str) -> list[Footstep]:
    """``a:x`` is a write of x by a, ``a:`` a step that touches nothing; in order."""
    counts: dict[str, int] = {}
    path: list[Footstep] = []
    for word in text.split():
        task, _, resource = word.partition(":")
        counts[task] = counts.get(task, -1) + 1
        uses: list[tuple[str, Access]] = [(resource, ("w", None))] if resource else []
        path.append(Footstep((task, -1, counts[task]), None, "write", resource, uses))
    return path


@pytest.mark.parametrize(
    ("recorded", "whole", "needed"),
    [
        ("a:x b:y a:x b:y", "a a b b", "b b"),
        ("a:x b:x a:x b:x", "a b a b", "a b a b"),
        ("b: a: c: a:x b:x", "b a a c b", "b a a b"),
    ],
)
def test_joined_orders(recorded: str, whole: str, needed: str) -> None:
    path = footsteps(recorded)
    before = dependences(path)
    order = joined(path, before, list(range(len(path))))
    assert sorted(order) == sorted(step.event for step in path)
    assert " ".join(task for task, _, _ in order) == whole
    assert " ".join(task for task, _, _ in joined(path, before, past(before))) == needed


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"])), min_size=1, max_size=30))
def test_joined_orders_keep_every_dependence_and_every_step(steps: list[tuple[str, str]]) -> None:
    path = footsteps(" ".join(f"{task}:{resource}" for task, resource in steps))
    before = dependences(path)
    order = joined(path, before, list(range(len(path))))
    place = {event: at for at, event in enumerate(order)}
    for index, earlier in enumerate(before):
        assert all(place[path[one].event] < place[path[index].event] for one in earlier)
    assert len(order) == len(path)


# -- errors --------------------------------------------------------------------------------------------


def test_a_run_that_held_cannot_be_shrunk() -> None:
    with pytest.raises(NotReproduced, match="held: there is no failure to shrink"):
        shrink(held, run(held, backend="direct").token)


def test_tokens_of_something_else_are_refused() -> None:
    one, _ = shrunk_toy()
    with pytest.raises(TokenMismatch):
        shrink(held, one.token)
    with pytest.raises(TokenError):
        shrink(lost_update, "svm-actors-token v1 AAAA")


def test_a_recorded_run_that_does_not_come_back_is_refused() -> None:
    known = decode(shrunk_toy()[0].token)
    with pytest.raises(NotReproduced, match="its trace is another"):
        shrink(lost_update, encode(msgspec.structs.replace(known, trace="00" * 16)))
    cut = msgspec.structs.replace(known, choices=known.choices[:3], arities=known.arities[:3])
    with pytest.raises(NotReproduced, match="does not do what the token recorded"):
        shrink(lost_update, encode(cut))


# -- explaining ----------------------------------------------------------------------------------------


def test_the_nearest_passing_schedule_differs_in_the_last_choice() -> None:
    one, shrunk = shrunk_toy()
    passing = explain(lost_update, one.token).passing
    assert passing is not None
    assert passing.change == "left out"
    assert passing.failure is None
    assert passing.difference is not None
    assert passing.difference.index == passing.step
    (needed,) = [switch for switch in shrunk.switches if switch.kind == "preemption"]
    assert needed.step == passing.step + 1
    assert (passing.failing, passing.passing) == (needed.after, needed.before)


def test_a_canonical_failure_is_avoided_by_one_choice_more() -> None:
    one, _ = shrunk_story()
    passing = explain(subject_named("dontneed@0"), one.token).passing
    assert passing is not None
    assert passing.change == "added"
    assert passing.passing == "gpu0.tlb_inval", "the flush comes first"
    assert passing.failure is None


def test_what_always_fails_has_no_passing_schedule() -> None:
    assert explain(stuck, failing(stuck).token).passing is None


def recording_of(path: str) -> Recording:
    subject = subject_named(path)
    case = Case(subject, run(subject, backend="direct").settings, "0", ())
    return case.record(None, Guided({}))


def test_a_script_is_no_program(tmp_path: Path) -> None:
    found = recording_of(script(tmp_path, HELD))
    assert found.operations == ()
    assert found.merit.operations == 0
    with pytest.raises(TypeError, match="not made of operations"):
        found.run.subject.keeping([1])
