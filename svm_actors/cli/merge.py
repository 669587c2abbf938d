"""``svm-actors merge``: the stores of a campaign's shards put together."""

from __future__ import annotations

import click

from svm_actors.cli.fuzz import exit_code
from svm_actors.cli.output import common_options, output_of
from svm_actors.explore.merge import merge as merge_stores
from svm_actors.report.as_json import campaign_json
from svm_actors.report.summary import summary_text

_PATH = click.Path(dir_okay=False)


@click.command()
@click.argument("out", type=_PATH)
@click.argument("stores", type=_PATH, nargs=-1, required=True, metavar="STORE...")
@common_options
@click.pass_context
def merge(context: click.Context, /, out: str, stores: tuple[str, ...]) -> None:
    """Bring the runs of every STORE into OUT and report what they come to together.

    The stores must be of shards of one campaign (`fuzz --shard i/N --store STORE`).  OUT is made when it
    is not there; what it has already stays.  Either everything is merged or nothing.
    """
    output = output_of(context)
    campaign = merge_stores(out, stores)
    output.say(summary_text(campaign))
    output.finish(context, exit_code(campaign), **campaign_json(campaign))
