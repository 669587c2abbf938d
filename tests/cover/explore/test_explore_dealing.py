"""Shards, and who gets which strategy: a function of the plan and of results that are in."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import pytest
from explore_toys import held, lost_update
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.explore.campaign import fuzz
from svm_actors.explore.dealing import WHOLE, Dealer, Shard
from svm_actors.explore.plan import Plan, mix_of, resolved
from svm_actors.explore.portfolio import EPOCH, LAG, Allocation
from svm_actors.explore.settings import Settings
from svm_actors.explore.strategies.portfolio import MEMBERS
from svm_actors.explore.worker import RunRecord, Share

FIXED = resolved(Plan((held, lost_update), "3", Settings("pos")))
PORTFOLIO = resolved(Plan((held, lost_update), "3", Settings("portfolio")))


def record(number: int, strategy: str, new_features: int = 0) -> RunRecord:
    return RunRecord(number, "toy", "seed", strategy, "held", 100, "digest", "", new_features)


# -- shards --------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(0, 60))
def test_shards_share_out_every_run_once(count: int, executions: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    runs = [shard.number(position) for shard in shards for position in range(shard.size(executions))]
    assert sorted(runs) == list(range(executions))


@pytest.mark.parametrize(("text", "shard"), [("0/1", WHOLE), ("1/4", Shard(1, 4)), ("4/4", Shard(0, 4))])
def test_a_shard_is_written_i_of_n(text: str, shard: Shard) -> None:
    assert Shard.parse(text) == shard
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize("text", ["", "3", "1/0", "0/0", "5/4", "-1/4", "1/4/2", "a/b", "1 / 4"])
def test_other_text_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="expected a shard i/N"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Share((7,), ("pos",)), "run 7"),
        (Share((7, 8, 9), ("pos",) * 3), "runs 7 to 9"),
        (Share((1, 5, 9), ("pos",) * 3), "runs 1 to 9 in steps of 4"),
    ],
)
def test_a_share_says_which_runs_it_has(share: Share, words: str) -> None:
    assert str(share) == words
    assert [part.numbers[0] for part in share.singly()] == list(share.numbers)


# -- strategies ----------------------------------------------------------------------------


def test_one_strategy_is_dealt_without_end() -> None:
    dealer = Dealer(mix_of(FIXED), Shard(1, 3))
    assert dealer.epoch is None
    assert dealer.share(10**6, 2) == Share((3 * 10**6 + 1, 3 * 10**6 + 4), ("pos", "pos"))


def test_the_portfolio_is_dealt_as_far_as_it_is_decided() -> None:
    dealer = Dealer(mix_of(PORTFOLIO), WHOLE)
    ahead = LAG * EPOCH
    first = dealer.share(0, 10 * ahead)
    assert len(first) == ahead
    assert {first.strategies.count(member) for member in MEMBERS} == {ahead // len(MEMBERS)}
    assert len(dealer.share(ahead, 5)) == 0
    for number, strategy in zip(first.numbers[:EPOCH], first.strategies, strict=False):
        dealer.book(record(number, strategy, 9 if strategy == "fair_pct" else 0))
    more = dealer.share(ahead, 10 * ahead)
    assert len(more) == EPOCH
    assert max(MEMBERS, key=more.strategies.count) == "fair_pct", "who reaches what is new gets more runs"


def test_a_shard_decides_by_its_own_positions() -> None:
    dealers = [Dealer(mix_of(PORTFOLIO), Shard(index, 2)) for index in range(2)]
    shares = [dealer.share(0, 4) for dealer in dealers]
    assert [share.numbers for share in shares] == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert shares[0].strategies == shares[1].strategies


@pytest.mark.parametrize("wrong", [record(1, "pos"), record(0, "pct")])
def test_a_result_that_was_not_dealt_is_refused(wrong: RunRecord) -> None:
    with pytest.raises(ValueError, match="expected run 0 with pos"):
        Dealer(mix_of(FIXED), WHOLE).book(wrong)


def test_the_strategies_of_a_campaign_do_not_depend_on_how_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svm_actors.explore.dealing.Allocation", partial(Allocation, epoch=16))
    options: dict[str, Any] = {"executions": 100, "seed": 8}
    whole = fuzz(held, **options)
    fuzz(held, executions=23, seed=8, store="cut.db")
    resumed = fuzz(held, **options, store="cut.db", jobs=2)
    assert resumed.resumed == 23
    assert resumed.strategies == whole.strategies
    assert resumed.coverage == whole.coverage
    assert set(whole.strategies) == set(MEMBERS)
    assert sum(effort.new_features for effort in whole.strategies.values()) == len(whole.coverage)


# -- determinism checks --------------------------------------------------------------------


def test_one_run_of_every_thousand_is_checked_and_every_target_has_its_turn() -> None:
    mix = mix_of(resolved(attrs.evolve(FIXED, check_every=10)))
    checked = [number for number in range(400) if mix.checked(number)]
    assert [number // 10 for number in checked] == list(range(40))
    assert {mix.target(number).name for number in checked} == {target.name for target in mix.targets}
    assert Plan((held,), "0", Settings()).check_every == 1000


@pytest.mark.parametrize(("every", "expected"), [(1, 20), (0, 0)])
def test_all_runs_are_checked_or_none(every: int, expected: int) -> None:
    mix = mix_of(resolved(attrs.evolve(FIXED, check_every=every)))
    assert sum(mix.checked(number) for number in range(20)) == expected
