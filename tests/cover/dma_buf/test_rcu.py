"""RCU: a callback waits for the readers that were there, and for no others (fences_and_scheduler 1.1, FEN-R05)."""

from __future__ import annotations

import pytest
from fence_bench import every_schedule, on_all_schedules, run, under

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.rcu import Rcu
from svm_actors.dma_buf.rcu_pointer import RcuPointer
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import Deadlock, EngineError, PropertyFailed


def test_without_readers_a_callback_runs_soon_and_in_order() -> None:
    async def body(memory: FenceMemory) -> None:
        rcu, log = memory.rcu, []
        for number in range(3):
            rcu.call(lambda number=number: log.append(number))
        assert log == []
        assert rcu.pending == 3
        await rcu.barrier()
        assert log == [0, 1, 2]
        assert rcu.pending == 0

    on_all_schedules(under(body), seeds=5)


def test_it_waits_for_readers_before_it_and_not_for_those_after() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, rcu, log = memory.engine, memory.rcu, []

        async def reader(name: str, start: int, length: int) -> None:
            await engine.sleep(start)
            with rcu.reading(), rcu.reading():
                await engine.sleep(length)
                log.append(f"{name} leaves")

        async with engine.nursery() as nursery:
            nursery.start_soon(reader, "early", 1, 10)
            nursery.start_soon(reader, "late", 5, 100)
            await engine.sleep(3)
            rcu.call(lambda: log.append("freed"))
            await rcu.barrier()
            log.append("barrier")
        assert log == ["early leaves", "freed", "barrier", "late leaves"]

    on_all_schedules(under(body), seeds=10)


def test_a_reader_that_never_leaves_is_named_in_the_report() -> None:
    async def body(memory: FenceMemory) -> None:
        async def stuck() -> None:
            with memory.rcu.reading():
                await memory.engine.join(main)

        main = memory.engine.current
        assert main is not None
        memory.engine.spawn(stuck(), "stuck")
        await memory.engine.sleep(1)
        memory.rcu.call(lambda: None)
        await memory.rcu.barrier()

    with pytest.raises(Deadlock, match="wait-for cycle: main -> stuck -> main"):
        run(body)


def test_leaving_a_section_one_is_not_in_is_an_error() -> None:
    async def body(memory: FenceMemory) -> None:
        memory.rcu.read_unlock()

    with pytest.raises(EngineError, match="leaves a read section"):
        run(body)


def test_an_rcu_nobody_uses_starts_no_task() -> None:
    async def body(memory: FenceMemory) -> None:
        with memory.rcu.reading():
            pass
        assert len(memory.engine.tasks) == 1

    run(body)


# -- the pointer -------------------------------------------------------------------------------


def replacing(engine: Engine, pointer: RcuPointer, memory: FenceMemory):
    """A writer that replaces the fence and drops the old one."""

    async def writer(old: Fence) -> None:
        new = Fence(engine, "new", memory=memory)
        await pointer.assign(new)
        await engine.step("put", old)
        old.put()

    return writer


def race(memory: FenceMemory, *, safe: bool = True):
    """A reader takes a reference while the writer replaces and drops."""

    async def body() -> None:
        engine = memory.engine
        pointer = RcuPointer(engine, "slot", memory.rcu)
        old = Fence(engine, "old", memory=memory)
        await pointer.assign(old)

        async def reader() -> None:
            if safe:
                fence = await pointer.get_safe()
                assert fence is not None
            else:
                await engine.step("read", pointer)
                fence = pointer._fence
                assert fence is not None
                await engine.step("get", fence)
                fence = fence.get()
            engine.count(f"got {fence.name}")
            await engine.step("local")
            fence.is_signaled()
            fence.put()

        async with engine.nursery() as nursery:
            nursery.start_soon(reader)
            nursery.start_soon(replacing(engine, pointer, memory), old)
        new = pointer._fence
        assert new is not None
        new.put()

    return body()


def test_the_safe_way_gets_a_live_fence_in_every_interleaving() -> None:
    engines = list(every_schedule(under(race), limit=5000))
    assert {(engine.counters["got old"], engine.counters["got new"]) for engine in engines} == {(1, 0), (0, 1)}
    assert any(engine.counters["FEN-R05"] for engine in engines)


def test_the_plain_way_takes_a_reference_on_the_dead() -> None:
    with pytest.raises(PropertyFailed, match="reference taken on old, which is dead") as info:
        list(every_schedule(under(lambda memory: race(memory, safe=False)), limit=5000))
    assert info.value.rule == "FEN-R05"


def test_without_a_read_section_the_memory_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rcu, "read_lock", lambda self: None)
    monkeypatch.setattr(Rcu, "read_unlock", lambda self: None)
    with pytest.raises(PropertyFailed, match="old is looked at after it was freed"):
        list(every_schedule(under(race), limit=5000))


def test_an_empty_pointer_gives_nothing() -> None:
    async def body(memory: FenceMemory) -> None:
        pointer = RcuPointer(memory.engine, "slot", memory.rcu)
        assert not pointer
        assert await pointer.get_safe() is None

    run(body)
