"""User fences: memory of a process that gets a value when work is done (vm_bind section 7.2).

A worker writes it in the name of the process.  ``signalled`` is set *before* the value can be seen, so
whoever sees the value may unbind (VMB-R28, VMB-B25).  The user fences of one queue are written in the order
of its binds.

:func:`wait_user_fence` is the ioctl with which user space sleeps until the memory has a value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EINVAL, ETIME
from svm_actors.engine.locks import WaitQueue
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.messages import SIGSEGV

if TYPE_CHECKING:
    from svm_actors.mm.core import CoreMm
    from svm_actors.mm.mm_struct import Mm
    from svm_actors.xe.exec_queue import ExecQueue

WIDTH: Final = 8

COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
"""DRM_XE_UFENCE_WAIT_OP_*."""


class FenceOrder(Protocol):
    """A queue: its user fences are written in the order of its submissions."""

    name: str
    last_user_fence: Fence | None
    """Signaled when the last one is written."""


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

    def write_after(self, fence: Fence, queue: FenceOrder | ExecQueue) -> None:
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
        except SIGSEGV:
            self.engine.count("ufence.unmapped")
        await self.engine.step("fence_signal", self.written)
        self.written.signal()
        self.woken.wake_up()

    def mark_signalled(self) -> None:
        """VMB-R28: before anybody can see the value."""
        self.signalled = True


async def wait_user_fence(
    core: CoreMm,
    mm: Mm,
    addr: int,
    op: str,
    value: int,
    woken: WaitQueue,
    *,
    mask: int = (1 << 64) - 1,
    timeout: int = 1_000_000_000,
    flags: int = 0,
) -> int:
    """DRM_IOCTL_XE_WAIT_USER_FENCE: the time left in ns.  -EINVAL; -ETIME."""
    if flags or op not in COMPARE or addr % WIDTH:
        raise EINVAL
    engine = core.engine
    end = engine.now + timeout

    async def holds() -> bool:
        found = int.from_bytes(await cpu_read(core, mm, addr, WIDTH), "little")
        return COMPARE[op](found & mask, value & mask)

    while not await holds():
        left = end - engine.now
        if left <= 0:
            raise ETIME
        await engine.sleep(min(left, 1000))
    return max(1, end - engine.now)
