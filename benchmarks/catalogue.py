"""The pages of the catalogue: docs/catalogue, one per id.

* ``python -m benchmarks catalogue``: measure every planted bug that was not measured yet, and write the pages;
* ``... --bugs ID ...``: measure these again; ``--none``: measure nothing, write the pages;
* ``... --hunts FILE``: what ``svm-actors bugs --check --json`` has printed, so that nothing is looked for twice.

A bug is looked for in the built-in mix with the seeds 1, 2 and 3 (as ``svm-actors bugs --check`` does), and in its
story, where the first failing run is shrunk.  It may be interrupted and started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import Result
from svm_actors.bugs import BUGS
from svm_actors.catalogue import catalogue
from svm_actors.catalogue.rows import IDS
from svm_actors.explore.hunt import SEEDS, hunt, noticed_as_expected
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_once
from svm_actors.explore.shrink import shrink
from svm_actors.explore.targets import subject_named
from svm_actors.report.catalogue_page import Measured, index, page
from svm_actors.report.chart import chart_text

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ROOT / "docs" / "catalogue"
STORE: Final = PAGES / "measured.json"
SCHEDULES: Final = 10_000
"""Schedules of the story in which a failing run is looked for."""
MORE: Final = 30
"""Further ones, of which the shortest failing one is taken."""
SECONDS: Final = 20.0
"""Of shrinking."""


def failing(bug: str) -> Run:
    """Of the first failing runs of the bug's story the shortest.  RuntimeError when there is none."""
    subject = subject_named(f"{BUGS[bug].story}@0")
    best: Run | None = None
    left = SCHEDULES
    for number in range(SCHEDULES):
        one = run_once(subject, seed=f"catalogue/{number}", strategy="portfolio", bugs=(bug,), backend="direct")
        if one.failure is not None and noticed_as_expected(bug, one.failure):
            left = min(left, number + MORE)
            best = one if best is None or one.steps < best.steps else best
        if number >= left:
            break
    if best is None:
        raise RuntimeError(f"{bug} was not found in {SCHEDULES} schedules of {subject.name}")
    return best


def hunted(path: Path) -> dict[str, tuple[int, ...]]:
    """Schedules by bug, of bugs that were found with every seed."""
    by_bug: dict[str, dict[str, int]] = {}
    for one in json.loads(path.read_text(encoding="utf-8"))["hunts"]:
        if one["found"]:
            by_bug.setdefault(one["bug"], {})[one["seed"]] = one["runs"]
    return {bug: tuple(runs[seed] for seed in SEEDS) for bug, runs in by_bug.items() if set(SEEDS) <= set(runs)}


def measure(call: tuple[str, tuple[int, ...]], seconds: float = SECONDS) -> tuple[str, Measured]:
    """Look for it, unless it is known how many schedules that takes, and shrink a failing run of its story."""
    bug, known = call
    runs = known or tuple(hunt(bug, seed).runs for seed in SEEDS)
    one = failing(bug)
    shrunk = shrink(one.subject, one.token, seconds=seconds)
    merit, failure = shrunk.merit, shrunk.failure
    measured = Measured(
        seeds=SEEDS,
        runs=runs,
        noticed=f"{failure.oracle}/{failure.rule}",
        target=shrunk.run.subject.name,
        operations=merit.operations if shrunk.run.subject.is_program else 0,
        choices=merit.deviations,
        preemptions=merit.preemptions,
        steps=merit.steps,
        token=shrunk.token,
        chart=chart_text(shrunk),
    )
    return bug, measured


def read_measured(path: Path = STORE) -> dict[str, Measured]:
    """What was measured, by bug."""
    if not path.exists():
        return {}
    return {bug: _of_json(entry) for bug, entry in json.loads(path.read_text(encoding="utf-8")).items()}


def _of_json(entry: dict[str, Any]) -> Measured:
    return Measured(**{**entry, "seeds": tuple(entry["seeds"]), "runs": tuple(entry["runs"])})


def write_measured(found: dict[str, Measured], path: Path = STORE) -> None:
    """Only of bugs that there are."""
    known = {bug: attrs.asdict(found[bug]) for bug in BUGS if bug in found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


@cache
def citing() -> dict[str, list[str]]:
    """Files of tests and scenarios by the ids they name."""
    found: dict[str, list[str]] = {}
    for folder in ("tests", "scenarios"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in sorted(set(IDS.findall(path.read_text(encoding="utf-8")))):
                found.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    return found


def pages(measured: dict[str, Measured]) -> Iterator[tuple[str, str]]:
    """Name and text of every page."""
    yield "README.md", index(catalogue())
    for name, entry in catalogue().items():
        yield f"{name}.md", page(entry, measured.get(name), citing().get(name, []))


def write_pages(measured: dict[str, Measured], folder: Path = PAGES) -> int:
    """Write them all, and take away those of ids that are no more."""
    texts = dict(pages(measured))
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return len(texts)


def run() -> list[Result]:
    """Nothing is timed here."""
    return []


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks catalogue")
    parser.add_argument("--bugs", nargs="+", choices=list(BUGS), metavar="ID", help="measure these again")
    parser.add_argument("--none", action="store_true", help="measure nothing")
    parser.add_argument("--hunts", type=Path, metavar="FILE", help="printed by svm-actors bugs --check --json")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of shrinking, for each bug")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    found = read_measured()
    wanted = [] if options.none else options.bugs or [bug for bug in BUGS if bug not in found]
    runs = hunted(options.hunts) if options.hunts else {}
    calls = [(bug, runs.get(bug, ())) for bug in wanted]
    with ProcessPoolExecutor(options.jobs) as pool:
        for bug, measured in pool.map(partial(measure, seconds=options.seconds), calls):
            found[bug] = measured
            write_measured(found)
            print(f"{bug:<8} {measured.runs}  {measured.noticed}", flush=True)
    write_measured(found)
    print(f"wrote {write_pages(found)} pages to {PAGES.relative_to(ROOT)}")
    return 0


