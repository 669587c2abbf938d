"""Cases K7 to K14 of the catalogue kfd_svm: migration to VRAM and back, and more memory than there is VRAM.

Scaled down: a case's largest buffer is four pages.  A VM whose ranges are never larger than a buffer stands for
buffers that are large against a range.  See :mod:`test_kfd_svm` for XNACK off.
"""

from __future__ import annotations

from typing import Any

from cases import case
from igt_bench import BASE, PAGE, hold
from kfd_bench import SECOND, SUITE, Svm, bo_words, vram_in_use, word, words

from svm_actors.engine.errors import KernelError
from svm_actors.engine.locks import WaitQueue
from svm_actors.gpu.program import GpuFault, Store
from svm_actors.world import BindVm, Process, World
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.gem import XeBo
from svm_actors.xe.sync import Sync

APART = 64 * PAGE
"""Between two buffers: nothing may be shared."""
A, B, DATA = BASE, BASE + APART, BASE + 2 * APART


@case(SUITE, "K7", "BasicVramTest")
def test_basic_vram() -> None:
    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        for addr, location in ((A, "system"), (B, "vram"), (DATA, "system")):
            await bench.map(1, addr)
            await bench.register(addr, 1, location)
        await bench.process.write(A, b"\x01" * PAGE)
        await bench.copy(A, B)
        assert (bench.mapped(A, 1), bench.mapped(B, 1)) == ("system", "vram")
        await bench.copy(B, DATA)
        assert await bench.process.read(DATA, 8) == b"\x01" * 4 + bytes(4)

    hold(scenario)


@case(SUITE, "K8", "PrefetchTest")
def test_prefetch() -> None:
    """The location is where the GPU's entries lead: all in one place, or mixed.

    Memory that is not registered has none; PREFETCH of it finds nothing to do and succeeds, and the access fails.
    """

    async def scenario(world: World) -> None:
        bench = await Svm.start(world)
        await bench.map(4)
        await bench.process.munmap(BASE, 4 * PAGE)
        await bench.prefetch(BASE, 4)
        assert (bench.registered(), bench.mapped(BASE, 4), vram_in_use(world)) == ([], "none", 0)
        assert isinstance(await bench.vm.load(BASE), GpuFault)
        await bench.map(4)
        await bench.register(BASE, 4)
        assert bench.mapped(BASE, 4) == "none"
        await bench.prefetch(BASE, 4, "system")
        assert bench.mapped(BASE, 4) == "system"
        await bench.prefetch(BASE + 2 * PAGE, 2)
        assert bench.mapped(BASE + 2 * PAGE, 2) == "vram"
        assert bench.mapped(BASE, 4) == "mixed"
        assert vram_in_use(world) == 2

    hold(scenario)


@case(SUITE, "K9", "MigrateTest")
def test_migrate() -> None:
    """Eight rounds by default, two under the random schedules.  The last copy finds no entry and faults."""

    def migrating(rounds: int, npages: int) -> Any:
        async def scenario(world: World) -> None:
            bench = await Svm.start(world)
            for addr in (A, B, DATA):
                await bench.map(npages, addr)
                await bench.register(addr, npages)
            for number in range(rounds + 1):
                await bench.cpu_write(DATA, words(number, npages))
                if number < rounds:
                    await bench.prefetch(A, npages)
                    await bench.prefetch(B, npages)
                    assert bench.mapped(A, npages) == bench.mapped(B, npages) == "vram"
                faults = bench.faults()
                data = await bench.gpu_read(DATA, npages)
                served = bench.faults()
                await bench.gpu_write(A, data)
                await bench.gpu_write(B, data)
                assert (bench.faults() > served) == (number == rounds), "what was prefetched is there"
                assert served >= faults
                if number == rounds:
                    assert bench.mapped(A, npages) == bench.mapped(B, npages) == "system"
                for addr in (A, B):
                    assert await bench.cpu_read(addr, npages) == words(number, npages)
            await world.settle()
            assert vram_in_use(world) == 0

        return scenario

    hold(migrating(8, 16), 0)
    hold(migrating(2, 2))


