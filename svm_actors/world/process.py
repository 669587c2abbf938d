"""A process and its system calls."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from svm_actors.engine.actor import Message
from svm_actors.engine.errors import EAGAIN, EINVAL, ESRCH
from svm_actors.engine.locks import WaitQueue
from svm_actors.mm import messages as m
from svm_actors.mm.constants import PAGE_SHIFT, PAGE_SIZE, Prot
from svm_actors.mm.cpu import cpu_read, cpu_write
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_hold import PageHold

if TYPE_CHECKING:
    from svm_actors.world.world import World

T = TypeVar("T")

PROTECTIONS = {"none": Prot.NONE, "r": Prot.READ, "rw": Prot.READ | Prot.WRITE, "rx": Prot.READ | Prot.EXEC,
               "rwx": Prot.READ | Prot.WRITE | Prot.EXEC, "w": Prot.WRITE | Prot.READ, "x": Prot.EXEC}  # fmt: skip


def pages_of(length: int) -> int:
    """Bytes in pages.  -EINVAL unless it is a whole number of them."""
    if length % PAGE_SIZE:
        raise EINVAL
    return length >> PAGE_SHIFT


def protection(prot: str) -> Prot:
    """``"rw"`` and friends as bits."""
    if prot not in PROTECTIONS:
        raise ValueError(f"prot is one of {', '.join(PROTECTIONS)}, not {prot!r}")
    return PROTECTIONS[prot]


class Process:
    """A process: an address space and the system calls on it.  Any task may be its thread.

    Every call is made by a thread of the process, and a thread keeps the address space alive: an exit
    waits until the calls under way have ended, and calls made after it answer -ESRCH.
    """

    def __init__(self, world: World, mm: Mm) -> None:
        self.world = world
        self.mm = mm
        self.name = mm.name
        self.alive = True
        self._calls = 0
        self._threads_gone = WaitQueue(world.engine, f"{mm.name}.threads")

    async def mmap(
        self,
        length: int,
        *,
        addr: int = 0,
        prot: str = "rw",
        shared: bool = False,
        fixed: bool = False,
        noreplace: bool = False,
        file: Any = None,
        offset: int = 0,
        huge: bool = False,
    ) -> int:
        """Map memory; answers the address.  With ``huge`` private memory consists of pages of 2 MiB."""
        bits = protection(prot)
        return await self._call(
            m.Mmap(self.mm, addr, length, bits, shared, fixed, noreplace, file, offset, huge)
        )

    async def munmap(self, addr: int, length: int) -> None:
        """Unmap memory."""
        await self._call(m.Munmap(self.mm, addr, length))

    async def mremap(
        self,
        addr: int,
        old_length: int,
        new_length: int,
        *,
        maymove: bool = True,
        to: int | None = None,
        dontunmap: bool = False,
    ) -> int:
        """Move or resize a mapping, to a fixed place with ``to``; answers the address."""
        message = m.Mremap(
            self.mm, addr, old_length, new_length, maymove, to is not None, dontunmap, 0 if to is None else to
        )
        return await self._call(message)

    async def mprotect(self, addr: int, length: int, prot: str) -> None:
        """Change protection."""
        await self._call(m.Mprotect(self.mm, addr, length, protection(prot)))

    async def madvise(self, addr: int, length: int, advice: str) -> None:
        """Advise: ``dontneed``, ``free``, ``pageout`` ..."""
        await self._call(m.Madvise(self.mm, addr, length, advice))

    async def mlock(self, addr: int, length: int) -> None:
        """Fault memory in and keep reclaim away from it.  -ENOMEM where nothing is mapped."""
        await self._call(m.Mlock(self.mm, addr, length))

    async def munlock(self, addr: int, length: int) -> None:
        """The end of that.  -ENOMEM where nothing is mapped."""
        await self._call(m.Munlock(self.mm, addr, length))

    async def brk(self, end: int) -> int:
        """Set the end of the heap; answers what it is now."""
        return await self._call(m.Brk(self.mm, end))

    async def swap_out(self, addr: int, length: int) -> int:
        """Let reclaim take cold pages of a range; answers how many pages went."""
        start, end = addr >> PAGE_SHIFT, (addr + length + PAGE_SIZE - 1) >> PAGE_SHIFT
        return await self._call(m.ReclaimPages(self.mm, start, end))

    async def oom_reap(self) -> None:
        """The process is killed for want of memory and what it maps privately is taken at once (process_mrelease).

        No thread of it may use memory any more; devices may try.  -EAGAIN when some of it could not be taken.
        """
        await self.world.core.call(m.OomReap(self.mm))

    async def read(self, addr: int, length: int = 1) -> bytes:
        """CPU load.  Raises SIGSEGV or SIGBUS."""
        return await self._as_thread(cpu_read(self.world.core, self.mm, addr, length))

    async def write(self, addr: int, data: bytes) -> None:
        """CPU store.  Raises SIGSEGV or SIGBUS."""
        await self._as_thread(cpu_write(self.world.core, self.mm, addr, data))

    def holding(self, addr: int) -> PageHold:
        """``async with process.holding(addr):`` somebody who scans physical memory has a reference on that page."""
        return PageHold(self.world.core, self.mm, addr >> PAGE_SHIFT)

    async def fork(self, name: str | None = None) -> Process:
        """A child with a copy of the address space.  -ENOMEM."""
        world = self.world
        child = await self._call(m.Fork(self.mm, name or world.core.new_name(f"{self.name}.child")))
        return world.adopt(Process(world, child))

    async def kill(self, *, reap: bool = False) -> None:
        """SIGKILL: no thread of it does anything any more, its address space goes, then its GPU VMs are closed.

        What a thread is about in the kernel it ends; an access is given up at its next fault.  With ``reap`` it is the
        OOM killer, whose reaper does not wait for all that.  Simplified: only mirroring VMs are closed; other files
        (mirror devices, clients of VM_BIND) stay open, as if somebody else had them too.
        """
        if not self.alive:
            return
        self.mm.killed = True
        self.world.engine.count("process.killed")
        if reap:
            self.world.spawn(self._reaped(), f"{self.name}.oom_reaper")
        await self.exit()
        for vm in self.world.vms:
            if vm.vm.mm is self.mm:
                await vm.close()

    async def _reaped(self) -> None:
        """The reaper keeps the structure, not the address space."""
        self.mm.grab()
        try:
            await self.oom_reap()
        except EAGAIN:
            self.world.engine.count("oom.given_up")
        self.mm.drop()

    async def exit(self) -> None:
        """The process ends: the last user of its mm goes, unless a GPU still holds one."""
        if self.alive:
            self.alive = False
            if self._calls:
                await self._threads_gone.wait_event(lambda: not self._calls)
            await self.mm.mmput()

    async def _call(self, message: Message[T]) -> T:
        return await self._as_thread(self.world.core.call(message))

    def _struck(self) -> None:
        """Somebody kills the process from here on: a user, or the OOM killer."""
        for kind, reap in (("exit", False), ("reaper", True)):
            if self.alive and self.world.engine.faults.strike(kind):
                self.world.spawn(self.kill(reap=reap), f"{self.name}.killer")

    async def as_thread(self, call: Coroutine[Any, Any, T]) -> T:
        """Make any other call, to a driver, as a thread of the process.  -ESRCH when it is gone."""
        return await self._as_thread(call)

    async def _as_thread(self, call: Coroutine[Any, Any, T]) -> T:
        self._struck()
        if not self.alive and not self.world.engine.closing:
            call.close()
            raise ESRCH
        self._calls += 1
        try:
            return await call
        finally:
            self._calls -= 1
            if not self.alive:
                self._threads_gone.wake_up()
