"""Reports that people paste: narrow, plain, and in the order they are read."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.explore.campaign import Campaign, Finding
from svm_actors.explore.failure import Failure, Pending, Step
from svm_actors.explore.plan import Plan
from svm_actors.explore.settings import Settings
from svm_actors.explore.worker import Batch, Found, Reach, RunRecord, Tally
from svm_actors.report.as_json import campaign_json
from svm_actors.report.summary import finding_line, races, retries, summary_text
from svm_actors.report.timeline import WIDTH, Origin, failure_text, shorten, timeline

STEPS = tuple(Step(number, f"main/t{number % 3}", f"lock mm{number}.mmap_lock") for number in range(11, 111))
FAILURE = Failure(
    "property",
    "coherence",
    "INV-08",
    "page 0x12 reads b'a'\n  but b'b' was written",
    STEPS,
    (Pending("main", "join main/nursery.0", "blocked"), Pending("main/t1", "local", "running")),
)
ORIGIN = Origin("toy.py", "7", "random", ("SVM-B50",))


def test_the_whole_report() -> None:
    failure = Failure(FAILURE.kind, FAILURE.oracle, FAILURE.rule, FAILURE.message, STEPS[:2], FAILURE.tasks)
    assert failure_text(failure, ORIGIN, "svm-actors replay x.token").splitlines() == [
        "PROPERTY FAILED: coherence [INV-08]",
        "  page 0x12 reads b'a'",
        "    but b'b' was written",
        "",
        "target   toy.py",
        "seed     7",
        "strategy random",
        "bugs     SVM-B50",
        "",
        "last 2 steps (10 before them)",
        "    step  task                                    op",
        "      11  main/t2                                 lock mm11.mmap_lock",
        "      12  main/t0                                 lock mm12.mmap_lock",
        "",
        "where the tasks stood",
        "   state  task                                    op",
        " blocked  main                                    join main/nursery.0",
        " running  main/t1                                 local",
        "",
        "replay:",
        "  svm-actors replay x.token",
    ]


def test_only_the_last_steps_are_shown() -> None:
    lines = timeline(STEPS, 3)
    assert lines[0] == "last 3 steps (107 before them)"
    assert [line.split()[0] for line in lines[2:]] == ["108", "109", "110"]
    assert timeline(STEPS[:1], 3)[0] == "last 1 steps (10 before them)"


def test_a_run_that_failed_before_its_first_step() -> None:
    text = failure_text(Failure("error", "scenario", "KeyError", "KeyError: 'x'"), Origin("t", "0", "fifo"))
    assert text.splitlines()[-1] == "bugs     none planted"


anything = st.text(max_size=300)


@given(anything, anything, anything, anything)
def test_whatever_it_says_it_is_narrow_ascii(message: str, task: str, op: str, name: str) -> None:
    failure = Failure("error", "scenario", "X", message, (Step(1, task, op),), (Pending(task, op, "ready"),))
    text = failure_text(failure, Origin(name, name, name, (name,)), "svm-actors replay x")
    assert text.isascii()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert max(map(len, text.split("\n"))) <= WIDTH


def test_a_replay_line_is_never_broken() -> None:
    command = "svm-actors replay " + "x" * 200
    assert failure_text(FAILURE, ORIGIN, command).splitlines()[-1] == f"  {command}"


@given(st.text("abc/", max_size=80), st.integers(6, 60))
def test_shortening_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    if len(text) <= width:
        assert short == text
    else:
        first, _, last = short.partition("..")
        assert len(first) + len(last) == width - 2
        assert text.startswith(first)
        assert text.endswith(last)


# -- campaigns -----------------------------------------------------------------------------

COUNTERS = Counter(
    {
        "gpu.retry.scan": 3,
        "gpu.retry.bind": 9,
        "SVM-R02": 4,
        "MM-R07": 1,
        "HM-D12": 5,
        "gpu.fault": 12,
        "cpu.fault": 7,
        "migrate.to_vram": 2,
        "migrate.to_vram.busy": 8,
        "evict": 6,
    }
)


def campaign(*failures: Failure) -> Campaign:
    found = Campaign(Plan(("toy",), "5", Settings("random"), ("SVM-B50",)), limit=10)
    found.tallies = {"toy": Tally(10, 500, len(failures), COUNTERS)}
    found.elapsed = 2.0
    for number, failure in enumerate(failures):
        found.findings[failure.signature] = Finding(Found(number, "toy", "5/toy/0", failure, "token"), number + 1)
    return found


def test_retries_are_by_cause_the_most_frequent_first() -> None:
    assert list(retries(COUNTERS).items()) == [("bind", 9), ("scan", 3)]


def test_only_race_ids_are_race_windows() -> None:
    assert races(COUNTERS) == {"MM-R07": 1, "SVM-R02": 4}


def test_a_summary_has_every_number() -> None:
    text = summary_text(campaign())
    assert text.startswith("HELD: 10 runs, seed 5, strategy random, bugs SVM-B50; all runs made\n")
    assert "runs 10, steps 500, 250 steps/s, 2.0 s" in text
    squeezed = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "GPU faults 12",
        "CPU faults 7",
        "migrations to VRAM 2",
        "migrations to RAM 0",
        "evictions 6",
        "partial migrations 0",
        "GPU fault retries by cause: 12",
        "bind 9",
        "race windows hit: 2",
        "MM-R07 1 SVM-R02 4",
        "toy 10 500 0",
    ):
        assert line in squeezed


def test_coverage_and_strategies_are_tables() -> None:
    found = campaign()
    found.coverage = {
        "race:SVM-R02": Reach(3, "pos", 4),
        "pte:none>present": Reach(1, "pct", 9),
        "pte:present>none": Reach(1, "pct", 2),
    }
    records = [RunRecord(number, "toy", "seed", "pos", "held", 40, "digest") for number in range(2)]
    found.add(Batch((*records, RunRecord(2, "toy", "seed", "pct", "held", 5, "digest")), {}, (), {}, 0.1))
    squeezed = [" ".join(line.split()) for line in summary_text(found).splitlines()]
    at = squeezed.index("coverage: 3 features")
    assert squeezed[at + 1] == "pte 2, race 1"
    assert re.fullmatch(r"races never reached: \d+", squeezed[at + 2])
    assert "and " in " ".join(squeezed[at + 3 : at + 8])
    at = squeezed.index("strategy runs steps failing new features")
    assert squeezed[at + 1 : at + 3] == ["pct 1 5 0 2", "pos 2 80 0 1"]
    assert max(map(len, summary_text(found).splitlines())) <= WIDTH
    data = campaign_json(found)
    assert data["coverage"]["by_kind"] == {"pte": 2, "race": 1}
    assert "race:SVM-R02" not in data["coverage"]["never_reached"]["race"]
    assert data["strategies"]["pos"] == {"runs": 2, "steps": 80, "failing_runs": 0, "new_features": 1}


def test_a_summary_names_the_failures_in_order() -> None:
    other = Failure("deadlock", "engine", "deadlock", "stuck " * 50)
    text = summary_text(campaign(FAILURE, other))
    assert text.startswith("FAILED: 10 runs")
    assert "failing runs: 3, different failures: 2" in text
    assert text.index("once, first in run 0: coherence [INV-08]: page 0x12") < text.index("2 times, first in run 1")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert finding_line(campaign(other).failures[0]).endswith("..")


@pytest.mark.parametrize(
    ("stop", "runs", "head"),
    [("interrupt", 4, "NO VERDICT: 4 runs"), ("time", 0, "NO VERDICT: 0 runs"), ("workers", 4, "NO VERDICT: 4 runs")],
)
def test_a_campaign_that_was_cut_short_says_so(stop: str, runs: int, head: str) -> None:
    found = campaign()
    found.tallies["toy"].runs = runs
    found.stopped_by = stop  # type: ignore[assignment]
    assert summary_text(found).startswith(head)


def test_rates_leave_out_what_came_from_the_store() -> None:
    found = campaign()
    found.resumed = 5
    assert "runs 10 (5 from the store), steps 500, 125 steps/s" in summary_text(found)


def test_json_has_the_same_numbers() -> None:
    found = campaign_json(campaign(FAILURE))
    assert (found["runs"], found["steps"]) == (10, 500)
    assert (found["races"], found["retries"]) == (races(COUNTERS), retries(COUNTERS))
    assert found["failures"][0]["timeline"][0] == {"number": 11, "task": "main/t2", "op": "lock mm11.mmap_lock"}
    assert found["targets"] == {"toy": {"runs": 10, "steps": 500, "failing_runs": 1}}
