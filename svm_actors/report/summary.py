"""What a campaign did, as text: runs and rates, why GPU faults were retried, what moved, races hit."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from svm_actors.explore.campaign import Campaign, Finding
from svm_actors.report.timeline import WIDTH, ascii_text, shorten

RACE: Final = re.compile(r"(?:SVM|PGM|MM|VMB|FEN)-R\d+")
"""Ids of race windows."""
RETRY: Final = "gpu.retry."
"""Counters of GPU fault retries begin so; the rest is the cause."""
MEMORY: Final = (
    ("GPU faults", "gpu.fault"),
    ("CPU faults", "cpu.fault"),
    ("migrations to VRAM", "migrate.to_vram"),
    ("migrations to RAM", "migrate.to_ram"),
    ("mirror migrations to device", "mirror.migrate.to_dev"),
    ("mirror pages moved to RAM", "mirror.migrate.to_ram"),
    ("evictions", "evict"),
    ("partial migrations", "migrate.partial"),
)
"""Statistics of every summary: words and counter."""
_ENDS: Final = {
    "executions": "all runs made",
    "time": "time limit reached",
    "failure": "stopped at the first failure",
    "interrupt": "interrupted",
    "workers": "worker processes died",
}


def retries(counters: Counter[str]) -> dict[str, int]:
    """Retries of GPU faults by cause, the most frequent first."""
    found = {name.removeprefix(RETRY): value for name, value in counters.items() if name.startswith(RETRY)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def races(counters: Counter[str]) -> dict[str, int]:
    """Race windows really hit, by id."""
    return {name: counters[name] for name in sorted(counters) if RACE.fullmatch(name)}


def steps_per_second(campaign: Campaign) -> float:
    """Rate of the runs made now; those taken from a store took no time."""
    made = campaign.runs - campaign.resumed
    share = made / campaign.runs if campaign.runs else 0.0
    return campaign.steps * share / campaign.elapsed if campaign.elapsed else 0.0


def summary_text(campaign: Campaign) -> str:
    """The whole summary, without a newline at the end."""
    counters = campaign.counters
    lines = [_head(campaign), *_failures(campaign), "", _rates(campaign), ""]
    lines += [f"  {words:<28} {counters[name]:>10}" for words, name in MEMORY]
    lines += ["", *_named("GPU fault retries by cause", retries(counters))]
    found = races(counters)
    lines += ["", *_columns(f"race windows hit: {len(found)}", found)]
    lines += ["", *_per_target(campaign)]
    return "\n".join(lines)


def finding_line(finding: Finding) -> str:
    """One finding in one line."""
    failure = finding.failure
    times = "once" if finding.count == 1 else f"{finding.count} times"
    text = ascii_text(f"{failure.hash}  {times}, first in run {finding.found.number}: {failure.headline}")
    return text if len(text) <= WIDTH - 2 else f"{text[: WIDTH - 4]}.."


def _head(campaign: Campaign) -> str:
    plan = campaign.plan
    verdict = {"held": "HELD", "failed": "FAILED", "none": "NO VERDICT"}[campaign.verdict]
    bugs = f", bugs {' '.join(plan.bugs)}" if plan.bugs else ""
    end = _ENDS[campaign.stopped_by]
    return f"{verdict}: {campaign.runs} runs, seed {plan.seed}, strategy {plan.settings}{bugs}; {end}"


def _failures(campaign: Campaign) -> list[str]:
    if not campaign.findings:
        return []
    head = f"failing runs: {campaign.failing_runs}, different failures: {len(campaign.findings)}"
    return [head, *(f"  {finding_line(finding)}" for finding in campaign.failures)]


def _rates(campaign: Campaign) -> str:
    resumed = f" ({campaign.resumed} from the store)" if campaign.resumed else ""
    rate = steps_per_second(campaign)
    return f"runs {campaign.runs}{resumed}, steps {campaign.steps}, {rate:.0f} steps/s, {campaign.elapsed:.1f} s"


def _named(title: str, values: dict[str, int]) -> list[str]:
    return [f"{title}: {sum(values.values())}", *(f"  {name:<28} {value:>10}" for name, value in values.items())]


def _columns(title: str, values: dict[str, int], across: int = 4) -> list[str]:
    cells = [f"{name:<9}{value:>9}" for name, value in values.items()]
    return [title, *("  " + "    ".join(cells[at : at + across]) for at in range(0, len(cells), across))]


def _per_target(campaign: Campaign) -> list[str]:
    """Runs, steps and failing runs of each target."""
    rows = [
        f"{shorten(ascii_text(name), 40):<40} {tally.runs:>8} {tally.steps:>10} {tally.failed:>8}"
        for name, tally in campaign.tallies.items()
    ]
    return [f"{'target':<40} {'runs':>8} {'steps':>10} {'failing':>8}", *rows]
