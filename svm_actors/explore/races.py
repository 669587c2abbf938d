"""Which races the model resolves and where, read from the model's own text.

A race has a guard, the method whose docstring cites its id, and a window event, the place where the
engine counts the id when the race really happens (DESIGN section 5).  Both are found by reading the
sources, so this list cannot say anything that the model does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from svm_actors.explore.failure import PACKAGE

LAYERS: Final = ("dma_buf", "mm", "gpu", "drm", "xe", "mirror")
"""Folders of the model."""
RACE: Final = re.compile(r"\b(?:SVM|PGM|MM|VMB|FEN)-R\d+\b")


@attrs.define
class Race:
    """One race and where it is dealt with."""

    id: str
    """Digest id."""
    guards: list[str] = attrs.field(factory=list)
    """``folder/file:Class.method`` whose docstring cites it."""
    windows: list[str] = attrs.field(factory=list)
    """``folder/file:line`` where its happening is counted."""


def race_catalogue(root: Path = PACKAGE) -> list[Race]:
    """Every race the model's sources mention, by id."""
    found: dict[str, Race] = {}
    for layer in LAYERS:
        for path in sorted((root / layer).glob("*.py")):
            where = f"{layer}/{path.stem}"
            tree = ast.parse(path.read_bytes())
            for name, docstring in _documented(tree):
                for race in _ids(docstring):
                    found.setdefault(race, Race(race)).guards.append(f"{where}:{name}")
            for line, text in _counted(tree):
                for race in _ids(text):
                    found.setdefault(race, Race(race)).windows.append(f"{where}:{line}")
    return [found[race] for race in sorted(found)]


def _ids(text: str) -> list[str]:
    return sorted(set(RACE.findall(text)))


def _documented(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Functions and methods with their docstrings."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _documented(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", ast.get_docstring(node) or ""


def _counted(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text inside a call of a method named ``count``, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value
