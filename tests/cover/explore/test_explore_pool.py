"""Work on several processes: in order, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from pickle import PickleError
from typing import Any

import pytest

from svm_actors.explore.pool import AHEAD, Call, Pool, WorkersDied, WorkHangs
from svm_actors.explore.watchdog import Overdue, time_limit

# -- what the children run --------------------------------------------------------------


def square(number: int) -> int:
    return number * number


def slow_first(number: int) -> int:
    """The first call takes longest."""
    time.sleep(0.2 if number == 0 else 0.0)
    return number


def who(_number: int) -> int:
    return os.getpid()


def refuses(number: int) -> int:
    if number == 3:
        raise LookupError("three")
    return number


def dies_once(directory: str, number: int) -> int:
    """The first process that gets 2 is killed; the next one does the work."""
    mark = Path(directory) / "died"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_always(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sum_of(words: tuple[int, ...]) -> int:
    """A call of several parts; the part 13 never ends."""
    if 13 in words:
        time.sleep(600)
    return sum(words)


def singly(call: Call) -> list[Call]:
    return [((word,),) for word in call[0]]


def numbers(count: int) -> Iterator[tuple[Any, ...]]:
    return ((number,) for number in range(count))


# -- the tests --------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs: int) -> None:
    assert list(Pool(jobs).results(square, numbers(20))) == [number * number for number in range(20)]
    assert list(Pool(jobs).results(slow_first, numbers(5))) == list(range(5))


def test_one_job_is_this_process() -> None:
    assert set(Pool(1).results(who, numbers(3))) == {os.getpid()}
    assert os.getpid() not in set(Pool(2).results(who, numbers(3)))


def test_work_is_asked_for_as_it_is_done() -> None:
    asked: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for number in range(100):
            asked.append(number)
            yield (number,)

    with closing(Pool(2).results(square, calls())) as results:
        next(results)
        assert len(asked) <= 2 * AHEAD + 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_work_passes(jobs: int) -> None:
    results = Pool(jobs).results(refuses, numbers(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="three"):
        next(results)


def test_what_a_killed_child_had_is_made_again(tmp_path: Path) -> None:
    pool = Pool(2)
    calls = ((str(tmp_path), number) for number in range(10))
    assert list(pool.results(dies_once, calls)) == list(range(10))
    assert pool.restarts == 1


def test_children_that_die_again_and_again_are_an_error_after_what_came_back() -> None:
    pool = Pool(1, describe=lambda call: f"number {call[0]}")
    pool.jobs = 2
    results = pool.results(dies_always, numbers(10))
    assert [next(results) for _ in range(2)] == [0, 1]
    with pytest.raises(WorkersDied, match=r"ended abruptly .* 4 times in a row; under way was: .*number 2"):
        next(results)


def test_an_executor_of_the_callers_is_used_and_left_open() -> None:
    with ThreadPoolExecutor(2) as executor:
        assert list(Pool(2, executor).results(square, numbers(7))) == [number * number for number in range(7)]
        assert executor.submit(square, 3).result() == 9


def test_a_broken_executor_of_the_callers_is_not_replaced() -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise BrokenProcessPool("gone")

    with Broken(1) as executor, pytest.raises(WorkersDied, match="1 times in a row"):
        list(Pool(2, executor).results(square, numbers(3)))


def test_calls_that_are_not_there_yet_are_asked_for_again() -> None:
    """None: nothing can be done before more results are in."""
    done: list[int] = []

    def calls() -> Iterator[Call | None]:
        for number in range(6):
            while len(done) < number - 1:
                yield None
            yield (number,)

    done.extend(Pool(2).results(square, calls()))
    assert done == [number * number for number in range(6)]


# -- hanging ----------------------------------------------------------------------------

WORDS = [((1, 2),), ((3, 4),), ((5, 13, 6),), ((7, 8),)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_call_that_hangs_is_ended_and_its_part_named(jobs: int) -> None:
    pool = Pool(jobs, describe=lambda call: f"part {call[0]}", limit=1.5 if jobs == 2 else 0.5, split=singly)
    results = pool.results(sum_of, iter(WORDS))
    assert [next(results) for _ in range(3)] == [3, 7, 5], "what was before it came back, in order"
    with pytest.raises(WorkHangs, match=r"part \(13,\) did not end within [\d.]+ seconds; it"):
        next(results)


def test_a_child_that_was_only_slow_once_is_given_another_chance(tmp_path: Path) -> None:
    pool = Pool(2, limit=1.0)
    pool.split = lambda call: [call, call]
    assert list(pool.results(slow_once, iter([(str(tmp_path), 4)]))) == [4, 4]
    assert pool.restarts == 1


def slow_once(directory: str, number: int) -> int:
    mark = Path(directory) / "slow"
    if not mark.exists():
        mark.touch()
        time.sleep(600)
    return number


def test_an_executor_of_the_callers_that_hangs_is_left_alone() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        results = Pool(1, executor, limit=0.1).results(lambda _: gate.wait(60), iter([(1,)]))
        with pytest.raises(WorkHangs, match="not this process's to kill"):
            next(results)
        gate.set()


def test_a_timeout_of_the_works_own_passes() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        list(Pool(2, limit=60).results(times_out, numbers(1)))


def times_out(_number: int) -> int:
    raise TimeoutError("its own")


def test_the_time_limit_leaves_the_alarm_as_it_was() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Overdue), time_limit(0.05):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_who_uses_the_alarm_already_keeps_it() -> None:
    def mine(*_: object) -> None:
        raise AssertionError("not yet")

    before = signal.signal(signal.SIGALRM, mine)
    try:
        with time_limit(0.01):
            time.sleep(0.05)
            assert signal.getsignal(signal.SIGALRM) is mine
    finally:
        signal.signal(signal.SIGALRM, before)


# -- executors that fail ----------------------------------------------------------------


def test_an_executor_that_gives_up_is_not_the_works_error() -> None:
    class GivesUp(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(RuntimeError("scheduler\nis gone"))
            return future

    with GivesUp(1) as executor, pytest.raises(WorkersDied, match=r"gave up \(RuntimeError: scheduler is gone\).*: 0"):
        list(Pool(1, executor, describe=lambda call: str(call[0])).results(square, numbers(3)))


def test_the_works_error_comes_back_from_an_executor_with_the_place_it_was_raised() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(LookupError, match="three") as caught:
        list(Pool(1, executor).results(refuses, numbers(6)))
    assert "in refuses" in caught.value.__notes__[0]


def test_work_that_cannot_be_sent_says_so() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises((PickleError, AttributeError), match="pickle"):
        list(Pool(1, executor).results(lambda number: number, numbers(1)))


def test_leaving_early_lets_the_children_go() -> None:
    pool = Pool(2)
    with closing(pool.results(who, numbers(50))) as results:
        child = next(results)
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def test_a_real_process_pool_can_be_given() -> None:
    with ProcessPoolExecutor(1) as executor:
        assert list(Pool(1, executor).results(square, numbers(3))) == [0, 1, 4]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
