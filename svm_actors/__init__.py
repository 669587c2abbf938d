"""An executable, deterministic model of Linux GPU shared virtual memory, VM_BIND and dma-fence, as actors.

>>> import svm_actors
>>> run = svm_actors.run(scenario, seed=7, strategy="random")
>>> campaign = svm_actors.fuzz(["scenarios/first_touch.py"], executions=200)

The names below are the library's public surface.  They are looked up when they are first used, so
that importing one part of the package does not import all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from svm_actors.explore.best_effort import BestEffort, replay_best_effort
    from svm_actors.explore.campaign import Campaign, fuzz
    from svm_actors.explore.exploration import Exploration, explore  # the package itself, when it runs
    from svm_actors.explore.hosted import open_world
    from svm_actors.explore.run import Run, replay, run
    from svm_actors.explore.shrink import Explanation, Shrunk, explain, shrink
    from svm_actors.world import Config, World

__all__ = [
    "BestEffort",
    "Campaign",
    "Config",
    "Explanation",
    "Exploration",
    "Run",
    "Shrunk",
    "World",
    "__version__",
    "explain",
    "explore",
    "fuzz",
    "open_world",
    "replay",
    "replay_best_effort",
    "run",
    "shrink",
]

__version__: Final = "0.1.0"
"""Tokens and stores of another version are refused: another version may have another model."""

_HOMES: Final = {
    "BestEffort": "svm_actors.explore.best_effort",
    "Campaign": "svm_actors.explore.campaign",
    "Config": "svm_actors.world",
    "Exploration": "svm_actors.explore.exploration",
    "Explanation": "svm_actors.explore.shrink",
    "Run": "svm_actors.explore.run",
    "Shrunk": "svm_actors.explore.shrink",
    "World": "svm_actors.world",
    "explain": "svm_actors.explore.shrink",
    "fuzz": "svm_actors.explore.campaign",
    "open_world": "svm_actors.explore.hosted",
    "replay": "svm_actors.explore.run",
    "replay_best_effort": "svm_actors.explore.best_effort",
    "run": "svm_actors.explore.run",
    "shrink": "svm_actors.explore.shrink",
}


def __getattr__(name: str) -> Any:
    """Find a public name where it lives; it stays here from then on."""
    if name == "explore":
        return import_module("svm_actors.explore")  # can be called
    if name not in _HOMES:
        raise AttributeError(f"module 'svm_actors' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
