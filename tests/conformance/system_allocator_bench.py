"""The bench of the catalogue igt_system_allocator: memory, records, and execs on a VM that mirrors its process.

A batch lies in a record in the buffer itself: the GPU fetches the command from there, stores to the ``data`` field of a
record, and then the ring stores the user fence.  So commands and results share pages with what the CPU writes.

Scaled down: a record takes 1280 bytes, so there are still several in a page, and now and then one lies across two.
The engines of a GPU are alike in the model, so a shape that upstream runs once for each engine is run once, and
thread and process shapes have one thread for each of three engines.  A chunk of 2M has 512 pages and one of 64K has
16, as they should, in :data:`FULL`; under random schedules, and where many threads move large ranges, :data:`SMALL`
has 4 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from igt_bench import PAGE
from kfd_bench import place_of

from svm_actors.engine.errors import EBUSY
from svm_actors.engine.locks import Mutex, WaitQueue
from svm_actors.gpu.program import AtomicAdd, Load, Step, Store
from svm_actors.mm.constants import TASK_SIZE
from svm_actors.mm.cpu import pieces
from svm_actors.world import FaultVm, Process, World
from svm_actors.xe.exec import Execution
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.sync import Sync

SUITE = "igt_system_allocator"
ENGINES = ("render", "copy", "compute")
RECORD = 1280
"""Bytes from one record to the next."""
VM_SYNC, EXEC_SYNC, DATA = 136, 144, 152
"""Offsets inside a record; the batch is at its beginning."""
PREFETCH_PAD = 512
"""What the command streamer may fetch beyond the end of a batch."""
HEAP = 0x5555_0000_0000
RESERVED = 0x7000_0000_0000
"""Where reserved addresses begin."""
WAIT_LIMIT = 5_000_000_000
"""Virtual ns for every wait."""
PAUSE = 1_000_000
"""Virtual ns before something is tried again."""
TRIES = 300
FILL = 5


@attrs.frozen
class Scale:
    """Sizes of chunks in pages."""

    large: int
    """2M."""
    middle: int
    """64K."""

    @property
    def options(self) -> dict[str, Any]:
        """Of a VM."""
        return {"chunk_pages": (self.large, self.middle, 1), "check_pages_threshold": self.middle}


FULL = Scale(512, 16)
SMALL = Scale(4, 2)


# -- memory ------------------------------------------------------------------------------------


@attrs.frozen
class Buffer:
    """Memory of a process."""

    addr: int
    length: int
    kind: str
    """``heap``, ``mmap``, ``shared``, ``huge`` or ``file``."""
    block: tuple[int, int]
    """Address and length of what is unmapped when it goes."""


class Memory:
    """What the C library and the tests do to get memory: one per process.

    Small heap blocks come from brk; the last one given back shrinks the heap, others are handed out again as they are.
    Blocks from 128K on have a mapping of their own.  So a freed address may come back at once, unmapped or not.
    """

    MMAP_THRESHOLD = 128 << 10

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.lock = Mutex(world.engine, f"{process.name}.malloc", f"{process.name}.malloc")
        self.top = HEAP
        self.free_blocks: list[tuple[int, int]] = []
        self.next_reserved = RESERVED
        process.mm.brk_start = process.mm.brk_end = HEAP

    def reserve(self, length: int, align: int) -> int:
        """Addresses that nobody else gets, with nothing mapped."""
        addr = round_up(self.next_reserved, align)
        self.next_reserved = addr + length
        return addr

    async def malloc(self, length: int, align: int) -> Buffer:
        """aligned_alloc."""
        if length >= self.MMAP_THRESHOLD:
            size = length + align
            start = await self.process.mmap(size)
            return Buffer(round_up(start, align), length, "heap", (start, size))
        async with self.lock:
            for index, (addr, size) in enumerate(self.free_blocks):
                if size == length and addr % align == 0:
                    del self.free_blocks[index]
                    return Buffer(addr, length, "heap", (addr, size))
            addr = round_up(self.top, align)
            self.top = addr + length
            assert await self.process.brk(self.top) == self.top
            return Buffer(addr, length, "heap", (addr, length))

    async def mmap(self, length: int, align: int, kind: str = "mmap", file: Any = None) -> Buffer:
        """At a reserved address.  Huge mappings are a multiple of 2M long and aligned."""
        huge = kind == "huge"
        if huge:
            length, align = round_up(length, FULL.large * PAGE), max(align, FULL.large * PAGE)
        addr = self.reserve(length, align)
        await self.process.mmap(length, addr=addr, fixed=True, shared=kind == "shared", huge=huge, file=file)
        return Buffer(addr, length, kind, (addr, length))

    async def move(self, buffer: Buffer, to: int, *, dontunmap: bool = False) -> Buffer:
        """mremap to a reserved address."""
        assert await self.process.mremap(buffer.addr, buffer.length, buffer.length, to=to, dontunmap=dontunmap) == to
        return Buffer(to, buffer.length, buffer.kind, (to, buffer.length))

    async def free(self, buffer: Buffer) -> None:
        """free or munmap."""
        addr, length = buffer.block
        if buffer.kind != "heap" or buffer.length >= self.MMAP_THRESHOLD:
            await self.process.munmap(addr, length)
            return
        async with self.lock:
            if addr + length != self.top:
                self.free_blocks.append(buffer.block)
                return
            self.top = addr
            await self.process.brk(addr)


def round_up(value: int, unit: int) -> int:
    """To a multiple."""
    return value + -value % unit


# -- commands -----------------------------------------------------------------------------------


def command(opcode: bytes, target: int, value: int) -> bytes:
    """One command of a batch, as it lies in memory."""
    return opcode + target.to_bytes(8, "little") + value.to_bytes(4, "little")


def store_dword(target: int, value: int) -> bytes:
    """MI_STORE_DWORD_IMM."""
    return command(b"STDW", target, value)


def atomic_inc(target: int) -> bytes:
    """MI_ATOMIC, increment."""
    return command(b"ATIN", target, 1)


COMMAND_SIZE = len(store_dword(0, 0))
END = b"END."
"""MI_BATCH_BUFFER_END."""


def effect(batch: bytes) -> list[Store | AtomicAdd]:
    """What the commands of a batch do."""
    found: list[Store | AtomicAdd] = []
    for at in range(0, len(batch) - len(END), COMMAND_SIZE):
        opcode, where, value = batch[at : at + 4], batch[at + 4 : at + 12], batch[at + 12 : at + 16]
        target = int.from_bytes(where, "little")
        if opcode == b"STDW":
            found.append(Store(target // PAGE, target % PAGE, value))
        else:
            found.append(AtomicAdd(target // PAGE, target % PAGE, 1))
    return found


def fetch(addr: int, length: int) -> list[Load]:
    """The command streamer reads a batch."""
    return [Load(vpn, offset, size) for vpn, offset, size in pieces(addr, length)]


def value_of(*numbers: int) -> int:
    """A dword that is never zero, and another one for each list of small numbers."""
    mixed = 1
    for number in numbers:
        mixed = mixed * 1009 + number
    return mixed * 2654435761 % (1 << 32) | 1


# -- a VM with queues -------------------------------------------------------------------------------


class SystemAllocator:
    """A process, or a thread of one, with a VM and execs on it."""

    def __init__(self, world: World, process: Process, memory: Memory, vm: FaultVm) -> None:
        self.world = world
        self.process = process
        self.memory = memory
        self.vm = vm
        self.queues: list[ExecQueue] = []
        self.sync_addr = 0
        """Where binds and prefetches signal; it stands for the page of a BO that upstream maps."""
        self.synced = 0
        self.shares_vm = False
        """Other threads bind as well."""

    @classmethod
    async def start(
        cls,
        world: World,
        scale: Scale = SMALL,
        *,
        process: Process | None = None,
        memory: Memory | None = None,
        mirror: bool = True,
        gpu: int = 0,
        queues: int = 1,
    ) -> SystemAllocator:
        """A VM of its own, with the whole address space mirrored, and queues."""
        process = process or world.process()
        vm = await world.gpu(gpu).create_vm(process, "fault", mirror=False, **scale.options)
        bench = cls(world, process, memory or Memory(world, process), vm)
        if mirror:
            await bench.bind_everything()
        await bench.create_queues(queues)
        return bench

    def thread(self) -> SystemAllocator:
        """Another thread with the same VM."""
        bench = SystemAllocator(self.world, self.process, self.memory, self.vm)
        bench.shares_vm = True
        return bench

    async def create_queues(self, count: int) -> None:
        """Exec queues."""
        self.queues += [await self.vm.create_queue() for _ in range(count)]

    # -- binds --------------------------------------------------------------------------------------

    async def signal(self, addr: int | None = None) -> Sync:
        """The fence of the next bind: at an address of the process, or in the page for that."""
        if addr is None and not self.sync_addr:
            self.sync_addr = await self.process.mmap(PAGE)
        self.synced += 1
        fence = self.vm.user_fence(self.process, addr or self.sync_addr, self.synced)
        return Sync(user_fence=fence, signal=True)

    async def signaled(self, addr: int | None = None) -> None:
        """Wait for it."""
        await self.vm.wait_user_fence(self.process, addr or self.sync_addr, "eq", self.synced, timeout=WAIT_LIMIT)

    async def bind_mirror(self, addr: int, length: int, sync_addr: int | None = None) -> None:
        """CPU_ADDR_MIRROR, awaited."""
        sync = await self.signal(sync_addr)
        await self.until_not_busy(lambda: self.vm.bind_mirror(addr, length, syncs=[sync]))
        await self.signaled(sync_addr)

    async def until_not_busy(self, bind: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Threads that share a VM cut mirrors of each other, whose fences may not be written yet: -EBUSY, so again."""
        for _ in range(TRIES if self.shares_vm else 1):
            try:
                await bind()
                return
            except EBUSY:
                await self.world.sleep(PAUSE)
        raise EBUSY

    async def bind_everything(self, sync_addr: int | None = None) -> None:
        """The whole address space."""
        await self.bind_mirror(0, TASK_SIZE, sync_addr)

    async def unbind_everything(self) -> None:
        """Once, whatever comes of it."""
        await self.vm.unbind(0, TASK_SIZE)

    async def prefetch(self, addr: int, length: int, region: str = "vram") -> None:
        """PREFETCH, awaited."""
        sync = await self.signal()
        await self.vm.prefetch(addr, round_up(length, PAGE), region=region, syncs=[sync])
        await self.signaled()

    # -- execs ----------------------------------------------------------------------------------------

    async def write_batch(self, addr: int, commands: bytes) -> bytes:
        """The CPU writes commands and their end; answers the batch."""
        batch = commands + END
        await self.process.write(addr, batch)
        return batch

    async def submit(
        self, addr: int, batch: bytes, fence_addr: int | None, magic: int, queue: ExecQueue | None = None
    ) -> Execution:
        """Run the batch at an address, then signal there, if anywhere."""
        return await self.submit_program([*fetch(addr, len(batch)), *effect(batch)], fence_addr, magic, queue)

    async def submit_program(
        self, program: list[Step], fence_addr: int | None, magic: int, queue: ExecQueue | None = None
    ) -> Execution:
        """Run what is no batch in memory."""
        syncs = []
        if fence_addr is not None:
            syncs = [Sync(user_fence=self.vm.user_fence(self.process, fence_addr, magic), signal=True)]
        return await self.vm.submit(queue or self.queues[0], program, syncs=syncs)

    async def done(self, fence_addr: int, magic: int, queue: ExecQueue | None = None) -> None:
        """Wait for the fence of an exec; its queue must live."""
        await self.vm.wait_user_fence(
            self.process, fence_addr, "eq", magic, timeout=WAIT_LIMIT, queue=queue or self.queues[0]
        )

    async def exec(self, addr: int, batch: bytes, fence_addr: int, magic: int, queue: ExecQueue | None = None) -> None:
        """Submit and wait; what was fetched must be what was written."""
        execution = await self.submit(addr, batch, fence_addr, magic, queue)
        await self.done(fence_addr, magic, queue)
        check_fetched(execution, addr, batch)

    async def dword(self, addr: int) -> int:
        """The CPU reads."""
        return int.from_bytes(await self.process.read(addr, 4), "little")

    # -- what there is -----------------------------------------------------------------------------------

    def place(self, addr: int) -> str:
        """Where the GPU's entry leads: ``none``, ``system`` or ``vram``."""
        return place_of(self.vm.vm.page_table.get(addr // PAGE))

    def ranges(self, addr: int, length: int) -> list[tuple[int, int]]:
        """First page and pages of the ranges in a span, relative to it."""
        first, end = addr // PAGE, (addr + length) // PAGE
        return [(found.start - first, found.npages) for found in self.vm.vm.svm.gpusvm.ranges(first, end)]

    def faults(self) -> int:
        """GPU page faults of the device so far."""
        return int(self.vm.vm.device.gpu.fault_queue.statistics()["faults"])


def check_fetched(execution: Execution, addr: int, batch: bytes) -> None:
    """The GPU has seen the commands that the CPU wrote."""
    loads = len(fetch(addr, len(batch)))
    assert b"".join(found for found in execution.batch.results[:loads] if isinstance(found, bytes)) == batch


class Gate:
    """Everybody waits here until all have come, as often as they like."""

    def __init__(self, world: World, count: int, name: str) -> None:
        self.queue = WaitQueue(world.engine, name)
        self.count = count
        self.arrived = 0

    async def wait(self) -> None:
        """pthread_barrier_wait."""
        self.arrived += 1
        goal = -(-self.arrived // self.count) * self.count
        self.queue.wake_up()
        await self.queue.wait_event(lambda: self.arrived >= goal)
