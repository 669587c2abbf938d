"""System suspend and resume of one device (vm_bind section 10, VMB-R35, VMB-B37; fences_and_scheduler 9).

Going down, in this order:

1. *Prepare*: the gate is closed (:mod:`svm_actors.xe.suspend_gate`), and memory of user space is moved out of
   device memory.  That preempts long-running queues; their rebind workers park.
2. *Freeze*: whoever is still inside an exec or a bind comes out, and rebind workers that had passed the
   gate finish.  What they have made resident meanwhile is moved out as well.
3. *Suspend*: every exec queue is switched off.  This is one holder more of its suspend: a queue that was
   preempted, or stopped for its engine group, stays off after the resume until that holder lets go too (VMB-B37).
4. *Power off*: device memory and translations are gone.

Coming up: power, queues, and at last the gate.

A job that was begun goes on where it was, as its context was saved when it was switched off.  So the rule that a
reset bans a queue with a job begun and not finished does not hold here (VMB-B37).

Simplified: the page tables and the contexts themselves survive.  User space is frozen where it enters exec and
bind; a scenario that goes on with anything else that needs the device meanwhile is told that its data is lost.
Nothing wakes the system up before it sleeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.engine.errors import EBUSY, ECANCELED, ETIME, EngineError, KernelError, PropertyFailed
from svm_actors.engine.locks import Mutex
from svm_actors.xe.evict import evict_victim, lock_victim
from svm_actors.xe.suspend_gate import SuspendGate

if TYPE_CHECKING:
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.evict import VramObject
    from svm_actors.xe.exec_queue import ExecQueue


class Power:
    """xe_pm of one device."""

    def __init__(self, device: XeDevice) -> None:
        self.device = device
        self.engine = device.engine
        self.name = f"{device.name}.power"
        self.gate = device.engine.parts.of(SuspendGate)(device.engine, device.name)
        self.off = False
        """There is no power: device memory loses what it holds."""
        self.held: list[ExecQueue] = []
        """Queues of which the system holds a suspend."""

    # -- down ------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """PM_SUSPEND_PREPARE: before user space is frozen."""
        if self.gate.closed:
            raise EngineError(f"{self.device.name} is suspended twice")
        await self.engine.step("write", self.gate.block, "close")
        self.gate.close()
        self.engine.count("pm.suspend")
        await self.evict_all()

    async def freeze(self) -> None:
        """User space is out of the driver, and no rebind worker is at work."""
        await self.gate.frozen()
        for vm in [*self.device.bind_vms.values()]:
            await vm.execs.rebind.work.wait_idle()

    async def suspend(self) -> None:
        """xe_pm_suspend.  -EBUSY when something cannot be moved out: everything is as before."""
        await self.evict_all()
        if self.resident():
            await self.resume()
            raise EBUSY
        await self.stop_queues()
        await self.power_off()

    async def evict_all(self) -> None:
        """xe_bo_evict_all_user: every object once, waiting for whoever holds it."""
        vram = self.device.region.vram
        cursor = 0
        while (victim := vram.next_in_lru(cursor)) is not None:
            cursor = victim.stamp
            if await lock_victim(victim) or await self._wait_for(victim):
                try:
                    await evict_victim(vram, victim)
                except KernelError as error:
                    self.engine.count(f"pm.evict.{error.code}")

    async def _wait_for(self, victim: VramObject) -> bool:
        """Sleep for its reservation; False when it has gone meanwhile.  A dead one has nothing to lose."""
        if not victim.refs:
            return False
        victim.get()
        resv = victim.resv
        if isinstance(resv, DmaResv):
            await resv.lock()
        elif isinstance(resv, Mutex):
            await resv.acquire()
        await victim.put()
        if victim.refs and victim.blocks and victim.resv is resv:
            return True
        resv.release()
        return False

    def resident(self) -> list[VramObject]:
        """What is in device memory and still somebody's."""
        objects: list[VramObject] = [*self.device.region.vram.lru.values()]
        return [each for each in objects if each.refs]

    async def stop_queues(self) -> None:
        """All are asked, then waited for; one that does not let go is banned and thrown off."""
        self.held = [queue for queue in self.device.submission.queues if not queue.destroyed]
        for queue in self.held:
            queue.suspend()
        for queue in self.held:
            try:
                await queue.suspend_wait()
            except ETIME:
                self.engine.count("pm.threw_off")
            await queue.taken_off()

    async def power_off(self) -> None:
        """Contexts are off; translations are lost, and with them every reason to flush."""
        reset = self.device.submission.reset
        await self.engine.step("write", self, "power")
        self.off = True
        for queue in self.held:
            reset.lose_power(queue)
        tlb_inval = self.device.tlb_inval
        await tlb_inval.reset()
        tlb_inval.refused = ECANCELED()
        self.check_nothing_is_lost()

    # -- up --------------------------------------------------------------------------------

    async def resume(self) -> None:
        """xe_pm_resume, and PM_POST_SUSPEND: also what is left to do when a suspend was given up."""
        await self.engine.step("write", self, "power")
        if self.off:
            self.check_nothing_is_lost()
            self.off = False
            self.device.tlb_inval.refused = None
        for queue in self.held:
            self.let_go(queue)
        self.held = []
        await self.gate.open()

    def let_go(self, queue: ExecQueue) -> None:
        """VMB-B37: one holder less; others may want it off still."""
        if queue.suspend_count > 1:
            self.engine.count("pm.held_by_others")
        queue.resume()

    def check_nothing_is_lost(self) -> None:
        """VMB-R35: whatever is in device memory without power is lost."""
        for victim in self.resident():
            text = f"{victim} is in device memory of {self.device.name}, which has no power"
            raise PropertyFailed("lifetime", "VMB-R35", text)


async def suspend_system(devices: list[XeDevice]) -> None:
    """Every device in every phase, as user space is frozen once for all.  -EBUSY: nothing is suspended."""
    for device in devices:
        await device.power.prepare()
    for device in devices:
        await device.power.freeze()
    try:
        for device in devices:
            await device.power.suspend()
    except EBUSY:
        await resume_system(devices)
        raise


async def resume_system(devices: list[XeDevice]) -> None:
    """The other way round."""
    for device in reversed(devices):
        if device.power.gate.closed:
            await device.power.resume()
