"""``svm-actors conform litmus``: every recorded outcome must be reachable in the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import click

from svm_actors.cli import exits
from svm_actors.cli.options import jobs_option, seed_option
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.explore.conformance import conform_litmus, total_failures
from svm_actors.workload.litmus_format import Litmus, Outcome, read_litmus
from svm_actors.workload.litmus_run import Reached

REACHED: Final = 0.95
"""Share of the programs whose every recorded outcome must be reached."""


@attrs.frozen
class Answer:
    """One file's results."""

    file: str
    """As the user named it."""
    results: list[Reached]
    """One per program."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Runs per program; fewer when every recorded outcome was reached before.",
)
@click.option("--exhaust", is_flag=True, help="Always make all runs, to see what else the model reaches.")
@seed_option
@jobs_option
@common_options
@click.pass_context
def litmus(context: click.Context, files: tuple[str, ...], runs: int, exhaust: bool, seed: str, jobs: int) -> None:
    """Search the model for every recorded outcome of small concurrent programs.

    Exit code 1 when fewer than 95 % of the programs have all their recorded outcomes reached, or when
    a run of the model fails.  An outcome that only the model reaches is a question, not an error.
    """
    output = output_of(context)
    programs = {file: list(read_litmus(file)) for file in dict.fromkeys(files)}
    answers = [_search(output, file, found, runs, exhaust, seed, jobs) for file, found in programs.items()]
    results = [result for answer in answers for result in answer.results]
    full = sum(not result.missing for result in results)
    failures = total_failures(results)
    only_model = sum(len(result.unrecorded) for result in results)
    for text, count in failures.items():
        output.say(f"{count} runs failed: {text}")
    output.say(
        f"{full} of {len(results)} programs have every recorded outcome reached, "
        f"in {sum(result.runs for result in results)} runs; {only_model} outcomes only the model reaches; "
        f"{failures.total()} runs failed"
    )
    held = full >= REACHED * len(results) and not failures
    output.finish(
        context,
        exits.HELD if held else exits.FAILED,
        ok=held,
        programs=len(results),
        fully_reached=full,
        runs=sum(result.runs for result in results),
        failures=dict(failures),
        results=[_result_json(answer.file, result) for answer in answers for result in answer.results],
    )


def _search(
    output: Output, file: str, programs: Sequence[Litmus], runs: int, exhaust: bool, seed: str, jobs: int
) -> Answer:
    """Search one file's programs; each outcome not reached is a line at once."""
    results: list[Reached] = []
    with ProgressLine(file, len(programs)) as line:
        for result in conform_litmus(programs, runs=runs, seed=seed, jobs=jobs, exhaust=exhaust):
            results.append(result)
            if result.missing:
                with line.aside():
                    _say_missing(output, file, result)
            line.show(len(results))
    return Answer(file, results)


def _say_missing(output: Output, file: str, result: Reached) -> None:
    where = f"{file}:{result.litmus.line}: litmus {result.litmus.number}"
    for missing in result.missing:
        seen = f"seen {missing.count} times in {result.litmus.runs} recorded runs"
        output.say(f"{where}: not reached: {_words(missing.outcome)}; {seen}")


def _words(outcome: Outcome) -> str:
    threads = " | ".join(" ".join(map(str, thread)) for thread in outcome.threads)
    view = f"errno {outcome.snapshot_errno}" if outcome.snapshot_errno else " ".join(map(str, outcome.snapshot))
    return f"threads {threads}; snapshot {view}; memory {' '.join(map(str, outcome.memory))}"


def _result_json(file: str, result: Reached) -> dict[str, Any]:
    return {
        "file": file,
        "line": result.litmus.line,
        "litmus": result.litmus.number,
        "runs": result.runs,
        "recorded": len(result.litmus.outcomes),
        "missing": [{**_outcome_json(each.outcome), "count": each.count} for each in result.missing],
        "only_model": [{**_outcome_json(each), "count": result.outcomes[each]} for each in result.unrecorded],
        "failures": dict(result.failures),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    """In the terms of the recording."""
    return attrs.asdict(outcome)
