"""DRM_IOCTL_XE_WAIT_USER_FENCE: sleep until memory has a value (vm_bind section 7.2; igt_vm_bind section 10).

The waiter compares, then sleeps on the wait queue of user fences.  Three things wake it: a worker that wrote
the fence of a bind, the user interrupt with which the hardware ends a batch, and the death of a queue.  It is
listed *before* it compares, and every wake-up marks those listed, so one that comes between the look and the
sleep is not lost.  Then it compares again: a wake-up says that something happened, not what.

A store of the CPU wakes nobody.  Who waits for one finds it at the next wake-up, or at its deadline.

Deadlines: relative ones are counted from the call, absolute ones (ABSTIME) are virtual time, a negative one
never comes.  Zero, and an absolute one that has passed, is a look and no sleep.

Simplified: one wait queue for each VM, where the kernel has one for the device, so a waiter can name queues of
that VM only.  What holds at the deadline counts as in time; the kernel answers -ETIME even then.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from svm_actors.engine.errors import EFAULT, EINVAL, EIO, ENOENT, ERESTARTSYS, ETIME
from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.signals import about_to_sleep, signal_pending
from svm_actors.mm.messages import SIGBUS, SIGSEGV

if TYPE_CHECKING:
    from svm_actors.engine.engine import Engine
    from svm_actors.xe.exec_queue import ExecQueue

WIDTH: Final = 8
"""Bytes of a user fence."""

Compare = Callable[[int, int], bool]

COMPARE: Final[dict[str, Compare]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
"""DRM_XE_UFENCE_WAIT_OP_*: what was found against the value, both masked, unsigned."""


class WaitFlag(enum.IntFlag):
    """DRM_XE_UFENCE_WAIT_FLAG_*."""

    ABSTIME = 1
    """The timeout is a point in time."""


KNOWN_FLAGS: Final = 1
ALL_BITS: Final = (1 << 64) - 1
SECOND: Final = 1_000_000_000


class CpuMemory(Protocol):
    """Where the fence is, as the CPU reads it: a process, or an object through a mapping of its own."""

    async def read(self, addr: int, length: int = 1) -> bytes:
        """Load bytes."""
        ...


class UfenceQueue(WaitQueue):
    """xe->ufence_wq: wakes are kept for those who are listed but do not sleep yet."""

    __slots__ = ("_listed",)

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(engine, name)
        self._listed: list[UfenceWait] = []

    def add(self, waiter: UfenceWait) -> None:
        """add_wait_queue."""
        self._listed.append(waiter)

    def remove(self, waiter: UfenceWait) -> None:
        """remove_wait_queue."""
        self._listed.remove(waiter)

    def wake_up(self) -> None:
        """wake_up_all: mark everybody who is listed, asleep or not."""
        for waiter in self._listed:
            waiter.woken = True
        super().wake_up()


class UfenceVm(Protocol):
    """Whose user fences are waited for."""

    engine: Engine
    ufence_wq: UfenceQueue
    """Woken by whoever has written one."""


class UfenceWait:
    """One call."""

    def __init__(self, vm: UfenceVm, memory: CpuMemory, addr: int, value: int) -> None:
        self.vm = vm
        self.engine = vm.engine
        self.memory = memory
        self.addr = addr
        self.value = value
        self.compare: Compare = operator.eq
        self.mask = ALL_BITS
        self.queue: ExecQueue | None = None
        """Whose death ends the wait."""
        self.deadline: int | None = None
        """Virtual time; None: never."""
        caller = self.engine.current
        assert caller is not None
        self.thread = caller.thread
        """Who sleeps."""
        self.woken = False
        """WQ_FLAG_WOKEN: something happened since the last look began."""

    async def run(self) -> None:
        """Until the condition holds.  -EFAULT, -EIO, -ETIME, -ERESTARTSYS."""
        queue = self.vm.ufence_wq
        queue.add(self)
        try:
            while not await self._holds():
                if signal_pending(self.engine):
                    raise ERESTARTSYS
                if self.queue is not None and self.queue.dead:
                    raise EIO
                if self.deadline is not None and self.deadline <= self.engine.now:
                    raise ETIME
                await self._sleep()
        finally:
            queue.remove(self)

    async def _holds(self) -> bool:
        """do_compare.  A mark set before this look is dropped, one set during it is kept."""
        self.woken = False
        try:
            found = int.from_bytes(await self.memory.read(self.addr, WIDTH), "little")
        except (SIGSEGV, SIGBUS):
            raise EFAULT from None
        return self.compare(found & self.mask, self.value & self.mask)

    async def _sleep(self) -> None:
        """wait_woken.  The look is over and the waiter not yet asleep: only the mark keeps a wake-up."""
        queue = self.vm.ufence_wq
        await self.engine.step("read", queue, "woken")
        if not self.woken:
            about_to_sleep(self.engine)
        if self.deadline is None:
            await queue.wait_event(self._is_woken)
        else:
            await queue.wait_event_timeout(self._is_woken, self.deadline - self.engine.now)

    def _is_woken(self) -> bool:
        return self.woken or self.thread.signal


def deadline_of(now: int, timeout: int, flags: int) -> int | None:
    """When to give up; None: never."""
    if timeout < 0:
        return None
    return timeout if flags & WaitFlag.ABSTIME else now + timeout


async def wait_user_fence(
    vm: UfenceVm,
    memory: CpuMemory,
    addr: int,
    op: str,
    value: int,
    *,
    mask: int = ALL_BITS,
    timeout: int = SECOND,
    flags: int = 0,
    queue: ExecQueue | None = None,
) -> int:
    """Sleep until the 8 bytes at ``addr`` compare as ``op`` says; a condition that holds already returns at once.

    ``timeout`` in virtual ns.  Answers what is left of a relative one, an absolute or negative one as it is.
    With ``queue`` the death of that queue ends the wait, unless the value is there.
    -EINVAL unknown flag or operation, odd address; -ENOENT no such queue; -EFAULT no memory there; -EIO dead
    queue; -ETIME; -ERESTARTSYS, after which a relative timeout goes on with what is left of it.
    """
    if flags & ~KNOWN_FLAGS or op not in COMPARE or addr % WIDTH:
        raise EINVAL
    if queue is not None and (queue.destroyed or queue.vm.ufence_wq is not vm.ufence_wq):
        raise ENOENT
    begin = vm.engine.now
    wait = UfenceWait(vm, memory, addr, value)
    wait.compare, wait.mask, wait.queue = COMPARE[op], mask, queue
    wait.deadline = deadline_of(begin, timeout, flags)
    await wait.run()
    if flags & WaitFlag.ABSTIME or timeout < 0:
        return timeout
    return max(0, timeout - (vm.engine.now - begin))
