"""Deviations of lock order around locked pages: whoever has one must not wait for who may want one."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_part
from svm_actors.mirror.memory import Chunk, backing_of
from svm_actors.mirror.migrate import Migration
from svm_actors.mm.folio import Folio
from svm_actors.mm.memremap import VmFault
from svm_actors.mm.messages import MigrateDeviceFinalize, MigrateDevicePages, MigrateDevicePfns


def locked_home(original: type[Migration]) -> type[Migration]:
    """A subclass that keeps the device's memory in place while a fault is served."""

    class LocksOnTheWayHome(original):  # type: ignore[misc, valid-type]
        async def migrate_to_ram(self, fault: VmFault) -> None:
            async with self.device.memory.lock:
                await super().migrate_to_ram(fault)

    return LocksOnTheWayHome


def evicting_under_mmap_lock(original: type[Migration]) -> type[Migration]:
    """A subclass that wants the address space to stand still once it has the pages."""

    class EvictsUnderMmapLock(original):  # type: ignore[misc, valid-type]
        async def evict_chunk(self, chunk: Chunk) -> None:
            src = await self.core.call(MigrateDevicePfns(chunk.pgmap, sorted(chunk.pgmap.live)))
            dst: list[Folio | None] = [None] * len(src)
            for index, source in enumerate(src):
                if source.migrate and source.folio is not None:
                    mirror = backing_of(source.folio).zone_device_data
                    async with mirror.mm.mmap_lock.reading():
                        dst[index] = await self.alloc_nofail()
                        await self.copy_page(backing_of(source.folio), dst[index])
            await self.core.call(MigrateDevicePages(src, dst))
            await self.core.call(MigrateDeviceFinalize(src, dst))

    return EvictsUnderMmapLock


MM_B70 = Bug(
    id="MM-B70",
    title="migrate_to_ram waits for a lock of the driver whose holder waits for the page",
    removes="Migration.migrate_to_ram",
    races=("MM-R26",),
    oracles=("engine/deadlock", "lockdep/INV-24", "fault_pages/RULE-02"),
    story="device-is-emptied",
    plant=replace_part(Migration, locked_home),
)

MM_R26 = Bug(
    id="MM-R26",
    title="an eviction waits for mmap_lock with the pages locked",
    removes="Migration.evict_chunk",
    races=("MM-R26",),
    oracles=("engine/deadlock", "lockdep/INV-24"),
    story="device-is-emptied",
    plant=replace_part(Migration, evicting_under_mmap_lock),
)
