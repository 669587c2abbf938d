"""Suspected issues of Linux 7.3.4 (digest ids -S, the latent rows of core_mm 16.2, vm_bind 18): docs/suspected.md.

* ``python -m benchmarks suspected``: search for every suspicion that was not searched yet, and write the page;
* ``... --only ID ...``: search for these again; ``--none``: search nothing, write the page.

Each is looked for where the model does as the kernel is suspected to do, or with that planted: schedules of the
portfolio with three seeds, up to the first that shows it.  The shortest of them is shrunk.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import Result
from benchmarks._suspected_mm import MM
from benchmarks._suspected_others import OTHERS
from benchmarks._suspected_page import page_text
from benchmarks._suspected_pgm import PGM
from benchmarks._suspected_svm import SVM
from benchmarks._suspicion import SEEDS, Finding, Suspicion
from svm_actors.explore.exploration import explore
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_once
from svm_actors.explore.shrink import shrink
from svm_actors.explore.subject import Subject
from svm_actors.explore.targets import subject_named
from svm_actors.report.chart import chart_text

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "suspected.md"
STORE: Final = ROOT / "docs" / "suspected.json"
SUSPICIONS: Final = {each.id: each for each in (*SVM, *PGM, *MM, *OTHERS)}
"""Every one by id, in the order of the page."""
SECONDS: Final = 20.0
"""Of shrinking."""


def once(suspicion: Suspicion, subject: Subject, seed: str) -> Run:
    """One schedule."""
    return run_once(
        subject,
        seed=seed,
        strategy="portfolio",
        bugs=suspicion.bugs,
        backend="direct",
        race_timers=suspicion.race_timers,
        step_budget=suspicion.step_budget,
    )


def first_reached(suspicion: Suspicion, subject: Subject, seed: str) -> tuple[int, Run | None]:
    """How many schedules were made, and the run that shows it.

    A planted bug may show otherwise in its own story, which is passed over.  RuntimeError for any other failure.
    """
    for number in range(suspicion.schedules):
        one = once(suspicion, subject, f"{seed}/{number}")
        if one.failure is None or not one.failure.conclusive:
            continue
        if suspicion.known_by(one.failure.oracle, one.failure.rule):
            return number + 1, one
        if not suspicion.in_its_story:
            raise RuntimeError(f"{suspicion.id}, seed {seed}/{number}: {one.failure.headline}")
    return suspicion.schedules, None


def search(suspicion: Suspicion, seconds: float = SECONDS) -> Finding:
    """Look for it with every seed, and shrink the shortest run that shows it."""
    subject = subject_named(suspicion.searched)
    found = [first_reached(suspicion, subject, seed) for seed in SEEDS]
    schedules = tuple(number for number, _run in found)
    shown = [run for _number, run in found if run is not None]
    if not shown:
        return Finding(schedules, explored=explored(suspicion, subject) if suspicion.exhaustive else 0)
    one = min(shown, key=lambda run: run.steps)
    shrunk = shrink(subject, one.token, seconds=seconds)
    merit, failure = shrunk.merit, shrunk.failure
    return Finding(
        schedules=schedules,
        noticed=f"{failure.oracle}/{failure.rule}",
        message=failure.message.splitlines()[0],
        target=shrunk.run.subject.name,
        operations=merit.operations if shrunk.run.subject.is_program else 0,
        choices=merit.deviations,
        preemptions=merit.preemptions,
        steps=merit.steps,
        token=shrunk.token,
        chart=chart_text(shrunk),
    )


def explored(suspicion: Suspicion, subject: Subject) -> int:
    """Every schedule without a preemption: how many classes there are.  RuntimeError unless all of them hold."""
    whole = explore(subject, preemptions=0, bugs=suspicion.bugs)
    if whole.failures or whole.stopped_by != "complete":
        raise RuntimeError(f"{suspicion.id}: {len(whole.failures)} failures, stopped by {whole.stopped_by}")
    return whole.runs


def read_findings(path: Path = STORE) -> dict[str, Finding]:
    """What was found, by id."""
    if not path.exists():
        return {}
    return {name: _of_json(entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}


def _of_json(entry: dict[str, Any]) -> Finding:
    return Finding(**{**entry, "schedules": tuple(entry["schedules"])})


def write_findings(found: dict[str, Finding], path: Path = STORE) -> None:
    """Only of suspicions that there are."""
    known = {name: attrs.asdict(found[name]) for name in SUSPICIONS if name in found}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def page(found: dict[str, Finding]) -> str:
    """The page, with a newline at the end."""
    return page_text(SUSPICIONS, found)


def run() -> list[Result]:
    """Nothing is timed here."""
    return []


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks suspected")
    parser.add_argument("--only", nargs="+", choices=list(SUSPICIONS), metavar="ID", help="search for these again")
    parser.add_argument("--none", action="store_true", help="search nothing")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of shrinking, for each")
    options = parser.parse_args(arguments)
    found = read_findings()
    missing = [name for name in SUSPICIONS if name not in found]
    for name in [] if options.none else options.only or missing:
        if SUSPICIONS[name].searched:
            found[name] = search(SUSPICIONS[name], options.seconds)
            write_findings(found)
            print(f"{name:<16} {found[name].schedules}  {found[name].noticed or 'not reached'}", flush=True)
    write_findings(found)
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0
