"""The mirror driver with its traps mended (hmm_mirror section 9): what a correct small SVM driver does.

The stock driver loses device writes and uses freed pages as soon as its commands race, so it cannot
be the subject of a campaign that asks whether the core MM holds.  This one can.  What differs:

* its own migrations are not filtered: every event retires entries under the mutex (HM-D02, HM-D03);
* nothing is published between ``pages`` and ``finalize``; MIGRATE_TO_DEV reads back through an
  ordinary fault-in instead, so it never answers -ENOENT (MM-R15, HM-D05);
* EXCLUSIVE stores an entry only when the page is still mapped and the sequence has not moved (MM-R28);
* a page that was written is marked dirty (HM-D11);
* own device pages are published as their backing pages (HM-D01), and the end of an invalidation is
  exclusive (HM-D04);
* out of memory on the way to RAM gives every destination back before ``finalize`` (HM-D06).

Left as they are: the bounds of retries (HM-D08) and the one-pass eviction (HM-D09, HM-D10).
"""

from __future__ import annotations

from svm_actors.engine.errors import ENOMEM
from svm_actors.mirror import messages as msg
from svm_actors.mirror.commands import Commands
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.memory import backing_of
from svm_actors.mirror.migrate import Migration
from svm_actors.mirror.mirror import Mirror
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.exclusive import put_exclusive
from svm_actors.mm.folio import Folio
from svm_actors.mm.messages import MakeDeviceExclusive
from svm_actors.mm.migrate_types import MigrateVma
from svm_actors.mm.mmu_notifier import NotifierRange


class MendedMirror(Mirror):
    """Retires entries on every event."""

    def filters(self, event: NotifierRange) -> bool:
        """Nothing is skipped: no event of another's, and none but MIGRATE even if it were ours (MM-R21, MM-R23,
        MM-B61, MM-B64)."""
        return False

    def last_erased(self, event: NotifierRange) -> int:
        """The last page of the range and not the one after it."""
        return event.end - 1

    def published(self, folio: Folio) -> Folio:
        """Own device pages have their memory in their backing pages."""
        return backing_of(folio) if folio.is_device_private else folio


    def wrote(self, folio: Folio) -> None:
        """MM-R18: no dirty bit of any entry says that a device has written the page (INV-16, MM-B37)."""
        if folio.swapcache and not folio.dirty:
            self.engine.count("MM-R18")
        folio.dirty = True


class MendedMigration(Migration):
    """Leaves mapping to the next fault."""

    async def finalize_and_map(self, mirror: Mirror, args: MigrateVma) -> None:
        """Nothing: the MIGRATION entries are still in place, and a zap may yet take the pages away (MM-R15, MM-B36)."""
        self.engine.count("mirror.migrate.to_dev", sum(1 for page in args.dst if page is not None))

    async def fault_alloc_and_copy(self, mirror: Mirror, args: MigrateVma) -> None:
        """As the stock driver, but an error gives back what was allocated.  -ENOMEM."""
        try:
            await super().fault_alloc_and_copy(mirror, args)
        except ENOMEM:
            self.give_back(args)
            raise

    def give_back(self, args: MigrateVma) -> None:
        """Nothing may be left that ``finalize`` would take for committed: ``pages`` is not called (MM-R14, MM-B47)."""
        for index, page in enumerate(args.dst):
            if page is not None:
                page.lock.release()
                page.put("dst")
                args.dst[index] = None


class MendedCommands(Commands):
    """Never reads through an entry that no walk has validated."""

    async def _read_back(self, mirror: Mirror, start: int, end: int) -> msg.CommandResult:
        """Fault in what is missing; the rounds are not counted."""
        found = await self._read_span(mirror, start, end, unlocked=False)
        return msg.CommandResult(found.cpages, 0, found.pages)

    async def _make_exclusive(self, mirror: Mirror, vpn: int) -> None:
        """Store the entry only if no zap has taken the page away since it was made exclusive (MM-R28).

        The sequence is sampled after that, not before: making a page exclusive that already is raises
        CLEAR for its own address, so a sample from before could never be current (MM-B72).  What happened
        before the sample shows in the map count, as mmap_lock is held and only a zap can come between.
        """
        while True:
            folio = await self.core.call(MakeDeviceExclusive(mirror.mm, vpn, None))
            try:
                current = await self.program_exclusive(mirror, vpn, folio)
            except ENOMEM:
                put_exclusive(self.core, folio)
                raise
            put_exclusive(self.core, folio)
            if current:
                return

    async def program_exclusive(self, mirror: Mirror, vpn: int, folio: Folio) -> bool:
        """MM-R28: while the folio is locked no CPU access takes it back (MM-B62); False when a zap already has.

        -ENOMEM: the page is exclusive to nobody, until the CPU touches it.
        """
        seq = await mirror.notifier.read_begin()
        async with mirror.mutex:
            current = folio.mapcount > 0 and not mirror.stale(mirror.notifier, seq)
            if current:
                self.engine.faults.fail("pgtable")
                mirror.pt.store(vpn, folio, Tag.ATOMIC)
        return current


class MendedDevice(MirrorDevice):
    """A device without the traps."""

    mirror_class = MendedMirror
    migration_class = MendedMigration
    commands_class = MendedCommands
