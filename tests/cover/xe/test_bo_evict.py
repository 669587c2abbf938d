"""No room in VRAM: who is evicted, who is skipped, and what ends the walk."""

from __future__ import annotations

from typing import Any

import pytest
from bo_bench import Machine, counted, every, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.xe.bo import Bo
from svm_actors.xe.evict import evict_all

MS = 1_000_000


async def fill(machine: Machine, count: int = 4, npages: int = 4) -> list[int]:
    """``count`` allocations, the oldest first; page ``n`` of allocation ``k`` holds ``10 * k + n``."""
    places = []
    for number in range(count):
        at = await machine.map(npages, at=0x10000 + 32 * number)
        await machine.write(at, *(10 * number + page for page in range(npages)))
        assert await machine.populate(at, npages) == "ok"
        places.append(at)
    return places


async def check(machine: Machine, places: list[int], npages: int = 4) -> None:
    for number, at in enumerate(places):
        assert await machine.read(at, npages) == [10 * number + page for page in range(npages)]


async def newcomer(machine: Machine, npages: int = 4) -> tuple[int, str]:
    at = await machine.map(npages, at=0x10000 + 32 * 20)
    await machine.write(at, *range(100, 100 + npages))
    return at, await machine.populate(at, npages)


def homes(machine: Machine, places: list[int]) -> str:
    return "".join(machine.where(at) for at in places)


def bo_of(machine: Machine, at: int) -> Bo:
    bo = machine.zdd(at).devmem.buffer
    assert isinstance(bo, Bo)
    return bo


# -- alone ----------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine)
        at, result = await newcomer(machine)
        assert (result, homes(machine, places), machine.where(at, 4)) == ("ok", "r000", "0000")
        await check(machine, places)

    counts = run(body).engine.counters
    assert (counts["vram.full"], counts["evict"]) == (1, 1)


def test_as_many_go_as_it_takes() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine)
        at, result = await newcomer(machine, 8)
        assert (result, homes(machine, places), machine.where(at, 8)) == ("ok", "rr00", "0" * 8)
        await check(machine, places)

    run(body)


def test_use_moves_a_bo_to_the_tail() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine)
        machine.xe[0].vram.touch(bo_of(machine, places[0]))
        _, result = await newcomer(machine)
        assert (result, homes(machine, places)) == ("ok", "0r00")

    run(body)


def test_contiguity_decides_not_the_number_of_free_pages() -> None:
    """PGM-R31: eight pages are free, but not eight in one piece."""

    async def body(machine: Machine) -> None:
        places = await fill(machine)
        order = sorted(places, key=lambda at: machine.folio(at).pfn)
        for at in (order[0], order[2]):
            await machine.unmap(at, 4)
        await machine.xe[0].flush()
        assert machine.xe[0].statistics()["vram_pages"] == 8
        _, result = await newcomer(machine, 8)
        assert result == "ok"
        assert sorted(homes(machine, [order[1], order[3]])) == ["0", "r"]

    run(body)


def test_a_locked_bo_is_skipped() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine)
        bo = bo_of(machine, places[0])
        await bo.resv.acquire()
        task = machine.engine.spawn(newcomer(machine), "newcomer")
        await machine.engine.join(task)
        assert homes(machine, places) == "0r00"
        bo.resv.release()

    assert run(body).engine.counters["evict.skip"] == 1


def test_a_victim_that_will_not_go_is_passed_over() -> None:
    """-EBUSY becomes -ENOSPC: the walk tries the next one."""

    async def body(machine: Machine) -> None:
        places = await fill(machine)
        page = machine.folio(places[0] + 1)
        page.get("pin")
        at, result = await newcomer(machine)
        assert (result, machine.where(at)) == ("ok", "0")
        assert (machine.where(places[0], 4), homes(machine, places)) == ("r0rr", "rr00")
        page.put("pin")
        await check(machine, places)

    counts = run(body).engine.counters
    assert (counts["evict.busy"], counts["evict"]) == (1, 1)


