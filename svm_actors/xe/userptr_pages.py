"""drm_gpusvm in its simple mode: getting and giving back the pages of user memory, nothing else (vm_bind 5).

The VM brings its notifier_lock; there are no ranges, no notifiers in a tree and no callbacks of the
helper.  Each userptr has a subscription of its own, and that keeps the address space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svm_actors.drm.gpusvm_pages import DrmGpusvmPages
from svm_actors.mm.hmm_types import HmmRange

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.locks import RwSem
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm

NO_OPS: Any = None
"""Simple mode has none."""


class UserptrPages(DrmGpusvmPages):
    """Pages of the userptrs of one VM."""

    def __init__(
        self, engine: Engine, name: str, core: CoreMm, mm: Mm, *, driver_lock: RwSem, notifier_lock: RwSem
    ) -> None:
        super().__init__(
            engine,
            f"{name}.userptr",
            core,
            mm,
            NO_OPS,
            mm_start=0,
            mm_range=0,
            notifier_pages=1,
            chunk_pages=(1,),
            driver_lock=driver_lock,
        )
        self.notifier_lock = notifier_lock
        mm.drop()

    def walk_is_stale(self, walk: HmmRange) -> bool:
        """VMB-R03: an event began after read_begin let us go; look again until it stays quiet."""
        stale = super().walk_is_stale(walk)
        if stale:
            self.engine.count("VMB-R03")
        return stale
