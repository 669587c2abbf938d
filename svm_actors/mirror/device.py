"""The mirror device: one actor per device (hmm_mirror sections 1, 6 and 7).

It owns the device memory, serves the commands of its mirrors and the callbacks of the core MM, each
in a task of its own; what two of them may not do at once is excluded by the mirror's mutex, the
device mutex and the core's own locks.  The device is the owner cookie of all its pages.

Simplified: private kind and small pages only (see ``memory``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from svm_actors.engine.actor import Actor
from svm_actors.engine.engine import Engine
from svm_actors.mirror import messages as msg
from svm_actors.mirror.commands import Commands
from svm_actors.mirror.memory import Chunk, DeviceMemory
from svm_actors.mirror.migrate import Migration
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import DevPagemap, VmFault
from svm_actors.mm.messages import IntervalNotifierRemove

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm

BASE_PFN: Final = 1 << 32
"""Device page frame numbers start here; RAM stays far below."""
DEVICE_PFNS: Final = 1 << 28
"""Distance between the page frame numbers of two devices."""

OwnPages = Literal["device", "backing"]


class MirrorDevice(Actor):
    """One mdevice."""

    mirror_class: type[Mirror] = Mirror
    migration_class: type[Migration] = Migration
    commands_class: type[Commands] = Commands

    def __init__(
        self,
        engine: Engine,
        core: CoreMm,
        name: str,
        *,
        index: int = 0,
        own_pages: OwnPages = "device",
        max_chunks: int | None = None,
    ) -> None:
        super().__init__(engine, name)
        self.core = core
        self.own_pages: OwnPages = own_pages
        """What a fault-in stores for an own device page: the page itself (HM-D01) or its backing."""
        self.memory = DeviceMemory(engine, name, self, self, BASE_PFN + index * DEVICE_PFNS, max_chunks)
        self.mirrors: list[Mirror] = []
        """Open mirrors."""
        self.migration = engine.parts.of(self.migration_class)(self)
        self.commands = engine.parts.of(self.commands_class)(self)
        self._opened = 0
        self._register()

    def _register(self) -> None:
        commands = self.commands
        self.handle(msg.Read, commands.read)
        self.handle(msg.ReadUnlocked, commands.read_unlocked)
        self.handle(msg.Write, commands.write)
        self.handle(msg.MigrateToDev, commands.migrate_to_dev)
        self.handle(msg.MigrateToSys, commands.migrate_to_sys)
        self.handle(msg.Snapshot, commands.snapshot)
        self.handle(msg.MakeExclusive, commands.exclusive)
        self.handle(msg.CheckExclusive, commands.check_exclusive)
        self.handle(msg.Release, commands.release)
        self.handle(msg.SetFlags, commands.set_flags)
        self.handle(msg.OpenMirror, self._open)
        self.handle(msg.CloseMirror, self._close)
        self.handle(msg.RemoveDevice, self._remove)
        self.handle(msg.InvalidateMirror, self._invalidate)
        self.handle(msg.InvalidateSnapshot, self._invalidate_snapshot)
        self.handle(msg.MigrateToRam, self._migrate_to_ram)

    # -- open and close ------------------------------------------------------------------------

    async def _open(self, message: msg.OpenMirror) -> Mirror:
        """open; the first one finds a chunk of memory ready."""
        mirror = self.engine.parts.of(self.mirror_class)(self, f"{self.name}.m{self._opened}")
        self._opened += 1
        await mirror.subscribe(message.mm)
        self.mirrors.append(mirror)
        return mirror

    async def _close(self, message: msg.CloseMirror) -> None:
        """Last close: evicts every chunk, whoever uses it, walking the array unlocked (HM-D10)."""
        mirror = message.mirror
        await self.core.call(IntervalNotifierRemove(mirror.notifier))
        for chunk in list(self.memory.chunks):
            await self.migration.evict_chunk(chunk)
        self.mirrors.remove(mirror)
        mirror.pt.erase(0, 1 << 64)
        mirror.closed = True

    async def _remove(self, message: msg.RemoveDevice) -> None:
        await self.remove_chunks()

    async def remove_chunks(self) -> None:
        """RELEASE and module unload: mark, drop free pages, evict once, wait until all are free."""
        memory = self.memory
        async with memory.lock:
            for chunk in list(memory.chunks):
                await self._remove_chunk(chunk)
                memory.chunks.remove(chunk)

    async def _remove_chunk(self, chunk: Chunk) -> None:
        await self.engine.step("alloc", self.memory)
        chunk.remove = True
        self.memory.drop_free_pages(chunk)
        await self.migration.evict_chunk(chunk)
        await chunk.idle.wait_event(lambda: not chunk.pgmap.live)

    # -- callbacks of the core MM ----------------------------------------------------------------

    async def migrate_to_ram(self, fault: VmFault) -> None:
        """dev_pagemap callback: a CPU fault on a page of this device."""
        await self.call(msg.MigrateToRam(fault))

    async def _migrate_to_ram(self, message: msg.MigrateToRam) -> None:
        self.engine.count("mirror.cpu_fault")
        await self.migration.migrate_to_ram(message.fault)

    def folio_free(self, folio: Folio) -> None:
        """dev_pagemap callback: the last reference of a page is gone."""
        self.memory.free_page(folio)

    async def _invalidate(self, message: msg.InvalidateMirror) -> bool:
        return await message.mirror.serve_invalidate(message.range, message.seq)

    async def _invalidate_snapshot(self, message: msg.InvalidateSnapshot) -> bool:
        """Same mutex, same blockable rule; only the sequence is set."""
        mirror = message.mirror
        if not await mirror.lock_for(message.range):
            return False
        message.notifier.set_seq(message.seq)
        mirror.mutex.release()
        return True

    def pgmaps(self) -> list[DevPagemap]:
        """The region of every chunk."""
        return [chunk.pgmap for chunk in self.memory.chunks]

    def statistics(self) -> dict[str, int]:
        """Memory counters and open mirrors."""
        return {**self.memory.statistics(), "mirrors": len(self.mirrors)}
