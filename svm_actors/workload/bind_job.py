"""Jobs of a client of VM_BIND: what each instruction is about, and what follows from its end.

A job that went through has written all it was to write, and what it read is judged.  One that failed may have come
to any place, so what it was to write may be there or not, and what it read says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from svm_actors.workload import bind_programs as bp
from svm_actors.workload.bind_memory import BindMemory, Write, check_word

if TYPE_CHECKING:
    from svm_actors.gpu.program import Result
    from svm_actors.workload.bind_window import Target
    from svm_actors.xe.exec import Execution

WORD: Final = 4
"""Bytes of a word."""


@attrs.frozen
class Item:
    """One instruction of a job, with what it is about."""

    access: bp.Access | None
    """None for a spin."""
    target: Target | None = None
    write: Write | None = None
    """For a store to known memory."""


@attrs.define
class Job:
    """One job that was accepted."""

    name: str
    execution: Execution
    items: tuple[Item, ...]
    begun: int
    """Step at which it was submitted."""
    slot: int
    """Number of its queue."""
    spoiled: bool
    """It may fail for the queue's or its own sake."""
    memory: BindMemory
    owner: int

    def end(self, now: int, faulted: bool) -> None:
        """Judge what it read, book what it wrote."""
        error = self.execution.fence.error
        results = self.execution.batch.results
        through = error is None and not faulted and len(results) >= len(self.items)
        for index, item in enumerate(self.items):
            if item.write is not None:
                self.memory.end(item.write, now, certain=through)
            if through:
                self._judge(item, results[index], now)
            elif item.access is not None and item.target is not None and item.access.do == "add":
                assert item.target.place is not None
                self.memory.may_have_added(item.target.place)

    def _judge(self, item: Item, result: Result, now: int) -> None:
        access, target = item.access, item.target
        if access is None or target is None or not target.known or access.do == "store":
            return
        if target.place is not None and not self.memory.known(target.place):
            return
        if access.do == "add":
            assert isinstance(result, int)
            assert target.place is not None
            self.memory.added(target.place, result, self.name)
            return
        assert isinstance(result, bytes)
        value = int.from_bytes(result, "little")
        owner = self.owner if access.of is None else access.of
        if target.place is None:
            check_word([0], value, self.name, ("null mapping", access.at), owner)
        elif owner == self.owner:
            check_word(self.memory.own(target.place, owner), value, self.name, target.place, owner)
        else:
            legal = self.memory.foreign(target.place, owner, self.begun, now)
            check_word(legal, value, self.name, target.place, owner)


def word(value: int) -> bytes:
    """A value as it lies in memory."""
    return value.to_bytes(WORD, "little")