def test_nobody_will_go() -> None:
    """-ENOSPC to the driver is -ENOMEM to its caller; the second, exclusive try does not help either."""

    async def body(machine: Machine) -> None:
        places = await fill(machine)
        pages = [machine.folio(at) for at in places]
        for page in pages:
            page.get("pin")
        at, result = await newcomer(machine)
        assert (result, machine.where(at)) == ("ENOMEM", "r")
        for page in pages:
            page.put("pin")
        await check(machine, places)

    assert run(body).engine.counters["vram.exclusive"] == 1


def test_a_dying_process_does_not_end_the_walk_of_an_unrelated_one() -> None:
    """PGM-S04: its -EFAULT means "try the next victim", unlike in 7.3.4."""

    async def body(machine: Machine) -> None:
        child = await machine.fork()
        places = [await machine.map(4, child, at=0x10000)]
        await machine.write(places[0], 1, 2, 3, 4, mm=child)
        machine.mm, parent = child, machine.mm
        assert await machine.populate(places[0], 4) == "ok"
        machine.mm = parent
        other = await fill(machine, 3)
        # Users 0 and pages still mapped: what the start of exit looks like.
        child.users = 0
        _, result = await newcomer(machine)
        assert (result, homes(machine, other)) == ("ok", "r00")
        child.users = 1
        await check(machine, other)

    assert run(body).engine.counters["PGM-R20"] == 1


def test_no_ram_ends_the_walk_with_enomem() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine)
        at = await machine.map(4, at=0x10000 + 32 * 20)
        machine.core.allocator.limit = 0
        assert await machine.populate(at, 4) == "ENOMEM"
        machine.core.allocator.limit = None
        assert homes(machine, places) == "0000"
        await check(machine, places)

    run(body)


def test_a_dead_bo_gives_its_memory_without_a_migration() -> None:
    """TTM's zombie: last reference gone, fence outstanding; the walk waits and takes the memory."""

    async def body(machine: Machine) -> None:
        vram = machine.xe[0].vram
        zombie = await vram.create_locked(16)
        gate = Fence(machine.engine, "gate")
        zombie.fences.append(gate)
        zombie.unlock()
        await zombie.put()
        task = machine.engine.spawn(newcomer(machine), "newcomer")
        await machine.engine.sleep(1)
        gate.signal()
        await machine.engine.join(task)
        assert machine.where(0x10000 + 32 * 20, 4) == "0000"

    for machine in every(body, 20):
        assert machine.engine.counters["evict"] == 0


def test_an_emptied_allocation_costs_no_copy() -> None:
    """All pages are free but the BO's put is still queued: eviction finds it detached."""

    async def body(machine: Machine) -> None:
        places = await fill(machine, 1, 16)
        hold = bo_of(machine, places[0]).get()
        await machine.unmap(places[0], 16)
        at, result = await newcomer(machine)
        assert (result, machine.where(at, 4)) == ("ok", "0000")
        await hold.put()

    for machine in every(body, 10):
        assert machine.engine.counters["gpu.pages_copied"] == 16 + 16 + 4 + 4


def test_device_removal_brings_everything_home() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine, 3)
        stuck = machine.folio(places[1])
        stuck.get("pin")
        assert await machine.xe[0].remove() == 1
        assert homes(machine, places) == "r0r"
        stuck.put("pin")
        assert await evict_all(machine.xe[0].vram) == 0
        await check(machine, places)
        _, result = await newcomer(machine)
        assert result == "ENODEV"

    counts = run(body).engine.counters
    assert (counts["evict.failed"], counts["PGM-R28"]) == (1, 1)


def test_removal_counts_what_is_locked() -> None:
    async def body(machine: Machine) -> None:
        places = await fill(machine, 1)
        bo = bo_of(machine, places[0])
        await bo.resv.acquire()
        machine.results["stayed"] = await evict_all(machine.xe[0].vram)
        bo.resv.release()

    assert run(body).results["stayed"] == 1


