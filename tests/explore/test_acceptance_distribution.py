"""Which of the 90 interleavings of same(3,2) each strategy makes, and how often (exploration digest, 2.2)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.strategies import Pct, Pos, RandomPriority, RandomWalk, Surw, Urw
from svm_actors.explore.strategies.profile import learn
from svm_actors.explore.toys import run_toy, same

RUNS = 9000
TABLED = 45_000
"""Runs that the digest's figures are for."""
ALL = sorted(set(itertools.permutations((0, 0, 1, 1, 2, 2))))
PROFILE = learn(lambda chooser: run_toy(same(3, 2), chooser))


def sample(maker: Callable[[int], Chooser], runs: int = RUNS) -> Counter[tuple[int, ...]]:
    """How often each interleaving came up."""
    log: list[int] = []
    toy = same(3, 2, log)
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        assert run_toy(toy, maker(seed)) is None
        seen[tuple(log)] += 1
    return seen


def walk_share(interleaving: tuple[int, ...]) -> float:
    """Probability of an interleaving under uniform choice among the tasks not yet done."""
    share = 1.0
    left = [2, 2, 2]
    for task in interleaving:
        share /= sum(count > 0 for count in left)
        left[task] -= 1
    return share


def uniform_share(_: tuple[int, ...]) -> float:
    return 1 / 90


def chi_square(seen: Counter[tuple[int, ...]], share: Callable[[tuple[int, ...]], float]) -> float:
    """Distance from the expected shares; about 89 with a standard deviation of 13.3 when they are right."""
    runs = seen.total()
    return sum((seen[each] - runs * share(each)) ** 2 / (runs * share(each)) for each in ALL)


def test_the_expected_extremes_are_those_of_the_digest() -> None:
    shares = [walk_share(each) for each in ALL]
    assert len(ALL) == 90
    assert (TABLED * max(shares), round(TABLED * min(shares), 1)) == (1250, 277.8)
    assert math.isclose(sum(shares), 1)


@pytest.mark.parametrize(
    ("maker", "share"),
    [
        pytest.param(RandomWalk, walk_share, id="RW"),
        pytest.param(Pos, walk_share, id="POS"),
        pytest.param(lambda seed: Urw(seed, PROFILE), uniform_share, id="URW"),
        pytest.param(lambda seed: Surw(seed, PROFILE), uniform_share, id="SURW"),
    ],
)
def test_shares(maker: Callable[[int], Chooser], share: Callable[[tuple[int, ...]], float]) -> None:
    seen = sample(maker)
    assert len(seen) == 90
    assert chi_square(seen, share) < 89 + 4 * 13.3


def test_the_chi_square_can_tell_a_walk_from_a_uniform_choice() -> None:
    assert chi_square(sample(RandomWalk), uniform_share) > 500


def test_random_priority_reaches_all_but_is_lopsided() -> None:
    seen = sample(RandomPriority)
    expected = RUNS * 3016 / TABLED
    assert len(seen) == 90
    assert abs(max(seen.values()) - expected) < 4 * math.sqrt(expected) + 4 * math.sqrt(3016) * RUNS / TABLED
    assert min(seen.values()) < RUNS * 110 / TABLED


# -- PCT, by enumeration of its own draws ----------------------------------------------------


class Dealt(Pct):
    """PCT with its draws given: ranks of the tasks in order of appearance, and the changes."""

    def __init__(self, ranks: tuple[int, ...], changes: tuple[int, ...]) -> None:
        super().__init__(0, 1)
        self.changes = {step: low for low, step in enumerate(changes, 1)}
        self._ranks: Iterator[int] = iter(ranks)

    def draw_priority(self) -> float:
        return float(next(self._ranks))


def reachable(horizon: int, depth: int) -> Counter[tuple[int, ...]]:
    """Every combination of draws once, by the interleaving it leads to."""
    log: list[int] = []
    toy = same(3, 2, log)
    seen: Counter[tuple[int, ...]] = Counter()
    changes = min(depth - 1, horizon)
    for ranks in itertools.permutations(range(3)):
        for steps in itertools.permutations(range(1, horizon + 1), changes):
            assert run_toy(toy, Dealt(ranks, steps)) is None
            seen[tuple(log)] += 1
    return seen


PCT_TABLE = {
    4: [(6, 7500, 7500), (18, 3750, 1875), (36, 2500, 625), (72, 1250, 312.5), (60, 1250, 312.5), (60, 1250, 312.5)],
    5: [(6, 7500, 7500), (18, 4500, 1500), (48, 3000, 375), (84, 2000, 125), (90, 1250, 62.5), (72, 1250, 250)],
    6: [(6, 7500, 7500), (18, 5000, 1250), (48, 3500, 250), (84, 2500, 62.5), (90, 1667, 20.8), (90, 1250, 93.75)],
}


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("horizon", PCT_TABLE)
def test_pct_reaches_exactly_what_it_should(horizon: int, depth: int) -> None:
    seen = reachable(horizon, depth)
    most, least = (Fraction(count * TABLED, seen.total()) for count in (max(seen.values()), min(seen.values())))
    distinct, top, bottom = PCT_TABLE[horizon][depth - 1]
    assert len(seen) == distinct
    assert float(most) == pytest.approx(top, rel=3e-4)
    assert float(least) == pytest.approx(bottom, rel=3e-3)


def test_pct_draws_what_the_enumeration_deals() -> None:
    """The sampled strategy has the distribution of the enumerated one: draws are uniform."""
    dealt = reachable(4, 3)
    seen = sample(lambda seed: Pct(seed, 3, 4))
    assert set(seen) == set(dealt)
    expected = {each: RUNS * count / dealt.total() for each, count in dealt.items()}
    distance = sum((seen[each] - mean) ** 2 / mean for each, mean in expected.items())
    assert distance < 35 + 4 * math.sqrt(70)


def test_horizons() -> None:
    """The canonical run has four contested steps, the longest run five."""
    assert learn(lambda chooser: run_toy(same(3, 2), chooser), 0).horizon == 4
    assert PROFILE.horizon == 5
