"""Getting and giving back pages: mappings, placement rules, the error path, and the checks at the commit."""

from __future__ import annotations

from typing import Any

import pytest
from gpusvm_bench import READ_ONLY, READ_WRITE, Range, Svm, counted, every, run

from svm_actors.drm.gpusvm import DrmGpusvm, GpusvmCtx, GpusvmPages
from svm_actors.drm.gpusvm_pages import HMM_RANGE_DEFAULT_TIMEOUT, PagesFlags
from svm_actors.engine.errors import EINVAL, EngineError, PropertyFailed
from svm_actors.gpu.address import Direction, Proto
from svm_actors.mm.constants import Prot
from svm_actors.mm.hmm_types import HmmRange

AT = 0x10000


def mine(machine: Svm, **fields: Any) -> GpusvmCtx:
    """A context that takes the device's own pages in place."""
    return GpusvmCtx(device_private_page_owner=machine.pagemap.owner, **fields)


def protos(range_: Range) -> str:
    """One letter per page: ``s`` system, ``v`` VRAM, ``p`` peer."""
    return "".join(page.addr.proto.value[0] for page in range_.pages.entries)


# -- system pages ---------------------------------------------------------------------------


def test_system_pages_go_into_one_window() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        range_ = await machine.mapped(AT)
        pages = range_.pages
        assert machine.iommu() == {"mappings": 4, "reservations": 1}
        first = pages.entries[0].addr
        assert [page.addr for page in pages.entries] == [first._replace(addr=first.addr + n) for n in range(4)]
        assert (first.proto, first.direction) == (Proto.SYSTEM, Direction.BIDIRECTIONAL)
        iommu = machine.gpus[0].iommu
        assert [iommu.resolve(page.addr.addr, True).content.byte(0) for page in pages.entries] == [1, 2, 3, 4]
        assert pages.flags == PagesFlags(has_dma_mapping=True)
        assert pages.notifier_seq == range_.interval.seq
        await machine.gpusvm.unmap_pages(pages)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}
        assert pages.flags == PagesFlags()

    run(body)


def test_without_windows_pages_are_mapped_one_by_one() -> None:
    async def body(machine: Svm) -> None:
        machine.gpus[0].iommu.has_windows = False
        await machine.map(4)
        range_ = await machine.mapped(AT)
        assert machine.iommu() == {"mappings": 4, "reservations": 0}
        await machine.gpusvm.unmap_pages(range_.pages)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}

    run(body)


def test_write_faults_pages_in_and_read_only_does_not() -> None:
    """Read-only pages are mapped towards the device and may be the zero page."""

    async def body(machine: Svm) -> None:
        await machine.map(8)
        range_ = await machine.mapped(AT, READ_ONLY)
        assert {page.addr.direction for page in range_.pages.entries} == {Direction.TO_DEVICE}
        assert machine.where(AT, 4) == "zzzz"
        assert not any(page.cpu_write for page in range_.pages.entries)
        range_ = await machine.mapped(AT + 4)
        assert machine.where(AT + 4, 4) == "rrrr"
        assert all(page.cpu_write for page in range_.pages.entries)

    run(body)


def test_mapped_pages_are_not_mapped_again() -> None:
    """Only the sequence is refreshed; what the context asks for is not looked at (SVM-S07)."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        array, seq = range_.pages.array, range_.pages.notifier_seq
        machine.events.clear()
        await machine.map(1, at=AT + 5)
        await machine.write(AT + 5, 1)
        await machine.unmap(AT + 5, 1)
        assert await machine.get(range_, GpusvmCtx(devmem_only=True)) == "ok"
        assert range_.pages.array is array
        assert range_.pages.notifier_seq > seq

    run(body)


# -- device pages ---------------------------------------------------------------------------


def test_device_pages_keep_their_region() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        assert await machine.populate(AT, 4) == "ok"
        refs = machine.pagemap.refs
        range_ = await machine.mapped(AT, mine(machine))
        assert protos(range_) == "vvvv"
        assert machine.engine.counters["SVM-R55"] == 0
        assert range_.pages.dpagemap is machine.pagemap
        assert machine.pagemap.refs == refs + 1
        assert range_.pages.flags == PagesFlags(has_devmem_pages=True, has_dma_mapping=True)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}
        await machine.gpusvm.unmap_pages(range_.pages)
        assert range_.pages.dpagemap is None
        assert machine.pagemap.refs == refs

    run(body)


def test_without_an_owner_device_pages_come_home() -> None:
    """SVM-R55."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        assert await machine.populate(AT, 4) == "ok"
        assert machine.engine.counters["SVM-R55"] == 0
        range_ = await machine.mapped(AT)
        assert machine.engine.counters["SVM-R55"] == 1
        assert protos(range_) == "ssss"
        assert await machine.read(AT, 4) == [1, 2, 3, 4]

    run(body)


