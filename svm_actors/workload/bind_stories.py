"""Stories over VM_BIND: small programs (:mod:`svm_actors.workload.bind_programs`), one race each.

A story has few actors and few pages, so most of its schedules get near the race, and a failure can be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from svm_actors.workload import bind_programs as bp
from svm_actors.workload.concurrent_programs import (
    Mmap,
    ProcessProgram,
    RandomProgram,
    Reclaim,
    ThreadAction,
)

PAGES: Final = 2
"""Pages of the arena that are not calm; the calm ones follow."""
CALM: Final = 2


@attrs.frozen
class BindStory:
    """A named program."""

    name: str
    """As on the command line."""
    summary: str
    """One line for a listing."""
    races: tuple[str, ...]
    """What it is about."""
    program: bp.BindProgram
    weight: int = 1
    """Its share of a campaign."""


def _story(
    name: str,
    summary: str,
    races: str,
    clients: tuple[tuple[bp.Operation, ...], ...],
    *,
    vms: tuple[bp.BindVmProgram, ...] = (bp.BindVmProgram(0),),
    bos: tuple[bp.BoProgram, ...] = (bp.BoProgram(0, 2, external=True),),
    threads: tuple[tuple[ThreadAction, ...], ...] = (),
    driver: tuple[bp.DriverTask, ...] = (),
    weight: int = 1,
) -> BindStory:
    """One process; client number n works on VM number n, or on the last one."""
    process = ProcessProgram((Mmap(0, PAGES, "rw", "private"),), threads)
    base = RandomProgram(PAGES, (process,), (), (), ())
    workers = tuple(
        bp.Client(min(number, len(vms) - 1), operations) for number, operations in enumerate(clients)
    )
    return BindStory(name, summary, tuple(races.split()), bp.BindProgram(base, CALM, vms, bos, workers, driver), weight)


# -- words for programs --------------------------------------------------------------------


def _use(at: int, value: int, *, queue: int = 0, spin: int | None = None) -> bp.Submit:
    """Look at a page, write it, look again."""
    accesses = (bp.Access(at, "load"), bp.Access(at, "store", value), bp.Access(at, "load"))
    return bp.Submit(accesses, queue, spin)


def _bind(*changes: bp.Change, queue: int = 0, eager: bool = False, user_fence: bool = False) -> bp.Bind:
    return bp.Bind(changes, queue, eager, user_fence)


_USER: Final = _bind(bp.MapUser(0, 2, PAGES), eager=True)
_PRESSURE: Final = (Reclaim(PAGES, 2),) * 6
"""Reclaim wants the calm pages, again and again."""
_IDLE: Final[tuple[bp.Operation, ...]] = (*(bp.UserWrite(page % 2, 100 + page) for page in range(4)), bp.CpuRead(0, 0))
"""Something to do while no job is there; the read waits until an eviction under way is through."""
def _with_breaks(jobs: Iterable[bp.Submit]) -> tuple[bp.Operation, ...]:
    """Each job alone, with some idle time after it."""
    program: list[bp.Operation] = []
    for job in jobs:
        program += [job, bp.Wait(), *_IDLE]
    return tuple(program)


_LR: Final = (bp.BindVmProgram(0, "lr"),)
_TWO: Final = (bp.BindVmProgram(0), bp.BindVmProgram(0))
_QUEUES: Final = (bp.BindVmProgram(0, bind_queues=2),)

_ALL: Final = (
    _story(
        "bind-userptr",
        "jobs in user memory that reclaim takes away between the look and the fence",
        "VMB-R01 VMB-R02 VMB-R03",
        ((_USER, *(_use(value % 2, value) for value in range(1, 8))),),
        threads=(_PRESSURE, _PRESSURE, _PRESSURE),
        weight=3,
    ),
    _story(
        "bind-lr-userptr",
        "the same in a long-running VM: what is stopped is resumed when its memory is back",
        "VMB-R20 VMB-R02 FEN-R30",
        ((_USER, *(_use(value % 2, value) for value in range(1, 7))),),
        vms=_LR,
        threads=(_PRESSURE, _PRESSURE, _PRESSURE),
        weight=3,
    ),
    _story(
        "bind-lr-eviction",
        "a long-running VM whose object is evicted while it has, or has not, something to run",
        "VMB-R04 VMB-R21 VMB-R19",
        (
            (
                _bind(bp.Map(0, 2, 0), eager=True),
                *_with_breaks(_use(value % 2, value) for value in range(1, 6)),
            ),
        ),
        vms=_LR,
        driver=(bp.EvictPages(2),) * 4,
        weight=2,
    ),
    _story(
        "bind-remap",
        "user mappings are cut and replaced while reclaim invalidates them",
        "VMB-R17 VMB-R13 VMB-R16",
        (
            (
                _USER,
                _use(0, 1),
                _bind(bp.MapUser(1, 2, PAGES)),
                _use(1, 2),
                _bind(bp.Unmap(0, 2)),
                _use(2, 3),
                _bind(bp.MapUser(2, 2, PAGES)),
                _use(3, 4),
            ),
        ),
        threads=(_PRESSURE, _PRESSURE),
        weight=2,
    ),
    _story(
        "bind-queues",
        "one address is mapped, replaced and unmapped through two bind queues",
        "VMB-R10 VMB-R12 VMB-R14",
        (
            (
                _bind(bp.Map(0, 2, 0), eager=True),
                _use(0, 1, spin=1),
                _bind(bp.MapNull(0, 2)),
                _bind(bp.Map(0, 2, 1), queue=1),
                _use(0, 2, spin=1),
                _bind(bp.Unmap(0, 2), queue=1),
                _bind(bp.Map(0, 2, 0)),
                _use(1, 3),
            ),
        ),
        vms=_QUEUES,
        bos=(bp.BoProgram(0, 2), bp.BoProgram(0, 2)),
        weight=2,
    ),
    _story(
        "bind-user-fence",
        "what was bound is unbound as soon as its user fence can be read",
        "VMB-R28",
        (
            (_bind(bp.Map(0, 1, 0), user_fence=True), bp.Wait(), _bind(bp.Unmap(0, 1))) * 4,
        )
        * 2,
        vms=(*_LR, *_LR),
        weight=3,
    ),
    _story(
        "bind-refused",
        "arrays that cut mappings and then fail, while jobs use what must stay",
        "VMB-R29 VMB-R13",
        (
            (
                _bind(bp.Map(0, 4, 0), eager=True),
                _bind(bp.Unmap(1, 1), bp.MapUser(5, 1, PAGES + CALM)),
                _use(0, 1),
                _bind(bp.Map(1, 1, 1), bp.MapNull(3, 1), bp.MapUser(5, 1, PAGES + CALM)),
                _use(2, 2),
                _use(3, 3),
            ),
        ),
        bos=(bp.BoProgram(0, 4, external=True), bp.BoProgram(0, 1)),
        driver=(bp.EvictPages(4),),
    ),
    _story(
        "bind-shared",
        "two VMs share an object that a third party evicts",
        "VMB-R05 VMB-R06 FEN-R12",
        (
            (_bind(bp.Map(0, 2, 0), eager=True), *(_use(value % 2, value) for value in range(1, 5))),
            (_bind(bp.Map(0, 2, 0), eager=True), *(_use(value % 2, value) for value in range(5, 9))),
        ),
        vms=_TWO,
        driver=(bp.EvictPages(2),) * 3,
    ),
    _story(
        "bind-reset",
        "the GT is reset while jobs are done, running, and waiting",
        "FEN-R27 FEN-R29 FEN-R31",
        (
            (_bind(bp.Map(0, 2, 0), eager=True), *(_use(value % 2, value) for value in range(1, 7))),
            (_bind(bp.Map(0, 2, 0), eager=True), *(_use(value % 2, value) for value in range(7, 13))),
        ),
        vms=_TWO,
        driver=(bp.ResetGt(),) * 4,
        weight=2,
    ),
)

BIND_STORIES: Final[dict[str, BindStory]] = {story.name: story for story in _ALL}
"""By name."""
