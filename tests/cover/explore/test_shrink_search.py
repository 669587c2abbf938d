"""Shrinking by other means than leaving something out: other schedules, simpler operations, the same deadlock."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import NoReturn

import attrs
import pytest

import svm_actors.explore.run
from svm_actors.engine.channel import Channel
from svm_actors.engine.errors import PropertyFailed
from svm_actors.engine.op import Op
from svm_actors.engine.task import NOBODY, Task, Thread
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run, replay, run
from svm_actors.explore.shrink import Shrinker, arguments, minimise, operations, searching, shrink
from svm_actors.explore.shrink.choices import shortest_prefix
from svm_actors.explore.shrink.late import InLateOrder
from svm_actors.explore.shrink.recording import Case
from svm_actors.explore.shrink.sameness import FailureClass
from svm_actors.explore.shrink.searching import TURNS, Search, search_short, searched
from svm_actors.explore.shrink.shrinker import Enough
from svm_actors.explore.shrink.threads import SKIPPED, Handovers, ThreadPct, plain
from svm_actors.explore.strategies import Replay
from svm_actors.explore.strategies.guided import Handover, InOrder, Recorder
from svm_actors.explore.subject import Scenario, subject_of
from svm_actors.explore.targets import subject_named
from svm_actors.workload.program import Kept, Operation, ProgramScenario
from svm_actors.world import World


@cache
def failing(target: str, bug: str) -> Run:
    """The first failing run."""
    subject = subject_named(target)
    runs = (run(subject, seed=seed, strategy="random", bugs=(bug,), backend="direct") for seed in range(400))
    return next(one for one in runs if not one.ok)


def begun(target: str, bug: str, *, runs: int | None = None) -> Shrinker:
    """A shrinker at its beginning."""
    one = failing(target, bug)
    case = Case(subject_named(target), one.settings, one.seed, (bug,))
    return Shrinker(case, case.record(None, Recorder(Replay(one.tape, one.arity))), runs=runs)


def unjudged(scenario: Scenario, one: Run) -> Shrinker:
    """A shrinker of this run at its beginning, for which a spent budget is what it is."""
    case = Case(subject_of(scenario), one.settings, one.seed, (), judging=False)
    return Shrinker(case, case.record(None, Recorder(Replay(one.tape, one.arity))))


# -- schedules of threads -------------------------------------------------------------------------


@attrs.frozen
class Lock:
    """What an op names."""

    name: str


def task(number: int, thread: Thread, op: Op = ("local", None, None), *, daemon: bool = False) -> Task:
    made = Task(number, f"t{number}", None, NOBODY.coro, thread)
    made.op, made.daemon, made.enabled = op, daemon, True
    return made


def test_the_tasks_of_a_thread_have_one_priority() -> None:
    one, other = Thread("one"), Thread("other")
    firsts = set()
    for seed in range(40):
        chooser = ThreadPct(seed, depth=1, horizon=10)
        fresh = [task(0, one), task(1, other)]
        first = chooser.schedule(None, fresh, False)
        for number in range(2, 30, 2):  # new tasks of the same threads, in either order
            candidates = [task(number, one), task(number + 1, other)]
            assert chooser.schedule(None, candidates, False) == first
            assert chooser.schedule(None, candidates[::-1], False) == 1 - first
        firsts.add(first)
    assert firsts == {0, 1}


def test_a_change_point_hands_over_to_the_other_thread() -> None:
    one, other = Thread("one"), Thread("other")
    candidates = [task(0, one), task(1, other)]
    handed_over = set()
    for seed in range(40):
        chooser = ThreadPct(seed, depth=2, horizon=10)
        taken = [chooser.schedule(None, candidates, False) for _ in range(20)]
        assert chooser.counted == 20
        early, late = taken[:10], taken[10:]
        assert set(late) == {late[0]}
        assert sum(before != after for before, after in pairwise([*early, late[0]])) <= 1
        handed_over.add(early[0] != late[0])
    assert handed_over == {True, False}, "a change at the very first step shows no switch"


def test_change_points_are_counted_at_the_named_ops_only() -> None:
    lock = Lock("gpu0.vm1.lock")
    here = task(0, Thread("one"), ("lock", lock, None)), task(1, Thread("other"), ("lock", lock, None))
    chooser = ThreadPct(0, 3, 10, at=frozenset({"lock gpuN.vmN.lock"}))
    chooser.schedule(None, [task(2, Thread("one")), task(3, Thread("other"))], False)
    assert chooser.counted == 0
    chooser.schedule(None, list(here), False)
    chooser.schedule(None, [here[0]], False)
    assert chooser.counted == 1, "one thread alone is not contested"


def test_a_handover_is_made_where_it_was_made_before() -> None:
    fault, cpu = Thread("gpu0.pagefault1"), Thread("main/cpu.0")
    lock = ("lock", Lock("gpu0.vm1.lock"), None)
    due = [Handover("gpu7.pagefault2", "lock gpu7.vm3.lock", "main/cpu.4")]
    seen = set()
    for seed in range(60):
        chooser = Handovers(seed, due)
        if chooser.schedule(None, [task(0, fault), task(1, cpu)], False) == 1:
            continue  # the other thread goes first: nothing is due
        taken = [chooser.schedule(None, [task(number, fault, lock), task(1, cpu)], False) for number in range(2, 8)]
        assert taken == sorted(taken), "the thread that was preempted has the lowest priority from then on"
        seen.add(taken.index(1))
    assert seen == set(SKIPPED)


def test_the_recorder_tells_preemptions_of_threads() -> None:
    one, other = Thread("one"), Thread("other")
    first, second = task(1, one), task(2, other)
    chosen = iter([0, 1, 0])
    recorder = Recorder()
    recorder.pick = lambda fork: next(chosen)  # type: ignore[method-assign]
    for running, candidates in ((None, [first, second]), (first, [first, second]), (second, [task(3, one), second])):
        recorder.ran(candidates[recorder.schedule(running, candidates, False)])
    assert [one.handover for one in recorder.decisions] == [
        None,
        Handover("one", "local", "other"),
        Handover("other", "local", "one"),
    ]


def test_messages_are_taken_at_once() -> None:
    loop = task(5, Thread("actor"), ("receive", None, None), daemon=True)
    worker = task(6, Thread("worker"))
    assert all(ThreadPct(seed, 2, 5).schedule(worker, [worker, loop], False) == 1 for seed in range(20))
    lazy = {ThreadPct(seed, 2, 5, eager=False).schedule(worker, [worker, loop], False) for seed in range(20)}
    assert lazy == {0, 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lock gpu0.vm12.lock", "lock gpuN.vmN.lock"), ("pte_write mm1 0x10", "pte_write mmN N"), ("local", "local")],
)
def test_an_op_without_its_numbers(text: str, expected: str) -> None:
    assert plain(text) == expected


# -- searching ------------------------------------------------------------------------------------


def test_a_search_goes_on_where_it_stopped() -> None:
    shrinker = begun("dontneed@0", "SVM-B41")
    nothing: frozenset[int] = frozenset()
    for schedules, runs in ((5, 5), (5, 0), (8, 3)):
        before = shrinker.runs
        assert not searched(shrinker, nothing, schedules)
        assert shrinker.runs - before == runs


def test_a_search_finds_a_smaller_program_and_is_repeatable() -> None:
    found = []
    for _ in range(2):
        shrinker = begun("dontneed@0", "SVM-B41")
        assert operations.search_chunks(shrinker)
        assert shrinker.merit.operations < shrinker.first.merit.operations
        found.append((shrinker.merit, shrinker.runs))
    assert found[0] == found[1]


def test_every_kind_of_schedule_keeps_what_makes_the_program() -> None:
    shrinker = begun("random-small@5", "SVM-B50")
    draws, seen = shrinker.first.draws, []
    kept = frozenset(shrinker.first.numbers[:-1])
    shrinker.offer = lambda _kept, chooser, _steps: seen.append(shrinker.record(_kept, chooser).draws)  # type: ignore
    search = Search(shrinker, kept)
    for number in range(len(TURNS)):
        search.attempt(number)
    assert seen == [draws] * len(TURNS)


def test_an_order_is_tried_once_for_a_best_run() -> None:
    shrinker = begun("dontneed@0", "SVM-B41")
    operations.drop_operations(shrinker)
    before = shrinker.runs
    operations.drop_operations(shrinker)
    assert shrinker.runs == before, "nothing new to try"


def test_a_large_program_is_searched_at_once_and_a_small_one_is_not() -> None:
    shrinker = begun("dontneed@0", "SVM-B41")
    operations.search_large(shrinker)
    assert 0 < shrinker.merit.operations <= operations.HANDFUL
    before = shrinker.runs
    operations.search_large(shrinker)
    assert shrinker.runs == before


def test_a_stretch_of_operations_that_need_each_other_goes_at_once() -> None:
    """Of nine, 2 to 5 are a chain: without one of its links what comes after makes no sense."""

    async def perform(world: World, _program: None, kept: Kept) -> None:
        links = [number in kept for number in range(2, 6)]
        needed = all(number in kept for number in (0, 1, 6, 7))
        await world.engine.step("local")
        if needed and all(links) == any(links):
            raise PropertyFailed("toy", "lost", "it is lost")

    program = ProgramScenario(lambda _draw: None, lambda _: [Operation("t", str(n)) for n in range(9)], perform)
    shrinker = unjudged(program, run(program, backend="direct"))
    assert not operations.search_chunks(shrinker) or len(shrinker.best.numbers) == 8
    assert operations.search_stretches(shrinker)
    assert shrinker.best.numbers == [0, 1, 6, 7]
    assert not operations.search_stretches(shrinker), "a handful is small enough"


def test_runs_bound_a_search() -> None:
    shrinker = begun("dontneed@0", "SVM-B41", runs=10)
    with pytest.raises(Enough):
        searched(shrinker, frozenset(), 100)
    assert shrinker.runs == 10


# -- the order told from the end --------------------------------------------------------------------


async def asks_four_times(world: World, _program: None, kept: Kept) -> None:
    """Of four requests to one actor the last is worked on just between two steps of the client: that is the failure."""
    engine = world.engine
    mailbox: Channel[int] = Channel(engine, "mailbox", 4)
    handled = []

    async def actor() -> None:
        while True:
            number = await mailbox.receive()
            await engine.step("local")
            handled.append(number)

    async def client() -> None:
        for number in range(4):
            if number in kept:
                with kept.doing(number):
                    await mailbox.send(number)
                    await engine.step("local")
                    before = number in handled
                    await engine.step("local")
                    if number == 3 and number in handled and not before:
                        raise PropertyFailed("toy", "between", "it came in between")

    engine.spawn(actor(), "actor", daemon=True)
    async with world.nursery() as nursery:
        nursery.start_soon(client, name="client")


OPERATIONS = [Operation("client", f"request {number}") for number in range(4)]
FOUR_REQUESTS = ProgramScenario(lambda _draw: None, lambda _program: OPERATIONS, asks_four_times)


def test_what_an_actor_did_last_is_what_it_does_in_the_smaller_program() -> None:
    """Its steps have other numbers there, so no place is found for them when they are counted from the beginning."""
    failed = Counter[str]()
    for seed in range(400):
        one = run(FOUR_REQUESTS, seed=seed, strategy="random", backend="direct")
        if one.failure is not None:
            for name in ("first", "late"):
                shrinker = unjudged(FOUR_REQUESTS, one)
                best, kept = shrinker.best, frozenset({3})
                order = InLateOrder(best.plan, shrinker.late()) if name == "late" else InOrder(best.plan, best.order)
                failed[name] += shrinker.offer(kept, order)
            failed["all"] += 1
    assert failed["late"] == failed["all"] > failed["first"]


# -- simpler operations ---------------------------------------------------------------------------


def test_arguments_are_lowered_and_nothing_else_changes() -> None:
    shrinker = begun("random-tight@0", "SVM-B50")
    operations.drop_operations(shrinker)
    before = shrinker.best
    arguments.lower_arguments(shrinker)
    after = shrinker.best
    assert after.merit < before.merit
    assert after.kept == before.kept
    assert [each.who for each in after.operations] == [each.who for each in before.operations]
    assert after.operations != before.operations
    assert all(low <= high for low, high in zip(after.draws, before.draws, strict=True))


def test_a_story_has_no_arguments_to_lower() -> None:
    shrinker = begun("dontneed@0", "SVM-B41")
    arguments.lower_arguments(shrinker)
    assert shrinker.runs == 0


# -- the same failure -----------------------------------------------------------------------------


def deadlock(*ops: str) -> Failure:
    lines = [f"  t{index} is blocked in {op}; its thread holds nothing" for index, op in enumerate(ops)]
    return Failure("deadlock", "engine", "deadlock", "\n".join(["deadlock at virtual time 0 ns", *lines]))


def test_a_deadlock_with_fewer_bystanders_is_the_same() -> None:
    before = FailureClass.of(deadlock("lock bo0.resv", "fence_wait q1", "lock vm2.lock"))
    assert before.holds(deadlock("fence_wait q7"))
    assert before.holds(deadlock("lock bo3.resv", "lock bo4.resv"))
    assert not before.holds(deadlock("fence_wait q1", "wait gate"))
    assert not before.holds(deadlock())
    assert not before.holds(None)
    assert not FailureClass.of(deadlock("fence_wait q1")).holds(deadlock("fence_wait q1", "lock vm2.lock"))


def test_other_failures_are_the_same_by_signature() -> None:
    one = Failure("property", "coherence", "RULE-1", "page 3 reads b'a'")
    assert FailureClass.of(one).holds(attrs.evolve(one, message="page 14 reads b'b'"))
    assert not FailureClass.of(one).holds(attrs.evolve(one, rule="RULE-2"))
    assert not FailureClass.of(one).holds(deadlock("fence_wait q1"))


async def spins(world: World) -> None:
    """Goes round for ever once the second thread was first."""
    turns: list[str] = []

    async def thread(name: str) -> None:
        await world.engine.step("local")
        turns.append(name)
        while turns[0] == "b":
            await world.engine.step("local")

    async with world.nursery() as nursery:
        nursery.start_soon(thread, "a")
        nursery.start_soon(thread, "b")


def spinning(scenario: Scenario, strategy: str) -> Run:
    """The first run that spends a budget of 2000 steps."""
    seeds = range(20)
    runs = (run(scenario, seed=seed, strategy=strategy, backend="direct", step_budget=2_000) for seed in seeds)
    one = next(each for each in runs if not each.ok)
    assert one.failure is not None
    assert one.failure.kind == "budget"
    return one


def test_of_a_run_that_spins_the_beginning_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minimise, "SPINNING", {"budget": (500,)})
    one = spinning(spins, "random")
    assert one.failure is not None
    shrunk = shrink(spins, one.token, seconds=None, runs=100)
    assert shrunk.failure.signature == one.failure.signature
    assert shrunk.merit.deviations <= 2
    assert shrunk.run.settings.step_budget == 500
    assert replay(spins, shrunk.token, backend="direct").failure == shrunk.failure


async def spins_by_turns(world: World) -> None:
    """Two threads do seven ops in a round, each as often as the others."""

    async def thread(ops: str) -> None:
        while True:
            for op in ops:
                await world.engine.step(op)

    async with world.nursery() as nursery:
        nursery.start_soon(thread, "abcd")
        nursery.start_soon(thread, "efg")


@pytest.mark.parametrize("budget", range(500, 507))
def test_the_beginning_of_a_run_that_spins_may_end_anywhere_in_a_round(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minimise, "SPINNING", {"budget": (budget,)})
    shrunk = shrink(spins_by_turns, spinning(spins_by_turns, "fifo").token, seconds=None, runs=5)
    assert shrunk.run.settings.step_budget == budget


def test_of_a_run_that_spends_its_budget_no_short_schedule_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "LONG", 400)
    shrinker = unjudged(spins, spinning(spins, "random"))
    search_short(shrinker)
    assert shrinker.runs == 0, "none spends the same budget sooner"


def test_a_run_that_only_spends_its_budget_is_confirmed_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    shrinker = unjudged(spins, spinning(spins, "random"))

    def judge(*_: object) -> NoReturn:
        raise AssertionError("a candidate was judged")

    monkeypatch.setattr(svm_actors.explore.run, "judge", judge)
    shortest_prefix(shrinker)
    assert shrinker.accepted


async def after_you(world: World) -> None:
    """Two tasks that let the other go first, for ever, once each has seen the other."""
    waiting: list[str] = []

    async def guest(name: str) -> None:
        waiting.append(name)
        await world.engine.step("local")
        while len(waiting) > 1:
            world.engine.count("after-you.retry")
            await world.engine.step("local")
        waiting.remove(name)

    async with world.nursery() as nursery:
        nursery.start_soon(guest, "a")
        nursery.start_soon(guest, "b")


async def waits_long(world: World) -> None:
    """One task works on and on, and fails when the other has done twenty steps meanwhile."""
    done: list[int] = []

    async def works() -> None:
        for _ in range(1000):
            await world.engine.step("local")
            assert len(done) < 20, "overtaken"

    async def overtakes() -> None:
        for number in range(20):
            await world.engine.step("local")
            done.append(number)

    async with world.nursery() as nursery:
        nursery.start_soon(works)
        nursery.start_soon(overtakes)


class Late:
    """The first task for six hundred picks, then the last one."""

    name = "late"

    def __init__(self) -> None:
        self.picks = 0

    def schedule(self, running: Task | None, candidates: list[Task], timer: bool) -> int:
        self.picks += 1
        return 0 if self.picks < 600 else len(candidates) - 1

    def data(self, count: int, label: str) -> int:
        return 0


def test_a_very_long_run_is_replaced_by_a_short_one_that_fails_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "LONG", 400)
    one = run(waits_long, chooser=Late(), backend="direct")
    assert one.steps > 600
    shrinker = unjudged(waits_long, one)
    search_short(shrinker)
    assert shrinker.merit.steps < 200
    assert shrinker.best.signature == one.failure.signature  # type: ignore[union-attr]


def test_a_livelock_is_shrunk_to_the_way_into_its_cycle() -> None:
    runs = (run(after_you, seed=seed, strategy="random", backend="direct", step_budget=20_000) for seed in range(50))
    one = next(each for each in runs if not each.ok)
    assert one.failure is not None
    assert one.failure.kind == "livelock"
    shrunk = shrink(after_you, one.token, seconds=None)
    assert shrunk.failure.signature == one.failure.signature
    assert shrunk.run.settings.step_budget == 100
    assert shrunk.merit.deviations <= 1
"""Of twenty thousand steps what is left is that the second guest comes in before the first has gone."""


@pytest.mark.parametrize(("kind", "judging"), [("property", False), ("livelock", True)])
def test_a_spent_step_budget_is_judged_only_where_a_livelock_is_shrunk(
    kind: str, judging: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = after_you if kind == "livelock" else waits_long
    runs = (run(scenario, seed=seed, strategy="random", backend="direct", step_budget=20_000) for seed in range(50))
    one = next(each for each in runs if not each.ok)
    seen: list[bool] = []
    monkeypatch.setattr(minimise, "_all_passes", lambda shrinker: seen.append(shrinker.case.judging))
    shrink(scenario, one.token, runs=1)
    assert seen == [judging]
