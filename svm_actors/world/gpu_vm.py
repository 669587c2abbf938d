"""GPU address spaces in fault mode.

:class:`GpuVm` (``create_vm(process, "fault")``) mirrors the whole process and nothing else.

:class:`~svm_actors.world.fault_vm.FaultVm` (``create_vm(process, "fault", mirror=False, **options)``) is empty at
first and is filled with VM_BIND.  It has every verb of :class:`~svm_actors.world.bind_vm.BindVm`, with GPU page
faults behind them, and these besides:

* ``bind_mirror(addr, length, *, flags=0, placement="vram", queue=None, syncs=())``: CPU_ADDR_MIRROR; GPU addresses
  in the range are those of the process, as in a :class:`GpuVm`.
* ``bind`` and ``bind_userptr`` write entries at the first fault, or at once with ``BindFlag.IMMEDIATE``.
* ``prefetch(addr, length, *, region=None)``: ``vram``, ``system``, or wherever it belongs; moves objects and mirrored
  memory there and writes the entries of all that is mapped.
* ``madvise(addr, length, *, preferred_location= | atomic= | pat_index=)`` sets an attribute of mirrored memory, and
  ``query_attributes(addr, length)`` answers what is set.
* ``atomic_add(addr, amount)``; ``load``, ``store`` and ``run`` answer a ``GpuFault`` when a fault is refused.
* ``create_queue`` answers a long-running queue without preempt fences; a refused fault kills it, and waiting for a
  user fence in its name answers -EIO.
* ``unbind`` or ``bind`` over mirrored memory that is in use (the GPU has ranges there) answers -EBUSY; unmap it in
  the process first.

The options are those of a mirroring VM (``notifier_pages``, ``chunk_pages``, ``check_pages_threshold``, ``write_bit``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from svm_actors.gpu.program import Instruction, Result
from svm_actors.world.address_space import AddressSpace
from svm_actors.xe.vm import XeVm

if TYPE_CHECKING:
    from svm_actors.world.world import World


class GpuVm(AddressSpace):
    """A GPU address space that mirrors one process.  Programs still running when it is closed are refused."""

    def __init__(self, world: World, vm: XeVm) -> None:
        super().__init__(world)
        self.vm: XeVm = vm

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a GPU program.  -ENOENT when it is closed, -EINVAL for a bad one."""
        return await self.vm.run(tuple(program))
