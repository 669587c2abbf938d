"""What determines a campaign: the plan, and the mix of targets it resolves to.

Run number i has a target, given by the weights, and a seed, made of the campaign's seed, the
target's name and i.  Nothing else goes into it, so results do not depend on how many processes
share the work or in which order they get it.
"""

from __future__ import annotations

from functools import lru_cache

import attrs

from svm_actors.explore.determinism import digest
from svm_actors.explore.settings import Settings
from svm_actors.explore.subject import Scenario, Subject
from svm_actors.explore.targets import Target, resolve, subject_target
from svm_actors.workload.formats import BadInput

Source = str | Scenario | Subject
"""A target's name, or a coroutine function of the library's user."""


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
    """End the campaign with the first failing run."""
    check_determinism: bool = False
    """Make every run twice and compare the whole traces."""
    key: str = ""
    """Key of the mix it stands for, once that was resolved."""


class Mix:
    """A plan's targets in the order of its runs."""

    def __init__(self, plan: Plan) -> None:
        found: dict[str, Target] = {}
        for source in plan.sources:
            for target in resolve(source) if isinstance(source, str) else [subject_target(source)]:
                found.setdefault(target.name, target)
        self.plan = plan
        self.targets = list(found.values())
        self._round = rotation([target.weight for target in self.targets])

    def target(self, number: int) -> Target:
        """The target of a run."""
        return self.targets[self._round[number % len(self._round)]]

    def seed(self, number: int) -> str:
        """The seed of a run."""
        return f"{self.plan.seed}/{self.target(number).name}/{number}"

    @property
    def key(self) -> str:
        """Hex digest of all that determines the runs; equal keys, equal runs."""
        plan = self.plan
        subjects = [target.subject(0) for target in self.targets]
        targets = [
            (target.name, target.weight, subject.digest, subject.config_digest)
            for target, subject in zip(self.targets, subjects, strict=True)
        ]
        parts = (plan.seed, str(plan.settings), plan.bugs, plan.stop_at_failure, plan.check_determinism, targets)
        return digest(repr(parts).encode())

    def subject(self, number: int) -> Subject:
        """What a run runs."""
        return self.target(number).subject(number)


def resolved(plan: Plan) -> Plan:
    """The plan with the key of what its sources are now.  Raises UnknownTarget, BadInput or TypeError."""
    return attrs.evolve(plan, key=Mix(plan).key)


@lru_cache(maxsize=4)
def mix_of(plan: Plan) -> Mix:
    """The mix of a resolved plan, made once per process.

    BadInput when a file is not any more what it was when the plan was resolved.
    """
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
