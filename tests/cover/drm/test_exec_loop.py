"""drm_exec: the loop, the contended object, duplicates, errors (fences_and_scheduler 4.2, INV-FEN-06)."""

from __future__ import annotations

import pytest
from drm_exec_bench import Bo, Scripted, bos, every_schedule, idle, locking, run, under
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import RESERVATION_WW_CLASS, Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import EALREADY, EDEADLK, EINTR, EINVAL, ENOMEM, EngineError, PropertyFailed
from svm_actors.engine.signals import flush_signals, send_signal
from svm_actors.engine.ww_mutex import WwCtx

# -- without contention -------------------------------------------------------------------------


def test_one_pass_locks_what_the_body_asks_for_and_leaving_unlocks_it() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 3)
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(locking(objects))
            assert exec_.objects == objects
            assert all(bo.resv.ww.held_by_me() for bo in objects)
            assert [bo.refs for bo in objects] == [2, 2, 2]
            assert exec_.passes == 1
        assert idle(objects)

    run(body)


def test_an_empty_body_is_fine() -> None:
    async def body(memory: FenceMemory) -> None:
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(locking([]))
            assert exec_.objects == []

    run(body)


def test_nothing_more_may_be_locked_after_the_loop() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 2)
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(locking(objects[:1]))
            await exec_.lock_obj(objects[1])

    with pytest.raises(PropertyFailed, match="after acquire_done"):
        run(body)


def test_locking_outside_of_the_loop_is_an_error() -> None:
    async def body(memory: FenceMemory) -> None:
        await DrmExec(memory.engine).lock_obj(bos(memory, 1)[0])

    with pytest.raises(EngineError, match="exec locks outside of until_all_locked"):
        run(body)


def test_there_is_one_loop() -> None:
    async def body(memory: FenceMemory) -> None:
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(locking([]))
            await exec_.until_all_locked(locking([]))

    with pytest.raises(EngineError, match="has been through its loop already"):
        run(body)


def test_duplicates_are_an_error_or_ignored_as_asked() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 2)
        twice = [*objects, objects[0]]
        with DrmExec(memory.engine, ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(locking(twice))
            assert exec_.objects == objects
        with DrmExec(memory.engine) as exec_, pytest.raises(EALREADY):
            await exec_.until_all_locked(locking(twice))
        assert idle(objects)

    run(body)


def test_objects_with_one_reservation_are_duplicates_of_each_other() -> None:
    async def body(memory: FenceMemory) -> None:
        vm = Bo(memory, "vm")
        local = Bo(memory, "local", vm.resv)
        with DrmExec(memory.engine, ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(locking([vm, local]))
            assert exec_.objects == [vm]
        assert idle([vm, local])

    run(body)


def test_one_object_can_be_let_go_early() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 3)
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(locking(objects[:2]))
            exec_.unlock_obj(objects[0])
            exec_.unlock_obj(objects[2])
            assert exec_.objects == [objects[1]]
            assert not objects[0].resv.is_locked()
        assert idle(objects)

    run(body)


# -- slots -----------------------------------------------------------------------------------------


def test_prepare_reserves_slots_so_that_adding_cannot_fail() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 2)
        fence = Fence(memory.engine, "job", memory=memory)
        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(lambda exec_: exec_.prepare_array(objects, 1))
            for bo in exec_.objects:
                bo.resv.add(fence, Usage.BOOKKEEP)
        assert fence.refs == 3
        fence.signal()
        for bo in objects:
            bo.resv.fini()
        fence.put()

    run(body)


def test_preparing_no_slot_is_einval_and_leaves_it_unlocked() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 2)

        async def pass_(exec_: DrmExec) -> None:
            await exec_.lock_obj(objects[0])
            with pytest.raises(EINVAL):
                await exec_.prepare_obj(objects[1], 0)
            assert exec_.objects == objects[:1]

        with DrmExec(memory.engine) as exec_:
            await exec_.until_all_locked(pass_)
        assert idle(objects)

    run(body)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=12))
def test_whatever_allocation_fails_nothing_stays_locked(failures: list[int]) -> None:
    """INV-FEN-06 with -ENOMEM at every allocation there is (FEN-B30)."""

    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 3)
        try:
            with DrmExec(memory.engine, memory=memory) as exec_:
                await exec_.until_all_locked(lambda exec_: exec_.prepare_array(objects, 2))
                assert exec_.objects == objects
        except ENOMEM:
            assert any(failures)
        assert idle(objects)

    run(body, Scripted(*failures), inject=True)


