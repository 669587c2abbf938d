"""What holds of SVM ranges: when a device reaches their pages, and which pages those are (gpusvm sections 1.5 and 9).

After an invalidation nothing it touched is mapped for the device any more, whether it was bound or not (RULE-18).  At
all times a range lives in one place (SVM-R11), is not mapped once its memory is gone (SVM-R04), overlaps no other
(SVM-R08), and no device has a mapping of a page that is free (RULE-18).  A range whose memory is gone, were it only a
part, never comes to life again (SVM-R52), and a fault that has found it on the list of the garbage collector does
not find it there a second time (RULE-17).  What is fixed when a range is made stays as it is (RULE-20, RULE-29).  When
nothing moves, every range lies inside one mirror vma (RULE-33).

The walk over everything runs at rest and, in small worlds, after every invalidation region.
"""

from __future__ import annotations

from typing import Any

from svm_actors.drm.gpusvm_pages import GpusvmPages
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.events import TlbFilled
from svm_actors.gpu.fault import PageFault
from svm_actors.mm.constants import Vm
from svm_actors.mm.mmu_notifier import InvalidateEnded, InvalidateReturned, NotifierRange
from svm_actors.oracle.notifier import describe
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.svm_fault import RangeFound
from svm_actors.xe.svm_range import Link, XeSvmRange

SMALL_WORLD = 16
"""Ranges and mappings of a device up to which the walk also runs in the middle of things."""


