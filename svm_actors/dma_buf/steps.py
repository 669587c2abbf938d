"""Code that is one atomic step in one place and several ops in another, written once.

The kernel walks fence chains, and merges fences, both in atomic context and where other threads get in
between.  Such code is a generator that yields each op right before its effect: :func:`at_once` runs it
as one step, :func:`in_steps` announces the ops.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from svm_actors.engine.engine import Engine
from svm_actors.engine.op import Op

T = TypeVar("T")

Steps = Generator[Op, None, T]


def at_once(steps: Steps[T]) -> T:
    """Run it without a scheduling point."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def in_steps(engine: Engine, steps: Steps[T]) -> T:
    """Announce every op it yields."""
    while True:
        try:
            kind, resource, key = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await engine.step(kind, resource, key)
