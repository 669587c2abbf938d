"""A bench for SVM tests: whole worlds with every oracle attached, leak checks included, on the direct back end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_world
from svm_actors.mm.page_table import Entry
from svm_actors.world import Config, GpuVm, Process, World
from svm_actors.xe.svm_range import XeSvmRange

PAGE = 4096
MS = 1_000_000
BASE = 0x1_0000_0000
"""Where tests map: aligned for every chunk size."""
VPN = BASE // PAGE
SCHEDULES = 50
"""Random schedules per racing test."""

Scenario = Callable[[World], Coroutine[Any, Any, None]]


def attempt(
    scenario: Scenario,
    strategy: str = "fifo",
    seed: int = 0,
    *,
    bugs: tuple[str, ...] = (),
    record: bool = False,
    step_budget: int = 100_000,
    **config: Any,
) -> Run:
    """One run, failed or not."""
    return run_world(
        scenario,
        seed=seed,
        strategy=strategy,
        bugs=bugs,
        config=Config(**config),
        backend="direct",
        record=record,
        race_timers=bool(seed % 2),
        step_budget=step_budget,
        digest=False,
    )


def run(scenario: Scenario, strategy: str = "fifo", seed: int = 0, **options: Any) -> Run:
    """One run in which everything must hold."""
    result = attempt(scenario, strategy, seed, **options)
    assert result.failure is None, f"{strategy} {seed}: {result.failure}"
    return result


def every(scenario: Scenario, schedules: int = SCHEDULES, **options: Any) -> Iterator[Run]:
    """First come first served, then random schedules, every other one with racing timers."""
    yield run(scenario, **options)
    for seed in range(1, schedules + 1):
        yield run(scenario, "random", seed, **options)


def hit(runs: list[Run], *names: str) -> dict[str, int]:
    """In how many runs each event was counted."""
    return {name: sum(name in run.counters for run in runs) for name in names}


def assert_hit(runs: list[Run], *names: str) -> None:
    """Every one of these windows was really met."""
    numbers = hit(runs, *names)
    assert all(numbers.values()), numbers


async def start(world: World, npages: int = 4, **options: Any) -> tuple[Process, GpuVm]:
    """A process with memory at BASE and a VM that mirrors it."""
    process = world.process()
    await process.mmap(npages * PAGE, addr=BASE, fixed=True)
    return process, await world.gpu().create_vm(process, **options)


async def pause(world: World, most: int = 160) -> None:
    """Let others take up to so many steps first: a random walk alone would always finish the short thread first."""
    for _ in range(world.choose(most, "pause")):
        await world.engine.step("local")


async def after_pause(world: World, verb: Callable[..., Coroutine[Any, Any, Any]], *args: Any, most: int = 160) -> Any:
    """Pause, then do it."""
    await pause(world, most)
    return await verb(*args)


def page(index: int) -> int:
    """Address of a page of the memory at BASE."""
    return BASE + index * PAGE


def where(process: Process, npages: int = 4, first: int = 0) -> str:
    """One letter per page: ``v`` device, ``r`` RAM, ``z`` zero page, ``-`` nothing, ``m`` moving, ``s`` swap."""
    letters = {Entry.DEVICE_PRIVATE: "v", Entry.MIGRATION: "m", Entry.SWAP: "s"}
    text = ""
    for vpn in range(VPN + first, VPN + first + npages):
        pte = process.mm.page_table.get(vpn)
        if pte is None:
            text += "-"
        elif pte.kind is Entry.PRESENT:
            text += "z" if pte.folio.is_zero else "r"
        else:
            text += letters[pte.kind]
    return text


def bound(vm: GpuVm, npages: int = 4) -> str:
    """One letter per page of the GPU page table: ``w`` writable, ``r`` read-only, ``-`` nothing."""
    ptes = [vm.vm.page_table.get(vpn) for vpn in range(VPN, VPN + npages)]
    return "".join("-" if pte is None else "w" if pte.writable else "r" for pte in ptes)


def ranges(vm: GpuVm) -> list[XeSvmRange]:
    """Ranges of a VM in address order."""
    found = vm.vm.svm.gpusvm.ranges(0, 1 << 40)
    assert all(isinstance(range_, XeSvmRange) for range_ in found)
    return found  # type: ignore[return-value]


def spans(vm: GpuVm) -> list[tuple[int, int]]:
    """Their bounds, in pages from BASE."""
    return [(range_.start - VPN, range_.end - VPN) for range_ in ranges(vm)]
