"""The design pages: what they point to exists, and what they call unchecked is not secretly checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from svm_actors.catalogue import catalogue

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
GENERATED = (
    "conformance.md", "bugs.md", "shrinking.md", "suspected.md", "mutation.md", "mutation_second.md", "catalogue",
)  # fmt: skip
"""Pages and a folder with a row for every case, bug or id: looked up, not read."""
PACKAGE = ROOT / "svm_actors"
NOT_YET = (ROOT / "docs" / "design" / "not_yet.md").read_text()
ROWS = dict(re.findall(r"^\| (INV-\d\d) \| (.+) \|$", NOT_YET, re.MULTILINE))
LAST = 43
"""The digest numbers its invariants from 1 to this."""


def raised(prefix: str) -> set[str]:
    """Ids that some part of the model fails a run with."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if "bugs" not in path.parts:
            found |= set(re.findall(rf'(?<!["\w])"({prefix}-\d+)"', path.read_text()))
    return found


def test_every_invariant_has_a_row() -> None:
    assert list(ROWS) == [f"INV-{number:02}" for number in range(1, LAST + 1)]


def test_what_is_raised_is_not_called_unchecked() -> None:
    for name in sorted(raised("INV")):
        assert not ROWS[name].startswith(("not checked", "not modelled")), name


def test_what_is_called_checked_is_raised() -> None:
    checked = {name for name, state in ROWS.items() if state.startswith(("checked", "as INV-06"))}
    assert checked <= raised("INV")


def rules_by_state() -> dict[str, str]:
    """Every rule of the table, and what is said of it; ``to`` stands for all rules between."""
    found: dict[str, str] = {}
    for ids, state in re.findall(r"^\| (RULE-\d\d.*?) \| (.+) \|$", NOT_YET, re.MULTILINE):
        for first, last in re.findall(r"RULE-(\d\d)(?: to RULE-(\d\d))?", ids):
            found.update((f"RULE-{number:02}", state) for number in range(int(first), int(last or first) + 1))
    return found


def test_what_is_said_of_a_rule_is_what_there_is() -> None:
    rules = {name: entry for name, entry in catalogue().items() if entry.kind == "rule"}
    said = rules_by_state()
    assert sorted(said) == sorted(rules)
    for name, entry in rules.items():
        if said[name].startswith(("by construction", "not modelled")):
            assert entry.reason, name
        elif said[name].startswith("no oracle sees"):
            assert entry.bugs, name
        elif said[name] != "the same, broken in a test":
            assert entry.checks, name


WRITTEN = [page for page in PAGES if page.parent.name != "catalogue"]
"""By hand, or small; the pages of the catalogue are compared with the sources they are made from."""


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_paths_and_links_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / target).exists() or target.startswith("http"), target
    folders = "|".join(path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_"))
    for name in re.findall(rf"`((?:svm_actors|tests|scenarios|{folders})/[\w/*.]+\.(?:py|md))`", text):
        places = [*ROOT.glob(name), *PACKAGE.glob(name)]
        assert places, f"{page.name}: {name}"


READ = [page for page in PAGES if not set(GENERATED) & set(page.parts)]


@pytest.mark.parametrize("page", READ, ids=lambda path: path.name)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) < 200
