"""Deviations of mapping and unmapping pages for the device (gpusvm section 4, steps 8 and 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.drm.gpusvm_pages import DrmGpusvmPages, GpusvmPages

if TYPE_CHECKING:
    from svm_actors.drm.pagemap import DrmPagemap
    from svm_actors.drm.pagemap_zdd import Zdd


def trust_the_flag(gpusvm: DrmGpusvmPages, pages: GpusvmPages) -> None:
    """Unmaps what the flag says is mapped; it is published only when all pages are."""
    gpusvm._unmap(pages)
    pages.entries.clear()


def keep_window(_gpusvm: DrmGpusvmPages, _pages: GpusvmPages) -> None:
    """The window of the attempt before is taken for one of this attempt."""


def still_flagged(_gpusvm: DrmGpusvmPages, _pages: GpusvmPages) -> None:
    """What is unmapped still counts as mapped."""


def free_linked_part(gpusvm: DrmGpusvmPages, pages: GpusvmPages) -> None:
    """Only the pages that were linked go back, so a window used in part stays reserved."""
    assert pages.gpu is not None
    assert pages.window is not None
    iommu = pages.gpu.iommu
    if pages.linked:
        iommu.unlink(pages.window, pages.linked)
    if pages.linked == pages.window_pages:
        iommu.free(pages.window)


def not_the_first(_gpusvm: DrmGpusvmPages, pages: GpusvmPages, dpagemap: DrmPagemap, index: int) -> bool:
    """Anything but page 0 must come from the region chosen already, although none may have been."""
    return pages.dpagemap is dpagemap if index else True


def never_mixed(_gpusvm: DrmGpusvmPages, _zdd: Zdd | None, _before: Zdd | None) -> bool:
    """Where neighbours live is not compared."""
    return False


def region_at_commit(original: type[DrmGpusvmPages]) -> type[DrmGpusvmPages]:
    """The region is noted beside the flags, when every page is mapped; an error before that cannot unmap."""

    class StoresLate(original):  # type: ignore[misc, valid-type]
        def undo_mapping(self, pages: GpusvmPages) -> None:
            region, pages.dpagemap = pages.dpagemap, None
            super().undo_mapping(pages)
            if region is not None:
                region.put()

        def unmap_device_page(self, pages: GpusvmPages, index: int) -> None:
            if pages.dpagemap is not None:
                super().unmap_device_page(pages, index)

    return StoresLate


def frees_the_array(original: type[DrmGpusvmPages]) -> type[DrmGpusvmPages]:
    """Unmapping gives the memory of the addresses back as well."""

    class Frees(original):  # type: ignore[misc, valid-type]
        def clear_mapped(self, pages: GpusvmPages) -> None:
            super().clear_mapped(pages)
            self._free_array(pages)

    return Frees


SVM_B01 = Bug(
    id="SVM-B01",
    title="an error in the middle of mapping unmaps nothing, as the flag is not published yet",
    removes="DrmGpusvmPages.undo_mapping",
    races=("SVM-R43",),
    oracles=("leaks/INV-34", "ranges"),
    story="mixed-placement",
    plant=replace_guard(DrmGpusvmPages, "undo_mapping", trust_the_flag),
)

SVM_B02 = Bug(
    id="SVM-B02",
    title="a device page behind system pages is refused although placement may be mixed",
    removes="DrmGpusvmPages.fits_region",
    races=("SVM-R11",),
    oracles=("scenario",),
    story="mixed-user-memory",
    plant=replace_guard(DrmGpusvmPages, "fits_region", not_the_first),
)

SVM_B30 = Bug(
    id="SVM-B30",
    title="pages of a peer stay mapped when a later page fails, as the region is noted only at the end",
    removes="DrmGpusvmPages.undo_mapping",
    races=("SVM-R43",),
    oracles=("leaks/INV-34", "ranges"),
    story="mixed-placement",
    plant=replace_part(DrmGpusvmPages, region_at_commit),
)

SVM_B31 = Bug(
    id="SVM-B31",
    title="unmapping gives back as much of the address window as was linked, not all of it",
    removes="DrmGpusvmPages.release_window",
    races=("SVM-R44", "SVM-R43"),
    oracles=("leaks/INV-34",),
    story="mixed-placement",
    plant=replace_guard(DrmGpusvmPages, "release_window", free_linked_part),
)

SVM_B56 = Bug(
    id="SVM-B56",
    title="an attempt to map begins with the address window of the one before",
    removes="DrmGpusvmPages.zero_iova_state",
    races=("SVM-R44",),
    oracles=("lifetime/RULE-22", "lifetime/RULE-45"),
    story="mixed-placement",
    plant=replace_guard(DrmGpusvmPages, "zero_iova_state", keep_window),
)

SVM_B63 = Bug(
    id="SVM-B63",
    title="neighbouring pages are mapped together without comparing where they live",
    removes="DrmGpusvmPages.is_mixed",
    races=("SVM-R11",),
    oracles=("ranges/SVM-R11",),
    story="mixed-placement",
    plant=replace_guard(DrmGpusvmPages, "is_mixed", never_mixed),
)

SVM_B65 = Bug(
    id="SVM-B65",
    title="unmapped pages still count as mapped, and are unmapped again",
    removes="DrmGpusvmPages.clear_mapped",
    races=("SVM-R42",),
    oracles=("ranges/RULE-18", "lifetime/RULE-22", "lifetime/RULE-45"),
    story="invalidation-against-bind-jobs",
    plant=replace_guard(DrmGpusvmPages, "clear_mapped", still_flagged),
)

SVM_B66 = Bug(
    id="SVM-B66",
    title="unmapping frees the addresses while a bind is reading them",
    removes="DrmGpusvmPages.clear_mapped",
    races=("SVM-R49",),
    oracles=("lifetime/RULE-23", "lifetime/VMB-B08"),
    story="invalidation-against-bind-jobs",
    plant=replace_part(DrmGpusvmPages, frees_the_array),
)
