"""fork with pages in device memory: parent and child share them until one of them writes.

Shows: the child has no GPU, yet its CPU faults bring the shared pages home for both; copy-on-write holds for
GPU writes too.
Races: fork against GPU stores to a page being shared (SVM-R38), faults on a page that two address spaces
map (SVM-R20).
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096
STORES = [b"%02d" % number for number in range(1, 13)]


async def scenario(world: World) -> None:
    """Page 0 is written before the fork only, page 1 while it runs, page 2 after it."""
    parent = world.process()
    vm = await world.gpu().create_vm(parent)
    addr = await parent.mmap(3 * PAGE)
    for page in range(3):
        await vm.store(addr + page * PAGE, b"00")

    async def store_on_gpu() -> None:
        for value in STORES:
            await vm.store(addr + PAGE, value)

    async def fork_and_look() -> None:
        child = await parent.fork()
        await vm.store(addr + 2 * PAGE, b"99")
        seen = await child.read(addr + PAGE, 2)
        assert seen in (b"00", *STORES)
        assert await child.read(addr + 2 * PAGE, 2) == b"00", "what the parent's GPU wrote after the fork"
        await child.write(addr, b"me")
        assert await child.read(addr, 2) == b"me"
        assert await child.read(addr + PAGE, 2) == seen, "a later GPU store shows through"
        await child.exit()

    async with world.nursery() as nursery:
        nursery.start_soon(store_on_gpu)
        nursery.start_soon(fork_and_look)

    assert await parent.read(addr, 2) == b"00", "what the child wrote is its own"
    assert await vm.load(addr + PAGE, 2) == STORES[-1]
    assert await vm.load(addr + 2 * PAGE, 2) == b"99"
