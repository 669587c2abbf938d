"""Random sequential programs recorded on a real kernel: the format ``programs.jsonl``.

One JSON object per line: ``program`` opens a program, one line per operation with its real result, ``end`` closes it.
The program ran in one process with an arena of ``pages`` pages and ``devices`` mirrors.  Commands, result fields and
snapshot codes are those of ``hmm_mirror.md`` section 4; notifier events are those of ``core_mm.md``.

What an operation was called with (``arguments``) and what the kernel answered (``results``) are kept apart: whoever
reproduces a program takes the arguments, builds its own results, and compares field by field with ``differences``.

Results are a plain dict, with tuples for lists.  Which fields an operation has depends on success, and the kernel
copies nothing back on an error (``hmm_mirror.md`` section 4), so the dict holds exactly the fields that were recorded.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import attrs
import msgspec

from . import kernel_operations as ops
from .formats import BadInput, Line, convert, json_object, quoted, read_lines
from .kernel_operations import Arguments, Byte

SIGSEGV: Final = 11


class NotifierEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One callback of the interval notifier of mirror 0."""

    event: Literal[
        "UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE", "MIGRATE", "EXCLUSIVE"
    ]
    page: ops.Page
    """First page, relative to the arena."""
    n: ops.Pages
    owner: Literal["self", "other", "none"] | None = None
    """Only for MIGRATE and EXCLUSIVE: whether the owner cookie is the device of mirror 0."""


Value = int | tuple[int, ...] | tuple[NotifierEvent, ...]
Count = Annotated[int, msgspec.Meta(ge=0)]


