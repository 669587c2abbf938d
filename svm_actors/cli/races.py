"""``svm-actors races``: the races the model resolves, and where."""

from __future__ import annotations

import attrs
import click

from svm_actors.cli import exits
from svm_actors.cli.output import common_options, output_of
from svm_actors.cli.table import table
from svm_actors.explore.races import Race, race_catalogue


@click.command()
@common_options
@click.pass_context
def races(context: click.Context) -> None:
    """List the races the model resolves: the guard of each, and whether a campaign can count it."""
    output = output_of(context)
    found = race_catalogue()
    output.say(table(("race", "counted", "guard"), [_row(race) for race in found]))
    output.finish(context, exits.HELD, races=[attrs.asdict(race) for race in found])


def _row(race: Race) -> tuple[str, str, str]:
    return race.id, "yes" if race.windows else "no", ", ".join(race.guards) or "-"
