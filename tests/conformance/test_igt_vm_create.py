"""Cases of the catalogue igt_vm_bind about how a VM is made: scratch pages (section 1) and arguments (section 5)."""

from __future__ import annotations

import pytest
from cases import case
from igt_bench import BASE, PAGE, SUITE, Bench, hold, value_of

from svm_actors.engine.errors import EINVAL, ENOENT
from svm_actors.gpu.program import Store
from svm_actors.world import World
from svm_actors.xe.vm_create import KNOWN_FLAGS, VmCreate, VmDestroy, VmFlag, XeFile

# -- 1: scratch pages ---------------------------------------------------------------------------


async def scratch_bench(world: World) -> Bench:
    """In dma-fence mode, with scratch pages."""
    process = world.process()
    vm = await world.gpu().create_vm(process, "dma_fence", scratch=True)
    return Bench(world, vm, await vm.create_queue(), process)


@case(SUITE, "V2", "bind-one-bo-many-times")
def test_bind_one_bo_many_times() -> None:
    """Eight addresses all over 48 bits, the first and the last page among them; after the unbind, scratch."""

    async def scenario(world: World) -> None:
        bench = await scratch_bench(world)
        bo = await bench.vm.create_bo(PAGE)
        addrs = [0, PAGE, 1 << 21, 1 << 30, 1 << 39, 3 << 45, 1 << 47, (1 << 48) - PAGE]
        live = await bench.bind(BASE + PAGE, bo)
        for index, addr in enumerate(addrs):
            bound = await bench.bind(addr, bo)
            done = await bench.job(addr + 8 * index, value_of(addr), bound)
        await done.wait()
        for index, addr in enumerate(addrs):
            assert await bo.read(8 * index, 4) == value_of(addr)
            await bo.write(8 * index, bytes(4))
            gone = await bench.unbind(addr, PAGE)
        await gone.wait()
        for index, addr in enumerate(addrs):
            done = await bench.job(addr + 8 * index, value_of(addr), live)
        last = await bench.job(BASE + PAGE + 8 * len(addrs), b"live", done)
        await last.wait()
        assert [await bo.read(8 * index, 4) for index in range(len(addrs))] == [bytes(4)] * len(addrs)
        assert await bo.read(8 * len(addrs), 4) == b"live"
        assert "gpu.fault" not in world.engine.counters
        await (await bench.unbind(BASE + PAGE, PAGE)).wait()
        assert (bench.mappings(), bench.nodes()) == (0, 0)

    hold(scenario)


@case(SUITE, "V3", "scratch")
def test_scratch() -> None:
    async def scenario(world: World) -> None:
        bench = await scratch_bench(world)
        bo = await bench.vm.create_bo(PAGE)
        await (await bench.bind(BASE, bo)).wait()
        addrs = [0, PAGE, 1 << 21, 1 << 39, 1 << 47, (1 << 48) - PAGE]
        for addr in addrs:
            job = await bench.vm.submit(bench.queue, [Store(addr // PAGE, 0, value_of(addr))])
            assert await job.wait() == [None]
        assert "gpu.fault" not in world.engine.counters
        assert await bo.read(0, PAGE) == bytes(PAGE)
        assert bench.mappings() == 1

    hold(scenario)


# -- 5: arguments -------------------------------------------------------------------------------


async def refused(client: XeFile, args: VmCreate) -> None:
    """-EINVAL, and no VM was made."""
    with pytest.raises(EINVAL):
        await client.vm_create(args)
    assert client.vms == {}


@case(SUITE, "A1", "invalid-flag-xe_vm_create_fault")
@case(SUITE, "A2", "invalid-flag-xe_vm_create_scratch_fault")
@case(SUITE, "A3", "invalid-flag-xe_vm_create_scratch_fault_lr")
@case(SUITE, "A4", "invalid-extensions")
@case(SUITE, "A5", "vm-create-invalid-reserved")
@pytest.mark.parametrize(
    "args",
    [
        VmCreate(VmFlag.FAULT_MODE),
        VmCreate(VmFlag.SCRATCH_PAGE | VmFlag.FAULT_MODE),
        VmCreate((1 << 32) - 1 & ~KNOWN_FLAGS),
        VmCreate(extensions=(1 << 64) - 1),
        VmCreate(reserved=(0xFFFF, 0)),
        VmCreate(reserved=(0, 0xFFFF)),
    ],
)
def test_arguments_of_create(args: VmCreate) -> None:
    async def scenario(world: World) -> None:
        await refused(world.gpu().open(world.process()), args)

    hold(scenario)


@case(SUITE, "A6", "vm-destroy-invalid-reserved")
@case(SUITE, "A7", "invalid-pad")
@pytest.mark.parametrize("fields", [{"reserved": (0xFFFF, 0)}, {"reserved": (0, 0xFFFF)}, {"pad": 0xFFFF}])
def test_arguments_of_destroy(fields: dict[str, object]) -> None:
    """The VM is still there afterwards."""

    async def scenario(world: World) -> None:
        client = world.gpu().open(world.process())
        vm_id = await client.vm_create(VmCreate())
        with pytest.raises(EINVAL):
            await client.vm_destroy(VmDestroy(vm_id, **fields))  # type: ignore[arg-type]
        await client.vm_destroy(VmDestroy(vm_id))

    hold(scenario)


@case(SUITE, "A8", "invalid-vm-id")
def test_an_unknown_vm() -> None:
    async def scenario(world: World) -> None:
        client = world.gpu().open(world.process())
        with pytest.raises(ENOENT):
            await client.vm_destroy(VmDestroy(0xDEADBEEF))

    hold(scenario)
