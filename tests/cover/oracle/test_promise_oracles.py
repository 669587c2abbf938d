"""The oracles over fences and jobs notice what they are there for, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from svm_actors import World, run
from svm_actors.dma_buf.events import FencePublished, publish
from svm_actors.dma_buf.fence import Fence
from svm_actors.dma_buf.resv import DmaResv, Usage
from svm_actors.drm.syncobj import Syncobj
from svm_actors.engine.backend import DirectBackend
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import ECANCELED, PropertyFailed
from svm_actors.explore.strategies import Fifo
from svm_actors.gpu.program import Load, Spin, Store
from svm_actors.oracle.fences import Promises
from svm_actors.xe.exec import Exec
from svm_actors.xe.gem import XeBo
from svm_actors.xe.rebind_worker import RebindWorker

PAGE = 4096
ADDR = 0x10_0000
VPN = ADDR // PAGE


@pytest.fixture
def engine() -> Engine:
    return Engine(DirectBackend(), Fifo())


# -- promises ----------------------------------------------------------------------------


def timeline(engine: Engine, count: int, context: int = 7) -> list[Fence]:
    return [Fence(engine, f"f{seqno}", context=context, seqno=seqno) for seqno in range(1, count + 1)]


def booked(fences: list[Fence]) -> Promises:
    promises = Promises()
    for fence in fences:
        promises(FencePublished(fence, "resv"))
    return promises


def test_fences_in_order_are_forgotten(engine: Engine) -> None:
    fences = timeline(engine, 3)
    promises = booked(fences)
    for fence in fences:
        fence.signal()
        promises.at_rest()
    promises.at_close()
    assert promises.timelines == {7: {}}


def test_whoever_overtakes_is_named(engine: Engine) -> None:
    fences = timeline(engine, 3)
    promises = booked(fences)
    fences[1].signal()
    with pytest.raises(PropertyFailed, match="f2 is signaled, f1, before it") as info:
        promises.at_rest()
    assert (info.value.oracle, info.value.rule) == ("fences", "INV-FEN-02")


def test_the_next_publication_notices_too(engine: Engine) -> None:
    first, second, third = timeline(engine, 3)
    promises = booked([first, second])
    second.signal()
    with pytest.raises(PropertyFailed, match="f1, before it"):
        promises(FencePublished(third, "resv"))


def test_a_job_that_never_reached_the_hardware_may_end_early(engine: Engine) -> None:
    first, second = timeline(engine, 2)
    promises = booked([first, second])
    second.signal(ECANCELED())
    promises.at_rest()
    first.signal()
    promises.at_close()


def test_fences_of_no_timeline_have_no_order(engine: Engine) -> None:
    first, second = timeline(engine, 2, context=0)
    promises = booked([first, second])
    second.signal()
    promises.at_rest()


def test_a_promise_that_is_not_kept_is_named_with_its_place(engine: Engine) -> None:
    promises = booked(timeline(engine, 1))
    with pytest.raises(PropertyFailed, match="f1, published in resv, is never signaled") as info:
        promises.at_close()
    assert info.value.rule == "INV-FEN-10"


def test_looking_does_not_signal(engine: Engine) -> None:
    class Polled(Fence):
        def ops_signaled(self) -> bool:
            return True

    fence = Polled(engine, "polled", context=3, seqno=1)
    promises = booked([fence])
    promises.at_close()
    assert not fence.signaled


def test_only_what_is_unsignaled_is_published(engine: Engine) -> None:
    heard: list[Any] = []
    engine.listeners.append(heard.append)
    done, pending = timeline(engine, 2)
    done.signal()
    publish(engine, done, "a")
    publish(engine, pending, "b")
    assert heard == [FencePublished(pending, "b")]


def test_reservations_and_syncobjs_publish() -> None:
    backend = DirectBackend()
    engine = Engine(backend, Fifo())
    places: list[str] = []

    def note(event: Any) -> None:
        if isinstance(event, FencePublished):
            places.append(event.place)

    engine.listeners.append(note)

    async def main() -> None:
        resv = DmaResv(engine, "bo")
        await resv.lock()
        resv.reserve(1)
        resv.add(timeline(engine, 1)[0], Usage.READ)
        resv.replace(7, timeline(engine, 2)[1], Usage.READ)
        resv.unlock()
        syncobj = Syncobj(engine, "sync")
        syncobj.replace_fence(timeline(engine, 1, 8)[0])
        syncobj.replace_fence(None)
        syncobj.add_point(timeline(engine, 1, 9)[0], 4)

    backend.run(main())
    assert places == ["bo.resv", "bo.resv", "sync", "sync"]


# -- jobs ------------------------------------------------------------------------------------


async def moved_behind_a_long_job(world: World) -> None:
    """The object a job needs is on its way back while the copy engine waits for somebody else's job."""
    gpu = world.gpu()
    process = world.process()
    vms = [await gpu.create_vm(process, "dma_fence") for _ in range(2)]
    queues = [await vm.create_queue() for vm in vms]
    bos = [await vm.create_bo(8 * PAGE, external=True) for vm in vms]
    for vm, bo in zip(vms, bos, strict=True):
        bound = world.syncobj()
        await vm.bind(ADDR, bo, syncs=[bound.sync_out()])
        await bound.wait()
    await (await vms[0].submit(queues[0], [Store(VPN, 0, b"\x07")])).wait()
    await gpu.evict(8 * PAGE)
    await (await vms[1].submit(queues[1], [Load(VPN, 0, 1)])).wait()
    await vms[1].submit(queues[1], [Spin(1_000_000)])
    async with world.nursery() as nursery:
        nursery.start_soon(gpu.evict, PAGE)
        await world.sleep(1000)
        assert await (await vms[0].submit(queues[0], [Load(VPN, 0, 1)])).wait() == [b"\x07"]


