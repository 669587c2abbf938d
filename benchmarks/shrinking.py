"""How small the failures of the planted bugs get, and the table of it.

* ``python -m benchmarks shrinking``: what one run of a shrinking costs;
* ``python -m benchmarks shrinking --seeds 1 2 3 [--bugs ID ...] [--seconds 60]``: find each planted bug in the
  default mix, as ``svm-actors fuzz --bug ID --seed S`` does, shrink the first failing run, as ``svm-actors shrink``
  does, and write docs/shrinking.md.  It may be interrupted and started again, and any part of the bugs can be made:
  what was made before is kept as long as the package is the same;
* ``... --hunts FILE``: what ``svm-actors bugs --check --json`` has printed, so that nothing is looked for twice.

The goal is at most six operations and three context switches that are not necessary.  A switch that there was no time
to judge counts as not necessary.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs

import svm_actors
from benchmarks import Result, seconds
from benchmarks._kept import keep, kept
from benchmarks.bugs import stamp
from svm_actors.bugs import BUGS
from svm_actors.explore.campaign import EXECUTIONS
from svm_actors.explore.run import run as run_once
from svm_actors.explore.shrink import Shrunk, shrink
from svm_actors.explore.shrink.minimise import SECONDS
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import decode
from svm_actors.report.chart import chart_text

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "shrinking.md"
STORE: Final = ROOT / "benchmarks" / "shrinking.jsonl"
OPERATIONS: Final = 6
"""Operations that a shrunk failure may have."""
UNNECESSARY: Final = 3
"""Context switches it may have that are not known to be necessary."""
SEEDS: Final = (1, 2, 3)
NO_PART: Final = ("catalogue", "cli", "explore/puzzles", "explore/search", "testing")
"""Folders of the package that take no part in finding and shrinking a failure and drawing its chart."""
NUMBERS: Final = ("switches", "unnecessary", "draws", "runs", "elapsed")
"""Fields of a row that have a column."""

HEAD: Final = """# How small the failures of the planted bugs get

For every planted bug (`svm-actors bugs`) and some seeds: the first failing run of `svm-actors fuzz --bug ID --seed S`,
which runs the built-in mix under the default portfolio, shrunk as `svm-actors shrink` does it.
*switches* are all context switches of the shrunk run, *not needed* those without which it fails as well, *draws* the
injected faults, pauses and sizes that are left; each number is the largest over the seeds.  A *script* is not made of
operations: only its schedule shrinks.  The goal is at most {operations} operations and at most {unnecessary} switches
that are not needed.

Made by

    python -m benchmarks shrinking --seeds {seeds} --seconds {seconds:g}

"""


@attrs.frozen
class Key:
    """One shrinking."""

    bug: str
    """Planted bug."""
    seed: int
    """Seed of the campaign that finds it."""
    seconds: float
    """How long the shrinking may take."""


@attrs.frozen
class Row:
    """What it came to."""

    key: Key
    """Which one."""
    target: str
    """What failed, with the operations that are kept; empty when nothing did."""
    original: int = 0
    """Operations of the failing run."""
    operations: int = 0
    """Operations of the shrunk one."""
    switches: int = 0
    """Its context switches."""
    unnecessary: int = 0
    """Those of them that are not known to be necessary."""
    draws: int = 0
    """Its injected faults, pauses and sizes."""
    runs: int = 0
    """Runs the shrinking took."""
    elapsed: float = 0.0
    """Seconds it took."""
    choices: int = 0
    """Choices of the shrunk run that are not canonical."""
    preemptions: int = 0
    """How many of them take the processor away."""
    steps: int = 0
    """Its ops."""
    noticed: str = ""
    """``oracle/rule`` of it."""
    token: str = ""
    """Its replay."""
    chart: str = ""
    """Its end as a sequence chart."""

    @property
    def small(self) -> bool:
        """Whether the goal is met."""
        return bool(self.target) and self.operations <= OPERATIONS and self.unnecessary <= UNNECESSARY

    def line(self) -> str:
        """As text."""
        if not self.target:
            return f"{self.key.bug:<10} {self.key.seed:>4}  not found in {EXECUTIONS} runs"
        size = f"{self.operations:>2} of {self.original:>3} operations" if self.original else f"{'a script':<20}"
        text = f"{self.key.bug:<10} {self.key.seed:>4}  {size}"
        text += f"  {self.switches:>4} switches, {self.unnecessary} not needed  {self.draws:>2} draws"
        text += f"  {self.elapsed:6.1f} s  {self.runs:>5} runs  {self.target}"
        return text if self.small else f"{text}  TOO LARGE"


class Store:
    """Rows in a file of JSON lines; those of another version of the package do not count."""

    def __init__(self, path: Path, sources: str) -> None:
        self.path = path
        self.sources = sources
        self._rows: dict[Key, Row] = {}
        for entry in kept(path):
            if entry.pop("sources") == sources:
                row = Row(**{**entry, "key": Key(**entry["key"])})
                self._rows[row.key] = row

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._rows[row.key] = row
        keep(self.path, {**attrs.asdict(row), "sources": self.sources})

    def get(self, key: Key) -> Row | None:
        """The row, if it was made."""
        return self._rows.get(key)

    def rows(self) -> list[Row]:
        """Every row."""
        return list(self._rows.values())


def hunted(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The hunts that found their bug, by bug and seed, from what ``svm-actors bugs --check --json`` has printed."""
    hunts = json.loads(path.read_text(encoding="utf-8"))["hunts"]
    return {(one["bug"], int(one["seed"])): one for one in hunts if one["found"]}


