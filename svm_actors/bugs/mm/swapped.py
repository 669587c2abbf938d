"""MM-B07, MM-B22, MM-B37, MM-R18: pages in the swap cache (core_mm sections 4 and 9; MM-R41)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_function, replace_guard
from svm_actors.drm.gpusvm_pages import DrmGpusvmPages
from svm_actors.gpu.address import Direction
from svm_actors.mirror.mended import MendedMirror
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm import migrate_device, rmap
from svm_actors.mm.folio import Folio
from svm_actors.mm.hmm_types import HmmPfn
from svm_actors.mm.page_table import Pte
from svm_actors.mm.swap import SwapSlot

# -- dirty bits ------------------------------------------------------------------------------


def forget_dirty(_folio: Folio, _pte: Pte) -> None:
    """What was written since the page came from swap is known to nobody once the entry is gone."""


MM_B07 = Bug(
    id="MM-B07",
    title="collecting a page for migration drops the dirty bit of its entry",
    removes="rmap.fold_dirty",
    races=("MM-R11",),
    oracles=("coherence/INV-14", "copies/INV-16"),
    story="swapped-page-that-stays",
    plant=replace_function(rmap.fold_dirty, forget_dirty),
)


def leaves_page_clean(_self: DrmGpusvmPages, _folio: Folio, _pfn: HmmPfn, _direction: Direction) -> None:
    """Reclaim believes the CPU's entries, which know nothing of the device."""


MM_B37 = Bug(
    id="MM-B37",
    title="GPU SVM maps pages in RAM for write and does not mark them dirty",
    removes="DrmGpusvmPages.dirty_for_write",
    races=("MM-R18",),
    oracles=("coherence/INV-14", "copies/INV-16"),
    story="reclaim-met-by-a-writing-gpu",
    plant=replace_guard(DrmGpusvmPages, "dirty_for_write", leaves_page_clean),
)

MM_R18 = Bug(
    id="MM-R18",
    title="a mirror writes pages in RAM as the stock driver does, without marking them dirty",
    removes="MendedMirror.wrote",
    races=("MM-R18",),
    oracles=("coherence/INV-14", "copies/INV-16"),
    story="reclaim-met-by-a-writing-device",
    plant=replace_guard(MendedMirror, "wrote", Mirror.wrote),
)


# -- the way out of the swap cache -----------------------------------------------------------


def as_it_was(_source: Folio, cached: SwapSlot | None) -> SwapSlot | None:
    """The slot of a page that has left the swap cache: a reference is moved that is not there any more."""
    return cached


MM_B22 = Bug(
    id="MM-B22",
    title="whether a page is in the swap cache is looked up before it leaves it",
    removes="migrate_device.slot_to_move",
    races=("MM-R41",),
    oracles=("lifetime/INV-06", "structure"),
    story="swapped-page-that-moves",
    plant=replace_function(migrate_device.slot_to_move, as_it_was),
)
