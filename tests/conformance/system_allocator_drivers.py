"""The drivers of the catalogue igt_system_allocator: one thread, threads with a VM each or with one, processes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from system_allocator_bench import ENGINES, PAUSE, TRIES, Gate, Memory, Scale, SystemAllocator
from system_allocator_sections import Procedure, Section, Shape

from svm_actors.engine.errors import EBUSY
from svm_actors.world import World


async def run_section(world: World, section: Section, shape: Shape, scale: Scale) -> None:
    """One section in one shape."""
    driver = {"single": single, "threads": threads, "shared-vm": shared_vm, "processes": processes}[shape.driver]
    await driver(world, section, shape, scale)


async def single(world: World, section: Section, shape: Shape, scale: Scale) -> None:
    bench = await SystemAllocator.start(world, scale, mirror=False, queues=0)
    await Procedure(bench, section, shape, scale).run()


async def threads(world: World, section: Section, shape: Shape, scale: Scale) -> None:
    """One process, a VM for each thread."""
    process = world.process()
    memory = Memory(world, process)
    go = Gate(world, shape.threads, "go")

    async def thread(number: int) -> None:
        bench = await SystemAllocator.start(world, scale, process=process, memory=memory, mirror=False, queues=0)
        await go.wait()
        await Procedure(bench, section, shape, scale, number).run()

    await all_at_once(world, shape, thread)


async def shared_vm(world: World, section: Section, shape: Shape, scale: Scale) -> None:
    """One VM; at the end it can be emptied, once the garbage collector has been there."""
    bench = await SystemAllocator.start(world, scale, queues=0)
    go = Gate(world, shape.threads, "go")

    async def thread(number: int) -> None:
        await go.wait()
        await Procedure(bench.thread(), section, shape, scale, number).run(private=False)

    await all_at_once(world, shape, thread)
    if section.has("mmap"):
        await unbind_at_last(bench)
    await bench.vm.close()


async def unbind_at_last(bench: SystemAllocator) -> None:
    """The unbind of everything, again while it answers -EBUSY."""
    for _ in range(TRIES):
        try:
            await bench.unbind_everything()
        except EBUSY:
            await bench.world.sleep(PAUSE)
            continue
        assert bench.vm.vm.vmas() == []
        return
    raise AssertionError(f"still -EBUSY after {TRIES} tries")


async def processes(world: World, section: Section, shape: Shape, scale: Scale) -> None:
    """A child with everything of its own for each engine."""
    parent = world.process()
    go = Gate(world, shape.threads, "go")

    async def child(number: int) -> None:
        process = await parent.fork()
        bench = await SystemAllocator.start(
            world, scale, process=process, memory=Memory(world, process), mirror=False, queues=0
        )
        await go.wait()
        await Procedure(bench, section, shape, scale, number).run()
        await process.exit()

    await all_at_once(world, shape, child)


async def all_at_once(world: World, shape: Shape, body: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """One task for each engine."""
    async with world.nursery() as nursery:
        for number in range(shape.threads):
            nursery.start_soon(body, number, name=ENGINES[number])
