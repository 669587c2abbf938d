"""What an injected fault excuses in a program over VM_BIND (:mod:`svm_actors.engine.faults`).

An ioctl may be refused with the errors it documents, with faults or without.  What has to be told apart is the end of a
job: one that was disturbed on the hardware has a reason to fail, and those behind it on its queue have it too, as the
queue is banned; so has one whose page fault could not be served, in fault mode, because something ran out just then,
and one that finds no entries for user memory that could not be mapped for DMA: that is reported as -EFAULT, as if the
process had unmapped it, and a rebind gives it up.
Nothing of this excuses a wrong value, or a job that fails in a run into which nothing was injected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.engine.errors import BY_NUMBER, EIO, ENOMEM, ENOSPC
from svm_actors.gpu.program import GpuFault

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.world import World
    from svm_actors.xe.exec import Execution

RUN_OUT: Final = ("page", "pgtable", "memory", "vram", "copy", "dma", "fence")
"""Kinds of faults for which a page fault may be refused."""
SELDOM: Final = (
    "tlb-lost", "tlb-late", "ack-lost", "ack-late", "hang", "late", "signal", "contention", "vram", "copy", "dma",
)  # fmt: skip
"""Kinds that are asked for a few times in a run, if at all; alone, they strike more readily."""
FAULT_ERRORS: Final = (ENOMEM, ENOSPC, EIO)
"""And with what."""


def focus(world: World) -> None:
    """Draw whether all kinds of faults may strike or one alone.

    A run asks for memory a hundred times as often as it begins a job, so with all kinds open the few faults it may have
    are spent on memory.
    """
    faults = world.engine.faults
    if len(faults.kinds) > 1:
        number = world.choose(1 + len(faults.kinds), "kind of fault")
        if number:
            faults.kinds = (faults.kinds[number - 1],)
            if faults.kinds[0] in SELDOM:
                faults.odds = max(2, faults.odds // 5)


def excused(engine: Engine, execution: Execution) -> bool:
    """The job had a fault of its own, injected."""
    return execution.batch.unwell or _refused(engine, execution)


def _refused(engine: Engine, execution: Execution) -> bool:
    results = execution.batch.results
    if not results or not isinstance(results[-1], GpuFault):
        return False
    if struck(engine, "dma") and engine.counters["userptr.efault"]:
        return True
    return BY_NUMBER[results[-1].errno] in FAULT_ERRORS and struck(engine, *RUN_OUT)


def struck(engine: Engine, *kinds: str) -> bool:
    """A fault of one of these kinds was injected in this run."""
    return any(kind in kinds for kind in engine.faults.struck)
