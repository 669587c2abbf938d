"""Tasks and ops made by hand, to ask a strategy one question at a time."""

from __future__ import annotations

from typing import Any

from svm_actors.engine.task import NOBODY, Task, Thread
from svm_actors.explore.toys import Variable

X, Y, LOCK = Variable("x"), Variable("y"), Variable("lock")


def task(number: int, kind: str = "write", resource: Variable | None = X, key: Any = None, parent: Any = None) -> Task:
    """An enabled task that has announced this op."""
    made = Task(number, f"t{number}" if parent is None else "child.0", parent, NOBODY.coro, Thread(f"t{number}"))
    made.enabled = True
    announce(made, kind, resource, key)
    return made


def announce(made: Task, kind: str = "write", resource: Variable | None = X, key: Any = None) -> None:
    """Its next op."""
    made.op = (kind, resource, key)
