"""A GPU address space in fault mode that user space fills: see :mod:`svm_actors.world.gpu_vm` for its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from svm_actors.world.bind_vm import BindVm
from svm_actors.world.process import pages_of
from svm_actors.xe.engine_group import add_faulting_queue
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.vm_bind import BindKind, BindOp

if TYPE_CHECKING:
    from svm_actors.world.world import World
    from svm_actors.xe.bind_queue import BindQueue
    from svm_actors.xe.sync import Sync


class FaultVm(BindVm):
    """Objects, user memory, null mappings and mirrored memory side by side.

    Addresses, lengths and offsets are bytes, multiples of the page size.
    """

    vm: XeFaultVm

    def __init__(self, world: World, vm: XeFaultVm) -> None:
        super().__init__(world, vm)

    async def bind_mirror(
        self,
        addr: int,
        length: int,
        *,
        flags: int = 0,
        placement: str = "vram",
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """MAP with CPU_ADDR_MIRROR: these addresses are the process's.  -EINVAL beyond them."""
        await self.bind_array([self.mirror_op(addr, length, flags, placement)], queue=queue, syncs=syncs)

    @staticmethod
    def mirror_op(addr: int, length: int, flags: int = 0, placement: str = "vram") -> BindOp:
        """One MAP with CPU_ADDR_MIRROR for :meth:`bind_array`."""
        return BindOp(BindKind.MAP_MIRROR, pages_of(addr), pages_of(length), flags=flags, placement=placement)

    async def prefetch(
        self,
        addr: int,
        length: int,
        *,
        region: str | None = None,
        queue: BindQueue | None = None,
        syncs: Sequence[Sync] = (),
    ) -> None:
        """PREFETCH to ``vram``, ``system`` or, without a region, to where it belongs; entries are written.

        -EINVAL for an object that may not be there.
        """
        op = BindOp(BindKind.PREFETCH, pages_of(addr), pages_of(length), region=region)
        await self.bind_array([op], queue=queue, syncs=syncs)

    async def create_queue(self) -> ExecQueue:
        """A queue to submit programs to.  It is off while jobs with a dma-fence run; a refused fault kills it."""
        return await add_faulting_queue(self.vm, self.vm.device)
