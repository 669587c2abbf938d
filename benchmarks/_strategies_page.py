"""The page docs/strategies.md: what each strategy needed here, beside the published figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

import attrs

from benchmarks._published import PAPER, PAPER_COLUMNS
from benchmarks._trials import COLUMNS, UNPROFILED, Key, Store, cap_of, targets

NONE: Final = "-"
"""No trial found anything."""
NOT_RUN: Final = "n/r"

HEAD: Final = """# Strategies on the published benchmark programs

How many schedules a strategy needs to its first failing one.
The programs are those of the SURW paper (ASPLOS 2025), restated as tiny programs in the overlay form that the
exploration digest defines: a spawning task and local ops around every listed one stand for the stack traffic
that the published tools instrument.  Their schedules are not those of the original binaries, so equal figures
are not to be expected; the order of the strategies on a program is what can be compared.

Each program has two lines: **here**, and the published figures, *paper*.
A cell is the median number of schedules to the first failure over the trials that found one; `(n)` is how many
did, when not all; `-` is none; `n/r` is not run.  Every strategy but RW and POS has one profiling run counted
in, on both lines (here URW, N-U and SURW make ten for all trials of a program together, which is not counted).
On both lines a deadlock counts as found.  Here a silent memory error counts too (CVE-2017-15265), and a run
that spends its budget of steps counts as a schedule that found nothing.

`portfolio` draws RW, POS, PCT with a depth of 2 to 6, or SURW for every run.

"""

FOOT: Final = """
## What the columns are

| column | strategy |
|---|---|
| RW | random walk |
| POS | partial order sampling |
| PCT-3, PCT-10 | PCT of that depth (below) |
| URW | uniform random walk, over all ops |
| N-U | SURW with the intended task drawn evenly: selective, not uniform |
| SURW | selectively uniform random walk, base rule random priority |

PCT here: k is the largest number of contested steps seen so far, and the change comes before the choice.  In the
paper: k is 1.2 times all events of one run, and the change comes after the choice.

