"""The TLB-invalidation engine: in order, never narrower than asked, done when acknowledged."""

from __future__ import annotations

from hardware_bench import ASID, Bench, every_schedule, run
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.gpu.events import TlbFlushed
from svm_actors.gpu.page_table import GpuPte
from svm_actors.gpu.program import Load
from svm_actors.gpu.tlb_inval import InvalidateTlb, power_of_two


def cache(bench: Bench, *vpns: int) -> None:
    """Put translations into the TLB as if they had been used."""
    folio = bench.ram()
    dma = bench.address(folio)
    for vpn in vpns:
        bench.gpu.tlb.fill(ASID, vpn, GpuPte.of(dma, True, folio))


def cached(bench: Bench) -> list[int]:
    return [vpn for _, vpn, _ in bench.gpu.tlb.entries()]


def test_one_invalidation_from_doorbell_to_acknowledgement() -> None:
    async def body(bench: Bench) -> None:
        cache(bench, 3, 4, 5, 6)
        seqno, fence = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, 4, 6))
        assert seqno == 1
        assert not fence.signaled
        await fence.wait()
        assert fence.error is None
        assert cached(bench) == [3, 6]

    bench, _ = run(body)
    assert bench.engine.trace() == [
        "main: send gpu0.tlb_inval.ring InvalidateTlb",
        "gpu0.tlb_inval: start",
        "gpu0.tlb_inval: receive gpu0.tlb_inval.ring",
        "gpu0.tlb_inval: tlb_flush gpu0.tlb",
        "gpu0.tlb_inval: fence_signal gpu0.tlb_inval.fence.1",
        "main: fence_wait gpu0.tlb_inval.fence.1",
    ]
    assert bench.told(TlbFlushed) == [TlbFlushed("gpu0", ASID, 4, 6, 2)]


def test_acknowledgements_come_in_order_under_every_schedule() -> None:
    async def body(bench: Bench) -> list[int]:
        cache(bench, 1, 2)
        order: list[int] = []
        fences = []
        for start in (1, 2):
            seqno, fence = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, start, start + 1))
            fence.add_callback(lambda _, seqno=seqno: order.append(seqno))
            fences.append(fence)
        await fences[1].wait()
        assert fences[0].signaled
        assert bench.gpu.tlb_inval.acked == 2
        assert cached(bench) == []
        return order

    outcomes = [order for _, order in every_schedule(body)]
    assert len(outcomes) > 3
    assert all(order == [1, 2] for order in outcomes)


def test_sequence_numbers_follow_the_order_on_the_ring_for_concurrent_submitters() -> None:
    async def submit(bench: Bench, start: int, log: list[tuple[int, int]]) -> None:
        seqno, fence = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, start, start + 1))
        log.append((seqno, start))
        await fence.wait()

    async def body(bench: Bench) -> tuple[int, ...]:
        cache(bench, 1, 2)
        log: list[tuple[int, int]] = []
        async with bench.engine.nursery() as nursery:
            nursery.start_soon(submit, bench, 1, log)
            nursery.start_soon(submit, bench, 2, log)
        flushed = [event.start for event in bench.told(TlbFlushed)]
        assert flushed == [start for _, start in sorted(log)]
        return tuple(flushed)

    assert {order for _, order in every_schedule(body, limit=40_000)} == {(1, 2), (2, 1)}


def test_no_access_uses_an_invalidated_translation_after_the_acknowledgement() -> None:
    """The page-table entry is gone, the TLB entry is not: until the fence signals, loads may still hit."""

    async def reader(bench: Bench, log: list[bool]) -> None:
        log.append((await bench.run(Load(1)))[0] == b"\x2a")

    async def body(bench: Bench) -> bool:
        folio = bench.ram(42)
        bench.bind(1, folio)
        await bench.run(Load(1))
        log: list[bool] = []
        bench.engine.spawn(reader(bench, log), "reader", daemon=True)
        bench.page_table.clear_range(1, 2)
        _, fence = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, 1, 2))
        await fence.wait()
        hit = bool(log)
        for _ in range(8):
            await bench.engine.step("local")
        assert hit or not log, "a load went through after the acknowledgement"
        return hit

    assert {hit for _, hit in every_schedule(body)} == {True, False}


def test_a_wider_flush_takes_the_neighbours_too() -> None:
    async def body(bench: Bench) -> None:
        bench.gpu.tlb_inval.widen = power_of_two
        cache(bench, 3, 4, 5, 6, 7, 8)
        _, fence = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, 5, 7))
        await fence.wait()
        assert cached(bench) == [3, 8]

    bench, _ = run(body)
    assert bench.told(TlbFlushed) == [TlbFlushed("gpu0", ASID, 4, 8, 4)]


@given(st.integers(0, 2**36), st.integers(1, 2**20))
def test_the_real_command_covers_a_range_with_the_smallest_aligned_power_of_two(start: int, npages: int) -> None:
    base, end = power_of_two(start, start + npages)
    size = end - base
    assert base <= start < start + npages <= end
    assert size & (size - 1) == 0
    assert base % size == 0
    assert size < 512 or size >= 4096
    half = size // 2
    fits_in_half = start // half == (start + npages - 1) // half if half else False
    assert not fits_in_half or size == 4096
