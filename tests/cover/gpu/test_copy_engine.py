"""The copy engine: what it moves, what a race with it loses, what it refuses."""

from __future__ import annotations

import pytest
from hardware_bench import ASID, BASE_PFN, Bench, Stay, every_schedule, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.engine.errors import EINVAL, EIO, PropertyFailed
from svm_actors.engine.task import Task
from svm_actors.gpu.address import Direction, DmaAddr, Proto
from svm_actors.gpu.copy_engine import SubmitCopy
from svm_actors.gpu.program import Load, Store
from svm_actors.mm.content import FILLED, ZERO
from svm_actors.mm.folio import Folio


async def copy(bench: Bench, *pairs: tuple[DmaAddr | None, DmaAddr], depends: Fence | None = None) -> Fence:
    """Submit a job and wait for it."""
    fence = await bench.gpu.copy.call(SubmitCopy(pairs, depends))
    await fence.wait()
    return fence


def test_one_job_from_doorbell_to_signal() -> None:
    async def body(bench: Bench) -> None:
        source, target = bench.ram(5), bench.device(0)
        fence = await copy(bench, (bench.address(source), bench.address(target)))
        assert fence.error is None
        assert target.content == FILLED[5]
        assert source.content == FILLED[5]

    bench, _ = run(body)
    assert bench.engine.trace() == [
        "main: send gpu0.copy.ring SubmitCopy",
        "gpu0.copy: start",
        "gpu0.copy: receive gpu0.copy.ring",
        "gpu0.copy: copy_begin folio:1",
        "gpu0.copy: copy_end folio:8000",
        "gpu0.copy: fence_signal gpu0.copy.fence.1",
        "main: fence_wait gpu0.copy.fence.1",
    ]
    assert bench.engine.counters["gpu.pages_copied"] == 1


def test_jobs_run_in_order() -> None:
    async def body(bench: Bench) -> None:
        first, second, third = bench.ram(1), bench.device(0), bench.ram(9)
        down = SubmitCopy(((bench.address(first), bench.address(second)),))
        back = SubmitCopy(((bench.address(second), bench.address(third)),))
        await bench.gpu.copy.call(down)
        fence = await bench.gpu.copy.call(back)
        await fence.wait()
        assert third.content == FILLED[1]

    run(body)


def test_system_memory_and_device_memory_are_cleared_alike() -> None:
    async def body(bench: Bench) -> None:
        ram, device = bench.ram(1), bench.device(0, 2)
        await copy(bench, (None, bench.address(ram)), (None, bench.address(device)))
        assert ram.content == device.content == ZERO

    run(body)


def test_a_large_entry_stands_for_consecutive_pages() -> None:
    async def body(bench: Bench) -> None:
        pages = [bench.ram(fill) for fill in (1, 2, 3, 4)]
        base = bench.gpu.iommu.reserve(4)
        assert base is not None
        for index, page in enumerate(pages):
            bench.gpu.iommu.link(base + index, page, Direction.TO_DEVICE)
        targets = [bench.device(index) for index in (4, 5, 6, 7)]
        await copy(bench, (DmaAddr(base, Proto.SYSTEM, 2), DmaAddr(BASE_PFN + 4, Proto.VRAM, 2)))
        assert [target.content.fill for target in targets] == [1, 2, 3, 4]

    run(body)


def test_pairs_of_different_order_are_refused() -> None:
    async def body(bench: Bench) -> None:
        source = bench.address(bench.ram())
        with pytest.raises(EINVAL):
            await bench.gpu.copy.call(SubmitCopy(((source, DmaAddr(BASE_PFN, Proto.VRAM, 2)),)))

    run(body)


