"""The gate that is closed while the system is about to sleep, or sleeps (vm_bind sections 9, 10; VMB-R35).

From the moment the gate is closed nothing may make memory resident any more: it would go back into device
memory, which loses its contents with the power.  So

* an exec that finds the gate closed backs out, with everything it has locked, and sleeps outside of the
  driver until the gate is open.  To user space that is a thread that was frozen in its system call, and
  the call runs again from the beginning.
* a bind, and the making of an object, is not begun.
* a rebind worker does not sleep, since whoever suspends the system waits for workers to be idle.  It puts itself
  on a list and ends; opening the gate queues all workers on the list.

A worker looks at the gate and puts itself on the list under one lock, which is taken as well by whoever
opens the gate: else it could get on the list just after that was worked off, and stay there.

The gate counts who is inside the driver.  The freezer waits for those that came before it was closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.drm.sched_work import Completion
from svm_actors.engine.errors import ERESTARTSYS
from svm_actors.engine.locks import Mutex, WaitQueue

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.xe.rebind_worker import RebindWorker


class SuspendGate:
    """pm_block, rebind_resume_lock and rebind_resume_list of one device.

    ``async with gate:`` around a call of user space that is not begun while the gate is closed.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.block = Completion(engine, f"{name}.pm_block", done=True)
        """Done: the gate is open."""
        self.lock = Mutex(engine, f"{name}.rebind_resume_lock", "rebind_resume_lock")
        self.parked: dict[RebindWorker, None] = {}
        """Workers that come back when the gate opens, in the order in which they parked."""
        self.inside = 0
        """Calls of user space that are in the driver."""
        self.outside = WaitQueue(engine, f"{name}.freezer")
        """Woken when one has left."""

    @property
    def closed(self) -> bool:
        """A system suspend is under way, or done."""
        return not self.block.done

    # -- user space ----------------------------------------------------------------------

    def enter(self) -> None:
        """A call begins; the freezer waits for its end."""
        self.inside += 1

    def leave(self) -> None:
        """A call ends, or sleeps where it can be frozen."""
        self.inside -= 1
        self.outside.wake_up()

    async def __aenter__(self) -> None:
        await self.thawed()
        self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def thawed(self) -> None:
        """Sleep until the gate is open; no op when it is."""
        while self.closed:
            await self.block.wait()

    def check_open(self) -> None:
        """VMB-R35: nothing is made resident behind the back of a suspend.  -ERESTARTSYS: back out and come again."""
        if self.closed:
            self.engine.count("VMB-R35")
            raise ERESTARTSYS

    # -- rebind workers ------------------------------------------------------------------

    async def parks(self, worker: RebindWorker) -> bool:
        """vm_suspend_rebind_worker, VMB-R35: True when the worker has to end; it is queued again later."""
        if not self.closed:
            return False
        async with self.lock:
            if not self.still_closed():
                return False
            self.parked[worker] = None
        self.engine.count("VMB-R35")
        return True

    def still_closed(self) -> bool:
        """VMB-R35: looked at again under the lock, for the list is worked off only once."""
        return self.closed

    async def forget(self, worker: RebindWorker) -> None:
        """VM close: it does not come back."""
        async with self.lock:
            self.parked.pop(worker, None)

    # -- who suspends the system -----------------------------------------------------------

    def close(self) -> None:
        """Nobody gets through from here on."""
        self.block.reinit()

    async def frozen(self) -> None:
        """Sleep until nobody is in the driver who came before the gate was closed."""
        await self.outside.wait_event(lambda: not self.inside)

    async def open(self) -> None:
        """Everybody goes on; xe_pm_wake_rebind_workers."""
        self.block.complete_all()
        async with self.lock:
            for worker in self.parked:
                worker.queue()
            self.parked.clear()
