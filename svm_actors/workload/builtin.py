"""The workloads that come with the package: what ``fuzz`` runs when it is told nothing.

A target is a family of scenarios numbered by the run's index, with a machine to run on.  The mix has six parts:
windows of the recorded demo programs, random concurrent programs, the same over VM_BIND, programs of the recorded kind
on the mirror driver, alone and several at once, all of these on machines where things fail, and the stories, one race
each.  Witnesses are no part of it and run
when they are named.  Names are stable, because replay lines carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any, Final

import attrs

from svm_actors.workload.bind_random import BindShape
from svm_actors.workload.bind_run import bind_program_scenario, random_bind_scenario
from svm_actors.workload.bind_stories import BIND_STORIES
from svm_actors.workload.demo import STRACES, demo_strace
from svm_actors.workload.mirror_run import random_mirror_scenario
from svm_actors.workload.random_kernel_programs import SequentialShape
from svm_actors.workload.random_programs import ProgramShape
from svm_actors.workload.random_run import program_scenario, random_scenario
from svm_actors.workload.stories import STORIES
from svm_actors.workload.strace_program import read_program
from svm_actors.workload.strace_run import replay_scenario
from svm_actors.workload.strace_windows import Window, windows
from svm_actors.workload.witnesses import all_witnesses
from svm_actors.world import Config, World

Scenario = Callable[[World], Coroutine[Any, Any, None]]

TIGHT: Final = Config(vram_pages=16)
"""A GPU with so little memory that most migrations evict something."""
FAULTY: Final = Config(
    vram_pages=16,
    faults=(
        "tlb-lost", "tlb-late", "ack-lost", "ack-late", "hang", "late", "signal", "contention",
        "memory", "pgtable", "page", "vram", "copy", "dma", "fence",
    ),
)  # fmt: skip
"""The same, where what a bind or a job needs may fail."""
TWO_GPUS: Final = Config(gpus=2, vram_pages=64)
MEMORY_FAULTS: Final = ("page", "memory", "pgtable", "vram", "copy", "dma", "fence", "reaper", "exit")
"""What may fail or be killed while memory is used; docs/design/faults.md."""
FAULT_ODDS: Final = 50
"""So that a run has about one fault, and not always in its first steps."""


@attrs.frozen
class Target:
    """A named family of scenarios."""

    name: str
    """As on the command line and in replay lines."""
    make_scenario: Callable[[int], Scenario]
    """The scenario with this index; any index is good, families are finite and repeat."""
    config: Config = attrs.field(factory=Config)
    """The machine."""
    weight: int = 1
    """Its share of a campaign; 0: it is not in the mix, only run when it is named."""
    summary: str = ""
    """One line for a listing."""


def always(scenario: Scenario) -> Callable[[int], Scenario]:
    """The family whose members are all the same: what differs comes from the run's choices."""
    return lambda _index: scenario


def in_turn(scenarios: Sequence[Scenario]) -> Callable[[int], Scenario]:
    """The family that goes through these again and again."""
    return lambda index: scenarios[index % len(scenarios)]


@cache
def demo_windows() -> tuple[Window, ...]:
    """Every window of every demo log."""
    return tuple(window for name in STRACES for window in windows(read_program(demo_strace(name))))


def demo_scenario(index: int) -> Scenario:
    """Replays one of the demo windows, in turn."""
    found = demo_windows()
    return replay_scenario(found[index % len(found)])


def _random_targets() -> list[Target]:
    small = ProgramShape(pages=2, processes=1, threads=2, actions=3, vms=1, gpus=1, streams=2)
    tight = ProgramShape(pages=6, processes=2, actions=4, gpus=1, driver_actions=4)
    wide = ProgramShape(pages=40, processes=1, actions=4, gpus=1)
    return [
        Target("random", always(random_scenario()), TWO_GPUS, 6, "random programs: 3 processes, 2 VMs, 2 GPUs"),
        Target("random-small", always(random_scenario(small)), weight=6, summary="random programs on two pages"),
        Target("random-tight", always(random_scenario(tight)), TIGHT, 4, "with hardly any device memory"),
        Target("random-wide", always(random_scenario(wide)), weight=3, summary="on 40 pages, 64 KiB at a time"),
    ]


