"""The rest of a mapping that is cut after an eviction is taken for valid, and its faults are acknowledged for ever.

A rest whose entries can stay is not written again: it takes over which tiles the old mapping was bound on.  The model
takes over, too, that the entries were zapped; what 7.3.4 is suspected to do is put in its place here, which is to
forget that.  That the hardware gives up after a few replays is the bound of this model.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuStuck
from svm_actors.xe.bind_vma import XeBindVma
from svm_actors.xe.pt_bind import PtBind

PAGE = 4096
ADDR = 0x1_0000_0000


def forgotten(_bind: PtBind) -> dict[XeBindVma, XeBindVma]:
    """No rest takes over anything but the tiles it is bound on."""
    return {}


async def scenario(world: World) -> None:
    """An object is written, thrown out, and cut by an unmap of its last page; its first page should still be there."""
    world.engine.parts.replace_guard(PtBind, "_inherited", forgotten)
    device = world.gpu()
    device.gpu.compute.replay_limit = 8
    vm = await device.create_vm(world.process(), "fault", mirror=False)
    await vm.bind(ADDR, await vm.create_bo(2 * PAGE))
    await vm.store(ADDR, b"kept")
    await device.evict(2 * PAGE)
    await vm.unbind(ADDR + PAGE, PAGE)
    result = await vm.load(ADDR, 4)
    if isinstance(result, GpuStuck):
        text = f"{result.replays} faults on the rest of a cut mapping were acknowledged and none was cured"
        raise PropertyFailed("suspected", "vm_bind 8.5", text)
