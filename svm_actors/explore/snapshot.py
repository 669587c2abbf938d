"""The state of a run as a value that equal states share (exploration digest, sections 1.3 and 1.4).

A state is what decides how the run can go on: where every task stands, with its local variables and what
it had begun to evaluate, and every object that can be reached from there.  Nothing is listed by hand: the walk follows
every field of every object, so a field that somebody adds tomorrow is part of the state tomorrow.  What is
listed is what does *not* count; a hand-made list of what counts loses states without saying so.

Left out
* names, ids and numbers of creation: an object is known by where it is found.  Page frames of a reused page,
  BO names and request numbers differ from one round of a loop to the next and decide nothing;
* statistics: the engine's counters, its tape and its timeline, counters of the devices;
* the past: the lock-order graph, what a page was before, generations;
* with ``oracles=False`` the listeners: they remember what happened, to judge it.

Time is relative: a deadline counts as what is left of it.  Sequence values (fields and variables called
``seq`` and the like, see ``STAMPS``) only grow; they count by rank and by parity, which is all that the
protocols compare.

A state is taken while a strategy is asked, before the task at work parks.  Its frames are read off the stack then;
what it had begun to evaluate (the place of a loop in its iterator) is not to be seen, its variables are.

Objects are numbered when the walk first meets them, so two states are equal when their graphs are.  Sets
are walked in the order of what their items look like alone.
"""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sortedcontainers import SortedDict, SortedKeyList, SortedList, SortedSet

from svm_actors.engine.engine import Engine
from svm_actors.engine.lockdep import LockDep
from svm_actors.engine.task import Task

if TYPE_CHECKING:
    from svm_actors.engine.op import Op

NAMES: Final = frozenset({"name", "id", "number", "local", "pfn", "generation", "_generation", "base_pfn"})
"""Fields of any object that only tell things apart."""

STAMPS: Final = frozenset(
    {"seq", "seqno", "sequence", "value_seen", "notifier_seq", "stamp", "wait_for", "_next_seqno", "last_seqno"}
)
"""Fields and variables that hold a value of a growing sequence."""

CLOCKS: Final = frozenset({"timeslice_expiration", "expires", "deadline", "timestamp"})
"""Fields and variables that hold a virtual time."""

BY_PLACE: Final = frozenset({"lru", "live"})
"""Dicts whose keys number things in order of use or creation: page frames, places in an LRU list."""

LEFT_OUT: Final[dict[str, frozenset[str]]] = {
    "CoreMm": frozenset({"_names"}),
    "World": frozenset({"at_rest", "at_close"}),
    "XeDevice": frozenset({"gt_stats"}),
    "PageAllocator": frozenset({"_next", "_free", "_generation"}),
    "VramManager": frozenset({"evictions", "_stamp", "_names", "_created", "refusals"}),
    "Task": frozenset({"ready_at", "calls", "handle", "go", "wake_value"}),
}
"""Statistics, numbering, and who judges the state, by class."""

STAMP_FIELDS: Final = {("CollisionSeq", "value")}
"""Class and field of sequence values that do not have the name of one."""

_PLAIN: Final = (type(None), bool, float, str, bytes, complex)
_CODE: Final = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.WrapperDescriptorType)
_LISTS: Final = (list, tuple, deque, SortedList, SortedKeyList)
_DICTS: Final = (dict, Counter, OrderedDict, SortedDict, types.MappingProxyType)
_SETS: Final = (set, frozenset, SortedSet)
_NOT_BEGUN: Final = (type(None), int, float, str, types.FrameType, types.CodeType, dict)
"""What a suspended coroutine refers to that is no value under evaluation."""
_MACHINERY: Final = ("svm_actors.explore", "svm_actors.engine.engine", "svm_actors.engine.backend")
"""Modules whose frames lie on the stack of every task that is at work."""
_ENGINE_ROOM: Final = frozenset(
    {
        *(f"Engine.{name}" for name in ("step", "wait", "sleep", "quiesce", "_wait_timeout")),
        *(f"{kind}Backend.switch" for kind in ("Direct", "Trio")),
    }
)
"""Coroutines whose state the task's own op tells; their variables are leftovers."""
_plain_get: Final = object.__getattribute__

Atom = object
"""One word of an encoded state: plain data."""