class RecordedResults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every result field there is; an operation has some of them."""

    errno: Count | msgspec.UnsetType = msgspec.UNSET
    cpages: Count | msgspec.UnsetType = msgspec.UNSET
    faults: Count | msgspec.UnsetType = msgspec.UNSET
    data: tuple[Byte, ...] | msgspec.UnsetType = msgspec.UNSET
    perm: tuple[Byte, ...] | msgspec.UnsetType = msgspec.UNSET
    signal: Count | msgspec.UnsetType = msgspec.UNSET
    value: Byte | msgspec.UnsetType = msgspec.UNSET
    child: Byte | msgspec.UnsetType = msgspec.UNSET
    events: tuple[NotifierEvent, ...] | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen
class Shape:
    """The result fields of one operation, in the order of the recording."""

    status: tuple[str, ...]
    """Always there."""
    success: tuple[str, ...] = ()
    """There if, and only if, the operation succeeded."""
    optional: tuple[str, ...] = ()
    """May be there on success: a recorder may or may not keep what the command copies back."""


_MEMORY: Final = Shape(("errno",))
_ACCESS: Final = Shape(("errno",), ("cpages", "faults"))
_DATA: Final = Shape(("errno",), ("cpages", "faults", "data"))

OPERATIONS: Final[dict[type[Arguments], Shape]] = {
    ops.Mmap: _MEMORY,
    ops.Munmap: _MEMORY,
    ops.Mprotect: _MEMORY,
    ops.Mremap: _MEMORY,
    ops.MadviseDontneed: _MEMORY,
    ops.CpuRead: Shape(("signal",), ("value",)),
    ops.CpuWrite: Shape(("signal",)),
    ops.ChildRead: Shape(("child",)),
    ops.ChildWrite: Shape(("child",)),
    ops.DevRead: _DATA,
    ops.DevWrite: _ACCESS,
    ops.ToDev: _DATA,
    ops.ToSys: _ACCESS,
    ops.Exclusive: Shape(("errno",), (), ("cpages", "faults", "data")),
    ops.Snapshot: Shape(("errno",), ("cpages", "faults", "perm")),
}
NAMES: Final[dict[str, type[Arguments]]] = {str(kind.__struct_config__.tag): kind for kind in OPERATIONS}
AnyArguments: Final[Any] = functools.reduce(operator.or_, OPERATIONS)


@attrs.frozen
class Difference:
    """One result field that is not what was recorded; None where a side has no such field."""

    field: str
    recorded: object
    produced: object


@attrs.frozen
class Operation:
    """One operation of a program, as it was called and as it ended."""

    arguments: Arguments
    results: dict[str, Value]
    line: int
    """Line of the recording."""

    @property
    def op(self) -> str:
        """The name of the operation in the recording."""
        return self.arguments.op

    def differences(self, produced: Mapping[str, object]) -> tuple[Difference, ...]:
        """The fields in which ``produced`` is not the recorded result, recorded fields first."""
        fields = [*self.results, *(field for field in produced if field not in self.results)]
        pairs = [(field, self.results.get(field), _tuples(produced.get(field))) for field in fields]
        return tuple(Difference(field, want, got) for field, want, got in pairs if want != got)


@attrs.frozen
class KernelProgram:
    """One recorded program."""

    number: int
    pages: int
    """Size of the arena in 4 KiB pages."""
    devices: int
    profile: int
    """Which mix of operations it was drawn from."""
    operations: tuple[Operation, ...]
    line: int
    """Line of the recording that opens it."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line that opens a program."""

    program: Count
    pages: ops.Pages
    devices: Count
    profile: Count


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line that closes a program."""

    end: Count


# -- reading ---------------------------------------------------------------------


def read_programs(path: str | os.PathLike[str]) -> Iterator[KernelProgram]:
    """The programs of a plain or gzip file, one by one.  Raises BadInput."""
    return parse_programs(os.fspath(path), read_lines(path))


def parse_programs(file: str, lines: Iterable[Line]) -> Iterator[KernelProgram]:
    """The programs in ``lines``; ``file`` is for the errors that have no line.  Raises BadInput."""
    header: tuple[Header, Line] | None = None
    operations: list[Operation] = []
    last = 0
    for line in lines:
        last = line.number
        record = json_object(line)
        if header is None:
            header, operations = (_opened(line, record), line), []
        elif "end" in record:
            yield _closed(line, record, *header, operations)
            header = None
        elif "program" in record:
            raise line.bad(f'an operation or the line {{"end":{header[0].program}}}')
        else:
            operations.append(_operation(line, record, header[0]))
    if header is not None:
        raise BadInput(file, last + 1, f'the line {{"end":{header[0].program}}}', "end of file")
    if not last:
        raise BadInput(file, 0, "at least one program", "an empty file")


def _opened(line: Line, record: dict[str, Any]) -> Header:
    if "program" not in record:
        raise line.bad("a line that opens a program, with the field `program`")
    header: Header = convert(line, record, Header)
    return header


def _closed(
    line: Line, record: dict[str, Any], header: Header, opened: Line, operations: list[Operation]
) -> KernelProgram:
    if convert(line, record, End).end != header.program:
        raise line.bad(f'the line {{"end":{header.program}}}')
    return KernelProgram(
        header.program, header.pages, header.devices, header.profile, tuple(operations), opened.number
    )


def _operation(line: Line, record: dict[str, Any], header: Header) -> Operation:
    kind = NAMES.get(record["op"]) if isinstance(record.get("op"), str) else None
    if kind is None:
        raise line.bad(f"the field `op` with one of {', '.join(NAMES)}", quoted(record.get("op")))
    names = ("op", *kind.__struct_fields__)
    arguments = convert(line, {name: record[name] for name in names if name in record}, kind)
    check_bounds(line, arguments, header.pages, header.devices)
    recorded = convert(line, {name: value for name, value in record.items() if name not in names}, RecordedResults)
    results = {name: value for name, value in msgspec.structs.asdict(recorded).items() if value is not msgspec.UNSET}
    _check_results(line, arguments, results, header.pages)
    return Operation(arguments, results, line.number)


# -- checks ----------------------------------------------------------------------


def check_bounds(line: Line, arguments: Arguments, pages: int, devices: int) -> None:
    """Pages inside the arena and an existing mirror.  Raises BadInput."""
    first, count = arguments.span
    _check_pages(line, arguments.op, first, count, pages)
    if isinstance(arguments, ops.Mremap):
        _check_pages(line, "mremap `to`", arguments.to, count, pages)
    device = getattr(arguments, "dev", None)
    if device is not None and device >= devices:
        raise line.bad(f"`dev` below {devices}", str(device))


def _check_pages(line: Line, what: str, first: int, count: int, pages: int) -> None:
    if first + count > pages:
        raise line.bad(f"{what} inside pages 0 to {pages - 1}", f"{count} pages from page {first}")


def _check_results(line: Line, arguments: Arguments, results: dict[str, Any], pages: int) -> None:
    shape = OPERATIONS[type(arguments)]
    wanted = {*shape.status, "events"}
    if not any(results.get(name) for name in ("errno", "signal")):
        wanted |= {*shape.success}
        wanted |= {name for name in shape.optional if name in results}
    _check_fields(line, arguments.op, wanted, results)
    if results.get("signal", 0) not in (0, SIGSEGV):
        raise line.bad(f"`signal` 0 or {SIGSEGV}", str(results["signal"]))
    for name in ("data", "perm"):
        if name in results and len(results[name]) != arguments.span[1]:
            raise line.bad(f"{arguments.span[1]} bytes in `{name}`", str(len(results[name])))
    for event in results["events"]:
        _check_event(line, event, pages)


def _check_fields(line: Line, op: str, wanted: set[str], results: dict[str, Any]) -> None:
    for name in sorted(wanted):
        if name not in results:
            raise line.bad(f"the field `{name}` in the result of {op}", "none")
    for name in results:
        if name not in wanted:
            raise line.bad(f"only the fields {', '.join(sorted(wanted))} in this result of {op}", f"the field `{name}`")


def _check_event(line: Line, event: NotifierEvent, pages: int) -> None:
    _check_pages(line, f"event {event.event}", event.page, event.n, pages)
    owned = event.event in ("MIGRATE", "EXCLUSIVE")
    if owned and event.owner is None:
        raise line.bad(f"the field `owner` in event {event.event}", "none")
    if not owned and event.owner is not None:
        raise line.bad(f"no field `owner` in event {event.event}", quoted(event.owner))


def _tuples(value: object) -> object:
    """Lists as tuples, so that what an executor builds compares with what was parsed."""
    return tuple(_tuples(part) for part in value) if isinstance(value, (list, tuple)) else value


# -- writing ---------------------------------------------------------------------


def dump_program(program: KernelProgram) -> str:
    """The program in the format it was read from, one JSON object per line."""
    operations = (
        {"op": operation.op, **msgspec.structs.asdict(operation.arguments), **operation.results}
        for operation in program.operations
    )
    header = Header(program.number, program.pages, program.devices, program.profile)
    records: list[object] = [header, *operations, End(program.number)]
    return "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
