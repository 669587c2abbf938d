"""Pieces of a recorded program that can run alone: the memory at their beginning and the steps that follow.

A log of a thousand calls is too long for one run of a campaign, and everything after the first surprise would be
noise.  So it is cut into windows of consecutive steps.  A window carries what its steps need to find: the mappings
of each address space as the log has them at that point, the end of its heap, and which thread is where.

Simplified: the log does not tell file offsets nor which file is behind a descriptor, so every file mapping and every
shared mapping is an object of its own, from offset 0; forks and copies made by mremap share it.  Contents are not
recorded: a window starts with untouched memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from .ranges import Range, RangeMap
from .strace_actions import Brk, Exec, Exit, Fork, Mmap, Mprotect, Mremap, Munmap, page_up
from .strace_program import StraceProgram
from .strace_spaces import pages_of
from .strace_steps import Process, Step

WINDOW_STEPS: Final = 48
"""Steps of a window: enough for a story, short enough for a run of some ten milliseconds."""

BYSTANDERS: Final = 4
"""Writable mappings that a window sets up although its steps do not touch them."""


@attrs.frozen
class Mapped:
    """What lies behind a range of pages."""

    prot: str
    """``none`` or letters out of ``rwx``."""
    shared: bool = False
    """MAP_SHARED."""
    thing: int | None = None
    """Number of the file or shared object; None is private anonymous memory."""
    base: int = 0
    """Address at which the object's first page would lie."""


@attrs.frozen
class StartSpace:
    """One address space at the beginning of a window."""

    process: int
    """Its number in the program."""
    mappings: tuple[tuple[int, int, Mapped], ...]
    """Start, end and content of each mapping, in address order."""
    heap: tuple[int, int] | None
    """Start and end of the heap; None when the log has not shown it yet."""


@attrs.frozen
class Window:
    """Consecutive steps of a program and where they begin."""

    program: StraceProgram
    """What it is cut from."""
    index: int
    """Number of the window in its program."""
    steps: tuple[Step, ...]
    """In recorded order."""
    spaces: tuple[StartSpace, ...]
    """Address spaces that are there at the beginning and have a thread with steps."""
    threads: tuple[tuple[int, int], ...]
    """Threads that are there at the beginning and have steps, each with its address space."""
    objects: int
    """Numbers of shared objects in use so far; a replay goes on from here."""

    @property
    def first(self) -> int:
        """Number of the first step."""
        return self.steps[0].number


class _Space:
    """One address space while the log is followed."""

    def __init__(self) -> None:
        self.memory: RangeMap[Mapped] = RangeMap()
        self.heap: tuple[int, int] | None = None

    def copy(self) -> _Space:
        twin = _Space()
        twin.memory = self.memory.copy()
        twin.heap = self.heap
        return twin


class Follower:
    """Follows the recorded order and knows every address space after each step."""

    def __init__(self, program: StraceProgram) -> None:
        self.program = program
        self.objects = 0
        self.spaces: dict[int, _Space] = {}
        self.where: dict[int, int] = {}
        """Address space of every thread alive."""
        for process in program.processes:
            if process.origin == "root":
                self._create(process)
        for thread in program.threads:
            if thread.parent is None:
                self.where[thread.number] = thread.process

    def take(self, step: Step) -> None:
        """Do one step."""
        space = self.spaces[step.process]
        match step.action:
            case Fork(thread=thread, process=child, shares_memory=shares):
                self.where[thread] = child
                if not shares:
                    self.spaces[child] = space.copy()
            case Exec(process=new):
                self._create(self.program.processes[new])
                self.where[step.thread] = new
            case Exit():
                self.where.pop(step.thread, None)
            case Mmap() | Mremap() | Munmap() | Mprotect() | Brk() if step.errno is None:
                self._memory(space, step)

    def _create(self, process: Process) -> None:
        space = self.spaces[process.number] = _Space()
        if process.brk_start is not None:
            space.heap = process.brk_start, process.brk_start
        for premap in process.premaps:
            thing = self.new_object() if premap.file else None
            mapped = Mapped("rw", thing=thing, base=premap.address if premap.file else 0)
            space.memory.assign(premap.address, premap.address + premap.length, mapped)

    def new_object(self) -> int:
        """The number of a fresh file or shared object."""
        self.objects += 1
        return self.objects - 1

    def _memory(self, space: _Space, step: Step) -> None:
        memory = space.memory
        match step.action:
            case Mmap() as action:
                has_object = action.file or action.shared
                thing, base = (self.new_object(), action.address) if has_object else (None, 0)
                memory.assign(*pages_of(action.address, action.length), Mapped(action.prot, action.shared, thing, base))
            case Munmap() as action:
                memory.clear(*pages_of(action.address, action.length))
            case Mprotect() as action:
                for start, end, there in memory.pieces(*pages_of(action.address, action.length)):
                    memory.assign(start, end, attrs.evolve(there, prot=action.prot))
            case Mremap() as action:
                move(memory, action)
            case Brk():
                self._brk(space, step)

    def _brk(self, space: _Space, step: Step) -> None:
        if step.result is None:
            return
        start, end = space.heap or (step.result, step.result)
        space.heap = start, step.result
        old, new = page_up(end), page_up(step.result)
        if new > old:
            space.memory.assign(old, new, Mapped("rw"))
        else:
            space.memory.clear(new, old)