# -- contention ---------------------------------------------------------------------------------------


class Older:
    """A thread with an older stamp that holds one object for a while."""

    def __init__(self, memory: FenceMemory, bo: Bo, *, until: int = 10) -> None:
        self.engine = memory.engine
        self.bo = bo
        self.until = until
        self.task = memory.engine.spawn(self.hold(), "older")

    async def hold(self) -> None:
        ctx = WwCtx(self.engine, RESERVATION_WW_CLASS)
        await self.bo.resv.lock(ctx)
        await self.engine.sleep(self.until)
        self.bo.resv.unlock()
        ctx.fini()


def test_contention_drops_everything_and_starts_with_the_contended_object() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 3)
        older = Older(memory, objects[1])
        await engine.sleep(1)
        log: list[str] = []

        async def pass_(exec_: DrmExec) -> None:
            log.append(f"pass {exec_.passes} at {engine.now}")
            for bo in objects:
                await exec_.lock_obj(bo)
                log.append(f"{bo} at {engine.now}: {exec_.objects}")

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
            assert exec_.objects == objects
            assert [bo.refs for bo in objects] == [2, 2, 2]
        await engine.join(older.task)
        assert log == [
            "pass 1 at 1",
            "bo0 at 1: [bo0]",
            "pass 2 at 1",
            "bo0 at 10: [bo0]",
            "bo1 at 10: [bo0, bo1]",
            "bo2 at 10: [bo0, bo1, bo2]",
        ]
        assert idle(objects)

    engine = run(body)
    assert engine.counters["exec.retry"] == 1
    assert engine.counters["FEN-R12"] == 1


def test_the_stamp_is_kept_over_retries() -> None:
    """FEN-R13: backing off twice, for two older threads, with one and the same age."""

    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 3)
        tasks = [Older(memory, objects[1], until=10).task, Older(memory, objects[2], until=30).task]
        await engine.sleep(1)
        stamps: list[int] = []

        async def pass_(exec_: DrmExec) -> None:
            assert exec_.ticket is not None
            stamps.append(exec_.ticket.stamp)
            await locking(objects)(exec_)

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
        assert stamps == [3, 3, 3]
        for task in tasks:
            await engine.join(task)

    assert run(body).counters["FEN-R13"] == 1


@pytest.mark.parametrize("asks_again", [True, False])
def test_a_contended_object_that_is_not_asked_for_again_is_let_go(asks_again: bool) -> None:
    """FEN-B25: it must not be among the locked ones, or the caller would fence a foreign object."""

    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 3)
        older = Older(memory, objects[1])
        await engine.sleep(1)

        async def pass_(exec_: DrmExec) -> None:
            await exec_.lock_obj(objects[0])
            if asks_again or exec_.passes == 1:
                await exec_.lock_obj(objects[1])
            await exec_.lock_obj(objects[2])

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
            assert exec_.objects == (objects if asks_again else [objects[0], objects[2]])
            assert objects[1].resv.is_locked() is asks_again
            assert objects[1].refs == 1 + asks_again
        await engine.join(older.task)
        assert idle(objects)

    run(body)


def test_a_second_pass_that_asks_for_nothing_ends_the_loop() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 2)
        older = Older(memory, objects[1])
        await engine.sleep(1)

        async def pass_(exec_: DrmExec) -> None:
            if exec_.passes == 1:
                await locking(objects)(exec_)

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
            assert (exec_.passes, exec_.objects) == (2, [])
        await engine.join(older.task)
        assert idle(objects)

    run(body)


def test_the_contended_object_counts_for_any_object_with_its_reservation() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, first = memory.engine, Bo(memory, "first")
        vm = Bo(memory, "vm")
        local = Bo(memory, "local", vm.resv)
        older = Older(memory, vm)
        await engine.sleep(1)

        async def pass_(exec_: DrmExec) -> None:
            await exec_.lock_obj(first)
            await exec_.lock_obj(vm if exec_.passes == 1 else local)

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
            assert exec_.objects == [first, local]
            assert (vm.refs, local.refs) == (1, 2)
            assert vm.resv.is_locked()
        await engine.join(older.task)
        assert idle([first, vm, local])

    run(body)


def test_a_body_that_swallows_the_contention_is_run_again() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 2)
        older = Older(memory, objects[1])
        await engine.sleep(1)

        async def pass_(exec_: DrmExec) -> None:
            try:
                await locking(objects)(exec_)
            except EDEADLK:
                engine.count("swallowed")

        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(pass_)
            assert exec_.objects == objects
        await engine.join(older.task)

    assert run(body).counters["swallowed"] == 1


