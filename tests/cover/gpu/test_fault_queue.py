"""Faults: bounded queue, back-pressure, one acknowledgement each (gpusvm section 5, RULE-30)."""

from __future__ import annotations

import pytest
from hardware_bench import ASID, Bench, Script, every_schedule, run

from svm_actors.engine.errors import Deadlock, EngineError, PropertyFailed
from svm_actors.gpu.fault import Access
from svm_actors.gpu.program import GpuFault, Load, Store


async def serve(bench: Bench, count: int, errno: int = 0) -> list[int]:
    """A driver that binds a fresh page for each fault; the pages it was asked for."""
    pages = []
    for _ in range(count):
        fault = await bench.gpu.fault_queue.receive()
        pages.append(fault.vpn)
        if not errno:
            bench.bind(fault.vpn, bench.ram(fault.vpn % 256))
        fault.ack(errno)
    return pages


def test_a_miss_faults_and_is_replayed_after_the_acknowledgement() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.engine.spawn(serve(bench, 1), "driver")
        return await bench.run(Load(0x11))

    bench, results = run(body)
    assert results == [b"\x11"]
    assert bench.engine.trace() == [
        "main: tlb_fill gpu0.tlb 0x11",
        "main: send gpu0.faults",
        "driver: start",
        "driver: receive gpu0.faults",
        "main: reply gpu0.faults.ack",
        "main: tlb_fill gpu0.tlb 0x11",
        "main: load gpu0.tlb 0x11",
    ]
    assert bench.engine.counters == {"gpu.fault": 1, "gpu.replay": 1}
    assert bench.gpu.fault_queue.statistics() == {"faults": 1, "queued": 0, "outstanding": 0}


def test_the_driver_sees_what_was_wanted() -> None:
    async def body(bench: Bench) -> None:
        seen = []

        async def driver() -> None:
            for _ in range(2):
                fault = await bench.gpu.fault_queue.receive()
                seen.append((fault.gpu, fault.number, fault.asid, fault.vpn, fault.access))
                bench.bind(fault.vpn, bench.ram(), writable=fault.access is Access.WRITE)
                fault.ack(0)

        bench.engine.spawn(driver(), "driver")
        await bench.run(Load(5), Store(5, 0, b"x"))
        assert seen == [("gpu0", 1, ASID, 5, Access.READ), ("gpu0", 2, ASID, 5, Access.WRITE)]

    run(body)


def test_a_refused_fault_ends_the_program() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.bind(1, bench.ram(3))
        bench.engine.spawn(serve(bench, 1, errno=14), "driver")
        return await bench.run(Load(1), Load(2), Load(1))

    bench, results = run(body)
    assert results == [b"\x03", GpuFault(14)]
    assert bench.engine.counters == {"gpu.fault": 1}


def test_an_unknown_address_space_faults_like_any_other() -> None:
    async def body(bench: Bench) -> list[object]:
        bench.engine.spawn(serve(bench, 1, errno=22), "driver")
        return await bench.gpu.compute.run(99, [Load(1)])

    assert run(body)[1] == [GpuFault(22)]


