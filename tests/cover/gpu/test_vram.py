"""Device memory by physical page."""

from __future__ import annotations

import pytest
from hardware_bench import BASE_PFN, VRAM_PAGES, Bench, run

from svm_actors.engine.errors import EngineError, PropertyFailed
from svm_actors.gpu.vram import LEFT_OVER, Vram
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


def test_a_page_of_a_buffer_object() -> None:
    """Undefined at first, gone at the end, and never mistaken for the one before or for a device folio."""

    async def body(bench: Bench) -> None:
        vram, pfn = bench.gpu.vram, BASE_PFN + 3
        seen = []
        for _ in range(2):
            folio = vram.place(bench.engine, pfn)
            assert (vram.resolve(pfn), folio.content) == (folio, LEFT_OVER)
            seen.append(folio.generation)
            vram.remove(folio)
            assert folio.freed
            assert vram.folio_at(pfn) is None
        device = bench.device(3)
        assert len({*seen, device.generation}) == 3
        device.put("test")

    run(body)


@pytest.mark.parametrize("first", ["device", "plain"])
def test_a_page_has_one_owner(first: str) -> None:
    async def body(bench: Bench) -> None:
        vram, pfn = bench.gpu.vram, BASE_PFN + 3
        folio = bench.device(3) if first == "device" else vram.place(bench.engine, pfn)
        with pytest.raises(PropertyFailed, match="RULE-41"):
            vram.place(bench.engine, pfn)
        if first == "device":
            folio.put("test")
        else:
            vram.remove(folio)

    run(body)
