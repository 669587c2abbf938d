"""The bench of the catalogue kfd_svm: memory of a process registered with a GPU, and dword copies by the GPU.

Registering a range with a location is VM_BIND's CPU_ADDR_MIRROR with a preferred placement on a VM in fault mode
(XNACK on).  Prefetching is PREFETCH.  Scaled down: the cases' buffers are a few pages, in the same ratio to the VRAM.
"""

from __future__ import annotations

from typing import Any

from igt_bench import BASE, PAGE

from svm_actors.gpu.address import Proto
from svm_actors.gpu.program import GpuFault, Load, Store
from svm_actors.world import FaultVm, Process, World
from svm_actors.xe.gem import XeBo

SUITE = "kfd_svm"
SECOND = 1_000_000_000


class Svm:
    """A process with one VM in fault mode."""

    def __init__(self, world: World, process: Process, vm: FaultVm) -> None:
        self.world = world
        self.process = process
        self.vm = vm

    @classmethod
    async def start(cls, world: World, process: Process | None = None, **options: Any) -> Svm:
        """Options are those of the VM."""
        process = process or world.process()
        return cls(world, process, await world.gpu().create_vm(process, "fault", mirror=False, **options))

    async def map(self, npages: int, addr: int = BASE) -> int:
        """Anonymous memory at a place of our own, with nothing behind it."""
        return await self.process.mmap(npages * PAGE, addr=addr, fixed=True)

    async def register(self, addr: int, npages: int, location: str = "system") -> None:
        """Set the preferred location of pages, and give the GPU access to them."""
        await self.vm.bind_mirror(addr, npages * PAGE, placement=location)

    async def prefetch(self, addr: int, npages: int, location: str = "vram") -> None:
        """Move pages, and map them."""
        await self.vm.prefetch(addr, npages * PAGE, region=location)

    # -- the GPU -----------------------------------------------------------------------------

    async def copy(self, source: int, target: int) -> None:
        """The dispatch that copies one dword."""
        word = await self.vm.load(source, 4)
        assert isinstance(word, bytes), word
        assert await self.vm.store(target, word) is None

    async def gpu_read(self, addr: int, npages: int) -> list[bytes]:
        """The first dword of each page, as the GPU finds it."""
        found = await self.vm.run([Load(addr // PAGE + index, 0, 4) for index in range(npages)])
        assert not any(isinstance(word, GpuFault) for word in found), found
        return [word for word in found if isinstance(word, bytes)]

    async def gpu_write(self, addr: int, words: list[bytes]) -> None:
        """A first dword for each page."""
        found = await self.vm.run([Store(addr // PAGE + index, 0, word) for index, word in enumerate(words)])
        assert found == [None] * len(words)

    # -- the CPU -----------------------------------------------------------------------------

    async def cpu_read(self, addr: int, npages: int) -> list[bytes]:
        """The first dword of each page, as the CPU finds it."""
        return [await self.process.read(addr + index * PAGE, 4) for index in range(npages)]

    async def cpu_write(self, addr: int, words: list[bytes]) -> None:
        """A first dword for each page."""
        for index, word in enumerate(words):
            await self.process.write(addr + index * PAGE, word)

    # -- what there is -------------------------------------------------------------------------

    def mapped(self, addr: int, npages: int) -> str:
        """Where the GPU's entries lead: ``none``, ``system``, ``vram``, or ``mixed``."""
        table, first = self.vm.vm.page_table, addr // PAGE
        found = sorted({place_of(table.get(page)) for page in range(first, first + npages)})
        return found[0] if len(found) == 1 else "mixed"

    def registered(self) -> list[tuple[int, int, str]]:
        """First page, pages and location of what is registered, in order of address."""
        found = []
        for vma in self.vm.vm.vmas():
            assert vma.mirror is not None
            found.append((vma.addr, vma.end - vma.addr, vma.mirror.preferred_loc))
        return found

    def ranges(self) -> list[tuple[int, int]]:
        """SVM ranges as [first, end) pages, neighbours joined; no two may overlap."""
        joined: list[tuple[int, int]] = []
        for range_ in self.vm.vm.svm.gpusvm.ranges(0, 1 << 40):
            start, end = range_.start, range_.end
            if joined and start <= joined[-1][1]:
                assert start == joined[-1][1], "ranges overlap"
                start = joined.pop()[0]
            joined.append((start, end))
        return joined

    def faults(self) -> int:
        """GPU page faults so far."""
        return int(self.world.gpu().gpu.fault_queue.statistics()["faults"])


def place_of(entry: Any) -> str:
    if entry is None:
        return "none"
    return "vram" if entry.dma.proto is Proto.VRAM else "system"


def vram_in_use(world: World) -> int:
    """Pages of VRAM that somebody has."""
    return world.gpu().driver.statistics()["vram_pages"]


def word(number: int) -> bytes:
    """A dword that is never zero."""
    return (number * 2654435761 % (1 << 32) | 1).to_bytes(4, "little")


def words(number: int, count: int) -> list[bytes]:
    """One for each page; different for each ``number`` below 1000."""
    return [word(number * 1009 + index) for index in range(count)]


async def bo_words(bo: XeBo) -> list[bytes]:
    """The first dword of each page of an object."""
    return [await bo.read(index * PAGE, 4) for index in range(bo.npages)]
