"""What one pass of prepare finds out: what to write, in which order, and what to wait for (vm_bind section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from svm_actors.dma_buf.resv import Usage
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.pt_tree import PtUpdate

if TYPE_CHECKING:
    from svm_actors.xe.fault_vm import XeFaultVm
    from svm_actors.xe.pt import Entries
    from svm_actors.xe.svm_range import XeSvmRange


@attrs.define
class Prepared:
    """Of all operations of an ioctl, of a fault, or of a rebind."""

    updates: list[PtUpdate] = attrs.field(factory=list)
    """In the order in which they must be written."""
    flush: tuple[int, int] | None = None
    """Span whose translations must go."""
    wait: Usage | None = None
    """Slots of the VM to wait for; None: none."""
    kernel: bool = False
    """The fence goes into KERNEL slots: everybody has to wait, as for a move."""
    staged: list[XeBindVma] = attrs.field(factory=list)
    """Vmas marked as staged."""
    unstaged: list[XeBindVma] = attrs.field(factory=list)
    """Vmas whose entries go."""
    userptr: bool = False
    """User memory is bound."""
    ranges: list[tuple[XeFaultVm, XeSvmRange, PtUpdate]] = attrs.field(factory=list)
    """SVM ranges that are bound, and what writes their entries."""

    @property
    def needs_notifier_lock(self) -> bool:
        """Pages of the process are bound, which may be changing."""
        return self.userptr or bool(self.ranges)

    @property
    def span(self) -> tuple[int, int]:
        """All that is touched."""
        return min(update.start for update in self.updates), max(update.end for update in self.updates)

    def add_entries(self, entries: Entries, start: int, end: int, *, flush: bool) -> None:
        """Entries of a span, and what the TLB knows of it goes if it may know that nothing is there."""
        self.updates.append(PtUpdate(start, end, entries))
        if flush:
            self.flush_too(start, end)

    def drop(self, lost: PtUpdate) -> None:
        """Entries of a range that are not written after all."""
        self.updates = [update for update in self.updates if update is not lost]
        self.ranges = [bound for bound in self.ranges if bound[2] is not lost]

    def clear(self, start: int, end: int, *, flush: bool = True) -> None:
        """Entries go, and with them their translations."""
        self.updates.append(PtUpdate(start, end))
        if flush:
            self.flush_too(start, end)

    def flush_too(self, start: int, end: int) -> None:
        """Translations of this span must go."""
        first, last = self.flush or (start, end)
        self.flush = min(first, start), max(last, end)

    def wait_for(self, usage: Usage) -> None:
        """The strictest wish counts."""
        self.wait = usage if self.wait is None else max(self.wait, usage)
