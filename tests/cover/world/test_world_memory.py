"""Memory through the verbs of a world: system calls of several processes beside a GPU and mirrors."""

from contextlib import suppress

import pytest

from svm_actors import run
from svm_actors.engine.errors import EEXIST, ENOMEM, KernelError
from svm_actors.mm.messages import SIGSEGV
from svm_actors.world import Config, World

PAGE = 4096
AT = 1 << 30


def held(scenario, seeds=20, strategy="random", **options):
    """Run under fifo and other schedules on the direct back end; raise what failed."""
    for seed in range(seeds):
        result = run(scenario, seed=seed, strategy=strategy if seed else "fifo", backend="direct", **options)
        assert result.ok, result.failure


def test_a_world_that_is_used_and_closed_holds_nothing():
    worlds = []

    async def scenario(world: World) -> None:
        worlds.append(world)
        parent = world.process()
        vm = await world.gpu().create_vm(parent)
        addr = await parent.mmap(4 * PAGE)
        await parent.write(addr, b"x")
        assert await vm.load(addr) == b"x"
        child = await parent.fork()
        await child.write(addr, b"y")
        await parent.swap_out(addr, PAGE)

    held(scenario, seeds=4)
    for world in worlds:
        assert world.statistics()["core_mm"] == {"mms": 0, "ram": 0, "swap": 0}


def test_a_store_goes_along_with_a_page_that_is_being_moved():
    """It may be read at the new place before mremap is through."""
    early = []

    async def scenario(world: World) -> None:
        process = world.process()
        await process.mmap(2 * PAGE, addr=AT, fixed=True)
        await process.write(AT + PAGE, b"2")
        moved = []

        async def store_and_look() -> None:
            with suppress(KernelError):
                await process.write(AT + PAGE, b"3")
            if await process.read(AT) == b"3" and not moved:
                early.append(world)

        async def move() -> None:
            moved.append(await process.mremap(AT + PAGE, PAGE, PAGE, to=AT))

        async with world.nursery() as nursery:
            nursery.start_soon(store_and_look)
            nursery.start_soon(move)

    held(scenario, seeds=200, strategy="surw")
    assert early


def test_file_mappings_of_two_processes_are_one_memory():
    async def scenario(world: World) -> None:
        file = world.file("data")
        first, second = world.process(), world.process()
        for process in (first, second):
            await process.mmap(4 * PAGE, addr=AT, fixed=True, shared=True, file=file)
        await second.mmap(4 * PAGE, addr=2 * AT, fixed=True, file=file, offset=1)

        async def writer(process, value):
            await process.write(AT + PAGE, value)

        async with world.nursery() as nursery:
            nursery.start_soon(writer, first, b"a")
            nursery.start_soon(writer, second, b"b")
        seen = await first.read(AT + PAGE)
        assert seen == await second.read(AT + PAGE)
        assert seen == await second.read(2 * AT)
        await second.write(2 * AT, b"c")
        assert await first.read(AT + PAGE) == seen

    held(scenario)


def test_memory_of_a_full_machine_is_refused_not_lost():
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(8 * PAGE)
        for page in range(3):
            await process.write(addr + page * PAGE, b"x")
        with pytest.raises(ENOMEM):
            await process.write(addr + 3 * PAGE, b"x")
        assert [await process.read(addr + page * PAGE) for page in range(3)] == [b"x"] * 3
        await process.munmap(addr, PAGE)
        await process.write(addr + 7 * PAGE, b"y")

    held(scenario, seeds=3, config=Config(ram_pages=3))


def test_placement_options_reach_the_core():
    async def scenario(world: World) -> None:
        process = world.process()
        assert await process.mmap(PAGE, addr=AT, noreplace=True) == AT
        with pytest.raises(EEXIST):
            await process.mmap(PAGE, addr=AT, noreplace=True)
        assert await process.mmap(PAGE, addr=AT + PAGE, prot="r", fixed=True) == AT + PAGE
        with pytest.raises(SIGSEGV):
            await process.write(AT + PAGE, b"x")
        moved = await process.mremap(AT, PAGE, 3 * PAGE)
        assert moved not in (AT, AT + PAGE)
        with pytest.raises(SIGSEGV):
            await process.read(AT)

    held(scenario, seeds=2)


def test_a_gpu_and_the_system_calls_of_its_process():
    """munmap, move, protection and advice beside loads and stores of the device: every value is explained."""

    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        await process.mmap(4 * PAGE, addr=AT, fixed=True)
        for page in range(4):
            await process.write(AT + page * PAGE, bytes([page + 1]))

        async def device_works():
            for page in range(4):
                await vm.load(AT + page * PAGE)
                await vm.store(AT + page * PAGE, b"\x50")

        async def process_works():
            await process.madvise(AT, PAGE, "dontneed")
            await process.mremap(AT + PAGE, PAGE, PAGE, to=2 * AT)
            await process.munmap(AT + 2 * PAGE, PAGE)
            await process.swap_out(AT + 3 * PAGE, PAGE)

        async with world.nursery() as nursery:
            nursery.start_soon(device_works)
            nursery.start_soon(process_works)
        assert await process.read(AT) in (b"\0", b"\x50")
        assert await process.read(2 * AT) in (b"\x02", b"\x50")
        assert await process.read(AT + 3 * PAGE) == b"\x50"

    held(scenario, seeds=15)


def test_a_mirror_and_a_gpu_on_one_page_see_each_others_writes():
    async def scenario(world: World) -> None:
        process = world.process()
        vm = await world.gpu().create_vm(process)
        mirror = await world.mirror(process)
        await process.mmap(PAGE, addr=AT, fixed=True)
        await process.write(AT, b"a")
        assert await vm.load(AT) == b"a"
        assert (await mirror.read(AT, 1)).data[0] == ord("a")
        await vm.store(AT, b"b")
        assert await process.read(AT) == b"b"
        assert (await mirror.read(AT, 1)).data[0] == ord("b")

    held(scenario, seeds=5)


def test_the_heap_of_a_child_is_its_own():
    async def scenario(world: World) -> None:
        parent = world.process()
        parent.mm.brk_start = parent.mm.brk_end = AT
        assert await parent.brk(AT + 2 * PAGE) == AT + 2 * PAGE
        await parent.write(AT, b"p")
        child = await parent.fork()
        assert await child.brk(0) == AT + 2 * PAGE
        assert await child.brk(AT + PAGE) == AT + PAGE
        assert (await child.read(AT), await parent.brk(0)) == (b"p", AT + 2 * PAGE)
        with pytest.raises(SIGSEGV):
            await child.read(AT + PAGE)
        assert await parent.read(AT + PAGE) == b"\0"

    held(scenario, seeds=3)


def test_a_thread_that_ends_with_a_lock_is_reported():
    async def scenario(world: World) -> None:
        process = world.process()

        async def stuck():
            await process.mm.mmap_lock.read()
            await world.sleep(10)

        world.spawn(stuck(), "stuck")

    result = run(scenario, backend="direct")
    assert result.failure is not None
    assert "ended while holding p0.mmap_lock" in result.failure.message
