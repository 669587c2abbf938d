"""P-EXEC of the catalogue igt_system_allocator: its sections and shapes, and the procedure that runs one in the other.

A section is parsed from its name, word by word, so a further one costs its name.  Scaled down: 128 execs are four
(two in each of several threads), 16 queues are two, and the stride of 256 records is eight, which is still more than
a page.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import attrs
import pytest
from system_allocator_bench import (
    DATA,
    ENGINES,
    EXEC_SYNC,
    FILL,
    PAGE,
    PREFETCH_PAD,
    RECORD,
    VM_SYNC,
    Buffer,
    Scale,
    SystemAllocator,
    round_up,
    store_dword,
    value_of,
)

from svm_actors.engine.errors import EBUSY
from svm_actors.world import Process

NAMES = {
    "A": (
        "malloc", "malloc-madvise", "malloc-prefetch", "malloc-multi-fault", "malloc-fork-read", "malloc-mlock",
        "malloc-race", "malloc-busy", "malloc-bo-unmap", "malloc-nomemset", "malloc-mlock-nomemset",
        "malloc-race-nomemset", "malloc-busy-nomemset", "malloc-bo-unmap-nomemset",
    ),
    "B": (
        "mmap", "mmap-prefetch", "mmap-remap", "mmap-remap-dontunmap", "mmap-remap-eocheck", "mmap-huge", "mmap-shared",
        "mmap-shared-remap", "mmap-mlock", "mmap-file", "mmap-race", "mmap-nomemset", "mmap-huge-nomemset",
        "mmap-mlock-nomemset", "mmap-race-nomemset", "mmap-file-mlock-nomemset",
    ),
    "C": (
        "free", "free-race", "new", "new-madvise", "new-prefetch", "new-race", "mmap-free", "mmap-free-madvise",
        "mmap-free-race", "mmap-new", "mmap-new-madvise", "mmap-new-huge", "free-nomemset", "free-race-nomemset",
        "new-nomemset", "new-race-nomemset", "new-busy-nomemset", "mmap-free-nomemset", "mmap-free-huge-nomemset",
        "mmap-new-nomemset", "mmap-new-huge-nomemset", "mmap-new-race-nomemset",
    ),
}  # fmt: skip
"""By letter of the catalogue, in its order."""


@attrs.frozen
class Section:
    """One buffer kind and behaviour."""

    id: str
    name: str
    words: frozenset[str] = attrs.field(init=False, default=attrs.Factory(lambda self: frozenset(self.name.split("-")),
                                                                          takes_self=True))  # fmt: skip

    def has(self, *words: str) -> bool:
        """One of the words is in its name."""
        return not self.words.isdisjoint(words)

    @property
    def kind(self) -> str:
        """What its first buffer is made of."""
        if not self.has("mmap"):
            return "heap"
        return next((kind for kind in ("huge", "shared", "file") if self.has(kind)), "mmap")

    @property
    def renews(self) -> bool:
        """Every exec has a buffer of its own."""
        return self.has("new", "free")

    @property
    def locked(self) -> bool:
        """Memory is locked until the first exec is through."""
        return self.has("mlock", "shared")


SECTIONS = [
    Section(f"{letter}{number}", name) for letter, names in NAMES.items() for number, name in enumerate(names, 1)
]


@attrs.frozen
class Shape:
    """How often, on how many queues, over how much memory, and who."""

    id: str
    prefix: str
    queues: int = 1
    execs: int = 1
    size: str = ""
    """``large`` (2M), ``middle`` (64K), or nothing: as much as the records need."""
    stride: int = 0
    driver: str = "single"

    @property
    def threads(self) -> int:
        """That run P-EXEC at once."""
        return 1 if self.driver == "single" else len(ENGINES)

    def applies(self, section: Section) -> bool:
        """The catalogue's skip rules, and what a section asks of a shape."""
        if section.has("fork") and self.threads > 1:
            return False
        if section.has("file") and self.driver in ("threads", "shared-vm"):
            return False
        if section.has("multi") and not self.size:
            return False
        return not section.has("eocheck") or self.execs % 2 == 0


SHAPES = [
    Shape("S1", "once-"),
    Shape("S2", "once-large-", size="large"),
    Shape("S3", "twice-", execs=2),
    Shape("S4", "many-", execs=4),
    Shape("S5", "many-stride-", execs=4, stride=8),
    Shape("S6", "many-execqueues-", queues=2, execs=4),
    Shape("S7", "many-large-", execs=4, size="large"),
    Shape("S8", "many-64k-", execs=4, size="middle"),
    *(
        Shape(f"S{9 + 3 * index + further}", prefix + name, queues, 2, size, driver=driver)
        for index, (driver, prefix) in enumerate(
            (("threads", "threads-"), ("shared-vm", "threads-shared-vm-"), ("processes", "process-"))
        )
        for further, (name, queues, size) in enumerate(
            (("many-", 1, ""), ("many-execqueues-", 2, ""), ("many-large-", 1, "large"))
        )
    ),
]


