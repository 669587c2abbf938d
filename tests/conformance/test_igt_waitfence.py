"""Section 10 of the catalogue igt_vm_bind: waiting for user fences.

Scaled down: the smallest object, 64K, is one page.
"""

from __future__ import annotations

import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, hold

from svm_actors.engine.errors import EINVAL, ETIME
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.sync import Sync
from svm_actors.xe.wait_user_fence import WaitFlag

LIMIT = 10_000_000
"""10 ms."""

BINDS = ((1, 0x0), (2, 0x300), (28, 0x40), (4, 0x200), (3, 0x100), (7, 0x80), (13, 0x180))
"""Pages, and where: page behind BASE, in no order."""


async def seven_binds(world: World) -> tuple[Process, BindVm, int]:
    """Each with a value of its own for one and the same fence."""
    process = world.process()
    vm = await world.gpu().create_vm(process, "dma_fence")
    addr = await process.mmap(PAGE)
    for value, (npages, page) in enumerate(BINDS, 1):
        bo = await vm.create_bo(npages * PAGE)
        fence = vm.user_fence(process, addr, value)
        await vm.bind(BASE + page * PAGE, bo, syncs=[Sync(user_fence=fence, signal=True)])
    return process, vm, addr


async def climbs(vm: BindVm, process: Process, addr: int) -> None:
    """A later bind's value is not seen before an earlier one's, nor an earlier one's again."""
    seen = 0
    while seen < len(BINDS):
        await vm.wait_user_fence(process, addr, "gt", seen, timeout=LIMIT)
        found = int.from_bytes(await process.read(addr, 8), "little")
        assert found > seen
        assert all(vm.vm.page_table.get(BASE // PAGE + page) is not None for _npages, page in BINDS[:found])
        seen = found


@case(SUITE, "W1", "xe_waitfence reltime")
def test_reltime() -> None:
    """The last value comes in time; what is true already is answered at once, what never comes at the limit."""

    async def scenario(world: World) -> None:
        process, vm, addr = await seven_binds(world)
        async with world.nursery() as nursery:
            nursery.start_soon(climbs, vm, process, addr)
            await vm.wait_user_fence(process, addr, "eq", 7, timeout=LIMIT)
        begin = world.engine.now
        assert begin <= LIMIT
        assert await vm.wait_user_fence(process, addr, "eq", 7, timeout=LIMIT) == LIMIT
        with pytest.raises(ETIME):
            await vm.wait_user_fence(process, addr, "eq", 8, timeout=LIMIT)
        assert world.engine.now == begin + LIMIT

    hold(scenario)


@case(SUITE, "W2", "xe_waitfence abstime")
def test_abstime() -> None:
    """The number of a point in time, without the flag: a very long relative limit."""

    async def scenario(world: World) -> None:
        await world.sleep(1000)
        process, vm, addr = await seven_binds(world)
        timeout = world.engine.now + LIMIT
        assert await vm.wait_user_fence(process, addr, "eq", 7, timeout=timeout) > LIMIT

    hold(scenario)


@case(SUITE, "W3", "xe_waitfence engine")
def test_engine() -> None:
    """An absolute limit, and a queue whose death would end the wait."""

    async def scenario(world: World) -> None:
        await world.sleep(1000)
        process, vm, addr = await seven_binds(world)
        queue = await vm.create_queue()
        deadline = world.engine.now + LIMIT
        left = await vm.wait_user_fence(
            process, addr, "eq", 7, timeout=deadline, flags=WaitFlag.ABSTIME, queue=queue
        )
        assert left == deadline

    hold(scenario)


@case(SUITE, "W4", "xe_waitfence invalid-flag")
@case(SUITE, "W5", "xe_waitfence invalid-ops")
@pytest.mark.parametrize(("op", "flags"), [("eq", 1 << 1), ("eq", 1 << 15), ("beyond", 0)])
def test_invalid_arguments(op: str, flags: int) -> None:
    async def scenario(world: World) -> None:
        process, vm, addr = await seven_binds(world)
        with pytest.raises(EINVAL):
            await vm.wait_user_fence(process, addr, op, 0, timeout=LIMIT, flags=flags)
        await vm.wait_user_fence(process, addr, "eq", 7, timeout=LIMIT)

    hold(scenario)
