"""The two lists of gpu_vm_bos that a VM keeps: external objects and evicted ones (vm_bind section 4.3).

RESV_PROTECTED: the VM's reservation protects a list, for a whole walk.  Otherwise a spinlock does, which
cannot be held while an object is locked, so such a walk pops one entry at a time: moved to a private
list, with a reference unless it is dead already, processed without the spinlock, and in the end the
private list goes back in front.  Adding and removing may go on meanwhile, and an entry on the private
list can be removed too; a second walk of the same list may not begin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import SpinLock

if TYPE_CHECKING:
    from svm_actors.drm.gpuvm_bo import DrmGpuvmBo

__all__ = ["PopOne", "VmBoList"]


class VmBoList:
    """``vm.extobj`` or ``vm.evict``."""

    def __init__(self, engine: Engine, name: str, resv: DmaResv, *, spin: bool) -> None:
        self.engine = engine
        self.name = name
        self.resv = resv
        self.lock = SpinLock(engine, f"{name}.lock", "gpuvm_list") if spin else None
        """None: vm.resv protects the list."""
        self.entries: dict[DrmGpuvmBo, None] = {}
        """In order of addition."""
        self.private: dict[DrmGpuvmBo, None] = {}
        """Entries the current walk has behind it."""
        self.walker: PopOne | None = None

    def __len__(self) -> int:
        return len(self.entries) + len(self.private)

    def __contains__(self, vm_bo: DrmGpuvmBo) -> bool:
        return vm_bo in self.entries or vm_bo in self.private

    def __iter__(self) -> Iterator[DrmGpuvmBo]:
        """Everything listed, in the order a walk would leave behind."""
        return iter((*self.private, *self.entries))

    async def add(self, vm_bo: DrmGpuvmBo) -> None:
        """Put it at the end; nothing happens when it is listed already."""
        if self.lock is None:
            self.assert_protected()
            self._add(vm_bo)
        else:
            async with self.lock:
                self._add(vm_bo)

    async def remove(self, vm_bo: DrmGpuvmBo) -> None:
        """Take it off, wherever it is; nothing happens when it is not listed."""
        if self.lock is None:
            self.assert_protected()
            self._remove(vm_bo)
        else:
            async with self.lock:
                self._remove(vm_bo)

    def _add(self, vm_bo: DrmGpuvmBo) -> None:
        if vm_bo not in self:
            self.entries[vm_bo] = None

    def _remove(self, vm_bo: DrmGpuvmBo) -> None:
        self.entries.pop(vm_bo, None)
        self.private.pop(vm_bo, None)

    def assert_protected(self) -> None:
        """A list without a spinlock is only touched under vm.resv (VMB-R06)."""
        if not self.resv.ww.held_by_me() and not self.engine.closing:
            task = self.engine.current
            raise PropertyFailed("gpuvm", "VMB-R06", f"{task} touches {self.name} without {self.resv.ww.name}")

    def protected(self) -> Iterator[DrmGpuvmBo]:
        """A walk under vm.resv; whoever does it may remove entries, those added meanwhile are not visited."""
        self.assert_protected()
        for vm_bo in [*self.entries]:
            if vm_bo in self.entries:
                self.assert_protected()
                yield vm_bo


class PopOne:
    """A walk of a list with a spinlock; :meth:`finish` ends it, whatever happened.

    ``put`` drops the reference that a step of the walk holds.
    """

    def __init__(self, which: VmBoList, put: Callable[[DrmGpuvmBo], Awaitable[None]]) -> None:
        self.which = which
        self._put = put
        self._held: DrmGpuvmBo | None = None

    async def next(self) -> DrmGpuvmBo | None:
        """The next entry that lives, referenced until the next call; None after the last."""
        await self._drop()
        which = self.which
        assert which.lock is not None
        async with which.lock:
            self._begin()
            while which.entries:
                vm_bo = next(iter(which.entries))
                del which.entries[vm_bo]
                if self.hold(vm_bo):
                    which.private[vm_bo] = None
                    self._held = vm_bo
                    return vm_bo
                which.engine.count("gpuvm.dead_skipped")
        return None

    def hold(self, vm_bo: DrmGpuvmBo) -> bool:
        """VMB-B38: a reference for as long as the walk is there, unless it is dead already."""
        return vm_bo.get_unless_zero()

    def _begin(self) -> None:
        if self.which.walker not in (None, self):
            raise PropertyFailed("gpuvm", "VMB-R06", f"two walks of {self.which.name} at the same time")
        self.which.walker = self

    async def finish(self) -> None:
        """Put the entries back in front, those removed meanwhile excepted."""
        await self._drop()
        which = self.which
        assert which.lock is not None
        async with which.lock:
            if which.walker is self:
                which.entries = {**which.private, **which.entries}
                which.private = {}
                which.walker = None

    async def _drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._put(held)
