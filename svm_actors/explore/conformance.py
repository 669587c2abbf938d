"""Recordings of a real kernel against the model, on several processes.

*Sequential programs*: every result of every operation must be the recorded one.  *Litmus programs*:
every recorded outcome must be reachable; the search is random and ends when it has seen them all.
The running and comparing is :mod:`svm_actors.workload.kernel_run` and
:mod:`svm_actors.workload.litmus_run`; here it is spread over processes, and what breaks a run
becomes a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from svm_actors.engine.chooser import Chooser
from svm_actors.engine.errors import EngineError, KernelError, PropertyFailed
from svm_actors.explore.pool import Call, Pool
from svm_actors.explore.strategies import RandomWalk
from svm_actors.workload.kernel_programs import KernelProgram, NotifierEvent
from svm_actors.workload.kernel_run import Mismatch, run_kernel_program
from svm_actors.workload.litmus_format import Litmus
from svm_actors.workload.litmus_run import FewSwitches, Reached, search_litmus

PER_CALL: Final = 8
"""Sequential programs handed to a process at a time."""
EVENTS: Final = "events"
"""The result field that is judged apart from the others."""


@attrs.frozen
class ProgramResult:
    """One sequential program, compared."""

    program: KernelProgram
    """It."""
    mismatches: tuple[Mismatch, ...] = ()
    """Everything that differs."""
    failure: str = ""
    """Why it could not be run to its end; empty when it could."""

    @property
    def results(self) -> list[Mismatch]:
        """Differences in results, events apart."""
        return [found for found in self.mismatches if found.difference.field != EVENTS]

    @property
    def events(self) -> list[Mismatch]:
        """Operations whose events differ."""
        return [found for found in self.mismatches if found.difference.field == EVENTS]

    @property
    def agrees(self) -> bool:
        """True when every result is the recorded one."""
        return not self.failure and not self.results


def conform_kernel(programs: Sequence[KernelProgram], jobs: int = 1) -> Iterator[ProgramResult]:
    """Run programs and compare; results in order."""
    pool = Pool(jobs, describe=lambda call: f"programs {call[0][0].number} to {call[0][-1].number}")
    calls: Iterator[Call] = ((tuple(programs[at : at + PER_CALL]),) for at in range(0, len(programs), PER_CALL))
    for batch in pool.results(compare_programs, calls):
        yield from batch


def compare_programs(programs: Sequence[KernelProgram]) -> list[ProgramResult]:
    """Run some programs in this process."""
    return [_compare(program) for program in programs]


def _compare(program: KernelProgram) -> ProgramResult:
    try:
        return ProgramResult(program, tuple(run_kernel_program(program)))
    except (PropertyFailed, EngineError, KernelError) as error:
        return ProgramResult(program, failure=f"{type(error).__name__}: {error}")


def event_causes(results: Sequence[ProgramResult]) -> list[tuple[str, int, Mismatch]]:
    """What differs in events, grouped: in words, how often, the first; the most frequent first."""
    groups: dict[str, list[Mismatch]] = {}
    for result in results:
        for found in result.events:
            groups.setdefault(_cause(found), []).append(found)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(cause, len(found), found[0]) for cause, found in ranked]


def _cause(found: Mismatch) -> str:
    recorded, produced = _names(found.difference.recorded), _names(found.difference.produced)
    if recorded == produced:
        return f"{found.op}: {recorded}, but with other pages or owners"
    return f"{found.op}: {produced}, recorded {recorded}"


def _names(events: object) -> str:
    """``UNMAP, 2 CLEAR``: kinds of events in order, repeats joined."""
    found: list[tuple[str, int]] = []
    for event in events if isinstance(events, tuple) else ():
        assert isinstance(event, NotifierEvent)
        if found and found[-1][0] == event.event:
            found[-1] = (event.event, found[-1][1] + 1)
        else:
            found.append((event.event, 1))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in found) or "no event"


# -- litmus ----------------------------------------------------------------------------


def conform_litmus(
    programs: Sequence[Litmus], *, runs: int, seed: str, jobs: int = 1, exhaust: bool = False
) -> Iterator[Reached]:
    """Search each program's outcomes with at most so many runs; results in order."""
    pool = Pool(jobs, describe=lambda call: f"litmus {call[0].number}")
    yield from pool.results(search_one, ((litmus, runs, seed, exhaust) for litmus in programs))


def search_one(litmus: Litmus, runs: int, seed: str, exhaust: bool) -> Reached:
    """Search one program's outcomes in this process."""
    return search_litmus(litmus, choosers(f"{seed}/{litmus.number}", runs), runs=runs, exhaust=exhaust)


def choosers(seed: str, runs: int) -> Iterator[Chooser]:
    """Long stretches and uniform walks in turn: neither reaches every outcome alone."""
    for number in range(runs):
        yield RandomWalk(f"{seed}/{number}") if number % 4 == 3 else FewSwitches(f"{seed}/{number}")


def total_failures(results: Sequence[Reached]) -> Counter[str]:
    """Runs that ended in a failure of the model, by its text."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.failures)
    return total
