"""Scenarios that are programs: a fixed list of operations, any of which can be left out.

What shrinks a failure must be able to ask three things of a workload: which program a run had, what its
operations are, and how to run it without some of them.  A :class:`ProgramScenario` answers them.

* A program is plain data, made of draws: from the run's own tape (label ``program``, before anything else
  happens), or of none at all when it is always the same.
* Its operations have numbers, the same in every run of that program; an operation that is left out keeps its
  number, and whatever else the run draws from the tape (pauses, moments) is drawn as if it were there.  So
  nothing else of the run changes its name or its meaning, and a schedule recorded with it fits without it.
* Every operation must tolerate that earlier ones are gone: an error of a kind the kernel documents, never a
  crash of the workload.

A workload joins in by handing its three functions to :class:`ProgramScenario`; its ``perform`` asks ``kept``
before each operation, and wraps it in :meth:`Kept.doing`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import attrs

from svm_actors.engine.errors import EngineError
from svm_actors.workload.random_kernel_programs import Draw
from svm_actors.world import World

PROGRAM: Final = "program"
"""Label of the draws that a program is made of."""
P = TypeVar("P")


@attrs.frozen
class Operation:
    """One operation of a program, for people."""

    who: str
    """What does it: ``cpu 0.1``, ``gpu stream 2`` ..."""
    text: str
    """What it does, in a few words."""

    def __str__(self) -> str:
        return f"{self.who}: {self.text}"


class Kept:
    """Which operations of a program a run performs."""

    def __init__(self, world: World, numbers: frozenset[int] | None = None) -> None:
        self._engine = world.engine
        self._numbers = numbers

    def __contains__(self, number: int) -> bool:
        return self._numbers is None or number in self._numbers

    @contextmanager
    def doing(self, number: int) -> Iterator[None]:
        """What is done in here is this operation; the running task and the requests it makes carry its number."""
        task = self._engine.current
        assert task is not None
        before, task.operation = task.operation, number
        try:
            yield
        finally:
            task.operation = before


@attrs.frozen
class ProgramScenario(Generic[P]):
    """``async def scenario(world)`` made of a program's three functions."""

    make: Callable[[Draw], P]
    """The program that these draws make; equal draws, equal programs."""
    list_operations: Callable[[P], Sequence[Operation]]
    """Its operations by number."""
    perform: Callable[[World, P, Kept], Coroutine[Any, Any, object]]
    """Run it in a world."""
    arena: int = 0
    """Address of the program's page 0 in every process; 0 if it has no such thing."""
    numbers: frozenset[int] | None = None
    """Operations that are kept; None is all of them."""

    async def __call__(self, world: World) -> Any:
        program = self.make(lambda count: world.choose(count, PROGRAM))
        self._check(len(self.list_operations(program)))
        return await self.perform(world, program, Kept(world, self.numbers))

    def operations(self, draws: Sequence[int]) -> tuple[Operation, ...]:
        """The operations of the program that a run with these draws had, whether kept or not.

        ``draws`` are the values that the run's tape has under the label ``program``, in order.
        """
        values = iter(draws)
        # A draw among one is no choice: it is not on the tape, and it is 0.
        return tuple(self.list_operations(self.make(lambda count: next(values) if count > 1 else 0)))

    def keeping(self, numbers: frozenset[int] | None) -> ProgramScenario[P]:
        """The same program with only these operations."""
        return attrs.evolve(self, numbers=numbers)

    def _check(self, count: int) -> None:
        """Refuse numbers of operations that the program does not have."""
        beyond = sorted(number for number in self.numbers or () if number >= count)
        if beyond:
            raise EngineError(f"expected operations below {count} to be kept, but {beyond[0]} is named")