@case(SUITE, "K10", "MigrateAccessInPlaceTest")
def test_migrate_access_in_place() -> None:
    """Preferred where it is: the CPU's access brings the pages home for good, however they are cut."""

    async def scenario(world: World) -> None:
        npages = 16
        bench = await Svm.start(world, chunk_pages=(4, 1))
        await bench.map(npages)
        await bench.register(BASE, npages)
        await bench.prefetch(BASE, npages)
        assert bench.mapped(BASE, npages) == "vram"
        assert await bench.gpu_read(BASE, npages) == [bytes(4)] * npages, "also into its TLB"
        await bench.cpu_write(BASE, words(1, npages))
        assert "vram" not in bench.mapped(BASE, npages)
        assert await bench.gpu_read(BASE, npages) == words(1, npages)
        assert bench.mapped(BASE, npages) == "system"
        await bench.gpu_write(BASE, [b"\x55\xaa\xaa\x55"] * npages)
        assert await bench.cpu_read(BASE, npages) == [b"\x55\xaa\xaa\x55"] * npages
        await world.settle()
        assert vram_in_use(world) == 0

    hold(scenario, vram_pages=32)


@case(SUITE, "K11", "MigratePolicyTest")
def test_migrate_policy() -> None:
    async def scenario(world: World) -> None:
        npages = 4
        bench = await Svm.start(world)
        for addr in (A, DATA):
            await bench.map(npages, addr)
            await bench.register(addr, npages)
        await bench.prefetch(A, npages)
        await bench.gpu_write(A, words(1, npages))
        assert bench.mapped(A, npages) == "vram"
        assert await bench.cpu_read(A, npages) == words(1, npages)
        await bench.cpu_write(A, words(2, npages))
        await bench.gpu_write(DATA, await bench.gpu_read(A, npages))
        assert await bench.cpu_read(DATA, npages) == words(2, npages)

    hold(scenario)


# -- more than there is VRAM for ---------------------------------------------------------------

VRAM = 8
"""Pages of it in K12 and K13."""
BUFFER = 2
"""Pages of a buffer of K12: 512M."""


