"""Random programs on random machines under random schedules: all oracles hold, nothing is left.

A program is data, made from a seed before the run, so that the schedule is all that varies within it.

Kept out by bounds that are no part of the driver: the hardware gives a program up after 64 replays
(SVM-S06, SVM-S07); mprotect comes only with ranges of one page, where a VMA cannot be split under a range
(SVM-S01); a process does not exit while a CPU thread of its own is at work.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import pytest
from svm_bench import BASE, PAGE, attempt, hit

from svm_actors.engine.errors import KernelError
from svm_actors.explore.run import run as run_world
from svm_actors.mm.messages import Signal
from svm_actors.world import Config, GpuVm, Process, World

NPAGES = 16
AWAY = 64
"""Pages between the memory and the place mremap moves it to."""

ACCESSES = ("gpu_load", "gpu_store", "gpu_atomic", "cpu_read", "cpu_write")
CALLS = ("munmap", "mmap", "move", "move_back", "fork", "evict", "swap_out", "dontneed", "close", "mprotect", "restore")


class Call(NamedTuple):
    """One operation of one thread."""

    what: str
    process: int
    vm: int
    first: int
    npages: int
    value: int


class Plan(NamedTuple):
    """A machine and the threads that run on it."""

    config: dict[str, Any]
    processes: int
    vms: list[tuple[int, int, dict[str, Any]]]
    """Process, GPU and options of each VM."""
    threads: list[list[Call]]


def plan(seed: int, gpus: int) -> Plan:
    """Everything about a run but its schedule."""
    random = Random(seed)
    processes = random.choice((1, 1, 2))
    single = random.random() < 0.4
    vms = []
    for index in range(random.choice((1, 2, 2, 3))):
        options = {
            "chunk_pages": (1,) if single else random.choice(((8, 4, 1), (4, 1))),
            "notifier_pages": random.choice((8, 16)),
            "check_pages_threshold": random.choice((0, 4)),
            "placement": random.choice(("vram", "vram", "system")),
            "bind_by_gpu": random.random() < 0.4,
        }
        vms.append((random.randrange(processes), index % gpus, options))
    calls = [name for name in CALLS if single or name not in ("mprotect", "restore")]
    threads = [[call(random, calls, processes, len(vms)) for _ in range(5)] for _ in range(3)]
    config = {"gpus": gpus, "vram_pages": random.choice((4, 8, 64)), "fault_queue_size": random.choice((1, 16))}
    return Plan(config, processes, vms, threads)


def call(random: Random, calls: list[str], processes: int, vms: int) -> Call:
    """One operation: an access, or, less often, one of the calls."""
    return Call(
        random.choice(calls if random.random() < 0.4 else ACCESSES),
        random.randrange(processes),
        random.randrange(vms),
        random.randrange(NPAGES),
        random.choice((1, 1, 2, 4)),
        random.randrange(1, 256),
    )


async def perform(world: World, process: Process, vm: GpuVm, op: Call) -> None:
    """One operation; kernel errors and signals are answers like any other."""
    addr, size, data = BASE + op.first * PAGE, op.npages * PAGE, bytes([op.value])
    away = addr + AWAY * PAGE
    match op.what:
        case "gpu_load":
            await vm.load(addr)
        case "gpu_store":
            await vm.store(addr, data)
        case "gpu_atomic":
            await vm.atomic_add(addr, op.value)
        case "cpu_read":
            await process.read(addr)
        case "cpu_write":
            await process.write(addr, data)
        case "munmap":
            await process.munmap(addr, size)
        case "mmap":
            await process.mmap(size, addr=addr, fixed=True)
        case "move":
            await process.mremap(addr, size, size, to=away)
        case "move_back":
            await process.mremap(away, size, size, to=addr)
        case "fork":
            child = await process.fork()
            await child.write(addr, data)
            await child.read(addr)
            await child.exit()
        case "evict":
            await world.gpu().evict(4 * PAGE)
        case "swap_out":
            await process.swap_out(addr, size)
        case "dontneed":
            await process.madvise(addr, size, "dontneed")
        case "close":
            await vm.close()
        case "mprotect":
            await process.mprotect(addr, size, "r")
        case "restore":
            await process.mprotect(BASE, NPAGES * PAGE, "rw")


def scenario_of(what: Plan) -> Any:
    """The plan as a scenario."""

    async def scenario(world: World) -> None:
        processes = [world.process() for _ in range(what.processes)]
        for process in processes:
            await process.mmap(NPAGES * PAGE, addr=BASE, fixed=True)
        vms = []
        for owner, gpu, options in what.vms:
            world.gpu(gpu).gpu.compute.replay_limit = 64
            vms.append(await world.gpu(gpu).create_vm(processes[owner], **options))

        async def thread(calls: list[Call]) -> None:
            for op in calls:
                try:
                    await perform(world, processes[op.process], vms[op.vm], op)
                except (KernelError, Signal):
                    world.engine.count(f"refused.{op.what}")

        async with world.nursery() as nursery:
            for calls in what.threads:
                nursery.start_soon(thread, calls)

    return scenario


WINDOWS = ("SVM-R01", "SVM-R02", "SVM-R06", "SVM-R08", "SVM-R38", "SVM-R47", "SVM-R49", "SVM-R51", "SVM-R52", "SVM-R53")


@pytest.mark.parametrize("gpus", [1, 2])
def test_random_programs(gpus: int) -> None:
    """120 programs, one schedule each; together they meet the windows of most races."""
    runs = []
    for seed in range(120):
        what = plan(seed, gpus)
        result = attempt(scenario_of(what), "random", seed, step_budget=200_000, **what.config)
        assert result.failure is None, (seed, result.failure)
        runs.append(result)
    numbers = hit(runs, *WINDOWS)
    assert all(numbers.values()), numbers


@pytest.mark.parametrize("seed", [3, 5])
def test_one_program_under_many_schedules(seed: int) -> None:
    what = plan(seed, 1)
    for schedule in range(50):
        failure = attempt(scenario_of(what), "random", schedule, step_budget=200_000, **what.config).failure
        assert failure is None, (schedule, failure)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_back_ends_run_the_same_steps(seed: int) -> None:
    """Same choices, equal traces, with the whole driver in the loop; and again in the same process."""
    what = plan(seed, 2)
    traces = [
        run_world(
            scenario_of(what),
            seed=seed,
            strategy="random",
            config=Config(**what.config),
            backend=backend,
            record=True,
            digest=False,
        ).trace
        for backend in ("direct", "trio", "direct")
    ]
    assert traces[0] == traces[1] == traces[2]
    assert traces[0]
