"""A run whose coverage is taken is the same run: the oracles of a campaign see what those of a plain run see.

Coverage once put page tables of its own in place of the model's, which told nobody of their entries: in every
campaign the oracles of entries and of copies were deaf.
"""

from __future__ import annotations

from typing import Any

import pytest

from svm_actors.bugs import BUGS
from svm_actors.explore.run import Run, run
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import subject_named
from svm_actors.world import World

SEEDS = 2
STORIES = dict.fromkeys(bug.story for bug in BUGS.values())


def once(subject: Subject, seed: int, bugs: tuple[str, ...], coverage: bool) -> Run:
    return run(
        subject,
        seed=f"watched/{seed}",
        strategy="pos",
        bugs=bugs,
        backend="direct",
        step_budget=20_000,
        coverage=coverage,
    )


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_noticed_alike_with_coverage_and_without(bug: str) -> None:
    subject = subject_named(f"{BUGS[bug].story}@0")
    for seed in range(SEEDS):
        plain, watched = (once(subject, seed, (bug,), coverage) for coverage in (False, True))
        assert (plain.trace_digest, plain.failure) == (watched.trace_digest, watched.failure)


@pytest.mark.parametrize("story", STORIES)
def test_the_same_events_are_heard_with_coverage_and_without(story: str) -> None:
    subject = subject_named(f"{story}@0")
    heard: list[list[str]] = []
    for coverage in (False, True):
        events: list[str] = []

        async def listened(world: World, events: list[str] = events) -> None:
            def note(event: Any) -> None:
                events.append(type(event).__name__)

            world.engine.listeners.append(note)
            await subject.scenario(world)

        run(listened, config=subject.config, seed=1, strategy="pos", backend="direct", coverage=coverage)
        heard.append(events)
    assert heard[0] == heard[1]
