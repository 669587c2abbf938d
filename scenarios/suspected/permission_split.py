"""SVM-S01: a part of a GPU range loses a permission, and the next fault on the rest is retried for ever.

The model keeps what 7.3.4 does.  The GPU maps two pages as one range; mprotect makes the second one read-only, which
cuts the VMA under the range and leaves the range in its tree.  A store to the first page, which may be written, finds
that range, and a walk over all of it is refused each time.
"""

from __future__ import annotations

from svm_actors import World

PAGE = 4096
ADDR = 0x1_0000_0000


async def scenario(world: World) -> None:
    """The store to page 0 should be served: the process may write there."""
    process = world.process()
    await process.mmap(2 * PAGE, addr=ADDR, fixed=True)
    vm = await world.gpu().create_vm(process, placement="system", chunk_pages=(2, 1), check_pages_threshold=0)
    await vm.store(ADDR, b"a")
    await process.mprotect(ADDR + PAGE, PAGE, "r")
    await vm.store(ADDR, b"b")