def test_a_peer_maps_device_pages_through_its_bus() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        assert await machine.populate(AT, 4, gpu=1) == "ok"
        range_ = await machine.mapped(AT, mine(machine))
        assert protos(range_) == "pppp"
        assert range_.pages.dpagemap is machine.xe[1].dpagemap
        assert machine.iommu() == {"mappings": 4, "reservations": 0}

    run(body, gpus=2)


# -- mixed placement ------------------------------------------------------------------------


async def mix(machine: Svm, layout: str) -> None:
    """Four pages: a digit is an allocation of its own, ``r`` stays in RAM."""
    await machine.map(4)
    await machine.write(AT, 1, 2, 3, 4)
    for page in sorted({layout.index(letter) for letter in layout if letter != "r"}):
        npages = layout.count(layout[page])
        assert await machine.populate(AT + page, npages) == "ok"


@pytest.mark.parametrize(
    ("layout", "strict", "mixed", "device_only"),
    [
        ("rrrr", "ok", "ssss", "EFAULT"),
        ("0000", "ok", "vvvv", "ok"),
        ("0011", "EOPNOTSUPP", "vvvv", "EOPNOTSUPP"),
        ("00rr", "EOPNOTSUPP", "vvss", "EOPNOTSUPP"),
        ("rr00", "EOPNOTSUPP", "ssvv", "EFAULT"),
        ("r00r", "EOPNOTSUPP", "svvs", "EFAULT"),
    ],
)
def test_placement_rules(layout: str, strict: str, mixed: str, device_only: str) -> None:
    """SVM-R11: one allocation or none, unless mixing is allowed; whatever fails leaves nothing mapped."""

    async def body(machine: Svm) -> None:
        await mix(machine, layout)
        range_ = await machine.find(AT)
        for ctx, expected in (
            (mine(machine, devmem_only=True), device_only),
            (mine(machine), strict),
        ):
            async with machine.unchanged():
                assert await machine.get(range_, ctx) == expected
                await machine.gpusvm.free_pages(range_.pages)
        assert await machine.get(range_, mine(machine, allow_mixed=True)) == "ok"
        assert protos(range_) == mixed

    run(body)


def test_a_window_and_device_pages_side_by_side() -> None:
    """SVM-R44: the window that page 0 opened goes back whole, though not all of it was linked (SVM-B31)."""

    async def body(machine: Svm) -> None:
        await mix(machine, "r0rr")
        range_ = await machine.find(AT)
        assert await machine.get(range_, mine(machine, allow_mixed=True)) == "ok"
        assert machine.iommu() == {"mappings": 3, "reservations": 1}
        assert machine.engine.counters["SVM-R44"] == 1
        async with machine.gpusvm.notifier_lock.reading():
            pass
        await machine.gpusvm.unmap_pages(range_.pages)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}

    run(body)


def test_two_regions_never_mix() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        assert await machine.populate(AT, 2, gpu=0) == "ok"
        assert await machine.populate(AT + 2, 2, gpu=1) == "ok"
        range_ = await machine.find(AT)
        async with machine.unchanged():
            assert await machine.get(range_, mine(machine, allow_mixed=True)) == "EOPNOTSUPP"

    run(body, gpus=2)


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_mapping_error_unmaps_exactly_what_was_mapped(failing: int, windows: bool) -> None:
    """SVM-R43: also the pages before the one that failed, though the flags are not published yet."""

    async def body(machine: Svm) -> None:
        iommu = machine.gpus[0].iommu
        iommu.has_windows = windows
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        range_ = await machine.find(AT)
        original, seen = iommu._new_mapping, iter(range(10))

        def limited(*args: Any) -> Any:
            if next(seen) == failing:
                iommu.fail_next = 1
            return original(*args)

        iommu._new_mapping = limited  # type: ignore[method-assign]
        async with machine.unchanged():
            assert await machine.get(range_) == ("ENOMEM" if windows else "EFAULT")
        assert range_.pages.flags == PagesFlags()
        assert machine.engine.counters["SVM-R43"] == (failing > 0)
        assert await machine.get(range_) == "ok"
        assert len(range_.pages.entries) == 4

    run(body)


