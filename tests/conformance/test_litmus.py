"""Recorded concurrent outcomes of a real kernel: each one is reachable in the model.

The search is bounded and seeded, so it finds the same schedules every time.  The rarest recorded
outcome needs under two thousand runs; the bound leaves room for the model to change.
"""

import itertools

import attrs
import pytest
from ground_truth import recording

from svm_actors.engine.errors import PropertyFailed
from svm_actors.mirror.mended import MendedDevice
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_operations import Arguments
from svm_actors.workload.litmus_format import Litmus, Observed, Outcome, read_litmus
from svm_actors.workload.litmus_run import FewSwitches, LitmusRun, run_litmus, search_litmus
from svm_actors.workload.mirror_process import InOrder

BOUND = 20_000


def litmus(setup, *threads, outcomes=()):
    """A litmus program of two pages and two devices."""
    observed = tuple(Observed(outcome, 1) for outcome in outcomes)
    return Litmus(1, 2, 2, tuple(setup), tuple(map(tuple, threads)), len(observed), observed, 1)


def choosers(name):
    return (FewSwitches(f"{name}/{number}") for number in itertools.count())


# -- worked out by hand ----------------------------------------------------------------

WRITERS = litmus(
    [ops.CpuWrite(0, 10)],
    [ops.CpuWrite(0, 20)],
    [ops.DevWrite(0, 0, 1, 30), ops.CpuRead(0)],
)


def test_one_schedule_gives_one_outcome():
    outcome = run_litmus(WRITERS, InOrder())
    assert outcome == Outcome((("ok",), ("ok", 30)), (2, 0), 0, (30, 0))


def test_two_writers_and_every_way_they_can_interleave():
    """The reader sees whichever store came last before it; memory holds the last of all."""
    found = search_litmus(WRITERS, choosers("writers"), runs=300, exhaust=True)
    seen = {(outcome.threads[1][1], outcome.memory[0]) for outcome in found.outcomes}
    assert seen == {(30, 30), (20, 20), (30, 20)}
    assert (found.runs, not found.failures, {outcome.snapshot for outcome in found.outcomes}) == (300, True, {(2, 0)})


def test_fork_sees_the_page_before_or_after_a_write_and_the_parent_keeps_its_own():
    program = litmus([ops.CpuWrite(0, 10)], [ops.CpuWrite(0, 20)], [ops.ChildRead(0), ops.ChildWrite(1, 5)])
    found = search_litmus(program, choosers("fork"), runs=300, exhaust=True)
    assert {outcome.threads for outcome in found.outcomes} == {
        (("ok",), ("child 10", "child 5")),
        (("ok",), ("child 20", "child 5")),
    }
    assert {outcome.memory for outcome in found.outcomes} == {(20, 0)}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (ops.MremapAway(0, 1), Outcome((("ok",),), (255, 2), 0, ("segv", 20))),
        (ops.Munmap(0, 2), Outcome((("ok",),), (255, 255), 0, ("segv", "segv"))),
        (ops.MprotectR(0, 1), Outcome((("ok",),), (1, 2), 0, (10, 20))),
        (ops.MprotectRw(0, 2), Outcome((("ok",),), (2, 2), 0, (10, 20))),
        (ops.Mprotect(0, 2, "none"), Outcome((("ok",),), (255, 255), 0, ("segv", "segv"))),
        (ops.MadviseDontneed(1, 1), Outcome((("ok",),), (2, 0), 0, (10, 0))),
        (ops.Mremap(0, 1, 1), Outcome((("ok",),), (255, 2), 0, ("segv", 10))),
        (ops.Mmap(0, 1, "r", "private"), Outcome((("ok",),), (0, 2), 0, (0, 20))),
        (ops.ToDev(0, 0, 2), Outcome((("ok",),), (34, 34), 0, (10, 20))),
        (ops.ToDev(1, 0, 1), Outcome((("ok",),), (0, 2), 0, (10, 20))),
        (ops.ToSys(0, 0, 1), Outcome((("ok",),), (2, 2), 0, (10, 20))),
        (ops.Exclusive(0, 1, 1), Outcome((("ok",),), (2, 0), 0, (10, 20))),
        (ops.DevRead(1, 0, 2), Outcome((((10, 20),),), (2, 2), 0, (10, 20))),
        (ops.DevWrite(0, 0, 2, 255), Outcome((("ok",),), (2, 2), 0, (255, 0))),
        (ops.ChildWrite(1, 40), Outcome((("child 40",),), (1, 1), 0, (10, 20))),
    ],
)
def test_each_operation_alone(call: Arguments, expected: Outcome):
    program = litmus([ops.CpuWrite(0, 10), ops.CpuWrite(1, 20)], [call])
    assert run_litmus(program, InOrder()) == expected


