"""CB and Inspect: buffers, conditions, a hand-over (exploration digest, section 3.2)."""

from __future__ import annotations

from svm_actors.explore.puzzles.program import LOOP, Body, Condition, Program, Puzzle, Var, fail_if

SLOTS = 3
"""Of the bounded buffers; one of them stays empty."""


def stringbuffer(p: Program) -> None:
    """The length is read, let go of, and used."""
    b, own, count = p.lock("b"), p.lock("own"), p.var("count", 3)

    def t1() -> Body:
        for length in (0, 3):
            yield b.take
            yield count.r
            yield count.w
            count.v = length
            yield b.drop

    def t2() -> Body:
        yield own.take
        yield b.take
        yield count.r
        n = count.v
        yield b.drop
        yield b.take
        yield count.r
        fail_if(n > count.v)
        yield b.drop
        yield own.drop

    p.tasks(t1(), t2())


def full(head: Var, rear: Var) -> bool:
    """No room in the ring."""
    return bool((rear.v + 1) % SLOTS == head.v)


def empty(head: Var, rear: Var) -> bool:
    """Nothing in the ring."""
    return bool(head.v == rear.v)


def bounded_buffer(p: Program) -> None:
    """A consumer lets go of the lock between seeing an item and taking it."""
    m, nf, ne = p.lock("m"), Condition("nf"), Condition("ne")
    head, rear, pw, cw = p.vars("head rear pw cw")

    def put() -> Body:
        yield m.take
        yield rear.r
        yield head.r
        if full(head, rear):
            yield pw.w
            pw.v += 1
            while full(head, rear):
                yield from nf.wait(m)
                yield rear.r
                yield head.r
            yield pw.w
            pw.v -= 1
        yield rear.w
        rear.v = (rear.v + 1) % SLOTS
        yield cw.r
        if cw.v > 0:
            yield ne.signal
        yield m.drop

    def get() -> Body:
        yield m.take
        yield head.r
        yield rear.r
        if empty(head, rear):
            yield cw.w
            cw.v += 1
            while empty(head, rear):
                yield from ne.wait(m)
                yield head.r
                yield rear.r
            yield cw.w
            cw.v -= 1
        yield m.drop
        yield m.take
        yield head.r
        yield rear.r
        fail_if(empty(head, rear))
        yield head.w
        head.v = (head.v + 1) % SLOTS
        yield pw.r
        if pw.v > 0:
            yield nf.signal
        yield m.drop

    def producer() -> Body:
        for _ in range(4):
            yield LOOP
            yield from put()

    def consumer() -> Body:
        for _ in range(4):
            yield LOOP
            yield from get()

    p.tasks(producer(), producer(), consumer(), consumer())


def bbuf(p: Program) -> None:
    """The same buffer without the gap: a control, nothing can fail."""
    m, nf, ne = p.lock("m"), Condition("nf"), Condition("ne")
    head, rear = p.vars("head rear")

    def producer() -> Body:
        for _ in range(10):
            yield LOOP
            yield m.take
            yield head.r
            yield rear.r
            while full(head, rear):
                yield from nf.wait(m)
                yield head.r
                yield rear.r
            yield rear.w
            rear.v = (rear.v + 1) % SLOTS
            yield ne.signal
            yield m.drop

    def consumer() -> Body:
        for _ in range(10):
            yield LOOP
            yield m.take
            yield head.r
            yield rear.r
            while empty(head, rear):
                yield from ne.wait(m)
                yield head.r
                yield rear.r
            yield head.w
            head.v = (head.v + 1) % SLOTS
            yield nf.signal
            yield m.drop

    p.tasks(producer(), consumer())


def qsort_mt(p: Program) -> None:
    """The state is set before the worker's lock is held: it may wake and find no job."""
    w, al, cw = p.lock("w"), p.lock("al"), Condition("cw")
    st, job = p.vars("st job")

    def worker() -> Body:
        yield w.take
        yield st.r
        while not st.v:
            yield from cw.wait(w)
            yield st.r
        yield w.drop
        yield job.r
        fail_if(not job.v)

    def leader() -> Body:
        yield al.take
        yield st.r
        if not st.v:
            yield st.w
            st.v = 1
            yield w.take
            yield al.drop
            yield job.w
            job.v = 1
            yield cw.signal
            yield w.drop

    p.tasks(worker(), leader())


PUZZLES = (
    Puzzle("stringbuffer", stringbuffer, published="stringbuffer-jdk1.4"),
    Puzzle("boundedBuffer", bounded_buffer, 8, "boundedBuffer"),
    Puzzle("bbuf", bbuf, 8, "bbuf"),
    Puzzle("qsort", qsort_mt, published="qsort_mt", locks=True),
)
