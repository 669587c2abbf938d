"""Pages of one range in several places, and what must come of it: all in one, where they were asked for, or neither."""

from __future__ import annotations

from svm_actors.engine.errors import EAGAIN, EIO
from svm_actors.gpu.program import GpuFault, GpuStuck
from svm_actors.mm.constants import PAGE_SIZE, Vm
from svm_actors.mm.page_table import Entry
from svm_actors.workload.witness import witness
from svm_actors.workload.witnesses.svm_arena import ONE, TWO, arena, at, expect, must_succeed
from svm_actors.world import Config, Process, World
from svm_actors.xe.svm_fault import ATOMIC_TIMESLICE_NS
from svm_actors.xe.vm_bind import BindFlag

REPLAYS = 20
"""More than any fault needs when nobody else is at work."""


@witness("SVM-R11 SVM-R43 SVM-R44", Config(gpus=2, vram_pages=1))
async def mixed_placement(world: World) -> None:
    """A GPU maps two pages as one, of which another GPU, whose memory it can reach, has one."""
    world.connect(0, 1)
    process = await arena(world, 2)
    one = await world.gpu(0).create_vm(process, **ONE)
    two = await world.gpu(1).create_vm(process, **TWO)
    taken = world.choose(2, "page")
    must_succeed(await one.store(at(taken), b"x"))
    for page in range(2):
        must_succeed(await two.load(at(page)))


@witness("SVM-R11 SVM-R55", Config(vram_pages=2))
async def mixed_user_memory(world: World) -> None:
    """Memory of the process, of which one page is in device memory, is bound as user memory."""
    process = await arena(world, 2)
    device = world.gpu()
    mirror = await device.create_vm(process, **ONE)
    must_succeed(await mirror.store(at(1), b"x"))
    faulting = await device.create_vm(process, mirror=False)
    await faulting.bind_userptr(at(0), at(0), 2 * PAGE_SIZE, flags=BindFlag.IMMEDIATE)
    for page in range(2):
        must_succeed(await faulting.load(at(page)))


@witness("SVM-R55", Config(vram_pages=2))
async def user_memory_comes_home(world: World) -> None:
    """The same for a VM without faults: it can map no device page, so all of them are brought home."""
    process = await arena(world, 2)
    device = world.gpu()
    mirror = await device.create_vm(process, **ONE)
    must_succeed(await mirror.store(at(1), b"x"))
    jobs = await device.create_vm(process, "dma_fence")
    await jobs.bind_userptr(at(0), at(0), 2 * PAGE_SIZE)


@witness("SVM-R10 SVM-R53")
async def an_atomic_on_system_memory(world: World) -> None:
    """Memory that the GPU uses where it is, in RAM, is used for an atomic, which works in device memory only."""
    process = await arena(world, 1)
    device = world.gpu()
    device.gpu.compute.replay_limit = REPLAYS
    vm = await device.create_vm(process, placement="system", **ONE)
    must_succeed(await vm.store(at(0), b"\1\0\0\0"))
    must_succeed(await vm.atomic_add(at(0), 2))
    expect((await process.read(at(0)))[0] == 3, "SVM-R10", "the atomic is not to be seen in memory")


@witness("SVM-R53")
async def an_atomic_on_a_file(world: World) -> None:
    """Memory of a file stays in RAM, so an atomic on it is refused."""
    process = world.process()
    await process.mmap(PAGE_SIZE, addr=at(0), fixed=True, file=world.file("data"), shared=True)
    device = world.gpu()
    device.gpu.compute.replay_limit = REPLAYS
    vm = await device.create_vm(process, **ONE)
    must_succeed(await vm.store(at(0), b"x"))
    result = await vm.atomic_add(at(0), 1)
    expect(isinstance(result, GpuFault), "SVM-R53", f"an atomic on memory of a file is not refused: {result}")


