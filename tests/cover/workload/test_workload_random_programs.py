"""Random programs: within bounds, determined by their draws, of the recorded mix, and the same after JSON."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import PROGRAMS

from svm_actors.workload import concurrent_programs as concurrent
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.formats import BadInput, Line
from svm_actors.workload.kernel_programs import KernelProgram, check_bounds, read_programs
from svm_actors.workload.random_kernel_programs import (
    PROFILES,
    WEIGHTS,
    SequentialShape,
    random_kernel_program,
    weighted,
)
from svm_actors.workload.random_programs import ProgramShape, RandomProgram, from_json, random_program

MMAP = {"do": "mmap", "page": 0, "n": 2, "prot": "rw", "share": "private"}


def tape(data: st.DataObject) -> Callable[[int], int]:
    """Draws that Hypothesis chooses."""

    def draw(count: int) -> int:
        assert count >= 1
        return data.draw(st.integers(0, count - 1))

    return draw


def seeded(seed: int) -> Callable[[int], int]:
    return random.Random(seed).randrange


# -- sequential ------------------------------------------------------------------


@given(st.data(), st.integers(0, PROFILES - 1), st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
def test_sequential_programs_stay_in_bounds(
    data: st.DataObject, profile: int, pages: int, devices: int, length: int
) -> None:
    program = random_kernel_program(tape(data), profile, 7, SequentialShape(pages, devices, length))
    assert (program.number, program.pages, program.devices, program.profile) == (7, pages, devices, profile)
    assert len(program.operations) == 1 + length + 1 + pages
    for operation in program.operations:
        check_bounds(Line("generated", 1, ""), operation.arguments, pages, devices)
        assert operation.results == {}


def test_sequential_programs_have_the_recorded_frame() -> None:
    arguments = [each.arguments for each in random_kernel_program(seeded(1), 2).operations]
    assert arguments[0] == ops.Mmap(0, 16, "rw", "private")
    assert arguments[41] == ops.Snapshot(0, 0, 16)
    assert arguments[42:] == [ops.CpuRead(page) for page in range(16)]


def test_only_the_draws_decide() -> None:
    assert random_kernel_program(seeded(5), 1) == random_kernel_program(seeded(5), 1)
    assert random_kernel_program(seeded(5), 1) != random_kernel_program(seeded(6), 1)


def test_all_zero_draws_give_the_simplest_program() -> None:
    program = random_kernel_program(lambda count: 0, 1, shape=SequentialShape(length=3))
    assert [each.arguments for each in program.operations[1:4]] == [ops.CpuRead(0)] * 3


def test_weights_are_percent_and_met_exactly() -> None:
    assert sum(weight for _, weight in WEIGHTS) == 100
    assert Counter(weighted(lambda _, value=value: value, WEIGHTS) for value in range(100)) == dict(WEIGHTS)
    with pytest.raises(ValueError, match="more than it was asked for"):
        weighted(lambda count: count, WEIGHTS)


def features(programs: Iterable[KernelProgram], profile: int) -> dict[str, Counter[Any]]:
    """How often each choice was made in the forty operations between the frame."""
    found: dict[str, Counter[Any]] = {}

    def count(what: str, value: object) -> None:
        found.setdefault(what, Counter())[value] += 1

    for program in programs:
        for operation in program.operations[1:41] if program.profile == profile else ():
            arguments = operation.arguments
            count("op", arguments.op)
            if arguments.op == "snapshot":
                continue
            page, n = arguments.span
            count("page", page)
            if hasattr(arguments, "n"):
                count("n", n if n <= 4 else "more")
            if arguments.op != "to_dev" and hasattr(arguments, "dev"):
                count("dev", arguments.dev)
            for name in ("prot", "share"):
                if hasattr(arguments, name):
                    count(f"{arguments.op} {name}", getattr(arguments, name))
            if isinstance(arguments, ops.ToDev):
                count("to_dev dev", arguments.dev)
            if isinstance(arguments, ops.Mremap):
                count("to", arguments.to // 4)
    return found


@pytest.mark.skipif(not PROGRAMS.exists(), reason="recordings are not part of the package")
@pytest.mark.parametrize("profile", range(PROFILES))
def test_the_mix_is_the_recorded_one(profile: int) -> None:
    recorded = features(read_programs(PROGRAMS), profile)
    draw = seeded(1000 + profile)
    generated = features((random_kernel_program(draw, profile) for _ in range(400)), profile)
    assert set(generated) == set(recorded)
    for what, counts in recorded.items():
        total, drawn = sum(counts.values()), sum(generated[what].values())
        for value in {**counts, **generated[what]}:
            share, expected = counts[value] / total, generated[what][value] / drawn
            # five standard deviations of the recorded sample
            assert abs(share - expected) < 5 * (expected * (1 - expected) / total) ** 0.5 + 0.005, (what, value)


# -- concurrent ------------------------------------------------------------------


shapes = st.builds(
    ProgramShape,
    pages=st.integers(1, 6),
    processes=st.integers(1, 3),
    threads=st.integers(1, 3),
    actions=st.integers(1, 4),
    child_actions=st.integers(1, 2),
    vms=st.integers(1, 2),
    gpus=st.integers(1, 2),
    streams=st.integers(1, 2),
    driver_actions=st.integers(0, 2),
)


def all_actions(program: RandomProgram) -> list[concurrent.ThreadAction]:
    found = []
    for process in program.processes:
        for actions in (process.setup, *process.threads):
            for action in actions:
                found.append(action)
                found += action.actions if isinstance(action, concurrent.Fork) else ()
    return found


@given(st.integers(0, 1 << 32), shapes)
def test_concurrent_programs_stay_in_bounds_and_survive_json(seed: int, shape: ProgramShape) -> None:
    program = random_program(seeded(seed), shape)
    # reading back checks every page, process and VM
    assert from_json(program.to_json()) == program
    assert 1 <= len(program.processes) <= shape.processes
    assert 1 <= len(program.vms) <= shape.vms
    assert len(program.driver) <= shape.driver_actions
    assert all(1 <= len(process.threads) <= shape.threads for process in program.processes)
    assert all(1 <= len(actions) <= shape.actions for process in program.processes for actions in process.threads)
    for vm in range(len(program.vms)):
        assert 1 <= sum(stream.vm == vm for stream in program.streams) <= shape.streams
    assert all(1 <= len(stream.accesses) <= shape.actions for stream in program.streams)
    assert all(vm.gpu < shape.gpus for vm in program.vms)


@given(st.data())
def test_a_tape_can_draw_a_program(data: st.DataObject) -> None:
    shape = ProgramShape(pages=3, processes=1, threads=1, actions=2, vms=1, streams=1)
    program = random_program(tape(data), shape)
    assert from_json(program.to_json()) == program


@given(st.integers(0, 1 << 32))
def test_written_values_are_distinct(seed: int) -> None:
    program = random_program(seeded(seed))
    accesses = [access for stream in program.streams for access in stream.accesses]
    values = [action.value for action in (*all_actions(program), *accesses) if hasattr(action, "value")]
    assert len(set(values)) == len(values)
    assert 0 not in values


def test_equal_draws_give_equal_programs() -> None:
    assert random_program(seeded(3)) == random_program(seeded(3))
    assert random_program(seeded(3)) != random_program(seeded(4))


def test_all_zero_draws_give_the_smallest_program() -> None:
    program = random_program(lambda count: 0)
    assert program.to_json() == (
        '{"pages":8,"processes":[{"setup":[{"do":"mmap","page":0,"n":8,"prot":"rw","share":"private"}],'
        '"threads":[[{"do":"write","page":0,"value":1}]]}],"vms":[{"process":0,"gpu":0}],'
        '"streams":[{"vm":0,"accesses":[{"do":"load","page":0}]}],"driver":[]}'
    )


def test_every_kind_of_action_is_drawn() -> None:
    programs = [random_program(seeded(seed)) for seed in range(60)]
    kinds = Counter(type(action).__name__ for program in programs for action in all_actions(program))
    kinds.update(type(each).__name__ for program in programs for stream in program.streams for each in stream.accesses)
    kinds.update(type(each).__name__ for program in programs for each in program.driver)
    assert set(kinds) == {
        "Mmap", "Munmap", "Mremap", "Mprotect", "Madvise", "Read", "Write", "Reclaim", "Fork",
        "Load", "Store", "AtomicAdd", "Evict", "CloseVm",
    }  # fmt: skip
    assert kinds["CloseVm"] < kinds["Evict"]


SMALL: dict[str, Any] = {
    "pages": 4,
    "processes": [{"setup": [MMAP], "threads": [[{"do": "read", "page": 3}]]}],
    "vms": [{"process": 0, "gpu": 1}],
    "streams": [{"vm": 0, "accesses": [{"do": "store", "page": 0, "value": 5}]}],
    "driver": [{"do": "evict", "vm": 0, "n": 9}],
}


def test_hand_written_programs_are_read() -> None:
    program = from_json(json.dumps(SMALL))
    assert program == RandomProgram(
        4,
        (concurrent.ProcessProgram((concurrent.Mmap(0, 2, "rw", "private"),), ((concurrent.Read(3),),)),),
        (concurrent.Vm(0, 1),),
        (concurrent.Stream(0, (concurrent.Store(0, 5),)),),
        (concurrent.Evict(0, 9),),
    )


FORK = {"do": "fork", "actions": [{"do": "read", "page": 4}]}


@pytest.mark.parametrize(
    ("change", "expected", "got"),
    [
        ({"pages": 0}, "`int` >= 1 at `pages`", "0"),
        ({"extra": 1}, "known fields only", "the field `extra`"),
        ({"vms": [{"process": 1, "gpu": 0}]}, "a `process` below 1", "1"),
        ({"streams": [{"vm": 1, "accesses": []}]}, "a `vm` below 1", "1"),
        ({"driver": [{"do": "close_vm", "vm": 2}]}, "a `vm` below 1", "2"),
        ({"driver": [{"do": "close", "vm": 0}]}, "a known value at `driver[0].do`", "'close'"),
        ({"streams": [{"vm": 0, "accesses": [{"do": "load", "page": 4}]}]}, "pages 0 to 3", "1 pages from page 4"),
        (
            {"streams": [{"vm": 0, "accesses": [{"do": "store", "page": 0, "value": 0}]}]},
            "`int` >= 1 at `streams[0].accesses[0].value`",
            "0",
        ),
        ({"processes": [{"setup": [{**MMAP, "n": 5}], "threads": []}]}, "pages 0 to 3", "5 pages from page 0"),
        ({"processes": [{"setup": [], "threads": [[FORK]]}]}, "pages 0 to 3", "1 pages from page 4"),
        (
            {"processes": [{"setup": [FORK], "threads": []}]},
            "a known value at `processes[0].setup[0].do`",
            "'fork'",
        ),
        (
            {"processes": [{"setup": [{"do": "mremap", "page": 0, "n": 2, "to": 3}], "threads": []}]},
            "pages 0 to 3",
            "2 pages from page 3",
        ),
    ],
)
def test_errors_name_line_and_expectation(change: dict[str, Any], expected: str, got: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_json(json.dumps(SMALL | change), "stored", 9)
    assert (caught.value.file, caught.value.line, caught.value.expected, caught.value.got) == (
        "stored",
        9,
        expected,
        got,
    )


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(BadInput, match="program:1: expected a JSON object"):
        from_json("{")
