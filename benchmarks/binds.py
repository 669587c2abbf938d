"""Binds per second through one bind queue, among many live mappings (vm_bind sections 5 and 7).

One machine with three VMs, in which 100, 1,000 and 10,000 mappings live.  Measured is a pair of binds, one
MAP of a page and its UNMAP, through the VM's default queue and each waited for.  It must not become dearer
because of the others: the tree is searched, not walked, and nothing else is looked at.  The mappings lie a
page table apart, so that the tables are many as well.
"""

from __future__ import annotations

import statistics
import time

from benchmarks import Result
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.explore.strategies import Fifo
from svm_actors.world import BindVm, Config, UserSyncobj, World
from svm_actors.xe.gem import XeBo
from svm_actors.xe.vm_bind import BindOp

SIZES = (100, 1_000, 10_000)
"""Live mappings."""
PAIRS = 200
"""Maps and unmaps per measurement."""
REPEATS = 5
GROWTH = 2.0
"""How much dearer a bind may be among 10,000 mappings than among 100."""
PAGE = 4096
STRIDE = 512 * PAGE
"""Between two mappings: one page table each."""
BATCH = 500
"""Mappings made by one ioctl."""


async def through(vm: BindVm, ops: list[BindOp]) -> None:
    """One ioctl, and its out-fence."""
    done = UserSyncobj(vm.world.engine, "done")
    await vm.bind_array(ops, syncs=[done.sync_out()])
    await done.wait()
    done.put()


async def filled(world: World, mappings: int) -> tuple[BindVm, XeBo]:
    """A VM with that many mappings of one object."""
    vm = await world.gpu().create_vm(world.process(), "dma_fence")
    bo = await vm.create_bo(PAGE)
    for first in range(0, mappings, BATCH):
        places = range(first, min(first + BATCH, mappings))
        await through(vm, [vm.map_op((1 + place) * STRIDE, bo, PAGE) for place in places])
    return vm, bo


async def cost(vm: BindVm, bo: XeBo, mappings: int, pairs: int) -> float:
    """Seconds per bind, all over the address space, half a table away from what lives there."""
    begin = time.perf_counter()
    for number in range(pairs):
        place = (1 + number * 7919 % mappings) * STRIDE + STRIDE // 2
        await through(vm, [vm.map_op(place, bo, PAGE)])
        await through(vm, [vm.unmap_op(place, PAGE)])
    return (time.perf_counter() - begin) / (2 * pairs)


def measure(sizes: tuple[int, ...], pairs: int, repeats: int) -> dict[int, float]:
    """Median cost by size; the sizes are taken in turns."""
    backend = DirectBackend()
    world = World(Engine(backend, Fifo(), step_budget=1 << 62), Config(vram_pages=64))
    taken: dict[int, list[float]] = {size: [] for size in sizes}

    async def main() -> None:
        vms = {size: await filled(world, size) for size in sizes}
        for _ in range(repeats):
            for size, (vm, bo) in vms.items():
                taken[size].append(await cost(vm, bo, size, pairs))
        await world.close()

    backend.run(main())
    return {size: statistics.median(values) for size, values in taken.items()}


def run(sizes: tuple[int, ...] = SIZES, pairs: int = PAIRS, repeats: int = REPEATS) -> list[Result]:
    """Measure everything."""
    costs = measure(sizes, pairs, repeats)
    least, most = sizes[0], sizes[-1]
    return [
        Result(f"cost of a bind among {most} / {least} mappings", costs[most] / costs[least], GROWTH, "x"),
        *(Result(f"binds per second among {size} mappings", 1 / costs[size], None, "/s") for size in sizes),
    ]
