"""``svm-actors run``: one run of a scenario script."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import click

import svm_actors
from svm_actors.cli import exits
from svm_actors.cli.options import (
    backend_option,
    bug_option,
    failures_option,
    race_timers_option,
    report_failure,
    seed_option,
    strategy_option,
    trace_option,
    write_trace,
)
from svm_actors.cli.output import common_options, output_of
from svm_actors.explore.determinism import first_difference
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_once
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import resolve, subject_named
from svm_actors.explore.worker import compare_traces
from svm_actors.report.as_json import run_json
from svm_actors.report.timeline import Origin

PACKAGE_PARENT: Final = Path(svm_actors.__file__).parent.parent


@click.command()
@click.argument("script", metavar="SCRIPT.py")
@seed_option
@strategy_option("fifo")
@bug_option
@trace_option
@backend_option
@race_timers_option
@click.option(
    "--check-determinism",
    is_flag=True,
    help="Run again here and in a process with another PYTHONHASHSEED; compare the whole traces.",
)
@failures_option
@common_options
@click.pass_context
def run(
    context: click.Context,
    /,
    script: str,
    trace: str | None,
    check_determinism: bool,
    failures: str,
    **options: Any,
) -> None:
    """Run a scenario script once.

    The script has `async def scenario(world)` and perhaps `CONFIG = Config(...)`.  One run of another
    target has the name TARGET@INDEX, e.g. random@3.
    """
    output = output_of(context)
    subject = _subject(script)
    options["record"] = trace is not None or check_determinism
    result = run_once(subject, **options)
    write_trace(trace, result.trace)
    if check_determinism:
        difference = _difference(result, run_once(subject, **options), context)
        result = attrs.evolve(result, failure=difference or result.failure)
    if result.failure is None:
        same = "; twice here and once in another process: the same trace" if check_determinism else ""
        output.say(f"HELD: {subject.name}, {result.steps} steps, {result.virtual_time} ns virtual time{same}")
        output.finish(context, exits.HELD, **run_json(result), token=None)
    origin = Origin(subject.name, result.seed, str(result.settings), result.bugs)
    report_failure(output, result.failure, origin, result.token, failures)
    output.finish(context, exits.of_failures([result.failure], result.bugs), **run_json(result), token=result.token)


def _subject(name: str) -> Subject:
    """What to run; a target with only one subject needs no index.  Raises UnknownTarget or BadInput."""
    if name.endswith(".py"):
        (target,) = resolve(name)
        return target.subject(0)
    return subject_named(name)


def _difference(one: Run, again: Run, context: click.Context) -> Failure | None:
    """Where the run differs from itself: made again here, or made in another process."""
    here = compare_traces(one, again)
    if here is not None:
        return here
    elsewhere = first_difference(one.trace or (), _trace_elsewhere(context))
    if elsewhere is None:
        return None
    return Failure("error", "determinism", "trace", f"with another PYTHONHASHSEED {elsewhere}")


def _trace_elsewhere(context: click.Context) -> Sequence[str]:
    """The trace of the same run, made by a process that orders its sets and dicts by another hash."""
    given = context.params
    words = [given["script"], "--seed", given["seed"], "--strategy", given["strategy"], "--backend", given["backend"]]
    words += ["--race-timers"] * given["race_timers"]
    words += [word for bug in given["bugs"] for word in ("--bug", bug)]
    environment = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    paths = [str(PACKAGE_PARENT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace"
        words += ["--trace", str(trace), "--failures", directory]
        done = subprocess.run(
            [sys.executable, "-m", "svm_actors", "run", *words], env=environment, capture_output=True, check=False
        )
        if not trace.exists():
            raise RuntimeError(f"the run in another process made no trace: {done.stderr.decode(errors='replace')}")
        return trace.read_text("utf-8").splitlines()
