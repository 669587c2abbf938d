"""Speed, measured as ratios within one run (DESIGN section 9).

Each module here has ``run() -> list[Result]``; ``python -m benchmarks`` runs them all.  A ratio of
two medians taken in turns, in one process, says the same on a slow machine as on a fast one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import attrs


@attrs.frozen
class Result:
    """One measured number and what it may be."""

    name: str
    """What was measured."""
    value: float
    """The measurement, in ``unit``."""
    budget: float | None
    """The largest value allowed (the smallest with ``at_least``); None: for information."""
    unit: str
    """E.g. ``x`` for a ratio, ``us`` for microseconds."""
    at_least: bool = False
    """The budget is a minimum."""

    @property
    def held(self) -> bool:
        """True when the value is within its budget."""
        if self.budget is None:
            return True
        return self.value >= self.budget if self.at_least else self.value <= self.budget

    def line(self) -> str:
        """The result as one line of text."""
        text = f"{self.name:<58} {self.value:>9.3f} {self.unit:<3}"
        if self.budget is None:
            return text
        verdict = "ok" if self.held else "MISSED"
        return f"{text} budget {'>=' if self.at_least else '<='} {self.budget:g}  {verdict}"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def medians(measures: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of each measure; all are taken in turns, so that a busy machine hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}
