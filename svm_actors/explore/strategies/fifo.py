"""Run to block, first come first served: what SCHED_FIFO does on one CPU.

The running task keeps the CPU until it blocks or ends; then the task that has been enabled longest
goes on.  No preemption, no data fault (every draw is 0), timers only when nothing else can run: the
plainest schedule there is, the one to show a scenario works at all, and the cheapest.

Deviation from SCHED_FIFO: one priority for all.  Unfair to whoever waits for a task that never
blocks; do not judge liveness by it.
"""

from __future__ import annotations

from svm_actors.engine.task import Task


class Fifo:
    """The non-preemptive strategy; the seed changes nothing."""

    name = "fifo"

    def __init__(self, seed: int | str = 0) -> None:
        self.seed = str(seed)
        self._since = 0
        """``ready_at`` of the task chosen last; unchanged as long as that task has not blocked."""

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """The one enabled for the longest time, which is the running task until it blocks."""
        if running is not None and running.enabled and running.ready_at == self._since:
            return 0 if running is candidates[0] else candidates.index(running)
        oldest = min(candidates, key=_ready_at)
        self._since = oldest.ready_at
        return candidates.index(oldest)

    def data(self, count: int, label: str) -> int:
        """The first alternative, which by convention is "nothing special happens"."""
        return 0


def _ready_at(task: Task) -> int:
    return task.ready_at
