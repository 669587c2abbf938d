"""Nothing is left at teardown: pages, device pages, ranges, notifiers, mappings, locks (INV-34, RULE-41)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svm_actors.engine.errors import PropertyFailed

NOT_LEAKS = frozenset({"faults", "acked", "reported", "chunks", "allocated", "freed"})
"""Statistics that count what happened, not what is alive."""


def check_leaks(world: Any) -> None:
    """Raise with everything that is still alive after :meth:`World.close`."""
    left = [
        f"{owner}.{name}={value}"
        for owner, numbers in world.statistics().items()
        for name, value in sorted(numbers.items())
        if name not in NOT_LEAKS and isinstance(value, int) and value
    ]
    left += [
        f"lock {lock.name} held by {task.id}"
        for task in world.engine.tasks.values()
        for lock in task.thread.held
    ]
    if left:
        raise PropertyFailed("leaks", "INV-34", "alive at teardown: " + ", ".join(left))


def leaks_of(world: Any) -> Callable[[], None]:
    """The check, bound to one world."""
    return lambda: check_leaks(world)