def move(memory: RangeMap[Mapped], action: Mremap) -> None:
    """mremap as the log has it: what lay at the old place lies at the new one, grown or cut to its length."""
    assert action.new_address is not None
    old = pages_of(action.old_address, action.old_length)
    new = pages_of(action.new_address, action.new_length)
    distance = new[0] - old[0]
    pieces = memory.pieces(*old) or memory.pieces(old[0], old[0] + 1)
    keeps = not action.old_length or "MREMAP_DONTUNMAP" in action.flags
    if not keeps:
        memory.clear(*old)
    memory.clear(*new)
    for position, (start, end, there) in enumerate(pieces):
        last = position == len(pieces) - 1
        stop = new[1] if last else min(end + distance, new[1])
        base = there.base + distance if there.thing is not None else 0
        memory.assign(start + distance, stop, attrs.evolve(there, base=base))


def windows(program: StraceProgram, length: int = WINDOW_STEPS) -> list[Window]:
    """The program cut into windows of ``length`` steps; the last one may be shorter."""
    follower = Follower(program)
    found: list[Window] = []
    for first in range(0, len(program.steps), length):
        steps = program.steps[first : first + length]
        found.append(_window(follower, len(found), steps))
        for step in steps:
            follower.take(step)
    return found


def _window(follower: Follower, index: int, steps: tuple[Step, ...]) -> Window:
    active = {step.thread for step in steps}
    threads = tuple((thread, process) for thread, process in follower.where.items() if thread in active)
    spaces = []
    for process in sorted({process for _thread, process in threads}):
        space = follower.spaces[process]
        needed = _needed(space.memory, list(_pages(follower.program, process, steps)))
        spaces.append(StartSpace(process, needed, space.heap))
    return Window(follower.program, index, steps, tuple(spaces), threads, follower.objects)


def _pages(program: StraceProgram, process: int, steps: tuple[Step, ...]) -> Iterator[Range]:
    """The pages that the steps work on, in the address space or in one forked from it."""
    for step in steps:
        if not _descends(program, step.process, process):
            continue
        if step.touched is not None:
            yield step.touched
        yield from step.lost
        if isinstance(step.action, Mremap):
            yield pages_of(step.action.old_address, step.action.old_length)


def _descends(program: StraceProgram, process: int, ancestor: int) -> bool:
    at: int | None = process
    while at is not None and at != ancestor:
        entry = program.processes[at]
        at = entry.parent if entry.origin == "fork" else None
    return at == ancestor


def _needed(memory: RangeMap[Mapped], pages: list[Range]) -> tuple[tuple[int, int, Mapped], ...]:
    """Whole mappings that the pages touch or adjoin, and a few others for a device to work on meanwhile."""
    found: list[tuple[int, int, Mapped]] = []
    bystanders = 0
    for start, end, there in memory:
        if any(low <= end and start <= high for low, high in pages):
            found.append((start, end, there))
        elif bystanders < BYSTANDERS and there.prot.startswith("rw"):
            bystanders += 1
            found.append((start, end, there))
    return tuple(found)
