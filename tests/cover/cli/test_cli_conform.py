"""``svm-actors conform``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_bench import call

from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import KernelProgram, NotifierEvent, Operation, dump_program

LITMUS = (
    '{"litmus":4,"pages":2,"devices":2,"setup":[],"threads":[[{"op":"cpu_write","page":0,"value":1}],'
    '[{"op":"cpu_write","page":0,"value":2}]],"runs":%d,"outcomes":[%s]}\n'
)
OUTCOME = '{"threads":[["ok"],["ok"]],"snapshot":[2,0],"snapshot_errno":0,"memory":[%d,0],"count":%d}'


def kernel_file(value: int = 9, events: tuple[NotifierEvent, ...] = (), count: int = 2) -> str:
    """Two programs that write and read a page; the recording says the read gave ``value``."""
    calls = [
        Operation(ops.Mmap(0, 4, "rw", "private"), {"errno": 0, "events": ()}, 0),
        Operation(ops.CpuWrite(1, 9), {"signal": 0, "events": events}, 0),
        Operation(ops.CpuRead(1), {"signal": 0, "value": value, "events": ()}, 0),
    ]
    programs = [KernelProgram(number, 4, 2, 0, tuple(calls), 0) for number in range(1, count + 1)]
    Path("programs.jsonl").write_text("".join(map(dump_program, programs)))
    return "programs.jsonl"


def litmus_file(*outcomes: tuple[int, int]) -> str:
    text = LITMUS % (sum(count for _, count in outcomes), ",".join(OUTCOME % outcome for outcome in outcomes))
    Path("litmus.jsonl").write_text(text)
    return "litmus.jsonl"


# -- kernel ------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_agreement(jobs: int) -> None:
    answer = call("conform", "kernel", kernel_file(), "--jobs", jobs)
    assert answer.code == 0
    assert answer.out == (
        "2 of 2 programs agree on every result; events equal for 100.00 % of 6 operations\n"
    )


def test_a_wrong_result_is_one_line_with_its_place() -> None:
    answer = call("conform", "kernel", kernel_file(value=7), "--jobs", 1)
    assert answer.code == 1
    assert answer.out.splitlines()[:2] == [
        f"programs.jsonl: program {number} operation 2 (line {line}) cpu_read: value is 9, recorded 7"
        for number, line in ((1, 4), (2, 9))
    ]
    assert "0 of 2 programs agree" in answer.out


def test_wrong_events_are_grouped_and_count_only_below_the_limit() -> None:
    wrong = (NotifierEvent("CLEAR", 0, 1),)
    answer = call("conform", "kernel", kernel_file(events=wrong), "--jobs", 1)
    assert answer.code == 1
    assert answer.out.splitlines() == [
        "events of 2 operations: cpu_write: no event, recorded CLEAR; first in program 1, line 3",
        "2 of 2 programs agree on every result; events equal for 66.67 % of 6 operations",
    ]


def test_kernel_json() -> None:
    found = call("conform", "kernel", kernel_file(value=7, events=(NotifierEvent("CLEAR", 0, 1),)), "--json").json
    assert (found["schema"], found["command"], found["exit"]) == (1, "conform kernel", 1)
    assert (found["programs"], found["agreeing"], found["operations"], found["events_equal"]) == (2, 0, 6, 4)
    assert found["mismatches"][0] == {
        "file": "programs.jsonl",
        "program": 1,
        "operation": 1,
        "line": 3,
        "op": "cpu_write",
        "field": "events",
        "recorded": [{"event": "CLEAR", "page": 0, "n": 1}],
        "got": [],
    }
    assert found["event_causes"][0]["count"] == 2


def test_several_files_and_one_file_named_twice() -> None:
    first = kernel_file()
    Path("more.jsonl").write_bytes(Path(first).read_bytes())
    assert "4 of 4 programs" in call("conform", "kernel", first, "more.jsonl", first, "--jobs", 1).out


@pytest.mark.parametrize("which", ["kernel", "litmus"])
def test_bad_recordings_are_one_line_with_a_place(which: str) -> None:
    Path("bad.jsonl").write_text("{}\n")
    answer = call("conform", which, "bad.jsonl")
    assert answer.code == 2
    assert answer.err.startswith("error: bad.jsonl:1: expected ")
    assert answer.err.count("\n") == 1
    assert call("conform", which, "none.jsonl").code == 2
    assert call("conform", which).code == 2
    assert call("conform", which, "bad.jsonl", "--json").json["error"]["kind"] == "input"


def test_a_bad_second_file_is_found_before_anything_runs() -> None:
    Path("bad.jsonl").write_text("{}\n")
    answer = call("conform", "kernel", kernel_file(value=7), "bad.jsonl")
    assert (answer.code, answer.out) == (2, "")


# -- litmus ------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_outcome_reached(jobs: int) -> None:
    answer = call("conform", "litmus", litmus_file((1, 5), (2, 3)), "--jobs", jobs)
    assert answer.code == 0
    assert answer.out.startswith("1 of 1 programs have every recorded outcome reached, in ")


def test_an_outcome_not_reached_is_named_with_its_place() -> None:
    answer = call("conform", "litmus", litmus_file((1, 5), (3, 2)), "--runs", 30, "--jobs", 1)
    assert answer.code == 1
    assert answer.out.splitlines()[0] == (
        "litmus.jsonl:1: litmus 4: not reached: threads ok | ok; snapshot 2 0; memory 3 0; "
        "seen 2 times in 7 recorded runs"
    )
    assert "0 of 1 programs" in answer.out


def test_litmus_json_tells_what_only_the_model_reaches() -> None:
    found = call("conform", "litmus", litmus_file((1, 5)), "--runs", 40, "--exhaust", "--json").json
    (result,) = found["results"]
    assert (found["command"], found["exit"], found["fully_reached"], result["runs"]) == ("conform litmus", 0, 1, 40)
    assert result["only_model"][0]["memory"] == [2, 0]
    assert result["missing"] == []


def test_litmus_runs_depend_on_the_seed_only() -> None:
    path = litmus_file((1, 5), (2, 3))
    ones = [call("conform", "litmus", path, "--seed", "a", "--jobs", jobs, "--json").json for jobs in (1, 2)]
    assert ones[0] == ones[1]


def test_a_failing_run_of_the_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from svm_actors.engine.errors import PropertyFailed
    from svm_actors.workload import litmus_run

    def breaks(*_: object) -> None:
        raise PropertyFailed("toy", "INV-99", "seen\nsecond line")

    monkeypatch.setattr(litmus_run.LitmusRun, "run", breaks)
    answer = call("conform", "litmus", litmus_file((1, 5)), "--runs", 5, "--jobs", 1)
    assert answer.code == 1
    assert "5 runs failed: toy [INV-99]: seen\n" in answer.out
