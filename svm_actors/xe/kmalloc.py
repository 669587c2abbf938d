"""Memory for the driver's own structures: vmas, operation lists, jobs, fences (vm_bind sections 6, 7 and 9).

Such memory has no owner in the model, so it never runs out; that it might is an injected fault
(:mod:`svm_actors.engine.faults`).  All of it is asked for before a point of no return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import ENOMEM

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine


def kmalloc(engine: Engine) -> None:
    """An allocation of the driver.  -ENOMEM."""
    if engine.faults.strike("memory"):
        raise ENOMEM
