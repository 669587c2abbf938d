"""Labels of choices: who ran, what it was about to do, who else could go on; for best-effort replay.

A choice is an index among alternatives, which is all that a strict replay needs.  To make the same choice in a
program that has changed a little one must know the alternatives by name (exploration digest, section 1.4, "Replay
token").  Labels are that: one per choice, written down when a run is recorded for keeping.

As bytes: a table of names and texts, then one row per choice.  From one schedule choice to the next the list of
candidates changes little, so a row has only what went and what came, by position.  Everything is deflated, and
nothing is unpacked beyond a fixed bound.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from svm_actors.explore.packing import PackingError, inflate
from svm_actors.explore.strategies.guided import Decision

MAX_BYTES: Final = 1 << 24
"""Labels of one run, inflated; a run with more has none."""
MAX_NAME: Final = 4096
"""Characters of one name or text."""


class Label(NamedTuple):
    """What one choice was between."""

    task: str
    """Id of the task that ran."""
    text: str
    """The op it had announced; of a data draw its label."""
    options: tuple[str, ...]
    """Ids of the candidates in order, the timer last; none of a data draw."""


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    names: tuple[str, ...]
    rows: tuple[int, ...]


def labels_of(decisions: Sequence[Decision]) -> tuple[Label, ...]:
    """The labels of choices recorded with their texts; none if there are too many to keep."""
    found = tuple(Label(one.point.task, one.text, one.options) for one in decisions)
    return found if len(_encode(found)) <= MAX_BYTES else ()


def pack_labels(labels: Sequence[Label]) -> bytes:
    """Deflated bytes; PackingError for labels that have no valid form."""
    _check(labels)
    data = _encode(labels)
    if len(data) > MAX_BYTES:
        raise PackingError(f"expected at most {MAX_BYTES} bytes of labels, found {len(data)}")
    return zlib.compress(data, 9)


def unpack_labels(packed: bytes, count: int) -> tuple[Label, ...]:
    """The labels of ``count`` choices."""
    try:
        wire = msgspec.msgpack.decode(inflate(packed, MAX_BYTES, "labels", "table of labels"), type=_Wire)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PackingError(f"expected a table of labels: {' '.join(str(error).split())}") from None
    found = tuple(_rows(wire, count))
    _check(found)
    if pack_labels(found) != packed:
        raise PackingError("expected labels as they are written, found another form of the same")
    return found


# -- rows ------------------------------------------------------------------------------


def _encode(labels: Sequence[Label]) -> bytes:
    names: dict[str, int] = {}
    rows: list[int] = []

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    before: tuple[str, ...] = ()
    for label in labels:
        rows += [number(label.task), number(label.text)]
        if not label.options:
            rows.append(0)
            continue
        gone, come = _changes(before, label.options)
        rows += [1, len(gone), *gone, len(come)]
        for at in come:
            rows += [at, number(label.options[at])]
        before = label.options
    return msgspec.msgpack.encode(_Wire(tuple(names), tuple(rows)))


def _changes(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Positions in the first that go, positions in the second that come; what stays keeps its order or goes and
    comes again."""
    places = {name: at for at, name in enumerate(after)}
    kept: set[str] = set()
    gone: list[int] = []
    last = -1
    for at, name in enumerate(before):
        place = places.get(name, -1)
        if place > last:
            last = place
            kept.add(name)
        else:
            gone.append(at)
    return gone, [at for at, name in enumerate(after) if name not in kept]


def _rows(wire: _Wire, count: int) -> Iterator[Label]:
    numbers = iter(wire.rows)
    names = wire.names

    def take(below: int, what: str) -> int:
        found = next(numbers, -1)
        if not 0 <= found < below:
            raise PackingError(f"expected {what} below {below} in a label, found {found}")
        return found

    options: list[str] = []
    for _ in range(count):
        task, text = names[take(len(names), "a name")], names[take(len(names), "a text")]
        if not take(2, "a kind"):
            yield Label(task, text, ())
            continue
        gone = [take(len(options), "a place") for _ in range(take(len(options) + 1, "a count"))]
        options = [name for at, name in enumerate(options) if at not in gone]
        for _ in range(take(len(names) + 1, "a count")):
            at = take(len(options) + 1, "a place")
            options.insert(at, names[take(len(names), "a name")])
        yield Label(task, text, tuple(options))
    if next(numbers, None) is not None:
        raise PackingError(f"expected labels of {count} choices, found more")


def _check(labels: Sequence[Label]) -> None:
    for label in labels:
        for text in (label.task, label.text, *label.options):
            if not text or len(text) > MAX_NAME or not text.isprintable():
                raise PackingError(f"expected 1 to {MAX_NAME} printable characters in a label, found {text[:80]!r}")
        if len(set(label.options)) != len(label.options):
            raise PackingError("expected different names among the candidates of a label")
