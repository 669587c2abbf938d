"""The executor of concurrent programs: it does what the program says, all of it, and notices wrong data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.run import Run, run
from svm_actors.gpu.events import GpuAccess
from svm_actors.gpu.program import AtomicAdd, Load, Store
from svm_actors.mm.events import CpuAccess
from svm_actors.workload import concurrent_programs as cp
from svm_actors.workload.random_programs import ProgramShape, random_program
from svm_actors.workload.random_run import (
    ARENA,
    RANGE_PAGES,
    ProgramRun,
    program_scenario,
    random_scenario,
    seeded_draw,
    without_mprotect,
    word,
)
from svm_actors.world import Config, World

PAGE = 4096
WHOLE = cp.Mmap(0, 4, "rw", "private")


def program(
    *threads: tuple[cp.ThreadAction, ...],
    setup: tuple[cp.ChildAction, ...] = (),
    streams: tuple[tuple[cp.Access, ...], ...] = (),
    driver: tuple[cp.DriverWork, ...] = (),
) -> cp.RandomProgram:
    """One process, one VM."""
    return cp.RandomProgram(
        4,
        (cp.ProcessProgram((WHOLE, *setup), threads),),
        (cp.Vm(0, 0),),
        tuple(cp.Stream(0, accesses) for accesses in streams),
        driver,
    )


def watched(subject: cp.RandomProgram, **options: Any) -> tuple[Run, list[Any]]:
    """The run and every access of CPU and GPU in it."""
    events: list[Any] = []

    async def scenario(world: World) -> None:
        world.engine.listeners.append(events.append)
        await ProgramRun(world, subject).run()

    result = run(scenario, backend="direct", **options)
    return result, [event for event in events if isinstance(event, (CpuAccess, GpuAccess))]


def last_values(accesses: list[Any]) -> dict[int, int]:
    """What each page of the first process holds according to the last access to it."""
    values = {}
    for access in accesses:
        values[access.vpn - (ARENA >> 12)] = int.from_bytes(access.data, "little")
    return values


# -- what a program does -------------------------------------------------------------


def test_setup_and_threads_write_what_they_say() -> None:
    subject = program((cp.Write(1, 11), cp.Read(1)), (cp.Write(2, 12),), setup=(cp.Write(0, 10),))
    result, accesses = watched(subject)
    assert result.ok
    assert last_values(accesses) == {0: 10, 1: 11, 2: 12, 3: 0}


def test_gpu_streams_store_load_and_add() -> None:
    subject = program(streams=((cp.Store(0, 5), cp.AtomicAdd(0, 2), cp.Load(0)),))
    result, accesses = watched(subject)
    assert result.ok
    kinds = [access.kind for access in accesses if isinstance(access, GpuAccess)]
    assert kinds == ["store", "atomic", "load"]
    assert last_values(accesses)[0] == 7


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param(cp.Munmap(0, 1), {1: 2, 2: 3, 3: 0}, id="munmap"),
        pytest.param(cp.Mmap(0, 2, "rw", "private"), {0: 0, 1: 0, 2: 3, 3: 0}, id="mmap"),
        pytest.param(cp.Mremap(0, 2, 2), {2: 1, 3: 2}, id="mremap"),
        pytest.param(cp.Madvise(1, 2, "dontneed"), {0: 1, 1: 0, 2: 0, 3: 0}, id="dontneed"),
        pytest.param(cp.Mprotect(0, 1, "none"), {1: 2, 2: 3, 3: 0}, id="mprotect"),
        pytest.param(cp.Reclaim(0, 3), {0: 1, 1: 2, 2: 3, 3: 0}, id="reclaim"),
    ],
)
def test_memory_actions(action: cp.ChildAction, expected: dict[int, int]) -> None:
    subject = program((action,), setup=(cp.Write(0, 1), cp.Write(1, 2), cp.Write(2, 3)))
    final: dict[int, int] = {}

    async def scenario(world: World) -> None:
        done = ProgramRun(world, subject)
        await done.run()
        world.engine.listeners.append(
            lambda event: final.update(last_values([event])) if type(event) is CpuAccess else None
        )
        await done._read_everything(done.processes[0])

    assert run(scenario, backend="direct").ok
    assert final == expected


def test_a_child_works_on_its_own_copy() -> None:
    subject = program((cp.Fork((cp.Write(0, 99), cp.Read(0))),), setup=(cp.Write(0, 1),))
    result, accesses = watched(subject)
    assert result.ok
    by_mm = {access.mm.name: int.from_bytes(access.data, "little") for access in accesses if access.vpn == ARENA >> 12}
    assert by_mm == {"p0": 1, "p0.child0": 99}


def test_a_refused_action_is_counted_and_does_not_stop_its_thread() -> None:
    subject = program((cp.Munmap(0, 1), cp.Read(0), cp.Write(1, 5)), streams=((cp.Load(0), cp.Load(1)),))
    result, accesses = watched(subject)
    assert result.ok
    assert result.counters["random.cpu_refused"] >= 1
    assert last_values(accesses)[1] == 5


def test_a_closed_vm_refuses_the_rest_of_its_streams() -> None:
    subject = program(streams=((cp.Load(0),) * 6,), driver=(cp.CloseVm(0),))
    refused = [
        watched(subject, strategy="random", seed=seed)[0].counters.get("random.gpu_refused", 0) for seed in range(20)
    ]
    assert max(refused) > 0


def test_eviction_takes_what_the_streams_brought() -> None:
    subject = program(streams=((cp.Store(0, 5), cp.Load(0), cp.Load(0), cp.Load(0)),), driver=(cp.Evict(0, 4),))
    results = [watched(subject, strategy="random", seed=seed) for seed in range(30)]
    assert all(result.ok for result, _ in results)
    assert sum(result.counters.get("evict", 0) for result, _ in results) > 3
    assert all(last_values(accesses)[0] == 5 for _, accesses in results)


def test_driver_work_starts_at_drawn_moments() -> None:
    """Not all at the beginning: the page must be on the device in some runs and not yet in others."""
    subject = program(streams=((cp.Store(0, 5), cp.Load(0)),), driver=(cp.Evict(0, 4),))
    evicted = Counter(
        watched(subject, strategy="random", seed=seed)[0].counters.get("evict", 0) > 0 for seed in range(40)
    )
    assert evicted[True] > 0
    assert evicted[False] > 0


def test_instructions_address_the_arena() -> None:
    made: list[Any] = []

    async def scenario(world: World) -> None:
        executor = ProgramRun(world, program())
        made.extend(executor.instruction(access) for access in (cp.Load(1), cp.Store(2, 7), cp.AtomicAdd(3, 9)))

    assert run(scenario, backend="direct").ok
    first = ARENA >> 12
    assert made == [Load(first + 1, 0, 4), Store(first + 2, 0, word(7)), AtomicAdd(first + 3, 0, 9, 4)]


# -- the end -------------------------------------------------------------------------


def test_every_page_is_read_at_the_end() -> None:
    """A wrong page that no thread looks at must not go unnoticed."""
    subject = program((cp.Write(3, 8),))

    async def corrupting(world: World) -> None:
        executor = ProgramRun(world, subject)
        read_everything = executor._read_everything

        async def spoil_then_read(process: Any) -> None:
            pte = process.mm.page_table.get((ARENA >> 12) + 3)
            pte.folio.content = pte.folio.content.write(0, b"\x63")
            await read_everything(process)

        executor._read_everything = spoil_then_read  # type: ignore[method-assign]
        await executor.run()

    result = run(corrupting, backend="direct")
    assert result.failure is not None
    assert (result.failure.oracle, result.failure.rule) == ("coherence", "INV-14")
    assert issubclass(PropertyFailed, AssertionError)


# -- drawing ---------------------------------------------------------------------------


def test_a_seed_gives_one_program_whatever_the_schedule() -> None:
    scenario = random_scenario(seed="abc")
    digests = {
        run(scenario, strategy="fifo", seed=seed, config=Config(gpus=2), backend="direct").trace_digest
        for seed in range(3)
    }
    assert len(digests) == 1
    first, second = (random_program(seeded_draw("abc")) for _ in range(2))
    assert first == second
    assert random_program(seeded_draw("abd")) != first


def test_the_tape_gives_another_program_for_every_run() -> None:
    scenario = random_scenario(ProgramShape(processes=1, vms=1, gpus=1))
    steps = {run(scenario, strategy="random", seed=seed, backend="direct", digest=False).steps for seed in range(12)}
    assert len(steps) > 8


def test_what_was_drawn_does_not_depend_on_later_schedule_choices() -> None:
    """All draws come before the first concurrent step, so program and schedule can be shrunk apart."""
    labels: list[str] = []

    async def scenario(world: World) -> None:
        choose = world.engine.choose

        def noted(count: int, label: str) -> int:
            labels.append(f"{label}" if len(world.engine.tasks) < 20 else "late")
            return choose(count, label)

        world.engine.choose = noted  # type: ignore[method-assign]
        await random_scenario()(world)

    assert run(scenario, strategy="random", seed=5, config=Config(gpus=2), backend="direct").ok
    kinds = [label for index, label in enumerate(labels) if index == 0 or labels[index - 1] != label]
    assert kinds[0] == "program"
    assert "program" not in kinds[1:]


def test_without_mprotect_replaces_it_everywhere() -> None:
    shape = ProgramShape(pages=RANGE_PAGES, actions=12, child_actions=6)
    for seed in range(20):
        drawn = random_program(seeded_draw(seed), shape)
        plain = without_mprotect(drawn)
        assert "mprotect" not in plain.to_json()
        assert plain.streams == drawn.streams
        assert [len(thread) for entry in plain.processes for thread in entry.threads] == [
            len(thread) for entry in drawn.processes for thread in entry.threads
        ]


@pytest.mark.parametrize("seed", range(25))
def test_random_programs_hold(seed: int) -> None:
    result = run(
        random_scenario(), strategy="random", seed=seed, config=Config(gpus=2, vram_pages=64), backend="direct"
    )
    assert result.failure is None


@pytest.mark.parametrize("seed", range(4))
def test_both_back_ends_make_the_same_run(seed: int) -> None:
    subject = random_program(seeded_draw(seed), ProgramShape(gpus=1))
    direct, hosted = (
        run(program_scenario(subject), strategy="random", seed=seed, backend=backend, record=True)
        for backend in ("direct", "trio")
    )
    assert direct.trace == hosted.trace
    assert direct.tape == hosted.tape
