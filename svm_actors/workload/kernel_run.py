"""Recorded sequential programs against the mirror driver (``conform kernel``).

Runs the arguments of each operation, builds the results the recording would hold, and compares
field by field.  Nothing of a recorded result reaches the run.

Notifier events are what the callback of mirror 0 is given, in pages of the arena; the recording
shows the part of an event that lies inside the arena.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from svm_actors.engine.errors import KernelError
from svm_actors.mirror.device import MirrorDevice
from svm_actors.mirror.messages import CommandResult
from svm_actors.mirror.mirror import Mirror
from svm_actors.mm.constants import PAGE_SHIFT
from svm_actors.mm.content import FILLED
from svm_actors.mm.messages import Signal
from svm_actors.mm.mmu_notifier import Event, NotifierRange
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.kernel_programs import OPERATIONS, Difference, KernelProgram, NotifierEvent
from svm_actors.workload.mirror_process import ARENA, InOrder, MirrorProcess


@attrs.frozen
class Mismatch:
    """One result field of one operation that the model answers differently."""

    program: int
    """Number of the program."""
    index: int
    """Position of the operation in it, from 0."""
    line: int
    """Line of the recording."""
    op: str
    """Name of the operation."""
    difference: Difference
    """The field, the recorded value and the model's."""

    def __str__(self) -> str:
        found = self.difference
        where = f"program {self.program} operation {self.index} (line {self.line}) {self.op}"
        return f"{where}: {found.field} is {found.produced!r}, recorded {found.recorded!r}"


class RecordingMirror(Mirror):
    """Keeps every event its callback is given."""

    def __init__(self, device: MirrorDevice, name: str) -> None:
        super().__init__(device, name)
        self.events: list[NotifierRange] = []

    async def serve_invalidate(self, event: NotifierRange, seq: int) -> bool:
        """Keep it, then serve it."""
        self.events.append(event)
        return await super().serve_invalidate(event, seq)


class RecordingDevice(MirrorDevice):
    """A device whose mirrors keep their events."""

    mirror_class = RecordingMirror


class KernelRun:
    """One program's run."""

    def __init__(self, program: KernelProgram) -> None:
        self.program = program
        self.process = MirrorProcess(
            InOrder(),
            pages=program.pages,
            devices=program.devices,
            written=FILLED.__getitem__,
            device_class=RecordingDevice,
        )
        self.mismatches: list[Mismatch] = []
        self.left: dict[str, int] = {}
        """What is still allocated after the process has exited."""

    def run(self) -> list[Mismatch]:
        """Run everything; the differences in order."""
        self.process.run(self._operations)
        return self.mismatches

    async def _operations(self) -> None:
        for index, operation in enumerate(self.program.operations):
            produced = await self._results(operation.arguments)
            for difference in operation.differences(produced):
                self.mismatches.append(
                    Mismatch(self.program.number, index, operation.line, operation.op, difference)
                )
        self.left = await self.process.teardown()

    async def _results(self, call: ops.Arguments) -> dict[str, object]:
        """What the recording would hold for this operation."""
        recorder = self.process.mirrors[0]
        assert isinstance(recorder, RecordingMirror)
        recorder.events.clear()
        status = OPERATIONS[type(call)].status[0]
        try:
            answer = await self.process.perform(call)
        except (Signal, KernelError) as error:
            results: dict[str, object] = {status: error.errno}
        else:
            results = {} if status == "child" else {status: 0}
            results.update(_answer_fields(call, answer))
        results["events"] = _visible(recorder.events, recorder.device, self.program.pages)
        return results


def _answer_fields(call: ops.Arguments, answer: CommandResult | int | None) -> dict[str, object]:
    if isinstance(answer, int):
        return {"value" if isinstance(call, ops.CpuRead) else "child": answer}
    if answer is None or isinstance(call, ops.Exclusive):
        return {}
    fields: dict[str, object] = {"cpages": answer.cpages, "faults": answer.faults}
    if isinstance(call, ops.Snapshot):
        fields["perm"] = answer.codes
    elif isinstance(call, (ops.DevRead, ops.ToDev)):
        fields["data"] = answer.data
    return fields


def _visible(events: list[NotifierRange], device: MirrorDevice, pages: int) -> tuple[NotifierEvent, ...]:
    """The events as recorded: clipped to the arena, the owner as seen from mirror 0."""
    base = ARENA >> PAGE_SHIFT
    found = []
    for event in events:
        start, end = max(event.start - base, 0), min(event.end - base, pages)
        if start < end:
            found.append(NotifierEvent(_NAMES[event.event], start, end - start, _owner(event, device)))
    return tuple(found)


_NAMES: dict[Event, Any] = {event: event.value for event in Event}


def _owner(event: NotifierRange, device: MirrorDevice) -> Any:
    if event.event not in (Event.MIGRATE, Event.EXCLUSIVE):
        return None
    if event.owner is None:
        return "none"
    return "self" if event.owner is device else "other"


def run_kernel_program(program: KernelProgram) -> list[Mismatch]:
    """Differences between the recording and the model, in order; empty is full agreement."""
    return KernelRun(program).run()


@attrs.define
class Conformance:
    """Totals over many programs."""

    programs: int = 0
    """Programs run."""
    agreeing: int = 0
    """Programs whose every result agrees, events aside."""
    operations: int = 0
    """Operations run."""
    events_equal: int = 0
    """Operations whose events agree exactly."""
    mismatches: list[Mismatch] = attrs.field(factory=list)
    """Every difference found."""

    def add(self, program: KernelProgram, found: list[Mismatch]) -> None:
        """Book one program."""
        unequal_events = sum(1 for mismatch in found if mismatch.difference.field == "events")
        self.programs += 1
        self.agreeing += unequal_events == len(found)
        self.operations += len(program.operations)
        self.events_equal += len(program.operations) - unequal_events
        self.mismatches += found


def conform(programs: list[KernelProgram], progress: Callable[[int], None] | None = None) -> Conformance:
    """Run all programs; ``progress`` is told how many are done."""
    total = Conformance()
    for program in programs:
        total.add(program, run_kernel_program(program))
        if progress is not None:
            progress(total.programs)
    return total
