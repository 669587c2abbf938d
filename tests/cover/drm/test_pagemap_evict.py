"""Eviction by physical pages: three passes, judged by ``detached`` and by nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pagemap_bench import Machine, counted, every, run

from svm_actors.drm.pagemap import EvictToRam
from svm_actors.drm.pagemap_ram import EVICT_PASSES
from svm_actors.engine.errors import EBUSY, ENOMEM, KernelError
from svm_actors.mm.mm_struct import Mm

MS = 1_000_000
Thread = Callable[[Machine, int], Awaitable[None]]


async def in_vram(machine: Machine, npages: int = 4, timeslice_ns: int = 0) -> int:
    at = await machine.map(npages)
    await machine.write(at, *range(1, npages + 1))
    assert await machine.populate(at, npages, timeslice_ns) == "ok"
    return at


async def evict(machine: Machine, at: int) -> None:
    """Evict the allocation that is at ``at`` when this starts; ``ok`` or the error in the results."""
    devmem = machine.results["devmem"]
    bo = devmem.buffer
    await bo.resv.acquire()
    try:
        if not bo.blocks:
            machine.results["evict"] = "gone"
            return
        bo.get()
        await machine.pagemap.call(EvictToRam(devmem))
        machine.results["evict"] = "ok"
        assert devmem.detached.done
        bo.vram.release_space(bo)
    except KernelError as error:
        machine.results["evict"] = error.code
    finally:
        bo.resv.release()
    await bo.put()


async def together(machine: Machine, at: int, *threads: Thread) -> None:
    machine.results["devmem"] = machine.zdd(at).devmem
    async with machine.engine.nursery() as nursery:
        for number, thread in enumerate(threads):
            nursery.start_soon(thread, machine, at, name=f"{thread.__name__}{number}")


# -- alone ----------------------------------------------------------------------------------


def test_one_pass_empties_an_idle_allocation() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict)
        assert machine.results["evict"] == "ok"
        assert machine.where(at, 4) == "rrrr"
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    counts = run(body).engine.counters
    assert (counts["evict"], counts["evict.pass"], counts["migrate.to_ram"]) == (1, 1, 0)
    assert (counts["SVM-R20"], counts["PGM-R03"], counts["migrate.partial"]) == (0, 0, 0)


def test_eviction_reaches_every_process_and_every_place() -> None:
    """PGM-B36, SVM-R19, SVM-R20: no address is asked for; after fork and mremap it finds them all."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        child = await machine.fork()
        await machine.move(at, 4, at + 67)
        machine.results["devmem"] = machine.zdd(at + 67).devmem
        await evict(machine, at)
        assert machine.results["evict"] == "ok"
        assert machine.where(at + 67, 4) == machine.where(at, 4, child) == "rrrr"
        assert await machine.read(at, 4, mm=child) == [1, 2, 3, 4]
        await machine.write(at, 9, mm=child)
        assert await machine.read(at + 67, 4) == [1, 2, 3, 4]

    assert run(body).engine.counters["SVM-R20"] == 4


def test_eviction_ignores_the_timeslice() -> None:
    """PGM-R32."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine, timeslice_ns=50 * MS)
        await together(machine, at, evict)
        assert (machine.results["evict"], machine.engine.now) == ("ok", 0)

    assert run(body).engine.counters["PGM-R32"] == 1


def test_a_partly_unmapped_allocation_is_emptied_of_the_rest() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await machine.unmap(at + 1, 2)
        await together(machine, at, evict)
        assert machine.results["evict"] == "ok"
        assert machine.where(at, 4) == "r--r"

    run(body)


def test_a_referenced_page_keeps_the_allocation_in_vram() -> None:
    """Three passes, then -EBUSY; the page that cannot leave keeps its data, the others are home."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        page = machine.folio(at + 2)
        page.get("pin")
        await together(machine, at, evict)
        assert machine.results["evict"] == "EBUSY"
        assert machine.where(at, 4) == "rr0r"
        page.put("pin")
        await together(machine, at + 2, evict)
        assert machine.results["evict"] == "ok"
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    counts = run(body).engine.counters
    assert counts["evict.pass"] == EVICT_PASSES + 1
    assert counts["PGM-R27"] == EVICT_PASSES - 1
    assert (counts["evict"], counts["evict.busy"]) == (1, 1)
    assert counts["migrate.partial"], "the first pass took three of four pages"


