"""Who is next: priorities, FIFO, round robin, fair; credits and the head of the line (section 8.1)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from sched_bench import MS, US, Bench, every, run

from svm_actors.dma_buf.fence import Fence
from svm_actors.drm.sched import DrmSched
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_mock import MockJob
from svm_actors.drm.sched_policy import SchedPolicy
from svm_actors.drm.sched_types import Priority


def order(bench: Bench) -> list[str]:
    """Names of the freed jobs in the order of their completion, as ``0.1``: entity 0, its job 1."""
    freed = sorted(bench.gpus[0].freed, key=lambda job: job.finished_at or 0)
    return [job.name.removeprefix("e").replace(".job", ".") for job in freed if job.duration != GATE]


GATE = 123 * US


async def behind_a_gate(bench: Bench, *jobs: tuple[SchedEntity, int], apart: int = 1) -> None:
    """Submit while the hardware is busy, ``apart`` ns after each other; run them all."""
    gate = await bench.submit(bench.entity(), GATE)
    await gate.s_fence.scheduled.wait()
    for entity, duration in jobs:
        await bench.engine.sleep(apart)
        await bench.submit(entity, duration)
    await bench.engine.quiesce()


# -- FIFO --------------------------------------------------------------------------------------


def test_fifo_serves_the_oldest_job_whatever_entity_it_is_in() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        a, b = bench.entity(), bench.entity()
        await behind_a_gate(bench, (b, US), (b, US), (a, US), (b, US), (a, US))
        assert order(bench) == ["1.1", "1.2", "0.1", "1.3", "0.2"]

    for _ in every(body, 20):
        pass


def test_of_the_same_age_whoever_had_its_turn_goes_to_the_back() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        a, b, c = bench.entity(), bench.entity(), bench.entity()
        await behind_a_gate(bench, *((entity, US) for entity in (a, a, b, b, c, c)), apart=0)
        assert order(bench) == ["0.1", "1.1", "2.1", "0.2", "1.2", "2.2"]

    run(body)


@pytest.mark.parametrize("policy", [SchedPolicy.FIFO, SchedPolicy.RR])
def test_priorities_are_strict(policy: SchedPolicy) -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=policy)
        by_priority = [bench.entity(priority=priority) for priority in Priority]
        jobs = [(entity, US) for entity in reversed(by_priority) for _ in range(2)]
        await behind_a_gate(bench, *jobs)
        assert order(bench) == ["0.1", "0.2", "1.1", "1.2", "2.1", "2.2", "3.1", "3.2"]

    for _ in every(body, 20):
        pass


# -- RR ------------------------------------------------------------------------------------------


def test_round_robin_takes_one_of_each() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.RR)
        a, b = bench.entity(), bench.entity()
        await behind_a_gate(bench, (a, US), (a, US), (a, US), (b, US), (b, US))
        assert order(bench) == ["0.1", "1.1", "0.2", "1.2", "0.3"]

    for _ in every(body, 20):
        pass


def test_who_comes_back_in_round_robin_is_behind_those_who_wait() -> None:
    """Emptying its queue counts as a turn."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.RR)
        a, b, c = bench.entity(), bench.entity(), bench.entity()
        await behind_a_gate(bench, (a, US), (b, US))
        await behind_a_gate(bench, (a, US), (c, US), (b, US))
        assert order(bench) == ["0.1", "1.1", "2.1", "0.2", "1.2"]

    for _ in every(body, 10):
        pass


def test_idling_gives_no_advantage_in_round_robin() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.RR)
        a, b = bench.entity(), bench.entity()
        for _ in range(3):
            await bench.submit(a, US)
        await bench.engine.quiesce()
        await behind_a_gate(bench, (a, US), (b, US), (a, US), (b, US))
        assert order(bench)[3:] == ["1.1", "0.4", "1.2", "0.5"]

    run(body)


# -- FAIR ----------------------------------------------------------------------------------------


def gaps(turns: str, who: str) -> list[int]:
    """How many turns lie between two of ``who``."""
    mine = [index for index, name in enumerate(turns) if name == who]
    return [second - first - 1 for first, second in pairwise(mine)]


