"""Reading what others recorded: lines of a plain or gzip file, and one clear error for all that can be wrong.

Every format of this folder (recorded kernel programs, litmus outcomes, strace logs) is made of lines, so the error
carries file and line.  There is one error type on purpose: the command line turns it into exit code 2 and prints it
as it is.

A file is read whole before the first line is handed out.  The largest recordings are a few megabytes, and reading
eagerly means that a missing, truncated or mis-encoded file is reported before anything has been done with it.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from typing import Any, Final

import attrs
import msgspec

GZIP_MAGIC: Final = b"\x1f\x8b"
SHOWN: Final = 60


class BadInput(ValueError):
    """A recording that cannot be used: ``file``, ``line`` (0: the whole file), what was ``expected`` and was ``got``.

    The text is ``FILE:LINE: expected ..., got ...``; without ``:LINE`` when no line is to blame.
    """

    def __init__(self, file: str, line: int, expected: str, got: str) -> None:
        super().__init__(file, line, expected, got)
        self.file = file
        self.line = line
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: expected {self.expected}, got {self.got}"


@attrs.frozen
class Line:
    """One line of a recording, without its line end."""

    file: str
    """As the caller named it."""
    number: int
    """Counted from 1."""
    text: str

    def bad(self, expected: str, got: str | None = None) -> BadInput:
        """The error for this line; without ``got`` it quotes the line."""
        return BadInput(self.file, self.number, expected, quoted(self.text) if got is None else got)


def quoted(value: object) -> str:
    """A piece of input for an error message: escaped, and short enough for one terminal line."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_lines(path: str | os.PathLike[str]) -> list[Line]:
    """All lines of a plain or gzip file (told apart by content).  Raises BadInput."""
    name = os.fspath(path)
    raw_lines = _read_bytes(name).split(b"\n")
    if raw_lines[-1] == b"":
        raw_lines.pop()
    return [Line(name, number, _decode(name, number, raw)) for number, raw in enumerate(raw_lines, 1)]


def _decode(name: str, number: int, raw: bytes) -> str:
    try:
        return raw.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        raise BadInput(name, number, "UTF-8 text", got) from None


def _read_bytes(name: str) -> bytes:
    try:
        with open(name, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise BadInput(name, 0, "a file", "no such file") from None
    except IsADirectoryError:
        raise BadInput(name, 0, "a file", "a directory") from None
    except OSError as error:
        raise BadInput(name, 0, "a readable file", error.strerror or type(error).__name__) from None
    return _unzip(name, data) if data.startswith(GZIP_MAGIC) else data


def _unzip(name: str, data: bytes) -> bytes:
    """Unpack in pieces, so that an error can name the line up to which the content was good."""
    pieces = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            # read1 hands out what is decoded so far; read would lose the good part of a truncated member
            while piece := stream.read1():
                pieces.append(piece)
    except EOFError:
        raise BadInput(name, _lines_in(pieces), "the rest of a gzip stream", "end of file") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(name, _lines_in(pieces), "an intact gzip stream", str(error)) from None
    return b"".join(pieces)


def _lines_in(pieces: list[bytes]) -> int:
    return sum(piece.count(b"\n") for piece in pieces) + 1


# -- JSON lines ------------------------------------------------------------------


def json_object(line: Line) -> dict[str, Any]:
    """The line as a JSON object.  Raises BadInput."""
    try:
        value = msgspec.json.decode(line.text)
    except msgspec.DecodeError as error:
        raise line.bad("a JSON object", f"{quoted(line.text)} ({error})") from None
    except RecursionError:
        raise line.bad("a JSON object", "JSON nested too deep") from None
    if not isinstance(value, dict):
        raise line.bad("a JSON object")
    return value


def convert(line: Line, value: object, kind: Any) -> Any:
    """``value`` as the type ``kind`` with msgspec's strict rules.  Raises BadInput that names the field."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
    path = path.removesuffix("`")
    raise line.bad(*_explain(message, path.removeprefix("."), _value_at(value, path)))


_UNKNOWN: Final = "Object contains unknown field "
_MISSING: Final = "Object missing required field "


def _explain(message: str, path: str, value: object) -> tuple[str, str]:
    """What msgspec found wrong, as what was expected and what was there."""
    place = f" at `{path}`" if path else ""
    if message.startswith(_UNKNOWN):
        return f"known fields only{place}", f"the field {message.removeprefix(_UNKNOWN)}"
    if message.startswith(_MISSING):
        return f"the field {message.removeprefix(_MISSING)}{place}", "none"
    if message.startswith("Expected "):
        return message.removeprefix("Expected ").partition(", got ")[0] + place, quoted(value)
    return f"a known value{place}", quoted(value)


def _value_at(value: Any, path: str) -> object:
    """What the JSON path of a msgspec message points to, e.g. ``.events[1].page``."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        value = value[name] if name else value[int(index)]
    return value
