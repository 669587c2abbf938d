"""The frame of a drm_gpuvm: its address range, its tree, its reference count (vm_bind sections 1, 2, 8.1).

Two styles of use.  *Staged*: the tree is changed inside the bind ioctl and is ahead of the page tables;
the object lists are protected by the object's reservation.  *Immediate*: the tree is changed by
``run_job()``, inside the fence-signalling section, and agrees with the page tables at all times; the
object lists have a mutex of their own, and nothing may be allocated or reserved there.

Besides, either the VM's reservation protects the list of external objects and the evict list
(RESV_PROTECTED), or each of them has a spinlock.

Simplified: an address is a Python number, so "overflow" means beyond 64 bits; a range of no length is
refused.  Tree changes are no ops: whatever lock of the driver makes them exclusive is an op already.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.gpuvm_gem import GPUVA_LOCK, GemObject
from svm_actors.drm.gpuvm_lists import VmBoList
from svm_actors.drm.gpuvm_ops import GpuvaOps, Op
from svm_actors.drm.gpuvm_va import DrmGpuva, VaTree
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EINVAL, PropertyFailed
from svm_actors.engine.lockdep import FENCE_MAP
from svm_actors.engine.locks import Mutex, RwSem

if TYPE_CHECKING:
    from svm_actors.drm.exec import DrmExec
    from svm_actors.drm.gpuvm import DrmGpuvm
    from svm_actors.drm.gpuvm_bo import DrmGpuvmBo
    from svm_actors.drm.gpuvm_ops import OpMap, OpRemap, OpUnmap

__all__ = ["DrmGpuvmBase", "GpuvmFlags", "GpuvmOps"]

ADDRESS_LIMIT = 1 << 64


class GpuvmFlags(enum.Flag):
    """drm_gpuvm_flags."""

    NONE = 0
    RESV_PROTECTED = enum.auto()
    """vm.resv protects the extobj and evict lists; otherwise each has a spinlock."""
    IMMEDIATE_MODE = enum.auto()
    """The tree follows the page tables; obj.gpuva.lock protects the object lists."""


@attrs.frozen
class GpuvmOps:
    """drm_gpuvm_ops: what the driver brings; each may be missing."""

    vm_free: Callable[[DrmGpuvm], None] | None = None
    """The last reference to the VM is gone."""
    vm_bo_alloc: Callable[[DrmGpuvm, GemObject], DrmGpuvmBo] | None = None
    """Make a gpu_vm_bo of the driver's own class."""
    vm_bo_free: Callable[[DrmGpuvmBo], None] | None = None
    """A gpu_vm_bo is gone."""
    vm_bo_validate: Callable[[DrmGpuvmBo, DrmExec], Awaitable[None]] | None = None
    """Make an evicted object resident; clears ``evicted`` when it has done so."""
    sm_step_map: Callable[[OpMap, Any], Awaitable[None]] | None = None
    """Carry out one operation of an immediate-mode walk; so do the next two."""
    sm_step_remap: Callable[[OpRemap, Any], Awaitable[None]] | None = None
    """The same for a vma that is cut."""
    sm_step_unmap: Callable[[OpUnmap, Any], Awaitable[None]] | None = None
    """The same for a vma that goes away."""


