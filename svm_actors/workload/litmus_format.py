"""Small concurrent programs with every outcome seen on a real kernel: the format ``litmus.jsonl``.

One JSON object per line and litmus: ``setup`` ran alone, then the ``threads`` raced, then mirror 0 took a snapshot,
then the CPU read every page (``memory``).  ``outcomes`` holds every distinct result of ``runs`` runs with its count.
Here a write sets only the first byte of its page.

Results are made canonical, so that an outcome that a model produces compares with a recorded one by ``==`` and hash:
``ok``, an errno name, ``segv`` and ``child V`` stay text, a byte is an int, bytes are a tuple.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import attrs
import msgspec

from . import kernel_operations as ops
from .formats import BadInput, Line, convert, json_object, quoted, read_lines
from .kernel_operations import Arguments, Byte
from .kernel_programs import Count, check_bounds

Result = str | int | tuple[int, ...]
"""How one operation ended."""

_ERRNO: Final = re.compile(r"E[A-Z0-9]+")
_CHILD: Final = re.compile(r"child (\d+)")
LitmusArguments: Final[Any] = (
    ops.Mmap
    | ops.Munmap
    | ops.Mprotect
    | ops.MprotectR
    | ops.MprotectRw
    | ops.Mremap
    | ops.MremapAway
    | ops.MadviseDontneed
    | ops.CpuRead
    | ops.CpuWrite
    | ops.ChildRead
    | ops.ChildWrite
    | ops.DevRead
    | ops.DevWrite
    | ops.ToDev
    | ops.ToSys
    | ops.Exclusive
)


def canonical(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(canonical(part) for part in value) if isinstance(value, (list, tuple)) else value


@attrs.frozen
class Outcome:
    """How one run of a litmus ended; equal to another exactly if every observable is."""

    threads: tuple[tuple[Result, ...], ...] = attrs.field(converter=canonical)
    """Per thread the result of each of its operations."""
    snapshot: tuple[int, ...] = attrs.field(converter=canonical)
    """Snapshot byte of each page as mirror 0 sees it after the threads; empty if the snapshot failed."""
    snapshot_errno: int
    """What the snapshot returned, positive."""
    memory: tuple[int | Literal["segv"], ...] = attrs.field(converter=canonical)
    """First byte of each page as the CPU reads it last, or ``segv``."""


@attrs.frozen
class Observed:
    """An outcome and in how many of the runs it was seen."""

    outcome: Outcome
    count: int


@attrs.frozen
class Litmus:
    """One small concurrent program and its recorded outcomes."""

    number: int
    pages: int
    devices: int
    setup: tuple[Arguments, ...]
    threads: tuple[tuple[Arguments, ...], ...]
    runs: int
    outcomes: tuple[Observed, ...]
    """Distinct, in the order of the recording."""
    line: int
    """Line of the recording."""

    def unreached(self, reachable: frozenset[Outcome]) -> tuple[Observed, ...]:
        """The recorded outcomes that are not among ``reachable``: each is a fault of the model."""
        return tuple(observed for observed in self.outcomes if observed.outcome not in reachable)


class RecordedOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An outcome as it stands in the file."""

    threads: tuple[tuple[str | Byte | tuple[Byte, ...], ...], ...]
    snapshot: tuple[Byte, ...]
    snapshot_errno: Count
    memory: tuple[Literal["segv"] | Byte, ...]
    count: ops.Pages


