"""SVM-S10, case b: an array is finished although its page-table work was given up.

The model drops a range whose pages have gone by the last look before the commit, and carries out the rest of the array.
What 7.3.4 is suspected to do is put in its place here: the page-table work of the whole array is given up, and its
operations are then finished as if it had been done.  The object that was unmapped loses its last reference while the
GPU still has entries for it.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.drm.exec import DrmExec
from svm_actors.engine.errors import ENODATA, KernelError
from svm_actors.xe.fault_bind import FaultIoctl
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.svm_prefetch import give_up
from svm_actors.xe.vm_bind import BindKind, BindOp, Ioctl

PAGE = 4096
ADDR = 0x1_0000_0000
OBJECT = ADDR + 16 * PAGE
CONFIG = Config(vram_pages=2)


def nothing_to_do(_vm: XeFaultVm, _error: KernelError) -> None:
    """-ENODATA."""
    raise ENODATA


async def finish_in_any_case(ioctl: FaultIoctl) -> None:
    """What was given up is finished here and now, and nothing is left to carry out."""
    try:
        await Ioctl.execute(ioctl)
    except ENODATA:
        with DrmExec(ioctl.engine, "abandoned", ignore_duplicates=True) as exec_:
            await exec_.until_all_locked(ioctl._lock_and_prep)
            await ioctl._fini([])
        ioctl.bind_ops.ops.clear()


async def scenario(world: World) -> None:
    """An object is unmapped and its handle closed; nobody should reach its memory afterwards.

    The same array prefetches memory that the process drops at that moment.
    """
    world.engine.parts.replace(give_up, lambda _original: nothing_to_do)
    world.engine.parts.replace_guard(FaultIoctl, "execute", finish_in_any_case)
    process = world.process()
    await process.mmap(PAGE, addr=ADDR, fixed=True)
    await process.write(ADDR, b"x")
    vm = await world.gpu().create_vm(process, mirror=False, chunk_pages=(1,), check_pages_threshold=0)
    await vm.bind_mirror(ADDR, PAGE)
    bo = await vm.create_bo(PAGE, placement="system")
    await vm.bind(OBJECT, bo)
    await vm.store(OBJECT, b"x")
    prefetch = BindOp(BindKind.PREFETCH, ADDR // PAGE, 1, region="system")

    async def bind() -> None:
        await vm.bind_array([vm.unmap_op(OBJECT, PAGE), prefetch])

    async def drop() -> None:
        await process.madvise(ADDR, PAGE, "dontneed")

    async with world.nursery() as nursery:
        nursery.start_soon(bind)
        nursery.start_soon(drop)
    await vm.close_bo(bo)
    await world.settle()
    await vm.load(OBJECT)
