"""SVM-S17: what is left of a partly unmapped range stays in device memory.

The model keeps what 7.3.4 does.  A program cannot tell, as every read stays coherent; what is looked at here is the
placement that the interface of the SVM core asks its drivers for.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.page_table import Entry

PAGE = 4096
ADDR = 0x1_0000_0000


async def scenario(world: World) -> None:
    """Four pages in device memory, of which the second is unmapped; when all is quiet the others should be in RAM."""
    process = world.process()
    await process.mmap(4 * PAGE, addr=ADDR, fixed=True)
    vm = await world.gpu().create_vm(process, chunk_pages=(4, 1), check_pages_threshold=0)
    await vm.store(ADDR, b"x")
    await process.munmap(ADDR + PAGE, PAGE)
    await world.settle()
    entries = [process.mm.page_table.get(ADDR // PAGE + page) for page in (0, 2, 3)]
    left = sum(entry is not None and entry.kind is Entry.DEVICE_PRIVATE for entry in entries)
    if left:
        raise PropertyFailed("suspected", "SVM-S17", f"{left} pages of a range that is gone are in device memory")
