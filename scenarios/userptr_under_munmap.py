"""Userptr under munmap: jobs use memory of the process while the process takes it away and puts new memory there.

Shows: user memory is not pinned.  A notifier makes it stale, and waits for the jobs that use it, before the pages go;
the next exec gets the pages again.  An exec that finds them stale at the last moment starts over.  Where the process
has nothing mapped, the jobs find nothing either: they fault, and that costs them their queue, not the machine.
Races: an exec against the notifier (VMB-R01, VMB-R02), two invalidations at a time (VMB-R03), an unbind of
memory that is being invalidated (VMB-R16).
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import ECANCELED, ETIME
from svm_actors.gpu.program import Load, Store

PAGE = 4096
ADDR = 0x10_0000
VPN = ADDR // PAGE
ROUNDS = 4


async def scenario(world: World) -> None:
    """The kept page has what its jobs wrote; the other one has that, or zeros, or is not there."""
    process = world.process()
    kept = await process.mmap(2 * PAGE)
    shaken = kept + PAGE
    vm = await world.gpu().create_vm(process, "dma_fence")
    bound, gone = world.syncobj(), world.syncobj()
    await vm.bind_userptr(ADDR, kept, 2 * PAGE, syncs=[bound.sync_out()])

    async def use_kept() -> None:
        queue, last = await vm.create_queue(), bound
        for number in range(1, ROUNDS + 1):
            done = world.syncobj()
            program = [Load(VPN), Store(VPN, 0, bytes([number]))]
            assert (await (await vm.submit(queue, program, [last], [done])).wait())[0] == bytes([number - 1])
            last = done
        await vm.unbind(ADDR, PAGE, syncs=[last.sync_in(), gone.sync_out()])

    async def use_shaken() -> None:
        queue = await vm.create_queue()
        try:
            for _ in range(ROUNDS):
                job = await vm.submit(queue, [Store(VPN + 1, 0, b"x"), Load(VPN + 1)], [bound])
                assert (await job.wait())[1] == b"x"
        except (ECANCELED, ETIME):
            assert queue.dead  # it came when nothing was mapped

    async def shake() -> None:
        await process.swap_out(kept, 2 * PAGE)
        await process.madvise(shaken, PAGE, "dontneed")
        await process.munmap(shaken, PAGE)
        await process.mmap(PAGE, addr=shaken, fixed=True)
        await process.swap_out(kept, PAGE)

    async with world.nursery() as nursery:
        for work in (use_kept, use_shaken, shake):
            nursery.start_soon(work)

    await gone.wait()
    assert await process.read(kept) == bytes([ROUNDS])
    assert await process.read(shaken) in (b"x", b"\0")
