"""The executor of programs over VM_BIND: it does what the program says, knows what must be read, and notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from svm_actors.engine.errors import EINVAL, EIO
from svm_actors.engine.nursery import Nursery
from svm_actors.explore.run import Run, run
from svm_actors.gpu.context import Batch, HwFence
from svm_actors.gpu.events import GpuAccess
from svm_actors.gpu.program import GpuFault
from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_faults import excused
from svm_actors.workload.bind_run import BindRun, bind_program, bind_program_scenario, random_bind_scenario
from svm_actors.workload.bind_stories import BIND_STORIES
from svm_actors.workload.builtin import TIGHT
from svm_actors.workload.concurrent_programs import Mmap, ProcessProgram, RandomProgram, Vm
from svm_actors.world import World
from svm_actors.xe.bind_ops import BindOps
from svm_actors.xe.exec import Exec, Execution

BASE = RandomProgram(2, (ProcessProgram((Mmap(0, 2, "rw", "private"),), ()),), (), (), ())
MAPPED = bp.Bind((bp.Map(0, 2, 0),))
TWO_PAGES = (bp.BoProgram(0, 2, external=True),)


def program(
    *clients: tuple[bp.Operation, ...],
    vms: tuple[bp.BindVmProgram, ...] = (bp.BindVmProgram(0),),
    bos: tuple[bp.BoProgram, ...] = TWO_PAGES,
    driver: tuple[bp.DriverTask, ...] = (),
) -> bp.BindProgram:
    """All clients work on the first VM."""
    return bp.BindProgram(BASE, 2, vms, bos, tuple(bp.Client(0, operations) for operations in clients), driver)


def store(at: int, value: int) -> bp.Access:
    return bp.Access(at, "store", value)


def load(at: int, of: int | None = None) -> bp.Access:
    return bp.Access(at, "load", of=of)


def once(subject: bp.BindProgram, seed: int | None = None, **options: Any) -> Run:
    strategy = {} if seed is None else {"strategy": "random", "seed": seed}
    return run(bind_program_scenario(subject), config=TIGHT, backend="direct", digest=False, **strategy, **options)


def failure_of(result: Run) -> tuple[str, str]:
    assert result.failure is not None
    return result.failure.oracle, result.failure.rule


# -- what a program does -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dma_fence", "lr", "fault"])
def test_jobs_and_the_cpu_see_each_others_words(mode: bp.BindMode) -> None:
    events: list[GpuAccess] = []
    subject = program(
        (
            MAPPED,
            bp.Submit((store(0, 5), load(0), bp.Access(1, "add"), bp.Access(1, "add"))),
            bp.CpuRead(0, 0),
            bp.CpuWrite(0, 0, 6),
            bp.Submit((load(0),)),
        ),
        vms=(bp.BindVmProgram(0, mode),),
    )

    async def scenario(world: World) -> None:
        world.engine.listeners.append(lambda event: events.append(event) if type(event) is GpuAccess else None)
        await BindRun(world, subject).run()

    assert run(scenario, backend="direct").failure is None
    found = [(event.kind, int.from_bytes(event.data, "little")) for event in events]
    assert found == [("store", 5), ("load", 5), ("atomic", 1), ("atomic", 2), ("load", 6)]


def test_what_is_not_mapped_is_left_out_and_null_reads_zero() -> None:
    result = once(program((bp.Bind((bp.MapNull(3, 1),)), bp.Submit((store(0, 1), store(3, 2), load(3))))))
    assert result.failure is None
    assert result.counters["exec"] == 1


def test_a_read_only_mapping_is_only_read() -> None:
    read_only = bp.Bind((bp.Map(0, 2, 0, read_only=True),))
    result = once(program((read_only, bp.Submit((store(0, 1), bp.Access(0, "add"), load(0))))))
    assert result.failure is None
    assert not result.counters.get("binds.job_failed")


def test_user_memory_is_shared_with_the_process() -> None:
    subject = program(
        (
            bp.Bind((bp.MapUser(0, 2, 2),)),
            bp.UserWrite(0, 3),
            bp.Submit((load(0), store(1, 4))),
            bp.Wait(),
            bp.Bind((bp.Unmap(0, 1),)),
            bp.Submit((load(1),)),
        )
    )
    assert once(subject).failure is None


def test_clients_read_each_others_words_and_count_together() -> None:
    work = (MAPPED, *(bp.Submit((load(0, 0), load(0, 1), bp.Access(0, "add"), store(0, value))) for value in (1, 2)))
    for seed in range(10):
        assert once(program(work, work), seed).failure is None


def test_a_job_that_hangs_goes_astray_or_is_destroyed_ends_with_an_error_and_a_new_queue_takes_over() -> None:
    for bad in (bp.Hang(), bp.Hang(0, True), bp.Stray(), bp.DestroyQueue()):
        subject = program((MAPPED, bp.Submit((store(0, 1),)), bad, bp.Submit((store(0, 2),)), bp.Wait(),
                           bp.Submit((store(0, 3), load(0)))))  # fmt: skip
        result = once(subject)
        assert result.failure is None, bad
        assert result.counters["binds.job_failed"] + result.counters.get("binds.exec_refused", 0) >= 1 or (
            isinstance(bad, bp.DestroyQueue)
        )


def test_refused_binds_change_nothing() -> None:
    nowhere = bp.MapUser(5, 1, 4)
    subject = program((MAPPED, bp.Bind((bp.Unmap(0, 1), nowhere)), bp.Submit((load(0), store(1, 2)))))
    result = once(subject)
    assert result.failure is None
    assert result.counters["binds.bind_refused"] == 1


def test_dropped_objects_live_on_in_their_mappings() -> None:
    alone = (bp.BoProgram(0, 2, client=0),)
    subject = program((MAPPED, bp.Drop(0), bp.Submit((store(0, 1), load(0))), MAPPED, bp.CpuRead(0, 0)), bos=alone)
    assert once(subject).failure is None


def test_all_mappings_of_an_object_go_at_once() -> None:
    alone = (bp.BoProgram(0, 2, client=0),)
    twice = bp.Bind((bp.Map(0, 2, 0), bp.Map(4, 2, 0)))
    subject = program((twice, bp.Bind((bp.UnmapAll(0),)), bp.Submit((load(0),))), bos=alone)
    result = once(subject)
    assert result.failure is None
    assert not result.counters.get("exec")


def test_a_vm_that_is_closed_refuses_the_rest() -> None:
    subject = program((MAPPED, *(bp.Submit((store(0, value),)) for value in range(1, 8))), driver=(bp.CloseBindVm(0),))
    results = [once(subject, seed) for seed in range(20)]
    assert all(result.failure is None for result in results)
    assert any(result.counters.get("binds.exec_refused") for result in results)


def test_mirrored_memory_in_use_cannot_be_taken_out() -> None:
    subject = program(
        (bp.Mirror(0, 7), bp.Unmirror(2, 1), bp.Mirror(0), bp.Unmirror(0, 1), bp.Mirror(0, 1, True), bp.Remirror(0, 1)),
        vms=(bp.BindVmProgram(0, "fault"),),
    )
    result = once(subject)
    assert result.failure is None
    assert result.counters["binds.mirror_busy"] == 1


# -- what it notices -----------------------------------------------------------------------


def spoiled(subject: bp.BindProgram, spoil: Callable[[pytest.MonkeyPatch], None]) -> Run:
    """The program with one method of the model replaced."""
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        return once(subject)


def test_wrong_data_in_a_job() -> None:
    subject = program((MAPPED, bp.Submit((store(0, 5),)), bp.Submit((load(0),))))

    async def scenario(world: World) -> None:
        def corrupt(event: Any) -> None:
            if type(event) is GpuAccess and event.kind == "store":
                event.folio.content = event.folio.content.write(event.offset, b"\x63")

        world.engine.listeners.append(corrupt)
        await BindRun(world, subject).run()

    assert failure_of(run(scenario, backend="direct")) == ("binds", "INV-VMB-13")


def test_wrong_data_that_nobody_looks_at() -> None:
    subject = program((MAPPED, bp.Submit((store(0, 5),))))

    async def scenario(world: World) -> None:
        done = BindRun(world, subject)
        look = done._look_at_everything

        async def corrupt_then_look() -> None:
            await done.bos[0].write(64, b"\x63")
            await look()

        done._look_at_everything = corrupt_then_look  # type: ignore[method-assign]
        await done.run()

    result = run(scenario, backend="direct")
    assert failure_of(result) == ("binds", "INV-VMB-13")
    assert "at the end" in str(result.failure)


def test_a_failed_bind_that_leaves_something_behind() -> None:
    async def no_unwind(_ops: BindOps) -> None:
        """Keep what was committed."""

    subject = program((MAPPED, bp.Bind((bp.Unmap(0, 1), bp.MapUser(5, 1, 4)))))
    result = spoiled(subject, lambda patch: patch.setattr(BindOps, "unwind", no_unwind))
    assert failure_of(result) == ("binds", "INV-VMB-08")


def test_a_job_that_fails_for_no_reason() -> None:
    subject = program((MAPPED, bp.Submit((store(0, 5),))))
    killed = bp.DestroyQueue()
    healthy = once(program((MAPPED, bp.Submit((store(0, 5),)), killed)))
    assert healthy.failure is None

    async def arm_then_kill(self: Exec, job: Any) -> Any:
        execution = await original(self, job)
        self.queue.kill()
        return execution

    original = Exec._arm
    result = spoiled(subject, lambda patch: patch.setattr(Exec, "_arm", arm_then_kill))
    assert failure_of(result) == ("binds", "INV-VMB-03")


def test_an_error_that_is_not_documented() -> None:
    async def broken(_exec: Exec) -> None:
        raise EIO

    subject = program((MAPPED, bp.Submit((store(0, 5),))))
    result = spoiled(subject, lambda patch: patch.setattr(Exec, "run", broken))
    assert failure_of(result) == ("binds", "errors")


@pytest.mark.parametrize("struck", ["memory", "copy"])
def test_a_mirroring_vm_may_be_dead_when_there_was_no_memory(struck: str) -> None:
    """Its work item could not take a range apart, which kills the VM; every later program of it is refused."""
    base = RandomProgram(2, (ProcessProgram((Mmap(0, 2, "rw", "private"),), ()),), (Vm(0, 0),), (), ())
    accesses = (bp.Mirror(0, 7), bp.Mirror(0), bp.Mirror(0, 9, True))
    subject = bp.BindProgram(base, 2, (bp.BindVmProgram(0),), (), (bp.Client(0, accesses),), ())

    async def scenario(world: World) -> None:
        done = BindRun(world, subject)
        start = done._start_clients

        async def kill_then_start(nursery: Nursery) -> None:
            world.engine.faults.struck.append(struck)
            assert done.vms[0] is not None
            done.vms[0].vm.kill()
            await start(nursery)

        done._start_clients = kill_then_start  # type: ignore[method-assign]
        await done.run()

    result = run(scenario, config=TIGHT, backend="direct")
    if struck == "memory":
        assert result.failure is None
        assert result.counters["binds.mirror_refused"] == len(accesses)
    else:
        assert failure_of(result) == ("refusals", "errno")


def test_a_job_may_miss_user_memory_that_a_rebind_could_not_map() -> None:
    """A mapping for DMA that fails is reported as -EFAULT: the memory is given up as if the process had unmapped it."""

    async def scenario(world: World) -> None:
        engine = world.engine
        batch = Batch((), HwFence(SimpleNamespace(engine=engine, name="ring", fence_context=1), 1))  # type: ignore
        batch.results.append(GpuFault(EINVAL().errno))
        job = Execution(batch.fence, batch)
        assert not excused(engine, job)
        engine.count("userptr.efault")
        assert not excused(engine, job), "the process has unmapped it, and knows"
        engine.faults.struck.append("dma")
        assert excused(engine, job)
        engine.counters["userptr.efault"] = 0
        assert not excused(engine, job), "it was mapped another way"

    assert run(scenario, backend="direct").failure is None


# -- whole programs ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_programs_hold_whatever_is_left_out(seed: int) -> None:
    """Operations tolerate that others are gone: they are refused, or have nothing to do."""
    scenario = bind_program_scenario(bind_program(seed))
    count = len(scenario.operations(()))
    kept = frozenset(number for number in range(count) if Random(seed * 1000 + number).random() < 0.6)
    result = run(scenario.keeping(kept), strategy="random", seed=seed, config=TIGHT, backend="direct", digest=False)
    assert result.failure is None


@pytest.mark.parametrize("seed", range(3))
def test_both_back_ends_make_the_same_run(seed: int) -> None:
    direct, hosted = (
        run(random_bind_scenario(), strategy="random", seed=seed, config=TIGHT, backend=backend, record=True)
        for backend in ("direct", "trio")
    )
    assert direct.trace == hosted.trace
    assert direct.tape == hosted.tape


def test_the_program_is_one_choice_of_the_tape() -> None:
    scenario = random_bind_scenario()
    result = run(scenario, strategy="random", seed=8, config=TIGHT, backend="direct", digest=False)
    assert scenario.make(lambda _count: result.tape[0]) == bind_program(result.tape[0])
    assert [str(each) for each in scenario.operations(result.tape[:1])] == [
        str(each) for each in bind_program_scenario(bind_program(result.tape[0])).operations(())
    ]


@pytest.mark.parametrize("name", sorted(BIND_STORIES))
def test_stories_reach_their_windows(name: str) -> None:
    """At least one of the races a story is about really happens within a few schedules."""
    story = BIND_STORIES[name]
    counters: Counter[str] = Counter()
    for seed in range(60):
        counters.update(once(story.program, seed).counters)
        if any(counters[race] for race in story.races):
            return
    pytest.fail(f"none of {', '.join(story.races)} in 60 schedules; seen: {sorted(counters)}")
