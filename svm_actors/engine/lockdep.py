"""Lock order, learned and checked on every acquire.

Locks of one class (``mmap_lock``, ``notifier_lock`` ...) are ordered as a class, as in the kernel's
own checker: an inversion is reported even when this run did not deadlock, with the place where each
of the two orders was first seen.  A trylock cannot wait, so it adds no edge; but what is acquired
while it is held counts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.engine.locks import Lock
    from svm_actors.engine.task import Task, Thread


class LockDep:
    """The order graph of one run."""

    def __init__(self) -> None:
        self.after: dict[str, dict[str, str]] = {}
        """``after[a][b]``: where b was first taken with a held."""

    def waiting(self, task: Task, lock: Lock) -> None:
        """``task`` is about to wait for ``lock``: learn the edges, report an inversion."""
        inner = lock.lock_class
        for held in task.thread.held:
            outer = held.lock_class
            if outer == inner:
                if held is lock:
                    raise PropertyFailed("lockdep", "INV-24", f"{task.id} takes {lock.name} twice")
                continue
            edges = self.after.setdefault(outer, {})
            if inner in edges:
                continue
            chain = self._path(inner, outer)
            if chain:
                seen = "; ".join(f"{b} after {a} at {self.after[a][b]}" for a, b in chain)
                raise PropertyFailed(
                    "lockdep", "INV-24", f"{task.id} takes {inner} while holding {outer}, but elsewhere: {seen}"
                )
            edges[inner] = task.id

    def declare(self, *classes: str) -> None:
        """Fix an order, outermost first, before any run has shown it."""
        for outer, inner in pairwise(classes):
            self.after.setdefault(outer, {})[inner] = "the declared order"

    def _path(self, start: str, goal: str) -> list[tuple[str, str]]:
        """Edges leading from ``start`` to ``goal``, empty when there are none."""
        came: dict[str, tuple[str, str]] = {}
        todo = [start]
        while todo:
            here = todo.pop()
            for there in self.after.get(here, ()):
                if there in came:
                    continue
                came[there] = (here, there)
                if there == goal:
                    chain = [came[goal]]
                    while chain[-1][0] != start:
                        chain.append(came[chain[-1][0]])
                    return chain[::-1]
                todo.append(there)
        return []


def must_not_hold(thread: Thread, classes: tuple[str, ...], doing: str) -> None:
    """Context rule: raise when ``thread`` holds a lock of one of these classes."""
    for lock in thread.held:
        if lock.lock_class in classes:
            raise PropertyFailed("lockdep", "INV-24", f"{doing} while {thread.name} holds {lock.name}")
