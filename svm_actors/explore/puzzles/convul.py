"""ConVul: kernel and library vulnerabilities reduced to their race (exploration digest, section 3.5)."""

from __future__ import annotations

from svm_actors.explore.puzzles.program import Body, Program, Puzzle, Var, fail_if


class Heap:
    """The allocator: blocks are numbers, freeing one twice fails."""

    def __init__(self, p: Program) -> None:
        self.var: Var = p.var("heap", [])
        self.blocks = 0

    def new(self) -> int:
        """A fresh block; no op of its own."""
        self.blocks += 1
        return self.blocks

    def free(self, block: int) -> Body:
        """Give it back."""
        yield self.var.u
        fail_if(block in self.var.v)
        self.var.v.append(block)


def cve_2009_3547(p: Program) -> None:
    """The pipe is gone when it is opened."""
    m, pipe, readers = p.lock("m"), p.var("pipe", 1), p.var("readers")

    def t1() -> Body:
        yield m.take
        yield pipe.r
        fail_if(not pipe.v)
        yield readers.u
        yield m.drop

    def t2() -> Body:
        yield m.take
        yield pipe.w
        pipe.v = 0
        yield m.drop

    p.tasks(t1(), t2())


def cve_2011_2183(p: Program) -> None:
    """The page that is being looked at leaves the list."""
    k, slots, cur = p.lock("k"), p.var("list", 1), p.var("cur", None)

    def t1() -> Body:
        yield slots.r
        if not slots.v:
            return
        yield cur.r
        yield k.take
        yield slots.r
        got = slots.v
        yield cur.w
        cur.v = got or None
        yield k.drop
        yield k.take
        yield slots.r
        yield cur.w
        cur.v = None
        fail_if(not got)
        yield slots.w
        slots.v = 0
        yield k.drop

    def t2() -> Body:
        yield k.take
        yield slots.r
        if slots.v:
            yield cur.r
            if cur.v is None:
                yield slots.w
                slots.v = 0
        yield k.drop

    p.tasks(t1(), t2())


def cve_2013_1792(p: Program) -> None:
    """The user keyring is seen before the session keyring is there."""
    k = p.lock("k")
    uid, ses = p.vars("uid ses")

    def install() -> Body:
        yield uid.r
        if uid.v:
            return
        yield k.take
        yield uid.r
        if not uid.v:
            yield uid.w
            uid.v = 1
            yield ses.w
            ses.v = 1
        yield k.drop

    def t1() -> Body:
        yield ses.r
        if not ses.v:
            yield from install()
        yield ses.r
        fail_if(not ses.v)

    p.task(t1())
    p.task(install())


def cve_2015_7550(p: Program) -> None:
    """The key is revoked between the look at the flag and the lock."""
    s, flag, keys = p.lock("s"), p.var("flag"), p.var("keys", 1)

    def t1() -> Body:
        yield flag.r
        if not flag.v:
            yield s.take
            yield keys.r
            fail_if(not keys.v)
            yield s.drop

    def t2() -> Body:
        yield s.take
        yield flag.w
        flag.v = 1
        yield keys.w
        keys.v = 0
        yield s.drop

    p.tasks(t1(), t2())


def cve_2016_1972(p: Program) -> None:
    """The last one out frees a lock that the other has still to take."""
    m, heap = p.lock("m"), Heap(p)
    done, w, lock = p.var("done"), p.var("w"), p.var("lock", heap.new())

    def user() -> Body:
        yield done.r
        if done.v:
            return
        yield w.r
        seen = w.v
        yield w.w
        w.v = seen + 1
        yield lock.r
        fail_if(not lock.v)
        yield lock.r
        fail_if(not lock.v)
        yield m.take
        yield done.r
        if not done.v:
            yield done.w
            done.v = 1
        yield lock.r
        fail_if(not lock.v)
        yield m.drop
        yield w.r
        x = w.v
        yield w.w
        w.v = x - 1
        if x == 1:
            yield lock.r
            if lock.v:
                yield from heap.free(lock.v)
            yield lock.w
            lock.v = 0

    p.tasks(user(), user())