def test_fair_serves_whoever_used_least() -> None:
    """One entity has jobs four times as long: it gets a fourth of the turns, once its first is booked."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.FAIR)
        big, small = bench.entity(), bench.entity()
        await behind_a_gate(bench, *[(big, 4 * MS)] * 6, *[(small, MS)] * 20)
        turns = "".join(name[0] for name in order(bench))
        assert gaps(turns, "0")[1:5] == [4] * 4

    run(body)


def test_fair_weighs_priorities_and_starves_nobody() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=1, policy=SchedPolicy.FAIR)
        assert len(sched.rqs) == 1
        high, low = bench.entity(priority=Priority.HIGH), bench.entity(priority=Priority.LOW)
        await behind_a_gate(bench, *[(high, MS)] * 120, *[(low, MS)] * 6)
        turns = "".join(name[0] for name in order(bench))
        # A nanosecond costs the low one 2**7, the high one 2**2; what runs just now is not booked yet.
        assert gaps(turns, "1")[1:4] == [31, 32, 32]

    run(body)


def test_fair_a_debt_is_not_forgotten_by_going_away() -> None:
    """Who used much and left comes back behind the others, not in front of them."""

    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.FAIR)
        greedy, modest = bench.entity(), bench.entity()
        steady = [(modest, MS)] * 12
        await behind_a_gate(bench, (greedy, 8 * MS), *steady[:4])
        await behind_a_gate(bench, (greedy, MS), *steady)
        turns = "".join(name[0] for name in order(bench))
        assert turns[5:].index("0") >= 2

    run(body)


def test_fair_an_entity_that_comes_back_does_not_catch_up() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1, policy=SchedPolicy.FAIR)
        steady, late = bench.entity(), bench.entity()
        jobs = [await bench.submit(steady, MS) for _ in range(20)]
        await jobs[9].done.wait()
        for _ in range(5):
            await bench.submit(late, MS)
        await bench.engine.quiesce()
        turns = "".join(name[0] for name in order(bench))
        assert turns[:10] == "0" * 10
        assert "111" not in turns
        assert gaps(turns, "1")[1:] == [1, 1, 1]

    run(body)


# -- credits ---------------------------------------------------------------------------------------


def test_credits_bound_what_is_on_the_hardware() -> None:
    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=5)
        entity = bench.entity()
        for credits_ in (2, 2, 2, 1):
            await bench.submit(entity, 0, credits_=credits_)
        await bench.engine.quiesce()
        assert sched.statistics() == {"pending": 2, "credits": 4, "score": 5}
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert sched.statistics() == {"pending": 3, "credits": 5, "score": 4}
        await bench.gpu.advance(3)
        await bench.engine.quiesce()
        assert sched.statistics() == {"pending": 0, "credits": 0, "score": 1}

    for _ in every(body, 20):
        pass


def test_a_job_that_never_fits_is_cut_down() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=3)
        job = await bench.submit(bench.entity(), US, credits_=100)
        await job.done.wait()
        assert job.credits == 3

    assert run(body).engine.counters["sched.credits_truncated"] == 1


def test_who_lacks_credits_stops_everybody_behind() -> None:
    """A big high-priority job must not be starved by a stream of small ones of lower priority."""

    async def body(bench: Bench) -> None:
        sched = bench.sched(credit_limit=4)
        small, big = bench.entity(priority=Priority.LOW), bench.entity(priority=Priority.HIGH)
        await bench.submit(small, credits_=2)
        await bench.engine.quiesce()
        whole = await bench.submit(big, credits_=4)
        for _ in range(3):
            await bench.submit(small, credits_=1)
        await bench.engine.quiesce()
        assert [job.name for job in sched.pending] == ["e0.job1"]
        await bench.gpu.advance(1)
        await bench.engine.quiesce()
        assert list(sched.pending) == [whole]
        await bench.gpu.advance(10)
        await bench.engine.quiesce()
        await bench.gpu.advance(10)

    for _ in every(body, 20):
        pass


def test_who_waits_for_a_fence_stops_nobody() -> None:
    async def body(bench: Bench) -> None:
        bench.sched(credit_limit=1)
        fence = Fence(bench.engine, "fence")
        high, low = bench.entity(priority=Priority.HIGH), bench.entity(priority=Priority.LOW)
        await bench.submit(high, US, fence)
        job = await bench.submit(low, US)
        await job.done.wait()
        fence.signal()

    for _ in every(body, 20):
        pass


class StarvesTheBig(DrmSched):
    """Head of line by credits is skipped: what the rule is against."""

    async def select_entity(self) -> SchedEntity | None:
        for rq in self.rqs:
            entity, _ = await rq.select()
            if entity is not None:
                return entity
        return None


def test_the_rule_is_what_keeps_the_big_one_from_starving() -> None:
    async def overtaken(bench: Bench, cls: type[DrmSched]) -> bool:
        bench.sched(credit_limit=4, cls=cls)
        small, big = bench.entity(priority=Priority.LOW), bench.entity(priority=Priority.HIGH)
        first = await bench.submit(small, MS, credits_=2)
        await first.s_fence.scheduled.wait()
        whole = await bench.submit(big, MS, credits_=4)
        last: MockJob | None = None
        for _ in range(20):
            await bench.engine.sleep(MS // 2)
            last = await bench.submit(small, MS, credits_=1)
        await bench.engine.quiesce()
        assert last is not None
        return (whole.finished_at or 0) > (last.finished_at or 0)

    for cls, expected in ((DrmSched, False), (StarvesTheBig, True)):

        async def body(bench: Bench, cls: type[DrmSched] = cls) -> None:
            bench.log.append(await overtaken(bench, cls))

        assert run(body).log == [expected]