@case(SUITE, "K12", "VramOvercommitTest")
def test_vram_overcommit() -> None:
    """VRAM and two buffers more."""

    async def scenario(world: World) -> None:
        bench = await Svm.start(world, chunk_pages=(BUFFER, 1))
        addrs = [BASE + index * APART for index in range(VRAM // BUFFER + 2)]
        for number, addr in enumerate(addrs):
            await bench.map(BUFFER, addr)
            await bench.cpu_write(addr, words(number, BUFFER))
            await bench.register(addr, BUFFER, "vram")
            await bench.prefetch(addr, BUFFER)
            assert vram_in_use(world) <= VRAM
        assert vram_in_use(world) == VRAM
        for number, addr in enumerate(addrs):
            assert await bench.gpu_read(addr, BUFFER) == words(number, BUFFER)
        for number, addr in enumerate(addrs):
            assert await bench.cpu_read(addr, BUFFER) == words(number, BUFFER)

    for run in hold(scenario, vram_pages=VRAM):
        assert run.counters["evict"] >= 2


class Glutton:
    """One process of K13."""

    buffers = 3
    npages = 1

    def __init__(self, world: World, process: Process, number: int) -> None:
        self.world = world
        self.process = process
        self.number = number
        self.failed = 0
        self.ended = False

    async def run(self) -> None:
        bench = await Svm.start(self.world, self.process, chunk_pages=(self.npages,))
        addrs = [BASE + index * APART for index in range(self.buffers)]
        for index, addr in enumerate(addrs):
            await bench.map(self.npages, addr)
            await bench.cpu_write(addr, self._words(index))
            await self._register(bench, addr)
        await self.world.sleep(3 * SECOND)
        for index, addr in enumerate(addrs):
            assert await bench.cpu_read(addr, self.npages) == self._words(index)
            await bench.process.munmap(addr, self.npages * PAGE)
        await bench.vm.close()
        await self.process.exit()
        self.ended = True

    def _words(self, index: int) -> list[bytes]:
        return words(self.number * self.buffers + index, self.npages)

    async def _register(self, bench: Svm, addr: int) -> None:
        await bench.register(addr, self.npages, "vram")
        for _attempt in range(3):
            try:
                return await bench.prefetch(addr, self.npages)
            except KernelError:
                self.failed += 1
                await self.world.sleep(SECOND)
        await bench.prefetch(addr, self.npages)
        return None


@case(SUITE, "K13", "SVM evict BasicTest")
def test_svm_evict_basic() -> None:
    """Four processes with one and a half times the VRAM between them."""

    async def scenario(world: World) -> None:
        parent = world.process()
        children = [await parent.fork() for _ in range(4)]
        gluttons = [Glutton(world, child, number) for number, child in enumerate(children)]
        async with world.nursery() as nursery:
            for glutton in gluttons:
                nursery.start_soon(glutton.run)
        await world.settle()
        assert all(glutton.ended for glutton in gluttons)
        assert vram_in_use(world) == 0

    assert 4 * Glutton.buffers * Glutton.npages == VRAM + VRAM // 2
    for run in hold(scenario, vram_pages=VRAM):
        assert run.counters["evict"], "nothing had to go"
        assert "vm.killed" not in run.counters


class Mixed:
    """One process of K14: compute objects, and a graphics object that jobs with fences name."""

    graphics_pages = 7
    """7/16 of the VRAM."""

    def __init__(self, world: World, jobs: int) -> None:
        self.world = world
        self.jobs = jobs
        self.process = world.process()
        self.failed = 0
        self.bos: list[XeBo] = []

    async def start(self) -> None:
        """Compute objects of 7/16 of the VRAM, filled by a long-running job, whose queue then idles."""
        gpu = self.world.gpu()
        self.compute: BindVm = await gpu.create_vm(self.process, "lr")
        self.fence = await self.process.mmap(PAGE)
        self.queue: ExecQueue = await self.compute.create_queue()
        program = []
        for index in range(7):
            bo = await self.compute.create_bo(PAGE)
            self.bos.append(bo)
            await self.compute.bind(BASE + index * PAGE, bo, syncs=[self._signal(index + 1)])
            await self._wait(index + 1)
            program.append(Store(BASE // PAGE + index, 0, word(index)))
        await self._compute(program, 8)
        self.graphics: BindVm = await gpu.create_vm(self.process, "dma_fence")
        self.target = await self.graphics.create_bo(self.graphics_pages * PAGE)
        bound = self.world.syncobj()
        await self.graphics.bind(BASE, self.target, syncs=[bound.sync_out()])
        await bound.wait()

    async def run(self) -> None:
        """Submissions, one per 50 ms."""
        queue = await self.graphics.create_queue()
        for number in range(self.jobs):
            await self._submit(queue, number)
            await self.world.sleep(SECOND // 20)

    async def check(self) -> None:
        """Both kinds of object hold what was written last; the compute queue runs on."""
        assert self.failed <= 2
        assert await bo_words(self.target) == words(self.jobs - 1, self.graphics_pages)
        assert [(await bo_words(bo))[0] for bo in self.bos] == [word(index) for index in range(7)]
        await self._compute([Store(BASE // PAGE, 0, word(100))], 9)
        assert (await bo_words(self.bos[0]))[0] == word(100)

    async def _submit(self, queue: ExecQueue, number: int) -> None:
        out = self.world.syncobj()
        values = words(number, self.graphics_pages)
        program = [Store(BASE // PAGE + index, 0, value) for index, value in enumerate(values)]
        try:
            await self.graphics.submit(queue, program, [], [out])
        except KernelError:
            self.failed += 1
            return
        await out.wait()
        assert out.fence is not None
        assert out.fence.error is None

    async def _compute(self, program: list[Store], value: int) -> None:
        place = BASE + 7 * PAGE
        if value == 8:
            await self.compute.bind_userptr(place, self.fence, PAGE)
        fence = self.compute.user_fence(self.process, place, value)
        await self.compute.submit(self.queue, program, syncs=[Sync(user_fence=fence, signal=True)])
        await self._wait(value)

    def _signal(self, value: int) -> Sync:
        return Sync(user_fence=self.compute.user_fence(self.process, self.fence, value), signal=True)

    async def _wait(self, value: int) -> None:
        await self.compute.wait_user_fence(self.process, self.fence, "eq", value, timeout=5 * SECOND)


@case(SUITE, "K14", "evict BasicTest")
def test_evict_basic() -> None:
    """A hundred submissions by default, two under the random schedules."""

    def evicting(jobs: int) -> Any:
        async def scenario(world: World) -> None:
            clients = [Mixed(world, jobs) for _ in range(2)]
            started = WaitQueue(world.engine, "started")
            count = 0

            async def process(client: Mixed) -> None:
                nonlocal count
                await client.start()
                count += 1
                started.wake_up()
                await started.wait_event(lambda: count == len(clients))
                await client.run()

            async with world.nursery() as nursery:
                for client in clients:
                    nursery.start_soon(process, client)
            for client in clients:
                await client.check()

        return scenario

    vram = Mixed.graphics_pages * 16 // 7
    for run in [*hold(evicting(100), 0, vram_pages=vram), *hold(evicting(2), vram_pages=vram)]:
        assert run.counters["bo.evict"], "nothing had to go"
        assert run.counters["exec.preempted"], "compute was not stopped"
        assert run.counters["exec.rebound"], "compute was not restored"
        assert "vm.killed" not in run.counters
