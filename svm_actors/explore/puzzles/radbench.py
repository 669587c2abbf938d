"""RADBench and SafeStack (exploration digest, section 3.4)."""

from __future__ import annotations

from collections.abc import Generator

from svm_actors.explore.puzzles.program import LOOP, SPIN, Body, Lock, Program, Puzzle, Step, fail_if


def bug4(p: Program) -> None:
    """A lock created on first use, twice."""
    mon, tm = p.var("mon", None), p.var("tm")

    def user(me: int) -> Body:
        yield mon.r
        if mon.v is None:
            yield mon.w
            mon.v = p.lock(f"k{me}")
        yield mon.r
        first: Lock = mon.v
        yield first.take
        yield tm.r
        yield mon.r
        second: Lock = mon.v
        fail_if(not second.mine)
        yield second.drop

    p.tasks(user(0), user(1))


def bug6(p: Program) -> None:
    """A writer that has announced itself is let in first, also before a reader that has one lock already."""
    i, rw = p.lock("i"), p.var("rw")
    count = {"rd": 0, "wr": 0, "ww": 0}

    def writer() -> Body:
        yield i.take
        yield rw.r
        if count["rd"] or count["wr"]:
            yield rw.w
            count["ww"] += 1
            yield i.drop
            yield i.take_when(lambda: not count["rd"] and not count["wr"])
            yield rw.w
            count["ww"] -= 1
            count["wr"] = 1
        else:
            yield rw.w
            count["wr"] = 1
        yield i.drop
        yield i.take
        yield rw.w
        count["wr"] = 0
        yield i.drop

    def reader() -> Body:
        for _ in range(2):
            yield i.take
            yield rw.r
            if count["wr"] or count["ww"]:
                yield i.drop
                yield i.take_when(lambda: not count["wr"] and not count["ww"])
            yield rw.w
            count["rd"] += 1
            yield i.drop
        for _ in range(2):
            yield i.take
            yield rw.w
            count["rd"] -= 1
            yield i.drop

    p.tasks(writer(), reader())


def safe_stack(p: Program) -> None:
    """A lock-free stack by array indexes: one element comes to be owned twice."""
    head, count = p.var("head", 0), p.var("count", 3)
    following = [p.var(f"next{i}", value) for i, value in enumerate((1, 2, -1))]
    val = [p.var(f"val{i}", None) for i in range(3)]

    def pop() -> Generator[Step, None, int]:
        while True:
            yield count.r
            if count.v <= 1:
                return -1
            yield head.r
            h = head.v
            yield following[h].u
            n, following[h].v = following[h].v, -1
            if n < 0:
                yield SPIN
                continue
            yield head.u
            if head.v == h:
                head.v = n
                yield count.u
                count.v -= 1
                return int(h)
            yield following[h].u
            following[h].v = n

    def push(i: int) -> Body:
        yield head.r
        h = head.v
        while True:
            yield following[i].w
            following[i].v = h
            yield head.u
            if head.v == h:
                head.v = i
                break
            h = head.v
        yield count.u
        count.v += 1

    def user(me: int) -> Body:
        for _ in range(2):
            yield LOOP
            while True:
                e = yield from pop()
                if e >= 0:
                    break
                yield SPIN
            yield val[e].w
            val[e].v = me
            yield val[e].r
            fail_if(val[e].v != me)
            yield from push(e)

    p.tasks(user(0), user(1), user(2))


PUZZLES = (
    Puzzle("bug4", bug4, 8, "bug4", locks=True),
    Puzzle("bug6", bug6, published="bug6", locks=True),
    Puzzle("SafeStack", safe_stack, 8, "SafeStack"),
)
