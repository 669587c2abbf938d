"""What the witnesses about VM_BIND share: words for what a client asks of a VM, and what it may rely on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuFault, Load, Spin, Store
from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.xe.sync import Sync

if TYPE_CHECKING:
    from svm_actors.gpu.program import Step
    from svm_actors.world import BindVm, FaultVm, Process, World
    from svm_actors.world.bind_vm import UserSyncobj
    from svm_actors.xe.exec import Execution
    from svm_actors.xe.exec_queue import ExecQueue
    from svm_actors.xe.gem import XeBo

PAGE: Final = PAGE_SIZE
VPN: Final = 0x100000
"""First page that these scenarios map."""
FAR: Final = 1024
"""So many pages further there is another page-table node."""
US: Final = 1_000
MS: Final = 1_000_000
"""Virtual ns."""


def at(index: int) -> int:
    """GPU address of a page."""
    return (VPN + index) * PAGE


def expect(holds: bool, rule: str, text: str) -> None:
    """What a client may rely on; PropertyFailed of the oracle ``binds`` when it is not so."""
    if not holds:
        raise PropertyFailed("binds", rule, text)


def load(index: int, length: int = 1) -> Load:
    """Of the first bytes of a page."""
    return Load(VPN + index, 0, length)


def store(index: int, data: bytes) -> Store:
    """To the first bytes of a page."""
    return Store(VPN + index, 0, data)


def spin(ns: int = 100) -> Spin:
    """The job takes its time."""
    return Spin(ns)


def gate(world: World) -> tuple[Fence, UserSyncobj]:
    """A fence that the scenario signals, and a syncobj that holds it."""
    fence, syncobj = Fence(world.engine, world.core.new_name("gate")), world.syncobj()
    syncobj.replace_fence(fence)
    return fence, syncobj


async def open_gate(world: World, fence: Fence) -> None:
    """Whatever waits for it goes on."""
    await world.engine.step("fence_signal", fence)
    fence.signal()


async def bound(vm: BindVm, addr: int, bo: XeBo | None, **options: Any) -> None:
    """MAP, and wait for the out-fence."""
    out = vm.world.syncobj()
    await vm.bind(addr, bo, syncs=[out.sync_out()], **options)
    await out.wait()


async def user_bound(vm: BindVm, addr: int, user_addr: int, length: int, **options: Any) -> None:
    """MAP of user memory, and wait for the out-fence."""
    out = vm.world.syncobj()
    await vm.bind_userptr(addr, user_addr, length, syncs=[out.sync_out()], **options)
    await out.wait()


async def lr_bound(process: Process, vm: BindVm, addr: int, bo: XeBo, signal: int) -> None:
    """The same in a long-running VM, with a user fence at ``signal``."""
    ufence = vm.user_fence(process, signal, 1)
    await vm.bind(addr, bo, syncs=[Sync(user_fence=ufence, signal=True)])
    await ufence.written.wait()


async def results(job: Execution, rule: str) -> list[Any]:
    """Wait for a job that must succeed; none of its accesses may fault."""
    await job.fence.wait()
    faulted = [one for one in job.batch.results if isinstance(one, GpuFault)]
    expect(not faulted, rule, "a job faults on what is mapped as long as it runs")
    return await job.wait()


async def run(vm: BindVm, queue: ExecQueue, *program: Step, rule: str) -> list[Any]:
    """Submit a job that must succeed, and wait for it."""
    return await results(await vm.submit(queue, program), rule)


async def machine(world: World, mode: Any = "dma_fence") -> tuple[Process, BindVm]:
    """A process and an empty VM."""
    process = world.process()
    vm: BindVm = await world.gpu().create_vm(process, mode)
    return process, vm


async def faulting(world: World) -> tuple[Process, FaultVm]:
    """A process and an empty VM in fault mode."""
    process = world.process()
    return process, await world.gpu().create_vm(process, "fault", mirror=False)


async def later(world: World, verb: Callable[..., Coroutine[Any, Any, Any]], *args: Any, most: int = 40) -> None:
    """Some time later: how much is a choice."""
    await world.sleep(world.choose(most, "pause"))
    await verb(*args)
