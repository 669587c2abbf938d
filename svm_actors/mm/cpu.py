"""CPU loads and stores: the MMU of a CPU thread.

The MMU reads the entry and touches the page in one atomic step; what it cannot do becomes a fault,
and the access is tried again.  Simplified: no CPU TLB; the core flushes it inside the same locked
sections that change entries, so a stale CPU translation is never visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE
from svm_actors.mm.events import CpuAccess
from svm_actors.mm.messages import SIGKILL, CpuFault
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry, Pte

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


def pieces(addr: int, length: int) -> list[tuple[int, int, int]]:
    """(page, offset, length) of each page a byte range touches."""
    found = []
    while length > 0:
        offset = addr % PAGE_SIZE
        size = min(length, PAGE_SIZE - offset)
        found.append((addr >> PAGE_SHIFT, offset, size))
        addr += size
        length -= size
    return found


async def _translate(core: CoreMm, mm: Mm, vpn: int, write: bool) -> Pte:
    """Fault until the entry allows the access; the caller goes on in the same atomic step.

    SIGKILL: nobody returns from a fault to a process that has been killed.
    """
    kind = "store" if write else "load"
    while True:
        if mm.killed:
            raise SIGKILL
        await core.engine.step(kind, mm.page_table, vpn)
        pte = mm.page_table.get(vpn)
        if pte is not None and pte.kind is Entry.PRESENT and not pte.protnone and (pte.writable or not write):
            return pte
        await core.call(CpuFault(mm, vpn, write))


async def cpu_read(core: CoreMm, mm: Mm, addr: int, length: int) -> bytes:
    """Load bytes.  Raises SIGSEGV or SIGBUS."""
    data = b""
    for vpn, offset, size in pieces(addr, length):
        pte = await _translate(core, mm, vpn, False)
        if not pte.young:
            mm.page_table.set(vpn, pte._replace(young=True))
        read = pte.folio.content.read(offset, size)
        core.engine.emit(CpuAccess(mm, vpn, offset, read, False, pte.folio))
        data += read
    return data


async def cpu_write(core: CoreMm, mm: Mm, addr: int, data: bytes) -> None:
    """Store bytes.  Raises SIGSEGV or SIGBUS; earlier pages of the range stay written."""
    done = 0
    for vpn, offset, size in pieces(addr, len(data)):
        pte = await _translate(core, mm, vpn, True)
        if not (pte.young and pte.dirty):
            mm.page_table.set(vpn, pte._replace(young=True, dirty=True))
        part = data[done : done + size]
        pte.folio.content = pte.folio.content.write(offset, part)
        core.engine.emit(CpuAccess(mm, vpn, offset, part, True, pte.folio))
        done += size
