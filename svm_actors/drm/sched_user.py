"""Who uses an entity, and what is booked to it.

A process group is what the kernel calls a group leader: entities remember the last one that used them,
so that only the death of that one kills the queue (FEN-R26).  Guilt and statistics are objects of their
own because they outlive the entity, or are shared by several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from svm_actors.engine.locks import WaitQueue


class ProcessGroup:
    """A user-space process, as far as the scheduler looks at it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exiting = False
        """It runs its exit path, where a flush is bounded in time."""
        self.sigkilled = False
        """It was sent SIGKILL; killable sleeps end."""
        self.sleeps_on: list[WaitQueue] = []
        """Killable sleeps its threads are in."""

    def sigkill(self) -> None:
        """Send SIGKILL: whoever sleeps killably wakes up and goes on to exit."""
        self.sigkilled = True
        for queue in self.sleeps_on:
            queue.wake_up()

    def exit(self) -> None:
        """The process is on its way out."""
        self.exiting = True


@attrs.define
class Guilt:
    """Marks all entities of a context that hung the hardware too often."""

    guilty: bool = False
    """Jobs of these entities get -ECANCELED."""


@attrs.define
class EntityStats:
    """GPU time of the jobs of an entity."""

    runtime: int = 0
    """Virtual ns its finished jobs had the hardware."""
    charged: int = 0
    """Part of it that the FAIR policy has taken into account."""


@attrs.define
class Score:
    """How much a scheduler has to do; may be shared by several that feed one piece of hardware."""

    value: int = 0
    """Entities on run queues plus jobs pushed and not done."""
