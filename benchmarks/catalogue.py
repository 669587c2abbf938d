"""The pages of the catalogue: docs/catalogue, one per id.

* ``python -m benchmarks catalogue --none``: write them, with what was measured of the bugs before;
* ``... --hunts FILE [--shrunk STORE]``: take in what ``svm-actors bugs --check --json`` has printed, which says in how
  many schedules a bug is found, and what ``python -m benchmarks shrinking`` keeps, of which the shortest run is shown;
  where that has none of this version, the run that was shown before stays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import Result, shrinking
from benchmarks.bugs import stamp
from svm_actors.bugs import BUGS
from svm_actors.catalogue import catalogue
from svm_actors.catalogue.entry import Entry
from svm_actors.catalogue.rows import IDS
from svm_actors.explore.hunt import SEEDS
from svm_actors.report.catalogue_page import Measured, index, page

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ROOT / "docs" / "catalogue"
STORE: Final = PAGES / "measured.json"


def counts(path: Path) -> dict[str, tuple[int, ...]]:
    """Schedules by bug, of bugs that were found with every seed."""
    found = shrinking.hunted(path)
    wanted = {bug: [(bug, int(seed)) for seed in SEEDS] for bug, _seed in found}
    return {bug: tuple(found[key]["runs"] for key in keys) for bug, keys in wanted.items() if found.keys() >= set(keys)}


def smallest(store: shrinking.Store, bug: str) -> shrinking.Row | None:
    """Of the shrunk runs of a bug the shortest: that which is read fastest."""
    rows = [row for row in store.rows() if row.key.bug == bug and row.token]
    return min(rows, key=lambda row: (row.steps, row.operations, row.key.seed), default=None)


def measured_of(runs: tuple[int, ...], row: shrinking.Row) -> Measured:
    """What a page shows."""
    return Measured(
        seeds=SEEDS,
        runs=runs,
        noticed=row.noticed,
        target=row.target,
        operations=row.operations,
        choices=row.choices,
        preemptions=row.preemptions,
        steps=row.steps,
        token=row.token,
        chart=row.chart,
    )


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
        yield f"{name}.md", page(entry, _shown(entry, measured), citing().get(name, []))


def _shown(entry: Entry, measured: dict[str, Measured]) -> tuple[str, Measured] | None:
    """Its own run, or that of a bug which opens its window."""
    return next(((bug, measured[bug]) for bug in (entry.id, *entry.bugs) if bug in measured), None)


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
    parser.add_argument("--none", action="store_true", help="take in nothing new")
    parser.add_argument("--hunts", type=Path, metavar="FILE", help="printed by svm-actors bugs --check --json")
    parser.add_argument("--shrunk", type=Path, default=shrinking.STORE, help="kept by python -m benchmarks shrinking")
    options = parser.parse_args(arguments)
    found = read_measured()
    if options.hunts:
        store = shrinking.Store(options.shrunk, stamp(shrinking.NO_PART))
        for bug, runs in counts(options.hunts).items():
            row = smallest(store, bug)
            if row is not None:
                found[bug] = measured_of(runs, row)
            elif bug in found:
                found[bug] = attrs.evolve(found[bug], runs=runs)
    write_measured(found)
    print(f"wrote {write_pages(found)} pages to {PAGES.relative_to(ROOT)}")
    return 0