def _bind_targets() -> list[Target]:
    mixed = random_bind_scenario(BindShape(mirrors=True))
    faulting = random_bind_scenario(BindShape(modes=("fault", "fault", "dma_fence", "lr")))
    return [
        Target("bind", always(random_bind_scenario()), TIGHT, 12, "random programs over VM_BIND: 2 VMs, 3 clients"),
        Target("svm-and-bind", always(mixed), TIGHT, 8, "with VMs beside them that mirror the same processes"),
        Target("fault-bind", always(faulting), TIGHT, 8, "with VMs in fault mode that do both"),
        Target("bind-faults", always(random_bind_scenario()), FAULTY, 2, "bind, with injected faults"),
        Target("svm-and-bind-faults", always(mixed), FAULTY, 2, "svm-and-bind, with injected faults"),
        Target("fault-bind-faults", always(faulting), FAULTY, 2, "fault-bind, with injected faults"),
    ]


def _mirror_targets() -> list[Target]:
    small = SequentialShape(pages=4, length=10)
    one, three = random_mirror_scenario(), random_mirror_scenario(3, small)
    return [
        Target("mirror", always(one), weight=2, summary="one random program on the mirror driver"),
        Target("mirror-threads", always(three), weight=4, summary="three at once on the mirror driver, four pages"),
    ]


def _memory_fault_targets() -> list[Target]:
    """The random programs and those on the mirror driver, where memory fails and processes die.

    Programs with ranges of many pages run where VMAs can always be had: a cut that fails half way leaves the VMA cut
    and the range whole, and then the device faults without end (SVM-S07), as after mprotect.
    """
    few = ProgramShape(pages=2, processes=1, threads=2, actions=3, vms=1, gpus=1, streams=2)
    random = in_turn([random_scenario(), random_scenario(few)])
    wide = random_scenario(ProgramShape(pages=40, processes=1, actions=4))
    mirror = in_turn([random_mirror_scenario(), random_mirror_scenario(3, SequentialShape(pages=4, length=10))])
    machine = Config(gpus=2, vram_pages=64, faults=MEMORY_FAULTS, fault_odds=FAULT_ODDS)
    uncut = attrs.evolve(machine, faults=tuple(kind for kind in MEMORY_FAULTS if kind != "memory"))
    mirrors = Config(faults=MEMORY_FAULTS, fault_odds=FAULT_ODDS)
    return [
        Target("random-faults", random, machine, 2, "random programs where memory fails and processes die"),
        Target("random-wide-faults", always(wide), uncut, 1, "the same on 40 pages"),
        Target("mirror-faults", mirror, mirrors, 2, "the same on the mirror driver, one program or three"),
    ]


def _story_targets() -> list[Target]:
    stories = [
        Target(story.name, always(program_scenario(story.program)), summary=story.summary) for story in STORIES.values()
    ]
    bind_stories = [
        Target(story.name, always(bind_program_scenario(story.program)), TIGHT, story.weight, story.summary)
        for story in BIND_STORIES.values()
    ]
    return stories + bind_stories


def _witness_targets() -> list[Target]:
    return [Target(one.name, always(one.scenario), one.config, 0, one.summary) for one in all_witnesses().values()]


@cache
def builtin_targets() -> tuple[Target, ...]:
    """What can be named; those with a weight are the mix that ``fuzz`` runs when no target is named."""
    demo = Target("strace-demo", demo_scenario, Config(vram_pages=1024), 8, "recorded demo programs, with GPUs")
    drawn = (*_random_targets(), *_bind_targets(), *_mirror_targets(), *_memory_fault_targets())
    return (demo, *drawn, *_story_targets(), *_witness_targets())


__all__ = ["Target", "builtin_targets", "demo_windows"]