def test_unmapped_ranges_are_never_mapped_again() -> None:
    """SVM-R04: even when there is memory at that address again."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        await machine.unmap(AT, 4)
        await machine.map(4)
        async with machine.unchanged():
            assert await machine.get(range_) == "EFAULT"
        assert machine.engine.counters["SVM-R01"] == 1

    run(body)


def test_hmm_errors_pass_through() -> None:
    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.find(AT)
        await machine.protect(AT + 3, 1, Prot.READ)
        assert await machine.get(range_) == "EPERM"
        await machine.protect(AT + 3, 1, Prot.NONE)
        assert await machine.get(range_) == "EFAULT"
        machine.core.allocator.fail_next = 1
        await machine.protect(AT + 3, 1, Prot.READ | Prot.WRITE)
        assert await machine.get(range_) == "ENOMEM"
        machine.mm.users -= 1
        assert await machine.get(range_) == "EFAULT"
        assert machine.engine.counters["SVM-R21"] == 1
        machine.mm.users += 1
        assert await machine.get(range_) == "ok"

    run(body)


def test_pages_without_a_device_are_refused() -> None:
    """RULE-20."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.find(AT)
        with pytest.raises(EINVAL):
            await machine.gpusvm.get_pages(
                GpusvmPages(None), machine.mm, range_.interval, range_.start, range_.end, READ_WRITE
            )

    run(body)


def test_retries_end_after_a_second() -> None:
    """-EBUSY after 1000 ms of walks that are stale when they are done."""

    class Unlucky(DrmGpusvm):
        rounds = 0

        def walk_is_stale(self, walk: HmmRange) -> bool:
            Unlucky.rounds += 1
            self.engine.now += HMM_RANGE_DEFAULT_TIMEOUT // 4
            return True

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.find(AT)
        async with machine.unchanged():
            assert await machine.get(range_) == "EBUSY"

    run(body, gpusvm=Unlucky)
    assert Unlucky.rounds == 4


# -- unmapping ------------------------------------------------------------------------------


def test_the_address_array_outlives_its_mappings() -> None:
    """RULE-23: a cursor taken before the unmap can still be read; the next get_pages frees the array."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        cursor = range_.pages.array
        assert cursor is not None
        await machine.gpusvm.unmap_pages(range_.pages)
        assert len(cursor.entries) == 4
        assert await machine.get(range_) == "ok"
        with pytest.raises(PropertyFailed, match="RULE-23"):
            _ = cursor.entries
        second = range_.pages.array
        await machine.gpusvm.free_pages(range_.pages)
        assert range_.pages.array is None
        assert second is not None
        assert second.freed

    run(body)


def test_unmapping_twice_is_harmless() -> None:
    """SVM-R42."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        for _ in range(2):
            await machine.gpusvm.unmap_pages(range_.pages)
        async with machine.gpusvm.notifier_lock.writing():
            await machine.gpusvm.unmap_pages(range_.pages, in_notifier=True)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}
        with pytest.raises(EngineError, match="notifier_lock must be held for write"):
            await machine.gpusvm.unmap_pages(range_.pages, in_notifier=True)

    run(body)


def test_collector_and_callback_unmap_once_between_them() -> None:
    """SVM-R42: whoever comes second finds nothing mapped."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        range_ = await machine.mapped(AT)
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(machine.unmap, AT, 4)
            nursery.start_soon(later, machine, range_)
        assert machine.iommu() == {"mappings": 0, "reservations": 0}

    async def later(machine: Svm, range_: Range) -> None:
        await machine.map(1, at=AT + 32)
        await machine.drop(range_)

    assert counted(list(every(body, 100)), "SVM-R42")
