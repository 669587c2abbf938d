"""After an invalidation has returned, no device may reach the pages through it (INV-01, INV-18..21).

Looks at every GPU address space of the mm at the moment when all callbacks have returned: neither
a page-table entry nor a TLB entry may be left in the range.  Mirrors are judged the same way, except
for migrations they filter because they own them.
"""

from __future__ import annotations

from typing import Any

from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.gpu import Gpu
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import (
    Event,
    IntervalNotifier,
    InvalidateEnded,
    InvalidateReturned,
    InvalidateStarted,
    NotifierRange,
    NotifierRemoved,
)
from svm_actors.xe.fault_vm import XeFaultVm


class Invalidation:
    """Checks translations and the notifier protocol at every event of it (INV-VMB-01 for VMs filled by user space)."""

    name = "invalidation"
    hears = (InvalidateEnded, InvalidateReturned, InvalidateStarted, NotifierRemoved)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.open: dict[str, int] = {}
        """Regions begun and not ended, by mm."""
        self.frozen: dict[str, tuple[IntervalNotifier, ...]] = {}
        """The tree of each mm in an odd period, as it was at the first event of that."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is InvalidateStarted:
            self.open[event.range.mm.name] = self.open.get(event.range.mm.name, 0) + 1
            self._protocol(event.range.mm)
        elif kind is InvalidateReturned:
            self._no_translation_left(event.range)
        elif kind is InvalidateEnded:
            self._ended(event.range.mm)
        elif kind is NotifierRemoved:
            self._removed(event.notifier)

    def _ended(self, mm: Mm) -> None:
        left = self.open.get(mm.name, 0) - 1
        if left < 0:
            raise PropertyFailed(self.name, "INV-19", f"{mm.name}: an end without a start")
        self.open[mm.name] = left
        self._protocol(mm)

    def at_rest(self) -> None:
        """INV-19: every start that succeeded has had its end, and one that was refused has left nothing."""
        for mm in self.world.core.mms.values():
            subs = mm.subscriptions
            if subs.sequence.active or self.open.get(mm.name, 0):
                self._wrong("INV-19", mm, f"{subs.sequence.active} regions are open and nobody is at work")
            for plain in subs.plain.members:
                if plain.begun:
                    self._wrong("INV-19", mm, f"{plain.name} waits for the end of {plain.begun} regions")

    def _removed(self, sub: IntervalNotifier) -> None:
        """INV-22: its owner frees it now, so nobody may be about to look at it."""
        assert sub.mm is not None
        subs = sub.mm.subscriptions
        for place, where in ((subs.tree, "the tree"), (subs.deferred, "the deferred list"), (subs.calling, "a call")):
            if sub in place:
                self._wrong("INV-22", sub.mm, f"{sub.name} has been removed and is still in {where}")

    def _protocol(self, mm: Mm) -> None:
        subs = mm.subscriptions
        sequence = subs.sequence
        if sequence.active < 0 or (sequence.value & 1 and not sequence.active):
            self._wrong("INV-18", mm, f"sequence {sequence.value} with {sequence.active} active ranges")
        if subs.deferred and not sequence.value & 1:
            self._wrong("INV-21", mm, "deferred subscriptions in an even period")
        self._tree_is_frozen(mm)
        for sub in subs.tree:
            if not sub.seq & 1 or sub.seq > sequence.value:
                self._wrong("INV-20", mm, f"{sub.name} has sequence {sub.seq}, the mm {sequence.value}")

    def _tree_is_frozen(self, mm: Mm) -> None:
        """In an odd period callbacks walk the tree without a lock."""
        subs = mm.subscriptions
        tree = tuple(subs.tree)
        if not subs.sequence.value & 1:
            self.frozen.pop(mm.name, None)
        elif self.frozen.setdefault(mm.name, tree) != tree:
            self._wrong("INV-21", mm, "the tree of subscriptions changes in an odd period")

    def _wrong(self, rule: str, mm: Mm, text: str) -> None:
        raise PropertyFailed(self.name, rule, f"{mm.name}: {text}")

    # -- translations ----------------------------------------------------------------

    def _no_translation_left(self, event: NotifierRange) -> None:
        for device in self.world.gpus:
            gpu = device.gpu
            for vm in device.driver.vms.values():
                if vm.mm is not event.mm:
                    continue
                self._gpu_left(event, f"{gpu.name} page table", vm.page_table.entries_in(event.start, event.end))
                self._gpu_left(event, f"{gpu.name} TLB", gpu.tlb.entries_in(vm.asid, event.start, event.end))
            for bind_vm in device.driver.bind_vms.values():
                if isinstance(bind_vm, XeFaultVm) and bind_vm.mm is event.mm:
                    self._fault_vm(event, gpu, bind_vm)
        for mirror in self.world.mirrors:
            own = event.event is Event.MIGRATE and event.owner is mirror.device
            if not mirror.notifier.subscribed or mirror.mm is not event.mm or own:
                continue
            if mirror.pt.next_from(event.start, event.end) is not None:
                raise PropertyFailed(self.name, "INV-01", f"{mirror.name} keeps entries in {describe(event)}")

    def _fault_vm(self, event: NotifierRange, gpu: Gpu, vm: XeFaultVm) -> None:
        """Wherever a VM filled by user space shows pages of the event, be it mirrored or as user memory."""
        for start, end in vm.gpu_spans(event.start, event.end):
            self._gpu_left(event, f"{vm.name} page table", vm.page_table.entries_in(start, end))
            self._gpu_left(event, f"{vm.name} TLB", gpu.tlb.entries_in(vm.asid, start, end))

    def _gpu_left(self, event: NotifierRange, where: str, left: list[tuple[int, Any]]) -> None:
        if left:
            raise PropertyFailed(
                self.name,
                "INV-01",
                f"{where} still translates page {left[0][0]:#x} after {describe(event)} returned",
            )


def describe(event: NotifierRange) -> str:
    """``MIGRATE [10,20) of p0``."""
    return f"{event.event.value} [{event.start:x},{event.end:x}) of {event.mm.name}"
