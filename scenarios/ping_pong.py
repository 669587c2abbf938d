"""Ping-pong: the CPU and the GPU use one page by turns, then at the same time.

Shows: a page follows whoever touches it, and no update is lost on the way.
Races: migration to the device against the CPU's next access (SVM-R10, SVM-R16), two GPU faults on one page
(SVM-R08), copy against finalize (PGM-R25).
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096
ROUNDS = 3


async def scenario(world: World) -> None:
    """A counter that both sides raise: by turns the CPU may, at the same time only GPU atomics do."""
    process = world.process()
    vm = await world.gpu().create_vm(process)
    addr = await process.mmap(PAGE)

    for turn in range(ROUNDS):
        assert await vm.atomic_add(addr, 1) == 2 * turn
        value = int.from_bytes(await process.read(addr, 4), "little")
        assert value == 2 * turn + 1
        await process.write(addr, (value + 1).to_bytes(4, "little"))

    async def count_on_gpu() -> None:
        for _ in range(ROUNDS):
            await vm.atomic_add(addr, 1)

    async def watch_on_cpu() -> None:
        seen = 2 * ROUNDS
        for _ in range(ROUNDS):
            value = int.from_bytes(await process.read(addr, 4), "little")
            assert seen <= value <= 4 * ROUNDS, f"the counter went from {seen} to {value}"
            seen = value

    async with world.nursery() as nursery:
        nursery.start_soon(count_on_gpu)
        nursery.start_soon(count_on_gpu)
        nursery.start_soon(watch_on_cpu)

    assert await process.read(addr, 4) == (4 * ROUNDS).to_bytes(4, "little")