@witness("SVM-R55")
async def system_memory_is_preferred(world: World) -> None:
    """Pages in device memory are used through a VM that prefers them in RAM."""
    process = await arena(world, 2)
    device = world.gpu()
    one = await device.create_vm(process, **ONE)
    two = await device.create_vm(process, placement="system", **ONE)
    for page in range(2):
        must_succeed(await one.store(at(page), b"x"))
    for page in range(2):
        must_succeed(await two.load(at(page)))
    for page in range(2):
        entry = process.mm.page_table.get(at(page) // PAGE_SIZE)
        expect(entry is not None and entry.kind is Entry.PRESENT, "SVM-R55", f"page {page} is not in RAM: {entry}")


@witness("SVM-R38")
async def fork_of_device_memory(world: World) -> None:
    """A process forks, the GPU goes on writing its pages in device memory, and the child looks."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, **ONE)
    must_succeed(await vm.store(at(0), b"a"))
    child = await process.fork()
    must_succeed(await vm.store(at(0), b"b"))
    expect(await child.read(at(0)) == b"a", "SVM-R38", "the child reads what the GPU wrote for its parent")


@witness("SVM-R32")
async def reaped_while_mirrored(world: World) -> None:
    """The OOM reaper wants memory that a GPU mirrors; nobody may sleep for it, so it is refused."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, **ONE)
    must_succeed(await vm.load(at(0)))
    await _reap(process)


@witness("SVM-R32 SVM-R53")
async def an_atomic_in_a_reaped_process(world: World) -> None:
    """A GPU goes on with memory of a process that is being reaped: nothing is found there any more."""
    process = await arena(world, 2)
    device = world.gpu()
    device.gpu.compute.replay_limit = 2
    vm = await device.create_vm(process, **ONE)
    must_succeed(await vm.load(at(0)))
    await _reap(process)
    result = await vm.atomic_add(at(1), 1)
    expect(isinstance(result, GpuFault | GpuStuck), "SVM-R53", f"the GPU uses memory that is reaped: {result}")


async def _reap(process: Process) -> None:
    try:
        await process.oom_reap()
    except EAGAIN:
        return
    expect(False, "SVM-R32", "memory that a GPU mirrors was reaped")


@witness("SVM-R10")
async def the_cpu_wants_it_back(world: World) -> None:
    """The CPU reads what an atomic has brought to device memory; it has to wait until the GPU has had its time."""
    process = await arena(world, 1)
    vm = await world.gpu().create_vm(process, **ONE)
    before = world.engine.now
    must_succeed(await vm.atomic_add(at(0), 1))
    await process.read(at(0))
    waited = world.engine.now - before
    expect(waited >= ATOMIC_TIMESLICE_NS, "SVM-R10", f"the CPU has the page back after {waited} ns")


@witness("SVM-R54")
async def a_small_allocation(world: World) -> None:
    """The CPU has touched one page of 16, and the GPU uses that: the others stay untouched."""
    process = await arena(world, 16, written=1)
    vm = await world.gpu().create_vm(process, placement="system")
    must_succeed(await vm.load(at(0)))
    touched = [page for page in range(16) if process.mm.page_table.get(at(page) // PAGE_SIZE) is not None]
    expect(touched == [0], "SVM-R54", f"a fault on page 0 has populated pages {touched}")


@witness("SVM-R53")
async def a_fault_on_device_registers(world: World) -> None:
    """The GPU touches an address where the process has mapped memory of a device."""
    process = await arena(world, 1, written=0)
    vma = process.mm.vmas.find(at(0) // PAGE_SIZE)
    assert vma is not None
    vma.flags |= Vm.IO | Vm.PFNMAP
    vm = await world.gpu().create_vm(process, **ONE)
    result = await vm.load(at(0))
    expect(result == GpuFault(EIO.errno), "SVM-R53", f"a fault on memory of a device ends with {result}")


@witness("SVM-R09")
async def an_atomic_on_a_range_in_pieces(world: World) -> None:
    """An atomic wants two pages in one allocation, and one of them is in another allocation already."""
    process = await arena(world, 2)
    device = world.gpu()
    one = await device.create_vm(process, **ONE)
    two = await device.create_vm(process, **TWO)
    must_succeed(await one.store(at(1), b"x"))
    must_succeed(await two.atomic_add(at(0), 1), "SVM-R09")


@witness("SVM-R54")
async def device_memory_in_64k(world: World) -> None:
    """Where device memory comes in 64 KiB, a range of that size goes there and a smaller one does not."""
    process = await arena(world, 17)
    device = world.gpu()
    device.driver.needs_64k = True
    vm = await device.create_vm(process)
    for page, kind in ((0, Entry.DEVICE_PRIVATE), (16, Entry.PRESENT)):
        must_succeed(await vm.load(at(page)))
        entry = process.mm.page_table.get(at(page) // PAGE_SIZE)
        found = None if entry is None else entry.kind
        expect(found is kind, "SVM-B12", f"page {page} is {found}, not {kind}")


@witness("SVM-R09 SVM-R10 PGM-R14", Config(gpus=2, vram_pages=4))
async def atomics_of_two_devices(world: World) -> None:
    """Two GPUs, neither of which reaches the memory of the other one, want the same two pages for atomics."""
    process = await arena(world, 2)
    vms = [await world.gpu(index).create_vm(process, **TWO) for index in range(2)]

    async def add(index: int) -> None:
        for page in (0, 1):
            must_succeed(await vms[index].atomic_add(at(page), 1), "PGM-R14")

    async with world.nursery() as nursery:
        for index in range(2):
            nursery.start_soon(add, index, name=f"gpu{index}")


@witness("SVM-R18")
async def to_a_device_and_wanted_at_once(world: World) -> None:
    """The CPU reads and drops pages while they are brought to the device: they may be gone before that is through."""
    process = await arena(world, 1)
    vm = await world.gpu().create_vm(process, **ONE)

    async def want() -> None:
        for _ in range(3):
            await process.read(at(0))
            await process.madvise(at(0), PAGE_SIZE, "dontneed")
            await process.write(at(0), b"x")

    async with world.nursery() as nursery:
        nursery.start_soon(want, name="cpu")
        for _ in range(2):
            must_succeed(await vm.load(at(0)))


@witness("SVM-R37")
async def permissions_cut_a_range(world: World) -> None:
    """Half of a range becomes read-only for the CPU while the GPU uses the other half, and writable again."""
    process = await arena(world, 2)
    vm = await world.gpu().create_vm(process, placement="system", **TWO)
    must_succeed(await vm.load(at(0)))

    async def cut() -> None:
        await process.mprotect(at(1), PAGE_SIZE, "r")
        await process.mprotect(at(1), PAGE_SIZE, "rw")

    async with world.nursery() as nursery:
        nursery.start_soon(cut, name="cpu")
        for _ in range(2):
            must_succeed(await vm.load(at(0)))
