"""Mutants of a module, made by cosmic-ray, and which of them are drawn.

What cosmic-ray changes is a *place*: some characters of one operator of one line.  Most places have several mutants (a
``==`` becomes each of eight other comparisons), of which one is drawn, so that no place weighs more than another.

No mutant is what cannot change behaviour whatever the code around it does: a change inside an annotation (none is
evaluated here) or a docstring, what is imported for the type checker alone, and ``==`` for ``is`` or the reverse, which
here are the same: identities are compared with None and with members of enums, and small numbers.

Places are drawn by a checksum of their line and the seed, so that most of a sample stays when a module changes.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

LEAST: Final = 3
"""Mutants drawn of a module, however small it is."""
SAME: Final = frozenset({"Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq"})
"""Replacements of comparisons that change nothing."""
Span = tuple[tuple[int, int], tuple[int, int]]
"""Two places in a text, each a line from 1 and a column from 0."""


@attrs.frozen
class Place:
    """Where cosmic-ray can change a module, and how."""

    span: Span
    """What is changed."""
    changes: tuple[tuple[str, int], ...]
    """Operators of one family, each with the number of its occurrence in the module."""


@attrs.frozen
class Mutant:
    """One change of one module."""

    key: str
    """Module, function, operator and a checksum of the lines: the same as long as these stay."""
    module: str
    """File, relative to the package, with slashes."""
    line: int
    """First line that differs, from 1."""
    before: str
    """That line."""
    after: str
    """What it becomes."""
    source: str = attrs.field(repr=False)
    """The whole changed module."""


def places(path: Path) -> list[Place]:
    """All places of a module in their order.  Needs cosmic-ray."""
    silent = silent_spans(path.read_text(encoding="utf-8"))
    found: dict[tuple[Span, str], list[tuple[str, int]]] = {}
    for span, name, occurrence in _work(path):
        family, _, detail = name.rpartition("/")[2].partition("_")
        if detail not in SAME and not any(start <= span[0] and span[1] <= end for start, end in silent):
            found.setdefault((span, family), []).append((name, occurrence))
    return [Place(span, tuple(sorted(changes))) for (span, _family), changes in sorted(found.items())]


def _work(path: Path) -> Iterator[tuple[Span, str, int]]:
    """What a session of cosmic-ray over this module would do: where, by which operator, which occurrence."""
    from cosmic_ray.commands import init  # type: ignore[import-not-found,unused-ignore]
    from cosmic_ray.work_db import WorkDB, use_db  # type: ignore[import-not-found,unused-ignore]

    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/session.sqlite", WorkDB.Mode.create) as database:
        init([path], database, {})
        for item in database.work_items:
            for mutation in item.mutations:
                yield (mutation.start_pos, mutation.end_pos), mutation.operator_name, mutation.occurrence


def silent_spans(text: str) -> list[Span]:
    """Annotations, docstrings and the questions whether types are checked."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            found.append(node.returns)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.append(node.value)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            found.append(node.test)
    return [_span(node) for node in found]


def _span(node: ast.expr) -> Span:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def quotas(sizes: dict[str, int], total: int) -> dict[str, int]:
    """How many mutants are drawn of each module, by its number of places."""
    whole = sum(sizes.values())
    return {name: min(size, max(LEAST, round(total * size / whole))) for name, size in sizes.items()}


def drawn(path: Path, module: str, known: Sequence[Place], count: int, seed: int) -> list[Mutant]:
    """A sample of the module's mutants, at most one of each place, in the order of the places."""
    text = path.read_text(encoding="utf-8")
    lots = lots_of(text.splitlines(), known, f"{seed}/{module}")
    made: dict[int, tuple[str, str]] = {}
    for index in sorted(range(len(known)), key=lots.__getitem__):
        name, changed = _mutated(text, known[index].changes[lots[index] % len(known[index].changes)])
        if is_python(changed):
            made[index] = name, changed
        if len(made) == count:
            break
    return numbered(described(text, module, *made[index]) for index in sorted(made))


def is_python(text: str) -> bool:
    """A parameter list's lone ``*`` is taken for an operator: what comes of it is no mutant."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def lots_of(lines: Sequence[str], known: Sequence[Place], seed: str) -> list[int]:
    """A number for each place that depends on its line, and on how often that line came before, alone."""
    seen: dict[str, int] = {}
    found = []
    for place in known:
        (line, column), _ = place.span
        family = place.changes[0][0].partition("_")[0]
        text = f"{seed}/{lines[line - 1].strip()}/{column}/{family}"
        seen[text] = seen.get(text, 0) + 1
        digest = hashlib.blake2b(f"{text}/{seen[text]}".encode(), digest_size=8).digest()
        found.append(int.from_bytes(digest, "big"))
    return found


def _mutated(text: str, change: tuple[str, int]) -> tuple[str, str]:
    """Name of the operator and the changed module."""
    from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found,unused-ignore]
    from cosmic_ray.plugins import get_operator  # type: ignore[import-not-found,unused-ignore]

    name, occurrence = change
    changed: str | None = mutate_code(text, get_operator(name)(), occurrence)
    assert changed is not None, "the occurrence was listed for this text"
    return name.rpartition("/")[2], changed


def described(text: str, module: str, operator: str, changed: str) -> Mutant:
    """A mutant and its key."""
    old, new = text.splitlines(), changed.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    edits = [code[1:] for code in matcher.get_opcodes() if code[0] != "equal"]
    gone = [index for start, end, _, _ in edits for index in range(start, end) if old[index].strip()]
    come = [index for _, _, start, end in edits for index in range(start, end) if new[index].strip()]
    line = gone[0]
    before, after = old[line].strip(), new[come[0]].strip() if come else ""
    check = zlib.crc32(f"{before}\n{after}".encode())
    key = f"{module} {function_at(text, line + 1)} {operator} {check:08x}"
    return Mutant(key, module, line + 1, before, after, changed)


def numbered(mutants: Iterable[Mutant]) -> list[Mutant]:
    """Mutants of equal lines of one function are told apart by a number."""
    seen: dict[str, int] = {}
    found = []
    for mutant in mutants:
        count = seen[mutant.key] = seen.get(mutant.key, 0) + 1
        found.append(mutant if count == 1 else attrs.evolve(mutant, key=f"{mutant.key}/{count}"))
    return found


def function_at(text: str, line: int) -> str:
    """Dotted name of the innermost function or class around a line; ``-`` outside all."""
    found = "-"
    body: list[ast.stmt] = ast.parse(text).body
    while True:
        for node in body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(node, kinds) and _first(node) <= line <= (node.end_lineno or 0):
                found, body = (node.name if found == "-" else f"{found}.{node.name}"), node.body
                break
        else:
            return found


def _first(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Line of its first decorator, or its own."""
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])
