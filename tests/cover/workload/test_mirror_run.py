"""Programs on the mirror driver of a world: alone they answer as ``conform`` does, together they hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from svm_actors.explore.run import run
from svm_actors.mm.events import CpuAccess
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import KernelProgram, Operation
from svm_actors.workload.mirror_run import ARENA, MirrorRun, random_mirror_scenario, recorded_scenario
from svm_actors.workload.random_kernel_programs import SequentialShape, random_kernel_program
from svm_actors.workload.random_run import seeded_draw
from svm_actors.world import World

WHOLE = ops.Mmap(0, 8, "rw", "private")
EVERY_KIND: tuple[ops.Arguments, ...] = (
    WHOLE,
    ops.CpuWrite(0, 7),
    ops.DevRead(0, 0, 2),
    ops.DevWrite(1, 1, 2, 40),
    ops.ToDev(0, 0, 4),
    ops.Snapshot(0, 0, 8),
    ops.ToSys(0, 0, 4),
    ops.Exclusive(0, 1, 1),
    ops.ChildRead(0),
    ops.ChildWrite(1, 9),
    ops.CpuRead(1),
    ops.MadviseDontneed(0, 1),
    ops.Mprotect(1, 1, "r"),
    ops.Mremap(2, 2, 5),
    ops.Munmap(1, 1),
)


def bytes_read(*programs: tuple[ops.Arguments, ...], seed: int = 0) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """(page, byte) of every CPU read of the process, and the counters."""
    seen: list[tuple[int, int]] = []

    def listen(event: Any) -> None:
        if isinstance(event, CpuAccess) and not event.write and event.mm.name == "p0":
            seen.append((event.vpn - (ARENA >> 12), event.data[0]))

    async def scenario(world: World) -> None:
        world.engine.listeners.append(listen)
        await MirrorRun(world, programs, 2).run()

    result = run(scenario, strategy="random" if seed else "fifo", seed=seed, backend="direct")
    assert result.failure is None
    return seen, result.counters


def test_operations_do_what_they_say() -> None:
    seen, _ = bytes_read(
        (
            WHOLE,
            ops.CpuWrite(0, 7),
            ops.DevWrite(0, 1, 2, 40),
            ops.CpuRead(0),
            ops.CpuRead(1),
            ops.CpuRead(2),
            ops.ToDev(0, 0, 3),
            ops.CpuRead(0),
            ops.Mremap(1, 2, 5),
            ops.CpuRead(6),
            ops.MadviseDontneed(5, 2),
            ops.CpuRead(5),
        )
    )
    assert seen == [(0, 7), (1, 40), (2, 41), (0, 7), (6, 41), (5, 0)]


def test_a_child_leaves_the_parent_alone() -> None:
    seen, _ = bytes_read((WHOLE, ops.CpuWrite(0, 7), ops.ChildWrite(0, 99), ops.ChildRead(0), ops.CpuRead(0)))
    assert seen == [(0, 7)]


def test_every_kind_of_operation_runs() -> None:
    _, counters = bytes_read(EVERY_KIND)
    assert counters["mirror.migrate.to_dev"] > 0
    assert counters["mirror.migrate.to_ram"] > 0


def test_refusals_are_counted() -> None:
    _, counters = bytes_read((ops.CpuRead(0), ops.DevRead(0, 0, 1), WHOLE, ops.CpuRead(0)))
    assert counters["mirror.refused"] == 2


def test_litmus_operations_are_not_sequential_ones() -> None:
    with pytest.raises(AssertionError, match="mremap_away"):
        bytes_read((WHOLE, ops.MremapAway(0, 1)))


def test_threads_share_memory_and_mirrors() -> None:
    """The write of one thread reaches the reads of the other in some schedules, and not in others."""
    writer = (ops.DevWrite(0, 0, 1, 50), ops.CpuWrite(1, 60))
    reader = (ops.CpuRead(0), ops.CpuRead(1))
    found = Counter()
    for seed in range(1, 40):
        seen, _ = bytes_read((WHOLE, *writer), reader, seed=seed)
        found.update(seen)
    assert {(0, 0), (0, 50), (1, 0), (1, 60)} >= set(found)
    assert {(0, 0), (1, 60)} & set(found)


@pytest.mark.parametrize("threads", [1, 3])
def test_random_programs_hold(threads: int) -> None:
    scenario = random_mirror_scenario(threads, SequentialShape(pages=4, length=10))
    counters: Counter[str] = Counter()
    for seed in range(25):
        result = run(scenario, strategy="random", seed=seed, backend="direct", digest=False)
        assert result.failure is None
        counters.update(result.counters)
    assert counters["mirror.migrate.to_dev"] > 20
    assert counters["mirror.cpu_fault"] > 5


def test_recorded_programs_run_together() -> None:
    programs = [random_kernel_program(seeded_draw(seed), 1, number=seed) for seed in range(2)]
    result = run(recorded_scenario(programs), strategy="random", seed=2, backend="direct", digest=False)
    assert result.failure is None
    lengths = sum(len(program.operations) for program in programs)
    assert result.steps > lengths


def test_recorded_results_are_not_looked_at() -> None:
    program = KernelProgram(
        1, 8, 2, 0, (Operation(WHOLE, {"errno": 12}, 1), Operation(ops.CpuRead(0), {"value": 9}, 2)), 1
    )
    assert run(recorded_scenario([program]), backend="direct").ok
