"""A bench for injected faults of binds and jobs: machines where exactly the named points fail, and all they leave."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from svm_actors.engine.faults import Faults
from svm_actors.explore.run import Run
from svm_actors.explore.run import run as run_world
from svm_actors.gpu.program import Load, Step, Store
from svm_actors.world import BindVm, Config, World
from svm_actors.xe.exec import Execution
from svm_actors.xe.exec_queue import ExecQueue

PAGE = 4096
VPN = 0x10_0000
SECOND = 1_000_000_000

Scenario = Callable[[World], Coroutine[Any, Any, None]]


class Planned(Faults):
    """Faults that strike where a test wants them: at the numbers, counted from 0 for each kind, that are planned."""

    def __init__(self, world: World, **plan: int | tuple[int, ...]) -> None:
        super().__init__(world.engine.choose, world.engine.count)
        names = {name.replace("_", "-"): at for name, at in plan.items()}
        self.plan = {kind: at if isinstance(at, tuple) else (at,) for kind, at in names.items()}
        self.kinds = tuple(self.plan)
        self.asked = dict.fromkeys(self.plan, 0)
        """How often each kind was asked for."""
        world.engine.faults = self

    def strike(self, kind: str) -> bool:
        if kind not in self.plan:
            return False
        number = self.asked[kind]
        self.asked[kind] += 1
        if number not in self.plan[kind]:
            return False
        self.struck.append(kind)
        self._count(f"inject.{kind}")
        return True


def run(scenario: Scenario, seed: int = 0, *, strategy: str = "random", **config: Any) -> Run:
    """First come first served, or with a seed by a strategy; with every oracle, and nothing may be left."""
    result = run_world(
        scenario, seed=seed, strategy=strategy if seed else "fifo", config=Config(**config), backend="direct",
        digest=False,
    )  # fmt: skip
    assert result.failure is None, f"{seed}: {result.failure}"
    return result


def every(scenario: Scenario, schedules: int = 10, **config: Any) -> list[Run]:
    """Many schedules."""
    return [run(scenario, seed, **config) for seed in range(schedules)]


def at(page: int) -> int:
    """GPU address of a page."""
    return (VPN + page) * PAGE


def load(page: int, length: int = 1) -> Load:
    return Load(VPN + page, 0, length)


def store(page: int, data: bytes) -> Store:
    return Store(VPN + page, 0, data)


async def machine(world: World, npages: int = 2, mode: Any = "dma_fence", **options: Any) -> tuple[BindVm, Any]:
    """A VM with an object bound at page 0, nothing under way."""
    process = world.process()
    options_of_vm = {"mirror": False} if mode == "fault" else {}
    vm = await world.gpu().create_vm(process, mode, **options_of_vm)
    bo = await vm.create_bo(npages * PAGE, **options)
    await vm.bind(at(0), bo)
    await world.settle()
    return vm, bo


async def submitted(vm: BindVm, *steps: Step, queue: ExecQueue | None = None) -> Execution:
    """A job, on a queue of its own if need be."""
    return await vm.submit(queue or await vm.create_queue(), steps)


def snapshot(vm: BindVm) -> dict[str, Any]:
    """Everything a failed ioctl leaves as it was (INV-VMB-08)."""
    inner = vm.vm
    return {
        "vmas": [(vma.addr, vma.end, vma.offset, vma.present, vma.staged, vma.destroyed) for vma in inner.vmas()],
        "entries": list(inner.page_table.items()),
        "nodes": inner.pt_tree.statistics(),
        "rebind": list(inner.rebind_list),
        "live": inner.live_vmas,
        "bos": inner.gpuvm.live_bos,
    }
