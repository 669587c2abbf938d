"""SVM-S07: an atomic that needs device memory is bound to system memory, and faults again for ever.

The model keeps what 7.3.4 does.  The range is valid in RAM and device memory is too small for it.  Migration fails
with tries left, and what comes next asks only whether the pages are mapped, not where they are.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuStuck

PAGE = 4096
ADDR = 0x1_0000_0000
CONFIG = Config(vram_pages=2)


async def scenario(world: World) -> None:
    """The atomic should work, or be refused."""
    process = world.process()
    await process.mmap(4 * PAGE, addr=ADDR, fixed=True)
    device = world.gpu()
    device.gpu.compute.replay_limit = 8
    vm = await device.create_vm(process, placement="system", chunk_pages=(4, 1), check_pages_threshold=0)
    await vm.store(ADDR, b"x")
    result = await vm.atomic_add(ADDR, 1)
    if isinstance(result, GpuStuck):
        raise PropertyFailed("suspected", "SVM-S07", f"{result.replays} faults were acknowledged and none was cured")
