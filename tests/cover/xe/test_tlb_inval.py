"""The TLB-invalidation client: numbers, coalescing, timeout, reset (vm_bind section 13)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from svm_bench import BASE, attempt, every, hit, run, start

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.actor import Message
from svm_actors.engine.errors import EIO, ENOTRECOVERABLE, ETIME
from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.tlb_inval import InvalidateTlb
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.world import World
from svm_actors.xe.tlb_inval import SEQNO_MAX, TIMEOUT_NS, XeTlbInval, seqno_past

NUMBERS = st.integers(1, SEQNO_MAX - 1)


def client_of(world: World, **options: Any) -> XeTlbInval:
    return XeTlbInval(world.gpu().gpu, **options)


class Silent(XeTlbInval):
    """Its hardware answers only when the test says so."""

    async def send(self, message: InvalidateTlb, fence: Any) -> None:
        if self.refused is not None:
            raise self.refused
        await self.engine.step("send", self.gpu.tlb_inval.ring)


class Broken(XeTlbInval):
    """Its transport fails."""

    async def send(self, message: InvalidateTlb, fence: Any) -> None:
        raise EIO


def pending_numbers(client: XeTlbInval) -> list[int]:
    return list(client.pending)


# -- numbers -----------------------------------------------------------------------------


@given(NUMBERS, st.integers(0, SEQNO_MAX // 2 - 1))
def test_a_number_is_past_up_to_half_a_round(recv: int, back: int) -> None:
    assert seqno_past(recv, (recv - back) % SEQNO_MAX)


@given(NUMBERS, st.integers(1, SEQNO_MAX // 2))
def test_a_number_ahead_is_not_past(recv: int, ahead: int) -> None:
    assert not seqno_past(recv, (recv + ahead) % SEQNO_MAX)


def test_numbers_go_round_and_zero_is_skipped() -> None:
    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        client.seqno = SEQNO_MAX - 1
        client.seqno_recv = SEQNO_MAX - 2
        fences = [await client.submit(1, 0, 1) for _ in range(3)]
        assert pending_numbers(client) == [SEQNO_MAX - 1, 1, 2]
        client.done(1)
        assert [fence.signaled for fence in fences] == [True, True, False]
        client.done(2)
        assert fences[2].signaled
        assert client.seqno == 3

    run(scenario)


def test_numbers_have_twenty_bits() -> None:
    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        client.seqno, client.seqno_recv = 0xFFFFF, 0xFFFFE
        for _ in range(2):
            await client.submit(1, 0, 1)
        assert pending_numbers(client) == [0xFFFFF, 1]
        assert client.before(1) == 0xFFFFF
        client.done(1)

    run(scenario)


# -- acknowledgements ----------------------------------------------------------------------


def test_the_worker_reads_acknowledgements_in_the_order_in_which_they_came() -> None:
    """VMB-R27: then none of those it reads completes another."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        fences = [await client.submit(1, page, page + 1) for page in range(3)]
        client._unread += [1, 2, 3]
        await client._read()
        assert all(fence.signaled for fence in fences)
        assert (client.stats.completed, client.stats.coalesced, client.stats.past) == (3, 0, 0)

    run(scenario)


def test_one_acknowledgement_completes_everything_before_it() -> None:
    """VMB-R27."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        fences = [await client.submit(1, page, page + 1) for page in range(4)]
        client.done(3)
        assert [fence.signaled for fence in fences] == [True, True, True, False]
        client.done(2)
        assert [fence.signaled for fence in fences] == [True, True, True, False]
        assert (client.stats.coalesced, client.stats.past) == (2, 1)
        assert world.engine.counters["VMB-R27"] == 2
        client.done(SEQNO_MAX)
        client.done(4)
        assert client.statistics() == {"pending": 0}

    run(scenario)


def test_an_interrupt_that_has_the_channel_to_itself_reads_at_once() -> None:
    """VMB-R27: nothing is left to the worker, and there is nothing to choose."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        for page in range(6):
            fence = await client.submit(1, page, page + 1)
            client.heard(page + 1)
            assert fence.signaled

    list(every(scenario, 5))


