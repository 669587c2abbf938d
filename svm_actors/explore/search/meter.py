"""Measured footprints: which fields of the model each step reads and writes.

The ops of the model are announced where kernel threads can interleave, and the section behind an op may
touch more than the op names: a page-table section takes references, a fault looks at its entry after the
lock.  A reduction that believed the ops alone would take such sections for independent and lose schedules
without saying so (digest 1.3: one container left out silently lost failing states).  So nothing is declared:
while a search with a reduction is at work, the classes of the model note every field that is read or
written.  That costs about twice the time of a run and leaves no field out.

A container is held by the field it was reached through; it counts as written when it is not the same, item
by item, at the end of the step.  A large one counts as written when it is looked at.

Left out, and why: the engine's own objects (their ops and ``touched`` say it), oracles (they watch; what
they judge shows in the model), and the fields in ``COMMUTING``, which are counted up and down and only ever
compared with zero at rest.  Not seen: what a scenario's own tasks share in variables of the script; such a
scenario must announce an op where it shares (``await world.engine.step("write", something_named)``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from sortedcontainers import SortedDict, SortedList, SortedSet

from svm_actors.explore.search.footprint import Fields

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine

LAYERS: Final = ("dma_buf", "mm", "gpu", "drm", "xe", "mirror", "world")
"""Layers whose objects are watched."""

COMMUTING: Final = frozenset({("Process", "_calls"), ("WorkQueue", "pending"), ("CoreMm", "_names")})
"""Class and field: counts of calls under way, where the order of counting decides nothing."""

LARGE: Final = 128
"""Items from which on a container is not compared."""

_PLAIN: Final = (int, str, bytes, float)
_METHODS: Final = (MethodType, FunctionType, BuiltinFunctionType)
_CONTAINERS: Final = (list, dict, set, deque, Counter, OrderedDict, SortedDict, SortedList, SortedSet, bytearray)


class Meter:
    """What the step under way has touched; one search makes one."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._known: dict[int, tuple[object, str]] = {}
        self._created: Counter[str] = Counter()
        self._reads: dict[tuple[int, str], tuple[object, Any, Any]] = {}
        self._writes: dict[tuple[int, str], object] = {}

    def begin(self, engine: Engine) -> None:
        """A run starts."""
        self._engine = engine
        self._known, self._created = {}, Counter()
        self._reads, self._writes = {}, {}

    def take(self) -> tuple[Fields, Fields]:
        """Fields read and fields written since the last call."""
        read, written = set[str](), set[str]()
        for (_, field), one in self._writes.items():
            written.add(self._key(one, field))
        for (_, field), (one, value, before) in self._reads.items():
            changed = before is not None and not _same(before, _copy(value))
            (written if changed else read).add(self._key(one, field))
        self._reads, self._writes = {}, {}
        return frozenset(read), frozenset(written)

    def _key(self, one: object, field: str) -> str:
        return f"{self._known[id(one)][1]}.{field}"

    # -- what the watched classes call ---------------------------------------------------

    def read(self, one: object, field: str, value: Any) -> None:
        """A field was looked at."""
        place = id(one), field  # valid while the object lives, and it is kept alive for the run
        if place not in self._reads:
            self._name(one)
            before = _copy(value) if isinstance(value, _CONTAINERS) else None
            self._reads[place] = one, value, before

    def write(self, one: object, field: str) -> None:
        """A field was set."""
        self._name(one)
        self._writes[id(one), field] = one

    def _name(self, one: object) -> None:
        """Whoever touches an object first made it: its name is the creator and a number."""
        if id(one) not in self._known:
            task = self._engine.current if self._engine is not None else None
            creator = "" if task is None else task.id
            self._created[creator] += 1
            self._known[id(one)] = one, f"{type(one).__name__}:{creator}.{self._created[creator]}"


class _Copy:
    """The items a container had."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any] | None) -> None:
        self.items = items


def _copy(value: Any) -> _Copy:
    """Item by item; of a large container nothing, which equals no other copy."""
    if len(value) > LARGE:
        return _Copy(None)
    items = [item for pair in value.items() for item in pair] if isinstance(value, dict) else list(value)
    return _Copy([_copy(item) if isinstance(item, _CONTAINERS) else item for item in items])


def _same(one: _Copy, other: _Copy) -> bool:
    if one.items is None or other.items is None or len(one.items) != len(other.items):
        return False
    return all(
        _same(mine, yours) if isinstance(mine, _Copy) and isinstance(yours, _Copy) else _equal(mine, yours)
        for mine, yours in zip(one.items, other.items, strict=True)
    )


def _equal(mine: Any, yours: Any) -> bool:
    """Never by an object's own idea of equality: asking for it would look at its fields."""
    return mine is yours or (type(mine) in _PLAIN and type(yours) in _PLAIN and mine == yours)


# -- the watched classes -------------------------------------------------------------------


@cache
def watched_classes() -> tuple[type, ...]:
    """Every class of the model whose objects can change."""
    found: list[type] = []
    for layer in LAYERS:
        package = importlib.import_module(f"svm_actors.{layer}")
        names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
        for module in (package, *map(importlib.import_module, names)):
            own = (each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__)
            found += [each for each in own if isinstance(each, type) and _can_change(each)]
    return tuple(found)


def _can_change(kind: type) -> bool:
    if issubclass(kind, (Enum, tuple, BaseException)) or getattr(kind, "_is_protocol", False):
        return False
    return kind.__setattr__ is object.__setattr__  # a frozen class has its own


@contextmanager
def watching(meter: Meter) -> Iterator[None]:
    """Within this block every object of the model tells the meter what is done to it."""
    kinds = watched_classes()
    for kind in kinds:
        exempt = frozenset(field for name, field in COMMUTING if name in {base.__name__ for base in kind.__mro__})
        kind.__getattribute__ = _getter(meter, exempt)  # type: ignore[assignment,method-assign]
        kind.__setattr__ = _setter(meter, exempt)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        for kind in kinds:
            del kind.__getattribute__
            del kind.__setattr__


def _getter(meter: Meter, exempt: frozenset[str]) -> Callable[[Any, str], Any]:
    def get(self: Any, field: str, plain: Callable[[Any, str], Any] = object.__getattribute__) -> Any:
        value = plain(self, field)
        if type(value) not in _METHODS and field[:2] != "__" and field not in exempt:
            meter.read(self, field, value)
        return value

    return get


def _setter(meter: Meter, exempt: frozenset[str]) -> Callable[[Any, str, Any], None]:
    def set_(self: Any, field: str, value: Any) -> None:
        if field not in exempt:
            meter.write(self, field)
        object.__setattr__(self, field, value)

    return set_
