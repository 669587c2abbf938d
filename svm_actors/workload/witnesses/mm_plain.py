"""Plain notifiers beside a device, and a start that must not sleep (core_mm section 5.1)."""

from __future__ import annotations

from svm_actors.engine.errors import EFAULT
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.messages import NotifierRegister
from svm_actors.mm.mmu_notifier import NotifierRange
from svm_actors.mm.plain_notifier import MmuNotifier
from svm_actors.workload.witness import witness
from svm_actors.world import Config, World


class Hypervisor:
    """Never sleeps, so it never refuses; wants to hear of every end."""

    async def invalidate_range_start(self, event: NotifierRange) -> bool:
        """Whatever a guest has mapped goes."""
        return True

    async def invalidate_range_end(self, event: NotifierRange) -> None:
        """Guests may map the range again."""


class Sleeper(Hypervisor):
    """Has to sleep, so it refuses the first time it must not."""

    def __init__(self) -> None:
        self.refused = False

    async def invalidate_range_start(self, event: NotifierRange) -> bool:
        """False once."""
        first = not event.blockable and not self.refused
        self.refused = self.refused or first
        return not first


@witness("MM-R22", Config(mirrors=1))
async def reaper_met_by_plain_notifiers(world: World) -> None:
    """The OOM reaper is refused by a subscriber of the plain list when the others have retired their translations."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    mirror = await world.mirror(process)
    for notifier in (MmuNotifier("kvm", Hypervisor(), has_end=True), MmuNotifier("sleeper", Sleeper(), has_end=False)):
        await world.core.call(NotifierRegister(notifier, process.mm))
    async with world.nursery() as nursery:
        nursery.start_soon(process.oom_reap, name="reaper")
        nursery.start_soon(_read, mirror, addr, name="device")


async def _read(mirror: Mirror, addr: int) -> None:
    try:
        await mirror.read(addr, 1)
    except EFAULT:
        mirror.engine.count("hmm.unstable")
