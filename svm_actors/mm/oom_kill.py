"""The OOM reaper: a victim's memory is taken before the victim itself is gone (core_mm section 5; MM-R22).

The address space is marked unstable first, then every private VMA is emptied, the last one first, under mmap_lock for
read.  The events are CLEAR and not blockable: a subscriber that cannot retire its translations at once refuses, and
then the VMA is left as it is until the next attempt.  Whoever touches a reaped page must not be shown zeros: no fault
fills anything in an unstable address space any more.

Simplified: the victim is named by the caller (process_mrelease) and is taken to be killed; its threads are the
caller's business.  The attempts are 100 ms apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.engine.errors import EAGAIN
from svm_actors.mm.constants import Vm
from svm_actors.mm.memory import zap_range
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm

ATTEMPTS: Final = 10
"""MAX_OOM_REAP_RETRIES."""
PAUSE_NS: Final = 100_000_000
"""Between two attempts."""


async def oom_reap_task_mm(core: CoreMm, mm: Mm) -> None:
    """__oom_reap_task_mm until nothing is refused.  -EAGAIN: parts of it are still there after all attempts."""
    await core.engine.step("flag_write", mm, "MMF_UNSTABLE")
    mm.unstable = True
    for _attempt in range(ATTEMPTS):
        if await mm.mmap_lock.try_read():
            try:
                done = await _reap_vmas(core, mm)
            finally:
                mm.mmap_lock.release()
            if done:
                return
        await core.engine.sleep(PAUSE_NS, "oom reaper")
    raise EAGAIN


async def _reap_vmas(core: CoreMm, mm: Mm) -> bool:
    """One attempt; False when a VMA was refused."""
    done = True
    for vma in reversed(list(mm.vmas)):
        if not vma.flags & (Vm.HUGETLB | Vm.PFNMAP | Vm.SHARED):
            done = await core.engine.parts.of(reap_vma)(core, mm, vma) and done
    return done


async def reap_vma(core: CoreMm, mm: Mm, vma: Vma) -> bool:
    """MM-R22: empty one VMA; False when a subscriber refuses: then no entry is touched and there is no end."""
    event = NotifierRange(mm, Event.CLEAR, vma.start, vma.end, blockable=False)
    try:
        await mm.subscriptions.invalidate_range_start(event)
    except EAGAIN:
        core.engine.count("MM-R22")
        return False
    await zap_range(core, mm, vma.start, vma.end)
    await mm.subscriptions.invalidate_range_end(event)
    return True
