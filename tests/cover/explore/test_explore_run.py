"""Runs: the same choices give the same run, on both back ends; tokens give it again."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from explore_toys import drawing, endless, held, lost_update, refused, stuck
from hypothesis import given, settings
from hypothesis import strategies as st

import svm_actors
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.run import Run, TokenMismatch, replay, run
from svm_actors.explore.settings import STEP_BUDGET, Settings, UnknownName
from svm_actors.explore.strategies import Fifo
from svm_actors.explore.subject import Subject, subject_of
from svm_actors.explore.token import TokenError, decode, encode
from svm_actors.world import Config, World

SCENARIOS = (held, lost_update, stuck, refused, drawing)


def facts(one: Run) -> dict[str, Any]:
    """Everything that two equal runs agree on."""
    found = {field.name: getattr(one, field.name) for field in attrs.fields(Run)}
    del found["elapsed"], found["backend"], found["subject"]
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", [0, 1, "text"])
def test_both_back_ends_give_the_same_run(scenario: Any, seed: Any) -> None:
    direct, hosted = (
        run(scenario, seed=seed, strategy="random", backend=backend, record=True) for backend in ("direct", "trio")
    )
    assert direct.trace == hosted.trace
    assert facts(direct) == facts(hosted)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SCENARIOS))
def test_the_same_seed_gives_the_same_run(seed: int, scenario: Any) -> None:
    one, other = (run(scenario, seed=seed, strategy="random", backend="direct", record=True) for _ in range(2))
    assert facts(one) == facts(other)


def test_seeds_differ() -> None:
    digests = {run(held, seed=seed, strategy="random", backend="direct").trace_digest for seed in range(20)}
    assert len(digests) > 15


def test_a_seed_is_its_text() -> None:
    assert facts(run(held, seed=7, strategy="random")) == facts(run(held, seed="7", strategy="random"))


def test_recording_changes_nothing_and_digesting_is_the_same_digest() -> None:
    plain, recorded = (run(held, strategy="random", backend="direct", record=record) for record in (False, True))
    assert plain.trace is None
    assert recorded.trace is not None
    assert len(recorded.trace) == recorded.steps
    assert plain.trace_digest == recorded.trace_digest
    assert run(held, strategy="random", backend="direct", digest=False).trace_digest == ""


def test_a_failed_property_is_a_result() -> None:
    one = run(refused)
    assert not one.ok
    assert one.failure is not None
    assert one.strategy == "fifo"


def test_leaks_are_found_when_the_world_is_closed() -> None:
    async def leaks(world: World) -> None:
        process = world.process()
        await process.write(await process.mmap(4096), b"x")
        world.processes.clear()

    one = run(leaks, backend="direct")
    assert one.failure is not None
    assert one.failure.rule == "INV-34"


# -- tokens ------------------------------------------------------------------------------


def failing() -> Run:
    return next(
        one
        for one in (run(lost_update, seed=seed, strategy="random", backend="direct") for seed in range(50))
        if not one.ok
    )


@pytest.mark.parametrize("backend", ["direct", "trio"])
def test_a_token_gives_the_same_failure_again(backend: Any) -> None:
    one = failing()
    again = replay(lost_update, one.token, backend=backend)
    assert facts(again) == facts(one)
    assert again.token == one.token, "and the same token"


def test_a_token_of_a_run_that_held_replays_too() -> None:
    one = run(held, seed=3, strategy="random")
    assert facts(replay(held, one.token)) == facts(one)


def test_data_choices_ride_in_the_token() -> None:
    one = next(one for one in (run(drawing, seed=seed, strategy="random") for seed in range(60)) if not one.ok)
    again = replay(drawing, one.token)
    assert again.failure == one.failure
    assert 3 in again.tape


def test_settings_that_change_the_choices_ride_in_the_token() -> None:
    one = run(endless, strategy="random", seed=1, step_budget=70, race_timers=True)
    assert one.failure is not None
    assert one.failure.kind == "budget"
    assert decode(one.token).strategy == "random race_timers step_budget=70"
    assert facts(replay(endless, one.token)) == facts(one)


def test_bugs_ride_in_the_token() -> None:
    one = run(held, strategy="random", bugs=["SVM-B50"], seed=2, backend="direct")
    assert decode(one.token).bugs == ("SVM-B50",)
    assert replay(held, one.token).bugs == ("SVM-B50",)


def _changed(token: str, **changes: Any) -> str:
    known = decode(token)
    return encode(type(known)(**{**{name: getattr(known, name) for name in known.__struct_fields__}, **changes}))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"package": "0.0.7"}, ["svm-actors 0.0.7", svm_actors.__version__]),
        ({"scenario": "ab" * 16}, ["ab" * 16, subject_of(lost_update).digest]),
        ({"config": "cd" * 16}, ["cd" * 16, subject_of(lost_update).config_digest]),
    ],
)
def test_a_token_of_something_else_is_refused_and_both_are_named(changes: dict[str, str], names: list[str]) -> None:
    token = _changed(failing().token, **changes)
    with pytest.raises(TokenMismatch) as caught:
        replay(lost_update, token)
    assert all(name in str(caught.value) for name in names)


def test_another_machine_is_another_machine() -> None:
    one = run(held, config=Config(vram_pages=8))
    with pytest.raises(TokenMismatch, match="machine configuration"):
        replay(held, one.token)
    assert replay(held, one.token, config=Config(vram_pages=8)).ok


def test_choices_that_do_not_fit_end_the_replay() -> None:
    known = decode(failing().token)
    cut = _changed(encode(known), choices=known.choices[:-2], arities=known.arities[:-2])
    failure = replay(lost_update, cut).failure
    assert failure is not None
    assert failure.rule == "ReplayMismatch"
    longer = _changed(encode(known), choices=(*known.choices, 0), arities=(*known.arities, 2))
    assert replay(lost_update, longer).failure is not None


def test_a_run_that_ends_before_its_choices_do_has_drifted() -> None:
    one = run(held, strategy="random")
    known = decode(one.token)
    longer = _changed(one.token, choices=(*known.choices, 0), arities=(*known.arities, 2))
    failure = replay(held, longer).failure
    assert failure is not None
    assert failure.rule == "ReplayMismatch"


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(TokenError, match="race_timers or step_budget=N"):
        replay(lost_update, _changed(failing().token, strategy="random warp=9"))


@given(st.sampled_from(["fifo", "random"]), st.booleans(), st.integers(1, 10**9) | st.just(STEP_BUDGET))
def test_settings_survive_their_text(strategy: str, timers: bool, budget: int) -> None:
    found = Settings(strategy, timers, budget)
    assert Settings.parse(str(found)) == found


# -- misuse ------------------------------------------------------------------------------


def test_unknown_names_are_told_apart_from_failures() -> None:
    with pytest.raises(UnknownName, match=r"unknown strategy 'psychic'; known: .*fifo.*random"):
        run(held, strategy="psychic")
    with pytest.raises(UnknownName, match="did you mean SVM-B50"):
        run(held, bugs=["svm-b50"])
    with pytest.raises(UnknownName, match="lists them"):
        run(held, bugs=["?"])
    with pytest.raises(ValueError, match="unknown back end 'fibers'; known: trio, direct"):
        run(held, backend="fibers")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("thing", "got"),
    [
        (3, "a value of type int"),
        (lambda world: None, "`def <lambda>`, without `async`"),
    ],
)
def test_what_is_not_a_scenario_is_refused(thing: Any, got: str) -> None:
    with pytest.raises(TypeError) as caught:
        run(thing)
    assert got in str(caught.value)


def test_a_scenario_takes_one_world() -> None:
    async def none_at_all() -> None: ...

    with pytest.raises(TypeError, match=r"got `none_at_all\(\)"):
        run(none_at_all)  # type: ignore[arg-type]


def test_a_callable_object_that_is_no_coroutine_function_fails_its_run() -> None:
    class Thing:
        def __call__(self, world: World) -> int:
            return 3

    failure = run(Thing()).failure  # type: ignore[arg-type]
    assert failure is not None
    assert "it returned int" in failure.message


def test_inside_trio_the_other_ways_are_named() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="open_world"):
            run(held)
        assert run(held, backend="direct").ok

    trio.run(main)


@pytest.mark.parametrize("backend", ["direct", "trio"])
def test_the_users_interrupt_is_not_a_failure(backend: Any) -> None:
    async def interrupted(world: World) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, backend=backend)


def test_a_chooser_of_the_callers_is_used() -> None:
    class Noting(Fifo):
        name = "noting"
        asked = 0

        def schedule(self, running: Any, candidates: Any, timer: bool) -> int:
            self.asked += 1
            return super().schedule(running, candidates, timer)

    chooser = Noting()
    one = run(held, chooser=chooser)
    assert chooser.asked == len(one.tape) > 0
    assert one.strategy == "noting"
    assert one.tape == run(held).tape


def test_names_and_digests_of_functions() -> None:
    subject = subject_of(held)
    assert subject.name == "explore_toys:held"
    assert subject.digest != subject_of(lost_update).digest
    assert subject_of(held, name="mine").name == "mine"
    assert subject_of(Subject(held, "n", "00" * 8), Config(gpus=3)).config.gpus == 3
    assert run(held, name="mine").subject.name == "mine"


def test_public_names_are_there() -> None:
    for name in svm_actors.__all__:
        assert getattr(svm_actors, name) is not None
    assert dir(svm_actors) == sorted(svm_actors.__all__)
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        svm_actors.explode  # noqa: B018


def test_the_error_of_an_oracle_keeps_its_text() -> None:
    async def broken(world: World) -> None:
        raise PropertyFailed("o", "INV-01", "first\nsecond")

    failure = run(broken).failure
    assert failure is not None
    assert failure.message == "first\nsecond"
