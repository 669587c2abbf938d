"""Where the sources of the package cite an id: as a guard, where a window is counted, or in an oracle.

A guard is a method or a function of the model whose docstring names the id.  A window is a text with the id inside a
call of a method named ``count``.  A check is any text or docstring of an oracle or of the liveness judge that names it,
or a text of the engine, the model or a workload that is nothing but the id of a rule or an invariant: what a failure is
raised with.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, Literal

import attrs

from svm_actors.catalogue.rows import IDS

PACKAGE: Final = Path(__file__).parent.parent
MODEL: Final = ("dma_buf", "mm", "gpu", "drm", "xe", "mirror")
CHECKERS: Final = ("oracle",)
CHECK: Final = re.compile(r"(?:RULE|INV-FEN|INV-VMB|INV)-\d{2}")
Role = Literal["guards", "windows", "checks"]


@attrs.frozen(order=True)
class Cited:
    """One place."""

    file: str
    """Below the package, with slashes."""
    line: int
    """Counted from 1."""
    name: str
    """``Class.method`` or ``function``; of a window the text that is counted."""
    text: str = attrs.field(default="", repr=False, eq=False, order=False)
    """What it says of itself: the docstring of a guard."""

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.file.removesuffix('.py')}:{self.name}"


@cache
def cited(role: Role, root: Path = PACKAGE) -> dict[str, list[Cited]]:
    """The places by id, each list in the order of files and lines."""
    found: dict[str, list[Cited]] = {}
    for layer, search in _SEARCHES[role].items():
        for path in sorted((root / layer).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if not IDS.search(source):
                continue  # most of the time is spent parsing
            file = path.relative_to(root).as_posix()
            for line, name, text in search(ast.parse(source)):
                for each in sorted(set(IDS.findall(text))):
                    place = Cited(file, line, name, text)
                    if place not in found.setdefault(each, []):
                        found[each].append(place)
    return found


Place = tuple[int, str, str]


def _documented(tree: ast.AST, prefix: str = "") -> Iterator[Place]:
    """Functions and methods with their docstrings."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _documented(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, f"{prefix}{node.name}", ast.get_docstring(node) or ""


def _counted(tree: ast.AST) -> Iterator[Place]:
    """Every text inside a call of a method named ``count``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count":
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value, part.value


def _texts(tree: ast.AST, prefix: str = "") -> Iterator[Place]:
    """Functions and methods with every text in them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, f"{prefix}{node.name}", ast.get_docstring(node) or ""
            yield from _texts(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield node.lineno, f"{prefix}{node.name}", " ".join(text for text in texts if isinstance(text, str))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield node.lineno, f"{prefix}{ast.unparse(target)}", " ".join(map(str, texts))


def _raised(tree: ast.AST) -> Iterator[Place]:
    """Functions, classes and constants with the texts in them that are such an id and nothing else."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _raised(node)
        elif isinstance(node, ast.stmt):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            found = [text for text in texts if isinstance(text, str) and CHECK.fullmatch(text)]
            if found:
                yield node.lineno, getattr(node, "name", "") or ast.unparse(node).partition(" ")[0], " ".join(found)


Search = Callable[[ast.AST], Iterator[Place]]
_SEARCHES: Final[dict[Role, dict[str, Search]]] = {
    "guards": dict.fromkeys(MODEL, _documented),
    "windows": dict.fromkeys(("engine", *MODEL), _counted),
    "checks": {
        **dict.fromkeys(("engine", *MODEL, "workload"), _raised),
        **dict.fromkeys((*CHECKERS, "explore/liveness"), _texts),
    },
}
