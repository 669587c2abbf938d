"""Into VRAM: all or nothing, from RAM, from holes and from a peer; and what it loses races against."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pagemap_bench import Machine, counted, every, run

from svm_actors.drm.pagemap_events import DevmemFilled, DevmemPlaced
from svm_actors.drm.pagemap_migrate import MigrateDetails
from svm_actors.drm.pagemap_zdd import Devmem
from svm_actors.engine.errors import EBUSY, EINVAL, ENOENT, ENOMEM, KernelError
from svm_actors.mm.constants import Prot
from svm_actors.mm.messages import SIGSEGV

MS = 1_000_000


# -- alone ----------------------------------------------------------------------------------


def test_there_and_back_keeps_the_data() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 11, 12, 13, 14)
        assert await machine.populate(at, 4) == "ok"
        assert machine.where(at, 4) == "0000"
        assert machine.core.allocator.live == {}
        assert await machine.read(at, 4) == [11, 12, 13, 14]
        assert machine.where(at, 4) == "rrrr"

    for machine in every(body, 10):
        counts = machine.engine.counters
        assert counts["migrate.to_vram"] == counts["migrate.to_ram"] == 1
        assert machine.gpus[0].vram.npages == 16


def test_holes_and_zero_pages_go_along_and_read_zero() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at + 1, 7)
        assert await machine.read(at + 2) == [0]
        assert machine.where(at, 4) == "-rz-"
        assert await machine.populate(at, 4) == "ok"
        assert machine.where(at, 4) == "0000"
        assert await machine.read(at, 4) == [0, 7, 0, 0]

    # The clear of four pages, one copy in, four copies home.
    assert run(body).engine.counters["gpu.pages_copied"] == 4 + 1 + 4


def test_only_holes_still_wait_for_the_clear() -> None:
    """No job consumes the fence, so the call itself must: nothing is in flight when it returns."""

    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        assert await machine.populate(at, 2) == "ok"
        bo = machine.zdd(at).devmem.buffer
        assert [fence.signaled for fence in bo.fences] == [True]

    assert counted(list(every(body)), "PGM-R08")


def test_a_second_time_is_a_success_that_moves_nothing() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        await machine.write(at, 1, 2)
        assert await machine.populate(at, 2) == "ok"
        first = machine.zdd(at)
        assert await machine.populate(at, 2) == "ok"
        assert machine.zdd(at) is first
        await machine.xe[0].flush()
        assert machine.xe[0].statistics()["bos"] == 1

    assert run(body).engine.counters["migrate.to_vram.there"] == 1


def test_a_window_partly_there_is_fragmented() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        assert await machine.populate(at, 2) == "ok"
        assert await machine.populate(at, 4) == "EBUSY"
        assert machine.where(at, 4) == "00rr"
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    assert run(body).engine.counters["migrate.to_vram.fragmented"] == 1


def test_same_pagemap_moves_when_the_driver_allows_it() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        assert await machine.populate(at, 2) == "ok"
        migrate = machine.pagemap.migrate_to_devmem

        async def allowed(devmem: Devmem, mm: Any, start: int, end: int, details: MigrateDetails) -> None:
            await migrate(devmem, mm, start, end, MigrateDetails(details.timeslice_ns, can_migrate_same_pagemap=True))

        machine.pagemap.migrate_to_devmem = allowed  # type: ignore[method-assign, assignment]
        assert await machine.populate(at, 4) == "ok"
        assert len({id(machine.zdd(at + page)) for page in range(4)}) == 1
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    assert run(body).engine.counters["PGM-R23"] == 1


def test_a_read_only_window_migrates_and_stays_read_only() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        await machine.write(at, 1, 2)
        await machine.protect(at, 2, Prot.READ)
        assert await machine.populate(at, 2) == "ok"
        assert await machine.read(at, 2) == [1, 2]
        with pytest.raises(SIGSEGV):
            await machine.write(at, 3)

    run(body)


@pytest.mark.parametrize(
    ("start", "end", "error", "changed"),
    [(-4, -2, ENOENT, 1), (0, 5, EINVAL, 1), (2, 2, EINVAL, 0), (3, 2, EINVAL, 0), (16, 18, EBUSY, 0)],
)
def test_windows_that_are_refused(start: int, end: int, error: type[KernelError], changed: int) -> None:
    """M1: the allocation reference is consumed all the same (RULE-59); some look like a VMA that changed (SVM-R17)."""

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.map(4, at=at + 16, shared=True)
        async with machine.mm.mmap_lock.reading():
            bo = await machine.xe[0].vram.create_locked(2)
            devmem = Devmem(bo.name, machine.pagemap, machine.mm, 2, machine.xe[0], buffer=bo.get())
            with pytest.raises(error):
                await machine.pagemap.migrate_to_devmem(devmem, machine.mm, at + start, at + end)
        assert devmem.released
        assert machine.engine.counters["SVM-R17"] == changed
        bo.unlock()
        await bo.put()

    run(body)


def test_a_dying_address_space_is_refused() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        machine.mm.grab()
        await machine.exit(machine.mm)
        assert await machine.populate(at, 2) == "EFAULT"

    assert run(body).engine.counters["PGM-R20"] == 1


def test_a_removed_device_is_refused() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        assert await machine.xe[0].remove() == 0
        assert await machine.populate(at, 2) == "ENODEV"
        assert machine.mm.mmap_lock.holders() == []

    run(body)


@pytest.mark.parametrize("failing", ["populate", "map", "copy"])
def test_a_failure_inside_restores_everything(failing: str) -> None:
    """Every abort after setup runs pages and finalize with empty destinations."""

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2)
        await machine.write(at + 3, 4)
        xe = machine.xe[0]

        async def fail(*_: Any) -> Any:
            raise ENOMEM

        if failing == "populate":
            xe.populate_devmem_pfn = fail  # type: ignore[method-assign]
        elif failing == "copy":
            xe.copy_to_devmem = fail  # type: ignore[method-assign]
        else:
            machine.gpus[0].iommu.fail_next = 1
        assert await machine.populate(at, 4) == "ENOMEM"
        assert machine.where(at, 4) == "rr-r"
        assert await machine.read(at, 4) == [1, 2, 0, 4]
        await xe.flush()
        assert not any(xe.statistics().values())

    run(body)


def test_swapped_and_referenced_pages_keep_the_window_out() -> None:
    """PGM-R06: one foreign reference and the page is left, with it the window."""

    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        await machine.write(at, 1, 2)
        page = machine.folio(at + 1)
        page.get("pin")
        assert await machine.populate(at, 2) == "EBUSY"
        assert machine.where(at, 2) == "rr"
        page.put("pin")
        assert await machine.populate(at, 2) == "ok"

    assert run(body).engine.counters["PGM-R02"] == 1


def test_a_reference_that_appears_during_the_copy_loses_only_that_page() -> None:
    """PGM-R06: the exact check at commit; what did move stays in VRAM."""

    async def body(machine: Machine) -> None:
        at = await machine.map(3)
        await machine.write(at, 1, 2, 3)
        page = machine.folio(at + 1)
        copy = machine.xe[0].copy_to_devmem

        async def pinned_meanwhile(*args: Any) -> None:
            page.get("pin")
            await copy(*args)

        machine.xe[0].copy_to_devmem = pinned_meanwhile  # type: ignore[method-assign]
        assert await machine.populate(at, 3) == "EBUSY"
        assert machine.where(at, 3) == "0r0"
        page.put("pin")
        assert await machine.read(at, 3) == [1, 2, 3]

    counts = run(body).engine.counters
    assert (counts["PGM-R06"], counts["migrate.partial"] > 0) == (1, True)


# -- from a peer ------------------------------------------------------------------------------


def test_device_to_device_is_copied_by_the_source() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        assert await machine.populate(at, 4, gpu=0) == "ok"
        jobs = machine.gpus[0].copy.seqno, machine.gpus[1].copy.seqno
        assert await machine.populate(at, 4, gpu=1) == "ok"
        assert machine.where(at, 4) == "1111"
        # One copy by the source, one clear by the target.
        assert (machine.gpus[0].copy.seqno - jobs[0], machine.gpus[1].copy.seqno - jobs[1]) == (1, 1)
        await machine.xe[0].flush()
        assert not any(machine.xe[0].statistics().values())
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    machines = list(every(body, gpus=2))
    # The target's clear may still run when the source's engine gets its job: only the fence orders them.
    assert counted(machines, "PGM-R08")


def test_who_is_at_it_can_be_seen_only_while_it_is() -> None:
    """What window events ask for: an allocation being filled, and one that another device copies from."""

    async def body(machine: Machine) -> None:
        seen: list[tuple[str, bool, bool]] = []

        def note(event: object) -> None:
            if isinstance(event, DevmemPlaced | DevmemFilled):
                seen.append((type(event).__name__, event.devmem.filling, event.devmem.filled))

        machine.engine.listeners.append(note)
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        assert await machine.populate(at, 4, gpu=0) == "ok"
        source = machine.zdd(at)
        assert (source.devmem.filling, source.d2d_sources) == (False, 0)
        assert await machine.populate(at, 4, gpu=1) == "ok"
        assert source.d2d_sources == 0
        assert seen == [("DevmemPlaced", True, False), ("DevmemFilled", False, True)] * 2

    run(body, gpus=2)


def test_a_mixed_window_is_copied_batch_by_batch() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(6)
        await machine.write(at, 1, 2, 3, 4, 5)
        assert await machine.populate(at + 2, 2, gpu=1) == "ok"
        assert await machine.populate(at, 6, gpu=0) == "ok"
        assert machine.where(at, 6) == "000000"
        assert await machine.read(at, 6) == [1, 2, 3, 4, 5, 0]

    for machine in every(body, 10, gpus=2):
        assert machine.engine.counters["PGM-R23"] == 2


# -- races ------------------------------------------------------------------------------------

Thread = Callable[[Machine, int], Awaitable[None]]


async def together(machine: Machine, at: int, *threads: Thread) -> None:
    async with machine.engine.nursery() as nursery:
        for thread in threads:
            nursery.start_soon(thread, machine, at, name=thread.__name__)


async def into_vram(machine: Machine, at: int) -> None:
    machine.results["populate"] = await machine.populate(at, 4)


async def into_peer(machine: Machine, at: int) -> None:
    machine.results["peer"] = await machine.populate(at, 4, gpu=1)


def test_racing_a_cpu_write_loses_no_write() -> None:
    """SVM-R16, PGM-R02, PGM-R22: the CPU's bytes survive, whoever wins each page."""

    async def writer(machine: Machine, at: int) -> None:
        for page, value in ((1, 21), (3, 23), (0, 20)):
            await machine.write(at + page, value)

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2)
        await together(machine, at, into_vram, writer)
        assert await machine.read(at, 4) == [20, 21, 0, 23]

    machines = list(every(body))
    assert {machine.results["populate"] for machine in machines} == {"ok", "EBUSY"}
    assert counted(machines, "PGM-R22")