def state_of(engine: Engine, *, oracles: bool = True) -> bytes:
    """Digest of the state the engine is in; 16 bytes.  To be taken between two steps."""
    return blake2b(repr(encode(engine, oracles=oracles)).encode(), digest_size=16).digest()


def pending(engine: Engine) -> tuple[tuple[str, str], ...]:
    """What every task would do next, without names: equal states have it equal, and it is cheap."""
    return tuple((task.op[0], type(task.op[1]).__name__) for task in engine.tasks.values())


def encode(engine: Engine, *, oracles: bool = True) -> list[Atom]:
    """The state as a list of words."""
    walk = _Walk(engine)
    for task in engine.tasks.values():
        walk.visit(task)
    for frame in _at_work(engine.current):
        walk.visit(frame)
    walk.word("timers")
    for due, priority, _number, task in sorted(engine._timers, key=lambda timer: timer[:3]):
        walk.words += [max(0, due - engine.now), priority]
        walk.visit(task)
    walk.word("atomic")
    walk.visit(engine.atomic)
    if oracles:
        walk.visit(engine.listeners)
    return walk.ranked()


class _Stamp:
    """A sequence value; its rank among all of the state is known at the end."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class _Walk:
    """One walk over one state."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.words: list[Any] = []
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []
        self._todo: list[Iterator[tuple[str, Any]]] = []

    def word(self, word: Atom) -> None:
        """One word."""
        self.words.append(word)

    def ranked(self) -> list[Atom]:
        """The words, sequence values by rank and parity."""
        values = sorted({word.value for word in self.words if isinstance(word, _Stamp)})
        rank = {value: place for place, value in enumerate(values)}
        return [(rank[word.value], word.value & 1) if isinstance(word, _Stamp) else word for word in self.words]

    def visit(self, value: object) -> None:
        """Write this value and all that hangs on it, depth first; no recursion, state graphs are deep."""
        self._todo.append(iter([("", value)]))
        while self._todo:
            for field, each in self._todo[-1]:
                inner = self._one(field, each)
                if inner is not None:
                    self._todo.append(inner)
                    break
            else:
                self._todo.pop()
                self.words.append(")")

    def _one(self, field: str, value: Any) -> Iterator[tuple[str, Any]] | None:
        """Write the head of a value; what hangs on it is for the caller to walk."""
        kind = type(value)
        if kind in _PLAIN:
            self.words.append(value)
        elif kind is int:
            self.words.append(self._number(field, value))
        elif isinstance(value, Enum):
            self.words.append(str(value))
        elif isinstance(value, _CODE):
            self.words.append(getattr(value, "__qualname__", str(kind)))
        elif isinstance(value, Engine | LockDep):
            self.words.append(kind.__name__)
        else:
            return self._object(value, kind)
        return None

    def _number(self, field: str, value: int) -> Atom:
        if field in STAMPS:
            return _Stamp(value)
        if field in CLOCKS:
            return max(0, value - self.engine.now)
        return value

    def _object(self, value: Any, kind: type) -> Iterator[tuple[str, Any]] | None:
        known = self._seen.get(id(value))  # identity within one walk; everything seen is kept alive
        if known is not None:
            self.words.append(("again", known))
            return None
        self._kept.append(value)
        self._seen[id(value)] = len(self._seen)
        self.words.append(kind.__name__)
        return self._inside(value, kind)

    def _inside(self, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
        for handled, parts in _PARTS:
            if isinstance(value, handled):
                return parts(value)
        return self._fields(value, kind)

    def _fields(self, value: Any, kind: type) -> Iterator[tuple[str, Any]]:
        """Every field that counts, in the order of declaration."""
        left_out = LEFT_OUT.get(kind.__name__, frozenset())
        for field in fields_of(value, kind):
            if field in NAMES or field in left_out:
                continue
            try:
                found = _plain_get(value, field)
            except AttributeError:
                self.words.append("unset")
                continue
            self.words.append(field)
            if field in BY_PLACE and isinstance(found, dict):
                self.words.append("by place")
                yield from _by_place(found)
                continue
            stamped = (kind.__name__, field) in STAMP_FIELDS
            yield ("seq" if stamped else field), found


def fields_of(value: object, kind: type) -> list[str]:
    """Slots and attributes, each once."""
    found: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        slots = base.__dict__.get("__slots__", ())
        found.update(dict.fromkeys([slots] if isinstance(slots, str) else slots))
    found.pop("__weakref__", None)
    found.pop("__dict__", None)
    with suppress(AttributeError):  # no attributes beside its slots
        found.update(dict.fromkeys(_plain_get(value, "__dict__")))
    return list(found)


# -- how each kind of value comes apart ------------------------------------------------------


def _items(value: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return (("", item) for item in value)


def _by_place(value: Any) -> Iterator[tuple[str, Any]]:
    return _items(value.values())


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        yield "", key
        yield "", item


def _unordered(value: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return _items(sorted(value, key=_look))


def _look(item: object) -> str:
    return f"{type(item).__name__}:{item!r}" if isinstance(item, (*_PLAIN, int)) else type(item).__name__


def _at_work(task: Task | None) -> list[types.FrameType]:
    """The frames of the task that runs now, innermost first: asked before it parks, it is not suspended."""
    root = None if task is None else getattr(task.coro, "cr_frame", None)
    frames: list[types.FrameType] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(_MACHINERY):
            frames.append(frame)
        if frame is root:
            return frames
        frame = frame.f_back
    return []


def _frame(value: types.FrameType) -> Iterator[tuple[str, Any]]:
    yield "", value.f_code.co_qualname
    yield "", value.f_lasti
    local = value.f_locals
    for name in sorted(local):
        yield "", name
        yield name, local[name]


def _coroutine(value: Any) -> Iterator[tuple[str, Any]]:
    """Where it is suspended, its variables, and what it had begun to evaluate."""
    frame = value.cr_frame if isinstance(value, types.CoroutineType) else value.gi_frame
    if frame is None:
        yield "", "over"
        return
    code = frame.f_code
    yield "", code.co_qualname
    yield "", frame.f_lasti
    if code.co_qualname in _ENGINE_ROOM:
        return
    local = frame.f_locals
    for name in sorted(local):
        yield "", name
        yield name, local[name]
    shown = {id(each) for each in local.values()}
    for each in gc.get_referents(value):
        if id(each) not in shown and not isinstance(each, _NOT_BEGUN) and getattr(each, "__code__", None) is not code:
            yield "", each


def _function(value: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield "", value.__qualname__
    for cell in value.__closure__ or ():
        yield "", cell
    if value.__defaults__:
        yield "", value.__defaults__


def _cell(value: types.CellType) -> Iterator[tuple[str, Any]]:
    try:
        yield "", value.cell_contents
    except ValueError:
        yield "", "empty"


def _method(value: types.MethodType) -> Iterator[tuple[str, Any]]:
    yield "", value.__func__.__qualname__
    yield "", value.__self__


def _partial(value: functools.partial[Any]) -> Iterator[tuple[str, Any]]:
    return _items((value.func, value.args, value.keywords))


def _task(value: Task) -> Iterator[tuple[str, Any]]:
    """What it is about to do and where its code stands; its thread by what it holds."""
    yield "", value.local.rpartition(".")[0] or value.local
    yield "", _op(value.op)
    yield "", (value.enabled, value.done, value.daemon, value.expired)
    for each in (value.parent, value.thread, value.op[1], value.waits_for, value.coro):
        yield "", each


def _op(op: Op) -> tuple[str, str, str]:
    return op[0], type(op[1]).__name__, str(op[2]) if isinstance(op[2], str) else type(op[2]).__name__


def _built_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Iterators and the like know how to be copied; what cannot be copied counts by what it refers to."""
    try:
        copied = value.__reduce__()
    except TypeError:
        return _items(gc.get_referents(value))
    return _items(copied if isinstance(copied, tuple) else (copied,))


_ITERATORS: Final[tuple[type, ...]] = (
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(iter({})),
    type(iter({}.values())),
    type(iter({}.items())),
    enumerate,
    zip,
    map,
    filter,
    reversed,
    type(reversed([])),
    range,
    slice,
)

_PARTS: Final[list[tuple[Any, Callable[[Any], Iterator[tuple[str, Any]]]]]] = [
    (Task, _task),
    (_DICTS, _pairs),
    (_SETS, _unordered),
    (_LISTS, _items),
    ((types.CoroutineType, types.GeneratorType), _coroutine),
    (types.FrameType, _frame),
    (types.FunctionType, _function),
    (types.CellType, _cell),
    (types.MethodType, _method),
    (functools.partial, _partial),
    (_ITERATORS, _built_in),
]
"""By type, tried in this order; any other object comes apart by its fields."""
