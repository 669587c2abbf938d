"""Ops as text, which ops commute, and what lock order learns."""

from __future__ import annotations

import attrs
import pytest
from engine_toys import run_on
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import BY_NUMBER, KERNEL_ERRORS, KernelError, PropertyFailed
from svm_actors.engine.lockdep import must_not_hold
from svm_actors.engine.locks import Mutex
from svm_actors.engine.op import MODES, Op, conflicts, render


@attrs.define(eq=False)
class Thing:
    """Something with a name."""

    name: str


PAGE, OTHER = Thing("mm1"), Thing("mm2")


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (("start", None, None), "start"),
        (("lock", PAGE, None), "lock mm1"),
        (("pte_write", PAGE, 16), "pte_write mm1 0x10"),
        (("send", PAGE, "Munmap"), "send mm1 Munmap"),
        (("sleep", None, "backoff"), "sleep backoff"),
        (("read", PAGE, 0), "read mm1 0x0"),
    ],
)
def test_render(op: Op, text: str) -> None:
    assert render(op) == text


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("read", PAGE, None), ("read", PAGE, None), False),
        (("get", PAGE, None), ("put", PAGE, None), False),
        (("get", PAGE, None), ("read", PAGE, None), True),
        (("write", PAGE, None), ("write", PAGE, None), True),
        (("write", PAGE, None), ("write", OTHER, None), False),
        (("write", PAGE, None), ("write", Thing("mm1"), None), False),  # equal name, another object
        (("pte_write", PAGE, 1), ("pte_write", PAGE, 2), False),
        (("pte_write", PAGE, 1), ("pte_write", PAGE, 1), True),
        (("pte_write", PAGE, 1), ("pte_write", PAGE, None), True),  # the whole table
        (("send", PAGE, "Munmap"), ("send", PAGE, "Fork"), True),  # one mailbox, whatever the verbs
        (("send", PAGE, "Munmap"), ("receive", PAGE, None), True),
        (("local", None, None), ("local", None, None), False),
        (("write", None, None), ("write", None, None), False),
        (("unheard_of", PAGE, None), ("read", PAGE, None), True),
    ],
)
def test_conflicts(first: Op, second: Op, expected: bool) -> None:
    assert conflicts(first, second) is expected
    assert conflicts(second, first) is expected


ops = st.tuples(st.sampled_from(sorted(MODES)), st.sampled_from([None, PAGE, OTHER]), st.sampled_from([None, 0, 1]))


@given(first=ops, second=ops)
def test_conflict_is_symmetric_and_a_wider_key_never_conflicts_less(first: Op, second: Op) -> None:
    assert conflicts(first, second) == conflicts(second, first)
    if conflicts(first, second):
        assert conflicts((first[0], first[1], None), second)


def test_kernel_errors_by_name_and_number() -> None:
    assert list(KERNEL_ERRORS) == sorted(KERNEL_ERRORS)
    assert all(BY_NUMBER[cls.errno] is cls and cls.errno > 0 for cls in KERNEL_ERRORS.values())
    assert len(BY_NUMBER) == len(KERNEL_ERRORS)
    assert (BY_NUMBER[11]().code, KERNEL_ERRORS["EFAULT"].errno, KernelError().errno) == ("EAGAIN", 14, 0)


# -- lock order ------------------------------------------------------------------------


async def take(*locks: Mutex) -> None:
    for lock in locks:
        await lock.acquire()
    for lock in reversed(locks):
        lock.release()


def test_inversion_through_a_third_class_names_every_edge() -> None:
    async def program(engine: Engine) -> None:
        a, b, c = (Mutex(engine, name.lower(), name) for name in "ABC")
        await take(a, b)
        await take(b, c)
        await take(a, c)
        await take(c, a)

    assert str(run_on("direct", program).error) == (
        "lockdep [INV-24]: main takes A while holding C, but elsewhere: C after A at main"
    )


def test_inversion_over_a_longer_path() -> None:
    async def program(engine: Engine) -> None:
        a, b, c = (Mutex(engine, name.lower(), name) for name in "ABC")
        await take(a, b)
        await take(b, c)
        await take(c, a)

    assert str(run_on("direct", program).error) == (
        "lockdep [INV-24]: main takes A while holding C, but elsewhere: B after A at main; C after B at main"
    )


def test_trylock_teaches_no_order_but_what_is_taken_under_it_counts() -> None:
    async def program(engine: Engine) -> None:
        a, b = Mutex(engine, "a", "A"), Mutex(engine, "b", "B")
        async with a:
            assert await b.trylock()
            b.release()
        await take(b, a)  # fine so far
        assert await a.trylock()
        await b.acquire()

    assert "main takes B while holding A" in str(run_on("direct", program).error)


def test_declared_order() -> None:
    async def program(engine: Engine) -> None:
        engine.lockdep.declare("A", "B", "C")
        await take(Mutex(engine, "c", "C"), Mutex(engine, "b", "B"))

    assert str(run_on("direct", program).error).endswith("but elsewhere: C after B at the declared order")


def test_locks_of_one_class_are_not_ordered() -> None:
    async def program(engine: Engine) -> None:
        first, second = Mutex(engine, "f1", "folio"), Mutex(engine, "f2", "folio")
        await take(first, second)
        await take(second, first)

    assert run_on("direct", program).error is None


def test_context_rule() -> None:
    async def program(engine: Engine) -> None:
        task = engine.current
        assert task is not None
        async with Mutex(engine, "mm1.mmap_lock", "mmap_lock"):
            must_not_hold(task.thread, ("notifier_lock",), "allocates")
            must_not_hold(task.thread, ("notifier_lock", "mmap_lock"), "allocates")

    error = run_on("direct", program).error
    assert isinstance(error, PropertyFailed)
    assert error.text == "allocates while main holds mm1.mmap_lock"
