"""Plans: which run has which target and seed depends on the plan alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from explore_toys import HELD, LOST_UPDATE, held, lost_update, script
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.bugs import BUGS
from svm_actors.explore.campaign import fuzz
from svm_actors.explore.plan import Mix, Plan, mix_of, resolved, rotation
from svm_actors.explore.settings import Settings
from svm_actors.explore.targets import DEFAULT, UnknownTarget
from svm_actors.workload.formats import BadInput

PLAN = Plan((held, lost_update), "7", Settings("random"))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_a_rotation_gives_everyone_their_share(weights: list[int]) -> None:
    order = rotation(weights)
    assert Counter(order) == dict(enumerate(weights))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_a_rotation_spreads_the_shares(weights: list[int]) -> None:
    """At no point is anyone ahead of their share by a whole turn or more of everyone."""
    order, total = rotation(weights), sum(weights)
    for index, weight in enumerate(weights):
        for length in range(1, total + 1):
            seen = order[:length].count(index)
            assert abs(seen - weight * length / total) < len(weights)


def test_equal_weights_take_turns() -> None:
    assert rotation([1, 1, 1]) == [0, 1, 2]


def test_targets_go_round_and_seeds_name_campaign_target_and_number() -> None:
    mix = Mix(PLAN)
    assert [mix.target(number).name for number in range(4)] == ["explore_toys:held", "explore_toys:lost_update"] * 2
    assert mix.seed(3) == "7/explore_toys:lost_update/3"
    assert len({mix.seed(number) for number in range(50)}) == 50


def test_a_target_named_twice_is_there_once(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    assert len(Mix(attrs.evolve(PLAN, sources=(path, path))).targets) == 1


def test_the_story_of_a_planted_bug_has_a_share_of_the_mix() -> None:
    plan = Plan((DEFAULT,), "7", Settings("random"), ("VMB-R21",))
    names = Counter(Mix(plan).target(number).name for number in range(1000))
    plain = Counter(Mix(attrs.evolve(plan, bugs=())).target(number).name for number in range(1000))
    story = BUGS["VMB-R21"].story
    assert 150 < names[story] < 250 > 10 * plain[story]
    assert set(plain) <= set(names)
    assert len(Mix(attrs.evolve(plan, sources=("unmap",))).targets) == 1


def test_equal_plans_have_one_mix_and_one_key() -> None:
    assert mix_of(resolved(PLAN)) is mix_of(resolved(attrs.evolve(PLAN)))
    assert Mix(PLAN).key == Mix(PLAN).key == mix_of(resolved(PLAN)).key


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "8"},
        {"settings": Settings("fifo")},
        {"settings": Settings("random", race_timers=True)},
        {"settings": Settings("random", step_budget=9)},
        {"bugs": ("SVM-B50",)},
        {"sources": (held,)},
        {"sources": (lost_update, held)},
        {"stop_at_failure": True},
        {"check_every": 1},
    ],
)
def test_everything_that_changes_the_runs_changes_the_key(changes: dict[str, Any]) -> None:
    assert Mix(attrs.evolve(PLAN, **changes)).key != Mix(PLAN).key


def test_an_edited_script_changes_the_key(tmp_path: Path) -> None:
    keys = set()
    for text in (LOST_UPDATE, LOST_UPDATE + "# more\n"):
        keys.add(Mix(attrs.evolve(PLAN, sources=(script(tmp_path, text),))).key)
    assert len(keys) == 2


def test_a_script_that_changes_under_a_campaign_is_noticed(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    plan = resolved(attrs.evolve(PLAN, sources=(path,)))
    script(tmp_path, HELD)
    with pytest.raises(BadInput, match="expected the content the campaign began with"):
        mix_of(plan)


def test_a_script_that_changes_between_campaigns_is_read_again(tmp_path: Path) -> None:
    failing = "async def scenario(world):\n    assert False\n"
    assert [fuzz(script(tmp_path, text), executions=2).verdict for text in (failing, HELD)] == ["failed", "held"]


def test_unknown_sources_are_found_at_once() -> None:
    with pytest.raises(UnknownTarget):
        resolved(attrs.evolve(PLAN, sources=("nosuch",)))
