"""The bench of the pagemap tests, for this folder: a machine whose VRAM is managed by BOs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "drm"))

from pagemap_bench import BASE_PFN, SCHEDULES, Machine, counted, every, run

__all__ = ["BASE_PFN", "SCHEDULES", "Machine", "counted", "every", "run"]
