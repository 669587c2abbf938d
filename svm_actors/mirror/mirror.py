"""A mirror: one open file of a mirror device (hmm_mirror sections 1 to 3 and 7).

Models the page table and its mutex (the user lock), the interval callback, the device page fault
and the device's own loads and stores.  The commands built on them are in ``commands``.

The traps of section 9 are single methods here, so that each can be replaced alone:
``filters`` (HM-D02, HM-D03), ``last_erased`` (HM-D04), ``published`` (HM-D01), ``stale`` (MM-R03).
A page is copied in one atomic step; the kernel copies it word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from svm_actors.engine.errors import EBUSY, EFAULT, PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.mirror import messages as msg
from svm_actors.mirror.memory import backing_of
from svm_actors.mirror.page_table import MirrorEntry, MirrorPageTable, Tag
from svm_actors.mm.constants import TASK_PAGES
from svm_actors.mm.content import Content
from svm_actors.mm.folio import Folio
from svm_actors.mm.hmm_types import HMM_NONE, Hmm, HmmPfn, HmmRange, WalkPublished
from svm_actors.mm.messages import HmmRangeFault, HmmRangeFaultUnlocked, IntervalNotifierInsert
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.mmu_notifier import Event, IntervalNotifier, NotifierRange

if TYPE_CHECKING:
    from svm_actors.mirror.device import MirrorDevice

PIECE_PAGES: Final = 32
"""hmm work is cut in pieces of this many pages, counted from the start address."""
RANGE_TIMEOUT_NS: Final = 1_000_000_000
"""How long one piece may retry before -EBUSY."""


@attrs.frozen
class MirrorAccess:
    """Emitted in the step in which the device reads or writes a page."""

    mirror: Mirror
    """Through which mirror."""
    vpn: int
    """Page of the mirrored address space."""
    write: bool
    """True for a store."""
    content: Content
    """The whole page as read or written."""
    folio: Folio
    """The page touched."""


class Mirror:
    """One open file; commands act on the opener's address space, whoever sends them."""

    def __init__(self, device: MirrorDevice, name: str) -> None:
        engine = device.engine
        self.engine = engine
        self.device = device
        self.core = device.core
        self.name = name
        self.pt = MirrorPageTable(f"{name}.pt")
        self.notifier = IntervalNotifier(f"{name}.notifier", self)
        self.mutex = Mutex(engine, f"{name}.mutex", "mirror_mutex")
        """The user lock: page table, data movement, sequence test."""
        self.hit_by_rmap = False
        """The last event that was heard was about a page, not about an address."""
        self.flags = msg.Flag.NONE
        self.closed = False

    @property
    def mm(self) -> Mm:
        """The mirrored address space."""
        mm = self.notifier.mm
        assert mm is not None
        return mm

    async def subscribe(self, mm: Mm) -> None:
        """Subscribe to the whole address space.  -EINVAL on a dead mm."""
        await self.core.call(IntervalNotifierInsert(self.notifier, mm, 0, TASK_PAGES))

    # -- the interval callback (section 2) ---------------------------------------------

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool:
        """Called by the core MM in the task of whoever changes the mapping."""
        return await self.device.call(msg.InvalidateMirror(self, event, seq))

    async def serve_invalidate(self, event: NotifierRange, seq: int) -> bool:
        """Retire every entry of the range; False when the mutex may not be waited for."""
        if self.filters(event):
            return True
        if not await self.lock_for(event):
            return False
        self.store_sequence(seq)
        self.hit_by_rmap = event.rmap
        self.retire(event)
        self.mutex.release()
        return True

    def store_sequence(self, seq: int) -> None:
        """MM-R02, MM-R03: every walk that began before this event is stale (MM-B50)."""
        self.notifier.set_seq(seq)

    def retire(self, event: NotifierRange) -> None:
        """MM-R01, MM-R03, MM-R17: no entry of the range outlives the callback (INV-01, MM-B63)."""
        self.pt.erase(event.start, self.last_erased(event))

    def filters(self, event: NotifierRange) -> bool:
        """My own device migrates: it edits the page table itself (MM-R21: event first, then owner).

        Keyed by device, so a second mirror of it is left with stale entries (HM-D02), and the device
        goes on writing pages that are being copied (HM-D03).
        """
        return event.event is Event.MIGRATE and event.owner is self.device

    def last_erased(self, event: NotifierRange) -> int:
        """Last page erased: one past the range, since its end is taken as inclusive (HM-D04)."""
        return event.end

    async def lock_for(self, event: NotifierRange) -> bool:
        """Take the mutex for a callback: wait if that is allowed, else try."""
        if event.blockable:
            await self.mutex.acquire()
            return True
        return await self.mutex.trylock()

    def stale(self, notifier: IntervalNotifier, seq: int) -> bool:
        """The walk is outdated (MM-R03, MM-R25, MM-B49); call with the mutex held."""
        self.mutex.assert_held()
        if notifier.read_retry(seq):
            self.engine.count("MM-R03")
            if self.hit_by_rmap:
                self.engine.count("MM-R25")
            return True
        return False

    # -- device page fault (section 3) -------------------------------------------------

    async def fault_in(self, start: int, end: int, *, write: bool, unlocked: bool = False) -> None:
        """Map [start, end) piece by piece; pieces done stay done when a later one fails.

        -EFAULT also when the address space is gone; -EPERM, -EBUSY, -ENOMEM, -EINTR as hmm says.
        """
        await self.hold_mm()
        fault_piece = self._fault_unlocked if unlocked else self._fault_locked
        request = Hmm.REQ_FAULT | Hmm.REQ_WRITE if write else Hmm.REQ_FAULT
        try:
            for first in range(start, end, PIECE_PAGES):
                await fault_piece(self.walk_of(self.notifier, first, min(first + PIECE_PAGES, end), request))
        finally:
            await self.let_mm_go()

    async def hold_mm(self) -> None:
        """MM-R23: an address space without users is on its way out (INV-33, MM-B65).  -EFAULT."""
        if not await self.mm.mmget_not_zero():
            self.engine.count("MM-R23")
            raise EFAULT

    async def let_mm_go(self) -> None:
        """The end of :meth:`hold_mm`."""
        await self.mm.mmput()

    def walk_of(self, notifier: IntervalNotifier, start: int, end: int, request: Hmm) -> HmmRange:
        """An hmm walk that takes this device's own pages in place.

        One request for all pages and no mask: what a round has answered is never read as a request (MM-B45).
        """
        return HmmRange(notifier, 0, start, end, [HMM_NONE] * (end - start), request, dev_private_owner=self.device)

    async def _fault_locked(self, walk: HmmRange) -> None:
        await self.walk_until_valid(walk)
        try:
            self.publish(walk)
        finally:
            self.mutex.release()

    async def walk_until_valid(self, walk: HmmRange) -> None:
        """Walk under mmap_lock until the result is current; returns with the mutex held.  -EBUSY."""
        deadline = self.engine.now + RANGE_TIMEOUT_NS
        while True:
            if self.engine.now > deadline:
                raise EBUSY
            walk.notifier_seq = await walk.notifier.read_begin()
            try:
                async with self.mm.mmap_lock.reading():
                    await self.core.call(HmmRangeFault(walk))
            except EBUSY:
                self.engine.count("mirror.hmm_busy")
                continue
            if await self._locked_and_current(walk):
                return

    async def _locked_and_current(self, walk: HmmRange) -> bool:
        """MM-R03: judged with the mutex held, which keeps events out until the entries are stored."""
        await self.mutex.acquire()
        if not self.stale(walk.notifier, walk.notifier_seq):
            return True
        self.mutex.release()
        return False

    async def _fault_unlocked(self, walk: HmmRange) -> None:
        while True:
            await self.core.call(HmmRangeFaultUnlocked(walk, timeout=0))
            if await self._locked_and_current(walk):
                break
        try:
            self.publish(walk)
        finally:
            self.mutex.release()

    def publish(self, walk: HmmRange) -> None:
        """Store what the walk found; a read fault on a CPU-writable page gives a writable entry.

        -EFAULT when write was wanted and an own device page stayed read-only (core_mm 8.3); -ENOMEM.  What is stored
        before an error stays: it is as true as the rest.
        """
        for vpn, found in enumerate(walk.pfns, walk.start):
            assert found.folio is not None
            if not found.write and walk.default_flags & Hmm.REQ_WRITE:
                self.engine.count("MM-R17")
                raise EFAULT
            self.engine.faults.fail("pgtable")
            self.pt.store(vpn, self.published(found.folio), self.permission(found))
        self.engine.emit(WalkPublished(walk))

    def permission(self, found: HmmPfn) -> Tag:
        """MM-R17, MM-R19: the device may write only what the CPU entry lets be written (INV-04, MM-B74)."""
        return Tag.WRITABLE if found.write else Tag.READ_ONLY

    def published(self, folio: Folio) -> Folio:
        """The page an entry points to: own device pages as hmm reports them (HM-D01), or, when the
        device was made so, their backing pages."""
        if folio.is_device_private and self.device.own_pages == "backing":
            return backing_of(folio)
        return folio

    # -- device loads and stores ---------------------------------------------------------

    async def read_pages(self, start: int, end: int, bounce: list[Content]) -> bool:
        """Append the pages of [start, end) to ``bounce`` up to the first absent entry.

        True when all were there.  Call with the mutex held.
        """
        for vpn in range(start, end):
            entry = self.pt.load(vpn)
            if entry is None:
                return False
            await self.engine.step("load", entry.folio)
            folio = self._touch(entry, vpn)
            self.engine.emit(MirrorAccess(self, vpn, False, folio.content, folio))
            bounce.append(folio.content)
        return True

    async def write_pages(self, start: int, pages: Sequence[Content]) -> int:
        """Write pages from ``start`` up to the first entry that is not writable; how many were written.

        Call with the mutex held.
        """
        for done, content in enumerate(pages):
            entry = self.pt.load(start + done)
            if entry is None or entry.tag is not Tag.WRITABLE:
                return done
            await self.engine.step("store", entry.folio)
            folio = self._touch(entry, start + done)
            folio.content = content
            self.wrote(folio)
            self.engine.emit(MirrorAccess(self, start + done, True, content, folio))
        return len(pages)

    def wrote(self, folio: Folio) -> None:
        """A store has gone through: the stock driver leaves it at that (HM-D11, MM-B37)."""

    def _touch(self, entry: MirrorEntry, vpn: int) -> Folio:
        """The page behind an entry, if it can be accessed at all."""
        folio = entry.folio
        if folio.is_device_private:
            text = f"{self.name} accesses {folio.name} at page {vpn:#x}, which has no memory of its own"
            raise PropertyFailed("invalid access", "HM-D01", text)
        folio.check_live(entry.generation, f"{self.name} at page {vpn:#x}")
        return folio

    # -- commands as calls (section 4) -------------------------------------------------------

    async def read(self, addr: int, npages: int) -> msg.CommandResult:
        """READ."""
        return await self.device.call(msg.Read(self, addr, npages))

    async def read_unlocked(self, addr: int, npages: int) -> msg.CommandResult:
        """READ_UNLOCKED."""
        return await self.device.call(msg.ReadUnlocked(self, addr, npages))

    async def write(self, addr: int, pages: Sequence[Content]) -> msg.CommandResult:
        """WRITE, one content per page."""
        return await self.device.call(msg.Write(self, addr, len(pages), tuple(pages)))

    async def migrate_to_dev(self, addr: int, npages: int) -> msg.CommandResult:
        """MIGRATE_TO_DEV."""
        return await self.device.call(msg.MigrateToDev(self, addr, npages))

    async def migrate_to_sys(self, addr: int, npages: int) -> msg.CommandResult:
        """MIGRATE_TO_SYS."""
        return await self.device.call(msg.MigrateToSys(self, addr, npages))

    async def snapshot(self, addr: int, npages: int) -> msg.CommandResult:
        """SNAPSHOT."""
        return await self.device.call(msg.Snapshot(self, addr, npages))

    async def exclusive(self, addr: int, npages: int) -> msg.CommandResult:
        """EXCLUSIVE."""
        return await self.device.call(msg.MakeExclusive(self, addr, npages))

    async def check_exclusive(self, addr: int, npages: int) -> msg.CommandResult:
        """CHECK_EXCLUSIVE."""
        return await self.device.call(msg.CheckExclusive(self, addr, npages))

    async def release(self, addr: int, npages: int) -> msg.CommandResult:
        """RELEASE."""
        return await self.device.call(msg.Release(self, addr, npages))

    async def set_flags(self, addr: int, flags: int) -> msg.CommandResult:
        """FLAGS."""
        return await self.device.call(msg.SetFlags(self, addr, flags))

    async def close(self) -> None:
        """Close the file."""
        await self.device.call(msg.CloseMirror(self))

    def __repr__(self) -> str:
        return f"<{self.name} entries={len(self.pt)}>"
