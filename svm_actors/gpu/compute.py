"""The compute engine: runs programs, one instruction after the other.

An instruction looks up its translation and reaches memory in one atomic step, the op ``load``,
``store`` or ``atomic``.  On a TLB miss, or when the cached entry does not permit the access, the walker
reads the page table (op ``tlb_fill``); a cached entry with too little permission is dropped and never
faults on its own, so a driver that only upgrades an entry needs no flush.  When the page table does not
permit the access either, the fault goes to the driver and the instruction starts over on acknowledgement.

Atomics need a writable entry and, unless ``atomics_on_system``, one that leads to local memory.

A program runs in the task that calls :meth:`ComputeEngine.run`: that task *is* the execution context,
and whoever wants several at once spawns several tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.gpu.address import Proto
from svm_actors.gpu.bus import Bus
from svm_actors.gpu.events import GpuAccess, TlbFilled
from svm_actors.gpu.fault import Access, FaultQueue
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.gpu.program import AtomicAdd, GpuFault, GpuStuck, Instruction, Load, Result, Store, check
from svm_actors.gpu.tlb import Tlb
from svm_actors.mm.folio import Folio

Kind = Literal["load", "store", "atomic"]

_READ, _WRITE, _ATOMIC, _VRAM = Access.READ, Access.WRITE, Access.ATOMIC, Proto.VRAM

_ACCESS: dict[type[Instruction], tuple[Kind, Access]] = {
    Load: ("load", _READ),
    Store: ("store", _WRITE),
    AtomicAdd: ("atomic", _ATOMIC),
}


@attrs.define(eq=False)
class Errand:
    """What a context that may be reset knows of the instruction it is at."""

    waits: bool = False
    """Its fault is with the driver."""
    lost: bool = False
    """The context was reset: the instruction must not touch anything, and nobody waits for its result."""


class ComputeEngine:
    """All execution units of one GPU."""

    def __init__(
        self, engine: Engine, gpu: str, tlb: Tlb, bus: Bus, faults: FaultQueue, atomics_on_system: bool = False
    ) -> None:
        self.engine = engine
        self.gpu = gpu
        self.name = f"{gpu}.compute"
        self.tlb = tlb
        self.bus = bus
        self.faults = faults
        self.atomics_on_system = atomics_on_system
        """Atomics work on memory outside this GPU."""
        self.replay_limit: int | None = None
        """Replays of one instruction after which the program is given up; None replays for ever, as real
        hardware does.  A driver that acknowledges what it did not cure (SVM-S06, SVM-S07) loops through
        here, and a campaign about something else can bound that without changing the driver."""
        self.page_tables: dict[int, GpuPageTable] = {}
        """Page tables by address space."""

    def attach_vm(self, asid: int, page_table: GpuPageTable) -> None:
        """Let the walker find the page table of an address space."""
        if asid in self.page_tables:
            raise EngineError(f"{self.name}: address space {asid} is in use")
        self.page_tables[asid] = page_table

    def detach_vm(self, asid: int) -> None:
        """Take the page table away; what the TLB holds is the driver's to flush."""
        del self.page_tables[asid]

    async def run(self, asid: int, program: Sequence[Instruction], errand: Errand | None = None) -> list[Result]:
        """Run a program; one result per instruction done.  -EINVAL before anything is done.

        A refused fault ends the program with :class:`GpuFault` as its last result, a program given up
        (:attr:`replay_limit`, :attr:`Errand.lost`) with :class:`GpuStuck`.
        """
        for instruction in program:
            check(instruction)
        results: list[Result] = []
        errand = errand or Errand()
        for instruction in program:
            result = await self._execute(asid, instruction, errand)
            results.append(result)
            if type(result) is GpuFault or type(result) is GpuStuck:
                break
        return results

    async def _execute(self, asid: int, instruction: Instruction, errand: Errand) -> Result:
        engine, tlb, vpn = self.engine, self.tlb, instruction.vpn
        kind, access = _ACCESS[type(instruction)]
        replays = 0
        while not errand.lost:
            pte = tlb.lookup(asid, vpn)
            if pte is not None and self._permits(pte, access):
                await engine.step(kind, tlb, vpn)
                # It may have been flushed or exchanged meanwhile: only what is cached now counts.
                if tlb.lookup(asid, vpn) is pte and not errand.lost:
                    return self._access(asid, pte, instruction)
                continue
            errno = await self._translate(asid, vpn, access, errand)
            if errno is None:
                continue
            if errno:
                return GpuFault(errno)
            replays += 1
            if replays == self.replay_limit:
                engine.count("gpu.stuck")
                break
        return GpuStuck(replays)

    # -- translation -----------------------------------------------------------------

    async def _translate(self, asid: int, vpn: int, access: Access, errand: Errand) -> int | None:
        """Walk, or fault; answers what the fault was acknowledged with, None when there was none."""
        await self.engine.step("tlb_fill", self.tlb, vpn)
        if errand.lost or self._walk(asid, vpn, access):
            return None
        errand.waits = True
        errno = await self.faults.report(asid, vpn, access)
        errand.waits = False
        if not errno:
            self.engine.count("gpu.replay")
        return errno

    def _walk(self, asid: int, vpn: int, access: Access) -> bool:
        """Read the page table; True when the entry permits the access and is cached now."""
        page_table = self.page_tables.get(asid)
        pte = None if page_table is None else page_table.walk(vpn)
        if pte is None or not self._permits(pte, access):
            self.tlb.flush(asid, vpn, vpn + 1)
            return False
        self.tlb.fill(asid, vpn, pte)
        if self.engine.listeners:
            self.engine.emit(TlbFilled(self.gpu, asid, vpn, pte))
        return True

    def _permits(self, pte: GpuPte, access: Access) -> bool:
        if access is _READ:
            return True
        if not pte.writable:
            return False
        if access is _WRITE or pte.dma.proto is _VRAM:
            return True
        return self.atomics_on_system and pte.dma.proto is not Proto.NULL

    # -- access ------------------------------------------------------------------------

    def _access(self, asid: int, pte: GpuPte, instruction: Instruction) -> Result:
        """Reach memory; the whole access is one atomic step."""
        if pte.dma.proto is Proto.NULL:
            return bytes(instruction.length) if isinstance(instruction, Load) else None
        folio = self.bus.resolve(pte.dma, type(instruction) is not Load)
        pte.check(folio, f"{self.gpu} access to page {instruction.vpn:#x} of address space {asid}")
        if isinstance(instruction, Load):
            data = folio.content.read(instruction.offset, instruction.length)
            self._tell(asid, instruction, "load", folio, data)
            return data
        if isinstance(instruction, Store):
            folio.content = folio.content.write(instruction.offset, instruction.data)
            self._tell(asid, instruction, "store", folio, instruction.data)
            return None
        return self._add(asid, instruction, folio)

    def _add(self, asid: int, instruction: AtomicAdd, folio: Folio) -> int:
        width = instruction.width
        old = folio.content.read(instruction.offset, width)
        found = int.from_bytes(old, "little")
        new = ((found + instruction.amount) % (1 << 8 * width)).to_bytes(width, "little")
        folio.content = folio.content.write(instruction.offset, new)
        self._tell(asid, instruction, "atomic", folio, new, old)
        return found

    def _tell(
        self, asid: int, instruction: Instruction, kind: Kind, folio: Folio, data: bytes, old: bytes | None = None
    ) -> None:
        engine = self.engine
        if engine.listeners:
            vpn, offset = instruction.vpn, instruction.offset
            engine.emit(GpuAccess(self.gpu, asid, vpn, offset, data, kind, folio, folio.generation, old))
