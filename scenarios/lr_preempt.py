"""Long-running jobs: memory management switches them off, takes their memory, and they never know.

Shows: a job without an end has no fence that anybody may wait for.  What eviction and reclaim wait for is a
preempt fence, "the queue is off the hardware".  A worker brings memory and translations back, and the
queue goes on at the very instruction where it stopped.
Races: a resume against the next notifier (VMB-R20), a queue that comes while the others stop (VMB-R19), an
exec against the worker that has given up on an idle VM (VMB-R21), several preempt fences (FEN-R30).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.dma_buf.resv import Usage
from svm_actors.gpu.program import Load, Spin, Store

PAGE = 4096
ADDR = 0x10_0000
USER = ADDR + PAGE
SECOND = 1_000_000_000


async def scenario(world: World) -> None:
    """Two queues copy through device memory and memory of the process while both are taken away."""
    process = world.process()
    user = await process.mmap(PAGE)
    await process.write(user, b"\0")
    gpu = world.gpu()
    vm = await gpu.create_vm(process, "lr")
    bo = await vm.create_bo(PAGE)
    await vm.bind(ADDR, bo)
    await vm.bind_userptr(USER, user, PAGE)
    await vm.vm.resv_dma.wait(Usage.BOOKKEEP)  # jobs do not wait for binds here, so the program does

    async def work(number: int) -> None:
        queue = await vm.create_queue()
        for value in (b"1", b"2"):
            program = [
                Store(ADDR // PAGE, number, value),
                Spin(SECOND),
                Store(USER // PAGE, number, value),
                Load(ADDR // PAGE, number),
                Load(USER // PAGE, number),
            ]
            job = await vm.submit(queue, program)
            assert (await job.wait())[3:] == [value, value]

    async def press() -> None:
        for _ in range(3):
            await gpu.evict(PAGE)
            await process.swap_out(user, PAGE)
            await world.sleep(SECOND // 2)

    async with world.nursery() as nursery:
        for number in range(2):
            nursery.start_soon(work, number)
        nursery.start_soon(press)

    assert await bo.read(0, 2) == await process.read(user, 2) == b"22"
