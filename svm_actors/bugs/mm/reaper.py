"""Deviations of the OOM reaper's two promises: nobody is overrun, and nobody is shown zeros."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function
from svm_actors.engine.errors import EAGAIN
from svm_actors.mm import migrate_device, oom_kill
from svm_actors.mm.core import CoreMm
from svm_actors.mm.memory import zap_range
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.mm.vma import Vma


def always_stable(_mm: Mm) -> bool:
    """A hole is a hole."""
    return True


async def reap_all_the_same(core: CoreMm, mm: Mm, vma: Vma) -> bool:
    """Memory is wanted now; whoever cannot wait for it has had his chance."""
    event = NotifierRange(mm, Event.CLEAR, vma.start, vma.end, blockable=False)
    try:
        await mm.subscriptions.invalidate_range_start(event)
    except EAGAIN:
        await zap_range(core, mm, vma.start, vma.end)
        return True
    await zap_range(core, mm, vma.start, vma.end)
    await mm.subscriptions.invalidate_range_end(event)
    return True


MM_B56 = Bug(
    id="MM-B56",
    title="a migration fills holes that the OOM reaper has made",
    removes="migrate_device.is_stable",
    races=("MM-R22",),
    oracles=("coherence/INV-14",),
    story="device-outlives-the-reaper",
    plant=replace_function(migrate_device.is_stable, always_stable),
)

MM_R22 = Bug(
    id="MM-R22",
    title="the OOM reaper takes pages although a subscriber has refused",
    removes="oom_kill.reap_vma",
    races=("MM-R22",),
    oracles=("lifetime", "mirrors", "coherence", "entries/INV-25"),
    story="device-outlives-the-reaper",
    plant=replace_function(oom_kill.reap_vma, reap_all_the_same),
)
