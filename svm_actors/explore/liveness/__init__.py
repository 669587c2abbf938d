"""Liveness: suspicion by temperature, verdict by a lasso (exploration digest, section 1.4; DESIGN section 5)."""

from __future__ import annotations

from svm_actors.explore.liveness.judge import Verdict, judge
from svm_actors.explore.liveness.lasso import Lasso
from svm_actors.explore.liveness.temperature import Temperature

__all__ = ["Lasso", "Temperature", "Verdict", "judge"]
