"""What a run runs: a scenario, and what a token must know to find it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from svm_actors.explore.determinism import digest
from svm_actors.world import Config, World

Scenario = Callable[[World], Coroutine[Any, Any, None]]
"""``async def scenario(world)``: raises or asserts when something is wrong."""


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
    def config_digest(self) -> str:
        """Hex digest of the machine."""
        return config_digest(self.config)


def config_digest(config: Config) -> str:
    """Hex digest of every field of a machine, by name."""
    return digest(repr(sorted(attrs.asdict(config).items())).encode())


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
