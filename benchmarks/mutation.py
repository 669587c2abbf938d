"""Are small mistakes in the model noticed?  A run of the mutation tester cosmic-ray, and the table of it.

* ``python -m benchmarks mutation``: how many mutants the kept run noticed;
* ``python -m benchmarks mutation --sample 140 [--modules drm/gpusvm.py ...]``: judge those of a seeded sample of
  mutants that were not judged yet and write docs/mutation.md.  It may be interrupted and started again.  ``--again``
  judges the survivors once more, after tests were added; ``--rungs`` leaves rungs out;
* ``python -m benchmarks mutation --check``: the model itself has to hold on every rung;
* ``python -m benchmarks mutation --none``: write the page anew, after a judgement.

It needs the extra ``mutation``.  What is mutated: gpusvm, the pagemap, notifiers, device migration, and faults and
invalidation of xe.  A mutant is noticed by a test or by a fuzz run (:mod:`benchmarks._rungs`); what no rung notices is
judged by hand in benchmarks/mutation_judgements.txt: ``equivalent``, when no program can tell the mutant from the
model, or ``missed``.  A result counts as long as the mutated module stays as it was.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import importlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from benchmarks import Result
from benchmarks._kept import keep, kept
from benchmarks._ladder import Rung, Tree, Verdict, judge
from benchmarks._mutants import Mutant, drawn, places, quotas

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "svm_actors"
PAGE: Final = ROOT / "docs" / "mutation.md"
STORE: Final = ROOT / "benchmarks" / "mutation.jsonl"
MEASURED: Final = ROOT / "benchmarks" / "mutation_measured.json"
SECOND: Final = {"page": ROOT / "docs" / "mutation_second.md", "measured": ROOT / "benchmarks" / "mutation_second.json"}
"""Where a sample is kept that was counted as it was drawn, by option."""
JUDGEMENTS: Final = ROOT / "benchmarks" / "mutation_judgements.txt"
SAMPLE: Final = 140
SEED: Final = 1
GOAL: Final = 0.85
"""Part of the mutants that change behaviour that has to be noticed."""
GLOBS: Final = (
    "drm/gpusvm*.py",
    "drm/pagemap*.py",
    "mm/mmu_notifier.py",
    "mm/migrate_device.py",
    "xe/pagefault.py",
    "xe/svm_fault.py",
    "xe/fault_*.py",
    "xe/tlb_inval.py",
    "xe/svm_range.py",
    "xe/garbage.py",
)
IMPORT: Final = "import"
TESTS: Final = "tests"
RUNGS: Final = (IMPORT, "near fuzz", "witnesses", TESTS, "windows", "whole fuzz")
PREPARED: Final = ("attrs", "click", "msgspec", "pytest", "rich", "sortedcontainers", "trio")
"""Packages imported once, before processes are forked; not those whose tests pytest rewrites (hypothesis)."""


@attrs.frozen
class Row:
    """What became of a mutant, without its text."""

    key: str
    """Of the mutant."""
    module: str
    """File, relative to the package."""
    line: int
    """Of the change."""
    before: str
    """The line."""
    after: str
    """What it became."""
    rung: str
    """What noticed it; empty: nothing."""
    noticed: str
    """How."""
    seconds: float
    """Wall-clock time."""


@attrs.frozen
class Measured:
    """A whole run, as it is kept with the sources."""

    seed: int
    """Of the sample."""
    places: dict[str, int]
    """How many places of each module can be changed."""
    mutants: dict[str, int]
    """How many mutants these have."""
    rows: tuple[Row, ...]
    """The sample."""
    asked: int = SAMPLE
    """How many were asked for; every module gives one at least."""
    mended: bool = False
    """What was missed at first has got a test, and was judged again."""


@attrs.frozen
class Judgement:
    """What a reader of the code says about a survivor."""

    equivalent: bool
    """Whether nothing can tell it from the model."""
    reason: str
    """Why."""


def modules() -> list[str]:
    """What is mutated, relative to the package."""
    return [path.relative_to(PACKAGE).as_posix() for glob in GLOBS for path in sorted(PACKAGE.glob(glob))]


# -- results that are kept -----------------------------------------------------------------


class Store:
    """Rows in a file of JSON lines; the last one of a mutant counts, those of another text of its module do not."""

    def __init__(self, path: Path, stamps: dict[str, str]) -> None:
        self.path = path
        self.stamps = stamps
        self._rows: dict[str, Row] = {}
        for entry in kept(path):
            if entry.pop("stamp") == stamps.get(entry["module"]):
                self._rows[entry["key"]] = Row(**entry)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._rows[row.key] = row
        keep(self.path, {**attrs.asdict(row), "stamp": self.stamps[row.module]})

    def get(self, key: str) -> Row | None:
        """The row, if it was made."""
        return self._rows.get(key)


def read_measured(path: Path = MEASURED) -> Measured:
    """The run that is kept with the sources."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    return Measured(**{**entry, "rows": tuple(Row(**row) for row in entry["rows"])})


