"""MM-B48: the first look at the references of a device page lets one too many pass, and the page is copied for nothing.

The model keeps what 7.3.4 does.  Somebody holds a reference on a page in device memory while an eviction wants to move
it home: the first check allows for a reference that device pages do not have any more, the second one does not.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.mm.page_table import Entry

PAGE = 4096
ADDR = 0x1_0000_0000


async def scenario(world: World) -> None:
    """A page that cannot move should not be copied."""
    process = world.process()
    await process.mmap(PAGE, addr=ADDR, fixed=True)
    vm = await world.gpu().create_vm(process, chunk_pages=(1,))
    await vm.store(ADDR, b"x")
    counters = world.engine.counters
    async with process.holding(ADDR):
        before = counters["gpu.pages_copied"]
        await world.gpu().evict(PAGE)
        copied = counters["gpu.pages_copied"] - before
        entry = process.mm.page_table.get(ADDR // PAGE)
    if copied and entry is not None and entry.kind is Entry.DEVICE_PRIVATE:
        raise PropertyFailed("suspected", "MM-B48", f"{copied} copies were made of a page that stays where it is")
