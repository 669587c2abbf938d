"""The portfolio: which strategy a run uses, and why (exploration digest, section 1.2)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.explore.portfolio import EPOCH, FLOOR, LAG, Allocation, cost_in_steps
from svm_actors.explore.run import execute, learned, run
from svm_actors.explore.settings import Settings
from svm_actors.explore.strategies.portfolio import MEMBERS, member_of
from svm_actors.explore.strategies.profile import HORIZON_RUNS, Canonical, Counting
from svm_actors.explore.targets import subject_named
from svm_actors.world import World

SMALL = 8
"""An epoch short enough to look at."""


def booked(yields: dict[str, int], epochs: int, epoch: int = EPOCH, seed: int = 0) -> Allocation:
    """After so many epochs in which a run of each member adds so many features per 1000 ops."""
    allocation = Allocation(seed, epoch=epoch)
    for number in range(epochs * epoch):
        member = allocation.strategy_of(number)
        allocation.book(number, member, yields.get(member, 0), 1000)
    return allocation


def test_members_start_equal() -> None:
    allocation = Allocation()
    for epoch in range(LAG):
        names = [allocation.strategy_of(epoch * EPOCH + place) for place in range(EPOCH)]
        assert Counter(names) == dict.fromkeys(MEMBERS, EPOCH // len(MEMBERS))


def test_targets_that_take_turns_see_all_members() -> None:
    """With as many targets as members, none of them gets one member alone."""
    allocation = Allocation()
    for target in range(len(MEMBERS)):
        names = {allocation.strategy_of(number) for number in range(target, EPOCH, len(MEMBERS))}
        assert names == set(MEMBERS)


def test_runs_go_where_new_coverage_is() -> None:
    shares = booked({"pos": 30, "random": 5}, 4).shares(4)
    assert sum(shares.values()) == EPOCH
    assert shares["pos"] > shares["random"] > shares["fair_pct"] == shares["surw"]
    assert min(shares.values()) >= int(FLOOR * EPOCH)


def test_what_was_found_long_ago_counts_less() -> None:
    allocation = booked({"pos": 30}, 3, epoch=64)
    before = allocation.shares(4)["pos"]
    for number in range(3 * 64, 10 * 64):
        allocation.book(number, allocation.strategy_of(number), 0, 1000)
    assert allocation.shares(11)["pos"] < before


def test_a_costly_member_gets_fewer_runs() -> None:
    """The same features at three times the ops are worth a third."""
    allocation = Allocation()
    for number in range(2 * EPOCH):
        member = allocation.strategy_of(number)
        allocation.book(number, member, 1, cost_in_steps(member, 1000, profiled=True))
    shares = allocation.shares(2)
    assert shares["random"] == shares["pos"] > shares["fair_pct"] > shares["surw"]


def test_costs_count_the_profile() -> None:
    assert cost_in_steps("random", 100, profiled=True) == 100
    assert cost_in_steps("fair_pct", 100, profiled=True) == 400
    assert cost_in_steps("surw", 100, profiled=True) == 1100
    assert cost_in_steps("surw", 100, profiled=False) == 100


def test_an_epoch_waits_for_the_last_but_one() -> None:
    allocation = Allocation(epoch=SMALL)
    assert allocation.known == 2 * SMALL
    with pytest.raises(ValueError, match="run 16 is not decided yet: 0 runs are booked, 16 are dealt"):
        allocation.strategy_of(2 * SMALL)
    for number in range(SMALL):
        allocation.book(number, allocation.strategy_of(number), 0, 10)
    assert allocation.known == 3 * SMALL


def test_runs_are_booked_in_order_and_as_they_were_dealt() -> None:
    allocation = Allocation(epoch=SMALL)
    other = next(name for name in MEMBERS if name != allocation.strategy_of(0))
    with pytest.raises(ValueError, match="expected run 0 with"):
        allocation.book(1, allocation.strategy_of(1), 0, 10)
    with pytest.raises(ValueError, match="expected run 0 with"):
        allocation.book(0, other, 0, 10)


@pytest.mark.parametrize(("members", "epoch"), [((), 8), (("pos", "pos"), 8), (("pos", "fair_pct"), 1)])
def test_unusable_members(members: tuple[str, ...], epoch: int) -> None:
    with pytest.raises(ValueError, match="expected different members"):
        Allocation(0, members, epoch)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 99),
    results=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5000)), min_size=4 * SMALL, max_size=4 * SMALL),
    ahead=st.integers(0, 2 * SMALL),
)
def test_a_pure_function_of_seed_and_results(seed: int, results: list[tuple[int, int]], ahead: int) -> None:
    """However far ahead it is asked, and in whatever order: the same results deal the same runs."""
    one, other = Allocation(seed, epoch=SMALL), Allocation(seed, epoch=SMALL)
    dealt = []
    for number, (new, steps) in enumerate(results):
        one.strategy_of(min(number + ahead, one.known - 1))
        dealt.append(one.strategy_of(number))
        one.book(number, dealt[-1], new, steps)
    for number, (new, steps) in enumerate(results):
        other.book(number, dealt[number], new, steps)
    rest = range(len(results), one.known)
    backwards = {number: other.strategy_of(number) for number in reversed(rest)}
    assert {number: one.strategy_of(number) for number in rest} == backwards
    for epoch in range(6):
        assert sum(one.shares(epoch).values()) == SMALL


def test_the_seed_belongs_to_the_allocation() -> None:
    orders = [tuple(Allocation(seed).strategy_of(number) for number in range(32)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


# -- a single run ----------------------------------------------------------------------------


async def two_writers(world: World) -> None:
    process = world.process()
    addr = await process.mmap(2 * 4096)

    async def write(page: int) -> None:
        await process.write(addr + page * 4096, b"x")

    async with world.nursery() as nursery:
        nursery.start_soon(write, 0)
        nursery.start_soon(write, 1)


def test_a_single_run_has_the_member_its_seed_draws() -> None:
    for seed in range(12):
        one = run(two_writers, seed=seed, strategy="portfolio", backend="direct")
        same = run(two_writers, seed=seed, strategy=member_of(seed), backend="direct")
        assert one.ok
        assert one.tape == same.tape
    assert {member_of(seed) for seed in range(40)} == set(MEMBERS)


def test_a_horizon_covers_the_choices_of_a_run() -> None:
    """The canonical run of a program meets few choices; the change points of PCT must not all lie within them."""
    subject = subject_named("random@7")
    settings = Settings("pct", False, 100_000)
    canonical = Counting(Canonical())
    execute(subject, settings, canonical, "0", (), "direct", record=False, digest=False)
    assert learned(subject, settings, (), HORIZON_RUNS).horizon > 5 * canonical.contested
