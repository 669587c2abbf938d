"""Witnesses about exec queues: ended, reset, suspended, and too full (fences_and_scheduler 9)."""

from __future__ import annotations

from typing import Final

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import Usage
from svm_actors.engine.errors import EAGAIN, ENOMEM, KernelError
from svm_actors.engine.signals import flush_signals, send_signal
from svm_actors.gpu.program import AtomicAdd, Load, Spin
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import MS, expect, together
from svm_actors.world import BindVm, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.vm_bind import BindFlag

VPN: Final = 0x100
"""Page at which an object is bound."""


async def vm_with_object(world: World, mode: str) -> BindVm:
    """A VM with one page of device memory at :data:`VPN`; the bind is through."""
    gpu, process = world.gpu(), world.process()
    if mode == "fault":
        vm: BindVm = await gpu.create_vm(process, "fault", mirror=False)
    else:
        vm = await gpu.create_vm(process, "lr" if mode == "lr" else "dma_fence")
    bo = await vm.create_bo(PAGE_SIZE)
    await vm.bind(VPN * PAGE_SIZE, bo)
    await vm.vm.resv_dma.wait(Usage.BOOKKEEP)
    return vm


async def add(vm: BindVm, queue: ExecQueue, spin: int = 0) -> None:
    """A job that adds 1; maybe it ends with its queue."""
    try:
        job = await vm.submit(queue, [AtomicAdd(VPN, 0, 1), *([Spin(spin)] if spin else [])])
        await job.wait()
    except KernelError:
        vm.world.engine.count("witness.job_error")


@witness("FEN-R29 FEN-R04 FEN-R23")
async def queue_destroyed_with_jobs(world: World) -> None:
    """A queue is destroyed while its jobs are running, complete, and waiting."""
    vm = await vm_with_object(world, "dma_fence")
    queue = await vm.create_queue()
    jobs = [await vm.submit(queue, [AtomicAdd(VPN, 0, 1)]) for _ in range(2)]
    await queue.destroy()
    for job in jobs:
        expect(job.fence.signaled, "INV-FEN-10", f"{job.fence.name} is left unsignaled by the end of its queue")


@witness("FEN-R27 FEN-R28")
async def lr_preempted_and_reset(world: World) -> None:
    """The GT is reset while a long-running queue is being switched off, for its memory is wanted."""
    vm = await vm_with_object(world, "lr")
    queue = await vm.create_queue()

    async def client() -> None:
        for _ in range(2):
            await add(vm, queue)

    async def evict() -> None:
        for _ in range(2):
            await world.gpu().evict(PAGE_SIZE)

    async def reset() -> None:
        reset = world.gpu().driver.submission.reset
        for _ in range(2):
            await world.engine.step("local")
            reset.queue()

    await together(world, client, evict, reset)
    late = world.engine.counters["exec.suspend_timeout"]
    expect(not late, "FEN-R27", f"{queue.name} is given up, for an answer that cannot come was waited for")


@witness("FEN-R28 FEN-R27")
async def kernel_queue_suspended_and_reset(world: World) -> None:
    """Somebody has a queue of the kernel, which a reset does not ban, switched off and on while the GT is reset."""
    vm = await vm_with_object(world, "dma_fence")
    submission = world.gpu().driver.submission
    submission.limits.min_run_period = 0
    queue = world.engine.parts.of(ExecQueue)(vm.vm, vm.vm.device, kernel=True)
    job = await vm.submit(queue, [Load(VPN), Spin(MS), Load(VPN)])

    for _ in range(4):
        queue.suspend()
        for _ in range(20):
            await world.engine.step("local")
            if queue.pending_disable and not queue.context.on:
                submission.reset.queue()  # it is off, and its answer is on the way
                break
        await queue.suspend_wait()
        await queue.taken_off()
        for _ in range(6):
            expect(not queue.context.on, "INV-FEN-11", f"{queue.name} is suspended, but its context is on")
            await world.engine.step("local")
        queue.resume()
    await job.wait()


@witness("FEN-B33")
async def exec_over_the_limit(world: World) -> None:
    """A client submits more jobs than a queue takes, and is told to wait."""
    vm = await vm_with_object(world, "dma_fence")
    queue = await vm.create_queue()
    limits = world.gpu().driver.submission.limits
    limits.job_limit = 2
    gate = world.syncobj()
    first = await vm.submit(queue, [Spin(MS)], outs=[gate])
    accepted = 1
    for _ in range(3):
        try:
            await vm.submit(queue, [Spin(MS)], ins=[gate])
        except EAGAIN:
            break
        accepted += 1
    expect(queue.in_flight <= limits.job_limit, "FEN-B33", f"{queue.in_flight} jobs of {queue.name} are on their way")
    await first.wait()


@witness("VMB-R34 FEN-R27")
async def exec_interrupted_in_a_switch(world: World) -> None:
    """A thread waits until faulting work is off the hardware, and gets a signal."""
    faulting, vm = await vm_with_object(world, "fault"), await vm_with_object(world, "dma_fence")
    fault_queue, queue = await faulting.create_queue(), await vm.create_queue()
    engine = world.engine

    async def fault_client() -> None:
        job = await faulting.submit(fault_queue, [Load(VPN), Spin(30 * MS), Load(VPN)])
        await job.wait()

    async def client() -> None:
        await world.sleep(10 * MS)
        for _ in range(2):
            await add(vm, queue)
            flush_signals(engine)

    async with world.nursery() as nursery:
        nursery.start_soon(fault_client)
        task = nursery.start_soon(client)
        await world.sleep(10 * MS)
        for _ in range(40):
            if fault_queue.pending_disable:
                break  # it is told to stop, and somebody waits for that
            await engine.step("local")
        send_signal(engine, task.thread)


@witness("FEN-B24")
async def unbind_without_memory(world: World) -> None:
    """There may be no memory for the jobs of an unbind, one of which waits for somebody's fence."""
    vm = await vm_with_object(world, "dma_fence")
    queue, gate = await vm.create_queue(), world.syncobj()
    await vm.submit(queue, [Spin(MS)], outs=[gate])
    bind_queue = vm.vm.default_queue
    memory = FenceMemory(world.engine, inject=True)
    bind_queue.pt_sched.memory = bind_queue.tlb_sched.memory = memory
    try:
        await vm.unbind(VPN * PAGE_SIZE, PAGE_SIZE, syncs=[gate.sync_in()])
    except ENOMEM:
        memory.inject = False
        await vm.unbind(VPN * PAGE_SIZE, PAGE_SIZE, syncs=[gate.sync_in()])
    memory.inject = False


@witness("SVM-R22")
async def exit_while_reclaimed(world: World) -> None:
    """A child that is mirrored ends while its parent has the page that they share reclaimed."""
    parent = world.process()
    addr = await parent.mmap(PAGE_SIZE)
    await parent.write(addr, b"x")
    child = await parent.fork()
    vm = await world.gpu().create_vm(child, "fault", mirror=False)
    await vm.bind_mirror(addr, PAGE_SIZE, flags=BindFlag.READONLY, placement="system")
    await vm.run([Load(addr // PAGE_SIZE)])
    await together(world, child.exit, lambda: parent.swap_out(addr, PAGE_SIZE))
