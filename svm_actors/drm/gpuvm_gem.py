"""What drm_gpuvm needs of a buffer object, and the part of it that gpuvm owns (vm_bind sections 1 and 2).

Object list order: object, its gpu_vm_bos, their gpu_vmas.  The lists are protected by the object's *gpuva
lock*: the reservation in staged mode, the mutex ``gpuva.lock`` in immediate mode, where ``run_job()``
must be able to take it; so nothing may be allocated while that mutex is held.

Drivers bring their own buffer object; :class:`DrmGemObject` is the plainest one, and what the resv object
of a VM is made of.

Simplified: a reference count is a number and its drop an op only where two drops race
(:mod:`svm_actors.drm.gpuvm_bo`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.locks import Mutex

if TYPE_CHECKING:
    from svm_actors.dma_buf.resv import DmaResv
    from svm_actors.drm.gpuvm_bo import DrmGpuvmBo

GPUVA_LOCK = "gpuva_lock"
"""Lock class of ``obj.gpuva.lock``."""


class GemObject(Protocol):
    """A buffer object that can be mapped."""

    name: str
    resv: DmaResv
    """Shared with the VM for a local object, its own for an external one."""
    gpuva: GemGpuva

    def get(self) -> object:
        """Take a reference."""

    def put_now(self) -> None:
        """Drop one, in a context that may sleep; the caller has announced it."""


class GemGpuva:
    """drm_gem_object.gpuva: in which VMs the object is mapped."""

    __slots__ = ("bos", "lock", "name")

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.lock = Mutex(engine, f"{name}.gpuva", GPUVA_LOCK)
        """Protects the lists in immediate mode."""
        self.bos: dict[DrmGpuvmBo, None] = {}
        """One gpu_vm_bo per VM, in order of creation."""

    def fini(self) -> None:
        """The object is about to be freed: nobody may hold its mutex (VMB-R31), no VM may know it."""
        if self.lock.holders():
            holders = ", ".join(thread.name for thread in self.lock.holders())
            raise PropertyFailed("lifetime", "VMB-R31", f"{self.name} is freed while {holders} holds {self.lock.name}")
        if self.bos:
            raise PropertyFailed("lifetime", "INV-VMB-07", f"{self.name} is freed but mapped in {len(self.bos)} VMs")


class DrmGemObject:
    """A buffer object with nothing in it."""

    def __init__(self, engine: Engine, name: str, resv: DmaResv) -> None:
        self.engine = engine
        self.name = name
        self.resv = resv
        self.gpuva = GemGpuva(engine, name)
        self.refs = 1
        """Whoever made it holds one."""

    def get(self) -> DrmGemObject:
        """drm_gem_object_get."""
        if self.refs <= 0:
            raise PropertyFailed("lifetime", "INV-VMB-07", f"reference taken on {self.name}, which is freed")
        self.refs += 1
        return self

    async def put(self) -> None:
        """drm_gem_object_put."""
        await self.engine.step("put", self)
        self.put_now()

    def put_now(self) -> None:
        """The same where the drop has been announced."""
        self.refs -= 1
        if self.refs < 0:
            raise PropertyFailed("lifetime", "INV-VMB-07", f"{self.name} is put more often than it was taken")
        if not self.refs:
            self.gpuva.fini()
            self.free()

    def free(self) -> None:
        """The last reference is gone; drivers release the memory here."""

    def __repr__(self) -> str:
        return f"<{self.name} refs={self.refs}>"
