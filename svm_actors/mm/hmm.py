"""hmm_range_fault, with and without the caller's mmap_lock (core_mm section 8).

The walk reads entries without the page-table lock; the sequence is the only consistency.  A
callback that needs a fault only records it, from the page it stands on to the end of the walk piece;
the fault is taken outside the walk, for every page of that stretch whatever its entry is (so own
device pages behind the first missing one are brought to RAM too), and the walk starts again at the
first page not yet answered.

The walk announces one op per chunk of a sixteenth of the range, so a small range is read page by
page and a large one does not drown a schedule in steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EBUSY, EFAULT, EINVAL, EPERM, KernelError
from svm_actors.engine.signalling import might_fault
from svm_actors.mm.constants import PTRS_PER_PTE, Vm
from svm_actors.mm.hmm_types import HMM_ERROR, HMM_NONE, Hmm, HmmPfn, HmmRange, WalkDone, WalkFailed
from svm_actors.mm.memory import handle_mm_fault, migration_entry_wait
from svm_actors.mm.messages import SIGBUS, SIGSEGV
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_table import Entry, Pte
from svm_actors.mm.vma import Vma

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm

WALK_CHUNKS = 16


class NeedsFault(Exception):
    """The walk met pages to be faulted in: [start, end), with or without write."""

    def __init__(self, vma: Vma, start: int, end: int, write: bool) -> None:
        self.vma = vma
        self.start = start
        self.end = end
        self.write = write


class _MigrationWait(Exception):
    """The walk met a migrating page at ``vpn``."""

    def __init__(self, vpn: int, pte: Pte) -> None:
        self.vpn = vpn
        self.pte = pte


async def hmm_range_fault(core: CoreMm, range_: HmmRange) -> None:
    """The locked variant: the caller holds mmap_lock and keeps it."""
    mm = range_.notifier.mm
    if mm is None or range_.start >= range_.end:
        raise EINVAL
    mm.mmap_lock.assert_held()
    seq = range_.notifier_seq
    at = range_.start
    while at < range_.end:
        await core.engine.step("seq_read", mm.subscriptions, "check_retry")
        if range_.notifier.check_retry(range_.notifier_seq):
            core.engine.count("hmm.busy")
            raise EBUSY
        walk = core.engine.parts.of(Walk)(core, mm, range_, at)
        try:
            await walk.run()
            range_.walked_seq = seq
            return
        except NeedsFault as need:
            at = walk.at
            await core.engine.parts.of(fault_in)(core, need)
        except _MigrationWait as wait:
            at = walk.at
            await core.engine.parts.of(migration_entry_wait)(core, mm, wait.vpn, wait.pte)


async def fault_in(core: CoreMm, need: NeedsFault) -> None:
    """hmm_vma_fault: page by page; errors as INV-35 lists them: only running out of memory is -ENOMEM (MM-B31)."""
    for vpn in range(need.start, need.end):
        note_locked(core, need.vma, vpn)
        try:
            await handle_mm_fault(core, need.vma.mm, need.vma, vpn, need.write)
        except (SIGBUS, SIGSEGV):
            raise EFAULT from None


def note_locked(core: CoreMm, vma: Vma, vpn: int) -> None:
    """SVM-R33: the walk comes to a device page that somebody has locked: its fault sleeps until that is over."""
    pte = vma.mm.page_table.get(vpn)
    if pte is not None and pte.kind is Entry.DEVICE_PRIVATE and pte.folio.lock.locked:
        core.engine.count("SVM-R33")


async def hmm_range_fault_unlocked(core: CoreMm, range_: HmmRange, timeout: int) -> None:
    """8.4: takes mmap_lock itself and refreshes the sequence before every round.

    -EBUSY past the deadline, -EFAULT on an unstable mm; otherwise as the locked variant.
    """
    engine = core.engine
    mm = range_.notifier.mm
    if mm is None or range_.start >= range_.end:
        raise EINVAL
    deadline = engine.now + timeout if timeout else None
    for_write = range_.asks_for_write
    try:
        while not await engine.parts.of(unlocked_round)(core, mm, range_, deadline):
            pass
    except KernelError as error:
        engine.emit(WalkFailed(range_.notifier.name, error.code, for_write))
        raise
    engine.emit(WalkDone(range_))


async def unlocked_round(core: CoreMm, mm: Mm, range_: HmmRange, deadline: int | None) -> bool:
    """One walk from the start, valid for a sequence that was read before it (MM-R38, INV-43, MM-B76).

    False: a VMA or an entry may have changed, so nothing of it can be kept.
    """
    range_.notifier_seq = await range_.notifier.read_begin()
    async with mm.mmap_lock.reading():
        if mm.unstable:
            core.engine.count("MM-R22")
            raise EFAULT
        if deadline is not None and core.engine.now > deadline:
            raise EBUSY
        try:
            await hmm_range_fault(core, range_)
        except EBUSY:
            core.engine.count("MM-R38")
            return False
    return True


class Walk:
    """One pass over the range from ``at``; ``at`` is the first page not answered yet."""

    def __init__(self, core: CoreMm, mm: Mm, range_: HmmRange, at: int) -> None:
        self.core = core
        self.mm = mm
        self.range = range_
        self.at = at
        self.chunk = max(1, (range_.end - range_.start) // WALK_CHUNKS)
        wanted = range_.default_flags
        self.default = wanted if wanted & Hmm.REQ_FAULT else Hmm.NONE
        """The request of every page when the mask adds nothing."""

    async def run(self) -> None:
        """Walk to the end, or raise what interrupts it."""
        might_fault(self.core.engine, f"pages {self.at:#x} and up of {self.mm.name}")
        range_ = self.range
        while self.at < range_.end:
            vma = self.mm.vmas.at_or_after(self.at)
            if vma is None or vma.start > self.at:
                self._outside(range_.end if vma is None else min(vma.start, range_.end))
            elif not vma.flags & Vm.READ or vma.flags & (Vm.IO | Vm.PFNMAP):
                self._outside(min(vma.end, range_.end))
            else:
                await self._vma(vma, min(vma.end, range_.end))

    def _request(self, vpn: int) -> Hmm:
        """Effective request of a page; WRITE alone asks for nothing."""
        range_ = self.range
        if not range_.pfn_flags_mask:
            return self.default
        request = range_.default_flags | (range_.pfns[vpn - range_.start].flags & range_.pfn_flags_mask)
        return request if request & Hmm.REQ_FAULT else Hmm.NONE

    def _put(self, vpn: int, pfn: HmmPfn) -> None:
        self.range.pfns[vpn - self.range.start] = pfn
        self.at = vpn + 1

    def _outside(self, stop: int) -> None:
        """No VMA, or one nobody may read: ERROR, or -EFAULT when a fault is wanted (MM-R01)."""
        for vpn in range(self.at, stop):
            if self._request(vpn):
                self.core.engine.count("MM-R01")
                raise EFAULT
            self._put(vpn, HMM_ERROR)

    async def _vma(self, vma: Vma, stop: int) -> None:
        table = self.mm.page_table
        while self.at < stop:
            await self.core.engine.step("pte_read", table, self.at)
            if not table.tables(self.at, self.at + 1):
                self._empty_table(vma, self.at, stop)
                continue
            for vpn in range(self.at, min(self.at + self.chunk, stop)):
                pte = table.get(vpn)
                if pte is None:
                    self._hole(vma, vpn, stop)
                else:
                    self._entry(vma, vpn, pte, stop)

    def _need(self, vma: Vma, start: int, end: int, write: bool) -> None:
        """hmm_vma_fault's permission test comes before any fault."""
        if write and not vma.flags & Vm.WRITE:
            raise EPERM
        raise NeedsFault(vma, start, end, write)

    def _hole(self, vma: Vma, vpn: int, stop: int) -> None:
        """No entry here."""
        request = self._request(vpn)
        if request:
            self._need(vma, vpn, self._piece_end(vpn, stop), bool(request & Hmm.REQ_WRITE))
        self._put(vpn, HMM_NONE)

    def _empty_table(self, vma: Vma, vpn: int, stop: int) -> None:
        """No leaf table: the whole piece is one hole, faulted with the union of its requests."""
        end = self._piece_end(vpn, stop)
        request = self.default
        if self.range.pfn_flags_mask:
            for page in range(vpn, end):
                request |= self._request(page)
        if request:
            self._need(vma, vpn, end, bool(request & Hmm.REQ_WRITE))
        for page in range(vpn, end):
            self._put(page, HMM_NONE)

    def _piece_end(self, vpn: int, stop: int) -> int:
        """End of the walk piece a page belongs to: its leaf table, the VMA or the range, whichever is first."""
        return min(stop, (vpn // PTRS_PER_PTE + 1) * PTRS_PER_PTE)

    def _entry(self, vma: Vma, vpn: int, pte: Pte, stop: int) -> None:
        request = self._request(vpn)
        wants_write = bool(request & Hmm.REQ_WRITE)
        if pte.kind is Entry.DEVICE_PRIVATE and pte.folio.owner is self.range.dev_private_owner:
            flags = Hmm.VALID | (Hmm.WRITE if pte.writable else Hmm.NONE)
            self._put(vpn, HmmPfn(flags, pte.folio))
        elif pte.kind is Entry.PRESENT and not pte.protnone:
            if wants_write and not pte.writable:
                self._need(vma, vpn, self._piece_end(vpn, stop), True)
            flags = Hmm.VALID | (Hmm.WRITE if pte.writable else Hmm.NONE)
            self._put(vpn, HmmPfn(flags, pte.folio))
        elif pte.kind is Entry.DEVICE_PRIVATE:
            self._foreign(vma, vpn, stop, request)
        elif not request:
            self._put(vpn, HMM_NONE)
        elif pte.kind is Entry.MIGRATION:
            raise _MigrationWait(vpn, pte)
        else:
            self._need(vma, vpn, self._piece_end(vpn, stop), wants_write)

    def _foreign(self, vma: Vma, vpn: int, stop: int, request: Hmm) -> None:
        """MM-B08: a page in the memory of another device is a fault like any other: its driver brings it to RAM."""
        if request:
            self._need(vma, vpn, self._piece_end(vpn, stop), bool(request & Hmm.REQ_WRITE))
        self._put(vpn, HMM_NONE)
