"""A GPU address space in fault mode that user space fills: see :mod:`svm_actors.world.gpu_vm` for its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from svm_actors.engine.errors import EINVAL
from svm_actors.world.bind_vm import BindVm
from svm_actors.world.process import pages_of
from svm_actors.xe.engine_group import add_faulting_queue
from svm_actors.xe.exec_queue import ExecQueue
from svm_actors.xe.fault_vm import XeFaultVm
from svm_actors.xe.madvise import Attribute, Madvise, madvise, query_mem_range_attrs
from svm_actors.xe.vm_attr import LOCATIONS, Atomic, MigrationPolicy
from svm_actors.xe.vm_bind import BindKind, BindOp

if TYPE_CHECKING:
    from svm_actors.world.world import World
    from svm_actors.xe.bind_queue import BindQueue
    from svm_actors.xe.sync import Sync
    from svm_actors.xe.vm_attr import MemRangeAttr


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

    async def madvise(
        self,
        addr: int,
        length: int,
        *,
        preferred_location: str | None = None,
        migration_policy: str = "all_pages",
        atomic: str | None = None,
        pat_index: int | None = None,
    ) -> None:
        """Set one attribute of mirrored memory; splits the mirror mapping, moves nothing.

        ``preferred_location``: ``vram`` or ``system``, with ``migration_policy`` ``all_pages`` or
        ``only_system_pages``; ``atomic``: ``undefined``, ``device``, ``global`` or ``cpu``; ``pat_index``.
        -EINVAL for anything else, for none or several of them, and for what is not page-aligned.
        """
        await self.madvise_ioctl(
            madvise_args(addr, length, preferred_location, migration_policy, atomic, pat_index)
        )

    async def madvise_ioctl(self, args: Madvise) -> None:
        """The same with the ioctl's own arguments.  -EINVAL, -ENOENT."""
        await madvise(self.vm, args)

    async def query_attributes(self, addr: int, length: int) -> list[MemRangeAttr]:
        """What is set on every mapping that overlaps, in order of address.  -EINVAL, -ENOENT."""
        return await query_mem_range_attrs(self.vm, addr, length)

    async def create_queue(self) -> ExecQueue:
        """A queue to submit programs to.  It is off while jobs with a dma-fence run; a refused fault kills it."""
        return await add_faulting_queue(self.vm, self.vm.device)


def madvise_args(
    addr: int, length: int, location: str | None, policy: str, atomic: str | None, pat_index: int | None
) -> Madvise:
    """Names as numbers.  -EINVAL unless exactly one attribute is given, by a name there is."""
    if [location, atomic, pat_index].count(None) != 2:
        raise EINVAL
    if pat_index is not None:
        return Madvise(addr, length, Attribute.PAT, pat_index=pat_index)
    if atomic is not None:
        return Madvise(addr, length, Attribute.ATOMIC, atomic=_member(Atomic, atomic))
    fds = [fd for fd, name in LOCATIONS.items() if name == location]
    if not fds:
        raise EINVAL
    policy_bits = _member(MigrationPolicy, policy)
    return Madvise(addr, length, Attribute.PREFERRED_LOC, devmem_fd=fds[0], migration_policy=policy_bits)


def _member(kind: type[IntEnum], name: str) -> int:
    if name.upper() not in kind.__members__:
        raise EINVAL
    return kind[name.upper()]
