"""A bench for buffer objects: the machine of the pagemap tests, as a device and as a VM sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import bo_bench
from bo_bench import Machine

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import DrmGpuvm
from svm_actors.drm.gpuvm_bo import DrmGpuvmBo
from svm_actors.drm.gpuvm_gem import DrmGemObject
from svm_actors.engine.errors import ENOMEM
from svm_actors.xe.gem import XeBo
from svm_actors.xe.pagemap import XePagemap


class Device:
    """What XeBo needs of a device."""

    def __init__(self, machine: Machine) -> None:
        self.engine = machine.engine
        self.gpu = machine.gpus[0]
        self.core = machine.core
        self.region: XePagemap = machine.xe[0]


class Vm:
    """What XeBo needs of a VM: a reservation and a gpuvm."""

    def __init__(self, machine: Machine, name: str = "vm") -> None:
        self.engine = machine.engine
        self.resv_dma = DmaResv(machine.engine, name)
        self.r_obj = DrmGemObject(machine.engine, f"{name}.resv", self.resv_dma)
        self.gpuvm = DrmGpuvm(machine.engine, name, self.r_obj, range_=1 << 20)
        self.r_obj.put_now()
        self.bos: list[tuple[XeBo, DrmGpuvmBo]] = []

    async def locked(self, *bos: XeBo) -> DrmExec:
        """The VM and these objects, locked as an exec locks them; ``fini`` lets go."""
        exec_ = DrmExec(self.engine, "exec", ignore_duplicates=True)

        async def body(exec_: DrmExec) -> None:
            await exec_.lock_obj(self.r_obj)
            for bo in bos:
                await exec_.lock_obj(bo)

        await exec_.until_all_locked(body)
        return exec_

    async def attach(self, bo: XeBo) -> DrmGpuvmBo:
        """Make the VM know the object, as a bind would."""
        with await self.locked(bo):
            vm_bo = await self.gpuvm.vm_bo_obtain_locked(bo.gem)
            await self.gpuvm.vm_bo_extobj_add(vm_bo)
        self.bos.append((bo, vm_bo))
        return vm_bo

    async def close(self) -> None:
        for bo, vm_bo in self.bos:
            with await self.locked(bo):
                await self.gpuvm.vm_bo_put(vm_bo)
        await self.gpuvm.put()


Body = Callable[[Machine, Device], Awaitable[None]]


def _with_device(body: Body) -> Callable[[Machine], Awaitable[None]]:
    async def run(machine: Machine) -> None:
        await body(machine, Device(machine))

    return run


def run(body: Body, strategy: str = "fifo", seed: int | str = 0, **options: Any) -> Machine:
    return bo_bench.run(_with_device(body), strategy, seed, **options)


def every(body: Body, schedules: int = 50, **options: Any) -> Iterator[Machine]:
    return bo_bench.every(_with_device(body), schedules, **options)


async def fill(bo: XeBo, *values: int) -> None:
    """One byte into each page."""
    for page, value in enumerate(values):
        await bo.write(4096 * page, bytes([value]))


async def holds(bo: XeBo, *values: int) -> None:
    """The first byte of each page is this."""
    assert [(await bo.read(4096 * page))[0] for page in range(len(values))] == list(values)


def letter(*bos: XeBo) -> str:
    """One letter per object: ``v`` VRAM, ``r`` RAM, ``-`` nowhere."""
    return "".join("-" if bo.memory is None else "v" if bo.in_vram else "r" for bo in bos)


async def make(device: Device, count: int, **options: Any) -> list[XeBo]:
    """Four pages each; page ``n`` of object ``k`` holds ``10 * k + n + 1``."""
    bos = []
    for number in range(count):
        bo = await XeBo.create(device, f"bo{number}", 4, **options)
        await fill(bo, *(10 * number + page + 1 for page in range(4)))
        bos.append(bo)
    return bos


async def check(bos: list[XeBo]) -> None:
    for number, bo in enumerate(bos):
        await holds(bo, *(10 * number + page + 1 for page in range(4)))


async def put(*bos: XeBo) -> None:
    for bo in bos:
        await bo.put()


async def validate(bo: XeBo) -> str:
    """``ok`` or the error code."""
    await bo.resv.lock()
    try:
        await bo.validate()
    except ENOMEM as error:
        return error.code
    finally:
        bo.resv.unlock()
    return "ok"


async def add_job(bo: XeBo, fence: Fence, usage: Usage = Usage.BOOKKEEP) -> None:
    await bo.resv.lock()
    bo.resv.reserve(1)
    bo.resv.add(fence, usage)
    bo.resv.unlock()
