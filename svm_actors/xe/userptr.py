"""xe_userptr: memory of the process behind a vma of a VM that user space binds itself (vm_bind section 5).

A :class:`Userptr` is the part of a vma that watches the address space: one interval subscription, and the
pages as the device sees them.  Its pages are not pinned.  When the process changes the range, the
notifier makes the sequence stale, puts the userptr on the VM's *invalidated* list and waits for every
job that might still use the pages (BOOKKEEP of the VM's reservation); only then are they unmapped from the
IOMMU.  The next exec finds the list, gets the pages again and rebinds the vma (:class:`VmUserptr`).

The callback has two passes, so that the core MM can start all of them before it waits for one: the first
marks and asks every fence to signal, the second waits and unmaps.  The waiting is done without
notifier_lock: nothing can become valid before the invalidation ends.

Lists: ``invalidated`` is filled by notifiers and emptied by whoever repins, ``repin`` is used by the latter
alone, under vm.lock for write.  Their spinlock sections hold no op, so here they are plain statements.

What is different in fault mode is in :mod:`svm_actors.xe.fault_userptr`.

Simplified: read-only user memory is asked for with ``read_only``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.gpusvm_pages import GpusvmPages
from svm_actors.drm.gpusvm_range import GpusvmCtx
from svm_actors.engine.errors import (
    EAGAIN,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOMEM,
    EngineError,
    KernelError,
    PropertyFailed,
)
from svm_actors.engine.signalling import might_fault
from svm_actors.mm.messages import IntervalNotifierInsert, IntervalNotifierRemove
from svm_actors.mm.mmu_notifier import FinishObject, IntervalNotifier, NotifierRange
from svm_actors.xe.userptr_pages import UserptrPages

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.engine.locks import RwSem
    from svm_actors.gpu.address import DmaAddr
    from svm_actors.gpu.gpu import Gpu
    from svm_actors.gpu.page_table import GpuPageTable
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.folio import Folio
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.tlb_inval import XeTlbInval


class UserptrDevice(Protocol):
    """What userptrs need of a device."""

    core: CoreMm
    gpu: Gpu
    tlb_inval: XeTlbInval


class UserptrHost(Protocol):
    """What userptrs need of a VM (:class:`svm_actors.xe.vm_mode.XeBindVm`)."""

    engine: Engine
    name: str
    asid: int
    lock: RwSem
    """vm.lock."""
    notifier_lock: RwSem
    resv_dma: DmaResv
    page_table: GpuPageTable
    rebind_list: Any
    """Vmas to be bound again, as a dict; under ``resv_dma``."""
    userptr: Any
    """Its :class:`VmUserptr`, None before the first userptr."""

    @property
    def mm(self) -> Mm | None:
        """Whose memory it is."""

    @property
    def device(self) -> Any:
        """A :class:`UserptrDevice`."""


class UserptrVma(Protocol):
    """What a userptr needs of its vma."""

    addr: int
    destroyed: bool

    @property
    def end(self) -> int:
        """One past its last page."""


class Userptr:
    """xe_userptr: subscription and pages of one vma; make it with :func:`new_userptr`, then attach it."""

    def __init__(self, owner: VmUserptr, start: int, npages: int, read_only: bool) -> None:
        owner.created += 1
        self.owner = owner
        self.engine = owner.engine
        self.start = start
        """First page in the process."""
        self.npages = npages
        self.read_only = read_only
        self.name = f"{owner.vm.name}.userptr{owner.created}"
        self.vma: UserptrVma | None = None
        """Whose memory it is, from :meth:`attach` on."""
        self.subscribed = False
        self.notifier = IntervalNotifier(self.name, self)
        self.pages = GpusvmPages(owner.gpu)
        self.finish_in_use = False
        """The second pass of an invalidation is outstanding."""

    def piece(self, offset: int, npages: int) -> Userptr:
        """For a vma that is what stays of a cut one: a subscription and pages of its own."""
        return type(self)(self.owner, self.start + offset, npages, self.read_only)

    async def attach(self, vma: UserptrVma) -> None:
        """xe_userptr_setup and the first pin: subscribe for this vma, then get the pages; under vm.lock.

        -EINVAL the address space is gone, and what :meth:`pin_pages` raises, but -ENOMEM where that is -EBUSY, which
        for a bind means a user fence (gpusvm section 7); to be removed all the same.
        """
        owner = self.owner
        self.vma = vma
        await self.engine.step("alloc", owner.pages, self.name)
        self.engine.faults.fail("memory")
        await owner.core.call(IntervalNotifierInsert(self.notifier, owner.mm, self.start, self.npages))
        self.subscribed = True
        owner.live[self] = None
        try:
            await self.pin_pages()
        except EBUSY:
            raise ENOMEM from None

    # -- pages -------------------------------------------------------------------------------

    async def pin_pages(self) -> None:
        """xe_vma_userptr_pin_pages: fault them in and map them, under vm.lock and no reservation.

        VMB-R02: the sequence is that of the walk, so an invalidation since then is seen.  -EFAULT, -EPERM,
        -ENOMEM, -EBUSY after 1000 ms.
        """
        self.owner.vm.lock.assert_held()
        if self.destroyed:
            return
        might_fault(self.engine, self.name)
        owner, end = self.owner, self.start + self.npages
        await owner.pages.get_pages(self.pages, owner.mm, self.notifier, self.start, end, self.ctx())
        self.engine.count("userptr.pin")

    def ctx(self) -> GpusvmCtx:
        """SVM-R55: no owner, so device pages come home: jobs with a fence cannot fault on them (SVM-B18)."""
        return GpusvmCtx(read_only=self.read_only)

    def stale(self) -> bool:
        """SVM-R29: xe_vma_userptr_check_repin: the pages are not, or no longer, those of the process.

        With notifier_lock held, a lasting answer; without it "True" is reliable, "False" a hint.
        """
        stale = self.notifier.check_retry(self.pages.notifier_seq)
        if stale and self.pages.array is not None:
            self.engine.count("VMB-R02")
            self.engine.count("SVM-R29")
        return stale

    def dma_pages(self) -> list[tuple[DmaAddr, Folio]]:
        """Address and page of each page, as they were pinned last, perhaps stale by now."""
        return [(page.addr, page.folio) for page in self.pages.entries]

    @property
    def destroyed(self) -> bool:
        """VMB-R16: its vma is out of the tree for good."""
        return self.vma is not None and self.vma.destroyed

    # -- the end -----------------------------------------------------------------------------

    def unlink(self) -> None:
        """VMB-R15: off the list, under vm.lock for write; its vma is DESTROYED, so it does not come back.

        Whoever pins empties the repin list before vm.lock is let go of, whatever happens (VMB-B07).
        """
        owner = self.owner
        if not owner.vm.lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"{self.name} leaves its lists without {owner.vm.lock.name} held for write")
        if self in owner.invalidated:
            self.engine.count("VMB-R15")
            del owner.invalidated[self]
        if self in owner.repin:
            raise PropertyFailed("lifetime", "VMB-R15", f"{self.name} is destroyed while it is on the repin list")

    def revive(self) -> None:
        """The operation that took its vma out was undone; an invalidation meanwhile did not list it (VMB-R16)."""
        if self.subscribed and self.notifier.check_retry(self.pages.notifier_seq):
            self.engine.count("userptr.revived_stale")
            self.owner.invalidated[self] = None

    async def remove(self) -> None:
        """xe_userptr_remove: the pages are unmapped first, while their changes are still told; after the unbind fence.

        The other way round a page could be freed in between that the device still reaches (SVM-R29, RULE-18, SVM-B59).
        """
        owner = self.owner
        if not self.subscribed:
            return
        await owner.pages.free_pages(self.pages)
        await owner.core.call(IntervalNotifierRemove(self.notifier))
        self.subscribed = False
        if self in owner.invalidated or self in owner.repin:
            raise PropertyFailed("lifetime", "VMB-R15", f"{self.name} is freed while it is on a list of its VM")
        del owner.live[self]

    # -- the notifier ------------------------------------------------------------------------

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool | FinishObject:
        """xe_vma_userptr_invalidate_start: pass 1, and pass 2 as well when nothing or nobody can wait for it."""
        if not event.blockable:
            return False
        owner = self.owner
        async with owner.vm.notifier_lock.writing():
            self.engine.count("userptr.invalidate")
            self.store_sequence(seq)
            self.mark_invalidated()
            busy = owner.ask_fences()
            deferred = busy and self.claim_finish()
        if deferred:
            return self
        await self.complete()
        return True

    def store_sequence(self, seq: int) -> None:
        """VMB-R02: unconditionally; every page obtained before this is stale."""
        self.notifier.set_seq(seq)

    def mark_invalidated(self) -> None:
        """VMB-R17: whether it is bound or not, as a bind may be under way; VMB-R16: unless its vma is gone."""
        if self.destroyed:
            self.engine.count("VMB-R16")
        else:
            self.owner.invalidated[self] = None

    def claim_finish(self) -> bool:
        """VMB-R18, MM-R32, SVM-R30: one second pass at a time; a second notifier does its own work in its first."""
        if self.finish_in_use:
            self.engine.count("MM-R32")
            self.engine.count("VMB-R18")
            self.engine.count("SVM-R30")
            return False
        self.finish_in_use = True
        return True

    async def finish(self) -> None:
        """Pass 2."""
        self.owns_finish()
        await self.complete()
        self.finish_in_use = False

    def owns_finish(self) -> None:
        """VMB-R18: raise when two invalidations share what there is one of."""
        if not self.finish_in_use:
            raise PropertyFailed("lifetime", "VMB-R18", f"the second pass of {self.name} is run twice")

    async def complete(self) -> None:
        """Wait until no job can use the pages, then take them from the device too (VMB-B10).

        Nothing else under notifier_lock: whoever locks a page may be waiting for notifiers (VMB-B09).
        """
        owner = self.owner
        await self.wait_for_jobs()
        async with owner.vm.notifier_lock.writing():
            await owner.pages.unmap_pages(self.pages, in_notifier=True)

    async def wait_for_jobs(self) -> None:
        """VMB-R01: everything published before notifier_lock was taken is found here (INV-VMB-01)."""
        await self.owner.vm.resv_dma.wait(Usage.BOOKKEEP)

    def __repr__(self) -> str:
        return f"<{self.name} [{self.start:#x},{self.start + self.npages:#x})>"


class VmUserptr:
    """vm->userptr: the lists of one VM, and how its userptrs become valid again."""

    userptr_class = Userptr

    def __init__(self, vm: UserptrHost) -> None:
        """-EINVAL when the VM has no process."""
        if vm.mm is None:
            raise EINVAL
        device: UserptrDevice = vm.device
        self.vm = vm
        self.engine = vm.engine
        self.mm = vm.mm
        self.core = device.core
        self.gpu = device.gpu
        self.tlb_inval = device.tlb_inval
        self.pages = vm.engine.parts.of(UserptrPages)(
            vm.engine, vm.name, device.core, vm.mm, driver_lock=vm.lock, notifier_lock=vm.notifier_lock
        )
        self.invalidated: dict[Userptr, None] = {}
        """Those a notifier has hit since they were pinned."""
        self.repin: dict[Userptr, None] = {}
        """Those being pinned again, or not yet since the last attempt failed."""
        self.live: dict[Userptr, None] = {}
        """Userptrs that are attached and not removed yet."""
        self.created = 0

    def place_of(self, folio: Folio) -> int | None:
        """For oracles: which page of the process a page reached by the GPU was pinned as, None for others."""
        for userptr in self.live:
            for index, entry in enumerate(userptr.pages.entries):
                if entry.folio is folio:
                    return userptr.start + index
        return None

    # -- is anything stale (5.4) ---------------------------------------------------------------

    def needs_repin(self) -> bool:
        """xe_vm_userptr_check_repin: a hint unless notifier_lock is held."""
        return bool(self.invalidated or self.repin)

    def check_repin(self) -> None:
        """VMB-R01: the last look before a fence is published, in the same notifier_lock section.  -EAGAIN."""
        self.vm.notifier_lock.assert_held()
        if self.needs_repin():
            self.engine.count("VMB-R01")
            raise EAGAIN

    # -- pin again -----------------------------------------------------------------------------

    async def pin(self) -> None:
        """xe_vm_userptr_pin: pages for everything invalidated, vma on the rebind list; vm.lock for write.

        -ENOMEM, -EPERM, -EBUSY: what is left is invalidated again.
        """
        vm = self.vm
        if not vm.lock.held_for_write() and not self.engine.closing:
            raise EngineError(f"userptrs are pinned without {vm.lock.name} held for write")
        await self.engine.step("write", vm.lock, "splice")
        self.repin.update(self.invalidated)
        self.invalidated.clear()
        try:
            for userptr in [*self.repin]:
                await self._pin_one(userptr)
        except KernelError:
            await self.restore_invalidated()
            raise

    async def _pin_one(self, userptr: Userptr) -> None:
        try:
            await userptr.pin_pages()
        except EFAULT:
            await self.give_up(userptr)
            return
        del self.repin[userptr]
        await self.vm.resv_dma.lock()
        if userptr.vma is not None and not userptr.destroyed:
            self.vm.rebind_list[userptr.vma] = None
        self.vm.resv_dma.unlock()

    async def restore_invalidated(self) -> None:
        """VMB-R15: nobody may be left on the repin list, which only vm.lock keeps alive (VMB-B07)."""
        async with self.vm.notifier_lock.writing():
            self.invalidated.update(self.repin)
            self.repin.clear()

    async def give_up(self, userptr: Userptr) -> None:
        """-EFAULT: the process has unmapped it, which is its own affair; no job may find entries there."""
        del self.repin[userptr]
        self.engine.count("userptr.efault")
        vm = self.vm
        await vm.resv_dma.lock()
        if userptr.vma is not None:
            self.forget_rebind(userptr.vma)
            await vm.resv_dma.wait(Usage.BOOKKEEP)
            async with vm.notifier_lock.reading():
                await self._zap(userptr.vma)
        vm.resv_dma.unlock()

    def forget_rebind(self, vma: UserptrVma) -> None:
        """VMB-B08: an earlier pass may have put it on the rebind list; there are no pages to bind."""
        self.vm.rebind_list.pop(vma, None)

    async def _zap(self, vma: UserptrVma) -> None:
        """xe_vm_invalidate_vma."""
        vm = self.vm
        await self.engine.step("pte_write", vm.page_table, vma.addr)
        if vm.page_table.clear_range(vma.addr, vma.end):
            await self.tlb_inval.wait(await self.tlb_inval.submit(vm.asid, vma.addr, vma.end))

    # -- fences --------------------------------------------------------------------------------

    def ask_fences(self) -> bool:
        """Ask all of them to signal, so that preemptions run side by side; True when one has not."""
        pending = self.vm.resv_dma.unsignaled(Usage.BOOKKEEP)
        for fence in pending:
            fence.enable_sw_signaling()
        return any(not fence.is_signaled() for fence in pending)


def new_userptr(vm: UserptrHost, start: int, npages: int, *, read_only: bool = False) -> Userptr:
    """User memory from page ``start`` of the VM's process, not attached yet.  -EINVAL when there is no process."""
    if vm.userptr is None:
        vm.userptr = vm.engine.parts.of(VmUserptr)(vm)
    lists = vm.userptr
    assert isinstance(lists, VmUserptr)
    kind: type[Userptr] = vm.device.engine.parts.of(lists.userptr_class)
    return kind(lists, start, npages, read_only)
