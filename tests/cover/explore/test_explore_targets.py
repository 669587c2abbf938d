"""Targets: every name that a campaign prints finds the same subject again."""

from __future__ import annotations

from pathlib import Path

import pytest
from explore_toys import HELD, held, script

from svm_actors.explore.run import replay, run
from svm_actors.explore.targets import DEFAULT, UnknownTarget, resolve, subject_named, subject_target
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.builtin import builtin_targets
from svm_actors.workload.demo import demo_strace
from svm_actors.workload.formats import BadInput
from svm_actors.workload.kernel_programs import KernelProgram, Operation, dump_program
from svm_actors.workload.witnesses import all_witnesses

LITMUS = (
    '{"litmus":%d,"pages":2,"devices":2,"setup":[{"op":"cpu_write","page":0,"value":1}],'
    '"threads":[[{"op":"to_dev","dev":0,"page":0,"n":2},{"op":"mremap_away","page":1,"n":1}],'
    '[{"op":"mprotect_r","page":0,"n":1},{"op":"mprotect_rw","page":0,"n":1},{"op":"child_write","page":0,"value":3}]],'
    '"runs":1,"outcomes":[{"threads":[["ok","ok"],["ok","ok","child 3"]],"snapshot":[8,8],"snapshot_errno":0,'
    '"memory":[1,0],"count":1}]}\n'
)


def litmus_file(directory: Path) -> str:
    path = directory / "two.jsonl"
    path.write_text(LITMUS % 4 + LITMUS % 9)
    return str(path)


def kernel_file(directory: Path) -> str:
    """Three programs that touch one page."""
    calls = [ops.Mmap(0, 4, "rw", "private"), ops.CpuWrite(0, 7), ops.ToDev(0, 0, 1), ops.CpuRead(0)]
    moved: dict[str, object] = {"errno": 0, "cpages": 1, "faults": 0, "data": (7,)}
    results: list[dict[str, object]] = [{"errno": 0}, {"signal": 0}, moved, {"signal": 0, "value": 7}]
    operations = tuple(
        Operation(call, {**result, "events": ()}, 0)  # type: ignore[dict-item]
        for call, result in zip(calls, results, strict=True)
    )
    programs = [KernelProgram(number, 4, 2, 0, operations, 0) for number in range(1, 4)]
    path = directory / "three.jsonl"
    path.write_text("".join(map(dump_program, programs)))
    return str(path)


def test_the_default_is_the_built_in_mix() -> None:
    assert [(target.name, target.weight) for target in resolve(DEFAULT)] == [
        (entry.name, entry.weight) for entry in builtin_targets() if entry.weight
    ]
    assert [target.name for target in resolve("witnesses")] == list(all_witnesses())
    assert {target.weight for target in resolve("witnesses")} == {1}


@pytest.mark.parametrize("name", [entry.name for entry in builtin_targets()])
def test_a_built_in_name_is_that_workload_and_its_token_finds_it(name: str) -> None:
    (target,) = resolve(name)
    subject = target.subject(1)
    assert subject.name == f"{name}@1"
    again = subject_named(subject.name)
    assert (again.name, again.digest, again.config) == (subject.name, subject.digest, subject.config)
    one = run(subject, strategy="random", seed="x", backend="direct")
    assert replay(again, one.token, backend="direct").trace_digest == one.trace_digest


def test_a_script_has_no_index(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    (target,) = resolve(path)
    assert target.subject(5).name == target.subject(6).name == path
    assert subject_named(path).name == path


def test_a_strace_log_is_a_family_of_windows() -> None:
    name = f"strace:{demo_strace('malloc_heap')}"
    (target,) = resolve(name)
    ones = [run(target.subject(index), strategy="random", seed=0, backend="direct") for index in range(2)]
    assert ones[0].trace_digest != ones[1].trace_digest
    assert all(one.subject.name == f"{name}@{index}" for index, one in enumerate(ones))


def test_kernel_programs_come_in_pairs(tmp_path: Path) -> None:
    (target,) = resolve(f"kernel:{kernel_file(tmp_path)}")
    for index in range(7):
        assert run(target.subject(index), strategy="random", seed=index, backend="direct").ok


def test_a_single_kernel_program_runs_alone(tmp_path: Path) -> None:
    path = Path(kernel_file(tmp_path))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: lines.index('{"end":1}') + 1]) + "\n")
    (target,) = resolve(f"kernel:{path}")
    assert run(target.subject(3), backend="direct").ok


def test_litmus_programs_by_turn_and_by_number(tmp_path: Path) -> None:
    path = litmus_file(tmp_path)
    (both,), (one,) = resolve(f"litmus:{path}"), resolve(f"litmus:{path}#9")
    assert run(both.subject(1), seed=3, strategy="random").trace_digest == (
        run(one.subject(0), seed=3, strategy="random").trace_digest
    )
    for seed in range(20):
        assert run(both.subject(seed), seed=seed, strategy="random", backend="direct").ok
    with pytest.raises(BadInput, match="a litmus with number 5"):
        resolve(f"litmus:{path}#5")


def test_a_file_whose_name_has_a_number_sign_goes_first(tmp_path: Path) -> None:
    path = Path(litmus_file(tmp_path)).rename(tmp_path / "odd#3")
    assert run(resolve(f"litmus:{path}")[0].subject(0)).ok
    assert run(resolve(f"litmus:{path}#4")[0].subject(0)).ok


def test_an_edited_recording_has_another_digest(tmp_path: Path) -> None:
    path = Path(litmus_file(tmp_path))
    before = resolve(f"litmus:{path}")[0].subject(0).digest
    path.write_text(path.read_text().replace('"value":3', '"value":4').replace("child 3", "child 4"))
    assert resolve(f"litmus:{path}")[0].subject(0).digest != before


@pytest.mark.parametrize("name", ["nosuch", "strace:", "litmus:", "kernel:", "vcr:tape", "", "Random", "@3"])
def test_unknown_targets_list_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        resolve(name)
    assert all(word in str(caught.value) for word in (repr(name), "default", "random", "SCRIPT.py", "strace:FILE"))


@pytest.mark.parametrize("name", ["default", "default@3", "random", "random@x", "random@"])
def test_a_token_names_one_subject(name: str) -> None:
    with pytest.raises(UnknownTarget):
        subject_named(name)


@pytest.mark.parametrize("kind", ["strace", "kernel", "litmus"])
def test_missing_recordings_are_bad_input(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        resolve(f"{kind}:{tmp_path / 'none'}")


def test_a_function_is_a_target() -> None:
    target = subject_target(held)
    assert target.name == target.subject(3).name == "explore_toys:held"
