"""CHESS: work-stealing queues (exploration digest, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Generator

from svm_actors.explore.puzzles.program import LOOP, Body, Program, Puzzle, Step, fail_if

Item = Generator[Step, None, int | None]
"""Ops that come to an item, or to nothing."""


class WorkStealQueue:
    """A deque: its owner pushes and pops at the tail, a stealer takes from the head."""

    def __init__(self, p: Program, *, spin: bool, slack: int) -> None:
        """``slack`` is what the push adds to the correct bound: 1 is the bug, 0 the cure."""
        self.cs = None if spin else p.lock("cs")
        self.lk = p.var("lk")
        self.head, self.tail = p.vars("head tail")
        self.el = p.var("el", {})
        self.mask = 1
        self.slack = slack

    def acquire(self) -> Body:
        """Take the mutex, or spin until the word is free."""
        if self.cs is not None:
            yield self.cs.take
            return
        yield self.lk.u
        taken, self.lk.v = self.lk.v, 1
        while taken:
            yield self.lk.when(lambda: not self.lk.v)
            yield self.lk.u
            taken, self.lk.v = self.lk.v, 1

    def release(self) -> Body:
        """Let it go."""
        if self.cs is not None:
            yield self.cs.drop
            return
        yield self.lk.w
        self.lk.v = 0

    def steal(self) -> Item:
        """Take the oldest item."""
        item = None
        yield from self.acquire()
        yield self.head.r
        h = self.head.v
        yield self.head.w
        self.head.v = h + 1
        yield self.tail.r
        if h < self.tail.v:
            yield self.el.r
            item = self.el.v.get(h & self.mask)
        else:
            yield self.head.w
            self.head.v = h
        yield from self.release()
        return item

    def pop(self) -> Item:
        """Take the youngest item; under the lock only when it may be the last."""
        yield self.tail.r
        t = self.tail.v - 1
        yield self.tail.w
        self.tail.v = t
        yield self.head.r
        if self.head.v <= t:
            yield self.el.r
            return self._at(t)
        yield self.tail.w
        self.tail.v = t + 1
        item = None
        yield from self.acquire()
        yield self.tail.r
        t = self.tail.v - 1
        yield self.tail.w
        self.tail.v = t
        yield self.head.r
        if self.head.v <= t:
            yield self.el.r
            item = self._at(t)
        else:
            yield self.tail.w
            self.tail.v = t + 1
        yield self.head.r
        if self.head.v > t:
            yield self.head.w
            self.head.v = 0
            yield self.tail.w
            self.tail.v = 0
            item = None
        yield from self.release()
        return item

    def push(self, x: int) -> Body:
        """Add an item; under the lock, and perhaps into a larger ring, when there seems to be no room."""
        yield self.tail.r
        t = self.tail.v
        yield self.head.r
        if t < self.head.v + self.mask + self.slack:
            yield self.el.w
            self.el.v[t & self.mask] = x
            yield self.tail.w
            self.tail.v = t + 1
            return
        yield from self.acquire()
        yield self.head.r
        h = self.head.v
        yield self.tail.r
        n = self.tail.v - h
        h &= self.mask
        yield self.head.w
        self.head.v = h
        yield self.tail.w
        self.tail.v = h + n
        if n >= self.mask:
            yield self.el.w
            self._grow(h, n)
            yield self.head.w
            self.head.v = 0
            yield self.tail.w
            self.tail.v = n
        yield self.tail.r
        t = self.tail.v
        yield self.el.w
        self.el.v[t & self.mask] = x
        yield self.tail.w
        self.tail.v = t + 1
        yield from self.release()

    def _at(self, t: int) -> int | None:
        found: int | None = self.el.v.get(t & self.mask)
        return found

    def _grow(self, h: int, n: int) -> None:
        kept = {k: self.el.v.get((h + k) & self.mask) for k in range(n)}
        self.mask = 2 * self.mask + 1
        self.el.v = kept


def work_steal_queue(*, spin: bool, slack: int = 1) -> Callable[[Program], None]:
    """Every item must be worked on once; a push overwrites the slot that a steal is about to read."""

    def build(p: Program) -> None:
        queue = WorkStealQueue(p, spin=spin, slack=slack)
        done = [p.var(f"done{i}") for i in range(4)]

        def work(item: int | None) -> Body:
            if item is not None:
                yield done[item].r
                seen = done[item].v
                yield done[item].w
                done[item].v = seen + 1

        def stealer() -> Body:
            for _ in range(2):
                yield LOOP
                yield from work((yield from queue.steal()))

        def owner() -> Body:
            for i in range(2):
                yield LOOP
                yield from queue.push(2 * i)
                yield from queue.push(2 * i + 1)
                yield from work((yield from queue.pop()))
            for _ in range(2):
                yield LOOP
                yield from work((yield from queue.pop()))

        p.tasks(stealer(), owner())
        p.finally_fails(lambda: any(each.v != 1 for each in done))

    return build


def with_state(p: Program) -> None:
    """Two stealers grow a table of theirs without a lock."""
    n = p.var("n", 1)
    slots = [p.var(f"slot{i}") for i in range(6)]

    def stealer(i: int) -> Body:
        yield n.r
        if n.v <= i:
            yield n.r
            k = n.v
            if k <= i:
                yield n.r
                first = n.v
                for j in range(first, first + i + 1 - k):
                    yield slots[j].w
                    slots[j].v = 0
                yield n.w
                n.v = first + i + 1 - k
        yield n.r
        fail_if(n.v <= i)
        yield slots[i].u
        slots[i].v += 1
        for _ in range(10):
            yield n.r
            fail_if(n.v <= i)
            yield slots[i].r
            fail_if(not slots[i].v)

    p.tasks(stealer(1), stealer(2))


PUZZLES = (
    Puzzle("IWSQ", work_steal_queue(spin=True), 8, "InterlockedWorkStealQueue"),
    Puzzle("IWSQWS", with_state, 8, "InterlockedWorkStealQueueWithState"),
    Puzzle("SWSQ", with_state, 8, "StateWorkStealQueue"),
    Puzzle("WSQ", work_steal_queue(spin=False), 8, "WorkStealQueue"),
    Puzzle("WSQ, correct bound", work_steal_queue(spin=False, slack=0), 8),
)
