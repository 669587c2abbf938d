"""How a run failed: what kind of failure, which rule, and a signature that equal failures share.

Two failures are the same when their *class* is: oracle, rule and normalised message (exploration
digest, section 1.4, "Shrinking").  Normalising takes out what differs from schedule to schedule:
numbers, page contents, who holds a page besides, and of a deadlock everything but the ops the blocked tasks are stuck
in.
"""

from __future__ import annotations

import linecache
import re
import traceback
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import attrs

import svm_actors
from svm_actors.engine.errors import Deadlock, EngineError, KernelError, PropertyFailed, StepBudgetSpent
from svm_actors.engine.op import render

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine

Kind = Literal["property", "deadlock", "livelock", "budget", "error", "internal"]
"""``property``: an oracle or an assert; ``livelock``: a fair run comes round; ``budget``: no verdict;
``error``: the scenario or the engine raised; ``internal``: the model itself broke, which is a bug of this package."""

PACKAGE: Final = Path(svm_actors.__file__).parent
VERBS: Final = PACKAGE / "world"
"""Errors raised in here are about how the scenario called a verb."""

_BYTES: Final = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")
_NUMBER: Final = re.compile(
    r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b|\b[0-9a-f]{8,}\b"
    r"|(?<=\bfolio:)[0-9a-f]+\b|(?<=\[)[0-9a-f]+(?=[,-])|(?<=[,-])[0-9a-f]+(?=[\])])|\d+"
)
"""Decimal, or hexadecimal with or without a prefix; the name of a page and the bounds of a range, which may have no
decimal digit in them; at last any digits inside a name."""
_LIST: Final = re.compile(r"N(?:, ?N)+")
_HOLDERS: Final = re.compile(r"\brefs\[[^\]]*\]")
"""Who else holds a page at that moment."""
_BLOCKED: Final = re.compile(r"^ +\S+ is blocked in (.*?); its thread", re.MULTILINE)
_MOST_FREQUENT: Final = re.compile(r"most frequent of the last \d+ steps: \S+: (.*) \(")
_LONGEST = 300


@attrs.frozen
class Step:
    """One step of a run, as text."""

    number: int
    """Counted from 1 over the whole run."""
    task: str
    """Id of the task."""
    op: str
    """What it did."""


@attrs.frozen
class Pending:
    """A task that was alive when the run ended, as text."""

    task: str
    """Id of the task."""
    op: str
    """What it had announced: running, the op it was at; else the one it would do next."""
    state: Literal["running", "ready", "blocked"]
    """Whether it was at work, could have gone on, or waited for something."""


@attrs.frozen
class Failure:
    """One failure of one run; plain data that crosses process borders."""

    kind: Kind
    """What it amounts to."""
    oracle: str
    """Who noticed: an oracle, ``scenario``, ``engine`` or ``model``."""
    rule: str
    """Digest id, or the name of what was raised."""
    message: str
    """What was seen, in one or more lines."""
    timeline: tuple[Step, ...] = attrs.field(default=(), repr=False)
    """The last steps before it, oldest first."""
    tasks: tuple[Pending, ...] = attrs.field(default=(), repr=False)
    """Tasks alive then, in creation order; actors that waited for work are left out."""

    @property
    def conclusive(self) -> bool:
        """Whether something is wrong; a step budget that is spent says nothing."""
        return self.kind != "budget"

    @property
    def signature(self) -> str:
        """Equal for failures of the same class."""
        return f"{self.oracle}/{self.rule}/{normalise(self.kind, self.message)}"

    @property
    def hash(self) -> str:
        """The signature as twelve hex digits: a file name."""
        return signature_hash(self.signature)

    @property
    def headline(self) -> str:
        """Oracle, rule and the first line of the message."""
        return f"{self.oracle} [{self.rule}]: {self.message.splitlines()[0] if self.message else ''}"


def signature_hash(signature: str) -> str:
    """A signature as twelve hex digits."""
    return blake2b(signature.encode(), digest_size=6).hexdigest()


def normalise(kind: Kind, message: str) -> str:
    """The message without what differs from one schedule to the next."""
    text = message
    if kind == "deadlock":
        text = " | ".join(sorted(stuck_in(message))) or message
    elif kind == "livelock":
        text = message.partition("\n")[0]
    elif kind == "budget":
        found = _MOST_FREQUENT.search(message)
        text = found[1] if found else message
    return _plain(text)[:_LONGEST]


def stuck_in(message: str) -> frozenset[str]:
    """The ops that tasks are stuck in, normalised, of the message of a deadlock; actors' own loops do not count."""
    return frozenset(_plain(op) for op in _BLOCKED.findall(message))


def _plain(text: str) -> str:
    text = _NUMBER.sub("N", _HOLDERS.sub("refs[]", _BYTES.sub("BYTES", text)))
    return " ".join(_LIST.sub("N", text).split())


# -- from an exception -------------------------------------------------------------


def describe(error: BaseException, engine: Engine) -> Failure:
    """The failure that ended this engine's run."""
    leaf = _leaf(error)
    kind, oracle, rule, message = _classify(leaf)
    return Failure(kind, oracle, rule, message, last_steps(engine), live_tasks(engine))


def last_steps(engine: Engine) -> tuple[Step, ...]:
    """The steps the engine remembers, numbered."""
    steps = [(task.id, render(op)) for task, op in engine.timeline]
    first = max(engine.steps - len(steps) + 1, 1)
    return tuple(Step(first + index, task, op) for index, (task, op) in enumerate(steps))


def live_tasks(engine: Engine) -> tuple[Pending, ...]:
    """Tasks that were alive when the run ended and not idle."""
    steps = list(engine.timeline)
    running = steps[-1][0] if steps else None
    return tuple(
        Pending(task.id, render(task.op), "running" if task is running else "ready" if task.enabled else "blocked")
        for task in engine.tasks.values()
        if not (task.daemon and task.op[0] == "receive" and not task.enabled)
    )


def _leaf(error: BaseException) -> BaseException:
    """The first error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _classify(error: BaseException) -> tuple[Kind, str, str, str]:
    if isinstance(error, PropertyFailed):
        return "property", error.oracle, error.rule, error.text
    if isinstance(error, Deadlock):
        return "deadlock", "engine", "deadlock", str(error)
    if isinstance(error, StepBudgetSpent):
        return "budget", "engine", "step-budget", str(error)
    if isinstance(error, EngineError):
        return "error", "engine", type(error).__name__, str(error)
    frame = _raised_at(error)
    where = "" if frame is None else f" at {Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    if isinstance(error, KernelError):
        return "error", "scenario", error.code, f"{error.code} was raised{where} and nobody handled it"
    name = type(error).__name__
    if _in_model(frame):
        return "internal", "model", name, f"{name}: {error}{where}"
    if isinstance(error, AssertionError):
        return "property", "scenario", "assert", f"{str(error) or _source(frame)}{where}"
    return "error", "scenario", name, f"{name}: {error}{where}"


def _raised_at(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame; None when the error was never raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1] if frames else None


def _source(frame: traceback.FrameSummary | None) -> str:
    line = "" if frame is None or frame.lineno is None else linecache.getline(frame.filename, frame.lineno).strip()
    return line or "an assertion failed"


def _in_model(frame: traceback.FrameSummary | None) -> bool:
    if frame is None:
        return False
    path = Path(frame.filename)
    return path.is_relative_to(PACKAGE) and not path.is_relative_to(VERBS)
