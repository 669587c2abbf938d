"""Device memory by physical page."""

from __future__ import annotations

import pytest
from hardware_bench import BASE_PFN, VRAM_PAGES, Bench, run

from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.gpu.vram import Vram
from svm_actors.mm.memremap import DevPagemap


def test_a_page_in_use_is_reached_and_a_free_one_is_not() -> None:
    async def body(bench: Bench) -> None:
        vram = bench.gpu.vram
        folio = bench.device(3)
        assert vram.resolve(BASE_PFN + 3) is folio
        assert vram.folio_at(BASE_PFN + 4) is None
        folio.put("test")
        assert vram.folio_at(BASE_PFN + 3) is None
        with pytest.raises(PropertyFailed, match="INV-05"):
            vram.resolve(BASE_PFN + 3)

    run(body)


@pytest.mark.parametrize("pfn", [BASE_PFN - 1, BASE_PFN + VRAM_PAGES, 0])
def test_there_is_nothing_outside(pfn: int) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(PropertyFailed, match="outside the memory"):
            bench.gpu.vram.folio_at(pfn)

    run(body)


def test_the_struct_pages_must_cover_the_memory() -> None:
    async def body(bench: Bench) -> None:
        smaller = DevPagemap(bench.engine, "small", "owner", BASE_PFN, VRAM_PAGES - 1, bench)
        with pytest.raises(EngineError, match="small does not cover"):
            bench.gpu.vram.attach(smaller)

    run(body)


def test_memory_without_struct_pages_holds_nothing() -> None:
    vram = Vram("vram", 0x100, 4)
    assert vram.folio_at(0x100) is None
    with pytest.raises(PropertyFailed, match="INV-05"):
        vram.resolve(0x101)
