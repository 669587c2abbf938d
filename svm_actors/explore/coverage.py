"""Coverage: what a run has exercised, as a set of named features.

A campaign that asks for it learns from each run which of the model's situations came up; a situation
nobody has seen before is what the portfolio is paid for, and what no run ever reached is what a campaign
reports at its end.  A feature is a text ``kind:name``, the same in every process and every version of the
run; instance numbers are replaced by ``#``, so ``gpu0`` and ``gpu1`` are one thing.

================  ==================================================================================
``race``          a window event: the race of this digest id really happened
``count``         another counter of the model that was counted
``message``       a message of this kind was sent to an actor
``while``         ... while the same actor was still serving a message of the other kind
``after``         ... and the message before it in the same mailbox was of the other kind
``handoff``       two tasks in a row used one resource: roles, kinds of op (exploration digest 1.2)
``pte`` ``gpu_pte`` ``range`` ``vma``   an edge of a state machine (:mod:`svm_actors.explore.edges`)
``vma_race``      two changes of overlapping parts of an address space under way at once
================  ==================================================================================

How it is done: :class:`Coverage` stands in for the engine's timeline while the run goes on, which costs one
call and two appends per op; entries and ranges are looked at when an op says they are about to change;
everything else is worked out from the kept steps when the run is over.  It announces nothing and draws
nothing, so a run with coverage makes the same choices as one without.  Measured cost: benchmarks/coverage.

Simplified: a role is the name of the task without its turn, so two threads of one process are told apart
only if the scenario names them differently.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from svm_actors.catalogue.rows import RACE
from svm_actors.catalogue.sources import MODEL, cited
from svm_actors.engine.op import Op
from svm_actors.explore.edges import Edges
from svm_actors.explore.failure import PACKAGE

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.task import Task
    from svm_actors.world import World

Step = tuple["Task", Op]
Handoff = tuple[Any, str, str, str, str]
"""Resource; task (its own part of its path) and kind of op, of the user before and of the one after."""
Features = tuple[str, ...]
"""Feature names, sorted."""

_INSTANCE: Final = re.compile(r"\[[0-9a-fx-]+\]|(?<=folio:)[0-9a-f]+|\d+")
_DIGEST_ID: Final = re.compile(r"[A-Z]+-[A-Z]\d+")
_TURN: Final = re.compile(r"^\d+:|\.\d+$")
_MAILBOX: Final = ".mailbox"
_MESSAGES: Final = frozenset({"send", "reply"})
_PAGES: Final = frozenset({"pte_read", "pte_write", "load", "store", "atomic"})
_APART: Final = _MESSAGES | _PAGES | {"start", "local", "sleep", "join", "receive", "get", "put"}
"""Kinds of op that are no hand-off: messages, on one page of many (the edges of entries tell more), on nothing
shared, or commuting with each other."""


class Coverage:
    """Collects the features of one run; put it in place with :meth:`watch`, ask :meth:`features` at the end."""

    def __init__(self) -> None:
        self._inner: Any = ()
        self._edges: Edges | None = None
        self._handoffs: set[Handoff] = set()
        self._mailboxes: dict[str, Mailbox] = {}
        self._replies: dict[str, tuple[Mailbox | None, str]] = {}

    def watch(self, engine: Engine, world: World) -> None:
        """Begin, when the world is built and nothing has run."""
        self._inner = engine.timeline
        self._edges = Edges(world)
        self.append = self._appender()
        engine.timeline = self
        engine.listeners.append(self._edges)

    def _appender(self) -> Callable[[Step], None]:
        """What takes in each step, which is about to be done; a closure, because it is on the hottest path."""
        keep, handoffs, message = self._inner.append, self._handoffs.add, self._message
        users: dict[Any, Step] = {}
        user_of = users.get

        def append(step: Step) -> None:
            keep(step)
            kind, resource, _key = step[1]
            if kind in _APART:
                if kind in _MESSAGES:
                    message(step[1])
                return
            before = user_of(resource, step)
            users[resource] = step
            if before[0].thread is not step[0].thread and resource is not None:
                handoffs((resource, before[0].local, before[1][0], step[0].local, kind))

        return append

    def _message(self, op: Op) -> None:
        """A message is sent, or its answer is about to be taken."""
        kind, resource, key = op
        name = resource.name if resource is not None else ""
        if kind == "reply":
            box, verb = self._replies.get(name) or self._reply(name)
            if box is not None:
                box.answered(verb)
        elif isinstance(key, str):
            box = self._mailboxes.get(name)
            if box is None:
                box = self._mailboxes[name] = Mailbox()
            box.sent(key)

    def _reply(self, name: str) -> tuple[Mailbox | None, str]:
        """Whose answer ``ACTOR.VERB`` is: the actor's mailbox, None where it has none, and the verb."""
        actor, _, verb = name.rpartition(".")
        found = self._replies[name] = self._mailboxes.get(actor + _MAILBOX), verb
        return found

    def __iter__(self) -> Iterator[Step]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def features(self, engine: Engine) -> Features:
        """What the run came to; gives the engine its own timeline back."""
        found = {_counted(name) for name in engine.counters}
        if self._edges is not None:
            engine.timeline = self._inner
            found |= self._edges.features()
        for name, box in self._mailboxes.items():
            found |= box.features(family(name.removesuffix(_MAILBOX)))
        found |= {
            f"handoff:{family(resource.name)} {role(one)} {did}>{role(other)} {does}"
            for resource, one, did, other, does in self._handoffs
        }
        return tuple(sorted(found))


