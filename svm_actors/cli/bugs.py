"""``svm-actors bugs``: the bugs that can be planted."""

from __future__ import annotations

import click

from svm_actors.bugs import BUGS
from svm_actors.cli import exits
from svm_actors.cli.output import common_options, output_of
from svm_actors.cli.table import table


@click.command()
@common_options
@click.pass_context
def bugs(context: click.Context) -> None:
    """List the bugs that can be planted with --bug."""
    output = output_of(context)
    rows = [(bug.id, bug.title, bug.removes, " ".join(bug.races)) for _, bug in sorted(BUGS.items())]
    output.say(table(("id", "what is wrong", "guard removed", "races"), rows))
    found = [
        {
            "id": bug.id,
            "title": bug.title,
            "removes": bug.removes,
            "races": list(bug.races),
            "oracles": list(bug.oracles),
        }
        for _, bug in sorted(BUGS.items())
    ]
    output.finish(context, exits.HELD, bugs=found)