def write_measured(measured: Measured, path: Path = MEASURED) -> None:
    """One row a line, so that two runs can be compared; times are left out."""
    rows = ",\n".join(json.dumps({**attrs.asdict(row), "seconds": 0.0}) for row in measured.rows)
    head = json.dumps(attrs.asdict(measured, filter=lambda field, _value: field.name != "rows"))
    path.write_text(f'{head[:-1]}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")


def read_judgements(path: Path = JUDGEMENTS) -> dict[str, Judgement]:
    """By key of the mutant.  ValueError with the line when one is malformed."""
    found: dict[str, Judgement] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, verdict, reason = ([*(part.strip() for part in line.split(" | ", 2)), "", ""])[:3]
        if verdict not in ("equivalent", "missed") or not reason or key in found:
            raise ValueError(f"{path.name}:{number}: expected one line KEY | equivalent or missed | REASON for a key")
        found[key] = Judgement(verdict == "equivalent", reason)
    return found


# -- making them ---------------------------------------------------------------------------


def sample(wanted: Sequence[str], total: int, seed: int) -> tuple[list[Mutant], dict[str, int], dict[str, int]]:
    """The mutants that are drawn; of each module the places, and the mutants these have."""
    known = {module: places(PACKAGE / module) for module in wanted}
    sizes = {module: len(found) for module, found in known.items()}
    counts = quotas(sizes, total)
    mutants = [
        mutant
        for module, found in known.items()
        for mutant in drawn(PACKAGE / module, module, found, counts[module], seed)
    ]
    return mutants, sizes, {module: sum(len(place.changes) for place in found) for module, found in known.items()}


def row_of(mutant: Mutant, verdict: Verdict) -> Row:
    """Both as a row."""
    texts = (mutant.key, mutant.module, mutant.line, mutant.before, mutant.after)
    return Row(*texts, verdict.rung, verdict.noticed, verdict.seconds)


def make_rows(store: Store, mutants: Sequence[Mutant], rungs: Sequence[str] = RUNGS) -> None:
    """Judge mutants on some of the rungs, one after the other.

    RuntimeError when a test of this copy fails without any mutant: then no failure would mean anything.
    """
    from benchmarks._rungs import kind, ladder

    with prepared_tree() as tree:
        trusted: set[str] = set()
        for number, mutant in enumerate(mutants, 1):
            chosen = [rung for rung in ladder(mutant.module) if rung.name in rungs]
            if kind(mutant.module) not in trusted:
                trusted.add(kind(mutant.module))
                must_hold(tree, mutant.module, [rung for rung in chosen if rung.name in (IMPORT, TESTS)])
            with tree.changed(f"svm_actors/{mutant.module}", mutant.source):
                row = row_of(mutant, judge(tree.path, chosen))
            store.add(row)
            print(f"{number:>4}/{len(mutants)} {row.seconds:6.1f} s  {row.rung or 'NOTHING':<10} {row.key}", flush=True)


def must_hold(tree: Tree, module: str, rungs: Sequence[Rung]) -> None:
    """Of the model as it is.  RuntimeError says what fails."""
    verdict = judge(tree.path, rungs) if rungs else Verdict("", "", 0.0)
    if verdict.rung:
        raise RuntimeError(f"{verdict.rung} for {module} fail without a mutant: {verdict.noticed}")


@contextmanager
def prepared_tree() -> Iterator[Tree]:
    """A copy of the project in which the package is compiled, and what judging needs beside it imported."""
    for name in PREPARED:
        importlib.import_module(name)
    if "svm_actors" in sys.modules:
        raise RuntimeError("the package is imported already: mutants of it would not be seen")
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(ROOT, Path(folder))
        compileall.compile_dir(tree.path / "svm_actors", quiet=1)
        yield tree


def check_unchanged(wanted: Sequence[str]) -> bool:
    """The model itself must hold on every rung, or nothing that a rung notices means anything."""
    from benchmarks._rungs import kind, ladder

    held = True
    with prepared_tree() as tree:
        for begin, module in {kind(module): module for module in wanted}.items():
            verdict = judge(tree.path, ladder(module))
            held = held and not verdict.rung
            text = f"FAILS at {verdict.rung}: {verdict.noticed}" if verdict.rung else "holds"
            print(f"{begin:<20} {verdict.seconds:6.1f} s  the unchanged model {text}", flush=True)
    return held


# -- the page ------------------------------------------------------------------------------


HEAD: Final = """# Are small mistakes in the model noticed?

The mutation tester cosmic-ray makes mutants: copies of a module in which one operator, comparison, constant,
condition, loop, handler or decorator is another.  Of the {places} places in these modules that it can change, with
{mutants} mutants, {drawn} were drawn with the seed {seed}, one mutant of each place.  Changes of annotations and
docstrings, of what is imported for the type checker alone, and `==` for `is`, are no mutants here.  Each was judged by
these rungs, in this order, until one noticed it:

* *import*: the package can be imported;
* *near fuzz*: 60 runs of the targets nearest to the module;
* *witnesses*: one run of every witness;
* *tests*: the tests nearest to the module;
* *windows*: the tests that every race's window is reached;
* *whole fuzz*: 500 runs of the built-in mix.

What survived was judged by hand: *equivalent* is what no program can tell from the model, the rest was missed.  What
survived up to *tests* and was judged equivalent then need not have been taken to the last two rungs.  A run that spends
twenty times its usual steps, a process that hangs or ends, count as noticed; the unchanged model has to hold on every
rung (`--check`).

{mended}

**{killed} of {changing} mutants that change behaviour were noticed: {rate:.1%}** (the goal is {goal:.0%});
{equivalent} are equivalent.

Made by

    pip install -e '.[test,mutation]'
    python -m benchmarks mutation --sample {sample} --seed {seed}{where}

"""
MENDED: Final = """What this sample showed to be missed has got a test since and was judged again, so its rate says
what was reached; a second sample, counted as it was drawn, is in mutation_second.md."""
AS_DRAWN: Final = """Nobody had looked at these mutants before they were counted, so the rate is that of tests
which were not written for them.  What was missed has got a test afterwards.  The first sample is in mutation.md."""


def kinds(rows: Sequence[Row], judgements: dict[str, Judgement]) -> tuple[int, int]:
    """How many were noticed, and how many are equivalent."""
    equal = sum(not row.rung and row.key in judgements and judgements[row.key].equivalent for row in rows)
    return sum(bool(row.rung) for row in rows), equal


def rate(measured: Measured, judgements: dict[str, Judgement]) -> float:
    """Part of the mutants that change behaviour that was noticed; what was not judged counts as missed."""
    killed, equal = kinds(measured.rows, judgements)
    return killed / max(1, len(measured.rows) - equal)


def kept_beside() -> str:
    """The options that keep a second sample from taking the place of the first."""
    return "".join(f" --{name} {path.relative_to(ROOT)}" for name, path in SECOND.items())


def page(measured: Measured, judgements: dict[str, Judgement]) -> str:
    """The whole page."""
    killed, equal = kinds(measured.rows, judgements)
    head = HEAD.format(
        places=sum(measured.places.values()),
        mutants=sum(measured.mutants.values()),
        drawn=len(measured.rows),
        sample=measured.asked,
        mended=MENDED if measured.mended else AS_DRAWN,
        where="" if measured.mended else kept_beside(),
        seed=measured.seed,
        killed=killed,
        changing=len(measured.rows) - equal,
        equivalent=equal,
        rate=rate(measured, judgements),
        goal=GOAL,
    )
    return "\n".join([*head.splitlines(), *table(measured, judgements), "", *survivors(measured, judgements)]) + "\n"


def table(measured: Measured, judgements: dict[str, Judgement]) -> list[str]:
    """One line a module."""
    names = ("module", "places", "drawn", *RUNGS, "equivalent", "missed")
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    for module in [*measured.places, ""]:
        rows = [row for row in measured.rows if not module or row.module == module]
        by_rung = Counter(row.rung for row in rows)
        killed, equal = kinds(rows, judgements)
        size = measured.places[module] if module else sum(measured.places.values())
        numbers = [size, len(rows), *(by_rung[rung] for rung in RUNGS), equal, len(rows) - killed - equal]
        lines.append(f"| {module or 'all'} | {' | '.join(str(number) for number in numbers)} |")
    return lines


def survivors(measured: Measured, judgements: dict[str, Judgement]) -> list[str]:
    """Each with its line, the change and the judgement."""
    lines = ["## Survivors", ""]
    for row in (row for row in measured.rows if not row.rung):
        judgement = judgements.get(row.key)
        word = "not judged" if judgement is None else "equivalent" if judgement.equivalent else "missed"
        lines += [f"`{row.key}`: **{word}**.", ""]
        lines += ["```diff", f"- {row.before}", f"+ {row.after}", "```", ""]
        lines += [judgement.reason, ""] if judgement else []
    return lines[:-1]


def run() -> list[Result]:
    """Of the run that is kept."""
    value = rate(read_measured(), read_judgements())
    return [Result("mutants that change behaviour and are noticed", value, GOAL, "", at_least=True)]


def main(arguments: Sequence[str]) -> int:
    """The command; exit 1 when less than the goal is noticed, or when the model itself does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutation")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=SEED, help="of the sample")
    parser.add_argument("--modules", nargs="+", choices=modules(), default=modules(), metavar="MODULE")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=RUNGS, metavar="RUNG", help="only these")
    parser.add_argument("--again", action="store_true", help="judge survivors once more that are not equivalent")
    parser.add_argument("--list", action="store_true", help="show what is drawn and judge nothing")
    parser.add_argument("--none", action="store_true", help="judge nothing, write the page of the kept run")
    parser.add_argument("--check", action="store_true", help="judge the model itself and no mutant")
    parser.add_argument("--store", type=Path, default=STORE, help="results made so far")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="where the run is kept")
    options = parser.parse_args(arguments)
    if options.check:
        return 0 if check_unchanged(options.modules) else 1
    if not options.none and not make_run(options):
        return 0
    measured, judgements = read_measured(options.measured), read_judgements()
    options.page.write_text(page(measured, judgements), encoding="utf-8")
    print(f"wrote {options.page}: {rate(measured, judgements):.1%}")
    return 0 if rate(measured, judgements) >= GOAL else 1


def make_run(options: argparse.Namespace) -> bool:
    """Draw, judge and keep; False when what is drawn was only to be shown."""
    mutants, sizes, counts = sample(options.modules, options.sample, options.seed)
    if options.list:
        print("\n".join(f"{m.key}\n  {m.line}: {m.before}\n  -> {m.after}" for m in mutants))
        return False
    store, judgements = Store(options.store, {module: stamp(module) for module in options.modules}), read_judgements()
    missing = [mutant for mutant in mutants if is_missing(store.get(mutant.key), judgements, options.again)]
    if missing:
        make_rows(store, missing, options.rungs)
    rows = tuple(row for mutant in mutants if (row := store.get(mutant.key)) is not None)
    write_measured(Measured(options.seed, sizes, counts, rows, options.sample, options.again), options.measured)
    return True


def is_missing(row: Row | None, judgements: dict[str, Judgement], again: bool) -> bool:
    """Whether a mutant has to be judged: it never was, or it survived and it is worth another try."""
    if row is None:
        return True
    return again and not row.rung and not (row.key in judgements and judgements[row.key].equivalent)


def stamp(module: str) -> str:
    """Of a module's text."""
    return hashlib.blake2b((PACKAGE / module).read_bytes(), digest_size=16).hexdigest()
