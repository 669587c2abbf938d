"""From a failing run to a small one: shrinking, and what makes the difference (exploration digest, section 1.4)."""

from __future__ import annotations

from svm_actors.explore.shrink.explanation import Explanation, Passing, explain, explain_shrunk
from svm_actors.explore.shrink.minimise import shrink
from svm_actors.explore.shrink.result import ContextSwitch, KeptDraw, Shrunk
from svm_actors.explore.shrink.shrinker import NotReproduced, Shrinker

__all__ = [
    "ContextSwitch",
    "Explanation",
    "KeptDraw",
    "NotReproduced",
    "Passing",
    "Shrinker",
    "Shrunk",
    "explain",
    "explain_shrunk",
    "shrink",
]
