"""A strace log as a concurrent program that can run again: processes, threads, actions, and what orders them.

*Who is who.*  clone with CLONE_VM makes a thread of the same address space, any other clone and fork a child with a
copy; execve leads to a new address space.  Many logs are recorded with memory calls only.  Then a task is a child if
some other task got SIGCHLD or a wait result for it, and otherwise a thread; and a program start is seen by its first
act: the loader asks for the end of the heap and gets another answer than the one in force.

*In which order.*  The log says when a call entered and when it returned, not when it took effect.  Steps are numbered
in the order of return, except that a call still in the kernel goes first where a recorded result needs it: the clone
whose child is already running, the munmap whose pages another mmap was already given.  That one order explains every
result; ``Step.after`` is the small part of it that holds in any run, ``Step.follows`` the part that concerns the same
pages.

Calls that never return are counted but have no step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from .ranges import Range, RangeMap
from .strace import Log, read_log
from .strace_actions import Exec, Exit, Fork
from .strace_builder import Builder
from .strace_statistics import Statistics, count_log
from .strace_steps import Process, Step, Thread


@attrs.frozen
class Touch:
    """The memory of one process right after a step, for a device that mirrors it: where to touch."""

    step: int
    process: int
    """The process of the step; after an Exec the new one."""
    touched: Range | None
    """The pages the step was about."""
    gone: tuple[Range, ...]
    """Pages that the step took away; a device access here must fail."""
    alive: tuple[Range, ...]
    """All pages mapped now, as merged ranges in address order."""


@attrs.frozen
class StraceProgram:
    """A replayable concurrent program."""

    file: str
    processes: tuple[Process, ...]
    threads: tuple[Thread, ...]
    steps: tuple[Step, ...]
    """All steps in recorded order; ``steps[n].number == n``."""
    log: Log = attrs.field(repr=False)

    def touch_candidates(self) -> Iterator[Touch]:
        """Per step, in recorded order, what is mapped after it and what just went away."""
        walk = Walk(self)
        for step in self.steps:
            process = walk.take(step)
            alive = tuple((start, end) for start, end, _ in walk.spaces[process])
            yield Touch(step.number, process, step.touched, step.lost, alive)

    def statistics(self) -> Statistics:
        """Counts of what the log holds and of what was made of it."""
        walk = Walk(self)
        for step in self.steps:
            walk.take(step)
        return Statistics(
            processes=len(self.processes),
            threads=len(self.threads),
            steps=len(self.steps),
            inferred_steps=sum(step.inferred for step in self.steps),
            unexplained_steps=sum(not step.reproducible for step in self.steps),
            peak_bytes=walk.peak,
            log=count_log(self.log),
        )


class Walk:
    """The mapped ranges of every address space, step by step in recorded order."""

    def __init__(self, program: StraceProgram) -> None:
        self.processes = program.processes
        self.spaces: dict[int, RangeMap[bool]] = {}
        self.users = [0] * len(program.processes)
        self.bytes = 0
        self.peak = 0
        for process in program.processes:
            if process.origin == "root":
                self._create(process)
        for thread in program.threads:
            self.users[thread.process] += thread.parent is None

    def take(self, step: Step) -> int:
        """Do one step; the process its thread is in afterwards."""
        process, space = step.process, self.spaces[step.process]
        match step.action:
            case Fork(process=child, shares_memory=shares):
                self.users[child] += 1
                if not shares:
                    self.spaces[child] = space.copy()
                    self.bytes += sum(end - start for start, end, _ in space)
            case Exec(process=new):
                self._create(self.processes[new])
                self.users[new] += 1
                self._leave(process)
                process = new
            case Exit():
                self._leave(process)
        for start, end in step.lost:
            self.bytes -= sum(high - low for low, high, _ in space.pieces(start, end))
            space.clear(start, end)
        for start, end in step.gained:
            self.bytes += sum(high - low for low, high in space.gaps(start, end))
            space.assign(start, end, True)
        self.peak = max(self.peak, self.bytes)
        return process

    def _create(self, process: Process) -> None:
        space: RangeMap[bool] = RangeMap()
        for premap in process.premaps:
            space.assign(premap.address, premap.address + premap.length, True)
            self.bytes += premap.length
        self.spaces[process.number] = space

    def _leave(self, process: int) -> None:
        self.users[process] -= 1
        if not self.users[process]:
            self.bytes -= sum(end - start for start, end, _ in self.spaces[process])
            self.spaces[process] = RangeMap()


def read_program(path: str | os.PathLike[str]) -> StraceProgram:
    """The program in a plain or gzip strace log.  Raises BadInput."""
    return build_program(read_log(path))


def build_program(log: Log) -> StraceProgram:
    """The program in a parsed log."""
    builder = Builder(log)
    builder.run()
    processes = tuple(space.process() for space in builder.spaces)
    return StraceProgram(log.file, processes, builder.threads(), tuple(builder.steps), log)
