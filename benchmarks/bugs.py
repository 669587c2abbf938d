"""How many schedules each strategy needs to find each planted bug, and the table of it.

* ``python -m benchmarks bugs``: microseconds per step of a run, for a few of the stories;
* ``python -m benchmarks bugs --trials 20 --cap 10000 --others 200 [--bugs ID ...]``: make the trials that are
  not made yet and write docs/bugs.md; the portfolio may take ``cap`` schedules, every other column ``others``.
  It may be interrupted and started again; results do not depend on ``--jobs``.

Every bug is looked for in the built-in story that shows it, so that what is compared is how well schedules
are chosen, not how often a campaign comes by.  Trial t makes runs with the seeds ``t/0``, ``t/1``, ... until
one fails or the cap is reached.  The baseline is trio's own scheduling, ``batch``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import svm_actors
from benchmarks import Result, seconds
from benchmarks._trials import Key, Store, make_missing, missing
from benchmarks._trials import Result as Trial
from svm_actors.bugs import BUGS
from svm_actors.explore.determinism import digest
from svm_actors.explore.run import run as run_once
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import subject_named

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "bugs.md"
STORE: Final = ROOT / "benchmarks" / "bugs.jsonl"
BASELINE: Final = "batch"
PORTFOLIO: Final = "portfolio"
CANONICAL: Final = "fifo"
"""The schedule of a story that is nobody's choice; what it shows is no race."""
COLUMNS: Final = (BASELINE, "random", "pos", "pct", "urw", "surw", "delay", PORTFOLIO)
STEP_BUDGET: Final = 50_000
NO_PART: Final = ("catalogue", "cli", "explore/puzzles", "explore/search", "explore/shrink", "report", "testing")
"""Folders of the package that take no part in a run."""

HEAD: Final = """# Schedules to the first sign of each planted bug

Every planted bug (`svm-actors bugs`) in the built-in story that shows it.
A cell is the median number of schedules to the first failing one over the trials that found it; `(n)` is how many
did, when not all; `-` is none, `n/r` was not measured.  A trial that found nothing counts in the last rows as if it
had at its cap, which flatters the columns that miss much.  `batch` is the baseline: trio's own scheduling, in which
every task that can run does one op per round, in an order shuffled by the seed.  What `pct` and `delay` (3 runs) and
`urw` and `surw` (10 runs) learn about a story beforehand is learned once for all trials and not counted.  Fair PCT has
no column: it is PCT until a run is longer than its story.

Half of the bugs need no race: a story shows them however it is scheduled.  So the last rows are given twice, for all
bugs and for *races*, those that the canonical schedule (`fifo`) of their story does not show.

"""


@cache
def subject(bug: str) -> Subject:
    """The story of a bug."""
    return subject_named(f"{BUGS[bug].story}@0")


def make_trial(call: tuple[Key, int]) -> Trial:
    """Run until something fails."""
    key, cap = call
    steps = 0
    for number in range(cap):
        one = run_once(
            subject(key.target),
            seed=f"{key.trial}/{number}",
            strategy=key.strategy,
            bugs=(key.target,),
            backend="direct",
            step_budget=STEP_BUDGET,
            digest=False,
        )
        steps += one.steps
        if one.failure is not None and one.failure.kind != "budget":
            return Trial(key, cap, number + 1, steps)
    return Trial(key, cap, None, steps)


def run(schedules: int = 3) -> list[Result]:
    """Microseconds per step, set-up and oracles included."""
    found = []
    for bug in ("SVM-B41", "VMB-R01", "VMB-R04"):
        call = (Key(bug, "random", 0), schedules)
        steps = make_trial(call).steps
        cost = seconds(lambda call=call: make_trial(call)) / steps  # type: ignore[misc]
        found.append(Result(f"{BUGS[bug].story}: a step", cost * 1e6, None, "us"))
    return found


def stamp(apart: Sequence[str] = NO_PART) -> str:
    """Digest of the package without some folders: results of another one do not count."""
    package = Path(svm_actors.__file__).parent
    folders = [package / name for name in apart]
    files = [path for path in sorted(package.rglob("*.py")) if not any(map(path.is_relative_to, folders))]
    return digest(b"\0".join(path.read_bytes() for path in files))


