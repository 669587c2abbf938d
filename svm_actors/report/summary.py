"""What a campaign did, as text: runs and rates, why GPU faults were retried, what moved, races hit,
what was covered and what never was, what each strategy was good for."""

from __future__ import annotations

import re
import textwrap
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
NAMED: Final = 24
"""Names of what was never reached that are shown of each kind; the JSON object has all."""
_ENDS: Final = {
    "executions": "all runs made",
    "time": "time limit reached",
    "failure": "stopped at the first failure",
    "interrupt": "interrupted",
    "workers": "worker processes died",
    "hang": "a run did not end",
    "merged": "put together from stores",
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
    lines += ["", *_coverage(campaign)]
    lines += ["", *_per_strategy(campaign), "", *_per_target(campaign)]
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


def _coverage(campaign: Campaign) -> list[str]:
    """How much of each kind was exercised, and what of the kinds that are fully known never was."""
    reached = campaign.reached
    cells = [f"{kind} {count}" for kind, count in reached.by_kind().items()]
    lines = [f"coverage: {len(campaign.coverage)} features", *_filled(cells)]
    for kind, names in reached.missing().items():
        if names:
            plain = [name.partition(":")[2] for name in names]
            lines += [f"{kind}s never reached: {len(names)}", *_filled(plain, NAMED)]
    return lines


def _filled(words: list[str], most: int | None = None) -> list[str]:
    """Words side by side, at most so many of them."""
    shown = words[:most]
    rest = [f"and {len(words) - len(shown)} more"] if len(shown) < len(words) else []
    return textwrap.wrap(", ".join(shown + rest), WIDTH, initial_indent="  ", subsequent_indent="  ")


def _per_strategy(campaign: Campaign) -> list[str]:
    """Runs, steps, failing runs and first sights of each strategy."""
    head = f"{'strategy':<40} {'runs':>8} {'steps':>10} {'failing':>8} {'new features':>13}"
    return [
        head,
        *(
            f"{name:<40} {effort.runs:>8} {effort.steps:>10} {effort.failed:>8} {effort.new_features:>13}"
            for name, effort in campaign.strategies.items()
        ),
    ]


def _per_target(campaign: Campaign) -> list[str]:
    """Runs, steps and failing runs of each target."""
    rows = [
        f"{shorten(ascii_text(name), 40):<40} {tally.runs:>8} {tally.steps:>10} {tally.failed:>8}"
        for name, tally in campaign.tallies.items()
    ]
    return [f"{'target':<40} {'runs':>8} {'steps':>10} {'failing':>8}", *rows]
