"""``svm-actors conform kernel``: recorded sequential programs, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import click
import msgspec

from svm_actors.cli import exits
from svm_actors.cli.options import jobs_option
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.explore.conformance import ProgramResult, conform_kernel, event_causes
from svm_actors.workload.kernel_programs import KernelProgram, read_programs
from svm_actors.workload.kernel_run import Mismatch

EVENTS_EQUAL: Final = 95.0
"""Percent of operations whose events must be the recorded ones."""


@attrs.frozen
class Answer:
    """One file's results."""

    file: str
    """As the user named it."""
    results: list[ProgramResult]
    """One per program."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@jobs_option
@common_options
@click.pass_context
def kernel(context: click.Context, files: tuple[str, ...], jobs: int) -> None:
    """Run recorded sequential programs on the mirror driver and compare every result.

    Exit code 1 when any result differs, or when the notifier events of fewer than 95 % of the
    operations are the recorded ones.
    """
    output = output_of(context)
    programs = {file: list(read_programs(file)) for file in dict.fromkeys(files)}
    answers = [_run(output, file, found, jobs) for file, found in programs.items()]
    results = [result for answer in answers for result in answer.results]
    agreeing = sum(result.agrees for result in results)
    operations = sum(len(result.program.operations) for result in results)
    equal = sum(_events_equal(result) for result in results)
    percent = 100.0 * equal / operations if operations else 100.0
    for cause, count, first in event_causes(results):
        output.say(f"events of {count} operations: {cause}; first in program {first.program}, line {first.line}")
    output.say(
        f"{agreeing} of {len(results)} programs agree on every result; "
        f"events equal for {percent:.2f} % of {operations} operations"
    )
    held = agreeing == len(results) and percent >= EVENTS_EQUAL
    numbers = {
        "programs": len(results),
        "agreeing": agreeing,
        "operations": operations,
        "events_equal": equal,
        "events_equal_percent": percent,
    }
    output.finish(context, exits.HELD if held else exits.FAILED, ok=held, **numbers, **_details(answers))


def _details(answers: list[Answer]) -> dict[str, Any]:
    """Everything that differs, for programs that read the answer."""
    pairs = [(answer.file, result) for answer in answers for result in answer.results]
    return {
        "mismatches": [_mismatch_json(file, found) for file, result in pairs for found in result.mismatches],
        "event_causes": [
            {"cause": cause, "count": count, "program": first.program, "line": first.line}
            for cause, count, first in event_causes([result for _, result in pairs])
        ],
        "failures": [
            {"file": file, "program": result.program.number, "message": result.failure}
            for file, result in pairs
            if result.failure
        ],
    }


def _run(output: Output, file: str, programs: Sequence[KernelProgram], jobs: int) -> Answer:
    """Run one file's programs; each difference in a result is a line at once."""
    results: list[ProgramResult] = []
    with ProgressLine(file, len(programs)) as line:
        for result in conform_kernel(programs, jobs):
            results.append(result)
            if not result.agrees:
                with line.aside():
                    _say_why(output, file, result)
            line.show(len(results))
    return Answer(file, results)


def _say_why(output: Output, file: str, result: ProgramResult) -> None:
    for found in result.results:
        output.say(f"{file}: {found}")
    if result.failure:
        output.say(f"{file}: program {result.program.number} failed: {result.failure}")


def _events_equal(result: ProgramResult) -> int:
    """Operations whose events are the recorded ones; none when the program did not end."""
    return 0 if result.failure else len(result.program.operations) - len(result.events)


def _mismatch_json(file: str, found: Mismatch) -> dict[str, Any]:
    difference = found.difference
    return {
        "file": file,
        "program": found.program,
        "operation": found.index,
        "line": found.line,
        "op": found.op,
        "field": difference.field,
        "recorded": msgspec.to_builtins(difference.recorded),
        "got": msgspec.to_builtins(difference.produced),
    }
