"""Programs as scenarios: operations have numbers and can be left out, and nothing else changes its name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svm_actors.engine.op import render
from svm_actors.explore.run import run
from svm_actors.explore.subject import Subject, kept_name, split_name
from svm_actors.explore.targets import UnknownTarget, subject_named
from svm_actors.workload.concurrent_operations import places
from svm_actors.workload.concurrent_programs import Fork
from svm_actors.workload.program import PROGRAM, Kept, Operation, ProgramScenario
from svm_actors.workload.random_programs import ProgramShape, random_program
from svm_actors.workload.random_run import seeded_draw
from svm_actors.workload.stories import STORIES
from svm_actors.world import World

NAMES = ("random-small@1", "random-tight@2", "mirror-threads@0", "close@0", "fork@0", "eviction@3")


class Listening:
    """The canonical schedule; keeps the draws that make the program, and what was done."""

    name = "listening"

    def __init__(self) -> None:
        self.draws: list[int] = []
        self.labels: list[str] = []
        self.steps: list[str] = []

    def schedule(self, running: object, candidates: list[object], timer: bool) -> int:
        return candidates.index(running) if running in candidates else 0

    def data(self, count: int, label: str) -> int:
        value = (len(self.draws) * 7 + 3) % count if label == PROGRAM else 0
        if label == PROGRAM:
            self.draws.append(value)
        self.labels.append(label)
        return value

    def ran(self, task: object) -> None:
        self.steps.append(f"{task}: {render(task.op)}")  # type: ignore[attr-defined]


def listened(subject: Subject) -> Listening:
    found = Listening()
    one = run(subject, chooser=found, backend="direct", step_budget=200_000)  # type: ignore[arg-type]
    assert one.failure is None, one.failure
    return found


@pytest.mark.parametrize("name", NAMES)
def test_leaving_out_operations_changes_no_other_draw(name: str) -> None:
    """Whatever is drawn is drawn as if all operations were there."""
    whole = subject_named(name)
    first = listened(whole)
    count = len(whole.operations(first.draws))
    assert count > 3
    for kept in ([], [0], range(0, count, 2), range(count)):
        found = listened(whole.keeping(kept))
        assert found.labels == first.labels
        assert found.draws == first.draws
    assert listened(whole.keeping(range(count))).steps == first.steps


@pytest.mark.parametrize("name", NAMES)
def test_tasks_of_an_operation_carry_its_number(name: str) -> None:
    whole = subject_named(name)
    first = listened(whole)
    operations = whole.operations(first.draws)
    for number in range(len(operations)):
        steps = listened(whole.keeping([0, number])).steps
        numbers = {int(part.split(":")[0]) for step in steps for part in step.split(": ")[0].split("/") if ":" in part}
        assert numbers <= {0, number}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_any_operations_can_be_left_out(seed: int, data: st.DataObject) -> None:
    """Later operations tolerate that earlier ones are gone: errors as an answer, never a crash."""
    whole = subject_named(data.draw(st.sampled_from(NAMES)))
    count = len(whole.operations(listened(whole).draws)) if "random" not in whole.name else 4
    kept = data.draw(st.sets(st.integers(0, count - 1)))
    one = run(whole.keeping(kept), seed=seed, strategy="random", backend="direct", step_budget=200_000)
    assert one.failure is None or one.failure.rule == "EngineError", one.failure


def test_numbers_beyond_the_program_are_refused() -> None:
    one = run(subject_named("unmap@0").keeping([0, 12]), backend="direct")
    assert one.failure is not None
    assert one.failure.message == "expected operations below 12 to be kept, but 12 is named"


def test_operations_are_those_of_the_program_in_its_order() -> None:
    story = STORIES["fork"].program
    texts = [str(operation) for operation in places(story).values()]
    assert texts[:3] == [
        "p0 before: mmap pages 0-3, rw, private",
        "p0 before: write 1 to page 0",
        "p0 before: write 2 to page 1",
    ]
    assert texts[3:7] == [
        "p0 thread 0: fork",
        "child of p0 thread 0: read page 0",
        "child of p0 thread 0: write 10 to page 1",
        "child of p0 thread 0: read page 1",
    ]
    assert texts[-5:] == [
        "vm 0: create, on gpu 0, for p0",
        "gpu stream 0 of vm 0: store 20 to page 0",
        "gpu stream 0 of vm 0: load page 1",
        "gpu stream 0 of vm 0: store 21 to page 1",
        "gpu stream 0 of vm 0: load page 0",
    ]


@given(st.integers(0, 10**6))
def test_every_operation_has_a_place_of_its_own(seed: int) -> None:
    program = random_program(seeded_draw(seed), ProgramShape())
    found = places(program)
    actions = [action for entry in program.processes for part in (entry.setup, *entry.threads) for action in part]
    children = sum(len(action.actions) for action in actions if isinstance(action, Fork))
    accesses = sum(len(stream.accesses) for stream in program.streams)
    assert len(found) == len(actions) + children + len(program.vms) + accesses + len(program.driver)
    assert all(operation.who and operation.text.isprintable() for operation in found.values())


def test_the_running_task_has_its_number_back_afterwards() -> None:
    seen: list[int | None] = []

    async def perform(world: World, program: int, kept: Kept) -> None:
        task = world.engine.current
        assert task is not None
        for number in range(program):
            if number in kept:
                with kept.doing(number):
                    seen.append(task.operation)
                    with kept.doing(number + 10):
                        seen.append(task.operation)
                    seen.append(task.operation)
        seen.append(task.operation)

    def operations(program: int) -> list[Operation]:
        return [Operation("somebody", f"does {number}") for number in range(program)]

    scenario = ProgramScenario(lambda draw: 1 + draw(5), operations, perform)
    assert run(scenario.keeping(frozenset({0})), backend="direct").ok
    assert seen == [0, 10, 0, None]
    assert [str(operation) for operation in scenario.operations([1])] == ["somebody: does 0", "somebody: does 1"]


# -- names ------------------------------------------------------------------------------------------


@given(st.one_of(st.none(), st.frozensets(st.integers(0, 99_999), max_size=8)))
def test_names_say_what_is_kept(numbers: frozenset[int] | None) -> None:
    assert split_name(kept_name("random@3", numbers)) == ("random@3", numbers)


def test_a_name_finds_the_subject_again() -> None:
    kept = subject_named("unmap@7").keeping([5, 3])
    assert kept.name == "unmap@7?keep=3,5"
    again = subject_named(kept.name)
    assert (again.name, again.digest, again.config) == (kept.name, kept.digest, kept.config)
    assert again.keeping(None).name == "unmap@7"
    assert subject_named("unmap@7?keep=none").scenario.numbers == frozenset()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "suffix", ["", "2,1", "1,1", "01", "1,", ",1", "x", "1,x", "-1", "1 2", "none,1", "1234567", "1?keep=2", "\u0663"]
)
def test_other_suffixes_are_refused(suffix: str) -> None:
    with pytest.raises(UnknownTarget, match="expected numbers of operations in ascending order, or none"):
        subject_named(f"unmap@7?keep={suffix}")


@pytest.mark.parametrize("name", ["unmap?keep=1", "default@0?keep=1", "nosuch@1?keep=1"])
def test_a_suffix_needs_one_subject(name: str) -> None:
    with pytest.raises(UnknownTarget):
        subject_named(name)
