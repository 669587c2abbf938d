"""The commands of a mirror, step by step (hmm_mirror section 4).

Each method serves one message and raises the kernel error; on an error the caller gets nothing,
whatever was already done.  Argument checks common to all are in ``checked_span``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL, ENOENT, EPERM
from svm_actors.mirror import messages as msg
from svm_actors.mirror.messages import CommandResult, Perm
from svm_actors.mirror.mirror import PIECE_PAGES, Mirror
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE, ULONG_MAX
from svm_actors.mm.content import Content
from svm_actors.mm.exclusive import put_exclusive
from svm_actors.mm.hmm_types import Hmm, HmmPfn
from svm_actors.mm.messages import IntervalNotifierInsert, IntervalNotifierRemove, MakeDeviceExclusive
from svm_actors.mm.migrate_types import Select
from svm_actors.mm.mmu_notifier import IntervalNotifier, NotifierRange

if TYPE_CHECKING:
    from svm_actors.mirror.device import MirrorDevice


def checked_span(command: msg.Command) -> tuple[int, int]:
    """Pages [start, end) of a command.  -EINVAL."""
    end = command.addr + (command.npages << PAGE_SHIFT)
    if command.addr % PAGE_SIZE or command.npages <= 0 or end > ULONG_MAX:
        raise EINVAL
    return command.addr >> PAGE_SHIFT, end >> PAGE_SHIFT


class SnapshotNotifier:
    """The temporary subscription of one piece of a SNAPSHOT: it only remembers that it was hit."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    async def invalidate(self, notifier: IntervalNotifier, event: NotifierRange, seq: int) -> bool:
        """Called by the core MM."""
        return await self.mirror.device.call(msg.InvalidateSnapshot(self.mirror, notifier, event, seq))


