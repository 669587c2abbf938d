"""Copies that fail (core_mm section 9.3)."""

from __future__ import annotations

from svm_actors.mm.constants import PAGE_SIZE
from svm_actors.mm.messages import SIGBUS
from svm_actors.workload.witness import witness
from svm_actors.world import Process, World


@witness("PGM-R25")
async def copy_home_that_fails(world: World) -> None:
    """The copy engine fails while a CPU fault brings a page home: the fault fails, or the data is there."""
    process = world.process()
    addr = await process.mmap(PAGE_SIZE)
    await process.write(addr, b"a")
    device = world.gpu()
    vm = await device.create_vm(process)
    await vm.store(addr, b"b")
    device.gpu.copy.fail_next = 1
    async with world.nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(_read, process, addr, name="reader")
    await _read(process, addr)


async def _read(process: Process, addr: int) -> None:
    """What cannot be had is no data, and above all not the wrong data."""
    try:
        await process.read(addr)
    except SIGBUS:
        process.world.engine.count("cpu.sigbus")
