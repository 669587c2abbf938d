"""Lock order, learned and checked on every acquire.

Locks of one class (``mmap_lock``, ``notifier_lock`` ...) are ordered as a class, as in the kernel's
own checker: an inversion is reported even when this run did not deadlock, with the place where each
of the two orders was first seen.  A trylock cannot wait, so it adds no edge; but what is acquired
while it is held counts.

Two different locks of one class may nest without a word: what order they need is their user's business.
For ww mutexes that order is the acquire context, and :meth:`LockDep.waiting_ww` asks for it.
Waiting for a fence is ordered like a lock, see :mod:`svm_actors.engine.signalling`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from svm_actors.engine.errors import PropertyFailed

if TYPE_CHECKING:
    from svm_actors.engine.locks import Lock
    from svm_actors.engine.signalling import LockMap
    from svm_actors.engine.task import Task, Thread
    from svm_actors.engine.ww_mutex import WwCtx, WwMutex

FENCE_MAP = "dma_fence_map"
"""The class that stands for a fence: waiting for one acquires it, a signalling section holds it."""


class LockDep:
    """The order graph of one run."""

    def __init__(self) -> None:
        self.after: dict[str, dict[str, str]] = {}
        """``after[a][b]``: where b was first taken with a held."""
        self.fence_map: LockMap | None = None
        """The pretended lock of that class, once there is a signalling section."""

    def waiting(self, task: Task, lock: Lock) -> None:
        """``task`` is about to wait for ``lock``: learn the edges, report an inversion."""
        inner = last = lock.lock_class
        for held in task.thread.held:
            outer = held.lock_class
            if outer == inner:
                if held is lock:
                    raise PropertyFailed("lockdep", "INV-24", f"{task.id} takes {lock.name} twice")
            elif outer != last:  # a large range holds hundreds of folio locks in a row
                last = outer
                known = self.after.get(outer)
                if known is None or inner not in known:
                    self.order(task, outer, inner)

    def waiting_ww(self, task: Task, lock: WwMutex, context: WwCtx | None) -> None:
        """The same for a ww mutex.  With another one of its class held, only the acquire context that
        holds it too keeps the two from deadlock (fences_and_scheduler 4.1); one got by trylock is exempt."""
        for held in task.thread.held:
            if held is lock or held.lock_class != lock.lock_class or not hasattr(held, "context"):
                continue
            if context is None or not (held.context is context or getattr(held, "tried", False)):
                text = f"{task.id} takes {lock.name} while holding {held.name}, and not in one acquire context"
                raise PropertyFailed("lockdep", "INV-FEN-05", text)
        self.waiting(task, lock)

    def order(self, task: Task, outer: str, inner: str) -> None:
        """Learn that ``inner`` is waited for with ``outer`` held; report it if the reverse is known."""
        edges = self.after.setdefault(outer, {})
        if inner in edges:
            return
        chain = self._path(inner, outer)
        if chain:
            self._inversion(task, outer, inner, chain)
        edges[inner] = task.id

    def _inversion(self, task: Task, outer: str, inner: str, chain: list[tuple[str, str]]) -> None:
        seen = "; ".join(f"{b} after {a} at {self.after[a][b]}" for a, b in chain)
        if not any(FENCE_MAP in edge for edge in chain):
            text = f"{task.id} takes {inner} while holding {outer}, but elsewhere: {seen}"
            raise PropertyFailed("lockdep", "INV-24", text)
        doing = f"takes {inner} while holding {outer}"
        if outer == FENCE_MAP:
            doing = f"takes {inner} inside a fence-signalling section"
        elif inner == FENCE_MAP:
            doing = f"waits for a fence while holding {outer}"
        raise PropertyFailed("signalling", "INV-FEN-03", f"{task.id} {doing}, but elsewhere: {seen}")

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
