"""Running a world many times: strategies, campaigns, search, replay.

The package is itself the library's verb: ``svm_actors.explore(scenario, preemptions=2)`` searches a scenario
(:func:`svm_actors.explore.exploration.explore`).  A function of that name beside the package would be
replaced by the package as soon as any module of it is imported; so the module can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svm_actors.explore.exploration import Exploration


class _Explore(ModuleType):
    """This package, as something to call."""

    def __call__(self, *args: Any, **options: Any) -> Exploration:
        """Search a scenario."""
        from svm_actors.explore.exploration import explore

        return explore(*args, **options)


sys.modules[__name__].__class__ = _Explore
