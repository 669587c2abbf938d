"""``svm-actors fuzz``: randomized concurrency fuzzing."""

from __future__ import annotations

from typing import Any

import click

from svm_actors.cli import exits
from svm_actors.cli.options import (
    bug_option,
    failures_option,
    jobs_option,
    race_timers_option,
    report_failure,
    seed_option,
    strategy_option,
)
from svm_actors.cli.output import Output, common_options, output_of
from svm_actors.cli.progress import ProgressLine
from svm_actors.explore.campaign import EXECUTIONS, SECONDS, TIMEOUT, Campaign, Finding
from svm_actors.explore.campaign import fuzz as run_campaign
from svm_actors.explore.dealing import WHOLE, Shard
from svm_actors.explore.settings import STEP_BUDGET, Settings
from svm_actors.explore.strategies.portfolio import NAME as PORTFOLIO
from svm_actors.explore.targets import DEFAULT
from svm_actors.report.as_json import campaign_json
from svm_actors.report.summary import summary_text
from svm_actors.report.timeline import Origin


def _shard(_context: click.Context, _parameter: click.Parameter, text: str) -> Shard:
    """``i/N``; a usage error says what was expected."""
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--time",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help=f"Stop after so many seconds [default: {SECONDS:.0f}, and only without --executions].",
)
@click.option(
    "--executions",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Stop after so many runs [default: {EXECUTIONS}, and only without --time].",
)
@strategy_option(PORTFOLIO)
@seed_option
@bug_option
@jobs_option
@click.option(
    "--store", type=click.Path(dir_okay=False), metavar="FILE", help="Record every run here; resume from what is there."
)
@click.option(
    "--shard",
    callback=_shard,
    default=str(WHOLE),
    show_default="all runs",
    metavar="i/N",
    help="Make only the runs i, i+N, i+2N ... of the campaign; `merge` puts the stores of all shards together.",
)
@click.option(
    "--stop", is_flag=True, help="Stop at the first run that fails, unless it spent its step budget; implied by --bug."
)
@click.option(
    "--check-determinism",
    is_flag=True,
    help="Make every run twice more and compare the whole traces, not one run in a thousand.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT,
    show_default=True,
    metavar="S",
    help="Seconds after which a batch of runs is held to hang; its process is killed and the run named.",
)
@click.option(
    "--step-budget",
    type=click.IntRange(min=1),
    default=STEP_BUDGET,
    show_default=True,
    metavar="N",
    help="Steps after which a run is given up.",
)
@race_timers_option
@failures_option
@common_options
@click.pass_context
def fuzz(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    seconds: float | None,
    executions: int | None,
    bugs: tuple[str, ...],
    stop: bool,
    failures: str,
    **options: Any,
) -> None:
    """Run TARGETs again and again under many schedules and report what fails.

    A TARGET is a scenario script, a built-in workload, strace:FILE, kernel:FILE or litmus:FILE[#N];
    without one, a built-in mix is run, in which the stories of planted bugs have a share.
    """
    output = output_of(context)
    options |= {"seconds": seconds, "executions": executions, "bugs": bugs, "stop_at_failure": stop or bool(bugs)}
    campaign = _watched(output, targets or (DEFAULT,), options, failures)
    output.say(summary_text(campaign))
    if campaign.note:
        click.echo(f"error: {campaign.note}; everything before that is booked", err=True)
    output.finish(context, exit_code(campaign), **campaign_json(campaign))


def _watched(output: Output, targets: tuple[str, ...], options: dict[str, Any], directory: str) -> Campaign:
    """Run the campaign; show how far it is, and each failure as it is found."""
    limited = options["executions"] is not None or options["seconds"] is not None
    shard: Shard = options["shard"]
    total = options["executions"] if limited else EXECUTIONS
    with ProgressLine("fuzz", None if total is None else shard.size(total)) as line:

        def tell(finding: Finding) -> None:
            with line.aside():
                settings = Settings(finding.found.strategy, options["race_timers"], options["step_budget"])
                _report(output, finding, directory, str(settings), options["bugs"])

        def show(campaign: Campaign) -> None:
            line.show(campaign.runs, progress_note(campaign))

        return run_campaign(targets, on_failure=tell, progress=show, **options)


def progress_note(campaign: Campaign) -> str:
    """What has been found so far."""
    failures = f", {len(campaign.findings)} failures" if campaign.findings else ""
    return f"{len(campaign.coverage)} features{failures}"


def exit_code(campaign: Campaign) -> int:
    """The code of a campaign: what failed goes first, then whether it came to its end."""
    if campaign.verdict == "failed":
        return exits.of_failures((finding.failure for finding in campaign.failures), campaign.plan.bugs)
    if campaign.stopped_by == "workers":
        return exits.INTERNAL
    return exits.HELD if campaign.verdict == "held" else exits.NO_VERDICT


def _report(output: Output, finding: Finding, directory: str, settings: str, bugs: tuple[str, ...]) -> None:
    found = finding.found
    origin = Origin(f"{found.target}, run {found.number} of the campaign", found.seed, settings, bugs)
    report_failure(output, found.failure, origin, found.token, directory)
    output.say()
