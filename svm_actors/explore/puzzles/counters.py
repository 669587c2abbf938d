"""CS: counters, locks and order (exploration digest, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

from svm_actors.explore.puzzles.program import LOOP, Body, Program, Puzzle, fail_if


def reorder(setters: int, checkers: int) -> Callable[[Program], None]:
    """A setter is caught between its writes, and no other has finished."""

    def build(p: Program) -> None:
        a, b = p.vars("a b")

        def setter() -> Body:
            yield a.w
            a.v = 1
            yield b.w
            b.v = -1

        def checker() -> Body:
            yield a.r
            if a.v == 0:
                yield b.r
                if b.v == 0:
                    return
            yield a.r
            if a.v == 1:
                yield b.r
                if b.v == -1:
                    return
            fail_if(True)

        p.tasks(*(setter() for _ in range(setters)), *(checker() for _ in range(checkers)))

    return build


def twostage(writers: int, readers: int) -> Callable[[Program], None]:
    """Two locked stages that belong together: a reader comes between them."""

    def build(p: Program) -> None:
        m1, m2 = p.lock("m1"), p.lock("m2")
        d1, d2 = p.vars("d1 d2")

        def writer() -> Body:
            yield m1.take
            yield d1.w
            d1.v = 1
            yield m1.drop
            yield m2.take
            yield d1.r
            first = d1.v
            yield d2.w
            d2.v = first + 1
            yield m2.drop

        def reader() -> Body:
            yield m1.take
            yield d1.r
            if d1.v == 0:
                yield m1.drop
                return
            yield d1.r
            first = d1.v
            yield m1.drop
            yield m2.take
            yield d2.r
            second = d2.v
            yield m2.drop
            fail_if(second != first + 1)

        p.tasks(*(writer() for _ in range(writers)), *(reader() for _ in range(readers)))

    return build


def wronglock(others: int) -> Callable[[Program], None]:
    """One task takes another lock than the rest for the same counter."""

    def build(p: Program) -> None:
        rule, other = p.lock("p"), p.lock("q")
        v = p.var("v")

        def careful() -> Body:
            yield rule.take
            yield v.r
            seen = v.v
            yield v.r
            again = v.v
            yield v.w
            v.v = again + 1
            yield v.r
            fail_if(v.v != seen + 1)
            yield rule.drop

        def careless() -> Body:
            yield other.take
            yield v.r
            seen = v.v
            yield v.w
            v.v = seen + 1
            yield other.drop

        p.tasks(careful(), *(careless() for _ in range(others)))

    return build


def account(p: Program) -> None:
    """The checked formula is wrong: it fails when the check comes last."""
    m, x, y, z = p.lock("m"), p.var("x", 1), p.var("y", 2), p.var("z", 4)
    bal, dep, wd = p.var("bal", 1), p.var("dep"), p.var("wd")

    def check() -> Body:
        yield m.take
        yield dep.r
        if dep.v:
            yield wd.r
            if wd.v:
                yield bal.r
                fail_if(bal.v != (x.v - y.v) - z.v)
        yield m.drop

    def change(amount: int, done: str) -> Body:
        flag, operand = (dep, y) if done == "dep" else (wd, z)
        yield m.take
        yield bal.r
        seen = bal.v
        yield operand.r
        yield bal.w
        bal.v = seen + amount * operand.v
        yield flag.w
        flag.v = 1
        yield m.drop

    p.task(check())
    p.task(change(1, "dep"), "deposit")
    p.task(change(-1, "wd"), "withdraw")


def lazy01(p: Program) -> None:
    """It fails when the check comes last."""
    m, d = p.lock("m"), p.var("d")

    def check() -> Body:
        yield m.take
        yield d.r
        fail_if(d.v >= 3)
        yield m.drop

    def add(amount: int) -> Body:
        yield m.take
        yield d.r
        seen = d.v
        yield d.w
        d.v = seen + amount
        yield m.drop

    p.tasks(check(), add(2), add(1))


def deadlock01(p: Program) -> None:
    """Two locks in two orders."""
    a, b, c = p.lock("a"), p.lock("b"), p.var("c")

    def both(first: str) -> Body:
        outer, inner = (a, b) if first == "a" else (b, a)
        yield outer.take
        yield inner.take
        yield c.r
        seen = c.v
        yield c.w
        c.v = seen + 1
        yield inner.drop
        yield outer.drop

    p.tasks(both("a"), both("b"))


def token_ring(p: Program) -> None:
    """Three tasks hand a value round, each once; only one order ends in agreement."""
    g = p.lock("g")
    x1, x2, x3 = p.var("x1", 1), p.var("x2", 2), p.var("x3", 1)
    f1, f2, f3 = p.vars("f1 f2 f3")

    def hand(index: int) -> Body:
        source, target, flag = ((x3, x1, f1), (x1, x2, f2), (x2, x3, f3))[index]
        yield g.take
        yield source.r
        seen = source.v
        yield target.w
        target.v = (seen + 1) % 4 if index == 0 else seen
        yield flag.w
        flag.v = 1
        yield g.drop

    def check() -> Body:
        yield g.take
        for flag in (f1, f2, f3):
            yield flag.r
            if not flag.v:
                break
        else:
            for one, other in ((x1, x2), (x2, x3)):
                yield one.r
                seen = one.v
                yield other.r
                fail_if(seen != other.v)
        yield g.drop

    p.tasks(hand(0), hand(1), hand(2), check())


def bluetooth(p: Program) -> None:
    """All of stop runs between the first look of add and its counting itself in."""
    g, pend = p.lock("g"), p.var("pend", 1)
    flag, event, stopped = p.vars("flag event stopped")

    def decrement() -> Body:
        yield g.take
        yield pend.r
        seen = pend.v
        yield pend.w
        pend.v = seen - 1
        yield pend.r
        left = pend.v
        yield g.drop
        if left == 0:
            yield event.w
            event.v = 1

    def stop() -> Body:
        yield flag.w
        flag.v = 1
        yield from decrement()
        yield event.r
        if event.v:
            yield stopped.w
            stopped.v = 1

    def add() -> Body:
        yield flag.r
        if not flag.v:
            yield g.take
            yield pend.r
            seen = pend.v
            yield pend.w
            pend.v = seen + 1
            yield g.drop
            yield stopped.r
            fail_if(stopped.v)
        yield from decrement()

    p.tasks(stop(), add())


def stack(p: Program) -> None:
    """One pop more than there were pushes; the flag only says that something was pushed once."""
    m = p.lock("m")
    top, arr, flag = p.vars("top arr flag")

    def push() -> Body:
        for _ in range(10):
            yield LOOP
            yield m.take
            yield top.r
            yield top.r
            yield arr.w
            yield top.r
            seen = top.v
            yield top.w
            top.v = seen + 1
            yield flag.w
            flag.v = 1
            yield m.drop

    def pop() -> Body:
        for _ in range(10):
            yield LOOP
            yield m.take
            yield flag.r
            if flag.v:
                yield top.r
                fail_if(top.v == 0)
                yield top.r
                seen = top.v
                yield top.w
                top.v = seen - 1
                yield top.r
                yield arr.r
            yield m.drop

    p.tasks(push(), pop())


def queue(p: Program) -> None:
    """What is taken must be what was stored in this round; the flags do not see to it."""
    m, q, st = p.lock("m"), p.var("q", []), p.var("st", {})
    enq, deq = p.var("enq", 1), p.var("deq")

    def t1() -> Body:
        yield m.take
        yield q.w
        q.v.append(0)
        yield st.w
        st.v[0] = 0
        yield m.drop
        n = 0
        for i in range(19):
            yield LOOP
            yield m.take
            yield enq.r
            if enq.v:
                n += 1
                yield q.w
                q.v.append(n)
                yield st.w
                st.v[i + 1] = n
                yield enq.w
                enq.v = 0
                yield deq.w
                deq.v = 1
            yield m.drop

    def t2() -> Body:
        for i in range(20):
            yield LOOP
            yield m.take
            yield deq.r
            if deq.v:
                yield q.u
                x = q.v.pop(0) if q.v else None
                yield st.r
                fail_if(x != st.v.get(i, 0))
                yield deq.w
                deq.v = 0
                yield enq.w
                enq.v = 1
            yield m.drop

    p.tasks(t1(), t2())


def circular_buffer(p: Program) -> None:
    """Anything but strict alternation fails."""
    m, buf = p.lock("m"), p.var("buf", [])
    send, rec = p.var("send", 1), p.var("rec")

    def t1() -> Body:
        for i in range(7):
            yield LOOP
            yield m.take
            yield send.r
            if send.v:
                yield buf.w
                buf.v.append(i)
                yield send.w
                send.v = 0
                yield rec.w
                rec.v = 1
            yield m.drop

    def t2() -> Body:
        for i in range(7):
            yield LOOP
            yield m.take
            yield rec.r
            if rec.v:
                yield buf.u
                fail_if(buf.v.pop(0) != i)
                yield rec.w
                rec.v = 0
                yield send.w
                send.v = 1
            yield m.drop

    p.tasks(t1(), t2())


def carter01(p: Program) -> None:
    """The inner lock is taken under the outer one and outlives it: the other task closes the cycle."""
    m, inner = p.lock("m"), p.lock("l")

    def user(name: str) -> Body:
        count = p.var(name)
        yield m.take
        yield count.r
        seen = count.v
        yield count.w
        count.v = seen + 1
        yield count.r
        if count.v == 1:
            yield inner.take
        yield m.drop
        yield m.take
        yield count.r
        seen = count.v
        yield count.w
        count.v = seen - 1
        yield count.r
        if count.v == 0:
            yield inner.drop
        yield m.drop

    def idle() -> Body:
        return
        yield

    p.tasks(user("A"), user("B"), idle(), idle())


PUZZLES = (
    Puzzle("twostage", twostage(1, 1), 8, "twostage"),
    Puzzle("twostage_20", twostage(10, 10), 8, "twostage_20"),
    Puzzle("twostage_50", twostage(40, 10), 8, "twostage_50"),
    Puzzle("twostage_100", twostage(99, 1), 8, "twostage_100"),
    Puzzle("reorder_3", reorder(2, 1), 8, "reorder_3"),
    Puzzle("reorder_4", reorder(3, 1), 8, "reorder_4"),
    Puzzle("reorder_5", reorder(4, 1), 8, "reorder_5"),
    Puzzle("reorder_10", reorder(9, 1), 8, "reorder_10"),
    Puzzle("reorder_20", reorder(10, 10), 8, "reorder_20"),
    Puzzle("reorder_50", reorder(40, 10), 8, "reorder_50"),
    Puzzle("reorder_100", reorder(99, 1), 8, "reorder_100"),
    Puzzle("stack", stack, published="stack"),
    Puzzle("token_ring", token_ring, published="token_ring"),
    Puzzle("lazy01", lazy01, published="lazy01"),
    Puzzle("deadlock01", deadlock01, published="deadlock01"),
    Puzzle("bluetooth", bluetooth, published="bluetooth_driver"),
    Puzzle("account", account, published="account"),
    Puzzle("wronglock", wronglock(7), 8, "wronglock"),
    Puzzle("wronglock_3", wronglock(3), 8, "wronglock_3"),
    Puzzle("queue", queue, published="queue"),
    Puzzle("circular_buffer", circular_buffer, published="circular_buffer"),
    Puzzle("carter01", carter01, published="carter01"),
)
