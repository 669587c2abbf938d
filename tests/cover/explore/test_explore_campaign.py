"""Campaigns: what they find depends on the plan, not on who does the work."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from explore_toys import ENDLESS, HELD, LOST_UPDATE, UNSEEDED, endless, held, lost_update, refused, script, stuck

import svm_actors
from svm_actors import __version__
from svm_actors.explore.campaign import EXECUTIONS, Campaign, Finding, fuzz
from svm_actors.explore.plan import Plan, VersionMismatch, resolved
from svm_actors.explore.run import replay
from svm_actors.explore.settings import Settings, UnknownName
from svm_actors.explore.targets import UnknownTarget, subject_named
from svm_actors.explore.token import decode
from svm_actors.explore.worker import Batch, Share, run_batch
from svm_actors.workload.formats import BadInput


def consecutive(plan: Plan, first: int, count: int, strategy: str = "random") -> Batch:
    """The batch of runs ``first`` to ``first + count - 1``."""
    return run_batch(plan, Share(tuple(range(first, first + count)), (strategy,) * count))


def facts(campaign: Campaign) -> dict[str, Any]:
    """Everything that two equal campaigns agree on."""
    return {
        "tallies": campaign.tallies,
        "findings": {
            signature: (finding.count, finding.found) for signature, finding in campaign.findings.items()
        },
        "order": list(campaign.findings),
        "coverage": campaign.coverage,
        "strategies": campaign.strategies,
        "verdict": campaign.verdict,
    }


def test_a_campaign_counts_what_it_did() -> None:
    campaign = fuzz([held, lost_update], executions=20, seed=1)
    assert campaign.runs == 20
    assert [(name, tally.runs) for name, tally in campaign.tallies.items()] == [
        ("explore_toys:held", 10),
        ("explore_toys:lost_update", 10),
    ]
    assert campaign.steps == sum(tally.steps for tally in campaign.tallies.values()) > 0
    assert campaign.counters["gpu.fault"] > 0
    assert campaign.tallies["explore_toys:lost_update"].failed == campaign.failing_runs > 0
    assert campaign.tallies["explore_toys:held"].failed == 0


def test_failures_of_one_class_are_one_finding_with_the_first_run() -> None:
    campaign = fuzz([lost_update, refused], executions=30, strategy="random")
    lost, errno = sorted(campaign.failures, key=lambda finding: finding.failure.kind, reverse=True)
    assert (errno.failure.rule, errno.count) == ("EINVAL", 15)
    assert lost.failure.rule == "assert"
    assert 1 <= lost.count < 15
    assert lost.found.number == min(
        number
        for number in range(0, 30, 2)
        if not svm_actors.run(lost_update, strategy="random", seed=f"0/explore_toys:lost_update/{number}").ok
    )
    assert campaign.verdict == "failed"
    assert not campaign.ok


def test_a_findings_token_replays_it(tmp_path: Path) -> None:
    (finding,) = fuzz(script(tmp_path, LOST_UPDATE), executions=30).failures
    known = decode(finding.found.token)
    assert known.trace, "the confirming run took the digest of the trace"
    again = replay(subject_named(known.target), known)
    assert again.failure == finding.failure
    assert again.trace_digest == known.trace


def test_the_same_plan_finds_the_same_on_one_process_and_on_two(tmp_path: Path) -> None:
    sources = [script(tmp_path, HELD, "held.py"), script(tmp_path, LOST_UPDATE, "lost.py"), "random-small"]
    ones = [fuzz(sources, executions=90, seed=5, jobs=jobs) for jobs in (1, 2)]
    assert facts(ones[0]) == facts(ones[1])
    assert ones[0].findings


def test_an_executor_of_the_callers_does_the_work_and_stays_open() -> None:
    with ThreadPoolExecutor(1) as executor:
        campaign = fuzz(lost_update, executions=12, executor=executor)
        assert executor.submit(int, "3").result() == 3
    assert facts(campaign) == facts(fuzz(lost_update, executions=12))


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_the_same_campaign(make: Any, tmp_path: Path) -> None:
    target = script(tmp_path, LOST_UPDATE)
    with make(2) as executor:
        campaign = fuzz([target, "random-small"], executions=24, executor=executor)
    assert facts(campaign) == facts(fuzz([target, "random-small"], executions=24))


def test_a_worker_of_another_version_is_refused() -> None:
    plan = attrs.evolve(resolved(Plan((held,), "0", Settings("random"))), package="0.0.1")
    words = rf"planned by svm-actors 0\.0\.1, but process \d+ on .* has {__version__}"
    with pytest.raises(VersionMismatch, match=words):
        consecutive(plan, 0, 1)


def test_a_run_that_hangs_is_named_and_what_was_before_it_is_kept(tmp_path: Path) -> None:
    hanging = "import time\nasync def scenario(world):\n    if world.choose(12, 'toy') == 7:\n        time.sleep(600)\n"
    path = script(tmp_path, hanging, "hangs.py")
    bad = next(
        number
        for number in range(100)
        if svm_actors.run(chooses, strategy="random", seed=f"0/{path}/{number}").tape[-1] == 7
    )
    campaign = fuzz(path, executions=100, strategy="random", timeout=0.5, store="runs.db")
    assert (campaign.stopped_by, campaign.runs, campaign.verdict) == ("hang", bad, "none")
    assert campaign.note.startswith(f"run {bad} ({path}, seed 0/{path}/{bad}, random) did not end within")
    assert fuzz(path, executions=bad, strategy="random", store="runs.db").resumed == bad


async def chooses(world: svm_actors.World) -> None:
    world.choose(12, "toy")


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_batches_can_be_cut_anywhere(cut: int) -> None:
    plan = resolved(Plan((lost_update, held), "0", Settings("random")))
    whole = consecutive(plan, 0, 20)
    parts = [consecutive(plan, 0, cut), consecutive(plan, cut, 20 - cut)]
    assert [record for part in parts for record in part.records] == list(whole.records)
    together, apart = Campaign(plan), Campaign(plan)
    together.add(whole)
    for part in parts:
        apart.add(part)
    assert facts(together) == facts(apart)


def test_seeds_differ_and_matter() -> None:
    digests = [
        tuple(record.digest for record in consecutive(resolved(Plan((held,), seed, Settings("random"))), 0, 5).records)
        for seed in ("1", "2")
    ]
    assert digests[0] != digests[1]
    assert len(set(digests[0])) == 5


def test_it_stops_at_the_first_failure_if_asked(tmp_path: Path) -> None:
    path = script(tmp_path, LOST_UPDATE)
    ones = [fuzz(path, executions=500, jobs=jobs, stop_at_failure=True) for jobs in (1, 2)]
    for one in ones:
        (finding,) = one.failures
        assert one.stopped_by == "failure"
        assert one.runs == finding.found.number + 1
    assert facts(ones[0]) == facts(ones[1])


def test_a_planted_bug_is_found() -> None:
    campaign = fuzz(bugs=["SVM-B50"], executions=300, stop_at_failure=True)
    assert campaign.verdict == "failed"
    assert decode(campaign.failures[0].found.token).bugs == ("SVM-B50",)


def test_the_correct_model_holds() -> None:
    assert fuzz(executions=60, seed="cover").verdict == "held"


# -- limits --------------------------------------------------------------------------------


def test_time_ends_a_campaign() -> None:
    begin = time.monotonic()
    campaign = fuzz(held, seconds=0.3)
    assert time.monotonic() - begin < 10
    assert campaign.stopped_by == "time"
    assert campaign.runs > 0
    assert campaign.verdict == "held"


def test_what_time_cuts_short_is_no_verdict() -> None:
    campaign = fuzz(held, executions=10**6, seconds=0.2)
    assert (campaign.stopped_by, campaign.verdict, campaign.ok) == ("time", "none", True)


def test_the_default_limit_is_a_thousand_runs_and_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EXECUTIONS >= 1000
    monkeypatch.setattr("svm_actors.explore.campaign.EXECUTIONS", 3)
    campaign = fuzz(held)
    assert (campaign.runs, campaign.limit) == (3, 3)


def test_spent_step_budgets_are_no_verdict() -> None:
    campaign = fuzz(endless, executions=2, step_budget=40)
    assert campaign.verdict == "none"
    assert campaign.failures[0].failure.kind == "budget"


def test_an_interrupt_keeps_what_was_made() -> None:
    def stop(campaign: Campaign) -> None:
        if campaign.runs >= 5:
            raise KeyboardInterrupt

    campaign = fuzz(held, executions=1000, progress=stop)
    assert campaign.stopped_by == "interrupt"
    assert 5 <= campaign.runs < 1000
    assert campaign.verdict == "none"


# -- telling -------------------------------------------------------------------------------


def test_findings_and_progress_are_told_as_they_come() -> None:
    told: list[Finding] = []
    done: list[int] = []
    campaign = fuzz(
        [stuck, refused], executions=30, on_failure=told.append, progress=lambda now: done.append(now.runs)
    )
    assert told == campaign.failures
    assert done == sorted(set(done))
    assert done[-1] == 30


# -- determinism ---------------------------------------------------------------------------


def test_a_scenario_that_is_not_deterministic_is_found(tmp_path: Path) -> None:
    campaign = fuzz(script(tmp_path, UNSEEDED), executions=20, check_determinism=True)
    failures = [finding.failure for finding in campaign.failures]
    assert {failure.oracle for failure in failures} == {"determinism"}
    assert any("runs differ at step" in failure.message for failure in failures)


def test_one_run_in_a_thousand_is_checked_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("svm_actors.explore.campaign.CHECK_EVERY", 4)
    campaign = fuzz(script(tmp_path, UNSEEDED), executions=60)
    assert {finding.failure.oracle for finding in campaign.failures} == {"determinism"}
    assert 0 < campaign.failing_runs <= 15


def test_checking_determinism_of_a_deterministic_mix_finds_nothing() -> None:
    assert fuzz(executions=25, strategy="random", check_determinism=True).verdict == "held"


def test_a_failure_that_does_not_come_back_is_reported_as_that(tmp_path: Path) -> None:
    text = "import os\nasync def scenario(world):\n    assert os.urandom(1)[0] % 2, 'odd'\n"
    campaign = fuzz(script(tmp_path, text), executions=60)
    found = {finding.failure.oracle: finding.failure.message for finding in campaign.failures}
    assert "does not fail the same from its own choices" in found["determinism"]


# -- misuse --------------------------------------------------------------------------------


def test_mistakes_are_found_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        fuzz(held, strategy="psychic")
    with pytest.raises(UnknownName):
        fuzz(held, bugs=["SVM-B"])
    with pytest.raises(UnknownTarget):
        fuzz("nosuch")
    with pytest.raises(BadInput):
        fuzz(script(tmp_path, "x = 1"))
    with pytest.raises(TypeError):
        fuzz([3])  # type: ignore[list-item]


def test_scripts_with_mistakes_do_not_reach_other_processes(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        fuzz([script(tmp_path, ENDLESS), script(tmp_path, "1 / 0", "bad.py")], jobs=2, executions=2)