def cve_2016_1973(p: Program) -> None:
    """A count that goes through zero: the instance is taken away under a user."""
    c, inst = p.var("c"), p.var("inst")

    def get() -> Body:
        yield c.r
        create = not c.v
        if not create:
            yield c.u
            c.v += 1
            if c.v == 1:
                yield c.u
                c.v -= 1
                create = True
        if create:
            yield c.u
            c.v += 1
            if c.v == 1:
                yield inst.u
                inst.v = 1
            else:
                yield c.u
                c.v -= 1
        yield inst.r
        fail_if(not inst.v)

    def t2() -> Body:
        yield from get()
        yield c.u
        c.v -= 1
        if c.v == 0:
            yield inst.u
            inst.v = 0

    p.tasks(get(), t2())


def cve_2016_7911(p: Program) -> None:
    """The io context is looked at once and used three times."""
    a, io, nr = p.lock("a"), p.var("io", 1), p.var("nr")

    def t1() -> Body:
        yield io.r
        if not io.v:
            return
        yield io.r
        yield io.r
        fail_if(not io.v)

    def t2() -> Body:
        yield a.take
        yield io.r
        yield io.w
        io.v = 0
        yield a.drop
        yield nr.u

    p.tasks(t1(), t2())


def cve_2016_9806(p: Program) -> None:
    """Two dumps share one buffer pointer: one block is freed twice."""
    m, heap = p.lock("m"), Heap(p)
    cnt, skb = p.vars("cnt skb")

    def dump() -> Body:
        yield m.take
        yield cnt.r
        block = heap.new()
        yield cnt.r
        yield cnt.w
        yield skb.w
        skb.v = block
        yield m.drop
        yield skb.r
        yield from heap.free(skb.v)

    p.tasks(dump(), dump())


def cve_2017_15265(p: Program) -> None:
    """A port is deleted before its maker is done with it."""
    pm, pl = p.lock("pm"), p.lock("pl")
    ports, num, kind, addr = p.vars("list num port.type port.addr")

    def t1() -> Body:
        yield pm.take
        yield pl.take
        yield ports.r
        yield ports.w
        ports.v = 1
        yield num.u
        yield pl.drop
        yield pm.drop
        yield kind.w
        fail_if(addr.v)
        yield addr.r
        fail_if(addr.v)

    def t2() -> Body:
        yield pm.take
        yield pl.take
        yield ports.r
        there = ports.v
        if there:
            yield ports.w
            ports.v = 0
            yield num.u
        yield pl.drop
        yield pm.drop
        if there:
            yield addr.u
            addr.v = 1

    p.tasks(t1(), t2())


def cve_2017_6346(p: Program) -> None:
    """Two fanout rollovers use one pointer: freed twice, or gone."""
    f, heap, ro = p.lock("f"), Heap(p), p.var("ro")

    def add() -> Body:
        yield ro.w
        ro.v = heap.new()
        yield ro.r
        if not ro.v:
            return
        yield ro.r
        fail_if(not ro.v)
        yield f.take
        yield f.drop
        yield ro.r
        if ro.v:
            yield from heap.free(ro.v)
        yield ro.w
        ro.v = 0

    p.tasks(add(), add())


PUZZLES = tuple(
    Puzzle(name, build, published=name)
    for name, build in (
        ("CVE-2013-1792", cve_2013_1792),
        ("CVE-2016-1972", cve_2016_1972),
        ("CVE-2016-1973", cve_2016_1973),
        ("CVE-2016-7911", cve_2016_7911),
        ("CVE-2016-9806", cve_2016_9806),
        ("CVE-2017-15265", cve_2017_15265),
        ("CVE-2017-6346", cve_2017_6346),
        ("CVE-2009-3547", cve_2009_3547),
        ("CVE-2011-2183", cve_2011_2183),
        ("CVE-2015-7550", cve_2015_7550),
    )
)
