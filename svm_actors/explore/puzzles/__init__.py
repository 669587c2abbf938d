"""The published benchmark programs of concurrency testing, as tiny programs (exploration digest, part 3).

``PUZZLES`` has every one by name; :func:`svm_actors.explore.puzzles.program.run_puzzle` makes a run.
"""

from __future__ import annotations

from svm_actors.explore.puzzles import always, chess, convul, counters, inspect, radbench
from svm_actors.explore.puzzles.program import Form, Outcome, Puzzle, maximal_run, run_puzzle

__all__ = ["PUZZLES", "Form", "Outcome", "Puzzle", "maximal_run", "run_puzzle"]

PUZZLES: dict[str, Puzzle] = {
    puzzle.name: puzzle
    for module in (counters, inspect, chess, radbench, convul, always)
    for puzzle in module.PUZZLES
}
"""By the name the digest gives it, in its order."""
