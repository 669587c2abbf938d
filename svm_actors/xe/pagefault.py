"""GPU page faults on their way through the driver (gpusvm section 5).

The interrupt side takes faults from the hardware queue and sorts them into four queues by asid, so that
faults of one VM are served in order and VMs do not wait for each other.  Each queue has one worker, that
serves one fault at a time and acknowledges it exactly once (RULE-30): 0 replays the access, an error
ends the context.

Simplified: the driver's queues are unbounded.  The kernel sizes them for every execution unit to have
eight faults outstanding, so they do not overflow; the bound that matters is the hardware's.  No GT
reset (SVM-R46), no producer NACK, and a worker does not requeue itself after 20 ms.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from svm_actors.engine.channel import Channel
from svm_actors.engine.errors import EINVAL, ENOENT, KernelError
from svm_actors.gpu.fault import PageFault

if TYPE_CHECKING:
    from svm_actors.xe.device import XeDevice
    from svm_actors.xe.svm_host import SvmHost

QUEUE_COUNT = 4
"""XE_PAGEFAULT_QUEUE_COUNT."""


class Pagefaults:
    """Queues and workers of one device.  Nothing runs before the first VM, no worker before its first fault."""

    def __init__(self, device: XeDevice) -> None:
        self.device = device
        self.engine = device.engine
        self.name = f"{device.gpu.name}.pagefault"
        self.queues: list[Channel[PageFault]] = [
            Channel(device.engine, f"{self.name}{index}", capacity=None) for index in range(QUEUE_COUNT)
        ]
        self._started = False
        self._workers: set[int] = set()

    def start(self) -> None:
        """Let interrupts in; calling it again does nothing."""
        if not self._started:
            self._started = True
            self.engine.spawn(self._interrupt(), f"{self.name}.irq", daemon=True)

    async def _interrupt(self) -> None:
        """xe_pagefault_handler: into the queue of its address space."""
        while True:
            fault = await self.device.gpu.fault_queue.receive()
            index = fault.asid % QUEUE_COUNT
            self.queues[index].send_nowait(fault)
            if index not in self._workers:
                self._workers.add(index)
                self.engine.spawn(self._worker(self.queues[index]), f"{self.name}{index}", daemon=True)

    async def _worker(self, queue: Channel[PageFault]) -> None:
        """xe_pagefault_queue_work."""
        while True:
            fault = await queue.receive()
            fault.reply.server = self.engine.current
            fault.ack(await self._errno_of(fault))

    async def _errno_of(self, fault: PageFault) -> int:
        """What to acknowledge with."""
        try:
            await self.service(fault)
        except KernelError as error:
            self.engine.count(f"gpu.fault.refused.{error.code}")
            return error.errno
        return 0

    async def service(self, fault: PageFault) -> None:
        """xe_pagefault_service.

        -EINVAL no such address space or GPU VMA, -ENOENT it is closed, -EPERM the GPU VMA is read-only;
        otherwise what the handler says.
        """
        vm = self.lookup(fault.asid)
        if vm.lock.holders():
            self.engine.count("SVM-R08")
        try:
            async with self.exclusive(vm):
                await self._serve(vm, fault)
        except KernelError as error:
            vm.faults.append((fault.vpn, error.code))
            raise
        finally:
            if self.device.faulting_vm(fault.asid) is not vm:
                self.engine.count("VMB-R24")
            vm.put()

    def lookup(self, asid: int) -> SvmHost:
        """VMB-R24: xe_pagefault_asid_to_vm: found and referenced in one step (VMB-B19).  -EINVAL."""
        vm = self.device.faulting_vm(asid)
        if vm is None:
            self.engine.count("SVM-R47")
            raise EINVAL
        vm.get()
        return vm

    def exclusive(self, vm: SvmHost) -> AbstractAsyncContextManager[object]:
        """SVM-R08: for write, as two faults of one VM would make two ranges of one address (SVM-B45)."""
        return vm.lock.writing()

    async def _serve(self, vm: SvmHost, fault: PageFault) -> None:
        """Under vm->lock for write: two faults of one VM never find or insert at once (SVM-R08)."""
        self.check_open(vm)
        await vm.serve(fault)

    def check_open(self, vm: SvmHost) -> None:
        """SVM-R47: a fault that arrives after the VM was closed.  -ENOENT (SVM-B47)."""
        if vm.closed:
            self.engine.count("SVM-R47")
            raise ENOENT
