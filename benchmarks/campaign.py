"""Runs per second of a campaign on two processes against one, and on two dask workers against one.

The same campaign is made on one process, on two, and through an executor of two local workers, in turns.
Starting the campaign's own processes is part of the measure, as it is for a user; the dask cluster is
started once, as it is in use.  A machine with a single core has nothing to show: then there is no budget.
What a campaign costs beside its runs is measured too: coverage, booking and the store against bare runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path

from benchmarks import Result, medians, seconds
from svm_actors.explore.campaign import fuzz
from svm_actors.explore.run import run as run_once
from svm_actors.explore.targets import subject_named

TARGET = "random-small"
RUNS = 1_500
REPEATS = 3
TWO_JOBS = 1.8
"""Least gain of a second process."""
TWO_WORKERS = 1.6
"""Least gain of a second dask worker: every batch goes through a scheduler."""
OVERHEAD = 1.5
"""What a campaign's run may cost against a bare run."""
BARE = 200
"""Bare runs to compare with."""


def campaign(runs: int, jobs: int = 1, executor: Executor | None = None, store: str | None = None) -> None:
    """Make the runs; every seed of them is the same in every measure."""
    done = fuzz(TARGET, executions=runs, strategy="random", jobs=jobs, executor=executor, store=store)
    if done.runs != runs or done.verdict != "held":
        raise RuntimeError(f"{done.runs} of {runs} runs were made: {done.verdict} {done.note}")


def rate(runs: int, jobs: int = 1, executor: Executor | None = None) -> Callable[[], float]:
    """A measure: runs per second."""
    return lambda: runs / seconds(lambda: campaign(runs, jobs, executor))


def run(runs: int = RUNS, repeats: int = REPEATS) -> list[Result]:
    """Measure, as medians of several repeats taken in turns."""
    cores = os.cpu_count() or 1
    return [*_two_jobs(runs, repeats, cores), *_two_workers(runs, repeats, cores), *_overhead(repeats)]


def _two_jobs(runs: int, repeats: int, cores: int) -> list[Result]:
    found = medians({"one": rate(runs), "two": rate(runs, 2)}, repeats)
    budget = TWO_JOBS if cores > 1 else None
    return [
        Result("runs per second, 1 job", found["one"], None, "/s"),
        Result("runs per second, 2 jobs / 1 job", found["two"] / found["one"], budget, "x", at_least=True),
    ]


def _two_workers(runs: int, repeats: int, cores: int) -> list[Result]:
    if find_spec("distributed") is None:
        return []
    from distributed import Client, LocalCluster

    measures: dict[str, Callable[[], float]] = {}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as small,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as large,
        Client(small) as one,
        Client(large) as two,
    ):
        for name, client, jobs in (("one", one, 1), ("two", two, 2)):
            client.wait_for_workers(jobs)
            executor = client.get_executor()
            campaign(4 * jobs, jobs, executor)  # the workers have imported the package then
            measures[name] = rate(runs, jobs, executor)
        found = medians(measures, repeats)
    budget = TWO_WORKERS if cores > 1 else None
    return [Result("runs per second, 2 dask workers / 1", found["two"] / found["one"], budget, "x", at_least=True)]


def _overhead(repeats: int) -> list[Result]:
    def bare() -> None:
        for number in range(BARE):
            subject = subject_named(f"{TARGET}@{number}")
            seed = f"0/{TARGET}/{number}"
            run_once(subject, seed=seed, strategy="random", backend="direct", digest=False)

    def booked() -> None:
        with tempfile.TemporaryDirectory() as directory:
            campaign(BARE, store=str(Path(directory) / "runs.db"))

    found = medians({"bare": lambda: seconds(bare), "booked": lambda: seconds(booked)}, repeats)
    return [Result("a recorded run of a campaign / a bare run", found["booked"] / found["bare"], OVERHEAD, "x")]
