"""The stock mirror driver, made to look before it stores an entry (core_mm 9.6; hmm_mirror section 9).

The stock driver stores entries that an event has covered meanwhile: between ``pages`` and ``finalize``
of its own migration (MM-R15), after ``make_device_exclusive`` (MM-R28), and in a fault that raced a
migration of its own device, which it filters.  It then touches pages that have been freed.  A real
kernel reads or writes whatever is in that memory; the model stops at the first such access.

This driver answers as the stock one does, and differs in two points only: an entry is not stored if
another thread's event has covered its page since the work on it began, and pages copied away are not
freed while an access to them is under way.  Everything else of section 9 stays, lost writes included
(HM-D03).  It is what recorded concurrent programs are compared with.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.task import Thread
from svm_actors.mirror.commands import Commands
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.memory import backing_of
from svm_actors.mirror.migrate import Migration
from svm_actors.mirror.mirror import Mirror
from svm_actors.mirror.page_table import Tag
from svm_actors.mm.exclusive import put_exclusive
from svm_actors.mm.hmm_types import HmmRange
from svm_actors.mm.messages import MakeDeviceExclusive
from svm_actors.mm.migrate_types import MigrateVma
from svm_actors.mm.mmu_notifier import NotifierRange

T = TypeVar("T")


class Watch:
    """What other threads' events have covered of [start, end) since it began.

    A walk watches the events that the driver filters, the sequence tells it of the others.  A page
    in the making watches the others: its folio lock keeps migrations of the same device away.
    """

    __slots__ = ("end", "filtered", "hit", "start", "thread")

    def __init__(self, thread: Thread, start: int, end: int, *, filtered: bool) -> None:
        self.thread = thread
        self.start = start
        self.end = end
        self.filtered = filtered
        self.hit: list[tuple[int, int]] = []

    def note(self, thread: Thread, event: NotifierRange, filtered: bool) -> None:
        """An event begins in ``thread``."""
        if thread is self.thread or filtered is not self.filtered:
            return
        if event.start < self.end and self.start < event.end:
            self.hit.append((event.start, event.end))

    def covers(self, vpn: int) -> bool:
        """True when an event has covered the page."""
        return any(start <= vpn < end for start, end in self.hit)


class WatchfulMirror(Mirror):
    """Keeps note of events while entries are in the making."""

    def __init__(self, device: MirrorDevice, name: str) -> None:
        super().__init__(device, name)
        self.watches: list[Watch] = []
        self.moving: list[tuple[int, int]] = []
        """Windows of the device's own migrations in progress."""
        self.moved = WaitQueue(device.engine, f"{name}.moved")

    def watch(self, start: int, end: int, *, filtered: bool) -> Watch:
        """Begin to watch; end with :meth:`forget`."""
        task = self.engine.current
        assert task is not None
        watch = Watch(task.thread, start, end, filtered=filtered)
        self.watches.append(watch)
        return watch

    async def watch_page_in_the_making(self, start: int, end: int) -> Watch:
        """Watch, and let events end that began before: their zap may be still to come."""
        watch = self.watch(start, end, filtered=False)
        await self.notifier.read_begin()
        return watch

    def still(self, start: int, end: int) -> bool:
        """No own migration overlaps."""
        return not any(low < end and start < high for low, high in self.moving)

    def forget(self, watch: Watch) -> None:
        """Stop watching."""
        self.watches.remove(watch)

    async def serve_invalidate(self, event: NotifierRange, seq: int) -> bool:
        """Do what the stock driver does, and in the same step as its end note the event: whoever begins
        to watch later finds the sequence set."""
        done = await super().serve_invalidate(event, seq)
        task = self.engine.current
        assert task is not None
        for watch in self.watches:
            watch.note(task.thread, event, self.filters(event))
        return done

    async def walk_until_valid(self, walk: HmmRange) -> None:
        """A walk is also stale when a filtered migration has covered it."""
        while True:
            await self.moved.wait_event(lambda: self.still(walk.start, walk.end))
            watch = self.watch(walk.start, walk.end, filtered=True)
            try:
                await super().walk_until_valid(walk)
            finally:
                self.forget(watch)
            if not watch.hit:
                return
            self.engine.count("MM-R03")
            self.mutex.release()


class WatchfulMigration(Migration):
    """Stores entries of pages that nobody has touched since they were collected."""

    async def finalize_and_map(self, mirror: Mirror, args: MigrateVma) -> None:
        """MM-R15: the watch was set before the pages were collected."""
        assert isinstance(mirror, WatchfulMirror)
        task = self.engine.current
        assert task is not None
        watch = next(watch for watch in mirror.watches if watch.thread is task.thread and not watch.filtered)
        async with mirror.mutex:
            for vpn, source, page in zip(range(args.start, args.end), args.src, args.dst, strict=True):
                if not source.migrate or page is None:
                    continue
                self.engine.count("mirror.migrate.to_dev")
                if watch.covers(vpn):
                    self.engine.count("MM-R15")
                    mirror.pt.erase(vpn, vpn)
                else:
                    mirror.pt.store(vpn, backing_of(page), Tag.WRITABLE if source.write else Tag.READ_ONLY)

    async def step_to_device(self, mirror: Mirror, args: MigrateVma) -> None:
        """Watch the window from before its collection."""
        assert isinstance(mirror, WatchfulMirror)
        watch = await mirror.watch_page_in_the_making(args.start, args.end)
        try:
            await self._announced(mirror, args, super().step_to_device(mirror, args))
        finally:
            mirror.forget(watch)

    async def step_to_ram(self, mirror: Mirror, args: MigrateVma) -> int:
        """Walks of the same mirror keep off."""
        assert isinstance(mirror, WatchfulMirror)
        return await self._announced(mirror, args, super().step_to_ram(mirror, args))

    async def _announced(self, mirror: WatchfulMirror, args: MigrateVma, step: Awaitable[T]) -> T:
        window = (args.start, args.end)
        mirror.moving.append(window)
        try:
            return await step
        finally:
            mirror.moving.remove(window)
            mirror.moved.wake_up()

    async def fault_alloc_and_copy(self, mirror: Mirror, args: MigrateVma) -> None:
        """Wait for the access that was under way before the old pages can go.

        What it wrote after the copy is lost all the same (HM-D03): a real kernel was seen to lose it.
        """
        try:
            await super().fault_alloc_and_copy(mirror, args)
        finally:
            await mirror.mutex.acquire()
            mirror.mutex.release()


class WatchfulCommands(Commands):
    """EXCLUSIVE stores an entry only while the page is still mapped."""

    async def _make_exclusive(self, mirror: Mirror, vpn: int) -> None:
        """MM-R28."""
        assert isinstance(mirror, WatchfulMirror)
        watch = await mirror.watch_page_in_the_making(vpn, vpn + 1)
        try:
            folio = await self.core.call(MakeDeviceExclusive(mirror.mm, vpn, None))
            async with mirror.mutex:
                if not watch.covers(vpn):
                    mirror.pt.store(vpn, folio, Tag.ATOMIC)
            put_exclusive(self.core, folio)
        finally:
            mirror.forget(watch)


class WatchfulDevice(MirrorDevice):
    """The stock device without its use of freed pages."""

    mirror_class = WatchfulMirror
    migration_class = WatchfulMigration
    commands_class = WatchfulCommands
