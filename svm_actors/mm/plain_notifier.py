"""Plain MMU notifiers: the list that is told of everything, as KVM uses it (core_mm section 5.1, rule 5).

They come after the interval tree at the start of a region and after it at the end.  A subscriber that can refuse a
non-blockable start has no ``end``, because nobody tells it whether its own start counted; so when one refuses, the
others, whose start went through, are told at once that it is over, and the start as a whole has not happened.

Simplified: start and end only, no young bits, no release; nobody is taken off the list.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from svm_actors.engine.engine import Engine

if TYPE_CHECKING:
    from svm_actors.mm.mmu_notifier import NotifierRange


class PlainOps(Protocol):
    """Callbacks of a plain notifier."""

    def invalidate_range_start(self, event: NotifierRange) -> Coroutine[Any, Any, bool]:
        """Retire what the range maps; False to refuse, which only a non-blockable start may be."""
        ...

    def invalidate_range_end(self, event: NotifierRange) -> Coroutine[Any, Any, None]:
        """The region is over."""
        ...


class MmuNotifier:
    """struct mmu_notifier."""

    __slots__ = ("begun", "has_end", "name", "ops")

    def __init__(self, name: str, ops: PlainOps, *, has_end: bool) -> None:
        self.name = name
        self.ops = ops
        self.has_end = has_end
        """False for one that may refuse: its ``invalidate_range_end`` is never called."""
        self.begun = 0
        """Regions it has been told the start of and not the end (INV-19)."""


class PlainList:
    """The plain notifiers of one mm."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.members: list[MmuNotifier] = []
        """In order of registration."""

    async def start(self, event: NotifierRange) -> bool:
        """mn_hlist_invalidate_range_start: all are called; False when one refused, and then it is undone."""
        refused = False
        for member in self.members:
            if not await member.ops.invalidate_range_start(event):
                refused = True
            elif member.has_end:
                member.begun += 1
        if refused:
            self.engine.count("MM-R22")
            await self.undo(event)
        return not refused

    async def undo(self, event: NotifierRange) -> None:
        """MM-B06: nobody else will tell those whose start went through that it is over."""
        await self.end(event)

    async def end(self, event: NotifierRange) -> None:
        """mn_hlist_invalidate_end."""
        for member in self.members:
            if member.has_end:
                member.begun -= 1
                await member.ops.invalidate_range_end(event)
