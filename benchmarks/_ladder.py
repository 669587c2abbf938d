"""Judging a mutant: rungs from cheap to dear, in a forked process over a copy of the tree.

The changed module is written into the copy; then a process is forked which imports the package from the copy.  So the
parent must not have imported the package: it prepares only what the rungs need of other packages.  A mutant that ends
its process, loops or eats memory harms nobody else, and nothing it does reaches the next one.

A compiled file of the unchanged module is no danger: the changed text has another time stamp, and nothing is compiled
to disk while a mutant is judged.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

MEMORY: Final = 4 << 30
"""Bytes of address space that a mutant may have."""
PATIENCE: Final = 6
"""Wall-clock seconds for one second of processor time, on a busy machine; a process that waits ends with them."""
LEFT_OUT: Final = (".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".venv", "failures")
"""What is not copied."""


@attrs.frozen
class Rung:
    """One way to notice a mutant."""

    name: str
    """As the table calls it."""
    seconds: float
    """Processor time it may take; more is a hang."""
    climb: Callable[[], str]
    """Runs it in the forked process; the answer is what it noticed, nothing when all held."""


@attrs.frozen
class Verdict:
    """What became of a mutant."""

    rung: str
    """The rung that noticed it; empty: it survived all."""
    noticed: str
    """What that rung saw."""
    seconds: float
    """Wall-clock time."""


class Tree:
    """A copy of the project in which one module at a time is changed."""

    def __init__(self, root: Path, folder: Path, beside: str = "shared") -> None:
        """``beside`` is a folder next to the project that its tests read."""
        self.path = folder / root.name
        shutil.copytree(root, self.path, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if (root.parent / beside).exists() and not (folder / beside).exists():
            (folder / beside).symlink_to((root.parent / beside).resolve())

    @contextlib.contextmanager
    def changed(self, name: str, text: str) -> Iterator[None]:
        """One file has another content."""
        path = self.path / name
        before, status = path.read_bytes(), path.stat()
        path.write_text(text, encoding="utf-8")
        # Another second than the one a compiled file remembers, whatever the clock says.
        os.utime(path, (status.st_atime, status.st_mtime + 10))
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, (status.st_atime, status.st_mtime))


def judge(tree: Path, rungs: Sequence[Rung]) -> Verdict:
    """Climb until a rung notices something.  Call it only where the package is not imported yet."""
    begin = time.monotonic()
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        _child(tree, rungs, writer)
    os.close(writer)
    try:
        rung, noticed = _listen(reader, rungs, process)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return Verdict(rung, noticed, round(time.monotonic() - begin, 1))


def _listen(reader: int, rungs: Sequence[Rung], process: int) -> tuple[str, str]:
    """Lines of the child: ``ready``, ``begin RUNG``, then ``noticed WHAT``, or at last ``held``.

    Its end is noticed, too, but one before it is ready says nothing of the mutant: RuntimeError.
    """
    names = {rung.name: rung for rung in rungs}
    current, text, ready_said = rungs[0], "", False
    while True:
        ready, _, _ = select.select([reader], [], [], current.seconds * PATIENCE)
        if not ready:
            os.killpg(process, signal.SIGKILL)
            return current.name, "waits for ever"
        piece = os.read(reader, 4096).decode("utf-8", "replace")
        if not piece and not ready_said:
            raise RuntimeError("the process that judges did not come up")
        if not piece:
            return current.name, "hangs, or ends its process"
        *lines, text = (text + piece).split("\n")
        for line in lines:
            word, _, rest = line.partition(" ")
            ready_said = True
            if word == "begin":
                current = names[rest]
            elif word == "noticed":
                return current.name, rest
            elif word == "held":
                return "", ""


def _child(tree: Path, rungs: Sequence[Rung], writer: int) -> None:
    """Everything the forked process does; it does not return."""
    try:
        os.setpgid(0, 0)
        _settle(tree)
        _say(writer, "ready")
        for rung in rungs:
            _say(writer, f"begin {rung.name}")
            noticed = _climb(rung)
            if noticed:
                _say(writer, f"noticed {noticed}")
                break
        else:
            _say(writer, "held")
    finally:
        os._exit(0)


def _climb(rung: Rung) -> str:
    """Within its time, and an error is noticed as well."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(spent.ru_utime + spent.ru_stime + rung.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        return rung.climb()
    except BaseException as error:  # pytest and the engine raise more than Exception, and all of it is a kill
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"


def _settle(tree: Path) -> None:
    """Live in the copy, say nothing, leave nothing behind."""
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(Path.cwd())))]
    os.chdir(tree)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    output = os.open(str(tree.parent / "output.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    silence = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silence, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _say(writer: int, line: str) -> None:
    os.write(writer, (" ".join(line.split())[:500] + "\n").encode())
