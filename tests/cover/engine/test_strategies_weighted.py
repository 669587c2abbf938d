"""URW, SURW and delay bounding: counts, intentions, interesting resources, delays."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from engine_toys import gather, run_on
from strategy_tasks import X, Y, announce, task

from svm_actors.engine.engine import Engine
from svm_actors.engine.locks import Mutex
from svm_actors.explore.strategies import Delay, Profile, Surw, Urw
from svm_actors.explore.strategies.delay import first_in_turn
from svm_actors.explore.strategies.profile import Canonical, Counting, Remaining, Reversed, learn, weighted
from svm_actors.explore.strategies.surw import draw_interesting
from svm_actors.explore.toys import mailbox, run_toy, same

# -- profiles ------------------------------------------------------------------------------------


def test_a_profile_counts_ops_by_task_and_resource() -> None:
    counting = Counting(Canonical())
    run_toy(mailbox(2, 2, 1), counting)
    profile = counting.profile()
    client, server = "main/client.1", "main/server.0"
    assert (profile.ops[client], profile.ops[server]) == (4, 4)
    assert profile.touches[client, "queue"] == 2
    assert profile.touches[client, "local1"] == 2
    assert profile.touches[server, "queue"] == 4
    assert {"queue", "local0", "local1"} <= profile.written
    assert profile.locks == frozenset()
    assert profile.horizon == counting.contested > 0


async def branching(engine: Engine) -> None:
    """The second task is long only when it comes first; a lock besides."""
    first: list[int] = []
    mutex = Mutex(engine, "m", "m")

    async def body(index: int, extra: int) -> None:
        await engine.step("write", X)
        first.append(index)
        for _ in range(extra if first[0] == index else 0):
            await engine.step("write", Y)
        async with mutex:
            pass

    await gather(engine, lambda: body(0, 0), lambda: body(1, 5))


def test_a_profile_is_the_maximum_over_its_runs() -> None:
    """One run alone under-counts a task whose length depends on data."""

    def profile(random_runs: int) -> Profile:
        return learn(lambda chooser: run_on("direct", branching, chooser), random_runs)

    alone = Counting(Canonical())
    run_on("direct", branching, alone)
    assert ("main/b.0", "y") not in alone.profile().touches
    assert profile(9).touches["main/b.0", "y"] == 5
    assert profile(0).touches["main/b.0", "y"] == 5, "the reversed run is the other extreme"
    assert profile(9).locks == {"m"}


def test_the_reversed_run_takes_the_last_one() -> None:
    log: list[int] = []
    run_toy(same(3, 2, log), Reversed())
    assert log == [2, 2, 1, 1, 0, 0]
    run_toy(same(3, 2, log), Canonical())
    assert log == [0, 0, 1, 1, 2, 2]


def test_counts_go_by_creation_path_and_never_by_number() -> None:
    """The same spawns in the other order: each child finds its own count under another number."""
    counts = {"t1": 2, "t1/child.0": 10, "t2": 1, "t2/child.0": 3}
    for order in ((1, 2), (2, 1)):
        left = Remaining(counts)
        parents = {number: task(number) for number in (1, 2)}
        children = {which: task(10 + place, parent=parents[which]) for place, which in enumerate(order)}
        assert [left.of(parents[number]) for number in (1, 2)] == [12, 4]
        assert [left.of(children[number]) for number in (1, 2)] == [10, 3]
        assert [left.of(parents[number]) for number in (1, 2)] == [2, 1]


def test_a_grandchild_counts_for_its_grandparent_until_it_is_there() -> None:
    left = Remaining({"t1": 1, "t1/child.0": 2, "t1/child.0/child.0": 4})
    parent = task(1)
    child = task(2, parent=parent)
    grandchild = task(3, parent=child)
    assert left.of(parent) == 7
    assert (left.of(child), left.of(parent)) == (6, 1)
    assert (left.of(grandchild), left.of(child), left.of(parent)) == (4, 2, 1)


def test_counts_never_go_below_zero_and_strangers_have_none() -> None:
    left = Remaining({"t1": 1})
    known, stranger = task(1), task(2)
    for _ in range(3):
        left.done_one(known)
    assert (left.of(known), left.of(stranger)) == (0, 0)


def test_weighted_draws() -> None:
    assert [weighted([1, 0, 3], draw) for draw in (0.0, 0.24, 0.25, 0.999)] == [0, 0, 2, 2]
    assert weighted([2, 2], 1.0) == 1, "rounding up to one is the last"


# -- URW --------------------------------------------------------------------------------------------


def test_urw_chooses_in_proportion_to_what_is_left() -> None:
    strategy = Urw(0, Profile({"t1": 30, "t2": 10}))
    tasks = [task(1), task(2), task(3)]
    seen = Counter(strategy.schedule(None, tasks, False) for _ in range(4100))
    assert abs(seen[0] - 3000) < 120
    assert abs(seen[1] - 1000) < 120
    assert abs(seen[2] - 100) < 40, "an unknown task weighs 1"


def test_urw_counts_steps_without_a_choice() -> None:
    """What ran alone is done as well: afterwards both have as much left."""
    strategy = Urw(0, Profile({"t1": 101, "t2": 1}))
    tasks = [task(1), task(2)]
    for _ in range(100):
        strategy.ran(tasks[0])
    seen = Counter(strategy.schedule(None, tasks, False) for _ in range(1000))
    assert abs(seen[0] - 500) < 4 * 16


# -- SURW -------------------------------------------------------------------------------------------


def shared(*counts: tuple[str, str, int], written: str = "xy", locks: str = "") -> Profile:
    touches = {(path, name): count for path, name, count in counts}
    return Profile({path: 1 for path, _ in touches}, touches, frozenset(written), frozenset(locks))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        pytest.param(Profile(), set(), id="nothing known"),
        pytest.param(shared(("a", "x", 5), ("b", "y", 5)), set(), id="nothing shared"),
        pytest.param(shared(("a", "x", 1), ("b", "x", 1)), {"x"}, id="one shared"),
        pytest.param(shared(("a", "x", 1), ("b", "x", 1), written=""), set(), id="only read"),
        pytest.param(shared(("a", "x", 1), ("b", "x", 1), ("a", "y", 1), ("b", "y", 3)), {"x", "y"}, id="either"),
        pytest.param(
            shared(("a", "x", 1), ("b", "x", 1), ("a", "y", 1), ("b", "y", 3), locks="y"), {"x"}, id="no locks"
        ),
        pytest.param(shared(("a", "y", 1), ("b", "y", 3), locks="y"), set(), id="nothing but locks"),
        pytest.param(
            shared(*((who, "x", 1) for who in "abcdef"), ("a", "y", 9), ("b", "y", 9)), {"x"}, id="half of the tasks"
        ),
        pytest.param(
            shared(*((who, who, 1) for who in "abcdefgh"), ("a", "y", 9), ("b", "y", 9), written="abcdefghy"),
            {"y"},
            id="two when no half",
        ),
    ],
)
def test_what_is_interesting(profile: Profile, expected: set[str]) -> None:
    drawn = [draw_interesting(profile, Random(f"draw/{seed}")) for seed in range(60)]
    assert set().union(*drawn) == expected
    assert all(len(each) == min(1, len(expected)) for each in drawn)


def test_a_lock_is_interesting_where_that_is_asked_for() -> None:
    profile = shared(("a", "x", 9), ("b", "x", 9), ("a", "y", 1), locks="y")
    assert draw_interesting(profile, Random("draw/0"), locks=True) == {"y"}


def test_interesting_resources_are_drawn_by_how_often_they_are_touched() -> None:
    profile = shared(("a", "x", 1), ("b", "x", 1), ("a", "y", 3), ("b", "y", 3))
    seen = Counter(min(draw_interesting(profile, Random(f"draw/{seed}"))) for seed in range(2000))
    assert abs(seen["y"] - 1500) < 4 * 20


def surw(counts: dict[str, int], seed: int = 0, **options: Any) -> Surw:
    touches = {(path, "x"): count for path, count in counts.items()}
    return Surw(seed, Profile(dict(counts), touches), interesting=frozenset("x"), **options)


@pytest.mark.parametrize("base", ["rp", "random"])
def test_interesting_ops_go_by_what_is_left(base: Any) -> None:
    seen = Counter(
        surw({"t1": 3, "t2": 1}, seed, base=base).schedule(None, [task(1), task(2)], False) for seed in range(2000)
    )
    assert abs(seen[0] - 1500) < 4 * 20


def test_whoever_is_out_of_turn_waits_for_the_intended_one() -> None:
    """The intended task has two ops to do before its interesting one; the other one is held back."""
    strategy = surw({"t1": 1, "t2": 1000}, base="random")
    out_of_turn, intended = task(1), task(2, "write", Y)
    strategy._intended = intended
    for _ in range(20):
        assert strategy.schedule(None, [out_of_turn, intended], False) == 1
        strategy.ran(intended)
    announce(intended)
    assert strategy.schedule(None, [out_of_turn, intended], False) == 1
    strategy.ran(intended)
    assert strategy._intended is None
    assert not strategy._blocked


def test_when_all_are_held_back_the_intention_is_forgotten() -> None:
    """The intended task has blocked in the meantime: somebody else may go on all the same."""
    strategy = surw({"t1": 1, "t2": 1})
    strategy._intended = task(9)
    assert strategy.schedule(None, [task(1), task(2)], False) in (0, 1)
    assert strategy._intended is not None
    assert strategy._intended.number in (1, 2)


def test_a_child_may_inherit_the_intention() -> None:
    """With three of the parent's four interesting ops it does so in three of four runs."""
    inherited = 0
    for seed in range(1000):
        strategy = surw({"t1": 1, "t1/child.0": 3}, seed)
        parent = task(1, "write", Y)
        strategy.schedule(None, [parent, task(2, "write", Y)], False)
        strategy._intended = parent
        child = task(3, parent=parent)
        strategy._meet([child])
        inherited += strategy._intended is child
    assert abs(inherited - 750) < 4 * 14


