"""One id of the catalogue: its row, and what the sources have of it."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import attrs

from svm_actors.bugs import BUGS
from svm_actors.catalogue.rows import read_rows
from svm_actors.catalogue.sources import Cited, cited

Kind = Literal["race", "rule", "invariant", "bug", "suspicion"]
KINDS: Final[dict[str, Kind]] = {"R": "race", "B": "bug", "S": "suspicion"}


@attrs.frozen
class Entry:
    """What there is about one id."""

    id: str
    """Digest id."""
    kind: Kind
    """What sort of thing it is."""
    text: str
    """What it is about."""
    where: str
    """Digest and section; empty when only the sources know the id."""
    reason: str
    """Why it is not modelled; empty when it is."""
    guards: tuple[Cited, ...]
    """Methods and functions of the model whose docstring cites it."""
    windows: tuple[Cited, ...]
    """Places where its happening is counted."""
    checks: tuple[Cited, ...]
    """Oracles that name it."""
    bugs: tuple[str, ...]
    """Planted bugs that open its window, or that it is."""

    @property
    def modelled(self) -> bool:
        """There is something of it in the model, and no reason says otherwise."""
        if self.kind == "race":
            return bool(self.guards and self.windows)
        if self.kind in ("bug", "suspicion"):
            return self.id in BUGS
        return bool(self.checks or self.guards or self.bugs)


def kind_of(name: str) -> Kind:
    """The sort of thing an id is for."""
    if name.startswith("RULE"):
        return "rule"
    return "invariant" if name.startswith("INV") else KINDS[name.partition("-")[2][0]]


@cache
def catalogue() -> dict[str, Entry]:
    """Every id that has a row, is planted, or is cited by the model; in the order of their names."""
    rows, guards, windows, checks = read_rows(), cited("guards"), cited("windows"), cited("checks")
    found = {}
    for name in sorted({*rows, *BUGS, *guards, *windows, *checks}):
        row = rows.get(name)
        planted = BUGS.get(name)
        found[name] = Entry(
            name,
            kind_of(name),
            row.text if row else planted.title if planted else "",
            row.where if row else "",
            row.reason if row else "",
            tuple(guards.get(name, ())),
            tuple(windows.get(name, ())),
            tuple(checks.get(name, ())),
            tuple(bug.id for bug in BUGS.values() if name == bug.id or name in bug.races),
        )
    return found
