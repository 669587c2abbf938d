"""One litmus program in one schedule, and the search for the outcomes a schedule can give.

A run: an arena mapped private and writable, the setup alone, the threads of the program racing, then
a snapshot by mirror 0, then the CPU reads every page.  ``conform litmus`` asks whether every outcome
a real kernel showed is reachable; an outcome only the model reaches is a question, not an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.errors import EngineError, KernelError, PropertyFailed
from svm_actors.engine.task import Task, Thread
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.messages import CommandResult
from svm_actors.mirror.watchful import WatchfulDevice
from svm_actors.mm.constants import RW
from svm_actors.mm.content import ZERO, Content
from svm_actors.mm.messages import SIGBUS, SIGSEGV
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.litmus_format import Litmus, Observed, Outcome, Result
from svm_actors.workload.mirror_process import MirrorProcess

STEP_BUDGET = 50_000
"""Ops of one run; the longest recorded litmus needs a few thousand."""


def first_byte(value: int) -> Content:
    """What a page holds after a litmus write: only its first byte is set."""
    return ZERO.write(0, bytes((value,)))


class FewSwitches:
    """A thread keeps the CPU; at a contested step it loses it with a probability drawn once per run.

    The probability is log-uniform, because one outcome needs a thread stalled over a whole system
    call of the other, the next one a switch at every step.  An actor's loop goes first whenever it
    can run: it only hands requests on.
    """

    name = "few switches"

    def __init__(self, seed: int | str) -> None:
        self._random = Random(str(seed))
        self._switch = 2 ** -self._random.uniform(0.5, 7.0)
        self._thread: Thread | None = None

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        """An actor's loop, else the thread at work, else or on a switch any task."""
        mine = -1
        for index, task in enumerate(candidates):
            if task.daemon:
                return index
            if task.thread is self._thread:
                mine = index
        if mine < 0 or self._random.random() < self._switch:
            mine = self._random.randrange(len(candidates))
            self._thread = candidates[mine].thread
        return mine

    def data(self, count: int, label: str) -> int:
        """Any value, each as likely."""
        return self._random.randrange(count)


class LitmusRun:
    """One run of one litmus program."""

    def __init__(
        self,
        litmus: Litmus,
        chooser: Chooser,
        *,
        device_class: type[MirrorDevice] = WatchfulDevice,
        record: bool = False,
    ) -> None:
        self.litmus = litmus
        self.process = MirrorProcess(
            chooser,
            pages=litmus.pages,
            devices=litmus.devices,
            written=first_byte,
            device_class=device_class,
            step_budget=STEP_BUDGET,
            record=record,
        )
        self._threads: list[list[Result]] = [[] for _ in litmus.threads]
        self._snapshot: tuple[int, ...] = ()
        self._snapshot_errno = 0
        self._memory: list[Result] = []
        self.left: dict[str, int] = {}
        """What is still allocated after the process has exited."""

    def run(self) -> Outcome:
        """Run it all.  Raises PropertyFailed, Deadlock or StepBudgetSpent when the model fails."""
        self.process.run(self._program)
        return Outcome(self._threads, self._snapshot, self._snapshot_errno, self._memory)

    async def _program(self) -> None:
        process = self.process
        await process.map(0, self.litmus.pages, RW)
        for call in self.litmus.setup:
            await self._result(call)
        async with process.engine.nursery() as nursery:
            for calls, results in zip(self.litmus.threads, self._threads, strict=True):
                nursery.start_soon(self._thread, calls, results, name="thread")
        await self._look()
        self.left = await process.teardown()

    async def _thread(self, calls: tuple[ops.Arguments, ...], results: list[Result]) -> None:
        for call in calls:
            results += [await self._result(call)]

    async def _look(self) -> None:
        """The snapshot, then the CPU reads."""
        try:
            found = await self.process.mirrors[0].snapshot(self.process.address(0), self.litmus.pages)
            self._snapshot = found.codes
        except KernelError as error:
            self._snapshot_errno = error.errno
        for page in range(self.litmus.pages):
            self._memory.append(await self._result(ops.CpuRead(page)))

    async def _result(self, call: ops.Arguments) -> Result:
        """What the recording calls the end of this operation."""
        try:
            answer = await self.process.perform(call)
        except SIGSEGV:
            return "segv"
        except SIGBUS:
            return "sigbus"
        except KernelError as error:
            return error.code
        if isinstance(answer, int):
            return answer if isinstance(call, ops.CpuRead) else f"child {answer}"
        if isinstance(answer, CommandResult) and isinstance(call, ops.DevRead):
            return answer.data
        return "ok"


def run_litmus(litmus: Litmus, chooser: Chooser) -> Outcome:
    """One run under one chooser.  Raises PropertyFailed, Deadlock or StepBudgetSpent."""
    return LitmusRun(litmus, chooser).run()


@attrs.define
class Reached:
    """What a search found."""

    litmus: Litmus
    """The program."""
    outcomes: Counter[Outcome] = attrs.field(factory=Counter)
    """Outcomes and how often each came."""
    failures: Counter[str] = attrs.field(factory=Counter)
    """Runs that ended in a failure instead, by its text."""
    runs: int = 0
    """Runs made."""

    @property
    def missing(self) -> tuple[Observed, ...]:
        """Recorded outcomes not reached yet."""
        return self.litmus.unreached(frozenset(self.outcomes))

    @property
    def unrecorded(self) -> list[Outcome]:
        """Outcomes only the model shows, in the order they were found."""
        known = {observed.outcome for observed in self.litmus.outcomes}
        return [outcome for outcome in self.outcomes if outcome not in known]


def search_litmus(
    litmus: Litmus,
    choosers: Iterable[Chooser],
    *,
    runs: int,
    exhaust: bool = False,
    run: Callable[[Litmus, Chooser], Outcome] = run_litmus,
) -> Reached:
    """Run under one chooser after the other until every recorded outcome was reached or ``runs`` are
    spent; with ``exhaust`` always spend them."""
    reached = Reached(litmus)
    for chooser in choosers:
        if reached.runs == runs or (reached.runs and not exhaust and not reached.missing):
            break
        reached.runs += 1
        try:
            reached.outcomes[run(litmus, chooser)] += 1
        except (PropertyFailed, EngineError) as error:
            reached.failures[str(error).splitlines()[0]] += 1
    return reached
