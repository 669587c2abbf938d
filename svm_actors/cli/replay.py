"""``svm-actors replay``: the same failure again, strictly or as far as it fits."""

from __future__ import annotations

import sys

import attrs
import click

from svm_actors.cli import exits
from svm_actors.cli.options import backend_option, trace_option, write_trace
from svm_actors.cli.output import common_options, output_of
from svm_actors.explore.best_effort import BestEffort, replay_best_effort
from svm_actors.explore.files import read_bytes
from svm_actors.explore.run import Backend, Run
from svm_actors.explore.run import replay as replay_token
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import HEADER, Token, TokenError, decode
from svm_actors.report.as_json import run_json
from svm_actors.report.timeline import Origin, failure_text

target_option = click.option("--target", metavar="TARGET", help="Where the scenario is now, if it has moved.")


@click.command()
@click.argument("token", metavar="TOKEN_OR_FILE")
@target_option
@click.option(
    "--best-effort",
    is_flag=True,
    help="Go on where scenario, machine or model differ: match choices by name, else take the canonical one.",
)
@trace_option
@backend_option
@common_options
@click.pass_context
def replay(
    context: click.Context, token: str, target: str | None, best_effort: bool, trace: str | None, backend: Backend
) -> None:
    """Make the choices of a recorded run again.

    TOKEN_OR_FILE is the text of a token, a file that holds one, or - for standard input.
    """
    output = output_of(context)
    known = read_token(token)
    if best_effort:
        _replay_best_effort(context, known, target, trace, backend)
    result = replay_token(subject_named(target or known.target), known, backend=backend, record=trace is not None)
    write_trace(trace, result.trace)
    same = known.trace == result.trace_digest if known.trace else None
    fits = not (result.failure is not None and result.failure.rule == "ReplayMismatch")
    _say_failure(context, result, known)
    output.say(_verdict(result, fits, same))
    code = exits.BAD_INPUT if not fits or same is False else _code(result)
    output.finish(context, code, **run_json(result), reproduced=fits and same is not False, trace_equal=same)


def _replay_best_effort(
    context: click.Context, known: Token, target: str | None, trace: str | None, backend: Backend
) -> None:
    """The run as far as the choices fit, and where they do not; ends the command."""
    output = output_of(context)
    subject = subject_named(target or known.target)
    found = replay_best_effort(subject, known, backend=backend, record=trace is not None)
    write_trace(trace, found.run.trace)
    _say_failure(context, found.run, known)
    for difference in found.differences:
        output.say(f"DIFFERENT: {difference}")
    if found.drift is not None:
        output.say(f"DRIFTED: {found.drift}")
    output.say(_best_effort_verdict(found))
    fields = run_json(found.run) | {
        "differences": list(found.differences),
        "drift": None if found.drift is None else attrs.asdict(found.drift),
        "matched": found.matched,
        "canonical": found.canonical,
    }
    output.finish(context, _code(found.run), **fields, reproduced=found.drift is None, trace_equal=found.trace_equal)


def _best_effort_verdict(found: BestEffort) -> str:
    what = "the run held" if found.run.failure is None else "the run failed"
    if found.drift is None:
        return f"REPLAYED: {what}; all {found.matched} choices fit"
    return f"REPLAYED IN PART: {what}; {found.matched} choices matched, {found.canonical} were canonical instead"


def _say_failure(context: click.Context, result: Run, known: Token) -> None:
    if result.failure is not None:
        output = output_of(context)
        output.say(failure_text(result.failure, Origin(known.target, known.seed, known.strategy, known.bugs)))
        output.say()


def read_token(text: str) -> Token:
    """The token given as text, as a file or on standard input.  Raises TokenError or BadInput."""
    where, found = ("token", text) if text.lstrip().startswith(HEADER) else _read(text)
    try:
        return decode(found)
    except TokenError as error:
        raise TokenError(f"{where}: {error}") from None


def _read(name: str) -> tuple[str, str]:
    if name == "-":
        where, found = "standard input", sys.stdin.buffer.read()
    else:
        where, found = name, read_bytes(name, "a token, a file that holds one, or -")
    return where, found.decode("utf-8", "replace")


def _verdict(result: Run, fits: bool, same: bool | None) -> str:
    if not fits:
        return "NOT REPLAYED: the recorded choices do not fit; model or scenario differ from the recorded run"
    what = "the run held" if result.failure is None else "the run failed"
    if same is None:
        return f"REPLAYED: {what}; the token has no trace digest to compare with"
    if same:
        return f"REPLAYED: {what} as recorded; every step is the same (trace digest equal)"
    return f"NOT REPLAYED: {what}, and its trace is not the recorded one; model or scenario differ"


def _code(result: Run) -> int:
    return exits.HELD if result.failure is None else exits.of_failures([result.failure], result.bugs)
