"""One GPU: its engines, memory, TLB and fault queue, wired together.

Building one allocates no page and starts no task: each engine starts at its first doorbell.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.engine import Engine
from svm_actors.gpu.bus import Bus
from svm_actors.gpu.compute import ComputeEngine
from svm_actors.gpu.copy_engine import CopyEngine
from svm_actors.gpu.fault import FaultQueue
from svm_actors.gpu.iommu import Iommu
from svm_actors.gpu.page_table import GpuPageTable
from svm_actors.gpu.tlb import Tlb
from svm_actors.gpu.tlb_inval import TlbInvalEngine
from svm_actors.gpu.vram import Vram


class Gpu:
    """The hardware of one device."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        vram_pages: int,
        base_pfn: int,
        fault_queue_size: int = 16,
        atomics_on_system: bool = False,
    ) -> None:
        self.engine = engine
        self.name = name
        self.vram = Vram(f"{name}.vram", base_pfn, vram_pages)
        self.iommu = Iommu(engine, f"{name}.iommu")
        self.bus = Bus(self.iommu, self.vram)
        self.tlb = Tlb(f"{name}.tlb")
        self.tlb_inval = TlbInvalEngine(engine, f"{name}.tlb_inval", name, self.tlb)
        self.copy = CopyEngine(engine, f"{name}.copy", self.bus)
        self.fault_queue = FaultQueue(engine, name, fault_queue_size)
        self.compute = ComputeEngine(engine, name, self.tlb, self.bus, self.fault_queue, atomics_on_system)

    @property
    def atomics_on_system(self) -> bool:
        """True when atomics work on memory outside this GPU."""
        return self.compute.atomics_on_system

    def start(self) -> None:
        """Power on.  Starts nothing yet: engines start at their first doorbell."""

    def attach_vm(self, asid: int, page_table: GpuPageTable) -> None:
        """Make an address space known to the walker."""
        self.compute.attach_vm(asid, page_table)

    def detach_vm(self, asid: int) -> None:
        """Forget an address space; flush its TLB entries first."""
        self.compute.detach_vm(asid)

    def statistics(self) -> dict[str, Any]:
        """What is in use; at teardown all of it is 0 except the number of faults."""
        return {
            **self.iommu.statistics(),
            **self.fault_queue.statistics(),
            "tlb_entries": len(self.tlb),
            "address_spaces": len(self.compute.page_tables),
        }

    def __repr__(self) -> str:
        return f"<{self.name}>"
