"""Follows a strace log line by line and makes the steps of a program; ``strace_program.py`` says by which rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from .ranges import Range
from .strace import SPAWNS, Call, Ended, Log, Other, Record, Signal, Superseded
from .strace_actions import Action, Brk, Exec, Exit, Fork, Mmap, Mremap, Wait
from .strace_spaces import AddressSpace, Effect, pages_of
from .strace_steps import Step, Thread
from .strace_translate import memory_action, shares_memory

HEAP_END: Final[Range] = (0, 1)
"""Stands for the end of the heap in the order of accesses: every brk depends on it; no mapping can be there."""
EVERYTHING: Final[Range] = (0, 1 << 64)


@attrs.define
class Task:
    """A task of the log while it is followed."""

    thread: int
    pid: int
    space: AddressSpace
    first_process: int
    parent: int | None
    after: tuple[int, ...]
    """What the next step has to wait for."""
    steps: list[int] = attrs.Factory(list)
    last_line: int = 0
    leaving: Exit | None = None
    """Set by exit and exit_group: how it ends if the log breaks off before it says so."""


@attrs.frozen
class Moment:
    """One line of the log: what it says about its record."""

    line: int
    record: Record
    begins: bool
    ends: bool


def moments(records: Iterable[Record]) -> list[Moment]:
    """The lines of the log in order; a call that was cut in two has two."""
    found = []
    for record in records:
        if not isinstance(record, Call):
            found.append(Moment(record.line, record, True, True))
            continue
        whole = record.started_line == record.finished_line
        found.append(Moment(record.started_line, record, True, whole))
        if record.finished_line is not None and not whole:
            found.append(Moment(record.finished_line, record, False, True))
    return sorted(found, key=lambda moment: moment.line)


def parents_by_child(records: Iterable[Record]) -> dict[int, list[tuple[int, int]]]:
    """Per process id, by line: whose child it must be, because that task got its SIGCHLD or waited for it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for record in records:
        if isinstance(record, Signal) and record.name == "SIGCHLD" and record.sender is not None:
            found.setdefault(record.sender, []).append((record.line, record.pid))
        elif isinstance(record, Call) and record.name == "wait4" and record.finished_line and (record.result or 0) > 0:
            found.setdefault(record.result or 0, []).append((record.finished_line, record.pid))
    return {child: sorted(evidence) for child, evidence in found.items()}


