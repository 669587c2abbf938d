"""Recordings as targets: each run of a campaign gets one piece of a file, in turn.

The recorded results are not looked at here; ``conform`` does that.  Under a random schedule the
operations meet in other orders than the recorded one, and the oracles judge what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from svm_actors.engine.errors import KernelError
from svm_actors.explore.determinism import digest
from svm_actors.explore.files import read_bytes
from svm_actors.explore.subject import Scenario, Subject
from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.formats import BadInput
from svm_actors.workload.kernel_programs import KernelProgram, read_programs
from svm_actors.workload.litmus_format import Litmus, read_litmus
from svm_actors.workload.mirror_run import ARENA, MirrorRun, list_operations, recorded_scenario
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.workload.strace_program import read_program
from svm_actors.workload.strace_run import replay_scenario
from svm_actors.workload.strace_windows import windows
from svm_actors.world import Config, World

Make = Callable[[int], Subject]
"""The subject with this index; any index is good, families are finite and repeat."""

AWAY: Final = 1 << 20
"""Pages from the arena to where ``mremap_away`` moves; each move goes as far again."""


def strace_subjects(file: str) -> Make:
    """Windows of a recorded log, each with GPUs that mirror its processes.  Raises BadInput."""
    pieces = windows(read_program(file))
    if not pieces:
        raise BadInput(file, 0, "at least one memory system call", "none")
    return _in_turn(file, [replay_scenario(piece) for piece in pieces], Config())


def kernel_subjects(file: str) -> Make:
    """Recorded programs, each together with another one, on shared mirrors.  Raises BadInput."""
    programs = list(read_programs(file))
    count = len(programs)
    content, config = _digest_of(file), _config(programs)

    def make(index: int) -> Subject:
        turn, first = divmod(index, count)
        second = (first + 1 + turn) % count
        chosen = [programs[first]] if first == second else [programs[first], programs[second]]
        return Subject(recorded_scenario(chosen), file, content, config)

    return make


def litmus_subjects(file: str, number: int | None = None) -> Make:
    """Recorded concurrent programs, or the one with this number.  Raises BadInput."""
    found = [litmus for litmus in read_litmus(file) if number in (None, litmus.number)]
    if not found:
        raise BadInput(file, 0, f"a litmus with number {number}", "none")
    return _in_turn(file, [litmus_scenario(litmus) for litmus in found], _config(found))


def litmus_scenario(litmus: Litmus) -> ProgramScenario[Litmus]:
    """A scenario that runs the setup, then the threads at once."""

    async def run_litmus_threads(world: World, litmus: Litmus, kept: Kept) -> object:
        threads = LitmusThreads(world, litmus, kept)
        await threads.run()
        return await threads.outcome()

    return ProgramScenario(lambda _draw: litmus, litmus_operations, run_litmus_threads, ARENA)


def litmus_operations(litmus: Litmus) -> tuple[Operation, ...]:
    """The mapping of the arena, the setup, then the threads."""
    names = ["before", *(f"thread {number}" for number in range(len(litmus.threads)))]
    return list_operations([(_arena(litmus), *litmus.setup), *litmus.threads], names)


def _arena(litmus: Litmus) -> ops.Mmap:
    return ops.Mmap(0, litmus.pages, "rw", "private")


class LitmusThreads(MirrorRun):
    """A litmus on the mirrors of a world."""

    def __init__(self, world: World, litmus: Litmus, kept: Kept | None = None) -> None:
        self._moves = 0
        self._setup = [_arena(litmus), *map(self._plain, litmus.setup)]
        threads = [[self._plain(call) for call in thread] for thread in litmus.threads]
        super().__init__(world, threads, litmus.devices, kept)
        self.pages = litmus.pages
        self.answers: dict[str, list[object]] = {}
        """What each thread of the race was told, by task id."""

    async def run(self) -> None:
        """Open the mirrors and set up, alone; then run the threads."""
        threads, self.programs = self.programs, [self._setup]
        await super().run()
        self.programs, self.devices, self.first = threads, 0, len(self._setup)
        self.answers = {}
        await super().run()

    async def _attempt(self, call: ops.Arguments) -> None:
        task = self.world.engine.current
        assert task is not None
        answers = self.answers.setdefault(task.id, [])
        try:
            answers.append(await self._perform(call))
        except KernelError as error:
            self.world.engine.count("mirror.refused")
            answers.append(error.code)

    async def outcome(self) -> object:
        """What the threads were told, in order, then what the CPU reads."""
        memory: list[object] = []
        for page in range(self.pages):
            try:
                memory.append(await self._perform(ops.CpuRead(page)))
            except KernelError as error:
                memory.append(error.code)
        return [self.answers[name] for name in sorted(self.answers)], memory

    def _plain(self, call: ops.Arguments) -> ops.Arguments:
        """The operation in the terms of sequential programs."""
        match call:
            case ops.MprotectR(page=page, n=n):
                return ops.Mprotect(page, n, "r")
            case ops.MprotectRw(page=page, n=n):
                return ops.Mprotect(page, n, "rw")
            case ops.MremapAway(page=page, n=n):
                self._moves += 1
                return ops.Mremap(page, n, self._moves * AWAY)
        return call


def _in_turn(file: str, scenarios: Sequence[Scenario], config: Config) -> Make:
    content = _digest_of(file)
    return lambda index: Subject(scenarios[index % len(scenarios)], file, content, config)


def _config(programs: Sequence[KernelProgram] | Sequence[Litmus]) -> Config:
    """The default machine with as many mirror devices as the programs open."""
    return attrs.evolve(Config(), mirrors=max(1, *(program.devices for program in programs)))


def _digest_of(file: str) -> str:
    return digest(read_bytes(file, "a recording"))
