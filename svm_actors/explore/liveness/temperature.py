"""Temperature: how long a run has gone on without anything getting done.

Progress is an access that went through, of a CPU or a GPU, or a system call that changed a mapping: what
threads want, as against what they go through for it.  Every other step is hot.  A run is suspicious when it
has been hot for longer than half of its fair steps; that proves nothing.  The counters that grow in the heat name
the retry loop.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from svm_actors.engine.engine import Engine
from svm_actors.gpu.events import GpuAccess
from svm_actors.mm.events import CpuAccess, RangeChanged

PROGRESS: Final = (CpuAccess, GpuAccess, RangeChanged)
"""Events that mean that something got done."""


class Temperature:
    """Watches one run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.done = 0
        """How often something got done."""
        self._cold_at = 0
        self._counted: Counter[str] = Counter()
        engine.listeners.append(self._hear)

    def _hear(self, event: Any) -> None:
        if isinstance(event, PROGRESS):
            self.done += 1
            self._cold_at = self.engine.steps
            self._counted = self.engine.counters.copy()

    @property
    def degrees(self) -> int:
        """Steps since something got done."""
        return self.engine.steps - self._cold_at

    def suspicious(self, fair_budget: int) -> bool:
        """Hot for more than half of so many fair steps."""
        return 2 * self.degrees > fair_budget

    def retries(self, since: Counter[str] | None = None) -> dict[str, int]:
        """Counters that grew since the last progress, or since then, by name."""
        grown = self.engine.counters - (self._counted if since is None else since)
        return dict(sorted(grown.items()))
