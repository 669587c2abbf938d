"""The oracle of migrations, told of commits one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from svm_actors.drm.pagemap_events import DevmemFilled, DevmemPlaced
from svm_actors.drm.pagemap_zdd import Devmem, Zdd
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.strategies import make
from svm_actors.mm.events import FolioMigrated
from svm_actors.mm.folio import Folio, Kind
from svm_actors.oracle.migrations import Migrations


class Bench:
    """An allocation of two pages, and the oracle."""

    def __init__(self) -> None:
        self.engine = Engine(DirectBackend(), make("fifo", 0))
        region: Any = SimpleNamespace(engine=self.engine, allocations=0, live_zdds=0, get=lambda: None)
        mm: Any = None
        ops: Any = None
        self.resv = SimpleNamespace(held_by_me=lambda: True)
        self.devmem = Devmem("bo0", region, mm, 2, ops, buffer=SimpleNamespace(resv=self.resv))
        self.zdd = Zdd(self.devmem)
        self.oracle = Migrations(SimpleNamespace(engine=self.engine))

    def page(self, pfn: int, *, device: bool = True, refs: tuple[str, ...] = ("collect",)) -> Folio:
        folio = Folio(self.engine, pfn, 0, Kind.DEVICE_PRIVATE if device else Kind.RAM)
        folio.zone_device_data = self.zdd if device else None
        folio.get("born")
        for reason in refs:
            folio.get(reason)
        folio.put("born")
        return folio

    def moved(self, source: Folio | None, target: Folio, *, by_fault: bool = False) -> None:
        self.oracle(FolioMigrated(source, target, by_fault))


def failing(rule: str) -> Any:
    return pytest.raises(PropertyFailed, check=lambda error: error.rule == rule)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_content_leaves_a_device_page_once(bench: Bench) -> None:
    page, ram = bench.page(1), bench.page(2, device=False)
    bench.moved(page, ram)
    with failing("RULE-53"):
        bench.moved(page, ram)


def test_a_fault_waits_for_the_timeslice_and_an_eviction_does_not(bench: Bench) -> None:
    bench.oracle(DevmemPlaced(bench.devmem, 5))
    ram = bench.page(2, device=False)
    bench.moved(bench.page(1), ram)
    with failing("RULE-47"):
        bench.moved(bench.page(3), ram, by_fault=True)


def test_nobody_else_has_the_page(bench: Bench) -> None:
    ram = bench.page(2, device=False)
    bench.moved(bench.page(1, refs=("collect", "fault")), ram, by_fault=True)
    with failing("PGM-R06"):
        bench.moved(bench.page(3, refs=("collect", "scan")), ram)


def test_success_means_every_page(bench: Bench) -> None:
    bench.moved(None, bench.page(1))
    with failing("RULE-58"):
        bench.oracle(DevmemFilled(bench.devmem))
    bench.moved(bench.page(9, device=False), bench.page(2))
    bench.oracle(DevmemFilled(bench.devmem))


def test_zone_data_comes_first(bench: Bench) -> None:
    page = bench.page(1)
    page.zone_device_data = None
    with failing("RULE-56"):
        bench.moved(None, page)


def test_the_memory_is_reserved_while_it_is_filled(bench: Bench) -> None:
    bench.oracle(DevmemPlaced(bench.devmem, 0))
    bench.resv.held_by_me = lambda: False
    with failing("RULE-55"):
        bench.oracle(DevmemPlaced(bench.devmem, 0))
