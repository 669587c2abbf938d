"""Migration steps of the mirror driver, both ways, and eviction (hmm_mirror sections 5 to 7).

A step is one ``migrate_vma`` cycle over at most 512 pages of one VMA.  To the device: allocate and
copy, commit, publish the backing pages, finalize.  To RAM: allocate, erase the mirror entry *without*
the mutex (HM-D03), copy, commit, finalize; a CPU fault does the same for its page.  Eviction goes by
physical page and lets the CLEAR events empty the page tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from svm_actors.engine.errors import EFAULT, EINVAL, ENOMEM, PropertyFailed
from svm_actors.mirror.memory import Chunk, backing_of
from svm_actors.mirror.messages import Flag
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.constants import PTRS_PER_PTE, Vm
from svm_actors.mm.content import ZERO
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import (
    MigrateDeviceFinalize,
    MigrateDevicePages,
    MigrateDevicePfns,
    MigrateVmaFinalize,
    MigrateVmaPages,
    MigrateVmaSetup,
)
from svm_actors.mm.migrate_types import MigrateVma, Select
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mirror.device import MirrorDevice
    from svm_actors.mirror.mirror import Mirror

NOFAIL_RETRY_NS: Final = 1_000_000
"""Virtual pause of an allocation that must not fail before it tries again."""


class Migration:
    """The migration code of one device."""

    def __init__(self, device: MirrorDevice) -> None:
        self.device = device
        self.engine = device.engine
        self.core = device.core

    # -- one step per VMA and 512 pages ----------------------------------------------------

    def step_of(self, mirror: Mirror, start: int, end: int, select: Select) -> MigrateVma:
        """The window that begins at ``start``.  -EINVAL without a readable VMA there."""
        vma = mirror.mm.find_vma(start)
        if vma is None or not vma.flags & Vm.READ:
            raise EINVAL
        return self.window(mirror, vma, start, min(end, start + PTRS_PER_PTE, vma.end), select)

    def window(self, mirror: Mirror, vma: Vma, start: int, end: int, select: Select) -> MigrateVma:
        """Arguments of one migrate_vma cycle, owned by the device."""
        return MigrateVma(mirror.mm, vma, start, end, mirror.device, select | Select.COMPOUND)

    # -- to the device -----------------------------------------------------------------------

    async def step_to_device(self, mirror: Mirror, args: MigrateVma) -> None:
        """One cycle RAM to device; pages that cannot go stay.  -EINVAL."""
        await self.core.call(MigrateVmaSetup(args))
        await self.alloc_and_copy(mirror, args)
        await self.core.call(MigrateVmaPages(args))
        await self.finalize_and_map(mirror, args)
        await self.core.call(MigrateVmaFinalize(args))

    async def alloc_and_copy(self, mirror: Mirror, args: MigrateVma) -> None:
        """Give every collected page a filled device page, as long as there are any."""
        args.dst = [None] * args.npages
        for index, source in enumerate(args.src):
            if not source.migrate:
                continue
            page = await self.alloc_device_page(mirror)
            if page is None:
                continue
            await self.copy_page(source.folio, backing_of(page))
            args.dst[index] = page

    async def alloc_device_page(self, mirror: Mirror) -> Folio | None:
        """A device page with its backing, locked; None when either cannot be had."""
        if self.take_failure(mirror):
            return None
        try:
            backing = await self.core.allocator.alloc("backing")
        except ENOMEM:
            return None
        try:
            page = await self.device.memory.alloc_page()
        except ENOMEM:
            backing.put("backing")
            return None
        page.zone_device_data = backing
        backing.zone_device_data = mirror
        return page

    def take_failure(self, mirror: Mirror) -> bool:
        """True when this allocation was asked to fail (FLAGS, one shot)."""
        if not mirror.flags & Flag.FAIL_ALLOC:
            return False
        mirror.flags &= ~Flag.FAIL_ALLOC
        return True

    async def copy_page(self, source: Folio | None, target: Folio) -> None:
        """Copy into a page nobody else sees yet; a null source gives zeros."""
        if source is None:
            target.content = ZERO
            return
        await self.engine.step("copy_begin", source)
        target.content = source.content

    async def finalize_and_map(self, mirror: Mirror, args: MigrateVma) -> None:
        """Publish the backing pages of what was committed, writable where the source entry was.

        Between pages and finalize a zap may free the page again (core_mm 9.6).
        """
        async with mirror.mutex:
            for vpn, source, page in zip(range(args.start, args.end), args.src, args.dst, strict=True):
                if source.migrate and page is not None:
                    self.engine.count("mirror.migrate.to_dev")
                    mirror.pt.store(vpn, backing_of(page), Tag.WRITABLE if source.write else Tag.READ_ONLY)

    # -- to RAM --------------------------------------------------------------------------------

    async def step_to_ram(self, mirror: Mirror, args: MigrateVma) -> int:
        """One cycle device to RAM; how many entries went.  -EINVAL, -ENOMEM.

        Out of memory skips ``pages`` but not ``finalize``: clean only if no earlier page of the
        step already had its destination (HM-D06, MM-B47).
        """
        await self.core.call(MigrateVmaSetup(args))
        try:
            await self.fault_alloc_and_copy(mirror, args)
        except ENOMEM:
            await self.core.call(MigrateVmaFinalize(args))
            raise
        await self.core.call(MigrateVmaPages(args))
        moved = sum(1 for source in args.src if source.valid and source.migrate)
        await self.core.call(MigrateVmaFinalize(args))
        self.engine.count("mirror.migrate.to_ram", moved)
        return moved

    async def fault_alloc_and_copy(self, mirror: Mirror, args: MigrateVma) -> None:
        """Give every collected device page a filled RAM page.  -ENOMEM."""
        args.dst = [None] * args.npages
        for index, source in enumerate(args.src):
            page = source.folio
            if not source.migrate or page is None or not page.is_device_private:
                continue
            target = await self.alloc_ram_page(mirror)
            await self.erase_for_copy(mirror, args.start + index)
            await self.copy_page(backing_of(page), target)
            args.dst[index] = target

    async def alloc_ram_page(self, mirror: Mirror) -> Folio:
        """A locked RAM page.  -ENOMEM."""
        if self.take_failure(mirror):
            raise ENOMEM
        page = await self.core.allocator.alloc("dst")
        page.lock.trylock_now()
        return page

    async def erase_for_copy(self, mirror: Mirror, vpn: int) -> None:
        """The device must not use the page any more; not under the mutex, so an access that has
        already loaded the entry goes on with the old copy (HM-D03)."""
        await self.engine.step("pte_write", mirror.pt, vpn)
        mirror.pt.erase(vpn, vpn)

    async def migrate_to_ram(self, fault: VmFault) -> None:
        """CPU fault on a device page: bring that page home.  -ENOMEM, -EFAULT (SIGBUS).

        With the page locked, so no lock is taken whose holder may want a page or mmap_lock (MM-R26, MM-B70).
        The mirror is the one that migrated the data in, possibly of another process after fork.
        """
        mirror: Mirror = backing_of(fault.page).zone_device_data
        if mirror.closed:
            text = f"{fault.page.name} was migrated by {mirror.name}, which has been freed"
            raise PropertyFailed("lifetime", "HM-D09", text)
        args = MigrateVma(
            fault.mm,
            fault.vma,
            fault.vpn,
            fault.vpn + 1,
            mirror.device,
            Select.DEVICE_PRIVATE | Select.COMPOUND,
            fault_page=fault.page,
        )
        try:
            await self.step_to_ram(mirror, args)
        except EINVAL:
            raise EFAULT from None

    # -- eviction --------------------------------------------------------------------------------

    async def evict_chunk(self, chunk: Chunk) -> None:
        """Move every page of a chunk to RAM that can be; one pass, the rest is skipped silently.

        Pages are all it looks at: mmap_lock, taken with pages locked, would close a circle (MM-R26).
        Simplified: the pages in use are listed when the pass begins, while the kernel tests each
        one as it comes to it.
        """
        src = await self.core.call(MigrateDevicePfns(chunk.pgmap, sorted(chunk.pgmap.live)))
        dst: list[Folio | None] = [None] * len(src)
        for index, source in enumerate(src):
            if source.migrate and source.folio is not None:
                target = await self.alloc_nofail()
                await self.copy_page(backing_of(source.folio), target)
                dst[index] = target
        await self.core.call(MigrateDevicePages(src, dst))
        await self.core.call(MigrateDeviceFinalize(src, dst))

    async def alloc_nofail(self) -> Folio:
        """A locked RAM page, however long it takes."""
        while True:
            try:
                page = await self.core.allocator.alloc("dst")
            except ENOMEM:
                await self.engine.sleep(NOFAIL_RETRY_NS, "nofail allocation")
                continue
            page.lock.trylock_now()
            return page
