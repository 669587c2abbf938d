"""User fences: eight bytes that get a value when work is done (vm_bind sections 7.2 and 9).

Of a *bind*: memory of the process.  A worker writes it in the name of the process.  ``signalled`` is set
*before* the value can be seen, so whoever sees the value may unbind (VMB-R28, VMB-B25).  The user fences of one
queue are written in the order of its binds.

Of an *exec*: the same entry of the ioctl, but its address is one of the GPU.  The ring stores the value behind
the program, so it gets there as the program's own stores do, and where nothing is mapped it is a fault.

Either way whoever waits is woken: see :mod:`svm_actors.xe.wait_user_fence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EINVAL, ENOMEM
from svm_actors.engine.locks import WaitQueue
from svm_actors.gpu.program import Store
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.cpu import cpu_write
from svm_actors.mm.messages import SIGBUS, SIGKILL, SIGSEGV
from svm_actors.xe.wait_user_fence import WIDTH

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.bind_queue import BindQueue


class UserFence:
    """xe_user_fence: one write of one value."""

    def __init__(self, core: CoreMm, mm: Mm, addr: int, value: int, woken: WaitQueue) -> None:
        """-EINVAL unless the address is a multiple of 8."""
        if addr % WIDTH:
            raise EINVAL
        self.core = core
        self.engine = core.engine
        self.mm = mm
        self.addr = addr
        self.value = value
        self.woken = woken
        self.signalled = False
        """About to be written, or written."""
        self.written = Fence(core.engine, f"{mm.name}.ufence.{addr:#x}")
        """Orders the worker of the next one behind this one's."""

    def store(self) -> Store:
        """What the ring does for an exec, with the address as one of the GPU."""
        return Store(self.addr // PAGE_SIZE, self.addr % PAGE_SIZE, self.value.to_bytes(WIDTH, "little"))

    def write_after(self, fence: Fence, queue: BindQueue) -> None:
        """Have a worker write it when ``fence`` is signaled and the queue's last user fence is written."""
        before, queue.last_user_fence = queue.last_user_fence, self.written
        fence.get()
        self.engine.spawn(self._worker(fence, before), f"{queue.name}.ufence")

    async def _worker(self, fence: Fence, before: Fence | None) -> None:
        await fence.wait()
        fence.put()
        if before is not None:
            await before.wait()
        await self.engine.step("write", self.woken, "ufence")
        self.mark_signalled()
        try:
            await cpu_write(self.core, self.mm, self.addr, self.value.to_bytes(WIDTH, "little"))
        except (SIGSEGV, SIGBUS, SIGKILL, ENOMEM):
            self.engine.count("ufence.unmapped")
        await self.engine.step("fence_signal", self.written)
        self.written.signal()
        self.woken.wake_up()

    def mark_signalled(self) -> None:
        """VMB-R28: before anybody can see the value."""
        self.signalled = True