def test_reading_tasks_and_local_ops_are_not_held_back() -> None:
    strategy = surw({"t1": 1, "t2": 1})
    strategy._intended = task(9)
    assert strategy.schedule(None, [task(1), task(2, "local", None)], False) in (0, 1)
    assert 2 not in strategy._blocked


def test_without_anything_interesting_the_base_rule_decides() -> None:
    seen = Counter(Surw(seed).schedule(None, [task(1), task(2)], False) for seed in range(400))
    assert abs(seen[0] - 200) < 4 * 10


def test_the_timer_is_never_held_back() -> None:
    strategy = surw({"t1": 1})
    strategy._intended = task(9)
    assert {strategy.schedule(None, [task(1)], True) for _ in range(50)} == {1}


# -- delay bounding ------------------------------------------------------------------------------------


def test_candidates_in_cyclic_order_of_creation() -> None:
    tasks = [task(2), task(4), task(6)]
    assert [first_in_turn(task(number), tasks) for number in range(1, 8)] == [0, 0, 1, 1, 2, 2, 0]
    assert first_in_turn(None, tasks) == 0


def test_without_delays_it_is_round_robin_without_preemption() -> None:
    log: list[int] = []
    run_toy(same(3, 2, log), Delay(0, delays=0))
    assert log == [0, 0, 1, 1, 2, 2]


def test_delays_skip_candidates() -> None:
    """One at the first step, so task 1 begins; two at the third, when it is the turn of task 2."""
    log: list[int] = []
    strategy = Delay(0, delays=0)
    strategy.delays = Counter({1: 1, 3: 1})
    run_toy(same(3, 2, log), strategy)
    assert log == [1, 1, 0, 0, 2, 2]


def test_the_number_of_delays_is_any_up_to_the_bound() -> None:
    counts = Counter(Delay(seed, 3, 10).delays.total() for seed in range(2000))
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 400
    assert all(1 <= step <= 10 for seed in range(50) for step in Delay(seed, 3, 10).delays)
