"""Programs: translation, permission, atomicity, and every way to use a translation that is stale."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
from hardware_bench import ASID, BASE_PFN, Bench, Script, Stay, every_schedule, run
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.engine.backend import DirectBackend, TrioBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, EngineError, PropertyFailed
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.gpu.events import GpuAccess, TlbFilled
from svm_actors.gpu.fault import Access
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.gpu.program import AtomicAdd, GpuFault, Load, Store
from svm_actors.gpu.tlb_inval import InvalidateTlb
from svm_actors.mm.folio import Folio

# -- the normal case -------------------------------------------------------------------------


def test_two_instructions_step_by_step() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.bind(0x10, bench.ram())
        return await bench.run(Store(0x10, 8, b"hi"), Load(0x10, 7, 4))

    bench, results = run(body)
    assert results == [None, b"\0hi\0"]
    assert bench.engine.trace() == [
        "main: tlb_fill gpu0.tlb 0x10",
        "main: store gpu0.tlb 0x10",
        "main: load gpu0.tlb 0x10",
    ]


def test_events_tell_what_happened_and_where() -> None:
    async def body(bench: Bench) -> None:
        folio = bench.device(2)
        bench.bind(1, folio)
        await bench.run(Store(1, 0, b"\x05\x00\x00\x00"), AtomicAdd(1, 0, 2), Load(1, 0, 4))
        pte = bench.page_table.get(1)
        assert bench.told(TlbFilled) == [TlbFilled("gpu0", ASID, 1, pte)]
        accesses = [(e.kind, e.old, e.data, e.write) for e in bench.told(GpuAccess)]
        assert accesses == [
            ("store", None, b"\x05\0\0\0", True),
            ("atomic", b"\x05\0\0\0", b"\x07\0\0\0", True),
            ("load", None, b"\x07\0\0\0", False),
        ]
        assert all((e.gpu, e.asid, e.vpn, e.offset) == ("gpu0", ASID, 1, 0) for e in bench.told(GpuAccess))
        assert all(e.folio is folio and e.generation == 0 for e in bench.told(GpuAccess))

    run(body)


def test_nothing_is_told_when_nobody_listens() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.engine.listeners.clear()
        bench.bind(1, bench.ram(6))
        return await bench.run(Load(1), Store(1, 0, b"x"), AtomicAdd(1, 1, 1), Load(1, 0, 2))

    bench, results = run(body, atomics_on_system=True)
    assert results == [b"\x06", None, 0x06060606, b"x\x07"]
    assert bench.events == []


def test_address_spaces_have_their_own_tables() -> None:
    async def body(bench: Bench) -> None:
        other = GpuPageTable("gpu0.vm8")
        bench.gpu.attach_vm(8, other)
        one, two = bench.ram(1), bench.ram(2)
        bench.bind(5, one)
        other.set(5, GpuPte.of(bench.address(two), True, two))
        assert await bench.run(Load(5)) == [b"\x01"]
        assert await bench.gpu.compute.run(8, [Load(5)]) == [b"\x02"]
        with pytest.raises(EngineError, match="address space 8 is in use"):
            bench.gpu.attach_vm(8, other)
        bench.gpu.detach_vm(8)
        bench.gpu.attach_vm(8, other)

    run(body)


@pytest.mark.parametrize(
    "bad",
    [
        Load(1, 0, 0),
        Load(1, -1, 1),
        Load(1, 4090, 7),
        Store(1, 0, b""),
        Store(1, 4095, b"ab"),
        AtomicAdd(1, 4093, 1),
        AtomicAdd(1, 0, 1, width=0),
    ],
)
def test_a_program_that_leaves_its_page_is_refused_before_it_starts(bad: object) -> None:
    async def body(bench: Bench) -> None:
        folio = bench.ram()
        bench.bind(1, folio)
        with pytest.raises(EINVAL):
            await bench.run(Store(1, 0, b"x"), bad)
        assert folio.content.byte(0) == 0

    bench, _ = run(body)
    assert bench.engine.trace() == []


def test_the_last_bytes_of_a_page_can_be_used() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.bind(1, bench.ram(1))
        return await bench.run(Store(1, 4095, b"x"), Load(1, 4092, 4), AtomicAdd(1, 4095, -1, width=1), Load(1, 4095))

    assert run(body, atomics_on_system=True)[1] == [None, b"\x01\x01\x01x", ord("x"), b"w"]


@given(st.integers(0, 2**32 - 1), st.integers(-(2**33), 2**33))
def test_an_atomic_add_is_addition_modulo_its_width(start: int, amount: int) -> None:
    async def body(bench: Bench) -> list[object]:
        bench.bind(1, bench.device(0))
        return await bench.run(Store(1, 4, start.to_bytes(4, "little")), AtomicAdd(1, 4, amount), Load(1, 4, 4))

    _, old, new = run(body)[1]
    assert old == start
    assert int.from_bytes(new, "little") == (start + amount) % 2**32


# -- permission ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "place", "writable", "atomics_on_system", "faults"),
    [
        (Load(1), "ram", False, False, None),
        (Store(1, 0, b"x"), "ram", True, False, None),
        (Store(1, 0, b"x"), "ram", False, False, Access.WRITE),
        (Store(1, 0, b"x"), "vram", False, False, Access.WRITE),
        (AtomicAdd(1, 0, 1), "vram", True, False, None),
        (AtomicAdd(1, 0, 1), "vram", False, False, Access.ATOMIC),
        (AtomicAdd(1, 0, 1), "ram", True, False, Access.ATOMIC),
        (AtomicAdd(1, 0, 1), "ram", True, True, None),
        (AtomicAdd(1, 0, 1), "ram", False, True, Access.ATOMIC),
        (Store(1, 0, b"x"), "peer", True, False, None),
        (AtomicAdd(1, 0, 1), "peer", True, False, Access.ATOMIC),
    ],
)
def test_what_an_entry_permits(
    instruction: Load | Store | AtomicAdd, place: str, writable: bool, atomics_on_system: bool, faults: Access | None
) -> None:
    async def body(bench: Bench) -> list[Access]:
        seen: list[Access] = []

        async def driver() -> None:
            fault = await bench.gpu.fault_queue.receive()
            seen.append(fault.access)
            fault.ack(13)

        folio = bench.ram() if place == "ram" else bench.device(0)
        dma = DmaAddr(bench.gpu.iommu.map(folio, Direction.BIDIRECTIONAL), Proto.P2P) if place == "peer" else None
        bench.bind(1, folio, writable, dma)
        bench.engine.spawn(driver(), "driver", daemon=True)
        results = await bench.run(instruction)
        assert (results == [GpuFault(13)]) is bool(seen)
        return seen

    assert run(body, atomics_on_system=atomics_on_system)[1] == ([] if faults is None else [faults])


def test_a_cached_read_only_entry_does_not_fault_once_the_table_permits_the_store() -> None:
    """An upgrade needs no flush: the hardware walks again before it faults."""

    async def body(bench: Bench) -> None:
        folio = bench.ram()
        dma = bench.bind(1, folio, writable=False)
        await bench.run(Load(1))
        bench.bind(1, folio, writable=True, dma=dma)
        await bench.run(Store(1, 0, b"x"), Load(1))

    bench, _ = run(body)
    assert bench.engine.counters["gpu.fault"] == 0
    assert bench.engine.trace() == [
        "main: tlb_fill gpu0.tlb 0x1",
        "main: load gpu0.tlb 0x1",
        "main: tlb_fill gpu0.tlb 0x1",
        "main: store gpu0.tlb 0x1",
        "main: load gpu0.tlb 0x1",
    ]


def test_a_permission_fault_drops_the_cached_entry() -> None:
    async def body(bench: Bench) -> None:
        folio = bench.ram()
        dma = bench.bind(1, folio, writable=False)
        await bench.run(Load(1))
        cached: list[bool] = []

        async def driver() -> None:
            fault = await bench.gpu.fault_queue.receive()
            cached.append(bench.gpu.tlb.any_in(ASID, 1, 2))
            bench.bind(1, folio, writable=True, dma=dma)
            fault.ack(0)

        bench.engine.spawn(driver(), "driver")
        assert await bench.run(Store(1, 0, b"x")) == [None]
        assert cached == [False]

    run(body)


def test_a_cached_writable_entry_outlives_a_downgrade_without_flush() -> None:
    """What makes forgetting the flush a bug: the store still goes through."""

    async def body(bench: Bench) -> int:
        folio = bench.ram()
        dma = bench.bind(1, folio)
        await bench.run(Load(1))
        bench.bind(1, folio, writable=False, dma=dma)
        await bench.run(Store(1, 0, b"\x07"))
        return folio.content.byte(0)

    assert run(body)[1] == 7


# -- atomicity and interleaving --------------------------------------------------------------


def values_after_two(program: Callable[[Bench], Coroutine[Any, Any, None]]) -> set[int]:
    """Values a zero counter can have after two concurrent runs of a program."""

    async def body(bench: Bench) -> int:
        folio = bench.device(0)
        bench.bind(1, folio)
        await bench.run(Load(1))
        async with bench.engine.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(program, bench)
        return int.from_bytes(folio.content.read(0, 4), "little")

    return {value for _, value in every_schedule(body)}


def test_concurrent_atomics_lose_nothing_under_any_schedule() -> None:
    async def add_twice(bench: Bench) -> None:
        await bench.run(AtomicAdd(1, 0, 1), AtomicAdd(1, 0, 1))

    assert values_after_two(add_twice) == {4}


def test_concurrent_load_and_store_lose_updates_under_some() -> None:
    async def load_then_store(bench: Bench) -> None:
        (data,) = await bench.run(Load(1, 0, 4))
        assert isinstance(data, bytes)
        await bench.run(Store(1, 0, (int.from_bytes(data, "little") + 1).to_bytes(4, "little")))

    assert values_after_two(load_then_store) == {1, 2}


def test_a_translation_flushed_between_lookup_and_access_is_looked_up_again() -> None:
    async def body(bench: Bench) -> list[object]:
        old, new = bench.ram(1), bench.ram(2)
        bench.bind(1, old)
        results: list[object] = []

        async def program() -> None:
            results.extend(await bench.run(Load(1)))

        task = bench.engine.spawn(program(), "program")
        await bench.engine.step("local")
        bench.bind(1, new)
        bench.gpu.tlb.flush(ASID, 1, 2)
        await bench.engine.join(task)
        return results

    bench, results = run(body, Script("program", "program", "main"))
    assert results == [b"\x02"]
    assert [line for line in bench.engine.trace() if line.startswith("program")] == [
        "program: start",
        "program: tlb_fill gpu0.tlb 0x1",
        "program: load gpu0.tlb 0x1",
        "program: tlb_fill gpu0.tlb 0x1",
        "program: load gpu0.tlb 0x1",
    ]


# -- stale translations ----------------------------------------------------------------------


def take_away(bench: Bench, folio: Folio, dma: DmaAddr, how: str) -> None:
    """Unmap and free a page, and give address and frame to another, as ``how`` says."""
    in_ram = not folio.is_device_private
    if "unmap" in how:
        bench.gpu.iommu.unmap(dma.addr)
    if "free" in how:
        folio.put("test")
    if "reuse" in how:
        newcomer = bench.ram(2) if in_ram else bench.device(0, 2)
        if "unmap" in how:
            assert bench.address(newcomer).addr == dma.addr


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize(
    ("place", "how", "match"),
    [
        ("ram", "unmap", "RULE-18"),
        ("ram", "free", "INV-05"),
        ("ram", "free reuse", "INV-05"),
        ("ram", "unmap reuse", "stale translation"),
        ("ram", "unmap free reuse", "stale translation"),
        ("vram", "free", "INV-05"),
        ("vram", "free reuse", "stale translation"),
    ],
)
def test_a_page_taken_away_under_a_live_translation_is_caught(place: str, how: str, match: str, flush: bool) -> None:
    """Through the TLB entry, and, when the TLB was flushed but the page table was not, through that."""

    async def body(bench: Bench) -> None:
        folio = bench.ram(1) if place == "ram" else bench.device(0, 1)
        dma = bench.bind(1, folio)
        await bench.run(Load(1))
        take_away(bench, folio, dma, how)
        if flush:
            bench.gpu.tlb.flush(ASID, 1, 2)
        await bench.run(Load(1))

    with pytest.raises(PropertyFailed, match=match):
        run(body)


def test_a_page_taken_away_in_the_right_order_is_only_a_fault() -> None:
    async def body(bench: Bench) -> list[object]:
        folio = bench.ram(1)
        dma = bench.bind(1, folio)
        await bench.run(Load(1))
        bench.page_table.clear_range(1, 2)
        bench.gpu.tlb.flush(ASID, 1, 2)
        bench.gpu.iommu.unmap(dma.addr)
        folio.put("test")

        async def driver() -> None:
            (await bench.gpu.fault_queue.receive()).ack(14)

        bench.engine.spawn(driver(), "driver")
        return await bench.run(Load(1))

    assert run(body)[1] == [GpuFault(14)]


def test_a_store_to_the_shared_zero_page_is_caught() -> None:
    async def body(bench: Bench) -> None:
        bench.bind(1, bench.allocator.zero_folio)
        assert await bench.run(Load(1)) == [b"\0"]
        await bench.run(Store(1, 0, b"x"))

    with pytest.raises(PropertyFailed, match="INV-17"):
        run(body)


def test_a_store_through_a_read_only_dma_mapping_is_caught() -> None:
    async def body(bench: Bench) -> None:
        folio = bench.ram()
        bench.bind(1, folio, True, bench.address(folio, Direction.TO_DEVICE))
        await bench.run(Store(1, 0, b"x"))

    with pytest.raises(PropertyFailed, match="RULE-45"):
        run(body)


def test_the_report_of_a_stale_translation_names_both_pages() -> None:
    async def body(bench: Bench) -> None:
        old = bench.device(3)
        bench.bind(1, old)
        await bench.run(Load(1))
        old.put("test")
        bench.device(3)
        await bench.run(Load(1))

    with pytest.raises(PropertyFailed) as info:
        run(body)
    assert info.value.text == (
        "gpu0 access to page 0x1 of address space 7 goes through a stale translation: "
        f"written for page {BASE_PFN + 3:#x} generation 0, leads to folio:8003 generation 1"
    )


# -- back ends -------------------------------------------------------------------------------


async def mixed_program(bench: Bench) -> list[object]:
    """Faults, a copy and a TLB flush, two programs at once: a bit of everything."""

    async def driver() -> None:
        for _ in range(2):
            fault = await bench.gpu.fault_queue.receive()
            bench.bind(fault.vpn, bench.device(fault.vpn))
            fault.ack(0)

    results: list[object] = []

    async def program(vpn: int) -> None:
        results.extend(await bench.run(Store(vpn, 0, b"ab"), AtomicAdd(vpn, 0, 1, 1), Load(vpn, 0, 2)))

    bench.engine.spawn(driver(), "driver")
    async with bench.engine.nursery() as nursery:
        nursery.start_soon(program, 1)
        nursery.start_soon(program, 2)
    source, target = bench.pgmap.live[BASE_PFN + 1], bench.ram()
    copied = await bench.gpu.copy.call(SubmitCopy(((bench.address(source), bench.address(target)),)))
    _, flushed = await bench.gpu.tlb_inval.call(InvalidateTlb(ASID, 0, 2**36))
    await copied.wait()
    await flushed.wait()
    return [*results, target.content.read(0, 2), len(bench.gpu.tlb)]


class Rotate:
    """Takes the candidates in turn: many switches, no chance."""

    name = "rotate"

    def __init__(self) -> None:
        self.turn = 0

    def schedule(self, running: object, candidates: list[object], timer: bool) -> int:
        self.turn += 1
        return self.turn % len(candidates)

    def data(self, count: int, label: str) -> int:
        return 0


def test_both_back_ends_give_the_same_trace() -> None:
    async def on_trio() -> tuple[list[str], list[object]]:
        backend = TrioBackend()
        engine = Engine(backend, Rotate(), record=True)
        async with backend:
            backend.adopt_host()
            results = await mixed_program(Bench(engine))
        return engine.trace(), results

    bench, results = run(mixed_program, Rotate())
    assert trio.run(on_trio) == (bench.engine.trace(), results)
    assert results.count(b"bb") == 3
    assert results[-1] == 0


def test_building_a_gpu_starts_no_task_and_takes_no_page() -> None:
    engine = Engine(DirectBackend(), Stay())
    bench = Bench(engine)
    bench.gpu.start()
    assert engine.tasks == {}
    assert bench.gpu.statistics() == {
        "mappings": 0,
        "reservations": 0,
        "faults": 0,
        "queued": 0,
        "outstanding": 0,
        "tlb_entries": 0,
        "address_spaces": 1,
    }
