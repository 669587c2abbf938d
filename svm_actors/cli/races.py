"""``svm-actors races``: the races the model resolves, and where; with a store, which of them a campaign hit."""

from __future__ import annotations

from typing import Any

import click

from svm_actors.catalogue import Entry, catalogue
from svm_actors.cli import exits
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.table import table
from svm_actors.explore.store import features_of
from svm_actors.report.titles import title


@click.command()
@click.option(
    "--coverage",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Count in how many runs of this store (`fuzz --store`) each race's window was hit.",
)
@common_options
@click.pass_context
def races(context: click.Context, coverage: str | None) -> None:
    """List the races the model resolves: the guard of each, and whether a campaign can count it."""
    output = output_of(context)
    found = [entry for entry in catalogue().values() if entry.kind == "race"]
    if coverage is None:
        rows = [(entry.id, "yes" if entry.windows else "no", _guards(entry), title(entry.id)) for entry in found]
        output.say(table(("race", "counted", "guard", "what it is about"), rows))
        output.finish(context, exits.HELD, races=[_as_json(entry) for entry in found])
    hits = _hits(found, coverage)
    _report(output, found, hits)
    listed = [{**_as_json(entry), "runs": hits.get(entry.id)} for entry in found]
    missed = [race for race, runs in hits.items() if not runs]
    output.finish(context, exits.HELD, races=listed, windows=len(hits), hit=len(hits) - len(missed), missed=missed)


def _guards(entry: Entry) -> str:
    return ", ".join(map(str, entry.guards)) or "-"


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "text": title(entry.id),
        "reason": entry.reason,
        "guards": [str(place) for place in entry.guards],
        "windows": [f"{place.file}:{place.line}" for place in entry.windows],
        "bugs": list(entry.bugs),
    }


def _hits(found: list[Entry], store: str) -> dict[str, int]:
    """Runs that hit each window that can be counted."""
    features = features_of(store)
    return {entry.id: features.get(f"race:{entry.id}", 0) for entry in found if entry.windows}


def _report(output: Output, found: list[Entry], hits: dict[str, int]) -> None:
    rows = [(entry.id, str(hits[entry.id]), _guards(entry)) for entry in found if entry.id in hits]
    output.say(table(("race", "runs", "guard"), rows))
    missed = [race for race, runs in hits.items() if not runs]
    share = 100 - 100 * len(missed) / len(hits)
    output.say()
    output.say(f"{len(hits) - len(missed)} of {len(hits)} race windows hit ({share:.1f} %)")
    for race in missed:
        reason = catalogue()[race].reason
        output.say(f"never hit: {race}{f': {reason}' if reason else ''}")
