"""The log of ``strace -f -ttt -T``: lines to records.

A record is a finished (or never finished) system call, a signal, or the end of a task.  A call that was cut in two by
another task's line (``<unfinished ...>`` and ``<... resumed>``) is one record that knows both its lines: between them
the call was in the kernel, and that is all a log says about what may have raced with what.

Memory and process calls have their arguments checked and typed; other calls are kept as ``Other`` and only counted.
What is not understood is an error, never skipped: a workload that silently lost a munmap would be a different one.

Accepted in front of a line: nothing, a process id, or ``[pid N]``.  Lines without an id belong to the first task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

import attrs

from .formats import BadInput, Line, quoted, read_lines
from .strace_values import Value, fits, parse_values

UNNUMBERED: Final = 0
"""The process id of lines that have none."""
SPAWNS: Final = ("clone", "clone3", "fork", "vfork")

_NUMBER: Final = "number"
_FLAGS: Final = "flags"
_ANY: Final = "any"
SIGNATURES: Final[dict[str, tuple[str, ...]]] = {
    "mmap": (_NUMBER, _NUMBER, _FLAGS, _FLAGS, _NUMBER, _NUMBER),
    "munmap": (_NUMBER, _NUMBER),
    "mremap": (_NUMBER, _NUMBER, _NUMBER, _FLAGS),
    "mprotect": (_NUMBER, _NUMBER, _FLAGS),
    "madvise": (_NUMBER, _NUMBER, _FLAGS),
    "brk": (_NUMBER,),
    "clone": (_ANY, _ANY),
    "clone3": (_ANY, _NUMBER),
    "fork": (),
    "vfork": (),
    "execve": (_ANY, _ANY, _ANY),
    "exit": (_NUMBER,),
    "exit_group": (_NUMBER,),
    "wait4": (_NUMBER, _ANY, _FLAGS, _ANY),
}
"""The calls that make up a program, and their leading arguments; more may follow (mremap, clone)."""


@attrs.frozen
class Call:
    """One system call of a known name."""

    pid: int
    time_ns: int
    """Wall-clock time of the entry, nanoseconds since 1970."""
    name: str
    args: tuple[Value, ...]
    result: int | None
    """None if the log never shows the call return."""
    errno: str | None
    """Symbolic, if the call failed; ``result`` is then -1, or None for a restarted call."""
    started_line: int
    finished_line: int | None
    """None if the log ends, or the task dies, before the call returns."""
    duration_ns: int | None

    @property
    def succeeded(self) -> bool:
        """Whether the call returned without error."""
        return self.result is not None and self.errno is None


@attrs.frozen
class Other(Call):
    """A system call that is not part of a memory program; it is counted, its arguments are not looked at."""


@attrs.frozen
class Signal:
    """A signal delivered to a task, or a stop."""

    pid: int
    time_ns: int
    name: str
    sender: int | None
    """The process the signal is about (``si_pid``): for SIGCHLD the child."""
    line: int


@attrs.frozen
class Ended:
    """The end of a task, by exit or by a signal."""

    pid: int
    time_ns: int
    status: int | None
    """Exit status; None if killed."""
    signal: str | None
    line: int


@attrs.frozen
class Superseded:
    """The first task of a process gave its id to task ``by``, which is in execve."""

    pid: int
    time_ns: int
    by: int
    line: int


Record = Call | Signal | Ended | Superseded


@attrs.frozen
class Log:
    """A parsed log."""

    file: str
    records: tuple[Record, ...]
    """In the order of the lines that complete them; calls that never return come last, in starting order."""


_LINE: Final = re.compile(
    r"(?:\[pid\s+(?P<tag>\d+)(?:<[^<>]*>)?\]\s+|(?P<pid>\d+)(?:<[^<>]*>)?\s+)?(?P<rest>.*)", re.DOTALL
)
_STAMP: Final = re.compile(r"(?P<seconds>\d+)\.(?P<fraction>\d{1,9})\s+(?P<body>\S.*)", re.DOTALL)
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+|\?\?\?) resumed>(?P<rest>.*)", re.DOTALL)
_CALL: Final = re.compile(r"(?P<name>[a-z_]\w*|\?\?\?)\((?P<rest>.*)", re.DOTALL)
_FINISHED: Final = re.compile(
    r"(?P<args>.*)\)\s*=\s(?:(?P<result>-?\d+|0x[0-9a-f]+)(?:<.*?>)?|\?)"
    r"(?:\s(?P<errno>E[A-Z0-9]+))?(?:\s\(.*\))?(?:\s<(?P<seconds>\d+)\.(?P<fraction>\d{1,9})>)?\s*",
    re.DOTALL,
)
_SIGNAL: Final = re.compile(r"--- (?:stopped by )?(?P<name>SIG\w+)(?: \{(?P<info>.*)\})? ---")
_SENDER: Final = re.compile(r"\bsi_pid=(\d+)")
_EXITED: Final = re.compile(r"\+\+\+ exited with (\d+) \+\+\+")
_KILLED: Final = re.compile(r"\+\+\+ killed by (SIG\w+)(?: \(core dumped\))? \+\+\+")
_SUPERSEDED: Final = re.compile(r"\+\+\+ superseded by execve in pid (\d+) \+\+\+")
_CHATTER: Final = re.compile(r"strace: Process \d+ (?:attached|detached)(?: .*)?")
_BROKEN_OFF: Final = re.compile(r"(?P<args>.*) <(?:unfinished|detached) \.\.\.>\s*", re.DOTALL)
_UNFINISHED: Final = " <unfinished ...>"


def nanoseconds(seconds: str, fraction: str) -> int:
    """A decimal number of seconds as integer nanoseconds, without a float in between."""
    return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def read_log(path: str | os.PathLike[str]) -> Log:
    """The log in a plain or gzip file.  Raises BadInput."""
    return parse_log(os.fspath(path), read_lines(path))


def parse_log(file: str, lines: Iterable[Line]) -> Log:
    """The log in ``lines``; ``file`` is for the errors that have no line.  Raises BadInput."""
    parser = _Parser()
    for line in lines:
        parser.feed(line)
    if not parser.records and not parser.pending:
        raise BadInput(file, 0, "at least one line of strace output", "none")
    return Log(file, _numbered((*parser.records, *parser.unreturned())))


@attrs.frozen
class _Begun:
    """A call of which only the first half has been read."""

    pid: int
    time_ns: int
    name: str
    text: str
    line: Line


@attrs.define
class _Parser:
    """Line by line to records; remembers per task the call it is in."""

    records: list[Record] = attrs.Factory(list)
    pending: dict[int, _Begun] = attrs.Factory(dict)
    lost: list[_Begun] = attrs.Factory(list)
    """Calls whose task died inside."""

    def feed(self, line: Line) -> None:
        """Take one line.  Raises BadInput."""
        if _CHATTER.fullmatch(line.text):
            return
        head = _LINE.fullmatch(line.text)
        stamp = _STAMP.fullmatch(head["rest"]) if head else None
        if head is None or stamp is None:
            raise line.bad("a process id (optional), a time stamp of strace -ttt, and an event")
        pid = int(head["tag"] or head["pid"] or UNNUMBERED)
        time_ns = nanoseconds(stamp["seconds"], stamp["fraction"])
        body = stamp["body"]
        if body.startswith("+++"):
            self._end(line, pid, time_ns, body)
        elif body.startswith("---"):
            self._signal(line, pid, time_ns, body)
        elif body.startswith("<..."):
            self._resume(line, pid, body)
        else:
            self._call(line, pid, time_ns, body)

    def unreturned(self) -> list[Call]:
        """The calls of which the log shows no return, in starting order."""
        begun = sorted((*self.lost, *self.pending.values()), key=lambda each: each.line.number)
        return [_make_call(each, None) for each in begun]

    # -- the kinds of line -----------------------------------------------------------

    def _end(self, line: Line, pid: int, time_ns: int, body: str) -> None:
        if found := _EXITED.fullmatch(body):
            self.records.append(Ended(pid, time_ns, int(found[1]), None, line.number))
        elif found := _KILLED.fullmatch(body):
            self.records.append(Ended(pid, time_ns, None, found[1], line.number))
        elif found := _SUPERSEDED.fullmatch(body):
            self._supersede(line, pid, time_ns, int(found[1]))
            return
        else:
            raise line.bad("exited with N, killed by SIGNAL, or superseded by execve in pid N, between +++", body)
        if pid in self.pending:
            self.lost.append(self.pending.pop(pid))

    def _supersede(self, line: Line, pid: int, time_ns: int, by: int) -> None:
        """From here on the log calls task ``by`` by the id ``pid``; its execve resumes under that id."""
        if by not in self.pending:
            raise line.bad(f"an unfinished execve of pid {by} before it")
        if pid in self.pending:
            self.lost.append(self.pending.pop(pid))
        self.pending[pid] = self.pending.pop(by)
        self.records.append(Superseded(pid, time_ns, by, line.number))

    def _signal(self, line: Line, pid: int, time_ns: int, body: str) -> None:
        found = _SIGNAL.fullmatch(body)
        if found is None:
            raise line.bad("a signal name, and its siginfo in braces, between ---", quoted(body))
        sender = _SENDER.search(found["info"] or "")
        self.records.append(Signal(pid, time_ns, found["name"], int(sender[1]) if sender else None, line.number))

    def _resume(self, line: Line, pid: int, body: str) -> None:
        found = _RESUMED.fullmatch(body)
        if found is None:
            raise line.bad("<... NAME resumed> and the rest of the call", quoted(body))
        begun = self.pending.pop(pid, None)
        if begun is None or begun.name != found["name"]:
            raise line.bad(f"an unfinished {found['name']} of the same task before it", begun.name if begun else "none")
        self.records.append(_make_call(attrs.evolve(begun, text=begun.text + found["rest"]), line))

    def _call(self, line: Line, pid: int, time_ns: int, body: str) -> None:
        found = _CALL.fullmatch(body)
        if found is None:
            raise line.bad("NAME(ARGUMENTS) = RESULT, <... NAME resumed>, --- SIGNAL ---, or +++ END +++", quoted(body))
        if pid in self.pending:
            other = self.pending[pid]
            raise line.bad(f"<... {other.name} resumed>, begun in line {other.line.number}", found["name"])
        if half := _BROKEN_OFF.fullmatch(found["rest"]):
            self.pending[pid] = _Begun(pid, time_ns, found["name"], half["args"], line)
        else:
            self.records.append(_make_call(_Begun(pid, time_ns, found["name"], found["rest"], line), line))


# -- one call --------------------------------------------------------------------


def _make_call(begun: _Begun, finish: Line | None) -> Call:
    """The record of a call; ``finish`` is the line with its result, None if there is none.  Raises BadInput."""
    known = begun.name in SIGNATURES
    text, ending = begun.text, None
    if finish is not None:
        # a task killed inside a call: the call is shown as unfinished and as ended, with the result `?`
        ending = _FINISHED.fullmatch(text.replace(_UNFINISHED + ")", ")"))
        if ending is None:
            raise finish.bad(f"the end of {begun.name}: `) = RESULT`, and perhaps its duration", quoted(text))
        text = ending["args"]
    args = _arguments(begun, text, complete=ending is not None and ending["result"] is not None) if known else ()
    seconds = ending["seconds"] if ending else None
    return (Call if known else Other)(
        pid=begun.pid,
        time_ns=begun.time_ns,
        name=begun.name,
        args=args,
        result=int(ending["result"], 0) if ending and ending["result"] else None,
        errno=ending["errno"] if ending else None,
        started_line=begun.line.number,
        finished_line=finish.number if finish else None,
        duration_ns=nanoseconds(seconds, ending["fraction"]) if ending and seconds else None,
    )


def _arguments(begun: _Begun, text: str, *, complete: bool) -> tuple[Value, ...]:
    """The typed arguments; of an incomplete call as many as were printed.  Raises BadInput."""
    values = parse_values(begun.line, text, complete=complete)
    signature = SIGNATURES[begun.name]
    if complete and len(values) < len(signature):
        raise begun.line.bad(f"{len(signature)} arguments of {begun.name}", str(len(values)))
    for position, (value, kind) in enumerate(zip(values, signature, strict=False), 1):
        if not fits(value, kind):
            raise begun.line.bad(f"a {kind} as argument {position} of {begun.name}", quoted(str(value)))
    return values


# -- the first task --------------------------------------------------------------


def _numbered(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Give the lines without a process id the id of the first task, if a log with ids shows which it is."""
    born = {record.result for record in records if isinstance(record, Call) and record.name in SPAWNS}
    roots = {record.pid for record in records} - born
    if len(roots) != 2 or UNNUMBERED not in roots:
        return records
    (root,) = roots - {UNNUMBERED}
    return tuple(attrs.evolve(each, pid=root) if each.pid == UNNUMBERED else each for each in records)
