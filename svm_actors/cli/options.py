"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from svm_actors.cli.output import Output
from svm_actors.explore.failure import Failure
from svm_actors.explore.files import write_text
from svm_actors.explore.run import BACKENDS
from svm_actors.explore.strategies import STRATEGIES
from svm_actors.report.timeline import Origin, failure_text

F = TypeVar("F", bound=Callable[..., Any])


def strategy_option(default: str) -> Callable[[F], F]:
    """``--strategy``."""
    return click.option(
        "--strategy",
        type=click.Choice(sorted(STRATEGIES)),
        default=default,
        show_default=True,
        help="Who makes the choices of a run.",
    )


seed_option = click.option("--seed", default="0", show_default=True, metavar="X", help="Seed; any text.")
bug_option = click.option(
    "--bug", "bugs", multiple=True, metavar="ID", help="Plant this bug; may be given again. `bugs` lists them."
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="all cores",
    metavar="N",
    help="Processes to use; results do not depend on it.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="trio",
    show_default=True,
    help="How control moves; both give the same runs.",
)
trace_option = click.option(
    "--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write every step of the run to this file."
)
failures_option = click.option(
    "--failures",
    type=click.Path(file_okay=False),
    default="failures",
    show_default=True,
    metavar="DIR",
    help="Where tokens of failing runs go.",
)
race_timers_option = click.option(
    "--race-timers", is_flag=True, help="Make the firing of a due timer one of the choices."
)


def write_trace(path: str | None, trace: tuple[str, ...] | None) -> None:
    """The recorded steps, one per line."""
    if path is not None:
        write_text(path, "".join(f"{line}\n" for line in trace or ()))


def report_failure(output: Output, failure: Failure, origin: Origin, token: str, directory: str) -> None:
    """Keep the token of a failing run and print the report that ends in the line that replays it."""
    path = write_text(Path(directory) / f"{failure.hash}.token", token)
    output.say(failure_text(failure, origin, f"svm-actors replay {shlex.quote(os.fspath(path))}"))
