"""Memory that cannot be had: at each point the error its caller gets, and what has happened until then."""

from __future__ import annotations

import pytest
from faulty import PAGE, fail_next, held, struck

from svm_actors.engine.errors import ENOENT, ENOMEM, KernelError
from svm_actors.gpu.program import GpuFault
from svm_actors.mm.content import FILLED
from svm_actors.mm.messages import SIGBUS
from svm_actors.world import Process, World

PLACE = 1 << 30
FAR = 1 << 34
"""In another leaf table than PLACE."""


async def filled(process: Process, npages: int = 4, addr: int = PLACE) -> None:
    """Pages that hold their number."""
    await process.mmap(npages * PAGE, addr=addr, fixed=True)
    for page in range(npages):
        await process.write(addr + page * PAGE, bytes((page + 1,)))


async def contents(process: Process, npages: int = 4, addr: int = PLACE) -> bytes:
    """What they hold now."""
    return b"".join([await process.read(addr + page * PAGE) for page in range(npages)])


async def refused(world: World, call: object, error: type[KernelError] = ENOMEM) -> None:
    """The call fails so, for no other reason than the fault that was injected."""
    with pytest.raises(error):
        await call  # type: ignore[misc]
    assert struck(world)


# -- CPU faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["page", "pgtable", "memory"])
def test_the_first_touch_fails_and_the_next_one_goes_through(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(PAGE, addr=PLACE, fixed=True)
        fail_next(world, kind)
        await refused(world, process.write(PLACE, b"a"))
        await process.write(PLACE, b"b")
        assert await process.read(PLACE) == b"b"

    held(scenario)


def test_a_copy_on_write_that_fails_leaves_the_page_shared() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        child = await process.fork()
        fail_next(world, "page")
        await refused(world, child.write(PLACE, b"c"))
        assert await child.read(PLACE) == await process.read(PLACE) == b"\1"
        await child.write(PLACE, b"c")
        assert await process.read(PLACE) == b"\1"

    held(scenario)


def test_a_page_that_cannot_be_swapped_in_stays_in_swap() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        assert await process.swap_out(PLACE, PAGE)
        fail_next(world, "page")
        await refused(world, process.read(PLACE))
        assert world.statistics()["core_mm"]["swap"] == 1
        assert await process.read(PLACE) == b"\1"

    held(scenario)


# -- system calls ----------------------------------------------------------------------------------


def test_a_failed_mmap_over_a_mapping_leaves_a_gap() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        fail_next(world, "memory", nth=3)  # both cuts can be made
        await refused(world, process.mmap(2 * PAGE, addr=PLACE + PAGE, fixed=True))
        assert [(vma.start - (PLACE >> 12), vma.end - (PLACE >> 12)) for vma in process.mm.vmas] == [(0, 1), (3, 4)]
        assert await process.read(PLACE) == b"\1"
        assert await process.read(PLACE + 3 * PAGE) == b"\4"

    held(scenario)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("call", ["mmap", "munmap", "mprotect"])
def test_a_vma_that_cannot_be_cut_stays_mapped(call: str, nth: int) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        start, length = PLACE + PAGE, 2 * PAGE
        calls = {
            "mmap": lambda: process.mmap(length, addr=start, fixed=True),
            "munmap": lambda: process.munmap(start, length),
            "mprotect": lambda: process.mprotect(start, length, "r"),
        }
        fail_next(world, "memory", nth)
        await refused(world, calls[call]())
        assert await contents(process) == b"\1\2\3\4"
        await process.write(PLACE + PAGE, b"w")

    held(scenario, seeds=3)


def test_a_heap_that_cannot_grow_or_be_cut_keeps_its_end() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        mm = process.mm
        mm.brk_start = mm.brk_end = PLACE
        fail_next(world, "memory")
        assert await process.brk(PLACE + 4 * PAGE) == PLACE
        assert await process.brk(PLACE + 4 * PAGE) == PLACE + 4 * PAGE
        fail_next(world, "memory")
        assert await process.brk(PLACE + PAGE) == PLACE + 4 * PAGE
        await process.write(PLACE + 3 * PAGE, b"h")

    held(scenario, seeds=3)


@pytest.mark.parametrize("kind", ["memory", "pgtable"])
def test_a_failed_mremap_leaves_everything_where_it_was(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        fail_next(world, kind)
        await refused(world, process.mremap(PLACE, 4 * PAGE, 4 * PAGE, to=FAR))
        assert await contents(process) == b"\1\2\3\4"
        assert process.mm.vmas.find(FAR >> 12) is None

    held(scenario)


def test_a_move_that_runs_out_of_page_tables_half_way_moves_back() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        place = (1 << 30) + (1 << 21) - 2 * PAGE  # two leaf tables, two pages in each
        await filled(process, addr=place)
        fail_next(world, "pgtable", nth=2)
        await refused(world, process.mremap(place, 4 * PAGE, 4 * PAGE, to=FAR + (1 << 21) - 2 * PAGE))
        assert await contents(process, addr=place) == b"\1\2\3\4"
        assert len(process.mm.vmas) == 1

    held(scenario)


def test_a_source_that_cannot_be_cut_after_a_move_stays_empty() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        fail_next(world, "memory", nth=2)
        await process.mremap(PLACE + PAGE, 2 * PAGE, 2 * PAGE, to=FAR)
        assert struck(world)
        assert await contents(process, 2, FAR) == b"\2\3"
        assert await contents(process) == b"\1\0\0\4"

    held(scenario)


@pytest.mark.parametrize("kind", ["memory", "pgtable"])
def test_a_failed_fork_leaves_no_child(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process)
        await filled(process, addr=FAR)
        fail_next(world, kind, nth=2)
        await refused(world, process.fork())
        assert list(world.core.mms) == [process.name]
        await process.write(PLACE, b"w")

    held(scenario)


# -- GPUs ------------------------------------------------------------------------------------------


def test_a_vm_that_cannot_be_made_is_not_there() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        gpu = world.gpu()
        fail_next(world, "memory")
        await refused(world, gpu.create_vm(process))
        assert gpu.driver.statistics()["vms"] == 0

    held(scenario, seeds=3)


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_gpu_fault_without_memory_is_refused_or_served_without_device_memory(nth: int) -> None:
    """Subscription, notifier and range refuse the fault; the rest costs a move or an attempt.  Then all is well."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        fail_next(world, "memory", nth)
        answer = await vm.load(PLACE)
        assert struck(world)
        assert answer == b"\1" if nth > 3 else isinstance(answer, GpuFault) and answer.errno == ENOMEM.errno
        assert await vm.load(PLACE) == b"\1"

    held(scenario)


@pytest.mark.parametrize("kind", ["pgtable", "fence"])
def test_a_bind_without_memory_is_tried_again_alone(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        fail_next(world, kind)
        assert await vm.load(PLACE) == b"\1"
        assert struck(world)

    for result in held(scenario):
        assert result.counters["vram.exclusive"] == 1


def test_an_unbind_without_memory_kills_the_vm() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        await vm.load(PLACE)
        fail_next(world, "memory")
        await process.munmap(PLACE, PAGE)
        await world.settle()
        assert struck(world)
        assert vm.vm.killed
        with pytest.raises(ENOENT):
            await vm.load(PLACE)

    held(scenario)


@pytest.mark.parametrize("times", [1, 2])
def test_without_device_memory_the_page_stays_in_ram(times: int) -> None:
    """The first refusal is tried again with everybody else kept out."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        fail_next(world, "vram")
        world.engine.faults.left = times
        assert await vm.load(PLACE) == b"\1"
        assert world.engine.faults.struck == ["vram"] * times
        assert world.gpu().driver.statistics()["bos"] == (1 if times == 1 else 0)

    for result in held(scenario):
        assert result.counters["vram.exclusive"] == 1


@pytest.mark.parametrize(("kind", "npages"), [("copy", 1), ("copy", 2), ("dma", 1), ("dma", 2), ("memory", 3)])
def test_what_cannot_be_brought_to_the_device_stays_in_ram(kind: str, npages: int) -> None:
    """The clear or the copy; the window or a page in it."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        await process.mmap(PAGE, addr=FAR, fixed=True)
        await vm.load(FAR)
        fail_next(world, kind, npages)
        assert await vm.load(PLACE) == b"\1"
        assert struck(world)
        assert await process.read(PLACE) == b"\1"

    held(scenario)


@pytest.mark.parametrize("kind", ["page", "memory", "copy"])
def test_a_page_that_cannot_be_brought_home_is_a_sigbus_and_stays(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        await vm.store(PLACE, b"g")
        fail_next(world, kind)
        await refused(world, process.read(PLACE), SIGBUS)
        assert await vm.load(PLACE) == b"g"
        assert await process.read(PLACE) == b"g"

    held(scenario)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_mapping_that_fails_on_the_way_home(nth: int) -> None:
    """Without a window pages are mapped one by one; a page that cannot be mapped is a SIGBUS."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        await vm.store(PLACE, b"g")
        fail_next(world, "dma", nth)
        if nth == 1:
            assert await process.read(PLACE) == b"g"
        else:
            await refused(world, process.read(PLACE), SIGBUS)
        assert await process.read(PLACE) == b"g"

    held(scenario)


@pytest.mark.parametrize("kind", ["page", "memory", "copy", "dma"])
def test_an_eviction_that_fails_makes_another_pass(kind: str) -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        vm = await world.gpu().create_vm(process)
        await vm.store(PLACE, b"g")
        fail_next(world, kind)
        assert await world.gpu().evict(PAGE) == 1
        assert struck(world)
        assert await process.read(PLACE) == b"g"

    held(scenario)


def test_a_hole_is_not_filled_without_a_page_table() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(PAGE, addr=PLACE, fixed=True)
        vm = await world.gpu().create_vm(process)
        fail_next(world, "pgtable")
        await vm.store(PLACE, b"g")
        assert struck(world)
        assert await process.read(PLACE) == b"g"

    held(scenario)


# -- mirrors ---------------------------------------------------------------------------------------


def test_a_mirror_that_cannot_subscribe_is_not_open() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        fail_next(world, "memory")
        await refused(world, world.mirror(process))
        assert not world.mirror_device().mirrors
        await world.mirror(process)

    held(scenario, seeds=3)


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("read", "memory"), ("read", "pgtable"), ("write", "memory"), ("write", "pgtable"), ("exclusive", "pgtable")],
)
def test_a_command_of_a_mirror_without_memory(verb: str, kind: str) -> None:
    """The buffer, or the entry of its page table; what the pages hold stays."""

    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        mirror = await world.mirror(process)
        await mirror.read(PLACE, 1)
        await process.write(PLACE, b"z")
        calls = {
            "read": lambda: mirror.read(PLACE, 1),
            "write": lambda: mirror.write(PLACE, [FILLED[9]]),
            "exclusive": lambda: mirror.exclusive(PLACE, 1),
        }
        await process.mprotect(PLACE, PAGE, "r")
        await process.mprotect(PLACE, PAGE, "rw")  # the mirror has to fault again
        fail_next(world, kind)
        await refused(world, calls[verb]())
        assert await process.read(PLACE) == b"z"

    held(scenario, seeds=3)


def test_a_mirror_without_device_memory_leaves_the_page_in_ram() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        mirror = await world.mirror(process)
        for kind in ("vram", "page"):
            fail_next(world, kind)
            await mirror.migrate_to_dev(PLACE, 1)
            assert struck(world)
            assert mirror.device.memory.statistics()["live"] == 0
        assert await process.read(PLACE) == b"\1"

    held(scenario, seeds=3)


def test_a_mirror_that_cannot_bring_a_page_home_keeps_it() -> None:
    async def scenario(world: World) -> None:
        process = world.process()
        await filled(process, 1)
        mirror = await world.mirror(process)
        await mirror.migrate_to_dev(PLACE, 1)
        fail_next(world, "page")
        await refused(world, process.read(PLACE))
        fail_next(world, "page")
        await refused(world, mirror.migrate_to_sys(PLACE, 1))
        assert mirror.device.memory.statistics()["live"] == 1
        assert await process.read(PLACE) == b"\1"

    held(scenario, seeds=3)
