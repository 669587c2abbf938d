"""Deviations of the TLB-invalidation client (vm_bind section 13)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.engine.errors import KernelError
from svm_actors.xe.tlb_inval import LONGEST, TlbFence, XeTlbInval


def rounded_up(_client: XeTlbInval, start: int, end: int) -> tuple[int, int]:
    """To a power of two; what does not fit into the field is cut off."""
    length = 1 << max(end - start - 1, 0).bit_length()
    return start, start + length % (2 * LONGEST)


async def forgotten(_client: XeTlbInval, _fence: TlbFence, _error: KernelError) -> None:
    """The message was not sent, so there is nothing to complete."""


def that_one_alone(client: XeTlbInval, seqno: int) -> list[int]:
    """Each number has an answer of its own."""
    return [seqno] if seqno in client.pending else []


def none_is_past(_client: XeTlbInval, _seqno: int) -> bool:
    """Every acknowledgement is news."""
    return False


VMB_B26 = Bug(
    id="VMB-B26",
    title="the length of a flush of everything overflows, and nothing is flushed",
    removes="XeTlbInval.span",
    races=("VMB-R24",),
    oracles=("lifetime", "invalidation/INV-01", "coherence", "ranges/RULE-18", "leaks/INV-34"),
    story="a-close-under-programs",
    plant=replace_guard(XeTlbInval, "span", rounded_up),
)
"""Noticed after a close, which relies on that flush."""

VMB_B27 = Bug(
    id="VMB-B27",
    title="a flush that could not be sent is never completed",
    removes="XeTlbInval.send_failed",
    races=("VMB-R26",),
    oracles=("engine/deadlock", "leaks"),
    story="a-flush-in-the-night",
    plant=replace_guard(XeTlbInval, "send_failed", forgotten),
)

VMB_R26 = Bug(
    id="VMB-R26",
    title="an acknowledgement that a reset has overtaken takes the numbers back",
    removes="XeTlbInval.is_past",
    races=("VMB-R26",),
    oracles=("tlb/INV-VMB-12",),
    story="flushes-at-a-reset",
    plant=replace_guard(XeTlbInval, "is_past", none_is_past),
)

VMB_R27 = Bug(
    id="VMB-R27",
    title="an acknowledgement completes its own number alone, and those that it has overtaken count as past",
    removes="XeTlbInval.completed_by",
    races=("VMB-R27",),
    oracles=("engine/deadlock", "leaks"),
    story="flushes-answered-out-of-order",
    plant=replace_guard(XeTlbInval, "completed_by", that_one_alone),
)
