"""SVM-S06: a fault that cannot be served is acknowledged as served, and the hardware comes back for ever.

The model keeps what 7.3.4 does.  RAM has run out, so no page can be given to the GPU; the error of the walk leaves
fault service by its success exit.  That the hardware gives up after a few replays is the bound of this model.
"""

from __future__ import annotations

from svm_actors import Config, World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuStuck

PAGE = 4096
ADDR = 0x1_0000_0000
CONFIG = Config(ram_pages=2)


async def scenario(world: World) -> None:
    """The GPU should be told that there is no memory, once."""
    process = world.process()
    await process.mmap(4 * PAGE, addr=ADDR, fixed=True)
    device = world.gpu()
    device.gpu.compute.replay_limit = 8
    vm = await device.create_vm(process, placement="system", chunk_pages=(1,))
    for page in range(2):
        await process.write(ADDR + page * PAGE, b"x")
    result = await vm.store(ADDR + 2 * PAGE, b"y")
    if isinstance(result, GpuStuck):
        raise PropertyFailed("suspected", "SVM-S06", f"{result.replays} faults were acknowledged and none was cured")
