"""The built-in mix: what it offers, that its names last, and that every part of it holds."""

from __future__ import annotations

from collections import Counter

import pytest

from svm_actors.explore.run import run
from svm_actors.workload.builtin import Target, builtin_targets, demo_windows
from svm_actors.workload.demo import STRACES
from svm_actors.workload.stories import STORIES
from svm_actors.workload.witnesses import all_witnesses

TARGETS = builtin_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
IN_THE_MIX = [target for target in TARGETS if target.weight]
in_the_mix = pytest.mark.parametrize("target", IN_THE_MIX, ids=lambda target: target.name)
"""Witnesses are not in the mix; that they hold is a part of the tests of planted bugs."""


def test_names_are_stable() -> None:
    """Replay lines carry them; a new one is welcome, a vanished one breaks what people have written down."""
    assert {target.name for target in TARGETS} >= {
        "strace-demo",
        "random",
        "random-small",
        "random-tight",
        "random-wide",
        "bind",
        "svm-and-bind",
        "fault-bind",
        "mirror",
        "mirror-threads",
        "random-faults",
        "random-wide-faults",
        "mirror-faults",
        "bind-faults",
        "svm-and-bind-faults",
        "fault-bind-faults",
        "unmap",
        "dontneed",
        "cpu-write",
        "fork",
        "mremap",
        "eviction",
        "mremap-eviction",
        "fork-eviction",
        "bind-userptr",
        "bind-queues",
        "bind-shared",
    }
    assert len({target.name for target in TARGETS}) == len(TARGETS)


@each_target
def test_every_target_says_what_it_is(target: Target) -> None:
    assert target.summary
    assert target.weight > 0 or target.name in all_witnesses()
    assert target.name == target.name.strip().lower()


def test_the_demo_family_goes_through_all_demos() -> None:
    files = Counter(window.program.file for window in demo_windows())
    assert len(files) == len(STRACES)
    assert sum(files.values()) == len(demo_windows())


def test_stories_are_small() -> None:
    """A story is one race: few actors, few pages, so that a failure can be read."""
    for story in STORIES.values():
        program = story.program
        threads = sum(len(entry.threads) for entry in program.processes)
        assert threads + len(program.streams) + len(program.driver) <= 5, story.name
        assert story.races, story.name


@in_the_mix
def test_the_correct_model_holds(target: Target) -> None:
    for index in range(12):
        result = run(
            target.make_scenario(index),
            strategy="random",
            seed=f"hold {index}",
            config=target.config,
            backend="direct",
            digest=False,
            step_budget=300_000,
        )
        assert result.failure is None, f"{target.name} {index}"


@each_target
def test_the_plainest_schedule_works(target: Target) -> None:
    result = run(target.make_scenario(0), config=target.config, backend="direct", digest=False)
    assert result.failure is None


@pytest.mark.parametrize("name", sorted(STORIES))
def test_stories_reach_their_windows(name: str) -> None:
    """At least one of the races a story is about really happens within a few schedules."""
    story = STORIES[name]
    target = next(target for target in TARGETS if target.name == name)
    counters: Counter[str] = Counter()
    for seed in range(120):
        result = run(target.make_scenario(0), strategy="random", seed=seed, backend="direct", digest=False)
        counters.update(result.counters)
        if any(counters[race] for race in story.races):
            return
    pytest.fail(f"none of {', '.join(story.races)} in 120 schedules; seen: {sorted(counters)}")
