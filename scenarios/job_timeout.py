"""Job timeout: a job hangs, its queue is taken off the hardware and banned, and nobody else notices.

Shows: a fence that was published always signals.  The driver finds the job that used up its time, switches
the context off, and only then ends the jobs with an error, so that nothing runs on in memory that is free.
If the hardware does not answer, everything is reset; jobs that had not begun are put on it again.
Races: the timer against the end of a job (FEN-R21, FEN-R29), a reset against jobs that are done (FEN-R31).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import ECANCELED, ETIME
from svm_actors.gpu.program import AtomicAdd, Spin
from svm_actors.xe.exec_queue import ExecQueue

PAGE = 4096
ADDR = 0x10_0000
VPN = ADDR // PAGE
SECOND = 1_000_000_000


async def scenario(world: World) -> None:
    """One job hangs for good, one is nearly too long, and a third queue just counts."""
    gpu = world.gpu()
    vm = await gpu.create_vm(world.process(), "dma_fence")
    bo = await vm.create_bo(PAGE)
    bound = world.syncobj()
    await vm.bind(ADDR, bo, syncs=[bound.sync_out()])
    await bound.wait()  # a bind is asynchronous: a job sent off before it is through meets no mapping
    hanging, slow, counting = [await vm.create_queue() for _ in range(3)]
    answers: list[bool] = []

    async def hang() -> None:
        stubborn = bool(world.choose(2, "the hung context ignores the driver"))
        jobs = [await vm.submit(hanging, [Spin(preemptible=not stubborn)]) for _ in range(2)]
        for job, expected in zip(jobs, (ETIME, ECANCELED), strict=True):
            await job.fence.wait()
            assert isinstance(job.fence.error, expected)
        assert hanging.banned

    async def count(queue: ExecQueue, pause: int) -> None:
        for _ in range(3):
            job = await vm.submit(queue, [AtomicAdd(VPN, 0, 1), Spin(pause)])
            await job.fence.wait()
            answers.append(job.fence.error is None)
            # A reset throws off whoever is on the hardware; nobody else loses a queue.
            if job.fence.error is not None:
                assert gpu.driver.submission.reset.done
                return

    async with world.nursery() as nursery:
        nursery.start_soon(hang)
        nursery.start_soon(count, slow, 4 * SECOND)
        nursery.start_soon(count, counting, 1000)

    assert sum(answers) <= (await bo.read(0))[0] <= len(answers)
