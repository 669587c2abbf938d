"""Where pages are, and bringing them home by virtual address (gpusvm section 4, end)."""

from __future__ import annotations

import pytest
from gpusvm_bench import Svm, counted, every, run

from svm_actors.drm.gpusvm import Scan
from svm_actors.engine.errors import EFAULT, EPERM, ETIME
from svm_actors.mm.constants import Prot

AT = 0x10000
MS = 1_000_000


async def layout(machine: Svm, text: str) -> None:
    """One letter per page: ``-`` untouched, ``r`` RAM, a digit is the GPU whose memory it is in."""
    await machine.map(len(text))
    for page, letter in enumerate(text):
        if letter != "-":
            await machine.write(AT + page, page + 1)
        if letter.isdigit():
            assert await machine.populate(AT + page, 1, gpu=int(letter)) == "ok"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("----", Scan.UNPOPULATED),
        ("rrr-", Scan.UNPOPULATED),
        ("0-00", Scan.UNPOPULATED),
        ("rrrr", Scan.SYSTEM),
        ("0000", Scan.EQUAL),
        ("1111", Scan.OTHER),
        ("0011", Scan.MIXED_DEVICE),
        ("0r00", Scan.MIXED),
        ("r000", Scan.MIXED),
        ("011r", Scan.MIXED),
        ("rr01", Scan.MIXED),
    ],
)
def test_scan_says_where_the_pages_are(text: str, expected: Scan) -> None:
    """No fault is taken, so nothing moves and nothing is mapped by the look."""

    async def body(machine: Svm) -> None:
        await layout(machine, text)
        range_ = await machine.find(AT)
        before = machine.where(AT, 4)
        found = await machine.gpusvm.scan_mm(range_, machine.pagemap.owner, machine.pagemap.pgmap)
        assert found is expected
        assert machine.where(AT, 4) == before

    run(body, gpus=2)


def test_pages_of_a_stranger_read_as_missing() -> None:
    async def body(machine: Svm) -> None:
        await layout(machine, "0000")
        range_ = await machine.find(AT)
        assert await machine.gpusvm.scan_mm(range_, object(), machine.pagemap.pgmap) is Scan.UNPOPULATED
        assert machine.where(AT, 4) == "0000"

    run(body)


def test_errors_read_as_missing() -> None:
    async def body(machine: Svm) -> None:
        await layout(machine, "rrrr")
        range_ = await machine.find(AT)
        await machine.unmap(AT, 4)
        assert await machine.gpusvm.scan_mm(range_, None, None) is Scan.UNPOPULATED
        machine.mm.unstable = True
        assert await machine.gpusvm.scan_mm(range_, None, None) is Scan.UNPOPULATED

    run(body)


def test_a_scan_is_one_moment() -> None:
    """Against a move to the device: all here, all there, or not to be seen for the migration; never mixed."""

    async def scan(machine: Svm) -> None:
        range_ = await machine.find(AT)
        owner, pgmap = machine.pagemap.owner, machine.pagemap.pgmap
        machine.results["scans"] = [await machine.gpusvm.scan_mm(range_, owner, pgmap) for _ in range(12)]

    async def move(machine: Svm) -> None:
        await machine.populate(AT, 4)

    async def body(machine: Svm) -> None:
        await layout(machine, "rrrr")
        async with machine.engine.nursery() as nursery:
            nursery.start_soon(scan, machine)
            nursery.start_soon(move, machine)

    machines = list(every(body))
    assert {scan for machine in machines for scan in machine.results["scans"]} == {
        Scan.SYSTEM,
        Scan.UNPOPULATED,
        Scan.EQUAL,
    }
    assert counted(machines, "gpu.retry.scan")


# -- range_evict ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0000", "0r0r", "0011", "rrrr"])
def test_evict_brings_the_whole_range_home(text: str) -> None:
    async def body(machine: Svm) -> None:
        await layout(machine, text)
        range_ = await machine.find(AT)
        await machine.gpusvm.range_evict(range_)
        assert machine.where(AT, 4) == "rrrr"
        assert await machine.read(AT, 4) == [1, 2, 3, 4]

    run(body, gpus=2)


def test_evict_waits_for_the_timeslice() -> None:
    """It goes the way of CPU faults, which honour the minimum stay (pagemap section 2)."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        begin = machine.engine.now
        assert await machine.populate(AT, 4, timeslice_ns=5 * MS) == "ok"
        range_ = await machine.find(AT)
        await machine.gpusvm.range_evict(range_)
        assert machine.engine.now >= begin + 5 * MS
        assert machine.where(AT, 4) == "rrrr"

    run(body)


def test_evict_gives_up_after_a_second() -> None:
    """A page whose stay is longer than 1000 ms: -EBUSY of the walk is reported as -ETIME."""

    async def body(machine: Svm) -> None:
        await machine.map(4)
        await machine.write(AT, 1, 2, 3, 4)
        assert await machine.populate(AT, 4, timeslice_ns=5000 * MS) == "ok"
        range_ = await machine.find(AT)

        async def disturb() -> None:
            while machine.engine.now < 1500 * MS:
                await machine.engine.sleep(100 * MS)
                await machine.map(1, at=AT + 8)
                await machine.write(AT + 8, 1)
                await machine.unmap(AT + 8, 1)

        async with machine.engine.nursery() as nursery:
            nursery.start_soon(disturb)
            with pytest.raises(ETIME):
                await machine.gpusvm.range_evict(range_)
        await machine.engine.sleep(5000 * MS)

    run(body)


def test_evict_of_a_dying_or_unmapped_range_fails() -> None:
    async def body(machine: Svm) -> None:
        await layout(machine, "rrrr")
        range_ = await machine.find(AT)
        machine.mm.users -= 1
        async with machine.unchanged():
            with pytest.raises(EFAULT):
                await machine.gpusvm.range_evict(range_)
        machine.mm.users += 1
        await machine.unmap(AT, 4)
        with pytest.raises(EFAULT):
            await machine.gpusvm.range_evict(range_)

    run(body)


@pytest.mark.parametrize("write", [True, False])
def test_asking_for_write_breaks_copy_on_write(write: bool) -> None:
    """After fork the pages are shared; home and writable means: pages of our own."""

    async def body(machine: Svm) -> None:
        await layout(machine, "0000")
        child = await machine.fork()
        range_ = await machine.find(AT)
        await machine.gpusvm.range_evict(range_, write=write)
        entries = [machine.mm.page_table.get(AT + page) for page in range(4)]
        assert [entry.writable for entry in entries if entry is not None] == [write] * 4
        shared = [machine.folio(AT + page) is machine.folio(AT + page, child) for page in range(4)]
        assert shared == [not write] * 4
        assert await machine.read(AT, 4, child) == await machine.read(AT, 4) == [1, 2, 3, 4]

    run(body)


def test_asking_for_write_where_the_cpu_may_not_fails() -> None:
    async def body(machine: Svm) -> None:
        await layout(machine, "0000")
        range_ = await machine.find(AT)
        await machine.protect(AT, 4, Prot.READ)
        await machine.gpusvm.range_evict(range_)
        assert machine.where(AT, 4) == "rrrr"
        with pytest.raises(EPERM):
            await machine.gpusvm.range_evict(range_, write=True)

    run(body)