def small(scenario: Any, **options: Any) -> Any:
    from svm_actors import Config

    return run(scenario, backend="direct", config=Config(vram_pages=16), **options)


def test_a_job_that_waits_for_the_move_is_fine() -> None:
    for seed in range(8):
        assert small(moved_behind_a_long_job, strategy="random", seed=seed).ok


def test_a_job_that_overtakes_a_move_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reservation is asked.  (Asking that of the VM alone, VMB-B02, is hidden by the rebind that a move brings.)"""
    monkeypatch.setattr(Exec, "add_dependencies", lambda self, job, exec_: self._add_in_syncs(job))
    failure = small(moved_behind_a_long_job).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("submission", "INV-FEN-12")
    assert "KERNEL fence of" in failure.message


def test_a_job_that_eviction_cannot_see_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-VMB-06: the fence goes into the VM's reservation only."""

    async def only_the_vm(self: Exec, exec_: Any, fence: Fence) -> None:
        self.vm.resv_dma.add(fence, Usage.BOOKKEEP)

    monkeypatch.setattr(Exec, "add_fence", only_the_vm)
    failure = small(moved_behind_a_long_job).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("submission", "INV-VMB-06")


async def preempted(world: World) -> None:
    """A long-running queue is stopped for an eviction and goes on afterwards."""
    gpu = world.gpu()
    vm = await gpu.create_vm(world.process(), "lr")
    bo = await vm.create_bo(PAGE)
    await vm.bind(ADDR, bo)
    await world.settle()
    queue = await vm.create_queue()
    job = await vm.submit(queue, [Store(VPN, 0, b"a"), Spin(1_000_000), Store(VPN, 0, b"b")])
    await gpu.evict(PAGE)
    await world.settle()
    assert job.fence.signaled


def test_a_queue_that_goes_on_is_fine() -> None:
    assert small(preempted).ok


def test_a_queue_that_nobody_resumes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-VMB-14, VMB-R21."""

    async def forgets(world: World) -> None:
        monkeypatch.setattr(RebindWorker, "queue", lambda self: None)
        gpu = world.gpu()
        vm = await gpu.create_vm(world.process(), "lr")
        bo = await vm.create_bo(PAGE)
        await vm.bind(ADDR, bo)
        await world.settle()
        queue = await vm.create_queue()
        await vm.submit(queue, [Store(VPN, 0, b"a"), Spin(1_000_000), Store(VPN, 0, b"b")])
        await gpu.evict(PAGE)

    failure = small(forgets).failure
    assert failure is not None
    assert (failure.oracle, failure.rule) == ("submission", "INV-VMB-14")


def test_the_move_itself_must_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in no reservation cannot be relied on: then the memory itself tells (lifetime or coherence)."""
    monkeypatch.setattr(XeBo, "publish_move", lambda self, fence: None)
    failure = small(moved_behind_a_long_job).failure
    assert failure is not None
    assert failure.oracle != "submission"


def test_events_of_others_are_not_looked_at() -> None:
    promises = Promises()
    promises(SimpleNamespace())
    assert promises.timelines == {}
