"""What a witness is: a small scenario in which one guard matters, as a target of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from svm_actors.world import Config, World

Scenario = Callable[[World], Coroutine[Any, Any, None]]


@attrs.frozen
class Witness:
    """One scenario with the races it is about.  It holds in the correct model under every schedule."""

    name: str
    """As on the command line."""
    summary: str
    """What happens, in one line."""
    races: tuple[str, ...]
    """Ids of the windows it can hit."""
    scenario: Scenario
    """What runs."""
    config: Config = attrs.field(factory=Config)
    """The machine."""


def witness(races: str, config: Config | None = None) -> Callable[[Scenario], Witness]:
    """Make a witness of an ``async def``.

    Its name is the function's, with ``-`` for ``_``; its summary the first line of the docstring.
    """

    def decorate(scenario: Scenario) -> Witness:
        name = scenario.__name__.replace("_", "-")
        summary = (scenario.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        return Witness(name, summary[:1].lower() + summary[1:], tuple(races.split()), scenario, config or Config())

    return decorate
