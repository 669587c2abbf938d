"""Waiting for syncobjs (fences_and_scheduler section 2; FEN-R32, FEN-B28, INV-FEN-09)."""

from __future__ import annotations

import pytest
from drm_exec_bench import every_schedule, on_all_schedules, run, under

from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_file import SyncobjFile
from svm_actors.drm.syncobj_wait import SUBMIT_TIMEOUT, SyncobjWait, WaitFlags, find_fence, wait_array
from svm_actors.engine.errors import EINVAL, ERESTARTSYS, ETIME, Deadlock, PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.engine.signalling import signalling
from svm_actors.engine.signals import flush_signals, send_signal

ALL, FOR_SUBMIT, AVAILABLE = WaitFlags.ALL, WaitFlags.FOR_SUBMIT, WaitFlags.AVAILABLE


class Bench:
    """n syncobjs and a fence for each."""

    def __init__(self, memory: FenceMemory, n: int, *, filled: bool = True) -> None:
        self.memory = memory
        self.engine = memory.engine
        self.syncobjs = [Syncobj(memory.engine, f"s{index}", memory=memory) for index in range(n)]
        self.fences = [Fence(memory.engine, f"f{index}", memory=memory) for index in range(n)]
        if filled:
            for syncobj, fence in zip(self.syncobjs, self.fences, strict=True):
                syncobj.replace_fence(fence)

    async def submit(self, index: int, point: int = 0) -> None:
        await self.engine.step("write", self.syncobjs[index])
        if point:
            self.syncobjs[index].add_point(self.fences[index], point)
        else:
            self.syncobjs[index].replace_fence(self.fences[index])

    async def signal(self, *indices: int) -> None:
        for index in indices:
            await self.engine.step("fence_signal", self.fences[index])
            self.fences[index].signal()

    async def wait(self, flags: WaitFlags = ALL, **options):  # type: ignore[no-untyped-def]
        return await wait_array(self.engine, self.syncobjs, flags=flags, **options)

    def clean(self) -> bool:
        """A wait that is over left nothing behind."""
        return all(not syncobj.waiters for syncobj in self.syncobjs) and all(
            not fence._callbacks for fence in self.fences
        )

    def drop(self) -> None:
        assert self.clean()
        for syncobj in self.syncobjs:
            syncobj.put()
        for fence in self.fences:
            fence.signal()
            fence.put()


# -- submitted already ---------------------------------------------------------------------------------


def test_all_waits_for_the_last_any_for_the_first() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 3)

        async def hardware() -> None:
            for index in (2, 0, 1):
                await bench.engine.sleep(10)
                await bench.signal(index)

        task = bench.engine.spawn(hardware(), "hardware")
        assert await bench.wait(WaitFlags(0), timeout=100) == (90, 2)
        assert await bench.wait(ALL, timeout=100) == (80, 0)
        assert await bench.wait(ALL) == (MAX_SCHEDULE_TIMEOUT, 0)
        await bench.engine.join(task)
        bench.drop()

    run(body)


def test_time_over_is_etime_and_a_poll_does_not_sleep() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 2)
        for timeout in (0, 7):
            with pytest.raises(ETIME):
                await bench.wait(timeout=timeout)
            assert bench.clean()
        assert bench.engine.now == 7
        await bench.signal(1)
        assert await bench.wait(WaitFlags(0), timeout=0) == (0, 1)
        with pytest.raises(ETIME):
            await bench.wait(ALL, timeout=0)
        bench.drop()

    run(body)


def test_nothing_submitted_or_nothing_asked_is_einval_up_front() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 2, filled=False)
        await bench.submit(0)
        with pytest.raises(EINVAL):
            await bench.wait(WaitFlags(0))
        with pytest.raises(EINVAL):
            await wait_array(bench.engine, [])
        with pytest.raises(EINVAL):
            await wait_array(bench.engine, bench.syncobjs[:1], [5])
        bench.drop()

    run(body)


