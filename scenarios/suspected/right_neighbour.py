"""vm_bind 18: a mirror that is mapped looks for its right neighbour a page too far, and swallows a hole.

The model looks at the page behind the new mapping.  What 7.3.4 is suspected to do is put in its place here: the page
after that one is asked for, so a neighbour is found beyond a hole of one page, which becomes mirrored with it.
"""

from __future__ import annotations

from svm_actors import World
from svm_actors.engine.errors import PropertyFailed
from svm_actors.gpu.program import GpuFault
from svm_actors.xe.fault_bind import FaultIoctl
from svm_actors.xe.vm_bind import BindOp

PAGE = 4096
ADDR = 0x1_0000_0000


def a_page_too_far(ioctl: FaultIoctl, op: BindOp) -> tuple[int, int]:
    """The left neighbour as it should be, the right one beyond the end."""
    start, end = op.addr, op.addr + op.npages
    left = ioctl.vm.find_vma(start - 1)
    right = ioctl.vm.find_vma(end + 1)
    if left is not None and ioctl.is_alike(left, op):
        start = left.addr
    if right is not None and ioctl.is_alike(right, op):
        end = right.end
    return start, end


async def scenario(world: World) -> None:
    """Pages 0 and 2 are mirrored, page 1 is not: the GPU should not reach it."""
    world.engine.parts.replace_guard(FaultIoctl, "absorb", a_page_too_far)
    process = world.process()
    await process.mmap(3 * PAGE, addr=ADDR, fixed=True)
    vm = await world.gpu().create_vm(process, mirror=False, chunk_pages=(1,), check_pages_threshold=0)
    await vm.bind_mirror(ADDR + 2 * PAGE, PAGE)
    await vm.bind_mirror(ADDR, PAGE)
    if not isinstance(await vm.load(ADDR + PAGE), GpuFault):
        raise PropertyFailed("suspected", "vm_bind 18", "the GPU reads a page that nobody has mirrored")
