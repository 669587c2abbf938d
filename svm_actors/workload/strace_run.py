"""Replays a window of a recorded program, with GPUs that mirror its processes.

Each address space of the log is a process, each of its threads a task that makes the recorded calls at the recorded
addresses: what the kernel placed is placed there again with MAP_FIXED.  After a call that gained memory the thread
touches some of it.  Each mirrored process has a GPU task that follows the calls: when a call begins, its pages (those
it maps, those it takes away, those it moves) become targets, so the GPU faults while the call runs.

Two orders, drawn from the tape.  *Recorded*: every step waits for the steps it follows, so each call finds what it
found in the log and must end the same way.  *Free*: only creation and waiting order the threads; calls and accesses
then meet memory that is gone, and their errors are taken as the answer, as a program that races with itself must.

What is right is for the oracles to say: coherence, lifetime, invariants.  The replay itself checks nothing but, on
demand, that the recorded order gives the recorded results (``ReplayRun.surprises``).

A turn of the GPU tasks is an operation of the program like a call, and comes whether the calls before it are made or
left out: so a failure keeps the one eviction or access it needs when the calls around it go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

from svm_actors.engine.errors import KernelError
from svm_actors.engine.locks import WaitQueue
from svm_actors.engine.nursery import Nursery
from svm_actors.gpu.program import AtomicAdd, Instruction, Load, Store
from svm_actors.mm.constants import PAGE_SHIFT
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.workload.ranges import Range
from svm_actors.workload.strace_actions import (
    PAGE,
    Action,
    Brk,
    Exec,
    Exit,
    Fork,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Wait,
)
from svm_actors.workload.strace_spaces import pages_of
from svm_actors.workload.strace_steps import Step
from svm_actors.workload.strace_windows import Mapped, Window
from svm_actors.world import GpuVm, Process, World

ORDERS: Final = 3
"""Of so many draws one replays in the recorded order; 0 is recorded, so that ``fifo`` shows the log as it was."""
TARGETS: Final = 24
"""Pages per process that a GPU task may pick from: those of the latest calls."""
SMALL_CHUNKS: Final = (16, 1)
BIG_CHUNKS: Final = (512, 16, 1)
"""Sizes of GPU ranges, in pages.  The mappings of real programs have room for 2 MiB ranges, each of which costs as
much to simulate as the rest of the run."""
BIG_SHARE: Final = 16
"""One VM out of so many has them."""
STRUCTURE: Final = (Fork, Exec, Exit, Wait)
"""Actions that order the threads: a replay needs all of them."""
FOLLOW_EVERY: Final = 3
"""A GPU task does one thing per so many calls."""


@attrs.define
class Space:
    """One address space of the log in the world."""

    process: Process
    users: int = 0
    """Threads in it."""
    targets: deque[int] = attrs.field(factory=lambda: deque(maxlen=TARGETS))
    """Addresses of pages that calls were about lately."""


@attrs.frozen
class Surprise:
    """A call that did not end as recorded although it ran in the recorded order."""

    step: Step
    """The recorded call."""
    got: str
    """How it ended: an error code, or the address it answered."""


class ReplayRun:
    """One replay of one window."""

    def __init__(self, world: World, window: Window, kept: Kept | None = None) -> None:
        self.world = world
        self.window = window
        self.kept = kept or Kept(world)
        """Which memory calls are made, by position in the window; the others count as done."""
        self.order = "recorded"
        self.spaces: dict[int, Space] = {}
        self.where: dict[int, int] = {}
        """Address space of each thread."""
        self.latest = -1
        """Position in the window of the latest call whose turn came, made or left out; what the GPU tasks follow."""
        self.done: set[int] = set()
        self.surprises: list[Surprise] = []
        self.progress = WaitQueue(world.engine, "replay.progress")
        self._steps: dict[int, list[Step]] = {}
        self._files: dict[int, Any] = {}
        self._next_object = window.objects
        self._left = 0
        """Threads that have not finished their steps."""
        for step in window.steps:
            self._steps.setdefault(step.thread, []).append(step)

    async def run(self, order: str | None = None) -> None:
        """Set the memory up, then run threads and GPUs to their end."""
        drawn = "free" if self.world.choose(ORDERS, "order") else "recorded"
        self.order = order or drawn
        for start in self.window.spaces:
            await self._restore(start.process, start.mappings, start.heap)
        async with self.world.nursery() as nursery:
            for number, process in self.window.threads:
                self._start_thread(nursery, number, process)
            await self._start_gpus(nursery)

    # -- address spaces ----------------------------------------------------------------

    async def _restore(self, number: int, mappings: tuple[tuple[int, int, Mapped], ...], heap: Range | None) -> Space:
        """An address space as it was."""
        process = self.world.process(f"p{number}")
        if heap is not None:
            process.mm.brk_start, process.mm.brk_end = heap  # as execve sets them
        space = self.spaces[number] = Space(process)
        for start, end, there in mappings:
            file = None if there.thing is None else self._file(there.thing)
            offset = 0 if there.thing is None else (start - there.base) >> PAGE_SHIFT
            await process.mmap(
                end - start,
                addr=start,
                prot=letters(there.prot),
                shared=there.shared,
                fixed=True,
                file=file,
                offset=offset,
            )
            space.targets.append(start)
        return space

    def _file(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = self.world.file(f"object{number}")
        return self._files[number]

    def _new_file(self) -> Any:
        self._next_object += 1
        return self._file(self._next_object - 1)

    async def _leave(self, number: int) -> None:
        space = self.spaces[number]
        space.users -= 1
        if not space.users:
            await space.process.exit()

    # -- threads -----------------------------------------------------------------------

    def _start_thread(self, nursery: Nursery, number: int, process: int) -> None:
        self.spaces[process].users += 1
        self.where[number] = process
        self._left += 1
        nursery.start_soon(self._thread, nursery, number, name=f"t{number}")

    async def _thread(self, nursery: Nursery, number: int) -> None:
        for step in self._steps.get(number, ()):
            await self._turn(step)
            self.latest = max(self.latest, step.number - self.window.first)
            if self._left_out(step):
                self.done.add(step.number)
                self.progress.wake_up()
                continue
            self._begin(step)
            with self.kept.doing(step.number - self.window.first):
                await self._perform(nursery, step)
                self.done.add(step.number)
                self.progress.wake_up()
                await self._touch(step)
        self._left -= 1
        self.progress.wake_up()

    def _left_out(self, step: Step) -> bool:
        """Whether this is a memory call that is not kept; what creates and ends threads always is."""
        number = step.number - self.window.first
        return number not in self.kept and not isinstance(step.action, STRUCTURE)

    async def _turn(self, step: Step) -> None:
        """Wait for the steps that must come first."""
        before = {*step.after, *(step.follows if self.order == "recorded" else ())}
        pending = [number for number in sorted(before) if number >= self.window.first]
        if pending:
            await self.progress.wait_event(lambda: all(number in self.done for number in pending))

    def _begin(self, step: Step) -> None:
        """Tell the GPU tasks which pages the call is about."""
        targets = self.spaces[self.where[step.thread]].targets
        for pages in pages_about(step):
            targets.extend(some_pages(pages))
        self.progress.wake_up()

    async def _perform(self, nursery: Nursery, step: Step) -> None:
        """Make the call; note it if the recorded order gives another end."""
        try:
            answer = await self._call(nursery, step)
        except KernelError as error:
            got = error.code
            as_recorded = got == step.errno
        else:
            got = "success" if answer is None else hex(answer)
            as_recorded = step.errno is None and answer in (None, step.result)
        if self.order == "recorded" and step.reproducible and not as_recorded:
            self.surprises.append(Surprise(step, got))

    async def _call(self, nursery: Nursery, step: Step) -> int | None:
        number = self.where[step.thread]
        space = self.spaces[number]
        match step.action:
            case Fork() as action:
                await self._fork(nursery, space, action)
            case Exec(process=new):
                await self._exec(new)
                self.where[step.thread] = new
                await self._leave(number)
            case Exit():
                await self._leave(number)
            case Wait():
                pass
            case _:
                return await memory_call(space.process, step.action, step.errno is None, self._new_file)
        return None

    async def _exec(self, number: int) -> None:
        entry = self.window.program.processes[number]
        mappings = []
        for premap in entry.premaps:
            there = Mapped("rw")
            if premap.file:
                there = Mapped("rw", thing=self._next_object, base=premap.address)
                self._next_object += 1
            mappings.append((premap.address, premap.address + premap.length, there))
        heap = None if entry.brk_start is None else (entry.brk_start, entry.brk_start)
        space = await self._restore(number, tuple(mappings), heap)
        space.users += 1

    async def _fork(self, nursery: Nursery, space: Space, action: Fork) -> None:
        if not action.shares_memory:
            child = self.spaces[action.process] = Space(await space.process.fork(f"p{action.process}"))
            child.targets.extend(space.targets)
            if self.world.choose(4, "mirror the child") == 1:
                await self._start_gpu(nursery, child)
        self._start_thread(nursery, action.thread, action.process)

    # -- accesses ----------------------------------------------------------------------

    async def _touch(self, step: Step) -> None:
        """The thread uses what it just got."""
        process = self.spaces[self.where[step.thread]].process
        for pages in step.gained:
            places = some_pages(pages)
            for _ in range((1, 2, 0)[self.world.choose(3, "touches")]):
                addr = places[self.world.choose(len(places), "touch")]
                try:
                    if self.world.choose(2, "touch is a read"):
                        await process.read(addr, 4)
                    else:
                        await process.write(addr, stamp(step.number))
                except KernelError:
                    self.world.engine.count("replay.cpu_touch_refused")

    async def _start_gpus(self, nursery: Nursery) -> None:
        """One or two GPU VMs; two may mirror one process."""
        processes = list(self.spaces)
        for _ in range(1 + self.world.choose(2, "second VM")):
            number = processes[self.world.choose(len(processes), "mirrored process")]
            await self._start_gpu(nursery, self.spaces[number])

    async def _start_gpu(self, nursery: Nursery, space: Space) -> None:
        gpu = self.world.gpu(self.world.choose(self.world.config.gpus, "which GPU"))
        try:
            vm = await gpu.create_vm(space.process, chunk_pages=self._chunk_pages())
        except KernelError:  # the process is gone
            self.world.engine.count("replay.vm_refused")
            return
        nursery.start_soon(self._gpu, vm, space, name="gpu")

    def _chunk_pages(self) -> tuple[int, ...]:
        """Sizes of GPU ranges.  Single pages where the window changes protections: when a part of a range does,
        7.3.4 retries its next fault without end (SVM-S01), and so does the model."""
        if any(isinstance(step.action, Mprotect) for step in self.window.steps):
            return (1,)
        return BIG_CHUNKS if self.world.choose(BIG_SHARE, "2 MiB ranges") == 1 else SMALL_CHUNKS

    async def _gpu(self, vm: GpuVm, space: Space) -> None:
        """Follow the calls with loads, stores and atomics; now and then with memory pressure."""
        turn = max(0, self.latest) // FOLLOW_EVERY
        while await self._next_turn(turn):
            number = len(self.window.steps) + turn
            if number in self.kept and space.targets:
                with self.kept.doing(number):
                    newest = len(space.targets) - 1
                    addr = space.targets[newest - self.world.choose(newest + 1, "target")]
                    await self._program(vm, space, addr)
            turn += 1

    async def _next_turn(self, turn: int) -> bool:
        """Wait until the first call of this turn, or a later one; False when the threads are done before that."""
        call = turn * FOLLOW_EVERY
        await self.progress.wait_event(lambda: self.latest >= call or not self._left)
        return self.latest >= call

    async def _program(self, vm: GpuVm, space: Space, addr: int) -> None:
        kind = self.world.choose(8, "GPU work")
        try:
            if kind == 7:
                await space.process.swap_out(addr, PAGE)
            elif kind == 6:
                await self.world.gpu().evict(PAGE)
            else:
                await vm.run((instruction(kind, addr >> PAGE_SHIFT, self.latest),))
        except KernelError:
            self.world.engine.count("replay.gpu_work_refused")


def instruction(kind: int, vpn: int, number: int) -> Instruction:
    """A load, a store or an atomic on a page; ``number`` makes what is stored distinct."""
    if kind in (0, 1):
        return Store(vpn, 8, stamp(number))
    return AtomicAdd(vpn, 16, 1) if kind == 2 else Load(vpn, 0, 16)


def stamp(number: int) -> bytes:
    """Four bytes that tell who wrote them; never all zero."""
    return (number + 1).to_bytes(4, "little")


def letters(prot: str) -> str:
    """A protection of the log as the world takes it: what can be written and run can be read too."""
    return "rwx" if prot == "wx" else prot


def some_pages(pages: Range) -> list[int]:
    """First, middle and last page."""
    start, end = pages
    middle = start + (end - start) // 2 // PAGE * PAGE
    return sorted({start, middle, max(start, end - PAGE)})


def pages_about(step: Step) -> list[Range]:
    """Every range that a call reads about, maps or takes away."""
    found = [*step.lost]
    if step.touched is not None:
        found.append(step.touched)
    if isinstance(step.action, Mremap):
        found.append(pages_of(step.action.old_address, step.action.old_length))
    return [pages for pages in found if pages[0] < pages[1]]


async def memory_call(process: Process, action: Action, succeeded: bool, new_file: Callable[[], Any]) -> int | None:
    """Make a recorded memory call; answers the address it gave, None for calls without one."""
    match action:
        case Mmap():
            return await _mmap(process, action, succeeded, new_file)
        case Mremap():
            return await _mremap(process, action)
        case Munmap(address=address, length=length):
            await process.munmap(address, length)
        case Mprotect(address=address, length=length, prot=prot):
            await process.mprotect(address, length, letters(prot))
        case Madvise(address=address, length=length, advice=advice):
            await process.madvise(address, length, advice.removeprefix("MADV_").lower())
        case Brk(end=int() as end):
            return await process.brk(end)
    return None


async def _mmap(process: Process, action: Mmap, succeeded: bool, new_file: Callable[[], Any]) -> int:
    """Where the kernel chose the place, the choice becomes part of the call."""
    noreplace = "MAP_FIXED_NOREPLACE" in action.flags
    return await process.mmap(
        action.length,
        addr=action.address,
        prot=letters(action.prot),
        shared=action.shared,
        fixed=(succeeded or action.fixed) and not noreplace,
        noreplace=noreplace,
        file=new_file() if action.file or (action.shared and succeeded) else None,
    )


async def _mremap(process: Process, action: Mremap) -> int:
    moved = action.new_address is not None and action.new_address != action.old_address
    return await process.mremap(
        action.old_address,
        action.old_length,
        action.new_length,
        maymove="MREMAP_MAYMOVE" in action.flags,
        to=action.new_address if moved else None,
        dontunmap="MREMAP_DONTUNMAP" in action.flags,
    )


def replay_scenario(window: Window, order: str | None = None) -> ProgramScenario[Window]:
    """A scenario that replays the window; ``order`` is ``recorded``, ``free`` or drawn."""

    async def replay(world: World, window: Window, kept: Kept) -> None:
        await ReplayRun(world, window, kept).run(order)

    return ProgramScenario(lambda _draw: window, list_operations, replay)


def list_operations(window: Window) -> tuple[Operation, ...]:
    """The steps of the window, then the turns of the GPU tasks.  What creates and ends threads is among the steps, but
    is never left out."""
    steps = [Operation(f"thread {step.thread}", step_text(step)) for step in window.steps]
    turns = [
        Operation("gpu", f"an access, or memory pressure, after the turn of call {call}")
        for call in range(0, len(steps), FOLLOW_EVERY)
    ]
    return (*steps, *turns)


def step_text(step: Step) -> str:
    """``munmap address 0x7f00 length 0x2000``."""
    fields = attrs.asdict(step.action, recurse=False)
    words = [_word(name, value) for name, value in fields.items() if value not in (False, None, ())]
    return " ".join([type(step.action).__name__.lower(), *words])


def _word(name: str, value: Any) -> str:
    if value is True:
        return name
    if isinstance(value, tuple):
        return "|".join(map(str, value))
    return f"{name} {value:#x}" if isinstance(value, int) else f"{name} {value}"