class RecordedLitmus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the file."""

    litmus: Count
    pages: ops.Pages
    devices: Count
    setup: tuple[Any, ...]
    threads: tuple[tuple[Any, ...], ...]
    runs: ops.Pages
    outcomes: tuple[RecordedOutcome, ...]


# -- reading ---------------------------------------------------------------------


def read_litmus(path: str | os.PathLike[str]) -> Iterator[Litmus]:
    """The litmus programs of a plain or gzip file, one by one.  Raises BadInput."""
    lines = read_lines(path)
    if not lines:
        raise BadInput(os.fspath(path), 0, "at least one litmus", "an empty file")
    return map(parse_litmus, lines)


def parse_litmus(line: Line) -> Litmus:
    """The litmus program of one line.  Raises BadInput."""
    record: RecordedLitmus = convert(line, json_object(line), RecordedLitmus)
    setup = tuple(_arguments(line, raw, record) for raw in record.setup)
    threads = tuple(tuple(_arguments(line, raw, record) for raw in thread) for thread in record.threads)
    outcomes = tuple(_observed(line, raw, threads, record.pages) for raw in record.outcomes)
    if len({observed.outcome for observed in outcomes}) != len(outcomes):
        raise line.bad("distinct outcomes", "the same outcome twice")
    total = sum(observed.count for observed in outcomes)
    if total != record.runs:
        raise line.bad(f"outcome counts that add up to {record.runs} runs", str(total))
    return Litmus(record.litmus, record.pages, record.devices, setup, threads, record.runs, outcomes, line.number)


def _arguments(line: Line, raw: object, record: RecordedLitmus) -> Arguments:
    arguments: Arguments = convert(line, raw, LitmusArguments)
    check_bounds(line, arguments, record.pages, record.devices)
    return arguments


def _observed(
    line: Line, raw: RecordedOutcome, threads: tuple[tuple[Arguments, ...], ...], pages: int
) -> Observed:
    if [len(results) for results in raw.threads] != [len(thread) for thread in threads]:
        raise line.bad("one result for each operation of each thread", quoted(raw.threads))
    for thread, results in zip(threads, raw.threads, strict=True):
        for arguments, result in zip(thread, results, strict=True):
            _check_result(line, arguments, result)
    if len(raw.memory) != pages:
        raise line.bad(f"`memory` of {pages} pages", str(len(raw.memory)))
    expected = 0 if raw.snapshot_errno else pages
    if len(raw.snapshot) != expected:
        raise line.bad(f"`snapshot` of {expected} pages", str(len(raw.snapshot)))
    return Observed(Outcome(raw.threads, raw.snapshot, raw.snapshot_errno, raw.memory), raw.count)


# -- checks ----------------------------------------------------------------------


def _check_result(line: Line, arguments: Arguments, result: Result) -> None:
    """Whether an operation of this kind can end so."""
    match arguments:
        case ops.CpuRead():
            fits, expected = isinstance(result, int) or result == "segv", "a byte or segv"
        case ops.CpuWrite():
            fits, expected = result in ("ok", "segv"), "ok or segv"
        case ops.ChildRead() | ops.ChildWrite():
            fits, expected = _is_child(result) or _is_errno(result), "child V or an errno name"
        case ops.DevRead(n=n):
            fits = _is_errno(result) or (isinstance(result, tuple) and len(result) == n)
            expected = f"{n} bytes or an errno name"
        case _:
            fits, expected = result == "ok" or _is_errno(result), "ok or an errno name"
    if not fits:
        raise line.bad(f"{expected} as result of {arguments.op}", quoted(result))


def _is_errno(result: Result) -> bool:
    return isinstance(result, str) and bool(_ERRNO.fullmatch(result)) and hasattr(errno, result)


def _is_child(result: Result) -> bool:
    found = _CHILD.fullmatch(result) if isinstance(result, str) else None
    return found is not None and int(found[1]) <= 255


# -- writing ---------------------------------------------------------------------


def dump_litmus(litmus: Litmus) -> str:
    """The litmus in the format it was read from: one line."""
    record = RecordedLitmus(
        litmus.number,
        litmus.pages,
        litmus.devices,
        litmus.setup,
        litmus.threads,
        litmus.runs,
        tuple(_recorded(observed) for observed in litmus.outcomes),
    )
    return msgspec.json.encode(record).decode() + "\n"


def _recorded(observed: Observed) -> RecordedOutcome:
    outcome = observed.outcome
    return RecordedOutcome(outcome.threads, outcome.snapshot, outcome.snapshot_errno, outcome.memory, observed.count)
