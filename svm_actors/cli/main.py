"""``svm-actors``: the command line.

The commands are thin: each parses its options, calls the library, prints.  Errors end here, in one
place: bad input is one line and exit code 2, an internal error a short message and exit code 3.
"""

from __future__ import annotations

import traceback
from typing import Any

import click

from svm_actors import __version__
from svm_actors.cli import exits
from svm_actors.cli.bugs import bugs
from svm_actors.cli.conform import conform
from svm_actors.cli.explain import explain
from svm_actors.cli.explore import explore
from svm_actors.cli.fuzz import fuzz
from svm_actors.cli.merge import merge
from svm_actors.cli.output import Output, output_of
from svm_actors.cli.races import races
from svm_actors.cli.replay import replay
from svm_actors.cli.run import run
from svm_actors.cli.shrink import shrink
from svm_actors.explore.run import TokenMismatch
from svm_actors.explore.settings import UnknownName
from svm_actors.explore.shrink import NotReproduced
from svm_actors.explore.store import StoreError
from svm_actors.explore.targets import UnknownTarget
from svm_actors.explore.token import TokenError
from svm_actors.workload.formats import BadInput

INPUT_ERRORS = (BadInput, NotReproduced, StoreError, TokenError, TokenMismatch, UnknownName, UnknownTarget)
"""What is wrong with what the user gave; the text says it in one line."""
REPORT = "This is a bug in svm-actors: please report this command line and what it prints with --debug."


class Guarded(click.Group):
    """A group in which no command ends with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click prints the first two, and ends quietly when the reader of our output went away
        except (click.Abort, KeyboardInterrupt):
            return self._fail(ctx, exits.NO_VERDICT, "interrupt", "interrupted")
        except (*INPUT_ERRORS, OSError) as error:
            return self._fail(ctx, exits.BAD_INPUT, "input", " ".join(str(error).split()))
        except Exception as error:
            text = f"internal error: {type(error).__name__}: {error} (svm-actors {__version__})\n{REPORT}"
            return self._fail(ctx, exits.INTERNAL, "internal", text, traceback.format_exc())

    @staticmethod
    def _fail(ctx: click.Context, code: int, kind: str, text: str, trace: str = "") -> None:
        output = output_of(ctx)
        if trace and output.debug:
            click.echo(trace.rstrip(), err=True)
        click.echo(f"error: {text}" if kind == "input" else text, err=True)
        output.finish(ctx, code, ok=False, error={"kind": kind, "message": text})


@click.group(cls=Guarded, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="svm-actors", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """An executable, deterministic model of Linux GPU shared virtual memory.

    Exit codes: 0 held, 1 a property failed, 2 usage or bad input, 3 internal error, 4 the budget was
    spent without a verdict.
    """
    context.obj = Output()


for command in (fuzz, explore, merge, run, replay, shrink, explain, conform, races, bugs):
    cli.add_command(command)


def main() -> None:
    """The entry point of the ``svm-actors`` command."""
    cli(prog_name="svm-actors")
