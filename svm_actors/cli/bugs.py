"""``svm-actors bugs``: the bugs that can be planted; with ``--check``, whether each of them is found."""

from __future__ import annotations

from typing import Any

import attrs
import click

from svm_actors.bugs import BUGS
from svm_actors.cli import exits
from svm_actors.cli.options import jobs_option
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.cli.table import table
from svm_actors.explore.hunt import EXECUTIONS, SEEDS, Hunt, hunts
from svm_actors.explore.settings import check_bugs


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--check", is_flag=True, help="Look for each bug, and print how many schedules it took.")
@click.option(
    "--executions",
    type=click.IntRange(min=1),
    default=EXECUTIONS,
    show_default=True,
    metavar="N",
    help="With --check: schedules after which a bug counts as not found.",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    default=SEEDS,
    show_default=True,
    metavar="X",
    help="With --check: look with this seed; may be given again.",
)
@jobs_option
@common_options
@click.pass_context
def bugs(
    context: click.Context, ids: tuple[str, ...], check: bool, executions: int, seeds: tuple[str, ...], jobs: int
) -> None:
    """List the bugs that can be planted with --bug: all of them, or those with these IDs.

    With --check each is looked for as `fuzz --bug ID` does, once with every seed; the exit code is 1 if one is not
    found, or is noticed by something that it does not name.
    """
    output = output_of(context)
    check_bugs(ids)
    wanted = [BUGS[bug] for bug in BUGS if not ids or bug in ids]
    described = [_described(bug.id) for bug in wanted]
    if not check:
        rows = [(bug.id, bug.title, bug.removes, " ".join(bug.races)) for bug in wanted]
        output.say(table(("id", "what is wrong", "guard removed", "races"), rows))
        output.finish(context, exits.HELD, bugs=described)
    found = _checked([bug.id for bug in wanted], seeds, executions, jobs)
    held = _report(output, found, seeds)
    output.finish(
        context, exits.HELD if held else exits.FAILED, bugs=described, hunts=[_hunt_json(one) for one in found]
    )


def _described(bug: str) -> dict[str, Any]:
    return attrs.asdict(BUGS[bug], filter=lambda field, _value: field.name != "plant")


def _hunt_json(one: Hunt) -> dict[str, Any]:
    failure = None if one.failure is None else f"{one.failure.oracle}/{one.failure.rule}"
    fields = attrs.asdict(one, filter=lambda field, _value: field.name not in ("failure", "elapsed"))
    return {**fields, "found": one.found, "expected": one.expected, "noticed": failure, "elapsed_s": one.elapsed}


def _checked(ids: list[str], seeds: tuple[str, ...], executions: int, jobs: int) -> list[Hunt]:
    """Every hunt, with a line that shows how far they are."""
    found: list[Hunt] = []
    with ProgressLine("bugs", len(ids) * len(seeds)) as line:
        for one in hunts(ids, seeds, executions, jobs):
            found.append(one)
            missed = sum(not each.found for each in found)
            line.show(len(found), f"{one.bug}{f', {missed} not found' if missed else ''}")
    return found


def _report(output: Output, found: list[Hunt], seeds: tuple[str, ...]) -> bool:
    """Print the table; True when all is as it should be."""
    rows = []
    for bug in dict.fromkeys(one.bug for one in found):
        mine = [one for one in found if one.bug == bug]
        noticed = dict.fromkeys(f"{one.failure.oracle}/{one.failure.rule}" for one in mine if one.failure is not None)
        strange = "" if all(one.expected for one in mine if one.found) else "  not among its oracles"
        counts = [str(one.runs) if one.found else f"> {one.runs}" for one in mine]
        rows.append((bug, *counts, " ".join(noticed) + strange))
    output.say(table(("id", *(f"seed {seed}" for seed in seeds), "noticed by"), rows))
    missed = [f"{one.bug} (seed {one.seed})" for one in found if not one.found]
    unexpected = [f"{one.bug} (seed {one.seed})" for one in found if one.found and not one.expected]
    most = max((one.runs for one in found if one.found), default=0)
    output.say()
    reached = len(found) - len(missed)
    output.say(f"{len(rows)} bugs, {reached} of {len(found)} hunts found theirs, at most {most} schedules")
    for what, which in (("not found", missed), ("noticed by something else", unexpected)):
        if which:
            output.say(f"{what}: {', '.join(which)}")
    return not missed and not unexpected
