"""The published benchmark programs: how fast they run, whether rates are right, and the comparison table.

* ``python -m benchmarks puzzles``: scheduling points per second of a few programs in overlay form;
* ``... puzzles --rates 10000 [--targets NAME ...]``: failing rates of the lean forms against the digest's
  table 2.4; exit 1 when one is off;
* ``... puzzles --trials 20 --cap 10000 [--targets NAME ...]``: make the trials that are not made yet and
  write docs/strategies.md.  It may be interrupted and started again; results do not depend on ``--jobs``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Result, seconds
from benchmarks._published import LEAN
from benchmarks._rates import rates
from benchmarks._strategies_page import page
from benchmarks._trials import CELL_STEPS, COLUMNS, Key, Store, cap_of, make_missing, make_trial, missing, targets
from svm_actors.explore.puzzles import PUZZLES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "strategies.md"
STORE = ROOT / "benchmarks" / "strategies.jsonl"
SAMPLE = ("twostage_20", "reorder_100", "bbuf")
"""Programs whose speed is measured: short, many tasks, long."""


def run(schedules: int = 20) -> list[Result]:
    """Microseconds per scheduling point, profile and set-up of the run included."""
    found = []
    for name in SAMPLE:
        for column in ("RW", "POS", "SURW"):
            key = Key(name, column, 0)
            steps = make_trial(key, schedules).steps
            cost = seconds(lambda key=key: make_trial(key, schedules)) / steps  # type: ignore[misc]
            found.append(Result(f"{name}, {column}: scheduling point", cost * 1e6, None, "us"))
    return found


def main(arguments: Sequence[str]) -> int:
    """The command; exit 0, 1 when a rate is off, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.targets or () if name not in PUZZLES]
    if unknown:
        print(f"no program named {unknown[0]!r}; known: {', '.join(PUZZLES)}", file=sys.stderr)
        return 2
    if options.rates:
        return check_rates(options.rates, options.targets or list(LEAN))
    store = Store(options.store)
    make_table(store, options)
    options.page.write_text(page(store, options.trials, options.cap, options.cell_steps), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks puzzles")
    parser.add_argument("--trials", type=int, default=20, help="trials of each program under each strategy")
    parser.add_argument("--cap", type=int, default=10_000, help="schedules of one trial")
    parser.add_argument("--cell-steps", type=int, default=CELL_STEPS, help="ops of a cell that finds nothing")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="only these programs")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS, help="only these strategies")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--store", type=Path, default=STORE, help="results made so far")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    parser.add_argument("--rates", type=int, metavar="N", help="check the rates of the lean forms with N runs each")
    return parser


def check_rates(runs: int, names: Sequence[str]) -> int:
    """Print each row of table 2.4 measured again; 1 when a cell is off."""
    held = True
    for name in names:
        row = rates(PUZZLES[name], runs)
        held = held and all(each.held for each in row)
        print(f"{name:<16} {'  '.join(map(str, row))}", flush=True)
    return 0 if held else 1


def make_table(store: Store, options: argparse.Namespace) -> None:
    """Make what is missing, with a line per program."""
    names = options.targets or [puzzle.name for puzzle in targets()]
    for name in names:
        cap = cap_of(name, options.cap, options.trials, options.cell_steps)
        keys = [(Key(name, column, trial), cap) for column in options.columns for trial in range(options.trials)]
        wanted = missing(store, keys)
        begin = time.perf_counter()
        steps = sum(result.steps for result in make_missing(store, wanted, options.jobs)) if wanted else 0
        elapsed = time.perf_counter() - begin
        print(f"{name:<16} cap {cap:>5}  {len(wanted):>3} trials  {steps:>10} ops  {elapsed:7.1f} s", flush=True)
