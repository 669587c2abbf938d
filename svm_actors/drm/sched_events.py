"""What the scheduler tells oracles and reports.  Emitted in the same atomic step as what it tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from svm_actors.drm.sched import DrmSched
    from svm_actors.drm.sched_job import SchedJob

JobPhase = Literal["push", "charge", "run", "scheduled", "refund", "finished", "free"]
"""In the order in which they happen to a job that is not killed; ``charge`` and ``refund`` of its
credits happen again for every recovery it survives."""


@attrs.frozen
class JobEvent:
    """Something happened to a job."""

    phase: JobPhase
    """What."""
    job: SchedJob
    """To whom."""
    sched: DrmSched
    """The scheduler it was armed for."""


@attrs.frozen
class SchedStarted:
    """A scheduler was made."""

    sched: DrmSched
    """Which."""


@attrs.frozen
class SchedEnded:
    """A scheduler was torn down."""

    sched: DrmSched
    """Which."""