def make_row(call: tuple[Key, str]) -> Row:
    """Find the bug, unless a failing run is known, and shrink what failed."""
    key, failing = call
    if not failing:
        found = svm_actors.fuzz(bugs=(key.bug,), seed=key.seed, stop_at_failure=True).failures
        if not found:
            return Row(key, "")
        failing = found[0].found.token
    token = decode(failing)
    begin = time.perf_counter()
    shrunk = shrink(subject_named(token.target), token, seconds=key.seconds)
    return row_of(key, shrunk, time.perf_counter() - begin)


def row_of(key: Key, shrunk: Shrunk, elapsed: float) -> Row:
    """A shrunk failure as a row."""
    return Row(
        key,
        target=shrunk.run.subject.name,
        original=shrunk.original.operations,
        operations=shrunk.merit.operations,
        switches=len(shrunk.switches),
        unnecessary=sum(switch.necessary is not True for switch in shrunk.switches),
        draws=len(shrunk.draws),
        runs=shrunk.runs,
        elapsed=round(elapsed, 1),
        choices=shrunk.merit.deviations,
        preemptions=shrunk.merit.preemptions,
        steps=shrunk.merit.steps,
        noticed=f"{shrunk.failure.oracle}/{shrunk.failure.rule}",
        token=shrunk.token,
        chart=chart_text(shrunk),
    )


def run() -> list[Result]:
    """What one run of a shrinking costs beside a plain run of the same story."""
    subject, bugs = subject_named("dontneed@0"), ("SVM-B41",)
    runs = (run_once(subject, seed=seed, bugs=bugs, backend="direct", digest=False) for seed in range(100))
    one = next(each for each in runs if not each.ok)
    made: list[Shrunk] = []
    whole = seconds(lambda: made.append(shrink(subject, one.token, seconds=None)))
    return [
        Result("a lost flush: runs", made[0].runs, None, ""),
        Result("a lost flush: a run", whole / made[0].runs * 1e3, None, "ms"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The command; exit 1 when a failure is larger than the goal, or a bug was not found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks shrinking")
    parser.add_argument("--bugs", nargs="+", choices=list(BUGS), default=list(BUGS), metavar="ID")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="seeds of the campaigns")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for one shrinking")
    parser.add_argument("--jobs", type=int, default=1, help="processes; more than there are cores leave each less time")
    parser.add_argument("--hunts", type=Path, metavar="FILE", help="printed by svm-actors bugs --check --json")
    parser.add_argument("--store", type=Path, default=STORE, help="results made so far")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    options = parser.parse_args(arguments)
    store = Store(options.store, stamp(NO_PART))
    hunts = hunted(options.hunts) if options.hunts else {}
    failing = {which: str(one["token"]) for which, one in hunts.items()}
    keys = [Key(bug, seed, options.seconds) for bug in options.bugs for seed in options.seeds]
    asked: list[Row] = []
    for row in _rows(store, keys, failing, options.jobs):
        asked.append(row)
        print(row.line(), flush=True)
    options.page.write_text(page(store, options.seeds, options.seconds), encoding="utf-8")
    small = sum(row.small for row in asked)
    print(f"{small} of {len(asked)} are small enough; wrote {options.page}")
    return 0 if small == len(asked) else 1


def _rows(store: Store, keys: Sequence[Key], failing: Mapping[tuple[str, int], str], jobs: int) -> Iterator[Row]:
    """A row for each key, those that are there already first."""
    known = [row for row in map(store.get, keys) if row is not None]
    yield from known
    made = {row.key for row in known}
    calls = [(key, failing.get((key.bug, key.seed), "")) for key in keys if key not in made]
    with ProcessPoolExecutor(jobs) as pool:
        for row in pool.map(make_row, calls) if jobs > 1 else map(make_row, calls):
            store.add(row)
            yield row


def page(store: Store, seeds: Sequence[int], time_limit: float) -> str:
    """The whole page: what is known of every bug with these seeds."""
    lines = ["| bug | found in | operations | switches | not needed | draws | runs | s |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    made: list[Row] = []
    for bug in BUGS:
        known = [store.get(Key(bug, seed, time_limit)) for seed in seeds]
        rows = [row for row in known if row is not None]
        made += rows
        if rows:
            lines.append(_cells(bug, rows))
    small = sum(row.small for row in made)
    found = sum(bool(row.target) for row in made)
    total = f"{small} of {found} failures are as small as that. "
    total += f"{len(made) - found} bugs were not found, {len(BUGS) * len(seeds) - len(made)} not looked for.\n"
    numbers = " ".join(map(str, seeds))
    head = HEAD.format(operations=OPERATIONS, unnecessary=UNNECESSARY, seeds=numbers, seconds=time_limit)
    return head + total + "\n" + "\n".join(lines) + "\n"


def _cells(bug: str, rows: Sequence[Row]) -> str:
    """The line of a bug: the most of each number over its seeds."""
    found = [row for row in rows if row.target]
    missed = f" (not with seed {', '.join(str(row.key.seed) for row in rows if not row.target)})"
    names = list(dict.fromkeys(row.target.partition("@")[0].partition("?")[0] for row in found))
    where = ", ".join(names) + (missed if len(found) < len(rows) else "")
    if not found:
        return f"| {bug} | not found | | | | | | |"
    worst = max(found, key=lambda row: row.operations)
    operations = f"{worst.operations} of {worst.original}" if worst.original else "script"
    most = " | ".join(f"{max(getattr(row, name) for row in found):g}" for name in NUMBERS)
    return f"| {bug} | {where} | {operations} | {most} |"
