"""What exec queues and VMs tell oracles.  Emitted in the same atomic step as what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.vm_mode import XeBindVm


@attrs.frozen
class QueueEnded:
    """A queue is banned or killed: nothing new of it may run."""

    queue: ExecQueue
    """Which."""


@attrs.frozen
class QueueSwitchedOn:
    """The hardware is told to run a queue."""

    queue: ExecQueue
    """Which."""


@attrs.frozen
class MadviseCuts:
    """madvise is about to cut mappings at the ends of its range, or has done so."""

    vm: XeBindVm
    """Whose."""
    done: bool
    """It has."""
