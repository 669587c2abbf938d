"""``svm-actors explore``: every interleaving within a bound."""

from __future__ import annotations

from typing import Any

import click

from svm_actors.cli import exits
from svm_actors.cli.options import bug_option, failures_option, report_failure
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.explore.exploration import ALGORITHMS, RUNS, STEP_BUDGET, Algorithm, Exploration, SearchError, Seen
from svm_actors.explore.exploration import explore as search_all
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import resolve, subject_named
from svm_actors.report.as_json import failure_json
from svm_actors.report.timeline import Origin

WIDEST = 96
"""Columns of an outcome."""


@click.command()
@click.argument("target", metavar="TARGET")
@click.option(
    "--preemptions",
    type=click.IntRange(min=0),
    metavar="B",
    help="At most so many switches away from a thread that could go on [default: no bound].",
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="End a run after so many steps [default: no bound]."
)
@click.option(
    "--time", "seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Stop after so many seconds."
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Stop after so many executions [default: {RUNS}, and only without --time].",
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default="dpor",
    show_default=True,
    help="Which of several equivalent runs are made: one (dpor, sleep) or all (naive).",
)
@click.option("--state-hashing", is_flag=True, help="End a run in a state met before; with sleep or naive.")
@click.option(
    "--store", type=click.Path(dir_okay=False), metavar="FILE", help="Keep the search here; go on from what is there."
)
@click.option(
    "--step-budget",
    type=click.IntRange(min=1),
    default=STEP_BUDGET,
    show_default=True,
    metavar="N",
    help="Steps after which a run fails as a suspected livelock.",
)
@bug_option
@failures_option
@common_options
@click.pass_context
def explore(context: click.Context, /, target: str, failures: str, **options: Any) -> None:
    """Run TARGET under every schedule within a bound, or under one of each class of equivalent ones.

    TARGET names one scenario: SCRIPT.py or TARGET@INDEX, e.g. random@3 or litmus:FILE#7.  What the scenario
    returns is an outcome; the set of outcomes is printed.  Exit code 0: complete and nothing failed;
    1: something failed; 4: the budget was spent first.
    """
    output = output_of(context)
    subject = subject_to_search(target)
    algorithm: Algorithm = options["algorithm"]
    try:
        found = _watched(output, subject, options, failures)
    except (ValueError, SearchError) as error:
        if type(error) not in (ValueError, SearchError):
            raise
        raise click.UsageError(str(error)) from None
    output.say(exploration_text(found))
    output.finish(context, exit_code(found), **exploration_json(found), algorithm=algorithm)


def subject_to_search(name: str) -> Subject:
    """One subject; a target that has only one needs no index.  Raises UnknownTarget or BadInput."""
    if name.endswith(".py") or (name.startswith("litmus:") and "#" in name and "@" not in name):
        (target,) = resolve(name)
        return target.subject(0)
    return subject_named(name)


def _watched(output: Output, subject: Subject, options: dict[str, Any], directory: str) -> Exploration:
    """Search; show how far it is, and each failure as it is found."""
    with ProgressLine("explore", options["runs"]) as line:

        def tell(seen: Seen) -> None:
            assert seen.failure is not None
            with line.aside():
                origin = Origin(subject.name, "none: searched", "search", options["bugs"])
                report_failure(output, seen.failure, origin, seen.token, directory)
                output.say()

        def show(found: Exploration) -> None:
            failed = f", {len(found.failures)} failures" if found.failures else ""
            line.show(found.executions, f"{len(found.outcomes)} outcomes{failed}")

        return search_all(subject, progress=show, on_failure=tell, **options)


def exit_code(found: Exploration) -> int:
    """What failed goes first, then whether the search came to its end."""
    code = exits.of_failures((seen.failure for seen in found.failures.values() if seen.failure), found.bugs)
    if code == exits.HELD and not found.complete:
        return exits.NO_VERDICT
    return code


def exploration_text(found: Exploration) -> str:
    """What the search has come to, for people."""
    bounds = [f"{found.preemptions} preemptions"] if found.preemptions is not None else []
    bounds += [f"{found.steps} steps"] if found.steps is not None else []
    why = "" if found.complete else f" ({found.stopped_by})"
    lines = [
        f"{found.verdict.upper()}{why}: {found.subject.name}, {found.algorithm}"
        f"{' with state hashing' if found.state_hashing else ''}, "
        f"{'at most ' + ' and '.join(bounds) if bounds else 'no bound'}",
        f"{found.executions} executions in {found.elapsed:.1f} s"
        f"{f' ({found.resumed} of them before)' if found.resumed else ''}: {found.runs} to their end, "
        f"{found.sleep_blocked} sleep-blocked, {found.pruned} pruned, {found.too_long} too long"
        f"{f'; {found.states} states' if found.state_hashing else ''}",
        f"{len(found.outcomes)} outcomes, {len(found.failures)} failures in {found.failing_runs} runs",
    ]
    for text, seen in found.outcomes.items():
        shown = text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
        lines.append(f"  {seen.runs:>6}  {shown}")
    return "\n".join(lines)


def exploration_json(found: Exploration) -> dict[str, Any]:
    """The same with stable field names."""
    return {
        "ok": found.ok and found.complete,
        "target": found.subject.name,
        "verdict": found.verdict,
        "complete": found.complete,
        "stopped_by": found.stopped_by,
        "bounds": {"preemptions": found.preemptions, "steps": found.steps},
        "state_hashing": found.state_hashing,
        "bugs": list(found.bugs),
        "executions": found.executions,
        "runs": found.runs,
        "sleep_blocked": found.sleep_blocked,
        "pruned": found.pruned,
        "too_long": found.too_long,
        "failing_runs": found.failing_runs,
        "states": found.states,
        "resumed": found.resumed,
        "elapsed_s": found.elapsed,
        "outcomes": [
            {"outcome": text, "runs": seen.runs, "token": seen.token} for text, seen in found.outcomes.items()
        ],
        "failures": [
            {**failure_json(seen.failure), "runs": seen.runs, "token": seen.token}
            for seen in found.failures.values()
            if seen.failure is not None
        ],
    }
