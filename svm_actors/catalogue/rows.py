"""The written part of the catalogue: one line per id, in the files of ``rows/``.

A line is ``ID | what it is about | where the digest has it | why it is not modelled``.  The last column is empty for
what is modelled.  Of a race the second column is ``who x who: the window``.  ``#`` begins a comment line.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import attrs

FOLDER: Final = Path(__file__).parent / "rows"
COLUMNS: Final = 4
RACE: Final = re.compile(r"(?:SVM|PGM|MM|VMB|FEN)-R\d{2}")
"""The id of a race."""
IDS: Final = re.compile(r"\b(?:(?:SVM|PGM|MM|VMB|FEN)-[RBS]\d{2}|RULE-\d{2}|INV-(?:(?:FEN|VMB)-)?\d{2})\b")
"""Every kind of id that the catalogue has."""


class BadRow(ValueError):
    """A line that is not as it should be; one line with file, number and what was expected."""


@attrs.frozen
class Row:
    """One line."""

    id: str
    """Digest id."""
    text: str
    """What it is about."""
    where: str
    """Digest and section."""
    reason: str
    """Why it is not modelled, or what it is equivalent to; empty for what is modelled."""


@cache
def read_rows(folder: Path = FOLDER) -> dict[str, Row]:
    """Every row by id, in the order of the files.  BadRow."""
    found: dict[str, Row] = {}
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                row = _row(line, f"{path.name}:{number}")
                if row.id in found:
                    raise BadRow(f"{path.name}:{number}: expected each id once, found {row.id} again")
                found[row.id] = row
    return found


def _row(line: str, place: str) -> Row:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != COLUMNS:
        raise BadRow(f"{place}: expected {COLUMNS} columns, ID | text | where | reason, found {len(cells)}")
    if not IDS.fullmatch(cells[0]):
        raise BadRow(f"{place}: expected an id such as SVM-R01, found {cells[0]!r}")
    if not cells[1] or not cells[2]:
        raise BadRow(f"{place}: expected a text and a place in the digests for {cells[0]}")
    return Row(*cells)
