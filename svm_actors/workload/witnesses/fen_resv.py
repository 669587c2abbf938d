"""Witnesses about reservations and the locking of several (fences_and_scheduler 3 and 4)."""

from __future__ import annotations

from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.sched_work import Completion
from svm_actors.engine.errors import EDEADLK, ENOMEM
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.fen_machine import FencePlace, expect, signal, together
from svm_actors.world import World


class Buffer:
    """Something with a reservation."""

    def __init__(self, place: FencePlace, name: str) -> None:
        self.name = name
        self.resv = place.resv(name)


@witness("FEN-B01")
async def resv_two_of_a_timeline(world: World) -> None:
    """Two threads add fences of one timeline to a buffer, the later one maybe first."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        first, second = (place.fence(f"job{number}", context=1, seqno=number) for number in (1, 2))

        async def add(number: int) -> None:
            async with Locked(resv):
                resv.reserve(1)
                resv.add((first, second)[number], Usage.WRITE)

        await together(world, lambda: add(0), lambda: add(1))
        for fence in (first, second):
            await signal(fence)
            fence.put()
        resv.fini()


class Locked:
    """``async with`` a reservation's lock."""

    def __init__(self, resv: DmaResv) -> None:
        self.resv = resv

    async def __aenter__(self) -> None:
        await self.resv.lock()

    async def __aexit__(self, *_: object) -> None:
        self.resv.unlock()


@witness("FEN-B02 FEN-R11")
async def resv_poll(world: World) -> None:
    """Somebody polls a buffer that several jobs use, which takes no time however many there are."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        fences = [place.fence(f"job{number}") for number in range(2)]
        async with Locked(resv):
            resv.reserve(2)
            for fence in fences:
                resv.add(fence, Usage.READ)
        before = world.engine.now
        answer = await resv.wait(Usage.READ, timeout=0)
        expect(answer == 0, "FEN-B02", f"a poll of a busy buffer answers {answer}")
        expect(world.engine.now == before, "FEN-B02", f"a poll sleeps for {world.engine.now - before} ns")
        for fence in fences:
            await signal(fence)
            fence.put()
        resv.fini()


@witness("FEN-B03")
async def resv_writer_and_readers(world: World) -> None:
    """A buffer is used again as soon as nobody writes or reads it any more."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        write, read = place.fence("writer"), place.fence("reader")
        async with Locked(resv):
            resv.reserve(2)
            resv.add(write, Usage.WRITE)
            resv.add(read, Usage.READ)

        async def use_again() -> None:
            for _ in range(3):
                async with Locked(resv):
                    if resv.test_signaled(Usage.BOOKKEEP):
                        busy = [fence.name for fence in (write, read) if not fence.signaled]
                        expect(not busy, "INV-FEN-12", f"the buffer is used again, {busy} are not signaled")

        await together(world, lambda: signal(write), lambda: signal(read), use_again)
        write.put()
        read.put()
        resv.fini()


