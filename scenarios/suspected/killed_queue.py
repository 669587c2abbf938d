"""The preempt fence of a killed queue signals at once, while the hardware still runs its job.

The model waits until the queue is off; what 7.3.4 is suspected to do is put in its place here: a dead queue's fence
ends with -ENOENT without a look at the hardware.  Whoever waits for that fence takes the job's memory away.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import ECANCELED, ESRCH
from svm_actors.gpu.program import AtomicAdd
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.sync import Sync

PAGE = 4096
ADDR = 0x100_000


async def at_once(_queue: ExecQueue) -> None:
    """Nobody asks whether it is off."""


async def scenario(world: World) -> None:
    """A long-running queue is destroyed while its memory is moved."""
    world.engine.parts.replace_guard(ExecQueue, "taken_off", at_once)
    process = world.process()
    signal = await process.mmap(PAGE)
    vm = await world.gpu().create_vm(process, mode="lr")
    bo = await vm.create_bo(PAGE)
    bound = vm.user_fence(process, signal, 1)
    await vm.bind(ADDR, bo, syncs=[Sync(user_fence=bound, signal=True)])
    await bound.written.wait()
    world.gpu().driver.submission.limits.min_run_period = 0
    queue = await vm.create_queue()
    job = await vm.submit(queue, [AtomicAdd(ADDR // PAGE, 0, 1)] * 60)
    async with world.nursery() as nursery:
        nursery.start_soon(queue.destroy)
        nursery.start_soon(world.gpu().evict, PAGE)
    try:
        await job.wait()
    except (ECANCELED, ESRCH):
        assert queue.destroyed
