"""Each rule about SVM ranges is broken by hand once; the oracle names the rule."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from svm_actors import run
from svm_actors.drm.gpusvm_range import GpusvmRange
from svm_actors.gpu.events import TlbFilled
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.mmu_notifier import Event, InvalidateReturned, NotifierRange
from svm_actors.oracle.ranges import Ranges
from svm_actors.world import World
from svm_actors.xe.svm_fault import RangeFound
from svm_actors.xe.svm_range import Link, XeSvmRange

BASE = 0x100_0000
VPN = BASE // PAGE_SIZE

Damage = Callable[[Ranges, World, XeSvmRange], Any]


def rule_broken_by(damage: Damage, **options: Any) -> str | None:
    """On a machine whose GPU has mapped a range of two pages; None when nothing was noticed."""

    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(2 * PAGE_SIZE, addr=BASE, fixed=True)
        await process.write(BASE, b"x")
        vm = await world.gpu().create_vm(process, chunk_pages=(2, 1), check_pages_threshold=0, **options)
        if "mirror" in options:
            await vm.bind_mirror(BASE, 2 * PAGE_SIZE, placement="system")
        await vm.load(BASE)
        oracle = Ranges(world)
        (range_,) = vm.vm.svm.gpusvm.ranges(VPN, VPN + 2)
        oracle.check_mirrored()
        damage(oracle, world, range_)
        oracle.check_mirrored()

    failure = run(scenario, backend="direct").failure
    if failure is None:
        return None
    assert failure.oracle == "ranges", str(failure)
    return failure.rule


def returned(oracle: Ranges, range_: XeSvmRange, event: Event, pages: int = 1) -> None:
    oracle(InvalidateReturned(NotifierRange(range_.gpusvm.mm, event, range_.start, range_.start + pages)))


def kill(range_: GpusvmRange) -> None:
    range_.flags = range_.flags._replace(unmapped=True)


def test_nothing_is_wrong_with_what_nobody_damaged() -> None:
    assert rule_broken_by(lambda *_: None, placement="system") is None


def test_a_range_that_stays_mapped_through_an_event() -> None:
    assert rule_broken_by(lambda oracle, _, range_: returned(oracle, range_, Event.CLEAR)) == "RULE-18"


def test_a_range_that_is_mapped_and_dead() -> None:
    assert rule_broken_by(lambda _oracle, _world, range_: kill(range_)) == "SVM-R04"


def test_a_range_in_two_places() -> None:
    def damage(_oracle: Ranges, _world: World, range_: XeSvmRange) -> None:
        elsewhere: Any = SimpleNamespace(zone_device_data=None)
        range_.pages.entries[1] = range_.pages.entries[1]._replace(folio=elsewhere)

    assert rule_broken_by(damage) == "SVM-R11"


def test_two_ranges_of_one_page() -> None:
    def damage(_oracle: Ranges, _world: World, range_: XeSvmRange) -> None:
        other = XeSvmRange(range_.vm)
        other.start, other.end = range_.start + 1, range_.end + 1
        assert range_.notifier is not None
        range_.notifier.ranges[other.start] = other

    assert rule_broken_by(damage, placement="system") == "SVM-R08"


def test_a_mapping_of_a_free_page() -> None:
    def damage(_oracle: Ranges, world: World, _range: XeSvmRange) -> None:
        _iova, mapping = next(iter(world.gpu().gpu.iommu.mappings()))
        mapping.folio.refcount = 0

    assert rule_broken_by(damage, placement="system") == "RULE-18"


def test_a_range_that_comes_to_life_again() -> None:
    def damage(oracle: Ranges, _world: World, range_: XeSvmRange) -> None:
        mapped, range_.pages.flags = range_.pages.flags, range_.pages.flags._replace(has_dma_mapping=False)
        range_.pages.flags = range_.pages.flags._replace(has_devmem_pages=False)
        kill(range_)
        returned(oracle, range_, Event.UNMAP)
        range_.flags = range_.flags._replace(unmapped=False)
        range_.pages.flags = mapped

    assert rule_broken_by(damage) == "SVM-R52"


def test_a_translation_of_a_dead_range() -> None:
    def damage(oracle: Ranges, world: World, range_: XeSvmRange) -> None:
        kill(range_)
        pte: Any = None
        oracle(TlbFilled(world.gpu().gpu.name, range_.vm.asid, range_.start, pte))

    assert rule_broken_by(damage) == "SVM-R04"


@pytest.mark.parametrize(("link", "rule"), [(Link.QUEUED, "RULE-17"), (Link.POPPED, None)])
def test_a_fault_that_finds_a_range_on_the_list_twice(link: Link, rule: str | None) -> None:
    def damage(oracle: Ranges, _world: World, range_: XeSvmRange) -> None:
        fault: Any = object()
        range_.link = link
        oracle(RangeFound(fault, range_))
        oracle(RangeFound(fault, range_))
        range_.link = Link.UNLINKED

    assert rule_broken_by(damage, placement="system") == rule


def test_a_range_outside_of_mirror_vmas() -> None:
    def damage(_oracle: Ranges, _world: World, range_: XeSvmRange) -> None:
        vm: Any = range_.vm
        vm.find_vma(range_.start).mirror = None

    assert rule_broken_by(damage, mirror=False) == "RULE-33"
