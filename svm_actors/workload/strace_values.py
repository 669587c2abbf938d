"""The arguments of a system call as strace prints them: text to typed values.

Numbers (decimal, hexadecimal, octal, NULL, a file descriptor with its path) become ``int``, symbolic constants joined
by ``|`` become ``Flags``, strings become ``Text``, ``name=value`` becomes ``Keyword``.  Structures and arrays stay
``Opaque`` text: nothing a memory program needs is in them but the flags of clone3, which ``flags_inside`` finds.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from .formats import Line, quoted


@attrs.frozen
class Flags:
    """Symbolic constants joined by ``|``, as printed; a part strace had no name for stays a number in text."""

    names: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names


@attrs.frozen
class Text:
    """A string."""

    value: str
    truncated: bool
    """Whether strace cut it off."""


@attrs.frozen
class Opaque:
    """A structure, an array, or an address with a remark: as printed."""

    text: str


@attrs.frozen
class Keyword:
    """An argument that strace prints with its name."""

    name: str
    value: int | Flags | Text | Opaque


Value = int | Flags | Text | Opaque | Keyword

_TOKEN: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?|/\*.*?\*/|<<|<[^<>]*>|[\[({]|[\])}]|,|[^"\[\](){},/<]+|[/<]', re.DOTALL
)
_INTEGER: Final = re.compile(r"(-?\d+|0x[0-9a-f]+)(?:<.*>)?")
_ONE_FLAG: Final = r"(?:[A-Z][A-Z0-9_]*|\d+<<[A-Z][A-Z0-9_]*|0x[0-9a-f]+|\d+)"
_FLAGS: Final = re.compile(rf"{_ONE_FLAG}(?:\|{_ONE_FLAG})*")
_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?', re.DOTALL)
_KEYWORD: Final = re.compile(r"([a-z_]\w*)=(?!=)(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}
_FLAGS_INSIDE: Final = re.compile(rf"\bflags=({_ONE_FLAG}(?:\|{_ONE_FLAG})*)")


def parse_values(line: Line, text: str, *, complete: bool) -> tuple[Value, ...]:
    """The comma-separated values in ``text``; an incomplete call may break off anywhere.  Raises BadInput."""
    parts = _split(line, text, complete=complete)
    if parts and not parts[-1] and (len(parts) == 1 or not complete):
        parts.pop()
    return tuple(_value(line, part) for part in parts)


def _split(line: Line, text: str, *, complete: bool) -> list[str]:
    """Cut at the commas outside strings and brackets; comments are dropped."""
    parts, depth, end = [""], 0, 0
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end, piece = token.end(), token[0]
        depth += (piece in ("[", "(", "{")) - (piece in ("]", ")", "}"))
        if depth < 0:
            raise line.bad("balanced brackets in the arguments", quoted(text))
        if piece == "," and not depth:
            parts.append("")
        elif not piece.startswith("/*"):
            parts[-1] += piece
    if complete and end != len(text):
        raise line.bad("a closing quotation mark in the arguments", quoted(text[end:]))
    if complete and depth:
        raise line.bad("balanced brackets in the arguments", quoted(text))
    return [part.strip() for part in parts]


def _value(line: Line, part: str) -> Value:
    if not part:
        raise line.bad("an argument between the commas", "nothing")
    if found := _KEYWORD.fullmatch(part):
        return Keyword(found[1], _plain(found[2]))
    return _plain(part)


def _plain(part: str) -> int | Flags | Text | Opaque:
    if part == "NULL":
        return 0
    if found := _INTEGER.fullmatch(part):
        return _integer(found[1])
    if _FLAGS.fullmatch(part):
        return Flags(tuple(part.split("|")))
    if found := _STRING.fullmatch(part):
        return Text(_ESCAPE.sub(_unescape, found[1]), truncated=bool(found[2]))
    return Opaque(part)


def _integer(text: str) -> int:
    octal = len(text) > 1 and text.startswith("0") and text.isdecimal() and not set(text) & set("89")
    return int(text, 8) if octal else int(text, 16) if text.startswith("0x") else int(text)


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16))
    if found[2]:
        return chr(int(found[2], 8))
    return _LETTERS.get(found[3], found[3])


def fits(value: Value, kind: str) -> bool:
    """Whether an argument can stand where ``number``, ``flags`` or ``any`` is wanted; flags may be a bare number."""
    return kind == "any" or isinstance(value, int) or (kind == "flags" and isinstance(value, Flags))


def flags_inside(text: str) -> Flags:
    """The ``flags=`` member of a printed structure; no names if it has none."""
    found = _FLAGS_INSIDE.search(text)
    return Flags(tuple(found[1].split("|"))) if found else Flags(())
