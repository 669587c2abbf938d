"""Home by CPU fault: only the faulting page must move, and losing to somebody else is success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pagemap_bench import SCHEDULES, Machine, counted, every, run

from svm_actors.drm.pagemap_ram import REFAULT_INTERVAL_NS
from svm_actors.engine.errors import EFAULT
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import SIGBUS
from svm_actors.mm.mm_struct import Mm

MS = 1_000_000
Thread = Callable[[Machine, int], Awaitable[None]]


async def in_vram(machine: Machine, npages: int = 4, timeslice_ns: int = 0) -> int:
    """Pages 1, 2, 3 ... in VRAM."""
    at = await machine.map(npages)
    await machine.write(at, *range(1, npages + 1))
    assert await machine.populate(at, npages, timeslice_ns) == "ok"
    return at


async def together(machine: Machine, at: int, *threads: Thread) -> None:
    async with machine.engine.nursery() as nursery:
        for number, thread in enumerate(threads):
            nursery.start_soon(thread, machine, at, name=f"{thread.__name__}{number}")


# -- alone ----------------------------------------------------------------------------------


def test_one_fault_brings_the_allocation_home() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        assert await machine.read(at + 2) == [3]
        assert machine.where(at, 4) == "rrrr"
        await machine.xe[0].flush()
        assert not any(machine.xe[0].statistics().values())

    counts = run(body).engine.counters
    assert (counts["migrate.to_ram"], counts["migrate.partial"]) == (1, 0)


def test_a_write_fault_goes_home_too_and_the_write_follows() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await machine.write(at + 1, 99)
        assert await machine.read(at, 4) == [1, 99, 3, 4]

    run(body)


def test_the_window_is_clipped_to_the_vma() -> None:
    """PGM-R09: half of the allocation's place is unmapped, or belongs to a new mapping."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await machine.unmap(at + 2, 2)
        assert await machine.read(at) == [1]
        assert machine.where(at, 4) == "rr--"
        await machine.map(2, at=at + 2)

    counts = run(body).engine.counters
    assert counts["PGM-R09"] == 1


def test_what_lives_elsewhere_is_not_what_somebody_else_has() -> None:
    """PGM-R01 is counted when a page of the window could not be had, not when the allocation has others."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await machine.move(at + 2, 2, at + 64)
        assert await machine.read(at, 2) == [1, 2]
        assert machine.where(at, 2) + machine.where(at + 64, 2) == "rr00"

    assert run(body).engine.counters["PGM-R01"] == 0


def test_after_mremap_a_window_moves_only_pages_of_its_own_allocation() -> None:
    """PGM-R10: moved to an odd place, one aligned window holds pages of two allocations."""

    async def body(machine: Machine) -> None:
        at = await machine.map(8)
        await machine.write(at, *range(1, 9))
        assert await machine.populate(at, 4) == await machine.populate(at + 4, 4) == "ok"
        target = at + 64 + 2
        await machine.move(at, 8, target)
        assert machine.where(target, 8) == "00000000"
        assert await machine.read(target + 4) == [5]
        assert machine.where(target, 8) == "0000rr00"
        assert await machine.read(target, 8) == [1, 2, 3, 4, 5, 6, 7, 8]

    assert run(body).engine.counters["PGM-R10"] == 2


def test_a_page_mapped_by_two_processes_comes_home_in_both() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        child = await machine.fork()
        assert machine.where(at, 4, child) == "0000"
        await machine.write(at + 1, 50, mm=child)
        assert machine.where(at, 4) == machine.where(at, 4, child) == "rrrr"
        assert await machine.read(at, 4) == [1, 2, 3, 4]
        assert await machine.read(at, 4, mm=child) == [1, 50, 3, 4]

    run(body)


@pytest.mark.parametrize("failing", ["ram", "map", "copy"])
def test_an_error_is_a_bus_error_and_leaves_the_page_in_vram(failing: str) -> None:
    """C6: destinations are put, sources restored; the next access may succeed."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        xe = machine.xe[0]
        copy = xe.copy_to_ram

        async def fail(*_: Any) -> None:
            raise EFAULT

        if failing == "ram":
            machine.core.allocator.fail_next = 1
        elif failing == "map":
            machine.gpus[0].iommu.fail_next = 1
        else:
            xe.copy_to_ram = fail  # type: ignore[method-assign]
        with pytest.raises(SIGBUS):
            await machine.read(at)
        assert machine.where(at, 4) == "0000"
        assert machine.core.allocator.live == {}
        xe.copy_to_ram = copy  # type: ignore[method-assign]
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    assert run(body).engine.counters["migrate.to_ram.error"] == 1


