"""Tasks: ids by creation path, joining, nurseries, candidates in creation order."""

from __future__ import annotations

import pytest
from engine_toys import BACKENDS, gather, run_on

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EAGAIN, EngineError
from svm_actors.engine.nursery import Nursery
from svm_actors.engine.task import Task
from svm_actors.explore.strategies import make

on_both = pytest.mark.parametrize("back", BACKENDS)


async def nothing() -> None:
    """Ends at once."""


@on_both
def test_ids_are_creation_paths_whatever_the_schedule(back: str) -> None:
    async def program(engine: Engine) -> None:
        async def grow(depth: int) -> None:
            task = engine.current
            assert task is not None
            if depth:
                async with engine.nursery() as nursery:
                    nursery.start_soon(grow, depth - 1)
                    await engine.step("local")
                    nursery.start_soon(grow, depth - 1, name="other")
                    nursery.start_soon(grow, depth - 1)

        await grow(2)

    ids = set()
    for seed in range(10):
        outcome = run_on(back, program, make("random", seed))
        assert outcome.error is None
        ids.add(tuple(sorted({line.split(":")[0] for line in outcome.trace})))
    expected = ["main"]
    for child in ("grow.0", "grow.1", "other.0"):
        expected += [f"main/{child}"] + [f"main/{child}/{leaf}" for leaf in ("grow.0", "grow.1", "other.0")]
    assert ids == {tuple(sorted(expected))}


def test_names_without_a_parent_stay_distinct() -> None:
    async def program(engine: Engine) -> None:
        tasks = [engine.spawn(nothing(), "worker") for _ in range(3)]
        assert [task.id for task in tasks] == ["worker", "worker.1", "worker.2"]
        assert [task.thread.name for task in tasks] == ["worker", "worker.1", "worker.2"]
        assert repr(tasks[1]) == "<Task worker.1>"
        assert tasks[1].name == tasks[1].id

    assert run_on("direct", program).error is None


@on_both
def test_join_waits_for_the_end_and_returns_at_once_after_it(back: str) -> None:
    async def program(engine: Engine) -> None:
        log: list[str] = []

        async def body() -> None:
            await engine.sleep(5)
            log.append("done")

        async def other(task: Task) -> None:
            await engine.join(task)
            log.append("joined")

        task = engine.spawn(body(), "body")
        async with engine.nursery() as nursery:
            nursery.start_soon(other, task)
            nursery.start_soon(other, task)
            await engine.join(task)
            assert log[0] == "done"
        await engine.join(task)
        assert log == ["done", "joined", "joined"]

    for seed in range(6):
        assert run_on(back, program, make("random", seed)).error is None


@on_both
def test_nursery_waits_for_children_and_grandchildren_started_in_it(back: str) -> None:
    async def program(engine: Engine) -> None:
        ended: list[str] = []

        async def body(nursery: Nursery, depth: int) -> None:
            if depth:
                task = nursery.start_soon(body, nursery, depth - 1)
                assert task.parent is engine.current
            await engine.sleep(depth + 1)
            ended.append(str(depth))

        async with engine.nursery() as nursery:
            child = nursery.start_soon(body, nursery, 3)
            assert child.thread is not engine.current.thread  # type: ignore[union-attr]
            assert ended == []
        assert sorted(ended) == ["0", "1", "2", "3"]
        with pytest.raises(EngineError, match=r"main/nursery.0 is closed"):
            nursery.start_soon(nothing)

    for seed in range(6):
        assert run_on(back, program, make("random", seed)).error is None


@on_both
def test_nursery_whose_body_raises_waits_too_and_cancels_nobody(back: str) -> None:
    async def program(engine: Engine) -> None:
        ended: list[int] = []

        async def body() -> None:
            await engine.sleep(5)
            ended.append(1)

        async def fail() -> None:
            async with engine.nursery() as nursery:
                nursery.start_soon(body)
                raise EAGAIN

        with pytest.raises(EAGAIN):
            await fail()
        assert ended == [1]

    assert run_on(back, program).error is None


def test_joining_a_child_of_a_nursery() -> None:
    async def program(engine: Engine) -> None:
        async with engine.nursery() as nursery:
            quick = nursery.start_soon(nothing)
            slow = nursery.start_soon(engine.sleep, 50)
            await engine.join(quick)
            assert not slow.done
            await engine.join(slow)
            assert engine.now == 50

    for seed in range(6):
        assert run_on("direct", program, make("random", seed)).error is None


def test_empty_nursery_is_one_op() -> None:
    async def program(engine: Engine) -> None:
        before = engine.steps
        async with engine.nursery():
            pass
        assert engine.steps == before + 1

    assert run_on("direct", program).trace == ["main: join main/nursery.0"]


def test_nursery_needs_a_task() -> None:
    with pytest.raises(EngineError, match="opened by a task"):
        run_on_engine().nursery()


def run_on_engine() -> Engine:
    async def program(engine: Engine) -> None:
        """Nothing."""

    engine = run_on("direct", program).engine
    engine.current = None
    return engine


def test_candidates_are_in_creation_order_and_the_running_task_is_among_them() -> None:
    async def program(engine: Engine) -> None:
        async def body(length: int) -> None:
            await engine.sleep(length)
            for _ in range(3):
                await engine.step("local")
                assert engine.current in engine.enabled
                numbers = [task.number for task in engine.enabled]
                assert numbers == sorted(set(numbers))
                assert all(task.enabled and not task.done for task in engine.enabled)

        await gather(engine, *[lambda length=length: body(length) for length in (3, 1, 2, 1)])

    for seed in range(10):
        assert run_on("direct", program, make("random", seed)).error is None


def test_done_tasks_leave_the_books() -> None:
    async def program(engine: Engine) -> None:
        await gather(engine, nothing, nothing, nothing)
        assert list(engine.tasks.values()) == [engine.current] == engine.enabled

    assert run_on("direct", program).error is None
