"""MM-B06, MM-B32: a plain notifier refuses a start that must not sleep (core_mm section 5.1, rule 5)."""

from __future__ import annotations

from svm_actors.bugs.bug import Bug, replace_guard
from svm_actors.mm.mmu_notifier import MmuNotifierSubscriptions, NotifierRange
from svm_actors.mm.plain_notifier import PlainList

STORY = "reaper-met-by-plain-notifiers"


async def others_not_told(_self: PlainList, _event: NotifierRange) -> None:
    """Who was called before the refusal goes on waiting for an end."""


MM_B06 = Bug(
    id="MM-B06",
    title="after a refusal the plain notifiers that have begun are not told of the end",
    removes="PlainList.undo",
    races=("MM-R22",),
    oracles=("invalidation/INV-19",),
    story=STORY,
    plant=replace_guard(PlainList, "undo", others_not_told),
)


async def tree_left_open(_self: MmuNotifierSubscriptions, _event: NotifierRange) -> None:
    """The count of active regions never comes down again, and readers of the period sleep for ever."""


MM_B32 = Bug(
    id="MM-B32",
    title="the interval tree's side of a start stays open when a plain notifier refuses it",
    removes="MmuNotifierSubscriptions.end_tree_side",
    races=("MM-R22",),
    oracles=("invalidation/INV-19", "engine/deadlock"),
    story=STORY,
    plant=replace_guard(MmuNotifierSubscriptions, "end_tree_side", tree_left_open),
)
