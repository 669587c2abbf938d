"""Sets of ww mutexes in any order: everybody gets through, the oldest never gives way (INV-FEN-05)."""

from __future__ import annotations

import pytest
from engine_toys import run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from ww_toys import WAIT_DIE, WOUND_WAIT, Held, Program, every_schedule, lockers

from svm_actors.engine.errors import Deadlock, PropertyFailed
from svm_actors.engine.ww_mutex import WwClass, WwMutex
from svm_actors.explore.strategies import make

BOTH = pytest.mark.parametrize("ww_class", [WAIT_DIE, WOUND_WAIT], ids=lambda ww_class: ww_class.algorithm)


def checked(log: list[Held], orders: list[str]) -> None:
    """Everybody got exactly its set, and the oldest at the first try."""
    assert sorted(held.who for held in log) == list(range(len(orders)))
    for held in log:
        assert sorted(held.locks) == sorted(orders[held.who])
    assert next(held.deaths for held in log if held.who == 0) == 0


@BOTH
@pytest.mark.parametrize(
    "orders", [["xy", "yx"], ["yx", "xy"], ["xyz", "zx"], ["x", "xy", "yx"]], ids=lambda orders: "_".join(orders)
)
def test_every_interleaving_of_a_few(ww_class: WwClass, orders: list[str]) -> None:
    deaths: set[tuple[int, ...]] = set()
    log: list[Held] = []
    for _ in every_schedule(lockers(ww_class, orders, log), limit=30_000):
        checked(log, orders)
        deaths.add(tuple(held.deaths for held in sorted(log, key=lambda held: held.who)))
        log.clear()
    assert len(deaths) > 1, "nobody ever had to back off"


@BOTH
def test_a_ring_of_five_threads_on_many_schedules(ww_class: WwClass) -> None:
    """Each holds one lock and wants the next one's: with plain mutexes almost every schedule deadlocks."""
    orders = ["ab", "bc", "cd", "de", "ea"]
    deaths = 0
    for seed in range(150):
        log: list[Held] = []
        outcome = run_on("direct", lockers(ww_class, orders, log), make("random", seed))
        assert outcome.error is None, f"seed {seed}: {outcome.error}"
        checked(log, orders)
        deaths += sum(held.deaths for held in log)
    assert deaths > 50


@settings(max_examples=80, deadline=None)
@given(
    orders=st.lists(st.permutations("abcd").flatmap(lambda p: st.integers(1, 4).map(lambda n: "".join(p[:n]))),
                    min_size=2, max_size=5),
    ww_class=st.sampled_from([WAIT_DIE, WOUND_WAIT]),
    seed=st.integers(0, 1 << 20),
)  # fmt: skip
def test_any_sets_in_any_order(orders: list[str], ww_class: WwClass, seed: int) -> None:
    log: list[Held] = []
    outcome = run_on("direct", lockers(ww_class, orders, log), make("random", seed))
    assert outcome.error is None, outcome.error
    checked(log, orders)


@BOTH
def test_both_back_ends_agree(ww_class: WwClass) -> None:
    def facts(backend: str) -> object:
        log: list[Held] = []
        outcome = run_on(backend, lockers(ww_class, ["abc", "cba", "bca"], log), make("random", 7))
        return outcome.facts(), log

    assert facts("direct") == facts("trio")


def first_failure(program: Program) -> BaseException:
    for seed in range(50):
        outcome = run_on("direct", program, make("random", seed))
        if outcome.error is not None:
            return outcome.error
    raise AssertionError("nothing failed")


def test_if_nobody_dies_they_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """FEN-R12 with its guard taken out."""
    monkeypatch.setattr(WwMutex, "_must_die", lambda self, waiter: None)
    error = first_failure(lockers(WAIT_DIE, ["xy", "yx"], []))
    assert isinstance(error, Deadlock)
    assert "main/t0.0 -> main/t1.0 -> main/t0.0" in str(error)


def test_if_the_wrong_one_dies_it_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that sends the older one away."""

    def backwards(self, waiter):  # type: ignore[no-untyped-def]
        ctx, holder = waiter.ctx, self.context
        return holder if holder is not None and ctx.acquired and holder.younger_than(ctx) else None

    monkeypatch.setattr(WwMutex, "_must_die", backwards)
    error = first_failure(lockers(WAIT_DIE, ["xy", "yx"], []))
    assert isinstance(error, PropertyFailed)
    assert error.rule == "INV-FEN-05"
    assert "toy#1 dies on" in str(error)
