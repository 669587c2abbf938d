"""Deviations of fences: who is called, when they are done, when they are freed (fences_and_scheduler 1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.dma_buf.fence import Fence, FenceCallback, FenceCb
from svm_actors.dma_buf.fence_array import FenceArray
from svm_actors.dma_buf.fence_memory import FenceMemory
from svm_actors.dma_buf.fence_wait import add_callback
from svm_actors.engine.errors import ENOENT

AddCallback = Callable[[Fence, FenceCallback | FenceCb], Awaitable[FenceCb]]


def tests_once(_original: AddCallback) -> AddCallback:
    """The flag is tested, then the lock taken and the callback queued."""

    async def add(fence: Fence, callback: FenceCallback | FenceCb) -> FenceCb:
        engine = fence.engine
        await engine.step("read", fence)
        if fence.signaled:
            raise ENOENT
        await engine.step("write", fence)
        if not fence.signaled:
            return fence.add_callback(callback)
        queued = callback if isinstance(callback, FenceCb) else FenceCb(callback)
        queued.fence = fence
        fence._callbacks.append(queued)
        return queued

    return add


def no_answer(fence: Fence) -> bool:
    """That there was nothing left to enable is not looked at."""
    was_enabled, fence.enabled = fence.enabled, True
    if fence.signaled:
        return False
    if not was_enabled:
        fence.ops_enable_signaling()
    return True


def frees_at_once(memory: FenceMemory, fence: Fence) -> None:
    """Nobody has a reference, so nobody can look at it."""
    memory._freed(fence)


def counter_alone(array: FenceArray) -> bool:
    """As if there were callbacks from the start."""
    done = array.num_pending <= 0
    if done:
        array._settle_error()
    return done


def puts_first(array: FenceArray) -> None:
    """The reference of the last callback goes before the signal; others have one, as it seems."""
    array._settle_error()
    array.put()
    array.signal()


FEN_R01 = Bug(
    id="FEN-R01",
    title="a callback is queued on a fence that signaled after the flag was tested",
    removes="fence_wait.add_callback",
    races=("FEN-R01",),
    oracles=("engine/deadlock",),
    story="fence-signaled-while-awaited",
    plant=replace_part(add_callback, tests_once),
)

FEN_R02 = Bug(
    id="FEN-R02",
    title="a fence that is found to be done while signaling is enabled is not signaled",
    removes="Fence._enable_locked",
    races=("FEN-R02",),
    oracles=("engine/deadlock", "caller/FEN-R02"),
    story="fence-merged-and-done",
    plant=replace_guard(Fence, "_enable_locked", no_answer),
)

FEN_R05 = Bug(
    id="FEN-R05",
    title="a fence is freed with its last reference, without a grace period for whoever looks at it",
    removes="FenceMemory.free",
    races=("FEN-R05",),
    oracles=("lifetime/FEN-R05",),
    story="fence-looked-up-and-gone",
    plant=replace_guard(FenceMemory, "free", frees_at_once),
)

FEN_B05 = Bug(
    id="FEN-B05",
    title="a fence array counts callbacks that it has never asked for, so a poll is never true",
    removes="FenceArray.ops_signaled",
    races=("FEN-R07",),
    oracles=("caller/FEN-B05", "fences/INV-FEN-10"),
    story="fence-merged-and-polled",
    plant=replace_guard(FenceArray, "ops_signaled", counter_alone),
)

FEN_R33 = Bug(
    id="FEN-R33",
    title="a fence array drops its own reference before it signals, and its waiter the last one in the callback",
    removes="FenceArray._complete",
    races=("FEN-R33",),
    oracles=("lifetime/FEN-R33", "lifetime/FEN-R05"),
    story="fence-merged-and-dropped",
    plant=replace_guard(FenceArray, "_complete", puts_first),
)

