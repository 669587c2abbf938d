"""Allocations and zone data: who holds what, and that the last one out releases exactly once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pagemap_bench import Machine, run

from svm_actors.drm.pagemap_zdd import Completion, Devmem, Zdd, zdd_of
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.strategies import make


class Region:
    """Stands for a drm_pagemap: counts."""

    def __init__(self) -> None:
        self.engine = Engine(DirectBackend(), make("fifo", 0))
        self.allocations = 0
        self.live_zdds = 0
        self.refs = 1

    def get(self) -> None:
        self.refs += 1

    def put(self) -> None:
        self.refs -= 1


class Log:
    """Stands for the driver's allocation ops: notes releases."""

    def __init__(self) -> None:
        self.released: list[tuple[Any, bool]] = []

    def devmem_release(self, devmem: Devmem) -> None:
        self.released.append((devmem, devmem.detached.done))


def allocation() -> tuple[Region, Log, Devmem]:
    region, log = Region(), Log()
    devmem = Devmem("bo0", region, None, 4, log)  # type: ignore[arg-type]
    return region, log, devmem


def folio(pfn: int) -> Any:
    return SimpleNamespace(pfn=pfn, zone_device_data=None)


def test_the_last_put_completes_detached_then_releases() -> None:
    region, log, devmem = allocation()
    zdd = Zdd(devmem)
    pages = [folio(1), folio(2)]
    for page in pages:
        zdd.attach(page)
    assert (zdd.refs, region.live_zdds, region.allocations, region.refs) == (3, 1, 1, 2)
    assert [zdd_of(page) for page in pages] == [zdd, zdd]
    for _ in range(2):
        zdd.put()
        assert not devmem.detached.done
        assert log.released == []
    zdd.put()
    assert log.released == [(devmem, True)]
    assert (region.live_zdds, region.allocations, region.refs) == (0, 0, 1)


def test_an_allocation_that_was_never_filled_is_in_no_timeslice() -> None:
    async def body(machine: Machine) -> None:
        _region, _log, devmem = allocation()
        assert machine.engine.now == 0
        assert not machine.pagemap.to_ram.in_timeslice(devmem)

    run(body)


def test_one_put_too_many_is_noticed() -> None:
    _, _, devmem = allocation()
    zdd = Zdd(devmem)
    zdd.put()
    with pytest.raises(PropertyFailed) as failure:
        zdd.put()
    assert failure.value.rule == "RULE-40"


def test_a_second_release_is_noticed() -> None:
    _, log, devmem = allocation()
    devmem.release()
    with pytest.raises(PropertyFailed) as failure:
        devmem.release()
    assert failure.value.rule == "RULE-41"
    assert len(log.released) == 1


@given(st.lists(st.integers(0, 5)), st.integers(0, 5))
def test_retired_is_per_page_and_leaves_the_pointer_alone(retired: list[int], asked: int) -> None:
    zdd = Zdd(allocation()[2])
    page = folio(asked)
    zdd.attach(page)
    for pfn in retired:
        zdd.retire(folio(pfn))
    assert zdd.is_retired(page) == (asked in retired)
    assert page.zone_device_data is zdd


def test_a_completion_lets_everybody_go_also_later() -> None:
    backend = DirectBackend()
    engine = Engine(backend, make("fifo", 0))
    done = Completion(engine, "done")
    order: list[str] = []

    async def wait(name: str) -> None:
        await done.wait()
        order.append(name)

    async def main() -> None:
        early = engine.spawn(wait("early"), "early")
        await engine.step("local")
        order.append("complete")
        done.complete_all()
        await engine.join(early)
        await wait("late")

    backend.run(main())
    assert order == ["complete", "early", "late"]


def test_references_of_a_real_allocation() -> None:
    """RULE-40: one per folio once the creator's is gone; the BO and the region live that long."""

    async def body(machine: Machine) -> None:
        at = await machine.map(4)
        assert await machine.populate(at, 4) == "ok"
        zdd = machine.zdd(at)
        assert [zdd_of(machine.folio(at + page)) for page in range(4)] == [zdd] * 4
        assert zdd.refs == 4
        assert machine.pagemap.refs == 2
        await machine.unmap(at, 3)
        await machine.xe[0].flush()
        assert zdd.refs == 1
        assert machine.xe[0].statistics()["vram_pages"] == 4
        await machine.unmap(at + 3, 1)
        await machine.xe[0].flush()
        assert zdd.devmem.detached.done
        assert not any(machine.xe[0].statistics().values())
        assert machine.pagemap.refs == 1

    assert run(body).engine.counters["PGM-R07"] == 1