@pytest.mark.parametrize(("chunk", "rounds"), [(1, 3), (2, 2), (2048, 1)])
def test_a_chunk_is_read_as_a_whole_before_it_is_written(chunk: int, rounds: int) -> None:
    async def body(bench: Bench) -> None:
        bench.gpu.copy.chunk_pages = chunk
        pairs = [(bench.address(bench.ram(n)), bench.address(bench.device(n))) for n in (1, 2, 3)]
        await copy(bench, *pairs)
        assert [bench.pgmap.live[BASE_PFN + n].content.fill for n in (1, 2, 3)] == [1, 2, 3]

    bench, _ = run(body)
    ops = [line.split()[1] for line in bench.engine.trace() if "copy_" in line]
    assert ops == ["copy_begin", "copy_end"] * rounds


def test_a_job_waits_for_its_dependency_whatever_its_error() -> None:
    async def body(bench: Bench) -> None:
        before = Fence(bench.engine, "before")
        target = bench.ram(1)
        fence = await bench.gpu.copy.call(SubmitCopy(((None, bench.address(target)),), before))
        for _ in range(3):
            await bench.engine.step("local")
            assert not fence.signaled
            assert target.content == FILLED[1]
        before.signal(EIO())
        await fence.wait()
        assert fence.error is None
        assert target.content == ZERO

    assert sum(1 for _ in every_schedule(body)) > 3


def test_an_empty_job_signals_after_its_dependency() -> None:
    async def body(bench: Bench) -> None:
        before = Fence(bench.engine, "before")
        fence = await bench.gpu.copy.call(SubmitCopy((), before))
        before.signal()
        await fence.wait()
        assert fence.error is None

    bench, _ = run(body)
    assert not any("copy_begin" in line for line in bench.engine.trace())


def test_a_failing_job_copies_nothing_and_says_so() -> None:
    async def body(bench: Bench) -> None:
        source, target = bench.address(bench.ram(1)), bench.device(0)
        bench.gpu.copy.fail_next = 1
        fence = await copy(bench, (source, bench.address(target)))
        assert isinstance(fence.error, EIO)
        assert target.content == ZERO
        assert (await copy(bench, (source, bench.address(target)))).error is None
        assert target.content == FILLED[1]

    run(body)


# -- races ---------------------------------------------------------------------------------


async def racing_store(bench: Bench, source: Folio, target: Folio, vpn: int) -> tuple[int, int]:
    """Copy ``source`` (page 1) to ``target`` (page 2) while a program stores 9 to page ``vpn``."""
    bench.bind(1, source)
    bench.bind(2, target)
    await bench.run(Load(vpn))
    task = bench.engine.spawn(bench.run(Store(vpn, 0, b"\x09")), "store")
    await copy(bench, (bench.address(source), bench.address(target)))
    await bench.engine.join(task)
    return source.content.byte(0), target.content.byte(0)


def test_a_store_to_the_source_during_the_copy_is_lost_to_the_destination() -> None:
    async def body(bench: Bench) -> tuple[int, int]:
        return await racing_store(bench, bench.ram(1), bench.device(0), 1)

    outcomes = {}
    for bench, outcome in every_schedule(body):
        trace = bench.engine.trace()
        store = next(i for i, line in enumerate(trace) if line.startswith("store: store"))
        begin = next(i for i, line in enumerate(trace) if "copy_begin" in line)
        outcomes.setdefault(store < begin, set()).add(outcome)
    assert outcomes == {True: {(9, 9)}, False: {(9, 1)}}


def test_a_store_to_the_destination_survives_only_after_the_copy() -> None:
    async def body(bench: Bench) -> tuple[int, int]:
        return await racing_store(bench, bench.ram(1), bench.device(0), 2)

    outcomes = {}
    for bench, outcome in every_schedule(body):
        trace = bench.engine.trace()
        store = next(i for i, line in enumerate(trace) if line.startswith("store: store"))
        end = next(i for i, line in enumerate(trace) if "copy_end" in line)
        outcomes.setdefault(store > end, set()).add(outcome)
    assert outcomes == {True: {(1, 9)}, False: {(1, 1)}}