# -- timeslice --------------------------------------------------------------------------------


@pytest.mark.parametrize("timeslice", [0, 1, 5 * MS, 7 * MS + 1])
def test_a_cpu_access_waits_for_the_timeslice_and_not_longer(timeslice: int) -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine, timeslice_ns=timeslice)
        begin = machine.engine.now
        assert machine.zdd(at).devmem.timeslice_expiration == begin + timeslice
        assert await machine.read(at) == [1]
        assert machine.engine.now == begin + timeslice

    rounds = run(body).engine.counters["migrate.timeslice"]
    assert rounds == -(-timeslice // REFAULT_INTERVAL_NS)


def test_expiration_is_set_before_any_entry_names_the_pages() -> None:
    """PGM-R24: a CPU thread that spins on the window never pulls it back early."""

    async def toucher(machine: Machine, at: int) -> None:
        while machine.where(at) == "r":
            await machine.engine.step("local")
        assert await machine.read(at) == [1]
        machine.results["read at"] = machine.engine.now

    async def mover(machine: Machine, at: int) -> None:
        machine.results["populate"] = await machine.populate(at, 4, 5 * MS)

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        await together(machine, at, mover, toucher)

    for seed in range(SCHEDULES):  # random ones only: the toucher spins, which takes a fair scheduler
        machine = run(body, "random", seed)
        assert (machine.results["populate"], machine.results["read at"]) == ("ok", 5 * MS)


def test_a_waiting_thread_holds_up_neither_munmap_nor_eviction() -> None:
    """PGM-R11, PGM-R32: between two looks it holds nothing of the page."""

    async def reader(machine: Machine, at: int) -> None:
        machine.results["read"] = await machine.read(at)
        machine.results["at"] = machine.engine.now

    async def evictor(machine: Machine, at: int) -> None:
        assert await machine.populate(at + 16, 16) == "ok"

    async def body(machine: Machine) -> None:
        at = await in_vram(machine, timeslice_ns=20 * MS)
        await machine.map(16, at=at + 16)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(reader, machine, at)
            await machine.engine.sleep(2 * MS)
            await evictor(machine, at)
        assert machine.results["read"] == [1]
        assert machine.results["at"] < 5 * MS

    machines = list(every(body, 20))
    assert counted(machines, "PGM-R32") == len(machines)
    assert counted(machines, "evict.busy") == 0


# -- races ------------------------------------------------------------------------------------


async def read_all(machine: Machine, at: int) -> None:
    assert await machine.read(at, 4) == [1, 2, 3, 4]


async def read_first(machine: Machine, at: int) -> None:
    assert await machine.read(at) == [1]


async def read_last(machine: Machine, at: int) -> None:
    assert await machine.read(at + 3) == [4]


async def write_second(machine: Machine, at: int) -> None:
    await machine.write(at + 1, 22)


async def unmap_half(machine: Machine, at: int) -> None:
    await machine.unmap(at + 2, 2)


def test_threads_that_fault_on_one_allocation_all_get_through() -> None:
    """PGM-R01, SVM-R13: nobody's fault is starved by the others, and each page moves once."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, read_first, read_first, read_last, read_all)

    machines = list(every(body))
    for machine in machines:
        # Four pages cleared, four in, four home: no page was copied twice.
        assert machine.engine.counters["gpu.pages_copied"] == 12
        assert machine.engine.counters["migrate.timeslice"] == 0
    assert counted(machines, "migrate.partial")


def test_a_fault_racing_munmap_reads_the_old_page_or_nothing() -> None:
    """PGM-R09, PGM-R11."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, read_first, unmap_half)
        assert machine.where(at + 2, 2) == "--"
        assert await machine.read(at, 2) == [1, 2]

    assert counted(list(every(body)), "PGM-R09")


def test_a_fault_racing_fork_gives_each_process_its_copy() -> None:
    async def forker(machine: Machine, at: int) -> None:
        child: Mm = await machine.fork()
        await machine.write(at, 41, mm=child)

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, write_second, forker)
        assert await machine.read(at, 4) == [1, 22, 3, 4]
        child = await machine.read(at, 4, mm=machine.mms[1])
        assert child in ([41, 2, 3, 4], [41, 22, 3, 4])

    for _ in every(body):
        pass


