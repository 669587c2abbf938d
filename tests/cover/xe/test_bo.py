"""Buffer objects: VRAM, references, deferred deletes; and the copies into and out of them."""

from __future__ import annotations

from typing import Any

import pytest
from bo_bench import BASE_PFN, Machine, every, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import ENOMEM, PropertyFailed
from svm_actors.gpu.address import DmaAddr, Proto
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.xe.bo import Bo
from svm_actors.xe.migrate import MAX_JOB_PAGES


async def make(machine: Machine, npages: int) -> Bo:
    bo = await machine.xe[0].vram.create_locked(npages)
    bo.unlock()
    return bo


@pytest.mark.parametrize("npages", [1, 2, 3, 5, 8, 16])
def test_memory_is_contiguous_and_aligned(npages: int) -> None:
    """PGM-R31."""

    async def body(machine: Machine) -> None:
        small = await make(machine, 1)
        await small.put()
        bo = await make(machine, npages)
        first = bo.pfns[0]
        assert bo.pfns == list(range(first, first + npages))
        assert (first - BASE_PFN) % (1 << (npages - 1).bit_length()) == 0
        await bo.put()

    run(body)


def test_fresh_memory_is_cleared_and_a_late_clear_would_hurt() -> None:
    """PGM-R08: the clear is a job; until its fence signals, what is written may be wiped."""

    async def body(machine: Machine) -> None:
        bo = await make(machine, 2)
        assert len(bo.fences) == 1
        folio = machine.pagemap.pgmap.zone_device_page_init(bo.pfns[0], "dst")
        for _ in range(3):
            await machine.engine.step("local")
        folio.content = folio.content.write(0, b"\x07")
        await bo.wait_idle()
        machine.results["byte"] = folio.content.byte(0)
        folio.lock.release()
        machine.pagemap.pgmap.ops.folio_free = lambda _: None  # type: ignore[method-assign, misc]
        folio.put("dst")
        await bo.put()

    assert {machine.results["byte"] for machine in every(body)} == {0, 7}


def test_an_idle_bo_is_freed_by_its_last_put() -> None:
    async def body(machine: Machine) -> None:
        bo = await make(machine, 4)
        await bo.wait_idle()
        bo.get()
        await bo.put()
        assert machine.xe[0].vram.statistics() == {"bos": 1, "vram_pages": 4, "works": 0}
        await bo.put()
        assert machine.xe[0].vram.statistics() == {"bos": 0, "vram_pages": 0, "works": 0}

    run(body)


def test_a_busy_bo_keeps_its_memory_until_it_is_idle() -> None:
    async def body(machine: Machine) -> None:
        bo = await make(machine, 4)
        gate = Fence(machine.engine, "gate")
        bo.fences.append(gate)
        await bo.put()
        await bo.fences[0].wait()
        await machine.engine.sleep(1)
        assert machine.xe[0].vram.statistics() == {"bos": 1, "vram_pages": 4, "works": 1}
        gate.signal()
        await machine.xe[0].flush()
        assert machine.xe[0].vram.statistics() == {"bos": 0, "vram_pages": 0, "works": 0}

    for _ in every(body, 10):
        pass


@pytest.mark.parametrize("action", ["get", "put"])
def test_a_dead_bo_is_not_touched(action: str) -> None:
    async def body(machine: Machine) -> None:
        bo = await make(machine, 1)
        await bo.wait_idle()
        await bo.put()
        with pytest.raises(PropertyFailed):
            bo.get() if action == "get" else bo.put_now()

    run(body)


def test_too_large_is_out_of_memory_and_leaves_nothing() -> None:
    async def body(machine: Machine) -> None:
        with pytest.raises(ENOMEM):
            await machine.xe[0].vram.create_locked(17)
        assert not any(machine.xe[0].vram.statistics().values())

    run(body)


def test_populate_answers_out_of_memory_after_one_exclusive_try() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(32)
        assert await machine.populate(at, 17) == "ENOMEM"
        assert machine.xe[0].vram.validation.holders() == []

    assert run(body).engine.counters["vram.exclusive"] == 1


def test_an_integrated_part_has_no_device_memory() -> None:
    async def body(machine: Machine) -> None:
        at = await machine.map(2)
        assert await machine.populate(at, 2) == "ENOMEM"
        assert await machine.read(at, 2) == [0, 0]

    run(body, vram_pages=0)


# -- jobs -------------------------------------------------------------------------------------


class Recorder:
    """Notes the jobs a copy engine gets."""

    def __init__(self, machine: Machine) -> None:
        self.jobs: list[SubmitCopy] = []
        self.submit = machine.gpus[0].copy.call
        machine.gpus[0].copy.call = self.call  # type: ignore[method-assign, assignment]

    async def call(self, message: SubmitCopy) -> Any:
        self.jobs.append(message)
        return await self.submit(message)

    def sizes(self) -> list[int]:
        return [len(job.pairs) for job in self.jobs]


def test_jobs_are_runs_of_contiguous_pages_with_addresses() -> None:
    """Holes end a run; the first job carries the fence, no other does."""

    async def body(machine: Machine) -> None:
        at = await machine.map(8)
        await machine.write(at, 1, 2)
        await machine.write(at + 3, 4, 5, 6)
        await machine.write(at + 7, 8)
        recorder = Recorder(machine)
        assert await machine.populate(at, 8) == "ok"
        assert recorder.sizes() == [8, 2, 3, 1]
        clear, *copies = recorder.jobs
        assert {source for source, _ in clear.pairs} == {None}
        assert [job.depends is not None for job in copies] == [True, False, False]
        assert all(target.proto is Proto.VRAM for job in copies for _, target in job.pairs)
        assert await machine.read(at, 8) == [1, 2, 0, 4, 5, 6, 0, 8]
        # Homeward the eight pages are one run, into RAM, and wait for nothing.
        home = recorder.jobs[4]
        assert (len(home.pairs), home.depends) == (8, None)
        assert {target.proto for _, target in home.pairs} == {Proto.SYSTEM}

    run(body)


def test_a_job_has_at_most_eight_mebibytes() -> None:
    npages = MAX_JOB_PAGES + 2

    async def body(machine: Machine) -> None:
        at = await machine.map(npages)
        for page in range(npages):
            folio_byte = page % 251
            await machine.write(at + page, folio_byte)
        recorder = Recorder(machine)
        assert await machine.populate(at, npages) == "ok"
        assert recorder.sizes() == [npages, MAX_JOB_PAGES, 2]
        assert await machine.read(at + npages - 3, 3) == [page % 251 for page in range(npages - 3, npages)]

    run(body, vram_pages=4096)


def test_pages_of_another_region_are_refused() -> None:
    """PGM-R23: addresses and pages of one batch belong to one copying device."""

    async def body(machine: Machine) -> None:
        at = await machine.map(1)
        await machine.write(at, 1)
        assert await machine.populate(at, 1, gpu=1) == "ok"
        page = machine.folio(at)
        addr = DmaAddr(page.pfn, Proto.VRAM)
        with pytest.raises(PropertyFailed):
            await machine.xe[0].vram.migrate.copy([page], [addr], None, to_vram=False)

    run(body, gpus=2)
