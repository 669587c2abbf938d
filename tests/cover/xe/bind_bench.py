"""A bench for VM_BIND tests: worlds with every oracle attached, and small words for what they ask of a VM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svm_bench import BASE, PAGE, VPN

from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import Usage
from svm_actors.gpu.program import Load, Store
from svm_actors.world import BindVm, Process, UserSyncobj, World
from svm_actors.xe.bind_queue import BindQueue
from svm_actors.xe.gem import XeBo


async def start_bind(world: World, mode: Any = "dma_fence") -> tuple[Process, BindVm]:
    """A process and an empty VM."""
    process = world.process()
    return process, await world.gpu().create_vm(process, mode)


def at(index: int) -> int:
    """GPU address of a page from BASE on."""
    return BASE + index * PAGE


def spans(vm: BindVm) -> list[tuple[int, int, str]]:
    """Mappings: first page, one past the last, name of the object and page in it."""
    return [
        (va.addr - VPN, va.end - VPN, "null" if va.obj is None else f"{va.obj.name}+{va.offset}")
        for va in vm.vm.vmas()
    ]


def pages(vm: BindVm, npages: int) -> str:
    """One letter per page of the page table: ``w`` writable, ``r`` read-only, ``-`` nothing."""
    ptes = [vm.vm.page_table.get(VPN + index) for index in range(npages)]
    return "".join("-" if pte is None else "w" if pte.writable else "r" for pte in ptes)


def snapshot(vm: BindVm) -> dict[str, Any]:
    """Everything a failed ioctl must leave as it was (INV-VMB-08)."""
    bind_vm = vm.vm
    return {
        "vmas": [
            (va, va.addr, va.end, va.offset, va.destroyed, va.present, va.staged, va.vm_bo) for va in bind_vm.vmas()
        ],
        "entries": list(bind_vm.page_table.items()),
        "nodes": bind_vm.pt_tree.statistics(),
        "lists": [vm_bo.name for vm_bo in (*bind_vm.gpuvm.extobj, *bind_vm.gpuvm.evicted)],
        "bos": bind_vm.gpuvm.live_bos,
        "rebind": list(bind_vm.rebind_list),
    }  # fmt: skip


async def bind_and_wait(vm: BindVm, addr: int, bo: XeBo | None, **options: Any) -> None:
    """MAP, and wait for the out-fence."""
    out = vm.world.syncobj()
    await vm.bind(addr, bo, syncs=[out.sync_out()], **options)
    await out.wait()


async def unbind_and_wait(vm: BindVm, addr: int, length: int, queue: BindQueue | None = None) -> None:
    """UNMAP, and wait for the out-fence."""
    out = vm.world.syncobj()
    await vm.unbind(addr, length, queue=queue, syncs=[out.sync_out()])
    await out.wait()


def gate(world: World, name: str = "gate") -> tuple[Fence, UserSyncobj]:
    """A fence the test signals, and a syncobj that holds it."""
    fence, syncobj = Fence(world.engine, name), world.syncobj()
    syncobj.replace_fence(fence)
    return fence, syncobj


def store(index: int, data: bytes) -> Store:
    """A store to a page from BASE on."""
    return Store(VPN + index, 0, data)


def load(index: int, length: int) -> Load:
    """A load from a page from BASE on."""
    return Load(VPN + index, 0, length)


def idle(vm: BindVm, usage: Usage = Usage.BOOKKEEP) -> bool:
    """Nothing is pending in the VM's reservation."""
    return vm.vm.resv_dma.test_signaled(usage)


def in_order(fences: Sequence[UserSyncobj]) -> bool:
    """No later one is done before an earlier one."""
    done = [one.done for one in fences]
    return done == sorted(done, reverse=True)