class Builder:
    """Makes steps; the results are ``spaces``, ``steps`` and ``threads()``."""

    def __init__(self, log: Log) -> None:
        self.moments = moments(log.records)
        self.parents = parents_by_child(log.records)
        self.execs_traced = any(isinstance(record, Call) and record.name == "execve" for record in log.records)
        self.spaces: list[AddressSpace] = []
        self.steps: list[Step] = []
        self.tasks: list[Task] = []
        self.alive: dict[int, Task] = {}
        self.ended: dict[int, Task] = {}
        self.inside: dict[int, Call] = {}
        """Calls now in the kernel, by the line they started in."""
        self.done: set[int] = set()
        """Starting lines of calls that took effect before they returned."""
        self.renamed: dict[int, int] = {}

    def run(self) -> None:
        """Follow the whole log."""
        for moment in self.moments:
            self._take(moment)
        for task in list(self.alive.values()):
            if task.leaving is not None:
                self._end(task, task.leaving, task.last_line)

    def threads(self) -> tuple[Thread, ...]:
        """The finished descriptions."""
        return tuple(
            Thread(task.thread, task.pid, task.first_process, task.parent, tuple(task.steps)) for task in self.tasks
        )

    def _take(self, moment: Moment) -> None:
        record = moment.record
        task = self._task(moment)
        task.last_line = moment.line
        if isinstance(record, Ended):
            self._end(task, Exit(record.status, record.signal), moment.line)
        elif isinstance(record, Superseded):
            self._supersede(task, record)
        elif isinstance(record, Call):
            if moment.begins:
                self.inside[record.started_line] = record
            if moment.ends:
                self._effect(record, moment.line)
                self.inside.pop(record.started_line, None)

    # -- who is who ------------------------------------------------------------------

    def _task(self, moment: Moment) -> Task:
        pid = moment.record.pid
        pid = self.renamed.get(pid, pid)
        return self.alive.get(pid) or self._introduce(pid, moment, ())

    def _introduce(self, pid: int, moment: Moment, asked: tuple[int, ...]) -> Task:
        """A task whose creation has not been seen: find out what it is.  ``asked`` guards against circular evidence."""
        for call in self.inside.values():
            if call.name in SPAWNS and call.result == pid and call.started_line not in self.done:
                self._effect(call, moment.line)
                return self.alive[pid]
        if not self.alive:
            return self._add_task(pid, AddressSpace(self._next_space()), None, ())
        parent = self._parent(pid, moment, (*asked, pid))
        if parent is not None:
            return self._spawn(parent, pid, moment.line, shares=False, inferred=True)
        for call in self.inside.values():
            if call.name in SPAWNS and call.result is None and call.started_line not in self.done:
                self.done.add(call.started_line)
                creator = self.alive[call.pid]
                return self._spawn(creator, pid, moment.line, shares=shares_memory(call), inferred=True)
        parent = max(self.alive.values(), key=lambda task: task.last_line)
        return self._spawn(parent, pid, moment.line, shares=not self._starts_program(moment, parent), inferred=True)

    def _parent(self, pid: int, moment: Moment, asked: tuple[int, ...]) -> Task | None:
        for line, parent in self.parents.get(pid, ()):
            if line > moment.line and parent not in asked:
                return self.alive.get(parent) or self._introduce(parent, moment, asked)
        return None

    def _starts_program(self, moment: Moment, parent: Task) -> bool:
        record = moment.record
        return isinstance(record, Call) and self._asks_new_heap(record, parent.space)

    def _asks_new_heap(self, call: Call, space: AddressSpace) -> bool:
        """Whether a brk(NULL) was answered by an address space that is not this one."""
        if call.name != "brk" or call.args[:1] != (0,) or not call.succeeded or self.execs_traced:
            return False
        return space.brk is not None and call.result != space.brk

    def _next_space(self) -> int:
        return len(self.spaces)

    def _add_task(self, pid: int, space: AddressSpace, parent: int | None, after: tuple[int, ...]) -> Task:
        if space.number == len(self.spaces):
            self.spaces.append(space)
        task = Task(len(self.tasks), pid, space, space.number, parent, after)
        self.tasks.append(task)
        self.alive[pid] = task
        return task

    # -- creation and end ------------------------------------------------------------

    def _spawn(self, parent: Task, pid: int, line: int, *, shares: bool, inferred: bool) -> Task:
        space = parent.space if shares else AddressSpace(self._next_space(), parent.space, "fork")
        action = Fork(len(self.tasks), space.number, shares)
        orders = () if shares else (EVERYTHING,)
        number = self._step(parent, action, line, result=pid, orders=orders, inferred=inferred)
        return self._add_task(pid, space, parent.thread, (number,))

    def _execute(self, task: Task, line: int, *, inferred: bool) -> None:
        if task.parent is None and not task.steps and not task.space.last_steps:
            return  # the program strace itself started: its first execve leaves nothing behind
        space = AddressSpace(self._next_space(), task.space, "exec")
        self.spaces.append(space)
        self._step(task, Exec(space.number), line, result=0, inferred=inferred)
        task.space = space

    def _end(self, task: Task, action: Exit, line: int) -> None:
        self._step(task, action, line)
        for pid in [pid for pid, each in self.alive.items() if each is task]:
            self.ended[pid] = self.alive.pop(pid)
        for call in [call for call in self.inside.values() if call.pid == task.pid]:
            del self.inside[call.started_line]

    def _supersede(self, first: Task, record: Superseded) -> None:
        """The thread that executes takes over the process id; the first thread is gone."""
        self._end(first, Exit(None, None), record.line)
        if record.by in self.alive:
            self.alive[record.pid] = self.alive.pop(record.by)
            self.renamed[record.by] = record.pid

    # -- effects ---------------------------------------------------------------------

    def _effect(self, call: Call, line: int) -> None:
        """Let a call take effect, unless it already has."""
        if call.started_line in self.done:
            return
        self.done.add(call.started_line)
        task = self.alive[self.renamed.get(call.pid, call.pid)]
        if call.name in SPAWNS:
            if call.succeeded and call.result and call.result not in self.alive:
                self._spawn(task, call.result, line, shares=shares_memory(call), inferred=False)
        elif call.name == "execve":
            self.renamed.pop(call.pid, None)
            if call.succeeded:
                self._execute(task, line, inferred=False)
        elif call.name in ("exit", "exit_group"):
            task.leaving = Exit(call.args[0] if isinstance(call.args[0], int) else None, None)
        elif call.name == "wait4":
            self._wait(task, call, line)
        elif not isinstance(call, Other) and (call.succeeded or call.result == -1):
            self._memory(task, call, line)

    def _wait(self, task: Task, call: Call, line: int) -> None:
        child = self.ended.get(call.result or 0) if call.succeeded else None
        if child is not None:
            self._step(task, Wait(child.thread), line, result=call.result, after=(child.steps[-1],))

    def _memory(self, task: Task, call: Call, line: int) -> None:
        if self._asks_new_heap(call, task.space):
            self._execute(task, line, inferred=True)
        action = memory_action(call)
        assert action is not None
        self._help_unmaps(task, action, call, line)
        effect = task.space.apply(action, call.result, call.errno)
        pages = [effect.touched, *effect.lost, *([HEAP_END] if isinstance(action, Brk) else [])]
        orders = tuple(each for each in pages if each is not None)
        self._step(task, action, line, result=call.result, errno=call.errno, effect=effect, orders=orders)

    def _help_unmaps(self, task: Task, action: Action, call: Call, line: int) -> None:
        """A new place inside memory that another task is unmapping: that call has had its effect.

        It cannot be the other way round, unless a task unmaps what nobody has told it of.
        """
        match action:
            case Mmap(fixed=False) if call.succeeded:
                place = pages_of(action.address, action.length)
            case Mremap(new_address=int() as address) if call.succeeded and address != action.old_address:
                place = pages_of(address, action.new_length)
            case _:
                return
        for other in list(self.inside.values()):
            if other is not call and self._frees(other, task.space, place):
                # a munmap whose return the log does not show has shown its effect here
                self._effect(other if other.succeeded else attrs.evolve(other, result=0), line)

    def _frees(self, call: Call, space: AddressSpace, place: Range) -> bool:
        known = call.succeeded or (call.name == "munmap" and call.finished_line is None and len(call.args) == 2)
        if call.name not in ("munmap", "mremap") or not known or call.started_line in self.done:
            return False
        owner = self.alive.get(call.pid)
        address, length = call.args[0], call.args[1]
        if owner is None or owner.space is not space or not isinstance(address, int) or not isinstance(length, int):
            return False
        start, end = pages_of(address, length)
        return start < place[1] and place[0] < end

    def _step(
        self,
        task: Task,
        action: Action,
        line: int,
        *,
        result: int | None = None,
        errno: str | None = None,
        effect: Effect = Effect(),  # noqa: B008 - frozen
        orders: tuple[Range, ...] = (),
        after: tuple[int, ...] = (),
        inferred: bool = False,
    ) -> int:
        number = len(self.steps)
        earlier = sorted({last for pages in orders for last in task.space.order(number, pages)} - {number})
        # of each other thread the last step is enough: program order holds the earlier ones
        follows = {self.steps[last].thread: last for last in earlier}
        follows.pop(task.thread, None)
        self.steps.append(
            Step(
                number=number,
                thread=task.thread,
                process=task.space.number,
                action=action,
                result=result,
                errno=errno,
                touched=effect.touched,
                gained=effect.gained,
                lost=effect.lost,
                after=(*task.after, *after),
                follows=tuple(sorted(follows.values())),
                reproducible=effect.reproducible,
                inferred=inferred,
                line=line,
            )
        )
        task.after = ()
        task.steps.append(number)
        return number


