"""Deviations of the bind ioctl: its way back, updates side by side, and user fences.

VMB-B17: the kernel shrinks a mapping that is cut, for as long as the ioctl lasts, to what is really unbound.  The
model never does, so the deviation brings the shrinking with it, and does not undo it on the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svm_actors.bugs.bug import Bug, replace_guard, replace_part
from svm_actors.dma_buf.fence import Fence
from svm_actors.xe.bind_ops import BindOps
from svm_actors.xe.range_fence import RangeFenceTree
from svm_actors.xe.user_fence import UserFence

if TYPE_CHECKING:
    from svm_actors.xe.bind_ops import XeOp


def shrink(op: XeOp) -> None:
    """The old mapping becomes what goes between the pieces whose entries stay."""
    old = op.vma
    start, end = old.addr, old.end
    if op.prev is not None and op.skip_prev:
        start = op.prev.end
    if op.next is not None and op.skip_next:
        end = op.next.addr
    old.addr, old.range, old.offset = start, end - start, old.offset + start - old.addr


def forgets_the_range(original: type[BindOps]) -> type[BindOps]:
    """A subclass whose way back puts in what is left of a mapping that was cut."""

    class ForgetsRange(original):  # type: ignore[misc, valid-type]
        async def unwind(self) -> None:
            for op in self.ops:
                shrink(op)
            await super().unwind()

    return ForgetsRange


def nothing_under_way(_tree: RangeFenceTree, _start: int, _end: int) -> list[Fence]:
    """Updates that came through other queues are not looked for."""
    return []


def mark_when_written(fence: UserFence) -> None:
    """Only when the worker says that it is through, and the value can be seen by then."""
    fence.written.add_callback(lambda _fence: setattr(fence, "signalled", True))


VMB_B17 = Bug(
    id="VMB-B17",
    title="a bind that fails puts a mapping it had cut back with the range that was left of it",
    removes="BindOps.restore",
    races=("VMB-R29",),
    oracles=("binds/INV-VMB-08",),
    story="bind-refused",
    plant=replace_part(BindOps, forgets_the_range),
)
"""Noticed by whoever compares the VM's mappings with those before a call that failed."""

VMB_R10 = Bug(
    id="VMB-R10",
    title="updates of one page-table node through different bind queues are not ordered",
    removes="RangeFenceTree.overlapping",
    races=("VMB-R10",),
    oracles=("binds/INV-VMB-13", "binds/INV-VMB-03", "bindings/INV-VMB-03", "lifetime"),
    story="bind-queues",
    plant=replace_guard(RangeFenceTree, "overlapping", nothing_under_way),
)
"""Noticed by data, by a job that faults, and at rest by entries that lead elsewhere than their mapping."""

VMB_B25 = Bug(
    id="VMB-B25",
    title="a user fence counts as signalled only after its value can be seen",
    removes="UserFence.mark_signalled",
    races=("VMB-R28",),
    oracles=("binds/VMB-R28",),
    story="bind-user-fence",
    plant=replace_guard(UserFence, "mark_signalled", mark_when_written),
)
"""Noticed by a client that has seen the value, and whose unbind answers -EBUSY."""
