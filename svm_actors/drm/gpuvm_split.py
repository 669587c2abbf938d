"""The split and merge rule of drm_gpuvm (vm_bind sections 8.1 to 8.4).

Plain generators over the tree: they change nothing, and go on safely while the vma behind the operation
last given is taken out or cut.  Neighbours are never merged; "merge" is only the keep hint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from svm_actors.drm.gpuvm_ops import GpuvaOps, Op, OpMap, OpPrefetch, OpRemap, OpUnmap
from svm_actors.drm.gpuvm_va import DrmGpuva, VaTree

__all__ = ["split_bo", "split_madvise", "split_map", "split_prefetch", "split_unmap"]


def split_map(tree: VaTree, request: OpMap, owner: GpuvaOps) -> Iterator[Op]:
    """Any number of unmaps, at most two remaps, then the one map."""
    for va in tree.overlapping(request.addr, request.end):
        yield cut(va, request.addr, request.end, same_bytes(va, request), owner)
    yield OpMap(request.addr, request.range, request.obj, request.offset, owner=owner)


def split_unmap(tree: VaTree, addr: int, end: int, owner: GpuvaOps) -> Iterator[Op]:
    """The same without a map; nothing may stay."""
    for va in tree.overlapping(addr, end):
        yield cut(va, addr, end, False, owner)


def split_madvise(tree: VaTree, addr: int, end: int, owner: GpuvaOps) -> Iterator[Op]:
    """Cut the vmas without an object at both ends of [addr, end), so that each lies inside it or outside.

    A map of the part inside follows each remap; no address changes its translation (INV-VMB-15).
    """
    for va in tree.overlapping(addr, end):
        if va.obj is not None:
            continue
        op = cut(va, addr, end, False, owner)
        if isinstance(op, OpRemap):
            start, stop = op.unmapped()
            yield op
            yield OpMap(start, stop - start, owner=owner)


def split_prefetch(tree: VaTree, addr: int, end: int, owner: GpuvaOps) -> Iterator[Op]:
    """Every vma that overlaps, whole."""
    for va in tree.overlapping(addr, end):
        yield OpPrefetch(va, owner=owner)


def split_bo(vas: Iterable[DrmGpuva], owner: GpuvaOps) -> Iterator[Op]:
    """Every mapping of one object goes."""
    for va in vas:
        yield OpUnmap(va, owner=owner)


def cut(va: DrmGpuva, addr: int, end: int, keep: bool, owner: GpuvaOps) -> OpUnmap | OpRemap:
    """What becomes of a vma that [addr, end) reaches into."""
    unmap = OpUnmap(va, keep, owner=owner)
    prev = OpMap(va.addr, addr - va.addr, va.obj, va.offset, owner=owner) if va.addr < addr else None
    after = OpMap(end, va.end - end, va.obj, va.offset + end - va.addr, owner=owner) if va.end > end else None
    return unmap if prev is None and after is None else OpRemap(unmap, prev, after, owner=owner)


def same_bytes(va: DrmGpuva, request: OpMap) -> bool:
    """The keep hint: both map an object, the same one, and each address to the same byte of it."""
    return va.obj is not None and va.obj is request.obj and va.offset - va.addr == request.offset - request.addr