def test_a_full_queue_makes_the_hardware_wait_and_loses_nothing() -> None:
    async def body(bench: Bench) -> list[int]:
        programs = [bench.engine.spawn(bench.run(Load(vpn)), f"p{vpn}") for vpn in (1, 2, 3)]
        for _ in range(3):
            await bench.engine.step("local")
        driver = bench.engine.spawn(serve(bench, 3), "driver")
        for program in programs:
            await bench.engine.join(program)
        await bench.engine.join(driver)
        return [event.data[0] for event in bench.events if hasattr(event, "kind")]

    script = Script(*["p1"] * 3, *["p2"] * 2, *["p3"] * 2)
    bench, loads = run(body, script, fault_queue_size=1)
    assert loads == [1, 2, 3]
    assert bench.engine.counters["gpu.fault_queue_full"] == 2
    assert [line for line in bench.engine.trace() if "gpu0.faults" in line and "ack" not in line] == [
        "p1: send gpu0.faults",
        "driver: receive gpu0.faults",
        "p2: send gpu0.faults",
        "driver: receive gpu0.faults",
        "p3: send gpu0.faults",
        "driver: receive gpu0.faults",
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_every_fault_is_served_under_every_schedule(size: int) -> None:
    async def body(bench: Bench) -> tuple[int, ...]:
        driver = bench.engine.spawn(serve(bench, 2), "driver")
        async with bench.engine.nursery() as nursery:
            for vpn in (1, 2):
                nursery.start_soon(bench.run, Load(vpn))
        await bench.engine.join(driver)
        assert bench.gpu.fault_queue.statistics() == {"faults": 2, "queued": 0, "outstanding": 0}
        return tuple(event.vpn for event in bench.events if hasattr(event, "kind"))

    assert {order for _, order in every_schedule(body, limit=60_000, fault_queue_size=size)} == {(1, 2), (2, 1)}


def test_faults_are_taken_out_in_the_order_they_came_in() -> None:
    async def body(bench: Bench) -> list[int]:
        programs = [bench.engine.spawn(bench.run(Load(vpn)), f"p{vpn}") for vpn in (1, 2)]
        for _ in range(3):
            await bench.engine.step("local")
        pages = await serve(bench, 2)
        for program in programs:
            await bench.engine.join(program)
        return pages

    assert run(body, Script("p2", "p2", "p2", "p1", "p1", "p1"))[1] == [2, 1]


def test_two_faults_on_one_page_are_two_faults() -> None:
    async def body(bench: Bench) -> list[int]:
        programs = [bench.engine.spawn(bench.run(Load(4)), name) for name in ("a", "b")]
        for _ in range(3):
            await bench.engine.step("local")
        pages = await serve(bench, 2)
        for program in programs:
            await bench.engine.join(program)
        return pages

    bench, pages = run(body, Script("a", "a", "a", "b", "b", "b"))
    assert pages == [4, 4]
    assert bench.engine.counters["gpu.replay"] == 2


def test_acknowledging_twice_is_caught() -> None:
    async def body(bench: Bench) -> None:
        bench.engine.spawn(bench.run(Load(1)), "program")
        fault = await bench.gpu.fault_queue.receive()
        fault.ack(5)
        with pytest.raises(PropertyFailed, match="RULE-30"):
            fault.ack(0)
        with pytest.raises(PropertyFailed, match="fault 1 is acknowledged twice"):
            fault.ack(5)

    run(body)


def test_an_errno_is_positive() -> None:
    async def body(bench: Bench) -> None:
        bench.engine.spawn(bench.run(Load(1)), "program")
        fault = await bench.gpu.fault_queue.receive()
        with pytest.raises(EngineError, match="not -14"):
            fault.ack(-14)
        assert bench.gpu.fault_queue.statistics()["outstanding"] == 1
        fault.ack(14)
        assert bench.gpu.fault_queue.statistics()["outstanding"] == 0

    run(body)


def test_a_forgotten_acknowledgement_hangs_the_program_and_the_report_names_the_driver() -> None:
    async def body(bench: Bench) -> None:
        async def driver() -> None:
            await bench.gpu.fault_queue.receive()
            await bench.gpu.fault_queue.receive()

        bench.engine.spawn(driver(), "driver")
        await bench.run(Load(1))

    with pytest.raises(Deadlock) as info:
        run(body)
    assert "main is blocked in reply gpu0.faults.ack" in str(info.value)
    assert "driver is blocked in receive gpu0.faults" in str(info.value)


def test_a_driver_that_acknowledges_without_binding_is_asked_again() -> None:
    async def body(bench: Bench) -> list[object]:
        async def driver() -> None:
            for _ in range(3):
                (await bench.gpu.fault_queue.receive()).ack(0)
            await serve(bench, 1)

        bench.engine.spawn(driver(), "driver")
        return await bench.run(Load(8))

    bench, results = run(body)
    assert results == [b"\x08"]
    assert bench.engine.counters == {"gpu.fault": 4, "gpu.replay": 4}
