"""What determines a campaign: the plan, and the mix of targets it resolves to.

Run number i has a target, given by the weights, and a seed, made of the campaign's seed, the
target's name and i.  Its strategy is the plan's, or, under the portfolio, one that the results of
earlier runs decide (:mod:`svm_actors.explore.dealing`).  Nothing else goes into it, so results do not
depend on how many processes share the work or in which order they get it.

Every so many runs one is made twice more and its whole traces are compared: a model that is not
deterministic must not go unnoticed until somebody replays a token.
"""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from typing import Final

import attrs

from svm_actors import __version__
from svm_actors.bugs import BUGS
from svm_actors.explore.determinism import digest
from svm_actors.explore.settings import Settings
from svm_actors.explore.subject import Scenario, Subject
from svm_actors.explore.targets import DEFAULT, Target, resolve, subject_target
from svm_actors.workload.formats import BadInput

Source = str | Scenario | Subject
"""A target's name, or a coroutine function of the library's user."""

STORIES_SHARE: Final = 4
"""With bugs planted, their stories get one run for so many of the rest of the built-in mix."""
CHECK_EVERY: Final = 1000
"""Of so many runs one is made again to see whether its trace is the same."""


class VersionMismatch(RuntimeError):
    """A process with another version was given a part of the campaign; one line that names both sides."""


@attrs.frozen
class Plan:
    """Everything that determines a campaign's runs; plain data that crosses process borders."""

    sources: tuple[Source, ...]
    """What to run."""
    seed: str
    """Seed of the campaign, as text."""
    settings: Settings
    """How choices are made."""
    bugs: tuple[str, ...] = ()
    """Deviations planted in every run."""
    stop_at_failure: bool = False
    """End the campaign with the first failing run; one that only spends its step budget is not."""
    check_every: int = CHECK_EVERY
    """Of so many runs one is made again, and the whole traces compared; 1: all, 0: none."""
    key: str = ""
    """Key of the mix it stands for, once that was resolved."""
    package: str = __version__
    """Version that made the plan; another one would make other runs of it."""


class Mix:
    """A plan's targets in the order of its runs."""

    def __init__(self, plan: Plan) -> None:
        found: dict[str, Target] = {}
        for source in plan.sources:
            for target in resolve(source) if isinstance(source, str) else [subject_target(source)]:
                found.setdefault(target.name, target)
        if DEFAULT in plan.sources and plan.bugs:
            add_stories(found, plan.bugs)
        self.plan = plan
        self.targets = list(found.values())
        self._round = rotation([target.weight for target in self.targets])

    def target(self, number: int) -> Target:
        """The target of a run."""
        return self.targets[self._round[number % len(self._round)]]

    def seed(self, number: int) -> str:
        """The seed of a run."""
        return f"{self.plan.seed}/{self.target(number).name}/{number}"

    def checked(self, number: int) -> bool:
        """Whether a run is made again: one of every ``check_every``, at a place that the seed decides.

        A fixed place would always fall to the same target of the mix.
        """
        every = self.plan.check_every
        if every <= 1:
            return every == 1
        block, place = divmod(number, every)
        return place == int(digest(f"{self.plan.seed}/check/{block}".encode())[:12], 16) % every

    @property
    def key(self) -> str:
        """Hex digest of all that determines the runs; equal keys, equal runs."""
        plan = self.plan
        subjects = [target.subject(0) for target in self.targets]
        targets = [
            (target.name, target.weight, subject.digest, subject.config_digest)
            for target, subject in zip(self.targets, subjects, strict=True)
        ]
        parts = (plan.seed, str(plan.settings), plan.bugs, plan.stop_at_failure, plan.check_every, targets)
        return digest(repr(parts).encode())

    def subject(self, number: int) -> Subject:
        """What a run runs."""
        return self.target(number).subject(number)


def add_stories(mix: dict[str, Target], bugs: tuple[str, ...]) -> None:
    """Give the stories of planted bugs a share of the mix, so that what only a witness shows is found, too."""
    stories = dict.fromkeys(BUGS[bug].story for bug in bugs)
    weight = max(1, sum(target.weight for target in mix.values()) // (STORIES_SHARE * len(stories)))
    for story in stories:
        (target,) = resolve(story)
        mix[story] = attrs.evolve(target, weight=weight)


def resolved(plan: Plan) -> Plan:
    """The plan with the key of what its sources are now.  Raises UnknownTarget, BadInput or TypeError."""
    return attrs.evolve(plan, key=Mix(plan).key)


@lru_cache(maxsize=4)
def mix_of(plan: Plan) -> Mix:
    """The mix of a resolved plan, made once per process.

    BadInput when a file is not any more what it was when the plan was resolved, VersionMismatch when
    another version made the plan.
    """
    if plan.package != __version__:
        raise VersionMismatch(
            f"the campaign was planned by svm-actors {plan.package}, but process {os.getpid()} on "
            f"{platform.node()} has {__version__}; give every worker the same version"
        )
    mix = Mix(plan)
    if mix.key != plan.key:
        names = " ".join(target.name for target in mix.targets)
        raise BadInput(names, 0, "the content the campaign began with", "other content")
    return mix


def rotation(weights: list[int]) -> list[int]:
    """Indexes in proportion to their weights, spread as evenly as they go (smooth weighted round robin)."""
    total = sum(weights)
    credit = [0] * len(weights)
    order = []
    for _ in range(total):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = max(range(len(weights)), key=credit.__getitem__)
        credit[chosen] -= total
        order.append(chosen)
    return order