def test_a_locked_page_is_skipped_in_each_pass() -> None:
    """PGM-R03."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        page = machine.folio(at)
        assert page.lock.trylock_now()
        await together(machine, at, evict)
        page.lock.release()
        assert machine.results["evict"] == "EBUSY"
        assert machine.where(at, 4) == "0rrr"

    assert run(body).engine.counters["PGM-R03"] == EVICT_PASSES


@pytest.mark.parametrize("failing", ["ram", "map", "populate"])
def test_an_error_of_the_last_pass_is_the_answer(failing: str) -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        xe = machine.xe[0]
        populate = xe.populate_devmem_pfn

        async def fail(*_: Any) -> Any:
            raise ENOMEM

        if failing == "ram":
            machine.core.allocator.limit = 0
        elif failing == "map":
            machine.gpus[0].iommu.fail_next = EVICT_PASSES
        else:
            xe.populate_devmem_pfn = fail  # type: ignore[method-assign]
        await together(machine, at, evict)
        assert machine.results["evict"] == "ENOMEM"
        assert machine.where(at, 4) == "0000"
        machine.core.allocator.limit = None
        xe.populate_devmem_pfn = populate  # type: ignore[method-assign]
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    run(body)


def test_one_failed_pass_is_forgotten_by_the_next() -> None:
    """PGM-R27: the error, the counters and the DMA state of a pass are its own."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        machine.gpus[0].iommu.fail_next = 1
        await together(machine, at, evict)
        assert machine.results["evict"] == "ok"
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    assert run(body).engine.counters["evict.pass"] == 2


def test_a_dead_process_that_left_a_child_blocks_its_allocation() -> None:
    """The mm the allocation was made for is gone but for its structure (PGM-S03 a); the child still maps it."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        child = await machine.fork()
        machine.results["devmem"] = machine.zdd(at).devmem
        await machine.exit(machine.mm)
        await evict(machine, at)
        assert machine.results["evict"] == "EFAULT"
        assert machine.where(at, 4, child) == "0000"
        assert await machine.read(at, 4, mm=child) == [1, 2, 3, 4]

    assert run(body).engine.counters["PGM-R20"] == 1


# -- races ------------------------------------------------------------------------------------


async def read_all(machine: Machine, at: int) -> None:
    assert await machine.read(at, 4) == [1, 2, 3, 4]


async def read_backwards(machine: Machine, at: int) -> None:
    for page in (3, 2, 1, 0):
        assert await machine.read(at + page) == [page + 1]


async def write_two(machine: Machine, at: int) -> None:
    await machine.write(at + 1, 22, 33)


def test_racing_cpu_faults_every_page_ends_up_home_once() -> None:
    """PGM-R03, PGM-R15, SVM-R14: readers and evictor share the work, no page is copied home twice."""

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict, read_all, read_backwards)
        assert machine.where(at, 4) == "rrrr"

    machines = list(every(body, 100))
    assert {machine.results["evict"] for machine in machines} >= {"ok", "EBUSY"}
    assert {machine.engine.counters["gpu.pages_copied"] for machine in machines} == {12}
    assert counted(machines, "PGM-R03")


def test_racing_cpu_writes_none_is_lost() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict, write_two)
        assert await machine.read(at, 4) == [1, 22, 33, 4]

    for _ in every(body):
        pass


def test_racing_fork_mremap_and_munmap() -> None:
    """PGM-R20 apart, eviction does not care what happens to the addresses."""

    async def forker(machine: Machine, at: int) -> None:
        child: Mm = await machine.fork()
        await machine.write(at + 3, 44, mm=child)

    async def mover(machine: Machine, at: int) -> None:
        await machine.move(at, 2, at + 97)

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict, forker, mover)
        assert await machine.read(at + 97, 2) == [1, 2]
        assert await machine.read(at + 2, 2) == [3, 4]
        child = machine.mms[1]
        first = at if machine.where(at, 1, child) != "-" else at + 97
        assert await machine.read(first, 2, mm=child) == [1, 2]
        assert await machine.read(at + 2, 2, mm=child) == [3, 44]

    for machine in every(body):
        assert machine.results["evict"] in ("ok", "EBUSY")


def test_racing_exit() -> None:
    """PGM-R20: the pages go with the address space or come home; nothing is left either way."""

    async def leaver(machine: Machine, at: int) -> None:
        await machine.exit(machine.mm)

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict, leaver)

    machines = list(every(body))
    assert {machine.results["evict"] for machine in machines} >= {"ok", "EFAULT"}
    assert counted(machines, "PGM-R20")


def test_racing_a_device_to_device_migration_of_the_same_pages() -> None:
    """PGM-R05: trylocks decide page by page; whoever loses skips or gives up."""

    async def to_peer(machine: Machine, at: int) -> None:
        machine.results["peer"] = await machine.populate(at, 4, gpu=1)

    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        await together(machine, at, evict, to_peer)
        assert set(machine.where(at, 4)) <= set("r01")
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    machines = list(every(body, 100, gpus=2))
    assert {"ok", "EBUSY"} <= {machine.results["peer"] for machine in machines}
    assert counted(machines, "PGM-R05")


def test_eviction_answers_the_error_codes_the_walk_knows() -> None:
    async def body(machine: Machine) -> None:
        at = await in_vram(machine)
        page = machine.folio(at)
        page.get("pin")
        with pytest.raises(EBUSY):
            await machine.pagemap.call(EvictToRam(machine.zdd(at).devmem))
        page.put("pin")

    run(body)
