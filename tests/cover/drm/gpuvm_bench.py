"""A bench for gpuvm tests: objects, VMs in every mode, and a driver that carries operations out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from svm_actors.dma_buf.resv import DmaResv
from svm_actors.drm.gpuvm import (
    DrmGemObject,
    DrmGpuva,
    DrmGpuvm,
    GpuvmFlags,
    GpuvmOps,
    Op,
    OpMap,
    OpRemap,
    OpUnmap,
)
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import PropertyFailed
from svm_actors.explore.strategies import make

T = TypeVar("T")

SCHEDULES = 50
"""Random schedules per racing test."""

PROTECTED = GpuvmFlags.RESV_PROTECTED
SPIN = GpuvmFlags.NONE
IMMEDIATE = GpuvmFlags.IMMEDIATE_MODE

MODES = {
    "staged-resv": PROTECTED,
    "staged-spin": SPIN,
    "immediate-resv": PROTECTED | IMMEDIATE,
    "immediate-spin": SPIN | IMMEDIATE,
}
"""Both styles of use with both ways to protect the lists."""


def new_object(engine: Engine, name: str) -> DrmGemObject:
    """An external object."""
    return DrmGemObject(engine, name, DmaResv(engine, name))


def new_local(vm: DrmGpuvm, name: str) -> DrmGemObject:
    """An object that shares the VM's reservation."""
    return DrmGemObject(vm.engine, name, vm.resv)


def new_vm(
    engine: Engine,
    flags: GpuvmFlags = PROTECTED,
    *,
    range_: int = 1 << 20,
    ops: GpuvmOps | None = None,
    cls: type[DrmGpuvm] = DrmGpuvm,
    name: str = "vm",
    **options: Any,
) -> DrmGpuvm:
    """A VM whose resv object nobody else refers to."""
    r_obj = new_object(engine, f"{name}.r_obj")
    vm = cls(engine, name, r_obj, range_=range_, flags=flags, ops=ops, **options)
    r_obj.put_now()
    return vm


def idle_engine() -> Engine:
    """For what is no op: an engine that never runs."""
    return Engine(DirectBackend(), make("fifo", 0))


def at_once(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that announces no op."""
    try:
        coro.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it slept")


def run(program: Callable[[Engine], Coroutine[Any, Any, None]], seed: int | None = None) -> Engine:
    """One run, on the default schedule or on a random one."""
    backend = DirectBackend()
    chooser = make("fifo", 0) if seed is None else make("random", seed)
    engine = Engine(backend, chooser, step_budget=100_000)
    backend.run(program(engine))
    return engine


def run_all(program: Callable[[Engine], Coroutine[Any, Any, None]], seeds: int = SCHEDULES) -> dict[str, int]:
    """The default schedule and many random ones; answers how often each counter was hit in all of them."""
    counters: dict[str, int] = {}
    for seed in [None, *range(seeds)]:
        try:
            engine = run(program, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        for name in sorted(engine.counters):
            counters[name] = counters.get(name, 0) + engine.counters[name]
    return counters


def first_failure(program: Callable[[Engine], Coroutine[Any, Any, None]], seeds: int = 200) -> PropertyFailed | None:
    """What the first failing schedule reports."""
    for seed in [None, *range(seeds)]:
        try:
            run(program, seed)
        except PropertyFailed as failure:
            return failure
    return None


async def together(engine: Engine, *bodies: Callable[[], Awaitable[None]]) -> None:
    """Run them as tasks, each with a thread of its own."""
    async with engine.nursery() as nursery:
        for body in bodies:
            nursery.start_soon(body)  # type: ignore[arg-type]


def apply(vm: DrmGpuvm, op: Op) -> list[DrmGpuva]:
    """Carry an operation out with fresh mappings; answers those."""
    if isinstance(op, OpMap):
        va = DrmGpuva()
        vm.va_map(va, op)
        return [va]
    if isinstance(op, OpUnmap):
        vm.va_unmap(op)
        return []
    assert isinstance(op, OpRemap)
    prev, after = DrmGpuva(), DrmGpuva()
    vm.va_remap(prev, after, op)
    return [va for va, piece in ((prev, op.prev), (after, op.next)) if piece is not None]