def main(arguments: Sequence[str]) -> int:
    """The command; exit 0, 1 when the portfolio missed a bug that some strategy found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks bugs")
    parser.add_argument("--trials", type=int, default=20, help="trials of each bug under each strategy")
    parser.add_argument("--cap", type=int, default=10_000, help="schedules of one trial of the portfolio")
    parser.add_argument("--others", type=int, default=200, help="schedules of one trial of any other strategy")
    parser.add_argument("--bugs", nargs="+", choices=BUGS, default=list(BUGS), metavar="ID")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS, help="only these strategies")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--store", type=Path, default=STORE, help="results made so far")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    options = parser.parse_args(arguments)
    store = Store(options.store, stamp())
    caps = {column: options.cap if column == PORTFOLIO else options.others for column in COLUMNS}
    for bug in options.bugs:
        cells = itertools.product(options.columns, range(options.trials))
        keys = [(Key(bug, column, trial), caps[column]) for column, trial in cells]
        wanted = missing(store, [(Key(bug, CANONICAL, 0), 1), *keys])
        begin = time.perf_counter()
        steps = sum(trial.steps for trial in make_missing(store, wanted, options.jobs, make_trial)) if wanted else 0
        print(f"{bug:<10} {len(wanted):>3} trials  {steps:>9} steps  {time.perf_counter() - begin:7.1f} s", flush=True)
    options.page.write_text(page(store, options.trials, caps), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


def firsts(store: Store, bug: str, column: str, trials: int, cap: int) -> list[int] | None:
    """Schedules to the first failing one, of the trials that found one; None when not all were made."""
    made = [store.get(Key(bug, column, trial), cap) for trial in range(trials)]
    if any(trial is None for trial in made):
        return None
    return [trial.first for trial in made if trial is not None and trial.first is not None]


def cell(found: list[int] | None, trials: int) -> str:
    """As text."""
    if found is None:
        return "n/r"
    if not found:
        return "-"
    return f"{statistics.median(found):g}" + (f" ({len(found)})" if len(found) < trials else "")


def is_race(store: Store, bug: str) -> bool:
    """True when the canonical schedule of the story does not show the bug."""
    canonical = store.get(Key(bug, CANONICAL, 0), 1)
    return canonical is not None and canonical.first is None


def page(store: Store, trials: int, caps: Mapping[str, int]) -> str:
    """The whole page."""
    lines = [f"| bug | what is wrong | story | {' | '.join(COLUMNS)} |", "|---|---|---|" + "---:|" * len(COLUMNS)]
    medians: dict[str, dict[str, float]] = {column: {} for column in COLUMNS}
    for bug in BUGS.values():
        row = {column: firsts(store, bug.id, column, trials, caps[column]) for column in COLUMNS}
        cells = " | ".join(cell(row[column], trials) for column in COLUMNS)
        lines.append(f"| {bug.id} | {bug.title} | {bug.story} | {cells} |")
        for column, found in row.items():
            if found is not None:
                medians[column][bug.id] = statistics.median([*found, *[caps[column]] * (trials - len(found))])
    races = {
        column: [value for bug, value in of_bugs.items() if is_race(store, bug)] for column, of_bugs in medians.items()
    }
    how = (
        f"{trials} trials with the seeds 0 to {trials - 1}, at most {caps[PORTFOLIO]} schedules each for the "
        f"portfolio and {caps[BASELINE]} for the others.  Made by\n\n"
        f"    python -m benchmarks bugs --trials {trials} --cap {caps[PORTFOLIO]} --others {caps[BASELINE]}\n\n"
    )
    everything = {column: list(of_bugs.values()) for column, of_bugs in medians.items()}
    last = [*summary("all bugs", everything, caps), *summary("races", races, caps)]
    return HEAD + how + "\n".join([*lines, *last]) + "\n"


def summary(what: str, medians: Mapping[str, Sequence[float]], caps: Mapping[str, int]) -> list[str]:
    """The last rows: what a column's medians come to over the bugs it was measured on."""
    rows: dict[str, Callable[[str, Sequence[float]], float]] = {
        "number measured": lambda _column, values: len(values),
        "missed by more than half of the trials": lambda column, values: sum(v >= caps[column] for v in values),
        "median": lambda _column, values: statistics.median(values),
        "geometric mean": lambda _column, values: round(math.exp(statistics.fmean(map(math.log, values))), 1),
        "most": lambda _column, values: max(values),
        "one after the other": lambda _column, values: sum(values),
    }
    return [
        f"| | {what}: {title} | | {' | '.join(f'{of(c, v):.10g}' if v else 'n/r' for c, v in medians.items())} |"
        for title, of in rows.items()
    ]
