"""Exec with userptrs against the notifier (vm_bind section 5.2), and what its guards are good for."""

from __future__ import annotations

from typing import Any

from exec_bench import ADDR, PAGE, SECOND, VPN, attempt, bound, calm, hit, lr_queue_of, queue_of, submit

from svm_actors.drm.exec import DrmExec
from svm_actors.gpu.program import AtomicAdd, Load, Spin, Store
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.exec import Exec, Execution
from svm_actors.xe.exec_job import ExecJob
from svm_actors.xe.rebind_worker import RebindWorker


async def user_machine(world: World, mode: Any = "dma_fence", npages: int = 1) -> tuple[Process, BindVm, int]:
    """A VM with memory of the process bound at ADDR."""
    process = world.process()
    user = await process.mmap(npages * PAGE)
    await process.write(user, b"\0")
    vm: BindVm = await world.gpu().create_vm(process, mode=mode)
    await vm.bind_userptr(ADDR, user, npages * PAGE)
    await bound(vm)
    return process, vm, user


async def adding(vm: BindVm, queue: Any, times: int) -> None:
    """Add one, so many times."""
    for _ in range(times):
        await (await submit(queue, AtomicAdd(VPN, 0, 1))).wait()


async def reclaiming(process: Process, user: int, times: int) -> None:
    """Take the page, again and again."""
    for _ in range(times):
        await process.swap_out(user, PAGE)


def test_jobs_and_reclaim_of_the_same_user_page() -> None:
    """VMB-R01 to VMB-R03: no addition is lost, whenever the page is taken."""

    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world)
        async with world.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(adding, vm, queue_of(vm), 2)
            for _ in range(3):
                nursery.start_soon(process.swap_out, user, PAGE)
        assert await process.read(user) == b"\4"

    runs = list(calm(scenario, 100, atomics_on_system=True))
    numbers = hit(runs, "VMB-R01", "VMB-R02", "exec.stale")
    assert all(numbers.values()), numbers


def test_jobs_and_a_fork_that_makes_the_page_copy_on_write() -> None:
    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world)
        async with world.nursery() as nursery:
            nursery.start_soon(adding, vm, queue_of(vm), 3)
            nursery.start_soon(process.fork)
        assert await process.read(user) == b"\3"

    list(calm(scenario, 60, atomics_on_system=True))


def test_user_memory_that_is_unmapped_is_no_error_of_the_exec() -> None:
    """Its entries are gone, so a job that touches it faults; one that does not runs."""

    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world)
        bo = await vm.create_bo(PAGE)
        await vm.bind(ADDR + PAGE, bo)
        good, bad = queue_of(vm), queue_of(vm)
        await process.munmap(user, PAGE)
        assert await (await submit(good, Store(VPN + 1, 0, b"x"), Load(VPN + 1))).wait() == [None, b"x"]
        job = await submit(bad, Load(VPN))
        await job.fence.wait()
        assert job.fence.error is not None

    list(calm(scenario, 30, atomics_on_system=True))


def test_a_long_running_job_survives_that_its_pages_are_taken() -> None:
    """VMB-R20: stop, pin, bind, go on."""

    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world, "lr")
        queue = await lr_queue_of(vm)
        job = await submit(queue, *[AtomicAdd(VPN, 0, 1), Spin(SECOND)] * 4)
        async with world.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(reclaiming, process, user, 6)
        assert len(await job.wait()) == 8
        assert await process.read(user) == b"\4"

    runs = list(calm(scenario, 80, atomics_on_system=True))
    numbers = hit(runs, "exec.preempted", "exec.rebound", "VMB-R20")
    assert all(numbers.values()), numbers


# -- without the guards ----------------------------------------------------------------------


class CheckThenPublish(Exec):
    """VMB-R01: the check in one section, the publication in another."""

    async def publish(self, job: ExecJob, exec_: DrmExec) -> Execution | None:
        async with self.vm.notifier_lock.reading():
            if not self.still_valid():
                return None
        async with self.queue.entity.submission():
            execution = await self._arm(job)
            await self.add_fence(exec_, execution.fence)
            await self._push(job, execution)
        return execution


class NoCheck(Exec):
    """VMB-R02: what was pinned is taken for good."""

    def still_valid(self) -> bool:
        return True


def found(scenario: Any, seeds: int = 150) -> list[str]:
    """What the oracles say."""
    failures = [attempt(scenario, "random", seed, atomics_on_system=True).failure for seed in range(2, 2 * seeds, 2)]
    return [f"{failure.oracle} {failure.rule}" for failure in failures if failure is not None]


def racing(exec_class: type[Exec]) -> Any:
    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world)
        queue = queue_of(vm)
        queue.exec_class = exec_class
        async with world.nursery() as nursery:
            nursery.start_soon(adding, vm, queue, 3)
            for _ in range(3):
                nursery.start_soon(process.swap_out, user, PAGE)

    return scenario


def test_without_the_one_section_a_job_uses_pages_that_are_gone() -> None:
    assert found(racing(CheckThenPublish))


def test_without_the_check_a_job_uses_pages_that_are_gone() -> None:
    assert found(racing(NoCheck))


def test_a_worker_that_does_not_look_again_resumes_with_pages_that_are_gone() -> None:
    """VMB-R20."""

    class Blind(RebindWorker):
        def still_valid(self) -> None:
            return

    async def scenario(world: World) -> None:
        process, vm, user = await user_machine(world, "lr")
        vm.vm.execs.rebind = Blind(vm.vm.execs)
        queue = await lr_queue_of(vm)
        job = await submit(queue, *[AtomicAdd(VPN, 0, 1)] * 6)
        async with world.nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(reclaiming, process, user, 6)
        await job.wait()

    assert found(scenario)
