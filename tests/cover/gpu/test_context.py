"""Hardware contexts: ring, switching on and off, reset (fences_and_scheduler section 9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from svm_actors.engine.engine import Engine
from svm_actors.explore.run import run
from svm_actors.gpu.context import Batch, HwContext
from svm_actors.gpu.gpu import Gpu
from svm_actors.gpu.program import Load, Spin
from svm_actors.world import World

Body = Callable[[World, HwContext], Awaitable[None]]


def context_of(world: World) -> HwContext:
    gpu: Gpu = world.gpu().gpu
    return HwContext(world.engine, "ctx", gpu.compute, 77, 5)


def trial(body: Body, seed: int | None = None) -> None:
    """One run with one context."""

    async def scenario(world: World) -> None:
        await body(world, context_of(world))

    how: dict[str, Any] = {} if seed is None else {"strategy": "random", "seed": seed}
    result = run(scenario, backend="direct", **how)
    assert result.failure is None, result.failure


def batch(context: HwContext, *program: Any, **options: Any) -> Batch:
    return Batch(tuple(program), context.new_fence(), **options)


@pytest.mark.parametrize("seed", [None, *range(10)])
def test_batches_run_in_order_while_it_is_on(seed: int | None) -> None:
    async def body(world: World, context: HwContext) -> None:
        batches = [batch(context, Spin(10), Spin(5)) for _ in range(3)]
        for one in batches:
            await context.submit(one)
        await world.settle()
        assert not any(one.started for one in batches)
        await context.switch_on()
        for number, one in enumerate(batches, 1):
            await one.fence.wait()
            assert world.engine.now == 15 * number
            assert one.results == [None, None]
            assert one.runtime(world.engine.now) == 15
        assert context.statistics() == {"ring": 0, "on": True}

    trial(body, seed)


def test_switching_off_keeps_the_place_in_a_spin() -> None:
    async def body(world: World, context: HwContext) -> None:
        acks: list[int] = []
        context.on_off_ack = lambda: acks.append(world.engine.now)
        one = batch(context, Spin(100))
        await context.submit(one)
        await context.switch_on()
        await world.sleep(30)
        await context.request_off()
        await world.sleep(1000)
        assert acks == [30]
        assert one.runtime(world.engine.now) == 30
        assert not context.busy
        await context.switch_on()
        await one.fence.wait()
        assert world.engine.now == 1100

    trial(body)


@pytest.mark.parametrize("seed", [None, *range(10)])
def test_a_spin_that_is_not_preemptible_answers_only_at_its_end(seed: int | None) -> None:
    async def body(world: World, context: HwContext) -> None:
        acks: list[int] = []
        context.on_off_ack = lambda: acks.append(world.engine.now)
        one = batch(context, Spin(100, preemptible=False), Spin(100))
        await context.submit(one)
        await context.switch_on()
        await world.sleep(1)
        await context.request_off()
        assert context.stuck
        await world.settle()
        assert acks == [100]
        assert not context.stuck
        assert one.results == [None]

    trial(body, seed)


def test_a_reset_ends_whatever_runs_and_loses_the_ring() -> None:
    async def body(world: World, context: HwContext) -> None:
        endless, behind = batch(context, Spin(None, preemptible=False)), batch(context, Spin(1))
        for one in (endless, behind):
            await context.submit(one)
        await context.switch_on()
        await world.sleep(10)
        assert endless.runtime(world.engine.now) == 10
        await context.reset()
        await world.settle()
        assert context.statistics() == {"ring": 0, "on": False}
        assert not endless.fence.is_signaled()
        assert not behind.started
        endless.rewind()
        assert endless.runtime(world.engine.now) == 0

    trial(body)


def test_a_poll_reads_memory_before_the_interrupt_comes() -> None:
    async def body(world: World, context: HwContext) -> None:
        first, second = batch(context, Spin(1)), batch(context, Spin(1))
        context.seqno_memory = first.fence.seqno
        assert first.fence.is_signaled()
        assert not second.fence.is_signaled()

    trial(body)


def test_a_refused_fault_halts_it_and_is_reported_once() -> None:
    async def body(world: World, context: HwContext) -> None:
        halts: list[str] = []
        context.on_halt = lambda: halts.append("halt")
        await context.submit(batch(context, Load(1), Load(2)))
        await context.switch_on()
        fault = await world.gpu().gpu.fault_queue.receive()
        fault.ack(14)
        await world.settle()
        assert halts == ["halt"]
        assert context.halted
        assert context.statistics() == {"ring": 1, "on": True}
        await context.reset()
        assert not context.halted

    trial(body)


@pytest.mark.parametrize("seed", [None, *range(20)])
@pytest.mark.parametrize("errno", [0, 14])
def test_a_reset_does_not_wait_for_the_answer_to_a_fault(errno: int, seed: int | None) -> None:
    """The instruction is lost: it touches nothing when the answer comes, and nobody hears of its end."""

    async def body(world: World, context: HwContext) -> None:
        halts: list[str] = []
        context.on_halt = lambda: halts.append("halt")
        lost = batch(context, Load(1))
        await context.submit(lost)
        await context.switch_on()
        fault = await world.gpu().gpu.fault_queue.receive()
        assert context.busy
        await context.reset()
        assert not context.busy
        later = batch(context, Spin(7))
        await context.submit(later)
        await context.switch_on()
        fault.ack(errno)
        await later.fence.wait()
        assert (lost.results, halts, context.halted) == ([], [], False)
        assert world.gpu().gpu.fault_queue.statistics()["faults"] == 1, "it was not tried again"

    trial(body, seed)


def test_nothing_starts_before_it_is_used() -> None:
    async def body(world: World, context: HwContext) -> None:
        engine: Engine = world.engine
        before = len(engine.tasks)
        context.new_fence()
        assert len(engine.tasks) == before

    trial(body)