def test_a_load_during_the_copy_sees_old_or_new_never_anything_else() -> None:
    async def body(bench: Bench) -> bytes:
        source, target = bench.ram(1), bench.device(0, 4)
        bench.bind(2, target)
        await bench.run(Load(2))
        seen: list[bytes] = []

        async def load() -> None:
            seen.extend(await bench.run(Load(2, 0, 2)))

        task = bench.engine.spawn(load(), "load")
        await copy(bench, (bench.address(source), bench.address(target)))
        await bench.engine.join(task)
        return seen[0]

    assert {outcome for _, outcome in every_schedule(body)} == {b"\x04\x04", b"\x01\x01"}


def test_a_clear_of_unused_memory_that_lands_late_wipes_the_new_owner() -> None:
    """What the dependency on the clear is there to prevent (RULE-46)."""

    async def body(bench: Bench) -> int:
        clear = await bench.gpu.copy.call(SubmitCopy(((None, DmaAddr(BASE_PFN, Proto.VRAM)),)))
        await bench.engine.step("local")
        target = bench.device(0, 6)
        await clear.wait()
        return target.content.fill

    assert {fill for _, fill in every_schedule(body)} == {0, 6}


# -- use after free ------------------------------------------------------------------------


class UntilCopyEnd(Stay):
    """The copy engine goes on up to its first ``copy_end``, then everybody else."""

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        for index, task in enumerate(candidates):
            if task.id == "gpu0.copy" and task.op[0] != "copy_end":
                return index
        return 0


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("which", ["source", "target"])
def test_pages_freed_during_the_copy_are_caught(which: str, reuse: bool) -> None:
    async def body(bench: Bench) -> None:
        source, target = bench.ram(1), bench.device(0)
        fence = await bench.gpu.copy.call(SubmitCopy(((bench.address(source), bench.address(target)),)))
        while not any("copy_begin" in line for line in bench.engine.trace()):
            await bench.engine.step("local")
        (source if which == "source" else target).put("test")
        if reuse:
            assert (bench.ram(2) if which == "source" else bench.device(0, 2)).generation == 1
        await fence.wait()

    with pytest.raises(PropertyFailed, match="INV-05"):
        run(body, UntilCopyEnd())


def test_a_source_unmapped_before_the_copy_is_through_is_caught_under_every_schedule() -> None:
    async def body(bench: Bench) -> str:
        source = bench.address(bench.ram(1))
        fence = await bench.gpu.copy.call(SubmitCopy(((source, bench.address(bench.device(0))),)))
        await bench.engine.step("local")
        bench.gpu.iommu.unmap(source.addr)
        await fence.wait()
        return "safe"

    outcomes = {}
    for bench, result in every_schedule(body, catch=True):
        trace = bench.engine.trace()
        unmapped = trace.index("main: local")
        in_time = any("copy_end" in line for line in trace[:unmapped])
        outcomes.setdefault(in_time, set()).add(result if result == "safe" else result.rule)
    assert outcomes == {True: {"safe"}, False: {"RULE-18"}}


def test_a_copy_to_or_from_an_address_that_is_not_mapped_is_refused_at_submission() -> None:
    async def body(bench: Bench) -> None:
        good, bad = bench.address(bench.ram()), DmaAddr(0x77, Proto.SYSTEM)
        for pair in ((good, bad), (bad, good), (None, bad)):
            with pytest.raises(PropertyFailed, match="RULE-18"):
                await bench.gpu.copy.call(SubmitCopy((pair,)))
        with pytest.raises(PropertyFailed, match="INV-05"):
            await bench.gpu.copy.call(SubmitCopy(((good, DmaAddr(BASE_PFN, Proto.VRAM)),)))

    run(body)


def test_directions_are_those_of_a_copy() -> None:
    async def body(bench: Bench) -> None:
        source = bench.address(bench.ram(3), Direction.TO_DEVICE)
        target = bench.address(bench.ram(), Direction.FROM_DEVICE)
        await copy(bench, (source, target))
        with pytest.raises(PropertyFailed, match="RULE-45"):
            await bench.gpu.copy.call(SubmitCopy(((target, source),)))

    bench, _ = run(body)
    assert bench.gpu.statistics()["address_spaces"] == 1
    assert ASID in bench.gpu.compute.page_tables