# -- pressure ---------------------------------------------------------------------------------


async def worker(machine: Machine, number: int, rounds: int) -> None:
    """Moves a chunk to VRAM and writes to it, again and again."""
    at = 0x10000 + 32 * number
    results: list[str] = machine.results.setdefault("populate", [])
    for turn in range(rounds):
        results.append(await machine.populate(at, 8))
        await machine.write(at + turn, 100 + number)
        assert await machine.read(at + 7) == [number]


@pytest.mark.parametrize("workers", [3, 4])
def test_more_chunks_than_room_lose_no_data(workers: int) -> None:
    """PGM-R03, PGM-R04, SVM-R12: everybody evicts everybody."""

    async def body(machine: Machine) -> None:
        for number in range(workers):
            at = await machine.map(8, at=0x10000 + 32 * number)
            await machine.write(at, *[number] * 8)
        async with machine.engine.nursery() as nursery:
            for number in range(workers):
                nursery.start_soon(worker, machine, number, 2)
        for number in range(workers):
            expected = [100 + number] * 2 + [number] * 6
            assert await machine.read(0x10000 + 32 * number, 8) == expected

    machines = list(every(body, vram_pages=16))
    assert {result for m in machines for result in m.results["populate"]} <= {"ok", "EBUSY", "ENOMEM"}
    assert counted(machines, "PGM-R04")
    assert counted(machines, "evict")


def test_eviction_of_pages_shared_after_fork_under_access() -> None:
    """PGM-B40, SVM-R20: both processes use the pages while they are being evicted."""

    async def parent(machine: Machine) -> None:
        await machine.write(0x10000 + 1, 51)

    async def child(machine: Machine) -> None:
        assert await machine.read(0x10000, 2, mm=machine.mms[1]) == [0, 1]
        await machine.write(0x10000, 61, mm=machine.mms[1])

    async def pressure(machine: Machine) -> None:
        machine.results["newcomer"] = await newcomer(machine, 16)

    async def body(machine: Machine) -> None:
        await fill(machine, 2)
        other = await machine.fork()
        async with machine.engine.nursery() as nursery:
            for thread in (parent, child, pressure):
                nursery.start_soon(thread, machine)
        assert await machine.read(0x10000, 4) == [0, 51, 2, 3]
        assert await machine.read(0x10000, 4, mm=other) == [61, 1, 2, 3]
        assert await machine.read(0x10000 + 32, 4) == await machine.read(0x10000 + 32, 4, mm=other) == [10, 11, 12, 13]

    machines = list(every(body))
    assert {m.results["newcomer"][1] for m in machines} >= {"ok"}


def test_two_devices_and_a_cpu_fight_over_one_chunk() -> None:
    """PGM-R14 without the driver's second attempt: -EBUSY is allowed, a wrong byte is not."""

    async def gpu(machine: Machine, number: int) -> None:
        for _ in range(2):
            result = await machine.populate(0x10000, 4, gpu=number, timeslice_ns=MS)
            assert result in ("ok", "EBUSY")

    async def cpu(machine: Machine) -> None:
        for value in (71, 72):
            await machine.write(0x10000 + 2, value)
            assert await machine.read(0x10000, 4) == [0, 1, value, 3]

    async def body(machine: Machine) -> None:
        await machine.map(4)
        await machine.write(0x10000, 0, 1, 2, 3)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(gpu, machine, 0)
            nursery.start_soon(gpu, machine, 1)
            nursery.start_soon(cpu, machine)

    for machine in every(body, gpus=2):
        assert machine.engine.counters["migrate.to_vram"]


def test_equal_schedules_give_equal_traces() -> None:
    """The same seed, the same trace, however often; another seed, another trace."""

    async def body(machine: Machine) -> None:
        places = await fill(machine)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(newcomer, machine)
            nursery.start_soon(check, machine, places)

    def trace(seed: Any) -> list[str]:
        return run(body, "random", seed).engine.trace()

    assert trace(3) == trace(3)
    assert trace(3) != trace(4)