class DrmGpuvmBase:
    """Range, tree, references, and which lock protects what."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        r_obj: GemObject,
        *,
        range_: int,
        start: int = 0,
        reserve: tuple[int, int] = (0, 0),
        flags: GpuvmFlags = GpuvmFlags.RESV_PROTECTED,
        ops: GpuvmOps | None = None,
        memory: FenceMemory | None = None,
    ) -> None:
        """drm_gpuvm_init.  ``r_obj`` lends its reservation; ``reserve`` (address, length) is the kernel's own."""
        if start < 0 or range_ <= 0 or start + range_ > ADDRESS_LIMIT:
            raise EINVAL
        self.engine = engine
        self.name = name
        self.r_obj = r_obj
        r_obj.get()
        self.mm_start = start
        self.mm_range = range_
        self.reserve = reserve
        self.flags = flags
        self.ops = ops or GpuvmOps()
        self.memory = memory
        """Where failing allocations come from."""
        self.refs = 1
        self.tree = VaTree()
        self.generation = 0
        """Grows with every change of the tree."""
        self.driver_lock: Mutex | RwSem | None = None
        self.extobj = VmBoList(engine, f"{name}.extobj", self.resv, spin=not self.resv_protected)
        """External objects mapped here."""
        self.evicted = VmBoList(engine, f"{name}.evict", self.resv, spin=not self.resv_protected)
        """Objects to be made resident before the next job."""
        self._applied: GpuvaOps | None = None
        """The last op list that changed the tree; for the window event of VMB-R29 only."""
        if self.immediate:
            engine.lockdep.declare(FENCE_MAP, GPUVA_LOCK)

    # -- modes and locks ---------------------------------------------------------------

    @property
    def resv(self) -> DmaResv:
        """drm_gpuvm_resv: shared with every local object."""
        return self.r_obj.resv

    @property
    def resv_protected(self) -> bool:
        """drm_gpuvm_resv_protected."""
        return GpuvmFlags.RESV_PROTECTED in self.flags

    @property
    def immediate(self) -> bool:
        """drm_gpuvm_immediate_mode."""
        return GpuvmFlags.IMMEDIATE_MODE in self.flags

    def driver_set_lock(self, lock: Mutex | RwSem) -> None:
        """Name the driver's vm.lock: binds hold it for write, execs at least for read; it is checked from now on."""
        self.driver_lock = lock

    def holds_driver_lock(self) -> bool:
        """True when the running thread may change the VM, as far as the driver has named its lock."""
        lock = self.driver_lock
        if lock is None:
            return True
        return lock.held_for_write() if isinstance(lock, RwSem) else lock.held_by_me()

    def gpuva_lock(self, obj: GemObject) -> Mutex | Any:
        """What protects the object's lists: its mutex in immediate mode, else its reservation."""
        return obj.gpuva.lock if self.immediate else obj.resv.ww

    def assert_gpuva_lock(self, obj: GemObject, doing: str) -> None:
        """drm_gem_gpuva_assert_lock_held."""
        self.require(self.gpuva_lock(obj).held_by_me(), "INV-VMB-05", f"{doing} without the gpuva lock of {obj.name}")

    def require(self, holds: bool, rule: str, text: str) -> None:
        """What a driver must see to; PropertyFailed when it has not."""
        if not holds and not self.engine.closing:
            raise PropertyFailed("gpuvm", rule, f"{self.name}: {text}")

    def is_extobj(self, obj: GemObject) -> bool:
        """drm_gpuvm_is_extobj: the definition of an external object (vm_bind section 1)."""
        return obj.resv is not self.resv

    # -- references --------------------------------------------------------------------

    def get(self) -> DrmGpuvmBase:
        """drm_gpuvm_get."""
        self.require(self.refs > 0, "INV-VMB-07", "a reference is taken on a VM that is freed")
        self.refs += 1
        return self

    async def put(self) -> None:
        """drm_gpuvm_put."""
        await self.engine.step("put", self)
        self.put_now()

    def put_now(self) -> None:
        """The same as part of another step."""
        self.refs -= 1
        self.require(self.refs >= 0, "INV-VMB-07", "the VM is put more often than it was taken")
        if not self.refs:
            self._fini()

    def _fini(self) -> None:
        """drm_gpuvm_free and drm_gpuvm_fini: nothing may be left in it."""
        self.require(not len(self.tree), "INV-VMB-07", f"freed with {len(self.tree)} mappings left")
        for which in (self.extobj, self.evicted):
            self.require(not len(which), "INV-VMB-07", f"freed with {len(which)} objects on {which.name}")
        if self.ops.vm_free is not None:
            self.ops.vm_free(self)  # type: ignore[arg-type]  # the driver's VM is always the whole class
        self.r_obj.put_now()

    # -- ranges ------------------------------------------------------------------------

    def range_valid(self, addr: int, range_: int) -> bool:
        """drm_gpuvm_range_valid: inside the VM, clear of the kernel's own node, no overflow."""
        end = addr + range_
        if addr < 0 or range_ <= 0 or end > ADDRESS_LIMIT:
            return False
        if addr < self.mm_start or end > self.mm_start + self.mm_range:
            return False
        own, length = self.reserve
        return not (length and addr < own + length and end > own)

    def check_range(self, addr: int, range_: int) -> None:
        """-EINVAL unless valid."""
        if not self.range_valid(addr, range_):
            raise EINVAL

    def interval_empty(self, addr: int, range_: int) -> bool:
        """drm_gpuvm_interval_empty."""
        return self.tree.find_first(addr, range_) is None

    # -- op lists and the tree (VMB-R29) -------------------------------------------------

    def new_ops(self, start: int, end: int) -> GpuvaOps:
        """A list, still empty, for a request on [start, end) against the tree as it is."""
        if self._applied is not None and self._applied.has_touched(start, end):
            self.engine.count("VMB-R29")
        return self.look_ops()

    def look_ops(self) -> GpuvaOps:
        """The same for operations that are only looked at."""
        return GpuvaOps(self, self.generation)

    def ops_are_current(self, op: Op) -> None:
        """VMB-R29: an operation is only good for the tree it was made for.

        Apply a list, or discard it, before asking for the next one.
        """
        owner = op.owner
        self.require(owner is None or owner.current, "VMB-R29", f"{op} comes from a list that is older than the tree")

    def va_insert(self, va: DrmGpuva, op: Op | None = None) -> None:
        """drm_gpuva_insert, as part of ``op`` if given.  -EINVAL outside the VM, -EEXIST on overlap."""
        self._may_change(op)
        self.check_range(va.addr, va.range)
        self.tree.insert(va)
        va.vm = self
        self.get()
        self._changed(va, op)

    def va_remove(self, va: DrmGpuva, op: Op | None = None) -> None:
        """drm_gpuva_remove, as part of ``op`` if given."""
        self._may_change(op)
        self.tree.remove(va)
        self._changed(va, op)
        self.put_now()

    def _may_change(self, op: Op | None) -> None:
        if not self.immediate:
            self.require(self.holds_driver_lock(), "INV-VMB-05", "the tree is changed without the driver's lock")
        if op is not None:
            self.ops_are_current(op)

    def _changed(self, va: DrmGpuva, op: Op | None) -> None:
        self.generation += 1
        if op is not None and op.owner is not None:
            op.owner.applied(va.addr, va.end)
            self._applied = op.owner
