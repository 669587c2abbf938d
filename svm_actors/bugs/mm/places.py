"""Deviations of what a driver concludes from an event about an address, and from a page about its neighbours."""

from __future__ import annotations

from typing import Any

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.gpusvm import DrmGpusvm, GpusvmCtx, Invalidate
from svm_actors.drm.pagemap_ram import ToRam
from svm_actors.engine.errors import EFAULT, ENOENT
from svm_actors.mm.migrate_types import MigrateVma
from svm_actors.mm.mmu_notifier import Event
from svm_actors.mm.vma import Vma


def unmap_is_final(original: type[DrmGpusvm]) -> type[DrmGpusvm]:
    """A subclass that keeps a list of addresses that are gone."""

    class UnmapIsFinal(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.gone: list[tuple[int, int]] = []

        def store_sequence(self, message: Invalidate) -> None:
            super().store_sequence(message)
            event = message.range
            if event.event is Event.UNMAP:
                self.gone.append((event.start, event.end))

        def check_vma(self, vpn: int, ctx: GpusvmCtx) -> Vma:
            if any(start <= vpn < end for start, end in self.gone):
                raise ENOENT
            found: Vma = super().check_vma(vpn, ctx)
            return found

    return UnmapIsFinal


def all_or_nothing(_to_ram: ToRam, args: MigrateVma) -> bool:
    """An allocation comes home as a whole or not at all."""
    if args.cpages < args.npages:
        raise EFAULT
    return False


MM_B71 = Bug(
    id="MM-B71",
    title="an address that UNMAP was announced for is never mapped for the GPU again",
    removes="DrmGpusvm.check_vma",
    races=("MM-R27", "MM-R02"),
    oracles=("binds/MM-R27",),
    story="gpu-at-the-place-left-behind",
    plant=replace_part(DrmGpusvm, unmap_is_final),
)

MM_B73 = Bug(
    id="MM-B73",
    title="a CPU fault fails when somebody else has a page of the same allocation",
    removes="ToRam.nothing_collected",
    races=("MM-R09", "PGM-R01"),
    oracles=("scenario/SIGBUS", "scenario"),
    story="readers-of-one-allocation",
    plant=replace_guard(ToRam, "nothing_collected", all_or_nothing),
)