Which figures decide what `svm-actors fuzz` does: no strategy wins everywhere, POS is strong without any
parameter, SURW wins where op counts are lopsided, and RW is not always the worst; so the default is the
portfolio of RW, POS, PCT and SURW.  URW is left out: it is beaten by SURW wherever most ops are noise.
"""


@attrs.frozen
class Cell:
    """One program under one strategy."""

    median: float | None
    """Schedules to the first failure; None when no trial found one."""
    found: int
    """Trials that found one."""
    trials: int
    """Trials made; 0: not run."""

    def __str__(self) -> str:
        if not self.trials:
            return NOT_RUN
        if self.median is None:
            return NONE
        text = f"{self.median:g}"
        return text if self.found == self.trials else f"{text} ({self.found})"


def cell(store: Store, target: str, column: str, trials: int, cap: int) -> Cell:
    """From the results that are kept; not run unless all its trials are."""
    results = [store.get(Key(target, column, trial), cap) for trial in range(trials)]
    made = [result for result in results if result is not None]
    if len(made) < trials:
        return Cell(None, 0, 0)
    extra = 0 if column in UNPROFILED else 1
    firsts = [result.first + extra for result in made if result.first is not None]
    return Cell(statistics.median(firsts) if firsts else None, len(firsts), trials)


def published(name: str, column: str) -> Cell:
    """A published figure."""
    text = PAPER.get(name, {}).get(column, NOT_RUN)
    if text == NOT_RUN:
        return Cell(None, 0, 0)
    median, _, found = text.partition(":")
    return Cell(None, 0, 20) if median == "-" else Cell(float(median), int(found or 20), 20)


def page(store: Store, trials: int, cap: int, cell_steps: int) -> str:
    """The whole page."""
    here: dict[str, dict[str, Cell]] = {}
    paper: dict[str, dict[str, Cell]] = {}
    lines = [f"| program | cap | | {' | '.join(COLUMNS)} |", "|---|---:|---|" + "---:|" * len(COLUMNS)]
    for puzzle in targets():
        limit = cap_of(puzzle.name, cap, trials, cell_steps)
        mine = here[puzzle.name] = {column: cell(store, puzzle.name, column, trials, limit) for column in COLUMNS}
        theirs = paper[puzzle.name] = {column: published(puzzle.published, column) for column in PAPER_COLUMNS}
        lines.append(f"| {puzzle.published} | {limit} | **here** | {_cells(mine, COLUMNS)} |")
        lines.append(f"| | | *paper* | {_cells(theirs, COLUMNS)} |")
    head = (
        f"Here: {trials} trials with the seeds 0 to {trials - 1}, at most {cap} schedules each, fewer (column *cap*)\n"
        f"where a cell that finds nothing would take more than {cell_steps:,} ops.  The paper: 20 trials of at most\n"
        "10000 schedules, SafeStack 1000000.\n\nMade by\n\n"
        f"    python -m benchmarks puzzles --trials {trials} --cap {cap} --cell-steps {cell_steps}\n\n"
    )
    return HEAD + head + "\n".join(lines) + "\n" + _summary(here, paper) + FOOT


def _cells(cells: dict[str, Cell], columns: Sequence[str]) -> str:
    return " | ".join(str(cells[column]) if column in cells else "" for column in columns)


def _summary(here: dict[str, dict[str, Cell]], paper: dict[str, dict[str, Cell]]) -> str:
    """Sums over the programs, one line each here and in the paper."""
    lines = ["", "## Summary", "", f"| over all programs run | | {' | '.join(COLUMNS)} |"]
    lines.append("|---|---|" + "---:|" * len(COLUMNS))
    for what, figure in (
        ("programs run", _run),
        ("programs found at least once", _found),
        ("successful trials / trials", _successes),
        ("best median among those found in all trials (ties counted)", _best),
    ):
        for name, cells in (("**here**", here), ("*paper*", paper)):
            row = [figure(cells, column) for column in COLUMNS]
            lines.append(f"| {what} | {name} | {' | '.join(row)} |")
    lines.append(f"| geometric mean of medians, programs solved in all trials by all | **here** | {_means(here)} |")
    lines.append(f"| | *paper* | {_means(paper)} |")
    return "\n".join(lines) + "\n"


def _of(cells: dict[str, dict[str, Cell]], column: str) -> list[Cell]:
    return [row[column] for row in cells.values() if column in row and row[column].trials]


def _run(cells: dict[str, dict[str, Cell]], column: str) -> str:
    return str(len(_of(cells, column)) or "")


def _found(cells: dict[str, dict[str, Cell]], column: str) -> str:
    made = _of(cells, column)
    return str(sum(each.found > 0 for each in made)) if made else ""


def _successes(cells: dict[str, dict[str, Cell]], column: str) -> str:
    made = _of(cells, column)
    return f"{sum(each.found for each in made)}/{sum(each.trials for each in made)}" if made else ""


def _best(cells: dict[str, dict[str, Cell]], column: str) -> str:
    best = 0
    for row in cells.values():
        medians = [each.median for each in row.values() if each.median is not None and each.found == each.trials]
        mine = row.get(column)
        best += bool(mine and medians and mine.found == mine.trials > 0 and mine.median == min(medians))
    return str(best) if _of(cells, column) else ""


def _means(cells: dict[str, dict[str, Cell]]) -> str:
    """Of the programs that every strategy solved in every trial."""
    solved = [row for row in cells.values() if all(each.trials and each.found == each.trials for each in row.values())]
    columns = list(next(iter(cells.values()), {}))
    if not solved:
        return " | ".join(NONE if column in columns else "" for column in COLUMNS)
    means = {
        column: math.exp(statistics.fmean(math.log(row[column].median or 1) for row in solved)) for column in columns
    }
    return " | ".join(f"{means[column]:.1f}" if column in means else "" for column in COLUMNS)