def test_an_edeadlk_of_somebody_else_passes_through() -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 1)

        async def pass_(exec_: DrmExec) -> None:
            await exec_.lock_obj(objects[0])
            raise EDEADLK

        with DrmExec(memory.engine) as exec_, pytest.raises(EDEADLK):
            await exec_.until_all_locked(pass_)
        assert idle(objects)

    run(body)


def test_a_body_that_keeps_state_of_an_earlier_pass_goes_wrong() -> None:
    """Why it must be idempotent: with -EDEADLK injected, a list that is not reset counts an object twice."""

    async def body(memory: FenceMemory) -> None:
        objects, careless, careful = bos(memory, 3), [], []

        async def pass_(exec_: DrmExec) -> None:
            careful.clear()
            for bo in objects:
                await exec_.lock_obj(bo)
                careless.append(bo)
                careful.append(bo)

        with DrmExec(memory.engine, inject=True) as exec_:
            await exec_.until_all_locked(pass_)
            assert exec_.passes == 2
        assert careful == objects
        assert len(careless) == 4

    run(body, Scripted(1))


@settings(max_examples=60, deadline=None)
@given(failures=st.lists(st.integers(0, 1), max_size=14), missing=st.sets(st.integers(0, 3), max_size=2))
def test_injected_contention_at_every_lock_with_and_without_memory(failures: list[int], missing: set[int]) -> None:
    async def body(memory: FenceMemory) -> None:
        objects = bos(memory, 4)

        async def pass_(exec_: DrmExec) -> None:
            wanted = [bo for index, bo in enumerate(objects) if exec_.passes == 1 or index not in missing]
            await exec_.prepare_array(wanted, 1)

        try:
            with DrmExec(memory.engine, memory=memory, inject=True) as exec_:
                await exec_.until_all_locked(pass_)
                wanted = [bo for index, bo in enumerate(objects) if exec_.passes == 1 or index not in missing]
                assert exec_.objects == wanted
                assert [bo for bo in objects if bo.resv.is_locked()] == wanted
        except ENOMEM:
            pass
        assert idle(objects)

    run(body, Scripted(*failures), inject=True)


# -- interruption ------------------------------------------------------------------------------------


@pytest.mark.parametrize("while_slow", [False, True], ids=["first lock", "contended lock"])
def test_an_interrupted_lock_leaves_nothing_locked(while_slow: bool) -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 2)
        older = Older(memory, objects[1])
        await engine.sleep(1)

        async def thread() -> None:
            wanted = objects if while_slow else objects[1:]
            with DrmExec(engine, interruptible=True) as exec_, pytest.raises(EINTR):
                await exec_.until_all_locked(locking(wanted))
            assert exec_.passes == 1 + while_slow
            assert [bo.refs for bo in objects] == [1, 1]
            flush_signals(engine)

        task = engine.spawn(thread(), "thread")
        await engine.sleep(2)
        send_signal(engine, task.thread)
        await engine.join(task)
        await engine.join(older.task)
        assert idle(objects)

    run(body)


def test_without_the_flag_a_signal_changes_nothing() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 2)
        older = Older(memory, objects[1])
        await engine.sleep(1)
        assert engine.current is not None
        send_signal(engine, engine.current.thread)
        with DrmExec(engine) as exec_:
            await exec_.until_all_locked(locking(objects))
            assert exec_.objects == objects
        await engine.join(older.task)

    run(body)


# -- every interleaving of a small one -------------------------------------------------------------------


def test_two_execs_of_two_objects_in_every_interleaving() -> None:
    async def body(memory: FenceMemory) -> None:
        engine, objects = memory.engine, bos(memory, 2)

        async def thread(order: list[Bo]) -> None:
            with DrmExec(engine) as exec_:
                await exec_.until_all_locked(locking(order))
                assert exec_.objects == order
                await engine.step("local")
                assert all(bo.resv.ww.held_by_me() for bo in order)
            engine.count(f"passes {exec_.passes}")

        async with engine.nursery() as nursery:
            nursery.start_soon(thread, objects)
            nursery.start_soon(thread, objects[::-1])
        assert idle(objects)

    engines = list(every_schedule(under(body), limit=20_000))
    assert {(engine.counters["passes 1"], engine.counters["passes 2"]) for engine in engines} == {(2, 0), (1, 1)}
