"""``svm-actors run``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_bench import ENDLESS, HELD, LOST_UPDATE, UNSEEDED, call, call_process, script

from svm_actors.explore.run import run
from svm_actors.explore.targets import subject_named


def test_a_script_that_holds(tmp_path: Path) -> None:
    answer = call("run", script(tmp_path, HELD))
    assert answer.code == 0
    assert answer.out.startswith("HELD: toy.py, ")
    assert answer.err == ""


def failing_seed(path: str) -> int:
    return next(seed for seed in range(60) if not run(subject_named(path), seed=seed, strategy="random").ok)


def test_a_failing_run_is_reported_and_its_token_replays(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    answer = call("run", path, "--strategy", "random", "--seed", failing_seed(path))
    assert answer.code == 1
    assert "an update was lost" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 100
    line = answer.out.splitlines()[-1].split()
    assert line[:2] == ["svm-actors", "replay"]
    assert call(*line[1:]).code == 1


def test_a_trace_has_every_step(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    answer = call("run", path, "--trace", "deep/trace.txt", "--json")
    lines = (tmp_path / "deep" / "trace.txt").read_text().splitlines()
    assert len(lines) == answer.json["steps"]
    assert tuple(lines) == run(subject_named(path), seed="0", record=True).trace


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    traces = []
    for number, hash_seed in enumerate(("0", "1", "77", "random")):
        trace = tmp_path / f"trace{number}"
        words = ["run", path, "--strategy", "random", "--seed", "text", "--trace", trace]
        assert call_process(*words, hash_seed=hash_seed, cwd=tmp_path).code == 0
        traces.append(trace.read_bytes())
    assert len(set(traces)) == 1
    assert traces[0].count(b"\n") > 100


@pytest.mark.parametrize("target", ["random@3", "strace-demo@1", "mirror-threads@0"])
def test_built_in_runs_do_not_depend_on_the_hash_seed(target: str, tmp_path: Path) -> None:
    for number, hash_seed in enumerate(("3", "4")):
        trace = tmp_path / str(number)
        words = ["run", target, "--strategy", "random", "--seed", "9", "--trace", trace, "--backend", "direct"]
        assert call_process(*words, hash_seed=hash_seed, cwd=tmp_path).code == 0
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_both_back_ends_print_the_same_trace(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    for backend in ("trio", "direct"):
        call("run", path, "--backend", backend, "--strategy", "random", "--trace", backend)
    assert (tmp_path / "trio").read_bytes() == (tmp_path / "direct").read_bytes()


def test_determinism_is_checked_here_and_in_another_process(tmp_path: Path) -> None:
    answer = call("run", script(tmp_path, HELD), "--strategy", "random", "--check-determinism")
    assert answer.code == 0
    assert "twice here and once in another process: the same trace" in answer.out


def test_a_script_that_is_not_deterministic_is_found(tmp_path: Path) -> None:
    path = script(tmp_path, UNSEEDED)
    answers = [call("run", path, "--check-determinism") for _ in range(6)]
    found = [answer for answer in answers if answer.code == 1]
    assert found
    assert "ERROR: determinism [trace]" in found[0].out
    assert "runs differ at step" in found[0].out


def test_an_order_that_depends_on_the_hash_seed_is_found(tmp_path: Path) -> None:
    text = """\
async def scenario(world):
    async with world.nursery() as nursery:
        for name in {f"task{number}" for number in range(20)}:
            nursery.start_soon(world.process().mmap, 4096, name=name)
"""
    answer = call_process("run", script(tmp_path, text), "--check-determinism", hash_seed="5", cwd=tmp_path)
    assert answer.code == 1
    assert "with another PYTHONHASHSEED runs differ at step" in answer.out


def test_a_failing_run_can_be_checked_too(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    answer = call("run", path, "--strategy", "random", "--seed", failing_seed(path), "--check-determinism")
    assert answer.code == 1
    assert "an update was lost" in answer.out


def test_json(tmp_path: Path) -> None:
    found = call("run", script(tmp_path, HELD), "--json").json
    assert (found["schema"], found["command"], found["ok"], found["exit"]) == (1, "run", True, 0)
    assert found["token"] is None
    assert {"target", "seed", "strategy", "bugs", "steps", "virtual_time_ns", "trace_digest", "counters"} <= set(found)
    path = script(tmp_path, LOST_UPDATE)
    failed = call("run", path, "--strategy", "random", "--seed", failing_seed(path), "--json")
    assert failed.json["failure"]["rule"] == "assert"
    assert failed.json["token"].startswith("svm-actors-token v1\n")
    assert "PROPERTY FAILED" in failed.err


def test_a_bug_is_planted(tmp_path: Path) -> None:
    answers = [
        call("run", "random-small@0", "--bug", "SVM-B50", "--strategy", "random", "--seed", seed, "--backend", "direct")
        for seed in range(30)
    ]
    failed = [answer for answer in answers if answer.code]
    assert failed
    assert "bugs     SVM-B50" in failed[0].out


def test_an_endless_run_with_a_deadlock(tmp_path: Path) -> None:
    text = """\
from svm_actors.engine.locks import WaitQueue

async def scenario(world):
    await WaitQueue(world.engine, "never").wait_event(lambda: False)
"""
    answer = call("run", script(tmp_path, text))
    assert answer.code == 1
    assert answer.out.startswith("DEADLOCK: engine [deadlock]")
    assert "main is blocked in wait never" in answer.out


def test_a_broken_model_is_an_internal_error(tmp_path: Path) -> None:
    text = """\
async def scenario(world):
    process = world.process()
    process.mm = None
    await process.mmap(4096)
"""
    answer = call("run", script(tmp_path, text))
    assert answer.code == 3
    assert answer.out.startswith("INTERNAL ERROR: model [AttributeError]")
    planted = call("run", script(tmp_path, text), "--bug", "SVM-B50")
    assert planted.code == 1, "what breaks because a bug was planted is that bug's failure"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "toy.py: expected `async def scenario(world)`, got no such name"),
        ("async def scenario(world)\n", "toy.py:1: expected valid Python, got expected ':'"),
        ("\n1 / 0\n", "toy.py:2: expected a script that loads, got ZeroDivisionError: division by zero"),
    ],
)
def test_bad_scripts_are_one_line_with_a_place(tmp_path: Path, text: str, message: str) -> None:
    script(tmp_path, text)
    answer = call("run", "toy.py", "--trace", "trace")
    assert (answer.code, answer.out, answer.err) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "trace").exists(), "nothing half written"
    as_json = call("run", "toy.py", "--json")
    assert as_json.json == {
        "schema": 1,
        "command": "run",
        "ok": False,
        "error": {"kind": "input", "message": message},
        "exit": 2,
    }


@pytest.mark.parametrize("target", ["default", "random", "nosuch"])
def test_only_one_subject_can_be_run(target: str) -> None:
    assert call("run", target).code == 2


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = call("run", script(tmp_path, HELD), "--trace", "file/trace")
    assert answer.code == 2
    assert "expected a file that can be written" in answer.err


def test_a_step_budget_gives_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svm_actors.cli.run.run_once", lambda *args, **options: run(*args, step_budget=50, **options))
    assert call("run", script(tmp_path, ENDLESS)).code == 4
