"""What a suspicion about 7.3.4 is: the hypothesis, what the model has of it, and what a search for it came to."""

from __future__ import annotations

from typing import Final, Literal

import attrs

from svm_actors.bugs import BUGS

SCRIPTS: Final = "scenarios/suspected"
SEEDS: Final = ("1", "2", "3")
"""Every search is made once with each."""
Verdict = Literal["reached", "not reached", "not modelled"]


@attrs.frozen
class Suspicion:
    """One reading of the kernel's source that may show a defect.  Nothing here says that there is one."""

    id: str
    """Digest id, with a word behind it when there is more than one search; or digest section and letter."""
    title: str
    """A few words."""
    hypothesis: str
    """What the kernel may do, and what would come of it."""
    model: str
    """What is modelled of it and what is not."""
    script: str = ""
    """Stem of the script in scenarios/suspected in which it is looked for."""
    target: str = ""
    """A built-in target in which it is looked for, when it is neither a script nor the story of a planted bug."""
    bug: str = ""
    """What is planted for it; empty where the model does as the kernel does, or the script does it."""
    noticed: tuple[str, ...] = ()
    """``oracle`` or ``oracle/rule`` by which it is known; those of the planted bug unless given."""
    placed: bool = False
    """The script puts what the kernel is suspected to do in the place of what the model does."""
    reason: str = ""
    """Why there is nothing to search."""
    same: str = ""
    """Id of the suspicion whose search is this one's, too."""
    race_timers: bool = False
    """Whether time may pass while somebody could go on."""
    schedules: int = 2_000
    """Made at most, for each seed."""
    step_budget: int = 20_000
    """Steps of one run."""
    exhaustive: bool = False
    """Small enough to be searched through where nobody is preempted."""

    @property
    def searched(self) -> str:
        """Name of the target; empty when nothing is searched."""
        if self.reason or self.same:
            return ""
        if self.script:
            return f"{SCRIPTS}/{self.script}.py"
        return f"{self.target or BUGS[self.bug].story}@0"

    @property
    def how(self) -> str:
        """Where the suspected behaviour comes from."""
        return "planted" if self.bug else "put in place by the scenario" if self.placed else "the model does so"

    @property
    def in_its_story(self) -> bool:
        """What runs is the story of what is planted."""
        return bool(self.bug and not self.script and not self.target)

    @property
    def bugs(self) -> tuple[str, ...]:
        """What is planted."""
        return (self.bug,) if self.bug else ()

    def known_by(self, oracle: str, rule: str) -> bool:
        """Whether this is how it is noticed."""
        return bool({oracle, f"{oracle}/{rule}"} & set(self.noticed or BUGS[self.bug].oracles))


@attrs.frozen
class Finding:
    """What the search came to."""

    schedules: tuple[int, ...]
    """By seed: schedules made up to and including the first in which it is reached; all of them when it is not."""
    noticed: str = ""
    """``oracle/rule``; empty: it was not reached."""
    message: str = ""
    """What was noticed, in one line."""
    target: str = ""
    """What the shrunk run runs."""
    operations: int = 0
    """Operations left of it; 0 for a scenario, which has none."""
    choices: int = 0
    """Schedule choices left."""
    preemptions: int = 0
    """How many of them take the processor away."""
    steps: int = 0
    """Steps of the run."""
    token: str = ""
    """Its replay."""
    chart: str = ""
    """Its end as a sequence chart."""

    explored: int = 0
    """Runs, one of each class of schedules without a preemption, that hold as well; 0: not searched so."""

    @property
    def reached(self) -> bool:
        """Some run showed it."""
        return bool(self.noticed)