def test_a_fault_racing_mremap_finds_the_page_at_one_place() -> None:
    async def mover(machine: Machine, at: int) -> None:
        await machine.move(at, 4, at + 64)

    async def reader(machine: Machine, at: int) -> None:
        assert await machine.read(at + 16 + 1) == [6]

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        other = await machine.map(4, at=at + 16)
        await machine.write(other, 5, 6, 7, 8)
        assert await machine.populate(other, 4) == "ok"
        await together(machine, at, mover, reader, reader)
        assert await machine.read(at + 64, 4) == [1, 2, 3, 4]
        assert await machine.read(other, 4) == [5, 6, 7, 8]

    for _ in every(body):
        pass


def test_a_fault_racing_exit_of_the_other_process() -> None:
    """PGM-R20, SVM-R21: the pages of the one that left go; the other keeps its data."""

    async def leaver(machine: Machine, at: int) -> None:
        await machine.exit(machine.mms[1])

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await machine.fork()
        await together(machine, at, read_all, leaver)
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    for _ in every(body):
        pass


def test_two_processes_fault_on_shared_device_pages() -> None:
    async def child_writes(machine: Machine, at: int) -> None:
        await machine.write(at, 61, 62, mm=machine.mms[1])

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        child = await machine.fork()
        await together(machine, at, read_all, child_writes)
        assert await machine.read(at, 4) == [1, 2, 3, 4]
        assert await machine.read(at, 4, mm=child) == [61, 62, 3, 4]

    for _ in every(body):
        pass


@pytest.mark.parametrize("now_there", ["hole", "ram"])
def test_the_handler_answers_a_stale_fault_with_nothing(now_there: str) -> None:
    """PGM-R01: the window was taken before; the handler returns and the access is tried again."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine, 2)
        await machine.map(1, at=at + 64)
        await machine.write(at + 64, 9)
        folio = machine.folio(at)
        async with machine.mm.mmap_lock.reading():
            vma = machine.mm.find_vma(at)
            assert vma is not None
            assert folio.lock.trylock_now()
            folio.get("fault")
            other = vma.mm.page_table.get(at + 1)
            assert other is not None
            # The fault is for a page that no longer stands at this address, the neighbour is locked.
            assert other.folio.lock.trylock_now()
            seen = vma.mm.page_table.get(at)
            assert seen is not None
            vma.mm.page_table.clear(at)
            if now_there == "ram":
                vma.mm.page_table.set(at, machine.mm.page_table.get(at + 64))
            fault = VmFault(machine.mm, vma, at, False, folio)
            machine.core.allocator.fail_next = 1
            await machine.pagemap.migrate_to_ram(fault)
            assert fault.pause_ns == 0
            vma.mm.page_table.set(at, seen)
            machine.core.allocator.fail_next = 0
            other.folio.lock.release()
            folio.lock.release()
            folio.put("fault")

    assert run(body).engine.counters["migrate.to_ram.none"] == 1
