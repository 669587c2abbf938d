"""``svm-actors shrink``: the same failure, as small as it gets."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from svm_actors.cli import exits
from svm_actors.cli.options import failures_option
from svm_actors.cli.output import common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.cli.replay import read_token, target_option
from svm_actors.explore.files import write_text
from svm_actors.explore.shrink import Shrinker, Shrunk
from svm_actors.explore.shrink import shrink as shrink_token
from svm_actors.explore.shrink.minimise import SECONDS
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import Token
from svm_actors.report.story import shrunk_json, shrunk_text

time_option = click.option(
    "--time",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=SECONDS,
    show_default=True,
    metavar="S",
    help="Take what was reached after so many seconds.",
)
runs_option = click.option(
    "--runs", type=click.IntRange(min=1), metavar="N", help="Take what was reached after so many runs."
)
output_option = click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Where the shrunk token goes [default: DIR/HASH.shrunk.token, with the DIR of --failures].",
)


@click.command()
@click.argument("token", metavar="TOKEN_OR_FILE")
@target_option
@time_option
@runs_option
@output_option
@failures_option
@common_options
@click.pass_context
def shrink(
    context: click.Context,
    token: str,
    target: str | None,
    seconds: float,
    runs: int | None,
    file: str | None,
    failures: str,
) -> None:
    """Make a recorded failure smaller: fewer operations, fewer faults, fewer context switches.

    TOKEN_OR_FILE is the text of a token, a file that holds one, or - for standard input.  Operations are left out
    of built-in workloads and recordings; of a scenario script only the schedule shrinks.
    """
    output = output_of(context)
    shrunk = shrink_with_progress(read_token(token), target, seconds, runs)
    path, line = keep(shrunk, file, failures)
    output.say(shrunk_text(shrunk, line))
    output.finish(context, code_of(shrunk), **shrunk_json(shrunk), file=os.fspath(path))


def shrink_with_progress(known: Token, target: str | None, seconds: float, runs: int | None) -> Shrunk:
    """Shrink, and show on a terminal how far it is.  Raises what is wrong with the token."""
    with ProgressLine("shrink") as line:

        def show(shrinker: Shrinker) -> None:
            merit = shrinker.merit
            line.show(shrinker.runs, f"{merit.operations} operations, {merit.faults + merit.deviations} choices")

        subject = subject_named(target or known.target)
        return shrink_token(subject, known, seconds=seconds, runs=runs, progress=show)


def keep(shrunk: Shrunk, file: str | None, directory: str) -> tuple[Path, str]:
    """Write the shrunk token; answers the file and the command that replays it."""
    name = file or Path(directory) / f"{shrunk.failure.hash}.shrunk.token"
    path = write_text(name, shrunk.token)
    return path, f"svm-actors replay {shlex.quote(os.fspath(path))}"


def code_of(shrunk: Shrunk) -> int:
    """The exit code of the failure that was shrunk."""
    return exits.of_failures([shrunk.failure], shrunk.run.bugs)


