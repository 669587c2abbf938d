"""dma_fence selftests: cases D1 to D12, each on many schedules.

A jiffy is a tick of virtual time.  Every case also ends with the checks the catalogue adds: no fence,
chain or callback is left alive.
"""

from __future__ import annotations

import pytest
import test_dma_fence_chain_selftests  # noqa: F401 -- the other half of the suite, for the table
from cases import case, every_schedule, on_all_schedules, table
from mock_fence import SUITE, Body, check, mock, program, raise_signal

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.fence_wait import add_callback
from svm_actors.dma_buf.rcu_pointer import RcuPointer
from svm_actors.dma_buf.stub import dma_fence_get_stub
from svm_actors.engine.errors import EIO, ENOENT, PropertyFailed
from svm_actors.engine.locks import WaitQueue

TICK = 1_000_000
HZ = 1000 * TICK


# -- dma_fence ---------------------------------------------------------------------------


@case(SUITE, "D1", "sanitycheck")
def test_d1_sanitycheck() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        fence.signal()
        assert not fence.freed
        fence.put()
        with pytest.raises(PropertyFailed, match="put more often"):
            fence.put()
        await memory.drain()
        assert fence.freed
        assert memory.born == 1

    check(body)


@case(SUITE, "D2", "test_signaling")
def test_d2_test_signaling() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert not fence.is_signaled()
        assert fence.check_and_signal() is False
        assert fence.is_signaled()
        assert fence.signaled
        assert fence.check_and_signal() is True
        fence.put()

    check(body)


@case(SUITE, "D3", "test_add_callback")
def test_d3_test_add_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        fence.add_callback(seen.append)
        assert seen == []
        fence.signal()
        assert seen == [fence]
        fence.put()

    check(body)


@case(SUITE, "D4", "test_late_add_callback")
def test_d4_test_late_add_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        fence.enable_sw_signaling()
        fence.signal()
        with pytest.raises(ENOENT):
            fence.add_callback(seen.append)
        assert not fence.signal()
        assert seen == []
        fence.put()

    check(body)


@case(SUITE, "D5", "test_rm_callback")
def test_d5_test_rm_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        cb = fence.add_callback(seen.append)
        assert fence.remove_callback(cb) is True
        fence.signal()
        assert seen == []
        fence.put()

    check(body)


@case(SUITE, "D6", "test_late_rm_callback")
def test_d6_test_late_rm_callback() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        cb = fence.add_callback(seen.append)
        fence.signal()
        assert seen == [fence]
        assert fence.remove_callback(cb) is False
        fence.put()

    check(body)


@case(SUITE, "D7", "test_status")
def test_d7_test_status() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert fence.get_status() == 0
        fence.signal()
        assert fence.get_status() == 1
        fence.put()

    check(body)


@case(SUITE, "D8", "test_error")
def test_d8_test_error() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        fence.set_error(EIO())
        assert fence.get_status() == 0
        fence.signal()
        assert fence.get_status() == -EIO.errno
        fence.put()

    check(body)


@case(SUITE, "D9", "test_wait")
def test_d9_test_wait() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.enable_sw_signaling()
        assert await fence.wait_timeout(0) == 0
        fence.signal()
        assert await fence.wait_timeout(0) == 1
        fence.put()

    check(body)


@case(SUITE, "D10", "test_wait_timeout")
def test_d10_test_wait_timeout() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, engine = mock(memory), memory.engine
        assert await fence.wait_timeout(TICK) == 0
        assert engine.now == TICK

        async def timer() -> None:
            await engine.sleep(TICK)
            await raise_signal(fence)

        async with engine.nursery() as nursery:
            nursery.start_soon(timer)
            assert await fence.wait_timeout(HZ) == HZ - TICK
        assert engine.now == 2 * TICK
        fence.put()

    check(body)


@case(SUITE, "D11", "test_stub")
def test_d11_test_stub() -> None:
    async def body(memory: FenceMemory) -> None:
        stubs = [dma_fence_get_stub(memory.engine, memory) for _ in range(64)]
        assert all(stub.is_signaled() for stub in stubs)
        assert len(set(stubs)) == 1
        assert stubs[0].refs == 65
        for stub in stubs:
            stub.put()
        assert stubs[0].refs == 1

    check(body)


