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
    from svm_actors.explore.campaign import Campaign, fuzz
    from svm_actors.explore.hosted import open_world
    from svm_actors.explore.run import Run, replay, run
    from svm_actors.world import Config, World

__all__ = ["Campaign", "Config", "Run", "World", "__version__", "fuzz", "open_world", "replay", "run"]

__version__: Final = "0.1.0"
"""Tokens and stores of another version are refused: another version may have another model."""

_HOMES: Final = {
    "Campaign": "svm_actors.explore.campaign",
    "Config": "svm_actors.world",
    "Run": "svm_actors.explore.run",
    "World": "svm_actors.world",
    "fuzz": "svm_actors.explore.campaign",
    "open_world": "svm_actors.explore.hosted",
    "replay": "svm_actors.explore.run",
    "run": "svm_actors.explore.run",
}


def __getattr__(name: str) -> Any:
    """Find a public name where it lives; it stays here from then on."""
    if name not in _HOMES:
        raise AttributeError(f"module 'svm_actors' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
