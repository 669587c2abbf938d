"""What every GPU address space can do: run programs on the compute engine, and be closed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from svm_actors.gpu.program import AtomicAdd, Instruction, Load, Result, Store
from svm_actors.mm.cpu import pieces

if TYPE_CHECKING:
    from svm_actors.world.world import World


class Closable(Protocol):
    """The driver's side of it."""

    async def close(self) -> None:
        """xe_vm_close_and_put."""


class AddressSpace:
    """One address space; single accesses are programs of one instruction."""

    vm: Closable

    def __init__(self, world: World) -> None:
        self.world = world
        self.open = True

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a GPU program (``Load``, ``Store``, ``AtomicAdd`` by page) and answer its results."""
        raise NotImplementedError

    async def load(self, addr: int, length: int = 1) -> bytes | Result:
        """GPU load of bytes inside one page; a refused fault answers a ``GpuFault``."""
        ((vpn, offset, size),) = pieces(addr, length)
        return (await self.run([Load(vpn, offset, size)]))[-1]

    async def store(self, addr: int, data: bytes) -> Result:
        """GPU store of bytes inside one page."""
        ((vpn, offset, _size),) = pieces(addr, len(data))
        return (await self.run([Store(vpn, offset, data)]))[-1]

    async def atomic_add(self, addr: int, amount: int) -> Result:
        """GPU atomic on four bytes; answers what was there."""
        ((vpn, offset, _size),) = pieces(addr, 4)
        return (await self.run([AtomicAdd(vpn, offset, amount)]))[-1]

    async def close(self) -> None:
        """Destroy the VM, once; calling it again does nothing."""
        if self.open:
            self.open = False
            await self.vm.close()
