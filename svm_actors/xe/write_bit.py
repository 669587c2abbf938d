"""May the GPU write where the CPU may not?  Two policies (suspected issue SVM-S02, race SVM-R38).

After fork, an mprotect round trip or a NUMA scan, a device page of our own has a read-only CPU entry.
hmm returns it as it is even when write was asked for.  7.3.4 does not look at the write bit and binds
the page writable: a forked child then reads what the GPU wrote for its parent.  ``capped`` is the
least intrusive answer that keeps copy-on-write intact; docs/design/svm_s02.md has the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from svm_actors.gpu.fault import Access

if TYPE_CHECKING:
    from svm_actors.drm.gpusvm_pages import DmaPage
    from svm_actors.xe.svm_range import XeSvmRange


class WriteBitPolicy(Protocol):
    """Decides the write bit of GPU entries and what a write fault needs."""

    name: str

    def writable(self, page: DmaPage, read_only: bool) -> bool:
        """Write bit of the GPU entry for a page; ``read_only`` is the GPU VMA's."""
        ...

    def must_upgrade(self, range_: XeSvmRange, vpn: int, access: Access) -> bool:
        """The mapped page will not do for this access: it must come home and become writable first."""
        ...


class Capped:
    """The GPU entry is writable only if the CPU entry is."""

    name = "capped"

    def writable(self, page: DmaPage, read_only: bool) -> bool:
        """SVM-R38: no more permission than the CPU has (INV-04)."""
        return not read_only and page.cpu_write

    def must_upgrade(self, range_: XeSvmRange, vpn: int, access: Access) -> bool:
        """SVM-R38: a write to a page the CPU may only read."""
        if access is Access.READ:
            return False
        entries = range_.pages.entries
        index = vpn - range_.start
        return index < len(entries) and not entries[index].cpu_write


class AsIn734:
    """The write bit of the walk is not looked at."""

    name = "7.3.4"

    def writable(self, page: DmaPage, read_only: bool) -> bool:
        """Writable unless the GPU VMA is read-only."""
        return not read_only

    def must_upgrade(self, range_: XeSvmRange, vpn: int, access: Access) -> bool:
        """Never."""
        return False


POLICIES: dict[str, WriteBitPolicy] = {policy.name: policy for policy in (Capped(), AsIn734())}