class Commands:
    """Command handlers of one device."""

    def __init__(self, device: MirrorDevice) -> None:
        self.device = device
        self.engine = device.engine
        self.core = device.core
        self.migration = device.migration

    def alloc_bounce(self) -> None:
        """The buffer between the host and the pages.  -ENOMEM."""
        self.engine.faults.fail("memory")

    # -- data movement -----------------------------------------------------------------------

    async def read(self, command: msg.Read) -> CommandResult:
        """READ."""
        start, end = checked_span(command)
        self.alloc_bounce()
        return await self._read_span(command.mirror, start, end, unlocked=False)

    async def read_unlocked(self, command: msg.ReadUnlocked) -> CommandResult:
        """READ_UNLOCKED."""
        start, end = checked_span(command)
        self.alloc_bounce()
        return await self._read_span(command.mirror, start, end, unlocked=True)

    async def _read_span(self, mirror: Mirror, start: int, end: int, *, unlocked: bool) -> CommandResult:
        """Rounds until all is copied; pages of earlier rounds are not read again (HM-D07, HM-D08)."""
        bounce, faults = list[Content](), 0
        while True:
            async with mirror.mutex:
                if await mirror.read_pages(start + len(bounce), end, bounce):
                    return CommandResult(len(bounce), faults, tuple(bounce))
            await mirror.fault_in(start + len(bounce), end, write=False, unlocked=unlocked)
            faults += 1

    async def write(self, command: msg.Write) -> CommandResult:
        """WRITE."""
        start, end = checked_span(command)
        self.alloc_bounce()
        mirror, done, faults = command.mirror, 0, 0
        while True:
            async with mirror.mutex:
                done += await mirror.write_pages(start + done, command.pages[done:])
            if start + done == end:
                return CommandResult(done, faults)
            await mirror.fault_in(start + done, end, write=True)
            faults += 1

    async def _read_back(self, mirror: Mirror, start: int, end: int) -> CommandResult:
        """Read through the page table without faulting.  -ENOENT at the first absent entry."""
        bounce: list[Content] = []
        async with mirror.mutex:
            if not await mirror.read_pages(start, end, bounce):
                raise ENOENT
        return CommandResult(len(bounce), 0, tuple(bounce))

    # -- migration ---------------------------------------------------------------------------

    async def migrate_to_dev(self, command: msg.MigrateToDev) -> CommandResult:
        """MIGRATE_TO_DEV; success only proves that entries were there (HM-D05)."""
        start, end = checked_span(command)
        mirror = command.mirror
        await self._pin_mm(mirror)
        try:
            async with mirror.mm.mmap_lock.reading():
                vpn = start
                while vpn < end:
                    args = self.migration.step_of(mirror, vpn, end, Select.SYSTEM)
                    await self.migration.step_to_device(mirror, args)
                    vpn = args.end
        finally:
            await mirror.mm.mmput()
        return await self._read_back(mirror, start, end)

    async def migrate_to_sys(self, command: msg.MigrateToSys) -> CommandResult:
        """MIGRATE_TO_SYS."""
        start, end = checked_span(command)
        mirror, moved = command.mirror, 0
        await self._pin_mm(mirror)
        try:
            async with mirror.mm.mmap_lock.reading():
                vpn = start
                while vpn < end:
                    args = self.migration.step_of(mirror, vpn, end, Select.DEVICE_PRIVATE)
                    moved += await self.migration.step_to_ram(mirror, args)
                    vpn = args.end
        finally:
            await mirror.mm.mmput()
        return CommandResult(moved)

    async def _pin_mm(self, mirror: Mirror) -> None:
        """mmget.  -EINVAL when the address space is exiting (MM-R23, INV-33)."""
        if not await mirror.mm.mmget_not_zero():
            self.engine.count("MM-R23")
            raise EINVAL

    # -- snapshot ----------------------------------------------------------------------------

    async def snapshot(self, command: msg.Snapshot) -> CommandResult:
        """SNAPSHOT: pieces of 32 pages, each under a subscription of its own."""
        start, end = checked_span(command)
        mirror, codes = command.mirror, list[int]()
        await self._pin_mm(mirror)
        try:
            for first in range(start, end, PIECE_PAGES):
                codes += await self._snapshot_piece(mirror, first, min(first + PIECE_PAGES, end))
        finally:
            await mirror.mm.mmput()
        return CommandResult(len(codes), codes=tuple(codes))

    async def _snapshot_piece(self, mirror: Mirror, start: int, end: int) -> list[int]:
        notifier = IntervalNotifier(f"{mirror.name}.snapshot", SnapshotNotifier(mirror))
        await self.core.call(IntervalNotifierInsert(notifier, mirror.mm, start, end - start))
        try:
            walk = mirror.walk_of(notifier, start, end, Hmm.NONE)
            await mirror.walk_until_valid(walk)
            codes = [self.code_of(found) for found in walk.pfns]
            mirror.mutex.release()
        finally:
            await self.core.call(IntervalNotifierRemove(notifier))
        return codes

    def code_of(self, found: HmmPfn) -> int:
        """The byte that describes one hmm entry."""
        if found.error:
            return Perm.ERROR.value
        if not found.valid or found.folio is None:
            return Perm.NONE.value
        code = Perm.WRITE if found.write else Perm.READ
        if found.folio.is_device_private:
            mine = found.folio.owner is self.device
            code |= Perm.DEV_PRIVATE_LOCAL if mine else Perm.DEV_PRIVATE_REMOTE
        elif found.folio.is_zero:
            code |= Perm.ZERO
        return code.value

    # -- exclusive access --------------------------------------------------------------------

    async def exclusive(self, command: msg.MakeExclusive) -> CommandResult:
        """EXCLUSIVE; pages done before an error stay exclusive."""
        start, end = checked_span(command)
        mirror = command.mirror
        await self._pin_mm(mirror)
        try:
            async with mirror.mm.mmap_lock.reading():
                for vpn in range(start, end):
                    await self._make_exclusive(mirror, vpn)
        finally:
            await mirror.mm.mmput()
        return await self._read_back(mirror, start, end)

    async def _make_exclusive(self, mirror: Mirror, vpn: int) -> None:
        """The folio stays locked until the device is programmed (MM-R28)."""
        folio = await self.core.call(MakeDeviceExclusive(mirror.mm, vpn, None))
        async with mirror.mutex:
            mirror.pt.store(vpn, folio, Tag.ATOMIC)
        put_exclusive(self.core, folio)

    async def check_exclusive(self, command: msg.CheckExclusive) -> CommandResult:
        """CHECK_EXCLUSIVE: a scan without any lock."""
        start, end = checked_span(command)
        pt = command.mirror.pt
        vpn = start
        while vpn < end:
            await self.engine.step("pte_read", pt, vpn)
            found = pt.next_from(vpn, end)
            if found is None:
                break
            if found[1].tag is Tag.ATOMIC:
                raise EPERM
            vpn = found[0] + 1
        return CommandResult()

    # -- device ------------------------------------------------------------------------------

    async def release(self, command: msg.Release) -> CommandResult:
        """RELEASE."""
        checked_span(command)
        await self.device.remove_chunks()
        return CommandResult()

    async def set_flags(self, command: msg.SetFlags) -> CommandResult:
        """FLAGS."""
        checked_span(command)
        await self.engine.step("flag_write", command.mirror)
        command.mirror.flags = msg.Flag(command.npages & msg.Flag.FAIL_ALLOC)
        return CommandResult()
