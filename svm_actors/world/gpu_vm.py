"""A GPU address space that mirrors one process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from svm_actors.gpu.program import AtomicAdd, Instruction, Load, Result, Store
from svm_actors.mm.cpu import pieces
from svm_actors.xe.vm import XeVm

if TYPE_CHECKING:
    from svm_actors.world.world import World


class GpuVm:
    """A GPU address space that mirrors one process."""

    def __init__(self, world: World, vm: XeVm) -> None:
        self.world = world
        self.vm = vm
        self.open = True

    async def run(self, program: Iterable[Instruction]) -> list[Result]:
        """Run a GPU program (``Load``, ``Store``, ``AtomicAdd`` by page) and answer its results."""
        return await self.vm.run(tuple(program))

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
        """Destroy the VM; programs still running are refused."""
        if self.open:
            self.open = False
            await self.vm.close()
