"""Results as JSON objects with stable field names.

Every object a command prints has ``schema``, ``command`` and ``exit``.  Fields may be added within
a schema version; none is renamed, and none changes its meaning.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from svm_actors.explore.campaign import Campaign, Finding
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run
from svm_actors.report.summary import races, retries, steps_per_second

SCHEMA: Final = 1


def failure_json(failure: Failure) -> dict[str, Any]:
    """One failure."""
    return {
        "kind": failure.kind,
        "oracle": failure.oracle,
        "rule": failure.rule,
        "message": failure.message,
        "signature": failure.signature,
        "hash": failure.hash,
        "timeline": [attrs.asdict(step) for step in failure.timeline],
        "tasks": [attrs.asdict(task) for task in failure.tasks],
    }


def run_json(run: Run) -> dict[str, Any]:
    """One run."""
    return {
        "target": run.subject.name,
        "scenario_digest": run.subject.digest,
        "config_digest": run.subject.config_digest,
        "seed": run.seed,
        "strategy": str(run.settings),
        "bugs": list(run.bugs),
        "backend": run.backend,
        "ok": run.ok,
        "steps": run.steps,
        "choices": len(run.tape),
        "virtual_time_ns": run.virtual_time,
        "trace_digest": run.trace_digest,
        "elapsed_s": run.elapsed,
        "counters": run.counters,
        "failure": None if run.failure is None else failure_json(run.failure),
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """One failure of a campaign, with the run that first showed it."""
    found = finding.found
    return {
        **failure_json(found.failure),
        "count": finding.count,
        "first_run": found.number,
        "target": found.target,
        "seed": found.seed,
        "strategy": found.strategy,
        "token": found.token,
    }


def campaign_json(campaign: Campaign) -> dict[str, Any]:
    """A whole campaign."""
    plan, counters = campaign.plan, campaign.counters
    return {
        "ok": campaign.ok,
        "verdict": campaign.verdict,
        "seed": plan.seed,
        "strategy": str(plan.settings),
        "bugs": list(plan.bugs),
        "stopped_by": campaign.stopped_by,
        "runs": campaign.runs,
        "resumed": campaign.resumed,
        "failing_runs": campaign.failing_runs,
        "steps": campaign.steps,
        "steps_per_s": steps_per_second(campaign),
        "elapsed_s": campaign.elapsed,
        "worker_restarts": campaign.restarts,
        "retries": retries(counters),
        "races": races(counters),
        "counters": {name: counters[name] for name in sorted(counters)},
        "targets": {
            name: {"runs": tally.runs, "steps": tally.steps, "failing_runs": tally.failed}
            for name, tally in campaign.tallies.items()
        },
        "strategies": {
            name: {
                "runs": effort.runs,
                "steps": effort.steps,
                "failing_runs": effort.failed,
                "new_features": effort.new_features,
            }
            for name, effort in campaign.strategies.items()
        },
        "coverage": {
            "features": len(campaign.coverage),
            "by_kind": campaign.reached.by_kind(),
            "never_reached": {kind: list(names) for kind, names in campaign.reached.missing().items()},
        },
        "note": campaign.note,
        "failures": [finding_json(finding) for finding in campaign.failures],
    }
