"""xe_pt: binding, unbinding and zapping the page-table entries of a range (gpusvm section 6.1).

A bind has three parts.  *Prepare* takes a cursor over the address array with notifier_lock held and
drops the lock: addresses may go stale from then on.  *Pre-commit* takes the lock again and checks that
they did not.  From there to the end nothing can fail: entries are written or the job is queued, its
fence is published, the range's flags change, the lock is dropped.

Simplified: one tile; leaf entries only, so page-table memory and "page tables above the range's own
leaves" do not exist; no scratch pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EAGAIN, ENOMEM, PropertyFailed
from svm_actors.gpu.address import Proto
from svm_actors.gpu.page_table import GpuPageTable, GpuPte
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.xe.pt_update import UpdatePageTable, write_entries
from svm_actors.xe.svm_range import TILE, XeSvmRange

if TYPE_CHECKING:
    from svm_actors.drm.gpusvm_pages import AddressArray
    from svm_actors.xe.svm_host import SvmHost

Entries = tuple[tuple[int, GpuPte], ...]


class XePt:
    """The page table of one VM, as the driver handles it."""

    def __init__(self, vm: SvmHost) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.device = vm.device
        self.freed = False
        """VM close has freed the page tables."""

    @property
    def table(self) -> GpuPageTable:
        """The page table; touching it after close freed it is a use after free (SVM-R22)."""
        if self.freed:
            raise PropertyFailed("lifetime", "SVM-R22", f"page tables of {self.vm.name} are used after they were freed")
        return self.vm.page_table

    # -- bind ------------------------------------------------------------------------

    async def bind_range(self, range_: XeSvmRange, read_only: bool) -> Fence:
        """xe_vm_range_rebind: answers the fence of the update.  -EAGAIN when the pages moved, -ENOMEM.

        Out of memory once: again, with everybody else kept out who makes things resident.
        """
        try:
            return await self._bind_once(range_, read_only)
        except ENOMEM:
            self.engine.count("vram.exclusive")
            async with self.device.region.vram.validation.writing():
                return await self._bind_once(range_, read_only)

    async def _bind_once(self, range_: XeSvmRange, read_only: bool) -> Fence:
        async with self.vm.resv.lock:
            entries = await self._prepare(range_, read_only)
            by_cpu = self._may_use_cpu()
            async with self.vm.svm.gpusvm.notifier_lock.reading():
                self.precommit_range(range_)
                fence = await self._update(range_.start, range_.end, entries, by_cpu)
                self.publish(fence)
                range_.note_bound()
        self.engine.count("gpu.bind")
        return fence

    async def _prepare(self, range_: XeSvmRange, read_only: bool) -> Entries:
        """Take the cursor under the lock, stage the entries without it (SVM-R49)."""
        gpusvm = self.vm.svm.gpusvm
        async with gpusvm.notifier_lock.reading():
            cursor = self.cursor(range_)
        await gpusvm.might_reclaim("page tables", "pgtable")
        self.engine.faults.fail("fence")
        return self.entries(range_, cursor, read_only)

    def cursor(self, range_: XeSvmRange) -> AddressArray:
        """Addresses of its pages, notifier_lock held.  -EAGAIN when they are not valid any more."""
        if not self.vm.svm.gpusvm.pages_valid(range_.pages):
            self.engine.count("SVM-R02")
            self.note_evicted(range_)
            raise EAGAIN
        cursor = range_.pages.array
        assert cursor is not None
        return cursor

    def entries(self, range_: XeSvmRange, cursor: AddressArray, read_only: bool) -> Entries:
        """What leads to these addresses."""
        writable = self.vm.write_bit.writable
        return tuple(
            (range_.start + index, GpuPte.of(page.addr, writable(page, read_only), page.folio))
            for index, page in enumerate(cursor.entries)
        )

    def precommit_range(self, range_: XeSvmRange) -> None:
        """SVM-R02, SVM-R12, SVM-R49: pages given back since get_pages must not be bound (SVM-B37).

        -EAGAIN when they are not valid any more.
        """
        if not self.vm.svm.gpusvm.pages_valid(range_.pages):
            self.engine.count("SVM-R02")
            self.engine.count("SVM-R49")
            self.note_evicted(range_)
            raise EAGAIN

    def note_evicted(self, range_: XeSvmRange) -> None:
        """SVM-R12: what was given back was device memory: it was brought there, and left before it could be used."""
        if any(page.addr.proto is Proto.VRAM for page in range_.pages.entries):
            self.engine.count("SVM-R12")

    def _may_use_cpu(self) -> bool:
        """The CPU writes entries only when nothing is pending on the VM."""
        return self.vm.resv.idle and not self.vm.config.bind_by_gpu

    async def _update(self, start: int, end: int, entries: Entries, by_cpu: bool, *, flush: bool = False) -> Fence:
        """Write (or, without entries, clear) now or queue a job that will."""
        asid = self.vm.asid
        if not by_cpu:
            depends = tuple(self.vm.resv.pending())
            flush_asid = asid if flush else None
            fence = await self.device.bind_queue.call(
                UpdatePageTable(self.table, start, end, entries, depends, flush_asid)
            )
            self.vm.entries_change(start, end, entries, fence)
            return fence
        await self.engine.step("pte_write", self.table, start if end - start == 1 else None)
        write_entries(self.table, start, end, entries)
        self.vm.entries_change(start, end, entries, None)
        if flush:
            return await self.device.tlb_inval.submit(asid, start, end)
        fence = Fence(self.engine, f"{self.vm.name}.stub")
        fence.signal()
        return fence

    def publish(self, fence: Fence) -> None:
        """SVM-R03: in the reservation before notifier_lock is dropped, so that an invalidation waits for
        writes still to come (SVM-B38)."""
        if not fence.signaled:
            self.engine.count("gpu.bind_job")
        self.vm.resv.add(fence)

    # -- unbind ----------------------------------------------------------------------

    async def unbind_range(self, range_: XeSvmRange) -> None:
        """xe_vm_range_unbind: queued, published, not waited for.  -ENOMEM.

        Entries that no notifier has zapped are flushed from the TLB too; the others have been.
        """
        if not range_.tile_present:
            return
        self.engine.faults.fail("memory")
        async with self.vm.resv.lock:
            by_cpu = self._may_use_cpu()
            async with self.vm.svm.gpusvm.notifier_lock.reading():
                flush = range_.has_valid_mapping
                fence = await self._update(range_.start, range_.end, (), by_cpu, flush=flush)
                self.publish(fence)
                range_.tile_present &= ~TILE

    # -- zap -------------------------------------------------------------------------

    async def zap_range(self, range_: XeSvmRange) -> bool:
        """xe_pt_zap_ptes_range, from the callback: False when there was nothing valid to zap."""
        if not range_.has_valid_mapping:
            return False
        await self.engine.step("pte_write", self.table, range_.start if range_.npages == 1 else None)
        self.table.clear_range(range_.start, range_.end)
        range_.tile_invalidated |= TILE
        return True

    async def clear_root(self) -> None:
        """xe_pt_clear: VM close; nothing is reachable through the table any more."""
        await self.engine.step("pte_write", self.table)
        self.table.clear_range(0, TASK_PAGES)
