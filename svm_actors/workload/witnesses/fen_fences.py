"""Witnesses about fences, fences made of fences, and the slots they are kept in (fences_and_scheduler 1 and 2)."""

from __future__ import annotations

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.fence_chain import FenceChain, find_seqno_in_steps
from svm_actors.dma_buf.fence_wait import wait_any_timeout
from svm_actors.dma_buf.rcu_pointer import RcuPointer
from svm_actors.dma_buf.unwrap import merge, unwrap
from svm_actors.drm.syncobj import Syncobj
from svm_actors.drm.syncobj_file import SyncobjFile
from svm_actors.drm.syncobj_wait import WaitFlags
from svm_actors.engine.errors import ENOENT, ETIME
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import MS, FencePlace, expect, signal, together
from svm_actors.world import World


def merged(place: FencePlace, *fences: Fence) -> Fence:
    """One fence for several."""
    one = merge(place.engine, fences, place.memory)
    assert one is not None
    return one


@witness("FEN-R01")
async def fence_signaled_while_awaited(world: World) -> None:
    """A thread waits for one fence after the other, each of which signals just then."""
    async with FencePlace(world) as place:
        fences = [place.fence(f"job{number}") for number in range(4)]

        async def waiter() -> None:
            for fence in fences:
                await wait_any_timeout([fence], memory=place.memory)

        async def hardware() -> None:
            for fence in fences:
                await signal(fence)

        await together(world, waiter, hardware)
        for fence in fences:
            fence.put()


@witness("FEN-R02")
async def fence_merged_and_done(world: World) -> None:
    """Fences that were merged signal before, while and after somebody waits for all."""
    async with FencePlace(world) as place:
        fences = [place.fence(name) for name in ("one", "two")]
        every = merged(place, *fences)

        async def waiter() -> None:
            await every.wait_timeout(1 << 40)
            expect(every.signaled, "FEN-R02", f"{every.name} is not signaled after all of it was")

        await together(world, waiter, lambda: signal(fences[0]), lambda: signal(fences[1]))
        every.put()
        for fence in fences:
            fence.put()


@witness("FEN-R07")
async def fence_merged_and_polled(world: World) -> None:
    """A slot holds merged fences that nobody waits for: a look at it says when they are done."""
    async with FencePlace(world) as place:
        fences = [place.fence(name) for name in ("one", "two")]
        every = merged(place, *fences)
        slot = world.engine.parts.of(Syncobj)(world.engine, "slot", memory=place.memory)
        slot.replace_fence(every)

        async def poll() -> None:
            for _ in range(2):
                await world.engine.step("read", slot)
                done = all(fence.signaled for fence in fences)
                expect(every.is_signaled() == done, "FEN-B05", f"{every.name} says {every.signaled}, it is {done}")

        await together(world, poll, lambda: signal(fences[0]), lambda: signal(fences[1]))
        await poll()
        every.put()
        slot.put()
        for fence in fences:
            fence.put()


@witness("FEN-R33")
async def fence_merged_and_dropped(world: World) -> None:
    """Whoever waits for merged fences drops them in the callback."""
    async with FencePlace(world) as place:
        fences = [place.fence(name) for name in ("one", "two")]
        every = merged(place, *fences)
        every.add_callback(lambda fence: fence.put())
        await together(world, lambda: signal(fences[0]), lambda: signal(fences[1]))
        for fence in fences:
            fence.put()


@witness("FEN-B06")
async def fence_merged_over_and_over(world: World) -> None:
    """The fences of two timelines are added, one after the other, to what is waited for so far."""
    async with FencePlace(world) as place:
        fences = [place.fence(f"job{number}", context=1 + number % 2, seqno=1 + number // 2) for number in range(8)]
        slot = world.engine.parts.of(Syncobj)(world.engine, "slot", memory=place.memory)
        for fence in fences:
            whole = merged(place, fence, slot.fence) if slot.fence is not None else fence.get()
            await world.engine.step("write", slot)
            slot.replace_fence(whole)
            whole.put()
            leaves = len(unwrap(slot.fence))
            expect(leaves <= 2, "FEN-B06", f"{leaves} fences are kept of two timelines")
        for fence in fences:
            await signal(fence)
            fence.put()
        slot.put()


@witness("FEN-R05")
async def fence_looked_up_and_gone(world: World) -> None:
    """A fence is taken from a pointer without a lock while its last reference is dropped."""
    async with FencePlace(world) as place:
        pointer = RcuPointer(world.engine, "latest", place.memory.rcu)
        first, second = place.fence("first"), place.fence("second")
        await pointer.assign(first)

        async def writer() -> None:
            await pointer.assign(second)
            await signal(first)
            first.put()

        async def reader() -> None:
            for _ in range(2):
                fence = await pointer.get_safe()
                assert fence is not None
                fence.is_signaled()
                fence.put()

        await together(world, writer, reader)
        await signal(second)
        second.put()


@witness("FEN-R08")
async def fence_chain_two_walkers(world: World) -> None:
    """Two threads look for a point of a timeline, and drop what is done of it on their way."""
    async with FencePlace(world) as place:
        kind = world.engine.parts.of(FenceChain)
        fences = [place.fence(f"job{number}") for number in range(4)]
        head: Fence | None = None
        for number, fence in enumerate(fences):
            head = kind(world.engine, f"point{number + 1}", head, fence.get(), number + 1, memory=place.memory)
        assert head is not None
        last = head

        async def walker() -> None:
            found = await find_seqno_in_steps(world.engine, last.get(), 1)
            if found is not None:
                found.put()

        async def hardware() -> None:
            for fence in fences[:3]:
                await signal(fence)

        await together(world, walker, walker, hardware)
        await signal(fences[3])
        last.put()
        for fence in fences:
            fence.put()


@witness("FEN-R32")
async def syncobj_closed_under_waiter(world: World) -> None:
    """A thread waits for what will never be submitted to a syncobj, whose handle another one closes."""
    async with FencePlace(world) as place:
        file = world.engine.parts.of(SyncobjFile)(world.engine, "file", memory=place.memory)
        handle = await file.create()

        async def waiter() -> None:
            try:
                await file.wait([handle], flags=WaitFlags.FOR_SUBMIT, timeout=MS)
            except (ENOENT, ETIME):
                return
            expect(False, "FEN-R32", "a wait for nothing is over")

        await together(world, waiter, lambda: file.destroy(handle))


@witness("FEN-B28")
async def syncobj_point_collected(world: World) -> None:
    """A thread waits for a point of a timeline that is done, and maybe collected, by then."""
    async with FencePlace(world) as place:
        file = world.engine.parts.of(SyncobjFile)(world.engine, "file", memory=place.memory)
        handle = await file.create()
        syncobj = file.find(handle)
        fences = [place.fence(f"job{number}") for number in (1, 2)]
        for number, fence in enumerate(fences):
            syncobj.add_point(fence, number + 1)

        async def waiter() -> None:
            for _ in range(2):
                await file.wait([handle], [1])

        await together(world, waiter, lambda: signal(fences[0]))
        await signal(fences[1])
        syncobj.put()
        await file.close()
        for fence in fences:
            fence.put()

