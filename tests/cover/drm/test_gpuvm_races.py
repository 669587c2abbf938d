"""The lists of a gpuvm under binds, execs, evictions and cleanups at once, in every mode.

First the right model on many schedules, with the windows it went through; then each guard taken away,
with the schedule that shows what it was good for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from gpuvm_bench import MODES, PROTECTED, SPIN, first_failure, run_all, together
from gpuvm_driver import PAGES, Driver, Memory

from svm_actors.drm.exec import DrmExec
from svm_actors.drm.gpuvm import DrmGpuvm, DrmGpuvmBo, GpuvmFlags
from svm_actors.engine.engine import Engine


def world(
    flags: GpuvmFlags, *, cls: type[DrmGpuvm] = DrmGpuvm, externals: int = 2, vms: int = 2, **options: Any
) -> Callable[[Engine], Coroutine[Any, Any, None]]:
    """Two VMs share objects; each binds, unbinds, execs and cleans up while objects are evicted.

    What is bound where is a choice of the schedule.
    """

    async def program(engine: Engine) -> None:
        memory = Memory(engine, externals)
        drivers = [Driver(memory, f"vm{number}", flags, cls, **options) for number in range(vms)]

        async def bind(driver: Driver) -> None:
            for _ in range(4):
                start = engine.choose(PAGES, "start")
                length = 1 + engine.choose(PAGES - start, "length")
                if engine.choose(2, "unbind"):
                    await driver.unbind(0, PAGES)
                else:
                    await driver.bind(driver.objects[engine.choose(externals + 1, "object")], start, length)

        async def execs(driver: Driver) -> None:
            for _ in range(2):
                await driver.exec()
                await driver.vm.bo_deferred_cleanup()

        async def evict() -> None:
            for _ in range(3):
                await memory.evict(memory.shared[engine.choose(externals, "victim")])

        async def cleanup(driver: Driver) -> None:
            for _ in range(3):
                await driver.vm.bo_deferred_cleanup()

        async with engine.nursery() as nursery:
            for driver in drivers:
                nursery.start_soon(bind, driver)
                nursery.start_soon(execs, driver)
                if driver.vm.immediate:
                    nursery.start_soon(cleanup, driver)
            nursery.start_soon(evict)
        await engine.quiesce()
        await teardown(engine, memory, drivers)

    return program


async def teardown(engine: Engine, memory: Memory, drivers: list[Driver]) -> None:
    """Unmap everything; nothing is left, and nobody refers to anything."""
    for driver in drivers:
        await driver.unbind(0, PAGES)
        await driver.vm.bo_deferred_cleanup()
        assert driver.vm.statistics() == dict.fromkeys(driver.vm.statistics(), 0)
        assert driver.vm.refs == 1
        local = driver.objects[0]
        await local.put()
        await driver.vm.put()
        assert (local.refs, driver.vm.refs, driver.vm.r_obj.refs) == (0, 0, 0)
    for obj in memory.shared:
        assert obj.refs == 1
        await obj.put()
        obj.resv.fini()


@pytest.mark.parametrize("mode", MODES)
def test_lists_hold_under_everything_at_once(mode: str) -> None:
    counters = run_all(world(MODES[mode]), seeds=400)
    for window in WINDOWS[mode]:
        assert counters.get(window), f"{window} was never hit: {counters}"


WINDOWS = {
    "staged-resv": ("VMB-R06", "VMB-R29", "VMB-R33", "exec.retry"),
    "staged-spin": ("VMB-R29", "VMB-R33", "exec.retry"),
    "immediate-resv": ("VMB-R06", "VMB-R29", "VMB-R33", "gpuvm.zombie_skipped", "exec.retry"),
    "immediate-spin": ("VMB-R29", "VMB-R33", "exec.retry"),
}
"""What the schedules of the test above go through."""


# -- every guard, taken away -------------------------------------------------------------


def fails_with(rules: set[str], program: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    failure = first_failure(program)
    assert failure is not None, "no schedule shows it"
    assert failure.rule in rules, failure


@pytest.mark.parametrize("mode", ["staged-resv", "immediate-resv"])
def test_vmb_r06_eviction_touches_the_list_of_a_vm_it_has_not_locked(mode: str) -> None:
    class Direct(DrmGpuvm):
        def evict_list_out_of_reach(self, vm_bo: DrmGpuvmBo) -> bool:
            return False

    fails_with({"VMB-R06"}, world(MODES[mode], cls=Direct))


@pytest.mark.parametrize("mode", ["staged-resv", "staged-spin"])
@pytest.mark.parametrize("ahead", [False, True])
def test_vmb_r29_two_lists_made_before_the_first_is_applied(mode: str, ahead: bool) -> None:
    """The deviation is the driver's; the guard is what reports it."""

    async def program(engine: Engine) -> None:
        memory = Memory(engine, 1)
        driver = Driver(memory, "vm", MODES[mode])
        await driver.bind(memory.shared[0], 0, 4)
        await driver.locked(driver.unbind_all, [(0, 2), (2, 2)], ahead)
        await teardown(engine, memory, [driver])

    if ahead:
        fails_with({"VMB-R29"}, program)
    else:
        assert run_all(program)["VMB-R29"]