@given(st.lists(st.integers(1, 8), max_size=12))
def test_whatever_order_acknowledgements_come_in_each_fence_signals_once(order: list[int]) -> None:
    """INV-VMB-12: signaled are exactly those up to the highest number heard."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        fences = [await client.submit(1, page, page + 1) for page in range(8)]
        for seqno in order:
            client.done(seqno)
        highest = max(order, default=0)
        assert [fence.signaled for fence in fences] == [number <= highest for number in range(1, 9)]
        assert client.stats.completed == highest

    run(scenario)


def test_concurrent_submitters_get_numbers_in_the_order_of_the_hardware() -> None:
    """The lock makes number, list and ring one order: the hardware works in the order of the numbers."""

    async def scenario(world: World) -> None:
        client = client_of(world)
        signaled: list[int] = []

        async def submit(page: int) -> None:
            fence = await client.submit(1, page, page + 1)
            fence.add_callback(lambda done: signaled.append(done.seqno)) if not fence.signaled else None
            await client.wait(fence)

        async with world.nursery() as nursery:
            for page in range(4):
                nursery.start_soon(submit, page)
        assert signaled == sorted(signaled)
        assert client.seqno_recv == 4
        assert client.stats.completed == 4

    list(every(scenario))


def test_without_the_lock_the_hardware_works_in_another_order() -> None:
    class Unlocked(XeTlbInval):
        async def submit(self, asid: int, start: int, end: int) -> Fence:
            fence = self.prepare()
            await self.engine.step("local", self.seqno_lock)
            await self.send(InvalidateTlb(asid, start, end), fence)
            return fence

    async def scenario(world: World) -> None:
        client = Unlocked(world.gpu().gpu)

        async def submit(page: int) -> None:
            vm_fence = await client.submit(1, page, page + 1)
            assert vm_fence.signaled in (True, False)

        flushed: list[int] = []
        world.engine.listeners.append(lambda event: flushed.append(event.start) if hasattr(event, "dropped") else None)
        fences: dict[int, Fence] = {}

        async def check(page: int) -> None:
            fences[page] = await client.submit(1, page, page + 1)
            await fences[page].wait()
            assert page in flushed, "signaled before its range was flushed"

        async with world.nursery() as nursery:
            for page in range(4):
                nursery.start_soon(check, page)

    assert any(attempt(scenario, "random", seed).failure for seed in range(60))


# -- when it goes wrong ----------------------------------------------------------------------


async def one_overdue(world: World, apart: int) -> tuple[Silent, Fence, Fence]:
    """Two flushes that nobody answers, the second so many ns after the first, until the timer has ended the first."""
    client = Silent(world.gpu().gpu, timeout=TIMEOUT_NS)
    first = await client.submit(1, 0, 1)
    await world.sleep(apart)
    second = await client.submit(1, 1, 2)
    await client.wait(first)
    return client, first, second


def test_what_is_overdue_ends_with_etime_up_to_the_first_that_is_not() -> None:
    async def scenario(world: World) -> None:
        client, first, second = await one_overdue(world, TIMEOUT_NS // 2)
        assert isinstance(first.error, ETIME)
        assert not second.signaled
        assert world.engine.now == TIMEOUT_NS
        client.done(1)
        assert client.stats.past == 0
        client.done(2)
        assert second.error is None

    run(scenario)


def test_the_timer_gives_the_next_one_the_time_that_it_has_left() -> None:
    async def scenario(world: World) -> None:
        client, _first, second = await one_overdue(world, TIMEOUT_NS // 4)
        await client.wait(second)
        assert isinstance(second.error, ETIME)
        assert world.engine.now == TIMEOUT_NS + TIMEOUT_NS // 4

    run(scenario)


def test_an_acknowledgement_in_time_disarms_the_timer() -> None:
    async def scenario(world: World) -> None:
        client = client_of(world, timeout=TIMEOUT_NS)
        for page in range(3):
            fence = await client.submit(1, page, page + 1)
            await client.wait(fence)
            assert fence.error is None
        await world.settle()
        assert "tlb.timeout" not in world.engine.counters

    run(scenario)


def test_a_late_acknowledgement_races_the_timer() -> None:
    """VMB-R26: signaled once, with the error or without."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu, timeout=TIMEOUT_NS)
        fence = await client.submit(1, 0, 1)

        async def answer() -> None:
            await world.sleep(TIMEOUT_NS)
            client.done(1)

        async with world.nursery() as nursery:
            nursery.start_soon(answer)
        await client.wait(fence)
        assert client.stats.completed == 1

    runs = list(every(scenario, 60))
    late = hit(runs, "tlb.timeout")["tlb.timeout"]
    assert 0 < late < len(runs)