class Ranges:
    """Looks at the ranges of every VM in fault mode."""

    name = "ranges"
    hears = (InvalidateEnded, InvalidateReturned, RangeFound, TlbFilled)

    def __init__(self, world: Any) -> None:
        self.world = world
        self.retired: dict[XeSvmRange, None] = {}
        """Ranges in a tree of which memory was unmapped."""
        self.met: dict[PageFault, XeSvmRange] = {}
        """By fault under way: the last range it found on the list of the garbage collector."""
        self.made: dict[XeSvmRange, tuple[Any, ...]] = {}
        """What never changes of a range, as it was when a fault first found it."""

    def __call__(self, event: Any) -> None:
        """Take one event."""
        kind = type(event)
        if kind is InvalidateReturned:
            self._returned(event.range)
        elif kind is TlbFilled:
            self._filled(event)
        elif kind is RangeFound:
            self._found(event)
        elif kind is InvalidateEnded and self._is_small():
            self.check()

    def _is_small(self) -> bool:
        for device in self.world.gpus:
            numbers = device.gpu.iommu.statistics()
            ranges = sum(vm.svm.gpusvm.statistics()["ranges"] for vm in device.driver.svm_vms())
            if numbers["mappings"] > SMALL_WORLD or ranges > SMALL_WORLD:
                return False
        return True

    def _fail(self, rule: str, text: str) -> None:
        raise PropertyFailed(self.name, rule, text)

    def _returned(self, event: NotifierRange) -> None:
        """RULE-18: whatever the event touched has no mapping for the device, bound or not."""
        for device in self.world.gpus:
            for vm in device.driver.svm_vms():
                if vm.mm is not event.mm:
                    continue
                for range_ in vm.svm.gpusvm.ranges(event.start, event.end):
                    if range_.flags.unmapped:
                        self.retired[range_] = None
                    if is_mapped(range_.pages):
                        self._fail("RULE-18", f"{vm.name}: {range_!r} is mapped after {describe(event)} returned")

    def _found(self, event: RangeFound) -> None:
        """RULE-17: dead ranges are collected before a fault looks for its range.

        SVM-R53: and none is made over memory of a device, which can never be mapped.
        """
        vma = event.range.gpusvm.mm.vmas.find(event.range.start)
        if vma is not None and vma.flags & (Vm.IO | Vm.PFNMAP):
            self._fail("SVM-R53", f"{event.range!r} is over memory of a device")
        self._constant(event.range)
        if event.range.link is not Link.QUEUED:
            self.met.pop(event.fault, None)
        elif self.met.get(event.fault) is event.range:
            self._fail("RULE-17", f"{event.range!r} waits to be collected, and a fault finds it again")
        else:
            self.met[event.fault] = event.range

    def _constant(self, range_: XeSvmRange) -> None:
        """RULE-29: bounds, and whether it may migrate; RULE-20: the device its pages are mapped for."""
        made = self.made.setdefault(range_, (range_.start, range_.end, range_.flags.migrate_devmem, range_.pages.gpu))
        if made[:3] != (range_.start, range_.end, range_.flags.migrate_devmem):
            self._fail("RULE-29", f"{range_!r} was made as [{made[0]:x},{made[1]:x}), may migrate: {made[2]}")
        if made[3] is None or made[3] is not range_.pages.gpu:
            self._fail("RULE-20", f"the pages of {range_!r} belong to another device than when it was made")

    def _filled(self, event: TlbFilled) -> None:
        """SVM-R04: the walker finds no entry of a range that was retired; it was zapped, and is bound no more."""
        for device in self.world.gpus:
            vm = device.driver.faulting_vm(event.asid) if device.gpu.name == event.gpu else None
            notifier = None if vm is None else vm.svm.gpusvm.find_notifier(event.vpn)
            range_ = None if notifier is None else notifier.find(event.vpn)
            if range_ is not None and range_.flags.unmapped:
                self._fail("SVM-R04", f"{event.gpu} translates page {event.vpn:#x} of {range_!r}")

    # -- the walk ----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise at the first range, or mapping, that may not be."""
        self.retired = {range_: None for range_ in self.retired if range_.refs > 0}
        self.made = {range_: made for range_, made in self.made.items() if range_.refs > 0}
        for range_ in self.made:
            self._constant(range_)
        for range_ in self.retired:
            if not range_.flags.unmapped:
                self._fail("SVM-R52", f"{range_!r} is alive again, of which memory was unmapped")
        for device in self.world.gpus:
            for vm in device.driver.svm_vms():
                before = 0
                for notifier in vm.svm.gpusvm.root.values():
                    for range_ in notifier.ranges.values():
                        if range_.start < before:
                            self._fail("SVM-R08", f"{vm.name}: {range_!r} overlaps the one before it")
                        before = range_.end
                        self._range(vm.name, range_)
            for iova, mapping in device.gpu.iommu.mappings():
                if mapping.folio.freed and not mapping.folio.is_zero:
                    self._fail("RULE-18", f"{device.gpu.name} maps {mapping.folio.name} at {iova:#x}, which is free")

    def _range(self, name: str, range_: XeSvmRange) -> None:
        pages = range_.pages
        if not is_mapped(pages):
            return
        if range_.flags.unmapped:
            self._fail("SVM-R04", f"{name}: {range_!r} is mapped although its memory was unmapped")
        places = [page.folio.zone_device_data for page in pages.entries]
        if any(place is not places[0] for place in places):
            self._fail("SVM-R11", f"{name}: {range_!r} is mapped with pages of several allocations")

    def check_mirrored(self) -> None:
        """RULE-33: at rest, no range without one mirror vma around it."""
        self.check()
        for device in self.world.gpus:
            for vm in device.driver.svm_vms():
                if isinstance(vm, XeFaultVm) and vm.size:
                    self._inside_mirrors(vm)

    def _inside_mirrors(self, vm: XeFaultVm) -> None:
        for range_ in vm.svm.gpusvm.ranges(0, vm.size):
            vma = vm.find_vma(range_.start)
            if vma is None or vma.mirror is None or vma.end < range_.end:
                self._fail("RULE-33", f"{vm.name}: {range_!r} is not inside one mirror vma")


def is_mapped(pages: GpusvmPages) -> bool:
    """At least one page is mapped for the device."""
    return pages.flags.has_dma_mapping or pages.flags.has_devmem_pages
