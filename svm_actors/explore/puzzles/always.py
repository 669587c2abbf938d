"""Programs beside the published table: some fail on every schedule, one never (exploration digest, 3.6, 2.4).

What fails always is a smoke test of a harness: one that finds nothing there explores nothing.

Simplified: ``arithmetic_prog`` and ``fsbench`` are reduced to what the digest says of them, a final
formula that is wrong and one task more than there are locks.
"""

from __future__ import annotations

from collections.abc import Callable

from svm_actors.explore.puzzles.program import Body, Condition, Program, Puzzle, fail_if


def phase01(p: Program) -> None:
    """One lock is never released by anybody who has it."""
    x, y = p.lock("x"), p.lock("y")

    def user() -> Body:
        yield x.take
        yield x.drop
        yield x.take
        yield y.take
        yield y.drop
        yield y.take
        yield y.drop

    p.tasks(user(), user())


def handing_over(rounds: int, at_first: int, *, takes: bool = True) -> Callable[[Program], None]:
    """sync01, sync02: the producer wants none left, the consumer wants one; what there is at first decides."""

    def build(p: Program) -> None:
        m, empty, full = p.lock("m"), Condition("empty"), Condition("full")
        num = p.var("num", at_first)

        def producer() -> Body:
            for _ in range(rounds):
                yield m.take
                yield num.r
                while num.v > 0:
                    yield from empty.wait(m)
                    yield num.r
                yield num.w
                num.v += 1
                yield m.drop
                yield full.signal

        def consumer() -> Body:
            for _ in range(rounds):
                yield m.take
                yield num.r
                while num.v == 0:
                    yield from full.wait(m)
                    yield num.r
                if takes:
                    yield num.w
                    num.v -= 1
                yield m.drop
                yield empty.signal

        p.tasks(producer(), consumer())

    return build


def arithmetic_prog(p: Program) -> None:
    """A sum that is compared with the wrong formula."""
    m, total = p.lock("m"), p.var("total")

    def add(value: int) -> Body:
        yield m.take
        yield total.w
        total.v += value
        yield m.drop

    p.tasks(add(1), add(2))
    p.finally_fails(lambda: total.v != 1 * 2 + 2)


def fsbench(p: Program) -> None:
    """One task more than there are locks, each using the lock of its number."""
    index_of, locks = p.var("index"), [p.lock(f"lock{i}") for i in range(2)]

    def user(index: int) -> Body:
        yield index_of.r
        fail_if(index >= len(locks))
        yield locks[index].take
        yield locks[index].drop

    p.tasks(*(user(index) for index in range(3)))


def satisfied_philosophers(count: int) -> Callable[[Program], None]:
    """Philosophers who dine one at a time; it counts as a failure that all of them have."""

    def build(p: Program) -> None:
        g, forks, phil = p.lock("g"), [p.lock(f"f{i}") for i in range(count)], p.var("phil")

        def dine(i: int) -> Body:
            left, right = forks[i], forks[(i + 1) % count]
            yield g.take
            yield right.take
            yield left.take
            yield left.drop
            yield right.drop
            yield g.drop
            yield phil.r
            seen = phil.v
            yield phil.w
            phil.v = seen + 1
            yield phil.r
            fail_if(phil.v == count)

        p.tasks(*(dine(i) for i in range(count)))

    return build


def philosophers(count: int) -> Callable[[Program], None]:
    """Each takes the left fork, then the right one: deadlock when all have one."""

    def build(p: Program) -> None:
        forks = [p.lock(f"f{i}") for i in range(count)]

        def dine(i: int) -> Body:
            left, right = forks[i], forks[(i + 1) % count]
            yield left.take
            yield right.take
            yield right.drop
            yield left.drop

        p.tasks(*(dine(i) for i in range(count)))

    return build


PUZZLES = (
    Puzzle("phase01", phase01),
    Puzzle("sync01", handing_over(1, 1, takes=False)),
    Puzzle("sync02", handing_over(2, 2)),
    Puzzle("sync02, num=0, N=3", handing_over(3, 0)),
    Puzzle("arithmetic_prog", arithmetic_prog),
    Puzzle("fsbench", fsbench),
    Puzzle("din_phil2", satisfied_philosophers(2)),
    Puzzle("din_phil3", satisfied_philosophers(3)),
    Puzzle("phil2", philosophers(2)),
    Puzzle("phil3", philosophers(3)),
    Puzzle("phil4", philosophers(4)),
)
