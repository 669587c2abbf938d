"""Deviations of merged fences, timelines and syncobjs (fences_and_scheduler 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.dma_buf.fence import MAX_SCHEDULE_TIMEOUT, Fence
from svm_actors.dma_buf.fence_chain import FenceChain, find_seqno
from svm_actors.dma_buf.seqno import is_later, same_context
from svm_actors.dma_buf.unwrap import deduplicate
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_file import SyncobjFile
from svm_actors.drm.syncobj_wait import NO_FLAGS, WaitFlags, wait_array
from svm_actors.engine.errors import EINVAL

Deduplicate = Callable[[Sequence[Fence]], list[Fence]]


def neighbours_only(_original: Deduplicate) -> Deduplicate:
    """Compares each fence with the one before it, as if they came sorted."""

    def deduplicated(fences: Sequence[Fence]) -> list[Fence]:
        kept: list[Fence] = []
        for fence in fences:
            if not kept or not same_context(kept[-1], fence):
                kept.append(fence)
            elif is_later(fence, kept[-1]):
                kept[-1] = fence
        return kept

    return deduplicated


def plain_store(chain: FenceChain, _expected: Fence, replacement: Fence | None) -> bool:
    """Nobody else drops it, as it seems."""
    chain.prev = replacement
    return True


def nothing_found(syncobj: Syncobj, point: int) -> Fence:
    """A point that is done and collected counts as one that was never submitted."""
    fence = syncobj.fence_get()
    if fence is None:
        raise EINVAL
    try:
        found = find_seqno(fence, point)
    except EINVAL:
        fence.put()
        raise
    if found is None:
        raise EINVAL
    return found


async def drops_them_first(
    file: SyncobjFile,
    handles: Sequence[int],
    points: Sequence[int] | None = None,
    flags: WaitFlags = NO_FLAGS,
    timeout: int = MAX_SCHEDULE_TIMEOUT,
    deadline: int | None = None,
) -> tuple[int, int]:
    """The handles keep them alive, as it seems."""
    syncobjs = await file._find_all(handles)
    for syncobj in syncobjs:
        syncobj.put()
    return await wait_array(file.engine, syncobjs, points, flags, timeout, deadline)


FEN_B06 = Bug(
    id="FEN-B06",
    title="merged fences are compared with their neighbours only, so several of one timeline stay",
    removes="unwrap.deduplicate",
    races=(),
    oracles=("caller/FEN-B06",),
    story="fence-merged-over-and-over",
    plant=replace_part(deduplicate, neighbours_only),
)

FEN_R08 = Bug(
    id="FEN-R08",
    title="two walkers of a timeline drop one node each for itself",
    removes="FenceChain.replace_prev",
    races=("FEN-R08",),
    oracles=("lifetime/FEN-R05", "leaks/INV-FEN-10"),
    story="fence-chain-two-walkers",
    plant=replace_guard(FenceChain, "replace_prev", plain_store),
)

FEN_B28 = Bug(
    id="FEN-B28",
    title="a point of a timeline that is done and collected cannot be looked up",
    removes="Syncobj.lookup_point",
    races=("FEN-R32",),
    oracles=("scenario/EINVAL",),
    story="syncobj-point-collected",
    plant=replace_guard(Syncobj, "lookup_point", nothing_found),
)

FEN_R32 = Bug(
    id="FEN-R32",
    title="a wait for a syncobj drops its reference before it sleeps, and the handle is closed",
    removes="SyncobjFile.wait",
    races=("FEN-R32",),
    oracles=("lifetime/FEN-R32",),
    story="syncobj-closed-under-waiter",
    plant=replace_guard(SyncobjFile, "wait", drops_them_first),
)