class Mailbox:
    """Which messages met which state of one actor."""

    __slots__ = ("_previous", "_serving", "_states", "_verbs")

    def __init__(self) -> None:
        self._previous = ""
        self._serving: dict[str, int] = {}
        self._verbs: set[tuple[str, str]] = set()
        self._states: set[tuple[str, str]] = set()

    def sent(self, verb: str) -> None:
        """A message was put in."""
        self._verbs.add((self._previous, verb))
        self._previous = verb
        serving = self._serving
        for other in serving:
            self._states.add((other, verb))
        serving[verb] = serving.get(verb, 0) + 1

    def answered(self, verb: str) -> None:
        """Somebody is about to take the answer to one."""
        left = self._serving.get(verb, 0) - 1
        if left > 0:
            self._serving[verb] = left
        elif not left:
            del self._serving[verb]

    def features(self, actor: str) -> set[str]:
        """What was seen; the first message of an actor comes after nothing."""
        found = {f"message:{verb}" for _before, verb in self._verbs}
        found |= {f"after:{actor} {before}>{verb}" for before, verb in self._verbs if before}
        return found | {f"while:{actor} {other}|{verb}" for other, verb in self._states}


def _counted(name: str) -> str:
    if _DIGEST_ID.fullmatch(name):
        return f"race:{name}" if RACE.fullmatch(name) else f"count:{name}"
    return f"count:{family(name)}"


@lru_cache(maxsize=4096)
def family(name: str) -> str:
    """The name without instance numbers and addresses: ``gpu0.vm1.svm`` is ``gpu#.vm#.svm``."""
    return _INSTANCE.sub("#", name)


@lru_cache(maxsize=4096)
def role(local: str) -> str:
    """What a task does, from its own part of its path: ``37:CpuFault.0`` is ``CpuFault``."""
    return family(_TURN.sub("", local))


# -- the known universe ------------------------------------------------------------------------


@cache
def universe() -> dict[str, Features]:
    """Features that could be reached, for the kinds of which the model's own text says so.

    ``race``: every race whose window is counted somewhere.  ``message``: every message class.
    """
    races = tuple(f"race:{name}" for name in sorted(cited("windows")) if RACE.fullmatch(name))
    return {"race": races, "message": tuple(f"message:{verb}" for verb in sorted(_message_classes(PACKAGE)))}


def _message_classes(root: Path) -> set[str]:
    """Names of the classes that derive from ``Message``, through others or not, and from which none derives."""
    bases = {
        node.name: {_base_name(base) for base in node.bases}
        for layer in MODEL
        for path in sorted((root / layer).glob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ClassDef)
    }
    found = {"Message"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return {name for name in found if not any(name in of for of in bases.values())}


def _base_name(base: ast.expr) -> str:
    """``Message`` of ``Message[bool]`` and of ``actor.Message``."""
    plain = base.value if isinstance(base, ast.Subscript) else base
    return plain.attr if isinstance(plain, ast.Attribute) else getattr(plain, "id", "")


class Reached:
    """What the runs of a campaign have reached together; fed in the order of the runs."""

    def __init__(self, features: Iterable[str] = ()) -> None:
        self.features: set[str] = set(features)
        """Names, for asking whether one is in it; sort before printing."""

    def add(self, features: Iterable[str]) -> tuple[str, ...]:
        """Book the features of a run; those nobody had reached before, in their order."""
        new = tuple(feature for feature in features if feature not in self.features)
        self.features.update(new)
        return new

    def by_kind(self) -> dict[str, int]:
        """How many features of each kind were reached, by kind."""
        counts: dict[str, int] = {}
        for feature in sorted(self.features):
            kind = feature.partition(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def missing(self) -> dict[str, Features]:
        """What was never reached, for the kinds whose universe is known."""
        return {
            kind: tuple(name for name in names if name not in self.features) for kind, names in universe().items()
        }
