"""Ops: what a task is about to do, announced before it is done (DESIGN section 3).

An op is a plain tuple ``(kind, resource, key)``.  It is built on the hottest path of
the program, so it is a tuple and not a class; this file is its documentation.

* ``kind`` is one of the names in :data:`MODES`; the mode tells the search which ops commute.
* ``resource`` is any object with a ``name``; two ops can only conflict on the same resource.
* ``key`` narrows the resource (a page number); None is the whole resource.  For the kinds in
  :data:`LABELLED` it is only a label (a message verb): the order in one mailbox matters whatever
  the verbs are.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

Mode = Literal["r", "w", "a", "-"]

READ: Final[Mode] = "r"
WRITE: Final[Mode] = "w"
ADD: Final[Mode] = "a"
LOCAL: Final[Mode] = "-"


class Named(Protocol):
    """Anything an op can name."""

    @property
    def name(self) -> str:
        """Stable, address-free name; the same in every process."""
        ...


Op = tuple[str, "Named | None", "int | str | None"]

MODES: Final[dict[str, Mode]] = {
    # engine
    "start": LOCAL,
    "local": LOCAL,
    "sleep": LOCAL,
    "join": READ,
    "send": WRITE,
    "receive": WRITE,
    "reply": WRITE,
    "lock": WRITE,
    "trylock": WRITE,
    "read_lock": READ,
    "unlock": WRITE,
    "wait": READ,
    "wake": WRITE,
    # shared kernel objects
    "read": READ,
    "write": WRITE,
    "get": ADD,
    "put": ADD,
    "pte_read": READ,
    "pte_write": WRITE,
    "flag_read": READ,
    "flag_write": WRITE,
    "alloc": WRITE,
    "free": WRITE,
    "copy_begin": READ,
    "copy_end": WRITE,
    "seq_read": READ,
    "seq_write": WRITE,
    # hardware
    "load": READ,
    "store": WRITE,
    "atomic": WRITE,
    "tlb_fill": WRITE,
    "tlb_flush": WRITE,
    "fence_wait": READ,
    "fence_signal": WRITE,
}

LABELLED: Final = frozenset({"send", "receive"})
"""Kinds whose key narrows nothing."""


def render(op: Op) -> str:
    """``lock mm1.mmap_lock`` or ``pte_write mm1 0x10``: the text used in traces."""
    kind, resource, key = op
    text = kind if resource is None else f"{kind} {resource.name}"
    if key is None:
        return text
    return f"{text} {key:#x}" if isinstance(key, int) else f"{text} {key}"


def conflicts(first: Op, second: Op) -> bool:
    """True when the two ops do not commute: same resource and key, and not both read, both add."""
    if first[1] is None or first[1] is not second[1]:
        return False
    if first[2] is not None and second[2] is not None and first[2] != second[2] and not _labelled(first, second):
        return False
    # A kind the table does not know counts as a write: that can cost search time, never a schedule.
    one, other = MODES.get(first[0], WRITE), MODES.get(second[0], WRITE)
    return LOCAL not in (one, other) and (one != other or one == WRITE)


def _labelled(first: Op, second: Op) -> bool:
    return first[0] in LABELLED or second[0] in LABELLED