class Procedure:
    """P-EXEC once, by one thread."""

    def __init__(self, bench: SystemAllocator, section: Section, shape: Shape, scale: Scale, thread: int = 0) -> None:
        self.bench = bench
        self.world = bench.world
        self.process = bench.process
        self.memory = bench.memory
        self.section = section
        self.shape = shape
        self.scale = scale
        self.thread = thread
        self.buffer: Buffer
        self.old: list[Buffer] = []
        """Buffers that are kept until the end."""
        self.fence_page: Buffer | None = None
        self.file: Any = None
        self.magic = count(value_of(thread) << 16)
        self.ahead = b""
        """eocheck: the next batch, already written."""

    # -- memory ----------------------------------------------------------------------------------------

    @property
    def align(self) -> int:
        """Of buffers; the default of a part with device memory is 64K.

        What an object is bound over has ranges to itself, as upstream, where a thread's heap is not its neighbour's.
        """
        if self.section.has("bo"):
            return self.scale.large * PAGE
        size = {"large": self.scale.large, "middle": self.scale.middle}.get(self.shape.size, self.scale.middle)
        return size * PAGE

    @property
    def length(self) -> int:
        """B."""
        if self.shape.size:
            return self.align * (4 if self.section.has("multi") else 1)
        records = self.shape.execs * (self.shape.stride or 1)
        return round_up(records * RECORD + PREFETCH_PAD, self.align)

    async def allocate(self, kind: str) -> Buffer:
        """A buffer, filled unless the section leaves that out."""
        if kind == "heap":
            buffer = await self.memory.malloc(self.length, self.align)
        else:
            if kind == "file":
                self.file = self.world.file(self.section.name)
            buffer = await self.memory.mmap(self.length, self.align, kind, self.file)
        if not self.section.has("nomemset"):
            await self.process.write(buffer.addr, bytes([FILL]) * buffer.length)
        return buffer

    def record(self, index: int, buffer: Buffer | None = None) -> int:
        """Address of the record of an exec."""
        slot = 0 if self.section.renews and not self.shape.stride else index * (self.shape.stride or 1)
        return (buffer or self.buffer).addr + slot * RECORD

    # -- the procedure ------------------------------------------------------------------------------------

    async def run(self, *, private: bool = True) -> None:
        """All of it.  With a VM of its own that is bound here and closed at the end."""
        await self.prepare(private)
        for index in range(self.shape.execs):
            await self.step(index)
        if self.section.has("busy"):
            await self.unbind_in_use()
        await self.finish()
        if private:
            await self.bench.vm.close()

    async def prepare(self, private: bool) -> None:
        """Steps 2 to 6."""
        bench, section = self.bench, self.section
        self.buffer = await self.allocate(section.kind)
        if section.locked:
            await self.process.mlock(self.buffer.addr, self.buffer.length)
        await bench.create_queues(self.shape.queues)
        if private:
            sync_addr = self.record(0) + VM_SYNC
            await bench.bind_everything(sync_addr)
            await self.process.write(sync_addr, bytes(8))
        if not section.has("race"):
            self.fence_page = await self.memory.mmap(PAGE, PAGE, "shared")
            await self.process.write(self.fence_page.addr, bytes([FILL]) * PAGE)
        if section.has("bo"):
            await self.come_and_go()
        if section.has("prefetch") and self.fence_page is not None:
            await bench.prefetch(self.fence_page.addr, PAGE, "system")

    async def come_and_go(self) -> None:
        """An object is mapped in the place of the buffer, and the mirror in the place of the object."""
        vm, buffer = self.bench.vm, self.buffer
        bo = await vm.create_bo(buffer.length)
        sync = await self.bench.signal()
        await self.bench.until_not_busy(lambda: vm.bind(buffer.addr, bo, syncs=[sync]))
        await self.bench.signaled()
        await self.bench.bind_mirror(buffer.addr, buffer.length)
        assert await bo.read(0, buffer.length) == bytes(buffer.length)
        await vm.close_bo(bo)

    async def step(self, index: int) -> None:
        """Step 7, with what the section changes."""
        section, fault_count = self.section, self.bench.faults()
        if section.has("madvise"):
            location = "vram" if index % 2 else "system"
            await self.bench.vm.madvise(self.buffer.addr, self.buffer.length, preferred_location=location)
        if section.has("eocheck"):
            await self.step_moved(index)
            return
        value = value_of(self.thread, index)
        await self.exec(index, await self.write(index, [value]))
        if section.has("prefetch") and self.shape.threads == 1:
            assert self.bench.faults() == fault_count
        if section.has("madvise"):
            self.check_place(index)
        if section.has("fork"):
            await self.read_in_both(index, value)
        if index == 0 and section.locked:
            await self.process.munlock(self.buffer.addr, self.buffer.length)
        if section.has("remap"):
            await self.move(self.memory.reserve(self.buffer.length, self.align))
        await self.check(index, value)
        await self.clear_fence(index)
        if section.renews and index + 1 < self.shape.execs:
            await self.renew()

    async def write(self, index: int, values: list[int], target: Buffer | None = None) -> bytes:
        """Step 7a: the batch that stores the value, or in a multi-fault section four of it."""
        first = self.record(index, target) + DATA
        apart = self.align if self.section.has("multi") else 0
        places = [first + number * apart for number in range(4 if apart else 1)]
        batch = b"".join(store_dword(place, values[0]) for place in places)
        return await self.bench.write_batch(self.record(index), batch)

    async def exec(self, index: int, batch: bytes) -> None:
        """Steps 7b and 7c."""
        if self.section.has("prefetch"):
            await self.bench.prefetch(self.buffer.addr, self.buffer.length)
        queue = self.bench.queues[index % self.shape.queues]
        await self.bench.exec(self.record(index), batch, self.fence(index), next(self.magic), queue)

    def fence(self, index: int) -> int:
        """Where the exec signals: in a page of its own, or in the record."""
        return self.record(index) + EXEC_SYNC if self.fence_page is None else self.fence_page.addr

    async def clear_fence(self, index: int) -> None:
        """Step 7e."""
        if not self.section.renews or self.fence_page is not None:
            await self.process.write(self.fence(index), bytes(8))

    async def check(self, index: int, value: int) -> None:
        """Step 7d."""
        first = self.record(index) + DATA
        for number in range(4 if self.section.has("multi") else 1):
            assert await self.bench.dword(first + number * self.align) == value

    async def finish(self) -> None:
        """Teardown: fence page, queues, buffers."""
        if self.fence_page is not None:
            await self.memory.free(self.fence_page)
        for queue in self.bench.queues:
            await queue.destroy()
        for buffer in (*self.old, self.buffer):
            if buffer.kind == "file":
                await self.check_file(buffer)
            await self.memory.free(buffer)

    # -- what sections change ----------------------------------------------------------------------------

    def check_place(self, index: int) -> None:
        """Placement follows the attribute, where memory can move and nobody else is at it."""
        if self.shape.threads == 1 and self.buffer.kind in ("heap", "mmap"):
            assert self.bench.place(self.record(index)) == ("vram" if index % 2 else "system")

    async def read_in_both(self, index: int, value: int) -> None:
        """A child reads through entries that were copied, while the parent reads."""
        child = await self.process.fork()
        async with self.world.nursery() as nursery:
            for process in (child, self.process):
                nursery.start_soon(expect, process, self.record(index) + DATA, value)
        await child.exit()

    async def move(self, to: int) -> None:
        """mremap; with DONTUNMAP the old place is empty, and then unmapped."""
        old, keeps = self.buffer, self.section.has("dontunmap")
        self.buffer = await self.memory.move(old, to, dontunmap=keeps)
        if keeps:
            assert await self.process.read(old.addr + DATA, 4) == bytes(4)
            await self.process.munmap(old.addr, old.length)
        assert self.bench.place(old.addr) == "none"

    async def step_moved(self, index: int) -> None:
        """Two batches are written, and the memory moves between their execs while it is on the device."""
        values = value_of(self.thread, index), value_of(self.thread, index + 1)
        if index % 2:
            await self.exec(index, self.ahead)
            await self.check(index - 1, value_of(self.thread, index - 1))
            await self.check(index, values[0])
            await self.clear_fence(index)
            return
        to = self.memory.reserve(self.buffer.length, self.align)
        future = attrs.evolve(self.buffer, addr=to)
        batch = await self.write(index, [values[0]])
        self.ahead = await self.write(index + 1, [values[1]], future)
        await self.exec(index, batch)
        await self.move(to)
        await self.clear_fence(index)

    async def renew(self) -> None:
        """The next buffer; the old one goes first, or stays until the end."""
        kind = "shared" if self.section.has("mmap") else "heap"
        if self.section.has("free"):
            await self.memory.free(self.buffer)
        else:
            self.old.append(self.buffer)
        self.buffer = await self.allocate(kind)

    async def unbind_in_use(self) -> None:
        """-EBUSY, and everything is as it was."""
        vm = self.bench.vm
        before = [(vma.addr, vma.end) for vma in vm.vm.vmas()]
        with pytest.raises(EBUSY):
            await self.bench.unbind_everything()
        assert [(vma.addr, vma.end) for vma in vm.vm.vmas()] == before

    async def check_file(self, buffer: Buffer) -> None:
        """Nothing of what was written got into the file."""
        addr = await self.process.mmap(buffer.length, shared=True, file=self.file)
        assert await self.process.read(addr, buffer.length) == bytes(buffer.length)
        await self.process.munmap(addr, buffer.length)


async def expect(process: Process, addr: int, value: int) -> None:
    """A process reads a dword."""
    assert await process.read(addr, 4) == value.to_bytes(4, "little")
