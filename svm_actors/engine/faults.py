"""Injected faults: the one place where the model asks whether something fails for no reason of its own.

A kernel path that may fail (an allocation, a copy, an acknowledgement) asks ``engine.faults.strike("page")``
at the point of its failure.  In a machine without injection the answer is no, nothing is drawn, and a run is
what it would be without this module.  With injection the answer is drawn from the tape, so it replays; the
canonical draw, 0, is "no", so shrinking drops every fault that a failure does not need.

A run has only so many faults: most of the kernel's bugs on error paths need one, and what follows a second
one is seldom worth its cost.  Once they are spent nothing is drawn any more.

DESIGN section 5 asks for injection; docs/design/faults.md lists the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from svm_actors.engine.errors import ENOMEM, KernelError

KINDS: Final[dict[str, str]] = {
    "page": "allocation of a page",
    "memory": "allocation of what the kernel itself needs: vmas, ranges, notifiers, buffers",
    "pgtable": "allocation of a page-table node",
    "vram": "allocation of device memory",
    "copy": "a copy by the device",
    "dma": "a mapping for DMA",
    "tlb-lost": "an acknowledgement of a TLB invalidation that never comes",
    "tlb-late": "an acknowledgement of a TLB invalidation that comes late",
    "ack-lost": "an acknowledgement that a context is off that never comes",
    "ack-late": "an acknowledgement that a context is off that comes late",
    "hang": "a job that never ends",
    "late": "a job that ends late",
    "signal": "a signal that interrupts a wait",
    "fence": "memory for fences",
    "contention": "a wound of a ww_mutex",
    "reaper": "an invalidation that must not block",
    "exit": "the death of a process",
}
"""What can be injected, by the name that ``Config.faults`` takes."""


class Faults:
    """What may fail in this run, how often at most, and how likely."""

    def __init__(self, choose: Callable[[int, str], int], count: Callable[[str], None]) -> None:
        self._choose = choose
        self._count = count
        self.kinds: tuple[str, ...] = ()
        """Kinds that may strike; none: injection is off."""
        self.left = 0
        """Faults this run may still have."""
        self.odds = 1
        """One draw in so many is a fault, where draws are uniform."""
        self.struck: list[str] = []
        """Kinds of the faults this run has had, in order."""

    def allow(self, kinds: tuple[str, ...], most: int, odds: int) -> None:
        """From now on these kinds may strike; ``odds`` is at least 2."""
        self.kinds, self.left, self.odds = kinds, most, odds

    def strike(self, kind: str) -> bool:
        """Whether this point fails now; counts ``inject.KIND`` when it does."""
        if not self.left or kind not in self.kinds:
            return False
        if self._choose(self.odds, f"fault.{kind}") != 1:
            return False
        self.left -= 1
        self.struck.append(kind)
        self._count(f"inject.{kind}")
        return True

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """What is asked for in here was had before, where it could still be refused.  No op inside."""
        left, self.left = self.left, 0
        try:
            yield
        finally:
            self.left = left

    def fail(self, kind: str, error: type[KernelError] = ENOMEM) -> None:
        """Raise ``error`` if this point fails now."""
        if self.strike(kind):
            raise error
