"""The parts of a replayable program: steps, threads, address spaces and what was mapped before the log began."""

from __future__ import annotations

from typing import Literal

import attrs

from .ranges import Range
from .strace_actions import Action


@attrs.frozen
class Premap:
    """A mapping that must have been there before the first action of its process, as the log lets infer.

    Private and readable and writable: no recorded call tells more, and a replay wants to touch it.
    """

    address: int
    length: int
    file: bool
    """Whether it looks like a part of an executable (its first recorded call protects it), else anonymous memory."""


@attrs.frozen
class Process:
    """One address space."""

    number: int
    parent: int | None
    """The process it was forked or executed from."""
    origin: Literal["root", "fork", "exec"]
    """Where its memory comes from: a fork starts with its parent's, the others with ``premaps`` alone."""
    premaps: tuple[Premap, ...]
    """In address order, never touching."""
    brk_start: int | None
    """First end of the heap the log shows; None if it shows none, or if the heap is inherited."""


@attrs.frozen
class Thread:
    """One task of the log."""

    number: int
    pid: int
    process: int
    """The address space it starts in; Exec steps lead to others."""
    parent: int | None
    """The thread that created it."""
    steps: tuple[int, ...]
    """Numbers of its steps, in program order."""


@attrs.frozen
class Step:
    """One action of one thread with its recorded result."""

    number: int
    """Position in the recorded order, from 0: one order that explains every recorded result."""
    thread: int
    process: int
    """The address space the action works on; of an Exec the one that is left."""
    action: Action
    result: int | None
    """What the call returned; -1 with an errno."""
    errno: str | None
    """A failed call must fail with this code again, if it is ``reproducible``."""
    touched: Range | None
    """The pages the call was about: for mmap and mremap where the mapping now is."""
    gained: tuple[Range, ...]
    """Pages that are mapped by the call."""
    lost: tuple[Range, ...]
    """Pages that were mapped and no longer are; for a move the old place."""
    after: tuple[int, ...]
    """Steps of other threads that must come first in any schedule: the creation of this thread, the end waited for."""
    follows: tuple[int, ...]
    """Steps of other threads that came first on the same pages; a replay that keeps them gets the recorded results."""
    reproducible: bool
    """Whether arguments and history explain the recorded result; if not, the log does not show the reason."""
    inferred: bool
    """Whether the log has no line for it: it was recorded without the calls that create and execute."""
    line: int
    """The line of the log that completes it, or gave rise to the inference."""
