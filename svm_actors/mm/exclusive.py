"""make_device_exclusive (core_mm sections 3 and 5, MM-R28).

Get the page for write as GUP does, lock it, announce EXCLUSIVE, look again, and replace the entry.
The folio stays locked until the driver has programmed its device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EFAULT, EOPNOTSUPP
from svm_actors.mm.constants import Vm
from svm_actors.mm.folio import Folio
from svm_actors.mm.memory import handle_mm_fault
from svm_actors.mm.messages import SIGBUS, MakeDeviceExclusive
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.page_table import Entry, Pte

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def get_user_page_write(core: CoreMm, mm: Mm, vpn: int, reason: str) -> Folio:
    """get_user_page_vma_remote with FOLL_WRITE: fault until the entry is present and writable.  -EFAULT."""
    while True:
        vma = mm.vmas.find(vpn)
        if vma is None or not vma.flags & Vm.WRITE or vma.flags & (Vm.IO | Vm.PFNMAP):
            raise EFAULT
        await core.engine.step("pte_read", mm.page_table, vpn)
        pte = mm.page_table.get(vpn)
        if pte is not None and pte.kind is Entry.PRESENT and pte.writable and not pte.protnone:
            folio: Folio = pte.folio
            folio.get(reason)
            return folio
        try:
            await handle_mm_fault(core, mm, vma, vpn, True)
        except SIGBUS:
            raise EFAULT from None


async def make_device_exclusive(core: CoreMm, message: MakeDeviceExclusive) -> Folio:
    """-EFAULT no VMA or not writable, -EOPNOTSUPP file page.  Answers the locked folio (reason ``exclusive``)."""
    mm, vpn = message.mm, message.vpn
    while True:
        folio = await get_user_page_write(core, mm, vpn, "exclusive")
        if not folio.anon:
            folio.put("exclusive")
            raise EOPNOTSUPP
        await folio.lock.acquire()
        event = NotifierRange(mm, Event.EXCLUSIVE, vpn, vpn + 1, message.owner)
        await mm.subscriptions.invalidate_range_start(event)
        await core.engine.step("pte_write", mm.page_table, vpn)
        done = core.engine.parts.of(install_exclusive)(mm, vpn, folio)
        await mm.subscriptions.invalidate_range_end(event)
        if done:
            return folio
        core.engine.count("MM-R28")
        put_exclusive(core, folio)


def put_exclusive(core: CoreMm, folio: Folio) -> None:
    """Unlock and put what :func:`make_device_exclusive` answered, once the device is programmed.

    Who unmapped it meanwhile met the lock, and left its place in the swap cache to us.
    """
    folio.lock.release()
    core.swap.free_swap_cache(folio)
    folio.put("exclusive")


def install_exclusive(mm: Mm, vpn: int, folio: Folio) -> bool:
    """MM-R28: the ptl section with the second look: the page may have moved before it was locked."""
    pte = mm.page_table.get(vpn)
    if pte is None or pte.kind is not Entry.PRESENT or pte.folio is not folio or not pte.writable:
        return False
    if pte.dirty:
        folio.dirty = True
    mm.page_table.set(vpn, Pte(Entry.DEVICE_EXCLUSIVE, folio))
    return True