@witness("FEN-B04 FEN-B29")
async def resv_many_slots(world: World) -> None:
    """A buffer that was never used gets six fences at once, whose makers drop them before they are signaled."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        fences = [place.fence(f"job{number}") for number in range(6)]
        async with Locked(resv):
            resv.reserve(len(fences))
            for fence in fences:
                resv.add(fence, Usage.BOOKKEEP)
                fence.put()

        async def hardware() -> None:
            for fence in fences:
                await signal(fence)

        await together(world, hardware, lambda: resv.wait(Usage.BOOKKEEP))
        resv.fini()


@witness("FEN-R10 FEN-R05")
async def resv_reader_and_writer(world: World) -> None:
    """A reader without the lock waits for a buffer whose slots are made anew, and whose fences die, meanwhile."""
    async with FencePlace(world) as place:
        resv = place.resv("buffer")
        fences = [place.fence(f"job{number}") for number in range(8)]

        async def add(some: int, more: int) -> None:
            async with Locked(resv):
                resv.reserve(more - some)
                for fence in fences[some:more]:
                    resv.add(fence, Usage.READ)
                    fence.put()

        async def writer() -> None:
            await add(4, 8)
            for fence in fences[4:]:
                await signal(fence)

        async def hardware() -> None:
            for fence in fences[:4]:
                await signal(fence)

        await add(0, 4)
        await together(world, hardware, lambda: resv.wait(Usage.READ), writer)
        resv.fini()


@witness("FEN-R12")
async def exec_opposite_orders(world: World) -> None:
    """Two transactions lock two buffers in opposite orders."""
    async with FencePlace(world) as place:
        one, two = Buffer(place, "one"), Buffer(place, "two")

        async def thread(*buffers: Buffer) -> None:
            with world.engine.parts.of(DrmExec)(world.engine) as exec_:
                await exec_.until_all_locked(lambda ex: ex.prepare_array(buffers, 1))

        await together(world, lambda: thread(one, two), lambda: thread(two, one))


@witness("FEN-R13")
async def exec_among_younger_ones(world: World) -> None:
    """A transaction meets one that is older, once, and younger ones again and again."""
    async with FencePlace(world) as place:
        one, two = Buffer(place, "one"), Buffer(place, "two")
        locked, begun, backed_off = (Completion(world.engine, name) for name in ("locked", "begun", "backed_off"))
        kind = world.engine.parts.of(DrmExec)

        async def oldest() -> None:
            with kind(world.engine) as exec_:
                await exec_.until_all_locked(lambda ex: ex.prepare_obj(two, 1))
                locked.complete_all()
                await backed_off.wait()

        async def second() -> None:
            async def body(ex: DrmExec) -> None:
                await ex.prepare_obj(one, 1)
                begun.complete_all()
                try:
                    await ex.prepare_obj(two, 1)
                except EDEADLK:
                    backed_off.complete_all()
                    raise

            await locked.wait()
            with kind(world.engine) as exec_:
                await exec_.until_all_locked(body)
                passes = exec_.passes
            expect(passes == 2, "FEN-R13", f"a transaction that one older one is in the way of takes {passes} passes")

        async def younger() -> None:
            await begun.wait()
            for _ in range(2):
                with kind(world.engine) as exec_:
                    await exec_.until_all_locked(lambda ex: ex.prepare_array((one, two), 1))

        await together(world, oldest, second, younger, younger)


@witness("FEN-B25")
async def exec_drops_a_buffer(world: World) -> None:
    """What a transaction needs changes while it sleeps for a buffer that it then does not need any more."""
    async with FencePlace(world) as place:
        root, one, two = (Buffer(place, name) for name in ("root", "one", "two"))
        needed = [one, two]
        kind = world.engine.parts.of(DrmExec)

        async def user() -> None:
            with kind(world.engine) as exec_:

                async def body(ex: DrmExec) -> None:
                    await ex.prepare_obj(root, 1)
                    await ex.prepare_array(needed, 1)

                await exec_.until_all_locked(body)
                locked, asked = [each.name for each in exec_.objects], [root.name, *(each.name for each in needed)]
                expect(locked == asked, "FEN-B25", f"{locked} are to be fenced, {asked} were asked for")

        async def unlinker() -> None:
            with kind(world.engine) as exec_:
                await exec_.until_all_locked(lambda ex: ex.prepare_array((two, root), 1))
                needed.remove(two)

        await together(world, unlinker, user)


@witness("FEN-B30")
async def exec_without_memory(world: World) -> None:
    """There may be no memory for a slot; whoever got it adds a fence, whoever did not has nothing locked."""
    async with FencePlace(world, inject=True) as place:
        buffer = Buffer(place, "buffer")
        fence = place.fence("job")
        with world.engine.parts.of(DrmExec)(world.engine, memory=place.memory) as exec_:
            try:
                await exec_.until_all_locked(lambda ex: ex.prepare_obj(buffer, 1))
            except ENOMEM:
                expect(not buffer.resv.ww.held_by_me(), "INV-FEN-06", f"{buffer.name} is still locked after an error")
            else:
                buffer.resv.add(fence, Usage.WRITE)
        await signal(fence)
        fence.put()
        buffer.resv.fini()
