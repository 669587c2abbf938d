"""Trials: how many schedules of a benchmark program a strategy needs to its first failure.

The programs are in overlay form (exploration digest, part 3).  Trial t makes runs with the seeds ``t/0``,
``t/1``, ... until one fails or the cap is reached.  What a strategy wants to know of the program is
learned once: PCT's horizon from the canonical run, raised by every run of the trial; the profile of URW,
N-U and SURW from the canonical run and nine random walks.

A cell (program and strategy) that finds nothing makes all its runs, and some programs have thousands
of ops; so the cap of a program is lowered until such a cell stays within :data:`CELL_STEPS` ops.

Results are appended to a file of JSON lines, one per trial, and never made twice: what was found within
a smaller cap counts under a larger one, and what was not found under a larger cap was not under a smaller.
Results of other strategies or programs than these, by the digest of their sources, do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import attrs

from benchmarks._kept import keep, kept
from benchmarks._rates import GrowingPct, Maker, counted, profile_of
from svm_actors.engine.chooser import Chooser
from svm_actors.explore import puzzles, strategies
from svm_actors.explore.determinism import digest
from svm_actors.explore.puzzles import PUZZLES, Puzzle, run_puzzle
from svm_actors.explore.strategies import FairPct, Pct, Pos, RandomWalk, Surw, Urw
from svm_actors.explore.strategies.pct import cycled_depth
from svm_actors.explore.strategies.portfolio import member_of
from svm_actors.explore.strategies.profile import Canonical

COLUMNS: Final = ("RW", "POS", "PCT-3", "PCT-10", "URW", "N-U", "SURW", "portfolio")
UNPROFILED: Final = ("RW", "POS")
"""Strategies that learn nothing beforehand; to the others the published count adds one run."""
USED: Final = ("random_walk", "rp", "pos", "pct", "urw", "surw", "profile", "portfolio")
"""Modules of the strategies that the columns are made of."""
CELL_STEPS: Final = 15_000_000
"""Ops that the trials of one cell may take together when nothing is found."""
LEAST: Final = 100
"""No program's cap is lowered below this."""


@attrs.frozen
class Key:
    """One trial of one cell."""

    target: str
    """Name of the program."""
    strategy: str
    """Column."""
    trial: int
    """Number, and seed."""


@attrs.frozen
class Result:
    """What a trial came to."""

    key: Key
    """Which one."""
    cap: int
    """Schedules it was allowed."""
    first: int | None
    """Schedules up to and including the first failing one; None when none failed."""
    steps: int
    """Ops in all its runs."""


def targets() -> list[Puzzle]:
    """The programs of the published table, in its order."""
    return [puzzle for puzzle in PUZZLES.values() if puzzle.published]


@lru_cache(maxsize=4)
def makers(name: str) -> dict[str, Maker]:
    """What makes the choosers of each column but PCT's, which are made for each trial."""
    puzzle = PUZZLES[name]
    profile = profile_of(puzzle, "overlay")
    return {
        "RW": RandomWalk,
        "POS": Pos,
        "URW": lambda seed: Urw(seed, profile),
        "N-U": lambda seed: Surw(seed, profile, locks=puzzle.locks, even=True),
        "SURW": lambda seed: Surw(seed, profile, locks=puzzle.locks),
    }


@cache
def contested(name: str) -> int:
    """Contested steps of the canonical run."""
    return counted(PUZZLES[name], "overlay").contested


@cache
def length(name: str) -> int:
    """Ops of the canonical run."""
    return run_puzzle(PUZZLES[name], Canonical(), "overlay").steps


def cap_of(name: str, cap: int, trials: int, cell_steps: int = CELL_STEPS) -> int:
    """Schedules a trial of this program is allowed."""
    return max(min(cap, LEAST), min(cap, cell_steps // (trials * length(name))))


def _maker(name: str, column: str) -> Maker:
    if column.startswith("PCT-"):
        return GrowingPct(int(column[4:]), contested(name))
    if column != "portfolio":
        return makers(name)[column]
    horizon = contested(name)
    others = {"random": "RW", "pos": "POS", "surw": "SURW"}

    def make(seed: int | str) -> Chooser:
        member = member_of(seed)
        if member == FairPct.name:  # no program of these is long enough for the walk to begin
            return Pct(seed, cycled_depth(seed), horizon)
        return makers(name)[others[member]](seed)

    return make


def make_trial(key: Key, cap: int) -> Result:
    """Run until something fails."""
    puzzle = PUZZLES[key.target]
    maker = _maker(key.target, key.strategy)
    steps = 0
    for number in range(cap):
        outcome = run_puzzle(puzzle, maker(f"{key.trial}/{number}"), "overlay")
        steps += outcome.steps
        if outcome.failing:
            return Result(key, cap, number + 1, steps)
    return Result(key, cap, None, steps)


# -- results that are kept -----------------------------------------------------------------


@cache
def sources() -> str:
    """Digest of the strategies and the programs: results of others do not count."""
    paths = [Path(strategies.__file__).parent / f"{name}.py" for name in USED]
    paths += sorted(Path(puzzles.__file__).parent.glob("*.py"))
    return digest(b"\0".join(path.read_bytes() for path in paths))


class Store:
    """Results in a file of JSON lines; those with another stamp do not count."""

    def __init__(self, path: Path, stamp: str = "") -> None:
        self.path = path
        self.stamp = stamp or sources()
        self._known: dict[Key, list[Result]] = {}
        for entry in kept(path):
            self._read(entry)

    def _read(self, entry: dict[str, object]) -> None:
        if entry.pop("sources") == self.stamp:
            key = Key(str(entry["target"]), str(entry["strategy"]), int(str(entry["trial"])))
            first = entry["first"]
            cap, steps = int(str(entry["cap"])), int(str(entry["steps"]))
            self._remember(Result(key, cap, None if first is None else int(str(first)), steps))

    def _remember(self, result: Result) -> None:
        self._known.setdefault(result.key, []).append(result)

    def add(self, result: Result) -> None:
        """Keep a result."""
        self._remember(result)
        entry = {**attrs.asdict(result.key), "cap": result.cap, "first": result.first, "steps": result.steps}
        keep(self.path, {**entry, "sources": self.stamp})

    def get(self, key: Key, cap: int) -> Result | None:
        """What is known of a trial under this cap; None when it has to be made."""
        for result in self._known.get(key, []):
            if result.first is not None:
                return attrs.evolve(result, cap=cap, first=result.first if result.first <= cap else None)
            if result.cap >= cap:
                return attrs.evolve(result, cap=cap)
        return None


def missing(store: Store, keys: Iterable[tuple[Key, int]]) -> list[tuple[Key, int]]:
    """Trials that have to be made."""
    return [(key, cap) for key, cap in keys if store.get(key, cap) is None]


def make_missing(
    store: Store, keys: Iterable[tuple[Key, int]], jobs: int, make: Callable[[tuple[Key, int]], Result] | None = None
) -> Iterator[Result]:
    """Make them on several processes and keep them, in their order."""
    wanted = missing(store, keys)
    with ProcessPoolExecutor(jobs) as pool:
        for result in pool.map(make or _make, wanted):
            store.add(result)
            yield result


def _make(call: tuple[Key, int]) -> Result:
    return make_trial(*call)
