"""User memory, mapped through gpusvm, that the process changes and gives back."""

from __future__ import annotations

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import arena, at, must_succeed
from svm_actors.world import World


@witness("SVM-R30 SVM-R40 SVM-R51")
async def two_events_on_user_memory(world: World) -> None:
    """Both pages of one user mapping are dropped at once, by two threads, while the GPU uses them."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, mirror=False)
    await vm.bind_userptr(at(0), at(0), 2 * PAGE_SIZE)
    for page in range(2):
        must_succeed(await vm.load(at(page)))

    async def drop(page: int) -> None:
        for _ in range(2):
            await process.madvise(at(page), PAGE_SIZE, "dontneed")

    async def use() -> None:
        for page in (0, 1, 0):
            must_succeed(await vm.load(at(page)))

    async with world.nursery() as nursery:
        for page in range(2):
            nursery.start_soon(drop, page, name="cpu")
        nursery.start_soon(use, name="gpu")


@witness("SVM-R29 SVM-R51")
async def user_memory_goes_while_it_is_unbound(world: World) -> None:
    """User memory is unbound while the process drops it."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, "dma_fence")
    await vm.bind_userptr(at(0), at(0), 2 * PAGE_SIZE)

    async def drop() -> None:
        for page in (0, 1, 0, 1):
            await process.madvise(at(page), PAGE_SIZE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(vm.unbind, at(0), 2 * PAGE_SIZE, name="client")
        nursery.start_soon(drop, name="cpu")
