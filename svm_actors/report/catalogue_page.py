"""One page of the catalogue as Markdown: what an id is about, and where its guard, window, bugs and checks are.

What was measured of a bug (schedules to the first failing run, a shrunk run as a chart) is given; everything else is
read from the catalogue.  Links lead to files, not to lines, so that a page changes only when what it says does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from svm_actors.bugs import BUGS
from svm_actors.catalogue import Entry
from svm_actors.catalogue.sources import Cited
from svm_actors.report.titles import title

ROOT: Final = "../.."
"""From the folder of the pages to that of the project."""


@attrs.frozen
class Measured:
    """What was measured of one planted bug."""

    seeds: tuple[str, ...]
    """Seeds of the hunts in the built-in mix."""
    runs: tuple[int, ...]
    """Schedules each of them made, up to and including the failing one."""
    noticed: str
    """``oracle/rule`` of the shrunk run."""
    target: str
    """What the shrunk run runs."""
    operations: int
    """Operations left of it; 0 for a scenario, which has none."""
    choices: int
    """Schedule choices left."""
    preemptions: int
    """How many of them take the processor away."""
    steps: int
    """Steps of the run."""
    token: str
    """Its replay."""
    chart: str
    """Its end as a sequence chart."""


def page(entry: Entry, measured: tuple[str, Measured] | None, tests: Iterable[str]) -> str:
    """The whole page; ``measured`` of its bug or of one that opens its window; ``tests`` are files that name the id."""
    lines = [f"# {entry.id}", "", f"{entry.kind.capitalize()}: {entry.text or title(entry.id)}."]
    if entry.id in BUGS:
        bug = BUGS[entry.id]
        if bug.title != entry.text:
            lines += ["", f"Planted: {bug.title}."]
        lines += ["", f"Removes `{bug.removes}`.  Noticed by {', '.join(f'`{one}`' for one in bug.oracles)}."]
        lines += ["", f"Story: `{bug.story}`."]
    if entry.where:
        lines += ["", f"Digest: {entry.where}."]
    if entry.reason:
        lines += ["", f"Not modelled: {entry.reason}."]
    lines += _places("Guards", entry.guards)
    lines += _places("Counted", entry.windows)
    lines += _places("Oracles", entry.checks)
    others = [bug for bug in entry.bugs if bug != entry.id]
    lines += _links("Bugs that open its window", others)
    if entry.id in BUGS:
        lines += _links("Races whose window it opens", [race for race in BUGS[entry.id].races if race != entry.id])
    lines += _list("Tests that name it", [f"[{test}]({ROOT}/{test})" for test in tests])
    if measured is not None:
        lines += _measured(entry, *measured)
    return "\n".join(lines) + "\n"


def _list(head: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {head}", "", *(f"* {item}" for item in items)] if items else []


def _places(head: str, places: Sequence[Cited]) -> list[str]:
    named = dict.fromkeys((place.file, place.name) for place in places)
    return _list(head, [f"`{name}` in [{file}]({ROOT}/svm_actors/{file})" for file, name in named])


def _links(head: str, names: Sequence[str]) -> list[str]:
    return _list(head, [f"[{name}]({name}.md): {title(name)}" for name in names])


def _measured(entry: Entry, bug: str, measured: Measured) -> list[str]:
    counts = ", ".join(f"{runs} (seed {seed})" for seed, runs in zip(measured.seeds, measured.runs, strict=True))
    operations = f"{measured.operations} operations, " if measured.operations else ""
    planted = "" if bug == entry.id else f", with [{bug}]({bug}.md) planted"
    return [
        "",
        "## Schedules to the first failing run",
        "",
        f"In the built-in mix, under the portfolio{planted}: {counts}.",
        "",
        "## A shrunk run",
        "",
        f"`{measured.target}`: {operations}{measured.choices} schedule choices ({measured.preemptions} preemptions), "
        f"{measured.steps} steps, noticed by `{measured.noticed}`.",
        "",
        f"Who takes part: {', '.join(f'`{actor}`' for actor in _actors(measured.chart))}.",
        "",
        "```mermaid",
        *measured.chart.splitlines(),
        "```",
        "",
        "```",
        f"svm-actors replay '{measured.token}'",
        "```",
    ]


def _actors(chart: str) -> list[str]:
    """The columns of a sequence chart."""
    return [line.partition(" as ")[2] for line in chart.splitlines() if line.lstrip().startswith("participant ")]


def index(entries: Mapping[str, Entry]) -> str:
    """The page that lists all pages."""
    lines = [
        "# Catalogue",
        "",
        "Every race, rule, invariant, bug and suspicion that the digests number, and what the model has of it.",
        "",
        "| kind | in the digests | modelled | with a reason why not |",
        "|---|---:|---:|---:|",
    ]
    kinds = dict.fromkeys(entry.kind for entry in entries.values())
    for kind in kinds:
        mine = [entry for entry in entries.values() if entry.kind == kind]
        modelled = sum(entry.modelled for entry in mine)
        lines.append(f"| {kind} | {len(mine)} | {modelled} | {sum(bool(one.reason) for one in mine)} |")
    for kind in kinds:
        lines += ["", f"## {kind.capitalize()}s", "", "| id | about | state |", "|---|---|---|"]
        for entry in entries.values():
            if entry.kind == kind:
                text = (entry.text or title(entry.id)).replace("|", "\\|")
                lines.append(f"| [{entry.id}]({entry.id}.md) | {text} | {_state(entry)} |")
    return "\n".join(lines) + "\n"


def _state(entry: Entry) -> str:
    if entry.reason:
        return entry.reason.replace("|", "\\|")
    if entry.id in BUGS:
        return "planted"
    return "modelled" if entry.modelled else "guarded" if entry.guards else "-"
