"""Scratch pages: what is not mapped reads 0 and swallows writes, and does not fault (vm_bind section 13).

In a VM that has them every empty entry of the page table, at whatever level, leads to the scratch page.  What
is unbound becomes scratch again, and nothing is stored for it.

The price is that an empty entry is a translation like any other, and the TLB keeps it.  A bind over it changes an
entry in use, although it seems only to add one.  Who flushes:

* Jobs with a dma-fence: the ring of every job, before its first instruction.  A job that is to see a binding
  begins after it.
* Long-running jobs have no next job: the bind itself, explicitly.
* An unbind flushes as always.

Simplified: the scratch page is the null entry of recent hardware, so nothing of what is written to it can be
read back, and an atomic is refused as it is through every null entry.  Not in fault mode, as on hardware that does
not need it: there the fault is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.gpu.address import DmaAddr, Proto
from svm_actors.gpu.page_table import GpuPageTable, GpuPte

if TYPE_CHECKING:
    from svm_actors.xe.exec_vm import ExecVm

SCRATCH_PTE: Final = GpuPte(DmaAddr(0, Proto.NULL), True, 0, 0)
"""Of an address where nothing is mapped."""


def use_scratch(page_table: GpuPageTable) -> None:
    """xe_vm_create_scratch: before anything is bound."""
    page_table.empty = SCRATCH_PTE


def drop_scratch(page_table: GpuPageTable) -> None:
    """VM close: nothing at all is reachable; the caller flushes."""
    page_table.empty = None


def has_scratch(page_table: GpuPageTable) -> bool:
    """xe_vm_has_scratch."""
    return page_table.empty is not None


def job_must_flush(vm: ExecVm) -> bool:
    """Section 13: a binding made since the job before may have replaced scratch entries that the TLB knows."""
    return not vm.lr and has_scratch(vm.page_table)


def bind_must_flush(vm: ExecVm) -> bool:
    """Section 13: a job that runs on and on would go on with the scratch entry."""
    return vm.lr and has_scratch(vm.page_table)