def test_errors_and_signals_are_named_as_recorded():
    calls = [
        ops.Munmap(0, 1),
        ops.CpuRead(0),
        ops.CpuWrite(0, 1),
        ops.DevRead(0, 0, 1),
        ops.ToDev(0, 0, 1),
        ops.MprotectRw(0, 2),
        ops.MremapAway(0, 1),
        ops.MadviseDontneed(0, 2),
        ops.ChildRead(0),
        ops.MprotectR(1, 1),
        ops.DevWrite(0, 1, 1, 9),
    ]
    outcome = run_litmus(litmus([], calls), InOrder())
    assert outcome.threads[0] == (
        "ok", "segv", "segv", "EFAULT", "EINVAL", "ENOMEM", "EFAULT", "ENOMEM", "child 255", "ok", "EPERM",
    )  # fmt: skip


def test_every_move_away_has_a_place_of_its_own():
    outcome = run_litmus(litmus([ops.CpuWrite(1, 7)], [ops.MremapAway(1, 1), ops.MremapAway(0, 1)]), InOrder())
    assert (outcome.threads[0], outcome.memory) == (("ok", "ok"), ("segv", "segv"))


def test_a_search_ends_when_everything_recorded_was_seen_or_the_runs_are_spent():
    always = run_litmus(litmus([], [ops.CpuRead(0)]), InOrder())
    never = attrs.evolve(always, memory=(99, 99))
    easy = litmus([], [ops.CpuRead(0)], outcomes=[always])
    hard = litmus([], [ops.CpuRead(0)], outcomes=[always, never])
    assert search_litmus(easy, choosers("easy"), runs=50).runs == 1
    found = search_litmus(hard, choosers("hard"), runs=50)
    assert (found.runs, [observed.outcome for observed in found.missing], found.unrecorded) == (50, [never], [])


def test_a_run_that_fails_is_counted_and_the_search_goes_on():
    """The stock driver's own races are failures of the driver, not outcomes."""

    def sometimes(program, chooser):
        if chooser.seed_is_odd:
            raise PropertyFailed("lifetime", "INV-05", "a page\nwith details")
        return run_litmus(program, InOrder())

    class Numbered(InOrder):
        def __init__(self, number):
            self.seed_is_odd = bool(number % 2)

    program = litmus([], [ops.CpuRead(0)])
    found = search_litmus(program, map(Numbered, range(10)), runs=10, exhaust=True, run=sometimes)
    assert dict(found.failures) == {"lifetime [INV-05]: a page": 5}
    assert found.outcomes.total() == 5


def test_equal_choosers_give_equal_traces():
    runs = [LitmusRun(WRITERS, FewSwitches(5), record=True) for _ in range(2)]
    assert runs[0].run() == runs[1].run()
    assert runs[0].process.engine.trace() == runs[1].process.engine.trace()


# -- the recording ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return list(read_litmus(recording("litmus.jsonl.gz")))


def test_every_recorded_outcome_is_reachable(recorded):
    for program in recorded:
        found = search_litmus(program, choosers(program.number), runs=BOUND)
        assert found.missing == (), f"litmus {program.number} after {found.runs} runs"


def test_no_race_of_the_recording_breaks_the_mended_driver(recorded):
    """The same races, judged by lifetime, lock order, deadlock and leaks instead of by outcome."""
    for program in recorded[::4]:
        for number in range(8):
            run = LitmusRun(program, FewSwitches(f"mended/{number}"), device_class=MendedDevice)
            run.run()
            assert not any(run.left.values()), (program.number, run.left)