def test_a_signal_interrupts_and_leaves_nothing() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 2, filled=False)

        async def waiter() -> None:
            with pytest.raises(ERESTARTSYS):
                await bench.wait(ALL | FOR_SUBMIT)
            flush_signals(bench.engine)

        await bench.submit(0)
        task = bench.engine.spawn(waiter(), "waiter")
        await bench.engine.sleep(1)
        assert not bench.clean()
        send_signal(bench.engine, task.thread)
        await bench.engine.join(task)
        bench.drop()

    run(body)


def test_the_hope_for_a_deadline_reaches_the_fences() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1)
        with pytest.raises(ETIME):
            await bench.wait(timeout=0, deadline=44)
        assert bench.fences[0].deadline == 44
        bench.drop()

    run(body)


# -- not submitted yet -----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [0, 5], ids=["binary", "timeline"])
def test_a_submission_is_never_missed(point: int) -> None:
    """Looking, registering and submitting in every order: the waiter always gets through."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1, filled=False)

        async def waiter() -> None:
            await wait_array(bench.engine, bench.syncobjs, [point], FOR_SUBMIT)
            assert bench.fences[0].signaled

        async def submitter() -> None:
            await bench.submit(0, point)
            await bench.signal(0)

        async with bench.engine.nursery() as nursery:
            nursery.start_soon(waiter)
            nursery.start_soon(submitter)
        await bench.engine.quiesce()
        bench.drop()

    assert len(list(every_schedule(under(body), limit=10_000))) > 10


def test_without_the_second_look_it_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self) -> None:  # type: ignore[no-untyped-def]
        self.syncobj.waiters.append(self)

    monkeypatch.setattr("svm_actors.drm.syncobj_wait._Entry.register", blind)

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1, filled=False)
        async with bench.engine.nursery() as nursery:
            nursery.start_soon(bench.wait, FOR_SUBMIT)
            nursery.start_soon(bench.submit, 0)
            nursery.start_soon(bench.signal, 0)
        bench.drop()

    with pytest.raises(Deadlock):
        list(every_schedule(under(body), limit=10_000))


def test_a_waiter_for_a_point_sleeps_through_earlier_points() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1, filled=False)
        syncobj, engine = bench.syncobjs[0], bench.engine
        log: list[str] = []

        async def waiter() -> None:
            await wait_array(engine, [syncobj], [3], FOR_SUBMIT)
            log.append("3 is done")

        task = engine.spawn(waiter(), "waiter")
        for point in (1, 2, 3, 4):
            await engine.sleep(1)
            log.append(f"{point} submitted, {len(syncobj.waiters)} registered")
            syncobj.signal_point(point)
        await engine.join(task)
        assert log == [
            "1 submitted, 1 registered",
            "2 submitted, 1 registered",
            "3 submitted, 1 registered",
            "3 is done",
            "4 submitted, 0 registered",
        ]
        bench.drop()

    run(body)


def test_available_is_enough_when_it_is_submitted() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 2, filled=False)

        async def submitter() -> None:
            for index in (1, 0):
                await bench.engine.sleep(10)
                await bench.submit(index)

        task = bench.engine.spawn(submitter(), "submitter")
        assert await bench.wait(AVAILABLE, timeout=100) == (90, 1)
        assert await bench.wait(AVAILABLE | ALL, timeout=100) == (90, 0)
        assert not bench.fences[0].signaled
        await bench.engine.join(task)
        bench.drop()

    run(body)


def test_a_reset_before_the_wait_is_over_does_not_matter_to_who_has_the_fence() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1)

        async def waiter() -> None:
            assert await bench.wait(ALL) == (MAX_SCHEDULE_TIMEOUT, 0)

        task = bench.engine.spawn(waiter(), "waiter")
        await bench.engine.sleep(1)
        bench.syncobjs[0].reset()
        await bench.signal(0)
        await bench.engine.join(task)
        bench.drop()

    run(body)


def test_an_in_fence_can_wait_for_its_submission_but_not_for_ever() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1, filled=False)
        engine, syncobj = bench.engine, bench.syncobjs[0]
        with pytest.raises(EINVAL):
            await find_fence(syncobj, 2)
        with pytest.raises(ETIME):
            await find_fence(syncobj, 2, for_submit=True)
        assert engine.now == SUBMIT_TIMEOUT

        async def submitter() -> None:
            await engine.sleep(10)
            await bench.submit(0, 2)

        task = engine.spawn(submitter(), "submitter")
        fence = await find_fence(syncobj, 2, for_submit=True)
        assert not fence.is_signaled()
        await engine.join(task)
        assert await find_fence(syncobj, 2, for_submit=True) is fence
        fence.put()
        fence.put()
        bench.drop()

    run(body)


# -- who may wait ---------------------------------------------------------------------------------------


def test_waiting_for_a_submission_with_a_lock_held_is_reported() -> None:
    """INV-FEN-09: the submitter may need the lock, and nobody in the kernel knows."""

    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1, filled=False)
        async with Mutex(bench.engine, "vm.lock", "vm_lock"):
            await bench.wait(FOR_SUBMIT)

    with pytest.raises(PropertyFailed, match="main waits for a submission while it holds vm") as info:
        run(body)
    assert info.value.rule == "INV-FEN-09"


@pytest.mark.parametrize("flags", [FOR_SUBMIT, AVAILABLE, WaitFlags(0)], ids=["for submit", "available", "none"])
def test_waiting_in_a_signalling_section_is_reported(flags: WaitFlags) -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1)
        with signalling(bench.engine):
            await bench.wait(flags)

    with pytest.raises(PropertyFailed) as info:
        run(body)
    assert info.value.rule == "INV-FEN-03"


def test_a_job_may_not_wait_for_a_submission() -> None:
    async def body(memory: FenceMemory) -> None:
        bench = Bench(memory, 1)
        with signalling(bench.engine):
            await find_fence(bench.syncobjs[0], for_submit=True)

    with pytest.raises(PropertyFailed, match="main waits for user space: s0"):
        run(body)


# -- life time --------------------------------------------------------------------------------------------


def waiting_while_destroyed(memory: FenceMemory):  # type: ignore[no-untyped-def]
    """FEN-R32: the handle goes while a waiter sleeps on its syncobj."""

    async def body() -> None:
        engine = memory.engine
        table = SyncobjFile(engine, "file", memory=memory)
        handle = await table.create()
        fence = Fence(engine, "job", memory=memory)
        syncobj = table.find(handle)

        async def waiter() -> None:
            assert await table.wait([handle], flags=FOR_SUBMIT) == (MAX_SCHEDULE_TIMEOUT, 0)

        task = engine.spawn(waiter(), "waiter")
        await engine.sleep(1)
        await table.destroy(handle)
        syncobj.replace_fence(fence)
        syncobj.put()
        fence.signal()
        await engine.join(task)
        fence.put()
        await table.close()

    return body()


def test_a_waiter_outlives_the_handle() -> None:
    engines = on_all_schedules(under(waiting_while_destroyed), seeds=20)
    assert all(engine.counters["FEN-R32"] for engine in engines)


def test_a_waiter_that_dropped_its_reference_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """FEN-B28: the reference is put before the wait ends."""
    original = SyncobjWait.run

    async def early(self, timeout, deadline=None):  # type: ignore[no-untyped-def]
        for entry in self.entries:
            entry.syncobj.put()
        return await original(self, timeout, deadline)

    monkeypatch.setattr(SyncobjWait, "run", early)
    with pytest.raises(PropertyFailed) as info:
        run(waiting_while_destroyed)
    assert info.value.rule == "FEN-R32"


def test_a_wait_nobody_will_end_names_the_signaler() -> None:
    async def body(memory: FenceMemory) -> None:
        engine = memory.engine

        async def hardware() -> None:
            await engine.join(main)

        main = engine.current
        assert main is not None
        task = engine.spawn(hardware(), "hardware")
        syncobj = Syncobj(engine, "s")
        syncobj.replace_fence(Fence(engine, "job", task))
        await wait_array(engine, [syncobj])

    with pytest.raises(Deadlock, match="wait-for cycle: main -> hardware -> main"):
        run(body)
