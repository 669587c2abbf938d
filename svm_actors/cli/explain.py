"""``svm-actors explain``: a recorded failure as a story."""

from __future__ import annotations

import os

import click

from svm_actors.cli.options import failures_option
from svm_actors.cli.output import common_options, output_of
from svm_actors.cli.replay import read_token, target_option
from svm_actors.cli.shrink import code_of, keep, output_option, runs_option, shrink_with_progress, time_option
from svm_actors.explore.shrink import explain_shrunk
from svm_actors.report.story import explanation_json, story_text


@click.command()
@click.argument("token", metavar="TOKEN_OR_FILE")
@target_option
@time_option
@runs_option
@output_option
@failures_option
@common_options
@click.pass_context
def explain(
    context: click.Context,
    token: str,
    target: str | None,
    seconds: float,
    runs: int | None,
    file: str | None,
    failures: str,
) -> None:
    """Tell why a recorded run fails: shrunk, as who did what, beside the nearest schedule that passes.

    TOKEN_OR_FILE is the text of a token, a file that holds one, or - for standard input.
    """
    output = output_of(context)
    shrunk = shrink_with_progress(read_token(token), target, seconds, runs)
    explanation = explain_shrunk(shrunk)
    path, line = keep(shrunk, file, failures)
    output.say(story_text(explanation, line))
    output.finish(context, code_of(shrunk), **explanation_json(explanation), file=os.fspath(path))
