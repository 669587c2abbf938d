"""Strict replay of recorded choices (exploration digest, section 1.4, "Replay token").

A run is determined by its choices, so making them again gives the run again, as long as model and
scenario are the same.  The recorded arity of each choice is compared with what the run offers: the
first difference is an error that names the step and both sides, and never a run that silently drifts.
"""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.engine.errors import ReplayMismatch
from svm_actors.engine.op import render
from svm_actors.engine.task import Task


class Replay:
    """Makes the recorded choices again; :class:`ReplayMismatch` where they do not fit."""

    name = "replay"

    def __init__(self, choices: Sequence[int], arity: Sequence[int]) -> None:
        if len(choices) != len(arity):
            raise ValueError(f"{len(choices)} choices but {len(arity)} arities: one arity belongs to each choice")
        self.choices = choices
        self.arity = arity
        self.position = 0
        """Choices made so far."""

    @property
    def finished(self) -> bool:
        """True when every recorded choice was made; a run that ends before that has drifted too."""
        return self.position == len(self.choices)

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The recorded candidate."""
        count = len(candidates) + timer
        at = self.position
        if at >= len(self.choices) or self.arity[at] != count:
            offered = [f"{task.id}: {render(task.op)}" for task in candidates] + ["fire the earliest timer"] * timer
            raise self._mismatch(count, "schedule choice between " + ", ".join(offered))
        self.position = at + 1
        return self.choices[at]

    def data(self, count: int, label: str) -> int:
        """The recorded value."""
        at = self.position
        if at >= len(self.choices) or self.arity[at] != count:
            raise self._mismatch(count, f"data choice {label!r}")
        self.position = at + 1
        return self.choices[at]

    def check_finished(self) -> None:
        """Raise unless every recorded choice was made; call it when the run is over."""
        if not self.finished:
            raise ReplayMismatch(
                f"the run ended after {self.position} choices, but {len(self.choices)} are recorded; "
                "model or scenario differ from the recorded run"
            )

    def _mismatch(self, actual: int, offer: str) -> ReplayMismatch:
        at = self.position
        if at >= len(self.choices):
            expected = f"the record ends after {len(self.choices)} choices"
        else:
            expected = f"the record has {self.arity[at]} alternatives"
        return ReplayMismatch(
            f"replay differs at choice {at}: {expected}, the run has {actual}: {offer}; "
            "model or scenario differ from the recorded run"
        )
