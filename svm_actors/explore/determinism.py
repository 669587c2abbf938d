"""Run twice, same trace: digests of runs and the first place where two differ.

A line of a trace is ``task id: op``, built of stable names only, so equal runs have equal bytes in
every process.  The most frequent cause of a difference is the order of a hash-based container
(exploration digest, section 1.4, "Determinism check").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING

import attrs

from svm_actors.engine.engine import TIMELINE_LENGTH
from svm_actors.engine.op import Op, render

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task

DIGEST_SIZE = 16
"""Bytes; printed as twice as many hex digits."""


def digest(data: bytes) -> str:
    """Hex digest of some bytes, e.g. of a scenario file."""
    return blake2b(data, digest_size=DIGEST_SIZE).hexdigest()


class TraceDigest:
    """A timeline that digests every step as it is run and remembers only the last ones.

    Put it in ``engine.timeline`` before the run to get the digest of a whole run, whatever its
    length, without keeping its trace.
    """

    def __init__(self, remember: int = TIMELINE_LENGTH) -> None:
        self._hash = blake2b(digest_size=DIGEST_SIZE)
        self._last: deque[tuple[Task, Op]] = deque(maxlen=remember)

    def append(self, step: tuple[Task, Op]) -> None:
        """Take in one step."""
        self._last.append(step)
        self._hash.update(_line(*step))

    def __iter__(self) -> Iterator[tuple[Task, Op]]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def hexdigest(self) -> str:
        """Digest of all steps so far."""
        return self._hash.hexdigest()


def trace_digest(engine: Engine) -> str:
    """Digest of the whole run; the engine must have been recording or have a :class:`TraceDigest`."""
    timeline = engine.timeline
    if isinstance(timeline, TraceDigest):
        return timeline.hexdigest()
    if not isinstance(timeline, list):
        raise ValueError("the run was not recorded: only its last steps are known (Engine(record=True) records)")
    whole = TraceDigest(remember=0)
    for step in timeline:
        whole.append(step)
    return whole.hexdigest()


def lines_digest(lines: Iterable[str]) -> str:
    """The same digest, from ``engine.trace()`` of a recorded run."""
    return digest(b"".join(f"{line}\n".encode() for line in lines))


@attrs.frozen
class Difference:
    """Where two traces part."""

    index: int
    """Number of equal lines before it, counted from 0."""
    first: str | None
    """The line of the first trace; None when it ended there."""
    second: str | None
    """The line of the second trace; None when it ended there."""

    def __str__(self) -> str:
        sides = ["the end of the run" if line is None else repr(line) for line in (self.first, self.second)]
        return f"runs differ at step {self.index}: {sides[0]} against {sides[1]}"


def first_difference(lines_a: Sequence[str], lines_b: Sequence[str]) -> Difference | None:
    """The first line in which two traces differ; None when they are equal."""
    for index, (one, other) in enumerate(zip_longest(lines_a, lines_b)):
        if one != other:
            return Difference(index, one, other)
    return None


def _line(task: Task, op: Op) -> bytes:
    return f"{task.id}: {render(op)}\n".encode()
