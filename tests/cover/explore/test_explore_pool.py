"""Work on several processes: in order, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from svm_actors.explore.pool import AHEAD, Pool, WorkersDied

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
