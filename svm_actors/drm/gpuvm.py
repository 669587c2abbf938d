"""drm_gpuvm: one GPU virtual address space (vm_bind sections 1, 4 and 8).

This file makes op lists and carries them out.  The layers below it:
:mod:`gpuvm_base` (range, tree, references), :mod:`gpuvm_bo` (VM and object pairs), :mod:`gpuvm_evict`
(external objects, eviction), :mod:`gpuvm_exec` (locking), and beside them :mod:`gpuvm_split` (the rule),
:mod:`gpuvm_ops` (operations), :mod:`gpuvm_va` (mappings), :mod:`gpuvm_lists`.

Two ways to carry out a request: take the whole list and apply it (``*_ops_create``), or let the walk call
the driver for each operation (:meth:`DrmGpuvm.sm_map`), which then changes the tree as it goes.

Simplified: a DrmGpuvm is no actor.  It is a shared kernel object as a reservation is: it has no thread of
its own, everything runs on the caller's, under the caller's locks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from svm_actors.drm.gpuvm_base import DrmGpuvmBase, GpuvmFlags, GpuvmOps
from svm_actors.drm.gpuvm_bo import DrmGpuvmBo
from svm_actors.drm.gpuvm_evict import gem_evict
from svm_actors.drm.gpuvm_exec import DrmGpuvmExec, GpuvmExec
from svm_actors.drm.gpuvm_gem import DrmGemObject, GemGpuva, GemObject
from svm_actors.drm.gpuvm_ops import GpuvaOps, Op, OpMap, OpPrefetch, OpRemap, OpUnmap
from svm_actors.drm.gpuvm_split import split_bo, split_madvise, split_map, split_prefetch, split_unmap
from svm_actors.drm.gpuvm_va import DrmGpuva, GpuvaFlags
from svm_actors.engine.errors import EINVAL, PropertyFailed

__all__ = [
    "DrmGemObject",
    "DrmGpuva",
    "DrmGpuvm",
    "DrmGpuvmBase",
    "DrmGpuvmBo",
    "DrmGpuvmExec",
    "GemGpuva",
    "GemObject",
    "GpuvaFlags",
    "GpuvaOps",
    "GpuvmFlags",
    "GpuvmOps",
    "Op",
    "OpMap",
    "OpPrefetch",
    "OpRemap",
    "OpUnmap",
    "gem_evict",
]


class DrmGpuvm(GpuvmExec):
    """The VM a driver embeds."""

    # -- op lists ------------------------------------------------------------------------

    def sm_map_ops_create(self, request: OpMap) -> GpuvaOps:
        """drm_gpuvm_sm_map_ops_create.  -EINVAL for a bad range; all lists: until the tree changes (VMB-R29)."""
        self.check_range(request.addr, request.range)
        ops = self.new_ops(request.addr, request.end)
        return self._fill(ops, split_map(self.tree, request, ops))

    def sm_unmap_ops_create(self, addr: int, range_: int) -> GpuvaOps:
        """drm_gpuvm_sm_unmap_ops_create; a hole gives an empty list.  -EINVAL."""
        self.check_range(addr, range_)
        ops = self.new_ops(addr, addr + range_)
        return self._fill(ops, split_unmap(self.tree, addr, addr + range_, ops))

    def madvise_ops_create(self, request: OpMap) -> GpuvaOps:
        """drm_gpuvm_madvise_ops_create: cut at both ends, for attributes of the part inside.  -EINVAL.

        The driver copies attributes to a map from the vma of the remap right before it.
        """
        self.check_range(request.addr, request.range)
        ops = self.new_ops(request.addr, request.end)
        return self._fill(ops, split_madvise(self.tree, request.addr, request.end, ops))

    def prefetch_ops_create(self, addr: int, range_: int) -> GpuvaOps:
        """drm_gpuvm_prefetch_ops_create."""
        ops = self.new_ops(addr, addr + range_)
        return self._fill(ops, split_prefetch(self.tree, addr, addr + range_, ops))

    def bo_unmap_ops_create(self, vm_bo: DrmGpuvmBo) -> GpuvaOps:
        """drm_gpuvm_bo_unmap_ops_create: every mapping of one object; under the gpuva lock."""
        self.assert_gpuva_lock(vm_bo.obj, "the object's mappings are walked")
        ops = self.look_ops()
        return self._fill(ops, split_bo(vm_bo.vas, ops))

    def _fill(self, ops: GpuvaOps, made: Iterable[Op]) -> GpuvaOps:
        ops.ops.extend(made)
        return ops

    # -- carrying out an operation -----------------------------------------------------------

    def va_map(self, va: DrmGpuva, op: OpMap) -> None:
        """drm_gpuva_map."""
        va.init_from_op(op)
        self.va_insert(va, op)

    def va_remap(self, prev: DrmGpuva | None, after: DrmGpuva | None, op: OpRemap) -> None:
        """drm_gpuva_remap: the old vma goes, what stays of it is inserted as new ones.

        A vma for each piece that stays has to be there (VMB-B30: a cut in the middle needs two).
        """
        self.va_remove(op.unmap.va, op)
        for va, piece in ((prev, op.prev), (after, op.next)):
            if piece is not None:
                if va is None:
                    raise PropertyFailed("gpuvm", "VMB-B30", f"{self.name}: no vma for {piece}, which stays")
                self.va_map(va, piece)

    def va_unmap(self, op: OpUnmap) -> None:
        """drm_gpuva_unmap."""
        self.va_remove(op.va, op)

    # -- immediate mode ----------------------------------------------------------------------

    async def sm_map(self, request: OpMap, priv: Any = None) -> None:
        """drm_gpuvm_sm_map: one callback per operation; an error ends the walk.  -EINVAL."""
        self._check_steps()
        self.check_range(request.addr, request.range)
        ops = self.new_ops(request.addr, request.end)
        await self._walk(split_map(self.tree, request, ops), priv)

    async def sm_unmap(self, addr: int, range_: int, priv: Any = None) -> None:
        """drm_gpuvm_sm_unmap.  -EINVAL."""
        self._check_steps()
        self.check_range(addr, range_)
        ops = self.new_ops(addr, addr + range_)
        await self._walk(split_unmap(self.tree, addr, addr + range_, ops), priv)

    def _check_steps(self) -> None:
        if None in (self.ops.sm_step_map, self.ops.sm_step_remap, self.ops.sm_step_unmap):
            raise EINVAL

    async def _walk(self, made: Iterator[Op], priv: Any) -> None:
        steps = self.ops
        assert steps.sm_step_map is not None
        assert steps.sm_step_remap is not None
        assert steps.sm_step_unmap is not None
        for op in made:
            if isinstance(op, OpMap):
                await steps.sm_step_map(op, priv)
            elif isinstance(op, OpRemap):
                await steps.sm_step_remap(op, priv)
            elif isinstance(op, OpUnmap):
                await steps.sm_step_unmap(op, priv)

    # -- looking -----------------------------------------------------------------------------

    def va_find(self, addr: int, range_: int) -> DrmGpuva | None:
        """drm_gpuva_find: of exactly this range."""
        return self.tree.find(addr, range_)

    def va_find_first(self, addr: int, range_: int) -> DrmGpuva | None:
        """drm_gpuva_find_first: the lowest that overlaps."""
        return self.tree.find_first(addr, range_)

    def va_find_prev(self, start: int) -> DrmGpuva | None:
        """drm_gpuva_find_prev: the one that ends at ``start``."""
        return self.tree.find_first(start - 1, 1) if self.range_valid(start - 1, 1) else None

    def va_find_next(self, end: int) -> DrmGpuva | None:
        """drm_gpuva_find_next: the one that begins at ``end``."""
        return self.tree.find_first(end, 1) if self.range_valid(end, 1) else None

    def statistics(self) -> dict[str, int]:
        """All 0 when everything has been taken down."""
        return {
            "vas": len(self.tree),
            "vm_bos": self.live_bos,
            "extobj": len(self.extobj),
            "evicted": len(self.evicted),
            "deferred": len(self.bo_defer),
        }