def test_racing_munmap_leaves_nothing() -> None:
    """SVM-R17: the VMA stays until the migration lets go of mmap_lock."""

    async def unmap(machine: Machine, at: int) -> None:
        await machine.unmap(at + 1, 3)

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        await together(machine, at, into_vram, unmap)
        assert machine.where(at + 1, 3) == "---"
        assert await machine.read(at) == [1]

    results = {machine.results["populate"] for machine in every(body)}
    assert results == {"ok", "EINVAL"}


def test_two_migrations_of_one_window_never_mix_data() -> None:
    """SVM-R09, PGM-R02: two devices want the same pages; each call is all or nothing or gives up."""

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        await together(machine, at, into_vram, into_peer)
        assert set(machine.where(at, 4)) <= set("r01")
        assert await machine.read(at, 4) == [1, 2, 3, 4]

    machines = list(every(body, gpus=2))
    assert {(m.results["populate"], m.results["peer"]) for m in machines} >= {("ok", "EBUSY"), ("EBUSY", "ok")}
    assert counted(machines, "PGM-R02")


def test_racing_fork_keeps_both_views() -> None:
    async def forker(machine: Machine, at: int) -> None:
        child = await machine.fork()
        await machine.write(at, 31, mm=child)

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2, 3, 4)
        await together(machine, at, into_vram, forker)
        assert await machine.read(at, 4) == [1, 2, 3, 4]
        assert await machine.read(at, 4, mm=machine.mms[1]) == [31, 2, 3, 4]

    for machine in every(body):
        assert machine.results["populate"] in ("ok", "EBUSY")


def test_racing_exit_lets_the_migration_finish_first() -> None:
    """SVM-R21: either the mm was alive and is kept, or -EFAULT."""

    async def leave(machine: Machine, at: int) -> None:
        machine.mm.grab()
        await machine.exit(machine.mm)

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        await machine.write(at, 1, 2)
        await together(machine, at, into_vram, leave)

    assert {machine.results["populate"] for machine in every(body)} == {"ok", "EFAULT"}