class Race:
    """D12: each side publishes a fence, takes the other's, and adds a callback to it."""

    def __init__(self, memory: FenceMemory, *, before: bool, rounds: int) -> None:
        self.memory = memory
        self.engine = memory.engine
        self.before = before
        self.rounds = rounds
        self.slots = [RcuPointer(self.engine, f"slot{side}", memory.rcu) for side in range(2)]
        self.changed = WaitQueue(self.engine, "slots")
        self.finished = [False, False]

    async def side(self, me: int) -> None:
        for number in range(self.rounds):
            await self.round(me, number)
        self.finished[me] = True
        self.changed.wake_up()

    async def publish(self, me: int, fence: Fence | None) -> None:
        await self.slots[me].assign(fence)
        self.changed.wake_up()

    async def take(self, other: int) -> Fence | None:
        """The other side's fence; it may vanish meanwhile.  None once that side is through."""
        while True:
            await self.changed.wait_event(lambda: bool(self.slots[other]) or self.finished[other])
            fence = await self.slots[other].get_safe()
            if fence is not None or self.finished[other]:
                return fence

    async def round(self, me: int, number: int) -> None:
        mine = mock(self.memory, f"mock{me}.{number}")
        await self.publish(me, mine)
        theirs = await self.take(1 - me)
        if self.before:
            await raise_signal(mine)
        seen: list[Fence] = []
        missed = not await self.add(theirs, seen)
        if not self.before:
            await raise_signal(mine)
        if theirs is not None:
            if not missed:
                await theirs.wait()
                theirs.remove_callback(seen.append)  # the pass through the other fence's lock
                assert seen == [theirs]
            theirs.put()
        await self.publish(me, None)
        mine.put()

    async def add(self, theirs: Fence | None, seen: list[Fence]) -> bool:
        if theirs is None:
            return False
        try:
            await add_callback(theirs, seen.append)
        except ENOENT:
            self.engine.count("missed")
            return False
        self.engine.count("added")
        return True


def race(*, before: bool, rounds: int) -> Body:
    async def body(memory: FenceMemory) -> None:
        both = Race(memory, before=before, rounds=rounds)
        async with memory.engine.nursery() as nursery:
            for me in range(2):
                nursery.start_soon(both.side, me)

    return body


@case(SUITE, "D12", "race_signal_callback")
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_d12_race_signal_callback(before: bool) -> None:
    engines = on_all_schedules(program(race(before=before, rounds=4)), seeds=200)
    for window in ("added", "missed", "FEN-R01", "FEN-R05"):
        assert any(engine.counters[window] for engine in engines), window


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_d12_every_interleaving_of_signal_and_add(before: bool) -> None:
    """The core of D12 without the slots: both hold both fences, one round."""

    async def body(memory: FenceMemory) -> None:
        fences = [mock(memory, f"mock{side}") for side in range(2)]
        both = Race(memory, before=before, rounds=1)

        async def side(me: int) -> None:
            seen: list[Fence] = []
            if before:
                await raise_signal(fences[me])
            added = await both.add(fences[1 - me], seen)
            if not before:
                await raise_signal(fences[me])
            if added:
                await fences[1 - me].wait()
                assert seen == [fences[1 - me]]

        async with memory.engine.nursery() as nursery:
            for me in range(2):
                nursery.start_soon(side, me)
        for fence in fences:
            fence.put()

    outcomes = {
        (engine.counters["added"], engine.counters["FEN-R01"]) for engine in every_schedule(program(body), limit=3000)
    }
    # Signaling first leaves at most one side something to wait for; adding first may leave both.
    assert outcomes == ({(0, 0), (0, 1), (1, 0)} if before else {(1, 0), (1, 1), (2, 0)})


# -- the model-level checks --------------------------------------------------------------


def test_callbacks_run_once_each_in_registration_order() -> None:
    async def body(memory: FenceMemory) -> None:
        fence, seen = mock(memory), []
        for number in range(20):
            fence.add_callback(lambda _, number=number: seen.append(number))
        await raise_signal(fence)
        await raise_signal(fence)
        assert seen == list(range(20))
        fence.put()

    check(body)


def test_an_error_after_the_signal_is_reported() -> None:
    async def body(memory: FenceMemory) -> None:
        fence = mock(memory)
        fence.signal()
        fence.set_error(EIO())

    with pytest.raises(PropertyFailed, match="EIO after it has signaled"):
        check(body)


def test_the_table_has_every_case_of_the_catalogue() -> None:
    rows = table(SUITE)
    assert [row.id for row in rows] == [f"C{i}" for i in range(1, 12)] + [f"D{i}" for i in range(1, 13)]
    assert {row.verdict for row in rows} == {"tested"}
    assert all(row.test is not None and row.test.partition("::")[2].endswith(row.name) for row in rows)
