"""docs/suspected.md: every suspicion with its verdict."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks._suspicion import SEEDS, Finding, Suspicion, Verdict

WIDTH: Final = 120
HEAD: Final = """# Suspected issues of Linux 7.3.4

Places where a reading of the source of 7.3.4 suggests that something may go wrong.
Nobody has reproduced any of them on a kernel, and none has been reported: each entry is a hypothesis about the kernel,
and what is shown is what this model does.
A model that reaches a bad state says that the hypothesis is consistent with what the model took over from the source;
whether the kernel does the same is for somebody with that kernel to find out.

The verdicts:

* *reached*: a run of the model ends in the bad state; either the model does here as 7.3.4 is suspected to do, or it is
  mended and the suspected behaviour is planted (`--bug`), or the scenario puts it in place.
* *not reached*: no schedule of the search did.
* *not modelled*: what it needs is not there.

Searches use the default portfolio with the seeds 1, 2 and 3.
Runs are shrunk for a few seconds each, so some may not be as small as they get; the chart shows the end of each, and
the line below it replays it from the folder of the project.
`python -m benchmarks suspected` makes this page.
"""


def verdict_of(suspicion: Suspicion, found: Finding | None) -> Verdict:
    """Of one."""
    if suspicion.reason or found is None:
        return "not modelled"
    return "reached" if found.reached else "not reached"


def page_text(suspicions: Mapping[str, Suspicion], found: Mapping[str, Finding]) -> str:
    """The whole page."""
    lines = [*HEAD.splitlines(), "", "| id | suspicion | verdict | suspected behaviour |", "|---|---|---|---|"]
    for each in suspicions.values():
        searched = suspicions[each.same or each.id]
        verdict = verdict_of(each, found.get(searched.id))
        how = "" if verdict == "not modelled" else searched.how
        lines.append(f"| [{each.id}](#{anchor(each)}) | {each.title} | {verdict} | {how} |")
    for each in suspicions.values():
        lines += _entry(each, suspicions, found)
    return "\n".join(lines) + "\n"


def anchor(suspicion: Suspicion) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^a-z0-9_ -]", "", heading(suspicion).lower()).replace(" ", "-")


def heading(suspicion: Suspicion) -> str:
    """Id and title."""
    return f"{suspicion.id}: {suspicion.title}"


def _entry(suspicion: Suspicion, suspicions: Mapping[str, Suspicion], found: Mapping[str, Finding]) -> Iterator[str]:
    yield from ("", f"## {heading(suspicion)}", "")
    yield from _paragraph(f"Hypothesis: {suspicion.hypothesis}")
    yield from _paragraph(f"Modelled: {suspicion.model}")
    if suspicion.reason:
        yield from _verdict(f"Verdict: not modelled.  {suspicion.reason}")
    elif suspicion.same:
        other = suspicions[suspicion.same]
        verdict = verdict_of(suspicion, found.get(other.id))
        yield from _verdict(f"Verdict: {verdict}, by the search of [{other.id}](#{anchor(other)}).")
    elif suspicion.id in found:
        yield from _finding(suspicion, found[suspicion.id])
    else:
        yield "Verdict: not searched yet."


def number_of(count: int, noun: str) -> str:
    """``no noun``, ``1 noun``, ``2 nouns``."""
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _paragraph(text: str) -> list[str]:
    return [*_verdict(text), ""]


def _verdict(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False, fix_sentence_endings=False)


def _also(finding: Finding) -> str:
    if not finding.explored:
        return ""
    return f"  Nor in any schedule without a preemption, of which there are {finding.explored} classes."


def _finding(suspicion: Suspicion, finding: Finding) -> Iterator[str]:
    planted = f", with `{suspicion.bug}` planted" if suspicion.bug else ""
    where = f"`{suspicion.searched}`{planted}"
    counts = ", ".join(f"{number:,} (seed {seed})" for seed, number in zip(SEEDS, finding.schedules, strict=True))
    if not finding.reached:
        yield from _verdict(f"Verdict: not reached in {where}.  Schedules that were made: {counts}.{_also(finding)}")
        return
    yield from _paragraph(f"Verdict: reached in {where}.  Schedules up to the first that shows it: {counts}.")
    operations = f"{finding.operations} operations, " if finding.operations else ""
    choices = f"{number_of(finding.choices, 'schedule choice')} ({number_of(finding.preemptions, 'preemption')})"
    yield from _paragraph(f"Shrunk: {operations}{choices}, {finding.steps} steps.  Noticed by `{finding.noticed}`:")
    yield from ("```", *textwrap.wrap(finding.message, WIDTH), "```", "")
    yield from ("```mermaid", *finding.chart.splitlines(), "```", "")
    yield from ("```", f"svm-actors replay '{finding.token}'", "```")
