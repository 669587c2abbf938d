"""The core MM actor: one per machine, owner of every address space.

It only routes: each message type has one coroutine in the file named after its kernel
counterpart, and each request runs as a task of its own on the caller's thread.
"""

from __future__ import annotations

from svm_actors.engine.actor import Actor
from svm_actors.engine.engine import Engine
from svm_actors.engine.signalling import prime
from svm_actors.mm import (
    exclusive,
    fork,
    hmm,
    madvise,
    memory,
    migrate_device,
    mlock,
    mmap,
    mprotect,
    mremap,
    oom_kill,
    swap,
)
from svm_actors.mm import messages as m
from svm_actors.mm.constants import RW
from svm_actors.mm.exit import exit_mmap
from svm_actors.mm.lru import LruBatch
from svm_actors.mm.migrate_types import MigratePfn
from svm_actors.mm.mm_struct import Mm
from svm_actors.mm.page_alloc import PageAllocator
from svm_actors.mm.rmap import AnonVma

LOCK_ORDER = ("mmap_lock", "folio_lock", "anon_vma")
"""core_mm section 2, outermost first; the page-table lock is the atomic section itself."""


class CoreMm(Actor):
    """Serves system calls, CPU faults and the drivers' requests."""

    def __init__(self, engine: Engine, allocator: PageAllocator, name: str = "core_mm") -> None:
        super().__init__(engine, name)
        self.allocator = allocator
        self.swap = swap.Swap()
        self.lru = LruBatch(engine)
        self.mms: dict[str, Mm] = {}
        """Address spaces alive, in order of creation."""
        self.heap_prot = RW
        self._names: dict[str, int] = {}
        engine.lockdep.declare(*LOCK_ORDER)
        prime(engine)
        self._route_system_calls()
        self._route_drivers()

    def _route_system_calls(self) -> None:
        self.handle(m.Mmap, lambda message: mmap.mmap(self, message))
        self.handle(m.Munmap, lambda message: mmap.munmap(self, message))
        self.handle(m.Brk, lambda message: mmap.brk(self, message))
        self.handle(m.Mremap, lambda message: mremap.mremap(self, message))
        self.handle(m.Mprotect, lambda message: mprotect.mprotect(self, message))
        self.handle(m.Mlock, lambda message: mlock.mlock(self, message))
        self.handle(m.Munlock, lambda message: mlock.munlock(self, message))
        self.handle(m.Madvise, lambda message: madvise.madvise(self, message))
        self.handle(m.Fork, lambda message: fork.fork(self, message))
        self.handle(m.CpuFault, self._cpu_fault)
        self.handle(m.ReclaimPages, self._reclaim)
        self.handle(m.OomReap, lambda message: oom_kill.oom_reap_task_mm(self, message.mm))

    def _route_drivers(self) -> None:
        self.handle(m.IntervalNotifierInsert, self._notifier_insert)
        self.handle(m.IntervalNotifierRemove, self._notifier_remove)
        self.handle(m.NotifierRegister, lambda message: message.mm.subscriptions.register(message.notifier, message.mm))
        self.handle(m.HmmRangeFault, lambda message: hmm.hmm_range_fault(self, message.range))
        self.handle(m.HmmRangeFaultUnlocked, self._hmm_unlocked)
        self.handle(m.MigrateVmaSetup, lambda message: migrate_device.migrate_vma_setup(self, message.args))
        self.handle(m.MigrateVmaPages, lambda message: migrate_device.migrate_vma_pages(self, message.args))
        self.handle(m.MigrateVmaFinalize, lambda message: migrate_device.migrate_vma_finalize(self, message.args))
        self.handle(m.MigrateDevicePfns, self._device_pfns)
        self.handle(m.MigrateDevicePages, self._device_pages)
        self.handle(m.MigrateDeviceFinalize, self._device_finalize)
        self.handle(m.MakeDeviceExclusive, lambda message: exclusive.make_device_exclusive(self, message))

    # -- objects ---------------------------------------------------------------------

    def new_name(self, stem: str) -> str:
        """A fresh name, numbered in order of creation."""
        number = self._names.get(stem, 0)
        self._names[stem] = number + 1
        return f"{stem}{number}"

    def new_mm(self, name: str) -> Mm:
        """An empty address space with one user."""
        mm = self.engine.parts.of(Mm)(self.engine, name, self)
        self.mms[name] = mm
        return mm

    def new_anon_vma(self, root: AnonVma | None = None) -> AnonVma:
        """A fresh anon_vma, or one in the fork tree of another."""
        return self.engine.parts.of(AnonVma)(self, self.new_name("anon_vma"), root)

    async def exit_mmap(self, mm: Mm) -> None:
        """Called by the last mmput, in its thread."""
        await exit_mmap(self, mm)

    # -- handlers that unpack their message --------------------------------------------

    async def _cpu_fault(self, message: m.CpuFault) -> None:
        await memory.do_user_addr_fault(self, message.mm, message.vpn, message.write)

    async def _reclaim(self, message: m.ReclaimPages) -> int:
        return await swap.reclaim_pages(self, message.mm, message.start, message.end)

    async def _notifier_insert(self, message: m.IntervalNotifierInsert) -> None:
        mm = message.mm
        await mm.subscriptions.insert(message.notifier, mm, message.start, message.npages)

    async def _notifier_remove(self, message: m.IntervalNotifierRemove) -> None:
        mm = message.notifier.mm
        assert mm is not None
        await mm.subscriptions.remove(message.notifier)

    async def _hmm_unlocked(self, message: m.HmmRangeFaultUnlocked) -> None:
        await hmm.hmm_range_fault_unlocked(self, message.range, message.timeout)

    async def _device_pfns(self, message: m.MigrateDevicePfns) -> list[MigratePfn]:
        return await migrate_device.migrate_device_pfns(self, message.pgmap, message.pfns)

    async def _device_pages(self, message: m.MigrateDevicePages) -> None:
        await migrate_device.migrate_device_pages(self, message.src, message.dst)

    async def _device_finalize(self, message: m.MigrateDeviceFinalize) -> None:
        await migrate_device.migrate_device_finalize(self, message.src, message.dst)

    def statistics(self) -> dict[str, int]:
        """What is alive; all zero after a clean teardown but for page-cache pages of kept files."""
        return {"mms": len(self.mms), "ram": len(self.allocator.live), "swap": len(self.swap.live)}