def test_a_reset_completes_everything_and_late_answers_are_past() -> None:
    """VMB-R26: no error, since the reset has dropped the translations; numbers go on."""

    async def scenario(world: World) -> None:
        client = Silent(world.gpu().gpu)
        fences = [await client.submit(1, page, page + 1) for page in range(3)]
        await client.reset()
        assert all(fence.signaled and fence.error is None for fence in fences)
        for late in (1, 3):
            client.done(late)
        assert client.stats.past == 2
        fence = await client.submit(1, 0, 1)
        assert pending_numbers(client) == [4]
        client.done(4)
        assert fence.signaled

    for result in every(scenario, 10):
        assert result.counters["VMB-R26"] == 2


def test_a_reset_drops_every_translation_of_every_address_space() -> None:
    flushed: list[TlbFlushed] = []

    async def scenario(world: World) -> None:
        _process, vm = await start(world)
        await vm.load(BASE)
        device = world.gpu()
        assert list(device.gpu.tlb.entries())
        world.engine.listeners.append(lambda event: flushed.append(event) if isinstance(event, TlbFlushed) else None)
        await device.driver.tlb_inval.reset()
        assert not list(device.gpu.tlb.entries())
        assert [(event.asid, event.start, event.end) for event in flushed] == [(vm.vm.asid, 0, TASK_PAGES)]

    run(scenario)


def test_resets_at_any_moment_of_submissions() -> None:
    """INV-VMB-12: nothing hangs, nothing signals twice."""

    async def scenario(world: World) -> None:
        client = client_of(world)

        async def submit(page: int) -> None:
            for _ in range(2):
                fence = await client.submit(1, page, page + 1)
                await client.wait(fence)
                assert fence.error is None

        async with world.nursery() as nursery:
            for page in range(3):
                nursery.start_soon(submit, page)
            nursery.start_soon(client.reset)
        assert client.stats.completed == 6
        assert client.statistics() == {"pending": 0}

    runs = list(every(scenario, 80))
    assert hit(runs, "VMB-R26")["VMB-R26"]


def test_a_send_while_the_backend_is_off_counts_as_done() -> None:
    """VMB-B27."""

    async def scenario(world: World) -> None:
        client = client_of(world)
        client.refused = ENOTRECOVERABLE()
        fence = await client.submit(1, 0, 1)
        assert fence.signaled
        assert fence.error is None
        assert client.statistics() == {"pending": 0}

    run(scenario)


def test_any_other_send_error_is_the_error_of_the_fence() -> None:
    async def scenario(world: World) -> None:
        fence = await Broken(world.gpu().gpu).submit(1, 0, 1)
        assert isinstance(fence.error, EIO)
        with pytest.raises(Exception, match="VMB"):
            Broken(world.gpu().gpu).complete(fence, None)  # type: ignore[arg-type]

    run(scenario)


def test_a_client_is_a_client_of_the_plain_hardware() -> None:
    """What the driver's users see: one fence per request, in order."""

    async def scenario(world: World) -> None:
        message: Message[Any] = InvalidateTlb(1, 0, 1)
        number, fence = await world.gpu().gpu.tlb_inval.call(message)
        own = await world.gpu().driver.tlb_inval.submit(1, 0, 1)
        await own.wait()
        assert number == 1
        assert fence.signaled

    run(scenario)
