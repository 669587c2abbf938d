"""``svm-actors fuzz``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_bench import ENDLESS, HELD, LOST_UPDATE, UNSEEDED, call, call_process, script

from svm_actors.cli import fuzz as fuzz_command
from svm_actors.explore.campaign import Campaign
from svm_actors.explore.pool import WorkersDied


def test_a_mix_that_holds(tmp_path: Path) -> None:
    answer = call("fuzz", script(tmp_path, HELD), "--executions", 12, "--jobs", 1)
    assert answer.code == 0
    assert answer.out.startswith("HELD: 12 runs, seed 0, strategy portfolio; all runs made\n")
    for words in ("GPU faults", "CPU faults", "migrations to VRAM", "migrations to RAM", "evictions", "steps/s"):
        assert words in answer.out
    assert re.search(r"race windows hit: \d+", answer.out)
    assert re.search(r"GPU fault retries by cause: \d+", answer.out)
    assert re.search(r"toy\.py +12 +\d+ +0\n", answer.out)
    assert re.search(r"coverage: \d+ features\n", answer.out)
    assert re.search(r"races never reached: \d+\n", answer.out)
    assert re.search(r"strategy +runs +steps +failing +new features\nfair_pct +\d+ +\d+ +0 +\d+\n", answer.out)
    assert not (tmp_path / "failures").exists()


def test_the_default_target_is_the_built_in_mix() -> None:
    answer = call("fuzz", "--executions", 10, "--jobs", 1, "--json")
    assert answer.code == 0
    assert {"strace-demo", "random"} <= set(answer.json["targets"])


def test_without_limits_a_thousand_runs_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Campaign] = []

    def short(*args: object, executions: int | None, seconds: float | None, **options: object) -> Campaign:
        assert executions is None
        assert seconds is None
        seen.append(Campaign(plan=None, limit=fuzz_command.EXECUTIONS))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz_command, "run_campaign", short)
    assert call("fuzz", script(tmp_path, HELD)).code == 4
    assert seen[0].limit is not None
    assert seen[0].limit >= 1000


def test_a_failure_is_reported_kept_and_replayable(tmp_path: Path) -> None:
    answer = call("fuzz", script(tmp_path, LOST_UPDATE), "--executions", 40, "--jobs", 1)
    assert answer.code == 1
    assert "PROPERTY FAILED: scenario [assert]" in answer.out
    (token,) = (tmp_path / "failures").iterdir()
    (line,) = re.findall(r"^  (svm-actors replay .*)$", answer.out, re.MULTILINE)
    assert line == f"svm-actors replay failures/{token.name}"
    again = call(*line.split()[1:])
    assert again.code == 1
    assert "REPLAYED: the run failed as recorded" in again.out


def test_a_bug_is_planted_and_the_campaign_stops_at_it() -> None:
    answer = call("fuzz", "--bug", "SVM-B50", "--executions", 400, "--jobs", 2, "--json")
    assert answer.code == 1
    found = answer.json
    assert (found["stopped_by"], found["bugs"], len(found["failures"])) == ("failure", ["SVM-B50"], 1)
    assert found["runs"] == found["failures"][0]["first_run"] + 1


def test_results_do_not_depend_on_jobs(tmp_path: Path) -> None:
    found = []
    path = script(tmp_path, LOST_UPDATE)
    for jobs in (1, 2):
        data = call("fuzz", path, "random-small", "--executions", 24, "--jobs", jobs, "--json").json
        for name in ("elapsed_s", "steps_per_s"):
            del data[name]
        found.append(data)
    assert found[0] == found[1]


def test_a_failing_run_stops_it_only_if_asked(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    on = call("fuzz", path, "--executions", 40, "--jobs", 1, "--json").json
    stopped = call("fuzz", path, "--executions", 40, "--jobs", 1, "--stop", "--json").json
    assert (on["stopped_by"], on["runs"]) == ("executions", 40)
    assert (stopped["stopped_by"], stopped["runs"]) == ("failure", on["failures"][0]["first_run"] + 1)


def test_a_store_is_resumed(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    call("fuzz", path, "--executions", 10, "--jobs", 1, "--store", "runs.db")
    answer = call("fuzz", path, "--executions", 30, "--jobs", 1, "--store", "runs.db", "--json")
    assert (answer.json["resumed"], answer.json["runs"]) == (10, 30)
    fresh = call("fuzz", path, "--executions", 30, "--jobs", 1, "--json")
    assert answer.json["failures"] == fresh.json["failures"]
    assert answer.json["counters"] == fresh.json["counters"]


def test_time_limits(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    alone = call("fuzz", path, "--time", "0.2", "--jobs", 1, "--json")
    assert (alone.code, alone.json["stopped_by"], alone.json["verdict"]) == (0, "time", "held")
    cut = call("fuzz", path, "--time", "0.2", "--executions", 10**6, "--jobs", 1)
    assert cut.code == 4
    assert cut.out.startswith("NO VERDICT: ")
    assert "time limit reached" in cut.out


def test_spent_step_budgets_give_no_verdict(tmp_path: Path) -> None:
    words = ["--step-budget", 60, "--executions", 2, "--jobs", 1, "--strategy", "random"]
    answer = call("fuzz", script(tmp_path, ENDLESS), *words)
    assert answer.code == 4
    assert "STEP BUDGET SPENT (no verdict)" in answer.out
    assert "strategy random step_budget=60" in answer.out
    (token,) = (tmp_path / "failures").iterdir()
    assert call("replay", token).code == 4


def test_a_report_names_the_strategy_of_its_run(tmp_path: Path) -> None:
    """Not the portfolio: the token replays the choices of one of its members."""
    answer = call("fuzz", script(tmp_path, LOST_UPDATE), "--executions", 40, "--jobs", 1, "--json")
    (finding,) = answer.json["failures"]
    assert finding["strategy"] in answer.json["strategies"]
    assert f"strategy {finding['strategy']}\n" in answer.err
    assert answer.json["strategy"] == "portfolio"


def test_coverage_and_strategies_are_reported(tmp_path: Path) -> None:
    found = call("fuzz", script(tmp_path, HELD), "--executions", 12, "--jobs", 1, "--json").json
    coverage, strategies = found["coverage"], found["strategies"]
    assert coverage["features"] == sum(coverage["by_kind"].values()) > 20
    assert sum(effort["new_features"] for effort in strategies.values()) == coverage["features"]
    assert sum(effort["runs"] for effort in strategies.values()) == found["runs"] == 12
    assert "race:VMB-R01" in coverage["never_reached"]["race"]


# -- shards --------------------------------------------------------------------------------


def test_shards_merge_to_the_whole_campaign(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    words = ["fuzz", path, "--executions", 21, "--jobs", 1, "--strategy", "pos", "--json"]
    for part in ("1/3", "2/3", "3/3"):
        assert call(*words, "--shard", part, "--store", f"{part[0]}.db").json["runs"] == 7
    whole, both = call(*words), call("merge", "out.db", "1.db", "2.db", "3.db", "--json")
    assert both.code == whole.code == 1
    same = ("runs", "failures", "coverage", "strategies", "targets", "counters", "verdict", "seed", "strategy")
    assert {name: both.json[name] for name in same} == {name: whole.json[name] for name in same}
    assert both.json["stopped_by"] == "merged"
    assert "21 runs, seed 0, strategy pos; put together from stores" in call("merge", "out.db", "1.db").out


def test_merging_what_does_not_belong_together_is_bad_input(tmp_path: Path) -> None:
    path = script(tmp_path, HELD)
    for seed in (1, 2):
        call("fuzz", path, "--executions", 4, "--jobs", 1, "--seed", seed, "--store", f"{seed}.db")
    answer = call("merge", "out.db", "1.db", "2.db")
    assert answer.code == 2
    assert answer.err.startswith("error: 2.db: expected campaign")
    assert not (tmp_path / "out.db").exists()


@pytest.mark.parametrize("text", ["0", "2/1", "a/b"])
def test_what_is_no_shard_is_bad_usage(text: str) -> None:
    answer = call("fuzz", "--shard", text)
    assert answer.code == 2
    assert "expected a shard i/N" in answer.err


def test_a_run_that_hangs_is_named(tmp_path: Path) -> None:
    path = script(tmp_path, "import time\nasync def scenario(world):\n    time.sleep(600)\n")
    answer = call("fuzz", path, "--executions", 3, "--jobs", 1, "--timeout", "0.2")
    assert answer.code == 4
    assert answer.out.startswith("NO VERDICT: 0 runs, seed 0, strategy portfolio; a run did not end\n")
    assert re.search(r"error: run 0 \(toy\.py, seed 0/toy\.py/0, \w+\) did not end within 0\.2 seconds", answer.err)


def test_determinism_is_checked(tmp_path: Path) -> None:
    answer = call("fuzz", script(tmp_path, UNSEEDED), "--check-determinism", "--executions", 10, "--jobs", 1)
    assert answer.code == 1
    assert "ERROR: determinism [trace]" in answer.out
    assert "runs differ at step" in answer.out
    assert call("fuzz", "--check-determinism", "--executions", 12, "--jobs", 1).code == 0


def test_json_is_one_object_on_stdout_and_text_goes_to_stderr(tmp_path: Path) -> None:
    answer = call("fuzz", script(tmp_path, LOST_UPDATE), "--executions", 30, "--jobs", 1, "--json")
    found = answer.json
    assert (found["schema"], found["command"], found["exit"]) == (1, "fuzz", answer.code)
    assert "PROPERTY FAILED" in answer.err
    assert answer.out.count("\n") == 1
    expected = {"kind", "oracle", "rule", "message", "signature", "hash", "timeline", "tasks", "count", "first_run"}
    assert expected <= set(found["failures"][0])
    assert {"retries", "races", "counters", "targets", "runs", "steps", "steps_per_s", "elapsed_s"} <= set(found)


def test_workers_that_die_are_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: object, function: object, calls: object) -> object:
        yield function(*next(calls))  # type: ignore[operator, call-overload]
        raise WorkersDied("worker processes ended abruptly; under way was: runs 1 to 4")

    with monkeypatch.context() as patch:
        patch.setattr("svm_actors.explore.pool.Pool.results", dying)
        answer = call("fuzz", script(tmp_path, HELD), "--executions", 9, "--jobs", 2, "--store", "runs.db")
    assert answer.code == 3
    assert "error: worker processes ended abruptly; under way was: runs 1 to 4" in answer.err
    assert "everything before that is booked" in answer.err
    assert "NO VERDICT: 1 runs" in answer.out
    again = call("fuzz", script(tmp_path, HELD), "--executions", 9, "--jobs", 1, "--store", "runs.db")
    assert "runs 9 (1 from the store)" in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "unknown target 'nosuch'; expected one of: default,"),
        (["strace:none.strace"], "none.strace: expected a file, got no such file"),
        (["none.py"], "none.py: expected a scenario script, got no such file or directory"),
        (["--bug", "svm-b50"], "unknown bug 'svm-b50'; did you mean SVM-B50"),
        (["--store", "nowhere/runs.db"], "nowhere/runs.db: expected a store of svm-actors"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str) -> None:
    answer = call("fuzz", *words, "--executions", 1, "--jobs", 1)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1
    assert answer.out == ""


@pytest.mark.parametrize(
    "words", [["--executions", "0"], ["--time", "-1"], ["--jobs", "none"], ["--strategy", "psychic"], ["--what"]]
)
def test_bad_usage_is_code_2(words: list[str]) -> None:
    answer = call("fuzz", *words)
    assert answer.code == 2
    assert "Usage:" in answer.err


def test_as_a_process(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    ones = [
        call_process("fuzz", path, "--executions", 30, "--jobs", jobs, "--json", hash_seed=seed, cwd=tmp_path)
        for jobs, seed in ((1, "1"), (2, "2"))
    ]
    assert [one.code for one in ones] == [1, 1]
    assert ones[0].json["failures"] == ones[1].json["failures"]
    assert "Traceback" not in ones[0].err + ones[1].err