def put_against_obtain(
    flags: GpuvmFlags, cls: type[DrmGpuvm] = DrmGpuvm
) -> Callable[[Engine], Coroutine[Any, Any, None]]:
    """Two threads connect the same pair for a moment, and never map anything."""

    async def program(engine: Engine) -> None:
        memory = Memory(engine, 1)
        driver = Driver(memory, "vm", flags, cls)
        vm, (obj,) = driver.vm, memory.shared

        async def connect() -> None:
            for _ in range(2):
                vm_bo = await vm.vm_bo_obtain_prealloc(await vm.vm_bo_create(obj))
                assert list(obj.gpuva.bos) == [vm_bo]
                await vm.vm_bo_put_deferred(vm_bo)

        await together(engine, connect, connect, vm.bo_deferred_cleanup)
        await teardown(engine, memory, [driver])

    return program


IMMEDIATE_MODES = ["immediate-resv", "immediate-spin"]


@pytest.mark.parametrize("mode", IMMEDIATE_MODES)
def test_vmb_r30_an_obtain_finds_a_live_one_or_none(mode: str) -> None:
    counters = run_all(put_against_obtain(MODES[mode]))
    assert counters["VMB-R30"]
    assert counters["VMB-R31"]


@pytest.mark.parametrize("mode", IMMEDIATE_MODES)
def test_vmb_r30_last_reference_dropped_before_the_lock(mode: str) -> None:
    class Early(DrmGpuvm):
        async def drop_last(self, vm_bo: DrmGpuvmBo) -> bool:
            if not vm_bo.drop():
                return False
            await vm_bo.obj.gpuva.lock.acquire()
            return True

    fails_with({"VMB-R30"}, put_against_obtain(MODES[mode], Early))


@pytest.mark.parametrize("mode", ["staged-resv", "staged-spin"])
@pytest.mark.parametrize("locked", [True, False])
def test_vmb_r30_last_reference_dropped_without_the_lock(mode: str, locked: bool) -> None:
    """Staged mode: the lock is the caller's business, so its absence is what is reported."""

    async def program(engine: Engine) -> None:
        memory = Memory(engine, 1)
        driver = Driver(memory, "vm", MODES[mode])
        vm, (obj,) = driver.vm, memory.shared

        async def connect() -> None:
            async def body(exec_: DrmExec) -> None:
                await exec_.lock_obj(obj)
                await vm.prepare_vm(exec_, 0)

            with DrmExec(engine, "connect") as exec_:
                await exec_.until_all_locked(body)
                vm_bo = await vm.vm_bo_obtain_locked(obj)
                if locked:
                    await vm.vm_bo_put(vm_bo)
            if not locked:
                await vm.vm_bo_put(vm_bo)

        await together(engine, connect, connect)
        await teardown(engine, memory, [driver])

    if locked:
        assert run_all(program)["VMB-R30"]
    else:
        fails_with({"VMB-R30"}, program)


@pytest.mark.parametrize("mode", IMMEDIATE_MODES)
@pytest.mark.parametrize("hasty", [False, True])
def test_vmb_r31_zombie_published_before_the_mutex_is_dropped(mode: str, hasty: bool) -> None:
    class Hasty(DrmGpuvm):
        async def publish_zombie(self, vm_bo: DrmGpuvmBo) -> None:
            lock = vm_bo.obj.gpuva.lock
            await self._publish(vm_bo)
            await self.engine.step("unlock", lock)
            lock.release()

    async def program(engine: Engine) -> None:
        memory = Memory(engine, 1)
        driver = Driver(memory, "vm", MODES[mode], Hasty if hasty else DrmGpuvm)
        (obj,) = memory.shared
        await driver.bind(obj, 0, 1)
        await engine.quiesce()
        # From here on only the VM refers to the object.
        await obj.put()

        async def unbind() -> None:
            await driver.unbind(0, 1)

        async def cleanup() -> None:
            for _ in range(3):
                await driver.vm.bo_deferred_cleanup()

        await together(engine, unbind, cleanup)
        await driver.vm.bo_deferred_cleanup()
        assert obj.refs == 0

    if hasty:
        fails_with({"VMB-R31"}, program)
    else:
        assert run_all(program)["VMB-R31"]


def test_vmb_b34_walkers_do_not_skip_zombies() -> None:
    class Blind(DrmGpuvm):
        def skips(self, vm_bo: DrmGpuvmBo) -> bool:
            return False

    fails_with({"INV-VMB-07"}, world(MODES["immediate-resv"], cls=Blind))


def test_vmb_r33_external_object_comes_in_the_middle_of_an_exec() -> None:
    """With spinlocks nothing but vm.lock keeps a bind out of an exec."""
    fails_with({"VMB-R33", "INV-VMB-13", "INV-VMB-06"}, world(SPIN, locked_binds=False))


def test_vmb_r33_vm_resv_keeps_a_bind_out_too() -> None:
    """RESV_PROTECTED: the list cannot grow while an exec holds vm.resv, whether there is a vm.lock or not."""
    run_all(world(PROTECTED, locked_binds=False))


def test_vmb_r33_the_driver_forgets_its_lock() -> None:
    async def program(engine: Engine) -> None:
        memory = Memory(engine, 1)
        driver = Driver(memory, "vm", SPIN)
        driver.locked_binds = False
        await driver.bind(memory.shared[0], 0, 1)

    fails_with({"VMB-R33"}, program)
