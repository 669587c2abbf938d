"""The end of an address space (core_mm section 5, exit_mmap)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.events import MmExited
from svm_actors.mm.memory import zap_range
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.rmap import unlink_anon_vmas

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm


async def exit_mmap(core: CoreMm, mm: Mm) -> None:
    """RELEASE to every interval subscription, then UNMAP over everything, then the VMAs."""
    release = NotifierRange(mm, Event.RELEASE, 0, TASK_PAGES << 1)
    await mm.subscriptions.invalidate_range_start(release)
    await mm.subscriptions.invalidate_range_end(release)
    async with mm.mmap_lock.reading():
        event = NotifierRange(mm, Event.UNMAP, 0, TASK_PAGES << 1)
        await mm.subscriptions.invalidate_range_start(event)
        await zap_range(core, mm, 0, TASK_PAGES)
        await mm.subscriptions.invalidate_range_end(event)
    await mm.mmap_write_lock()
    for vma in list(mm.vmas):
        await vma.start_write()
        mm.vmas.remove(vma)
        vma.attached = False
        await unlink_anon_vmas(vma)
        if vma.file is not None:
            vma.file.unlink(vma)
    mm.mmap_write_unlock()
    mm.exited = True
    core.mms.pop(mm.name, None)
    core.engine.emit(MmExited(mm))
    mm.drop()
