"""What a run runs: a scenario, and what a token must know to find it again."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import attrs

from svm_actors.explore.determinism import digest
from svm_actors.workload.program import Operation, ProgramScenario
from svm_actors.world import Config, World

KEEP: Final = "?keep="
"""Before the numbers of the operations that are kept, at the end of a subject's name."""
NONE: Final = "none"
_NUMBER: Final = re.compile(r"\d{1,6}")

Scenario = Callable[[World], Coroutine[Any, Any, Any]]
"""``async def scenario(world)``: raises or asserts when something is wrong; what it returns is an outcome."""


@attrs.frozen
class Subject:
    """A scenario with its name, its bytes' digest and its machine."""

    scenario: Scenario
    """The coroutine function."""
    name: str
    """What a token calls it: a script path, ``kernel:FILE@3`` ..."""
    digest: str
    """Hex digest of whatever determines what the scenario does."""
    config: Config = attrs.field(factory=Config)
    """The machine it runs on."""

    @property
    def is_program(self) -> bool:
        """Whether it is made of operations that can be left out."""
        return isinstance(self.scenario, ProgramScenario)

    def operations(self, draws: Sequence[int]) -> tuple[Operation, ...]:
        """The operations of the program these draws make; none of a scenario that is not a program."""
        return self.scenario.operations(draws) if isinstance(self.scenario, ProgramScenario) else ()

    def keeping(self, numbers: Iterable[int] | None) -> Subject:
        """The same with only these operations, None for all; its name says which.  TypeError for no program."""
        if not isinstance(self.scenario, ProgramScenario):
            raise TypeError(f"{self.name} is not made of operations that can be left out")
        kept = None if numbers is None else frozenset(numbers)
        return attrs.evolve(self, scenario=self.scenario.keeping(kept), name=kept_name(split_name(self.name)[0], kept))

    @property
    def config_digest(self) -> str:
        """Hex digest of the machine."""
        return config_digest(self.config)


def kept_name(base: str, numbers: frozenset[int] | None) -> str:
    """``random@5?keep=3,5,9``; ``?keep=none`` when nothing is kept, no suffix when everything is."""
    if numbers is None:
        return base
    return f"{base}{KEEP}{','.join(map(str, sorted(numbers))) or NONE}"


def split_name(name: str) -> tuple[str, frozenset[int] | None]:
    """The inverse of :func:`kept_name`; ValueError for what it does not write."""
    base, keep, text = name.partition(KEEP)
    if not keep:
        return name, None
    if text == NONE:
        return base, frozenset()
    numbers = [int(word) for word in text.split(",") if _NUMBER.fullmatch(word)]
    if kept_name(base, frozenset(numbers)) != name:
        raise ValueError(f"expected numbers of operations in ascending order, or {NONE}, after {KEEP} in {name!r}")
    return base, frozenset(numbers)


def config_digest(config: Config) -> str:
    """Hex digest of a machine, by the fields in which it is not the default one: a new field voids no tokens."""
    fields = [(field.name, getattr(config, field.name), field.default) for field in attrs.fields(Config)]
    return digest(repr(sorted((name, value) for name, value, default in fields if value != default)).encode())


def subject_of(scenario: Scenario | Subject, config: Config | None = None, name: str | None = None) -> Subject:
    """A coroutine function as a subject; a subject as it is, with another machine or name if given.

    The digest is that of the function's source text; of a function without one, that of its name.
    Raises TypeError for what cannot be called with one world.
    """
    if isinstance(scenario, Subject):
        found = scenario
    else:
        check_scenario(scenario)
        found = Subject(scenario, _name_of(scenario), digest(_source_of(scenario)))
    changes: dict[str, Any] = {} if config is None else {"config": config}
    if name is not None:
        changes["name"] = name
    return attrs.evolve(found, **changes) if changes else found


def subject_at(name: str, scenario: Scenario | Subject, config: Config | None = None) -> Subject:
    """What a token of this name ran, given the whole scenario: with that name, and only the operations it keeps.

    Raises ValueError for a malformed name, TypeError for operations of what is no program.
    """
    base, kept = split_name(name)
    subject = subject_of(scenario, config, base)
    return subject if kept is None else subject.keeping(kept)


def check_scenario(scenario: object) -> None:
    """Raise TypeError unless this is a coroutine function of one argument."""
    fault = fault_of(scenario)
    if fault:
        raise TypeError(f"expected `async def scenario(world)`, got {fault}")


def fault_of(scenario: object) -> str:
    """What keeps this from being a scenario, in a few words; empty when nothing does."""
    if not callable(scenario):
        return f"a value of type {type(scenario).__name__}"
    if inspect.isfunction(scenario) and not inspect.iscoroutinefunction(scenario):
        return f"`def {scenario.__name__}`, without `async`"
    try:
        inspect.signature(scenario).bind(None)
    except TypeError:
        return f"`{getattr(scenario, '__name__', 'a callable')}{inspect.signature(scenario)}`"
    except ValueError:  # no signature is known: the call will tell
        pass
    return ""


def _name_of(scenario: Scenario) -> str:
    kind = scenario if hasattr(scenario, "__qualname__") else type(scenario)
    return f"{kind.__module__}:{kind.__qualname__}"


def _source_of(scenario: Scenario) -> bytes:
    try:
        return inspect.getsource(scenario).encode()
    except (OSError, TypeError):
        return _name_of(scenario).encode()
