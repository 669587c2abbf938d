"""``svm-actors races``: the races the model resolves, and where; with a store, which of them a campaign hit."""

from __future__ import annotations

import attrs
import click

from svm_actors.cli import exits
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.table import table
from svm_actors.explore.races import Race, race_catalogue
from svm_actors.explore.store import features_of


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
    found = race_catalogue()
    if coverage is None:
        output.say(table(("race", "counted", "guard"), [_row(race) for race in found]))
        output.finish(context, exits.HELD, races=[attrs.asdict(race) for race in found])
    hits = _hits(found, coverage)
    _report(output, found, hits)
    listed = [{**attrs.asdict(race), "runs": hits.get(race.id)} for race in found]
    missed = [race for race, runs in hits.items() if not runs]
    output.finish(context, exits.HELD, races=listed, windows=len(hits), hit=len(hits) - len(missed), missed=missed)


def _row(race: Race) -> tuple[str, str, str]:
    return race.id, "yes" if race.windows else "no", ", ".join(race.guards) or "-"


def _hits(found: list[Race], store: str) -> dict[str, int]:
    """Runs that hit each window that can be counted."""
    features = features_of(store)
    return {race.id: features.get(f"race:{race.id}", 0) for race in found if race.windows}


def _report(output: Output, found: list[Race], hits: dict[str, int]) -> None:
    rows = [(race.id, str(hits[race.id]), ", ".join(race.guards) or "-") for race in found if race.id in hits]
    output.say(table(("race", "runs", "guard"), rows))
    missed = [race for race, runs in hits.items() if not runs]
    output.say()
    share = 100 - 100 * len(missed) / len(hits)
    output.say(f"{len(hits) - len(missed)} of {len(hits)} race windows hit ({share:.1f} %)")
    if missed:
        output.say(f"never hit: {', '.join(missed)}")
