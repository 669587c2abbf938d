"""Processes of a world: who may still call what when one ends."""

import pytest

from svm_actors import run
from svm_actors.engine.errors import ESRCH
from svm_actors.world import Config, World

PAGE = 4096


def held(scenario, seeds=20, **options):
    """Run under fifo and random schedules on the direct back end; raise what failed."""
    for seed in range(seeds):
        result = run(scenario, seed=seed, strategy="random" if seed else "fifo", backend="direct", **options)
        assert result.ok, result.failure


def test_an_exit_waits_for_the_calls_of_the_process_and_refuses_later_ones():
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(8 * PAGE)

        async def work():
            for page in range(8):
                try:
                    await process.write(addr + page * PAGE, b"x")
                except ESRCH:
                    return

        async with world.nursery() as nursery:
            nursery.start_soon(work)
            nursery.start_soon(process.exit)
        with pytest.raises(ESRCH):
            await process.read(addr)
        with pytest.raises(ESRCH):
            await process.munmap(addr, PAGE)
        await process.exit()

    held(scenario)


def test_a_child_outlives_its_parent():
    async def scenario(world: World) -> None:
        parent = world.process()
        addr = await parent.mmap(PAGE)
        await parent.write(addr, b"p")
        child = await parent.fork()
        await parent.exit()
        assert await child.read(addr) == b"p"

    held(scenario)


def test_a_gpu_of_an_exiting_process_faults_or_reads_but_never_sees_another_process():
    async def scenario(world: World) -> None:
        first, second = world.process(), world.process()
        vm = await world.gpu().create_vm(first)
        addr = await first.mmap(PAGE, addr=1 << 30, fixed=True)
        await second.mmap(PAGE, addr=1 << 30, fixed=True)
        await first.write(addr, b"a")
        await second.write(addr, b"b")

        async def look():
            for _ in range(3):
                assert await vm.load(addr) != b"b"

        async with world.nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(first.exit)
        assert await second.read(addr) == b"b"

    held(scenario)


def test_every_verb_of_a_process_reaches_the_core():
    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(4 * PAGE, prot="rw")
        await process.write(addr, b"abcd")
        assert await process.read(addr, 4) == b"abcd"
        assert await process.swap_out(addr, PAGE) == 1
        assert await process.read(addr) == b"a"
        await process.mprotect(addr, PAGE, "r")
        moved = await process.mremap(addr, PAGE, PAGE, to=addr + 64 * PAGE)
        assert await process.read(moved) == b"a"
        await process.madvise(moved, PAGE, "dontneed")
        assert await process.read(moved) == b"\0"
        heap = await process.brk(0)
        assert await process.brk(heap + 2 * PAGE) == heap + 2 * PAGE
        await process.munmap(moved, PAGE)

    held(scenario, seeds=3)


def test_configurations_say_what_they_expect():
    with pytest.raises(ValueError, match="mirror_driver"):
        Config(mirror_driver="stock")

    async def scenario(world: World) -> None:
        with pytest.raises(ValueError, match="no GPU 3"):
            world.gpu(3)
        with pytest.raises(ValueError, match="no device 9"):
            world.mirror_device(9)
        with pytest.raises(ValueError, match="prot is one of"):
            await world.process().mmap(PAGE, prot="wr")

    held(scenario, seeds=1)
