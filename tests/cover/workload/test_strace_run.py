"""Replayed windows: they cover the log, start where the log is, and in the recorded order end as recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from workload_files import DEMOS, STRACE_FILES

from svm_actors.explore.run import Backend, Run, execute, run
from svm_actors.explore.settings import Settings
from svm_actors.explore.strategies.guided import Point, Recorder
from svm_actors.explore.subject import Subject, subject_of
from svm_actors.workload.ranges import RangeMap
from svm_actors.workload.strace_actions import Mremap
from svm_actors.workload.strace_program import StraceProgram, Walk, read_program
from svm_actors.workload.strace_run import FOLLOW_EVERY, ReplayRun, instruction, replay_scenario, some_pages, stamp
from svm_actors.workload.strace_windows import Follower, Mapped, Window, move, windows
from svm_actors.world import Config, World

each_file = pytest.mark.parametrize("file", STRACE_FILES, ids=lambda file: file.stem)
each_demo = pytest.mark.parametrize("file", DEMOS, ids=lambda file: file.stem)
PAGE = 4096


def replay(window: Window, order: str, seed: int, backend: Backend = "direct", *, record: bool = False) -> Run:
    return run(
        replay_scenario(window, order),
        strategy="random" if seed else "fifo",
        seed=seed,
        config=Config(vram_pages=256),
        backend=backend,
        record=record,
        step_budget=400_000,
    )


def surprises(window: Window, seed: int) -> list[str]:
    """What a replay in the recorded order answers differently from the log."""
    found: list[ReplayRun] = []

    async def scenario(world: World) -> None:
        found.append(ReplayRun(world, window))
        await found[0].run("recorded")

    result = run(scenario, strategy="random" if seed else "fifo", seed=seed, backend="direct", digest=False)
    assert result.failure is None
    return [f"line {surprise.step.line}: {surprise.got}" for surprise in found[0].surprises]


# -- windows -----------------------------------------------------------------------


@each_file
def test_windows_cover_the_log(file: Path) -> None:
    program = read_program(file)
    for length in (1, 48, len(program.steps)):
        steps = [step for window in windows(program, length) for step in window.steps]
        assert steps == list(program.steps)


@each_file
def test_the_follower_knows_the_mappings_of_every_step(file: Path) -> None:
    program = read_program(file)
    follower, walk = Follower(program), Walk(program)
    for step in program.steps:
        follower.take(step)
        process = walk.take(step)
        if walk.users[process]:
            assert merged(follower.spaces[process].memory) == [(start, end) for start, end, _ in walk.spaces[process]]


def merged(memory: RangeMap[Mapped]) -> list[tuple[int, int]]:
    """What is mapped, whatever it is."""
    found: RangeMap[bool] = RangeMap()
    for start, end, _ in memory:
        found.assign(start, end, True)
    return [(start, end) for start, end, _ in found]


@each_file
def test_a_window_starts_with_what_its_first_step_needs(file: Path) -> None:
    """A step may only ask for a space and a thread that are there, or that an earlier step makes."""
    for window in windows(read_program(file)):
        threads = {thread for thread, _ in window.threads}
        spaces = {space.process for space in window.spaces}
        assert {process for _, process in window.threads} == spaces
        for step in window.steps:
            assert step.thread in threads
            threads.add(getattr(step.action, "thread", step.thread))


def test_a_window_sets_up_less_than_there_is() -> None:
    program = read_program(next(file for file in STRACE_FILES if file.stem == "threads_fork"))
    follower = Follower(program)
    for step in program.steps[:96]:
        follower.take(step)
    third = windows(program)[2]
    for space in third.spaces:
        everything = list(follower.spaces[space.process].memory)
        assert set(space.mappings) < set(everything)


def mapped(*pieces: tuple[int, int, Mapped]) -> RangeMap[Mapped]:
    memory: RangeMap[Mapped] = RangeMap()
    for start, end, there in pieces:
        memory.assign(start * PAGE, end * PAGE, there)
    return memory


def mremap(old: int, old_pages: int, new_pages: int, new: int, *flags: str) -> Mremap:
    return Mremap(old * PAGE, old_pages * PAGE, new_pages * PAGE, flags, new * PAGE)


FILE = Mapped("r", thing=3, base=10 * PAGE)
ANON = Mapped("rw")


@pytest.mark.parametrize(
    ("before", "action", "after"),
    [
        pytest.param([(10, 12, ANON)], mremap(10, 2, 2, 20), [(20, 22, ANON)], id="moves"),
        pytest.param([(10, 12, ANON)], mremap(10, 2, 4, 10), [(10, 14, ANON)], id="grows in place"),
        pytest.param([(10, 14, ANON)], mremap(10, 4, 1, 10), [(10, 11, ANON)], id="shrinks"),
        pytest.param([(10, 12, ANON)], mremap(10, 2, 3, 20), [(20, 23, ANON)], id="moves and grows"),
        pytest.param([(10, 12, ANON), (20, 24, FILE)], mremap(10, 2, 2, 21), None, id="replaces what was there"),
        pytest.param([(10, 12, FILE)], mremap(10, 2, 2, 30), None, id="keeps the offsets of a file"),
        pytest.param(
            [(10, 12, ANON)],
            mremap(10, 2, 2, 20, "MREMAP_DONTUNMAP"),
            [(10, 12, ANON), (20, 22, ANON)],
            id="DONTUNMAP leaves the old place",
        ),
        pytest.param([(10, 12, FILE)], mremap(10, 0, 2, 20), None, id="a second view of a shared object"),
        pytest.param(
            [(10, 11, ANON), (11, 12, FILE)], mremap(10, 2, 2, 20), None, id="several mappings keep their order"
        ),
    ],
)
def test_moving_in_the_log(
    before: list[tuple[int, int, Mapped]], action: Mremap, after: list[tuple[int, int, Mapped]] | None
) -> None:
    """Lengths and places; the file cases are judged by what page of the object ends where."""
    memory = mapped(*before)
    pages = {page: page_of(memory, page) for page in range(action.old_address // PAGE, action.old_address // PAGE + 4)}
    move(memory, action)
    if after is not None:
        assert list(memory) == list(mapped(*after))
    assert action.new_address is not None
    distance = (action.new_address - action.old_address) // PAGE
    for page in range(action.old_address // PAGE, (action.old_address + action.new_length) // PAGE):
        if pages.get(page) is not None:
            assert page_of(memory, page + distance) == pages[page]


def page_of(memory: RangeMap[Mapped], page: int) -> tuple[int | None, int, str] | None:
    """Which page of which object lies there, and how it is protected; anonymous memory has no offsets."""
    for start, _end, there in memory.pieces(page * PAGE, (page + 1) * PAGE):
        return there.thing, (start - there.base) // PAGE if there.thing is not None else 0, there.prot
    return None


# -- replay ------------------------------------------------------------------------


@each_file
def test_the_recorded_order_gives_the_recorded_results(file: Path) -> None:
    """Addresses and errors, window by window."""
    for window in windows(read_program(file)):
        assert surprises(window, seed=0) == []
        assert surprises(window, seed=window.index + 1) == []


@each_demo
def test_a_whole_log_in_one_run_gives_the_recorded_results(file: Path) -> None:
    program = read_program(file)
    (whole,) = windows(program, len(program.steps))
    assert surprises(whole, seed=0) == []
    assert surprises(whole, seed=1) == []


def test_failed_calls_fail_again() -> None:
    """The demos hold refused calls; each must be refused with its own error."""
    program = read_program(next(file for file in DEMOS if file.stem == "malloc_heap"))
    errors = Counter(step.errno for step in program.steps if step.errno)
    assert set(errors) == {"ENOMEM", "EINVAL", "EEXIST"}
    (whole,) = windows(program, len(program.steps))
    assert surprises(whole, seed=0) == []


@each_demo
def test_every_order_holds_what_must_hold(file: Path) -> None:
    """The oracles find nothing in races between the calls, whatever the calls answer."""
    for window in windows(read_program(file)):
        for seed in range(1, 6):
            assert replay(window, "free", seed).failure is None


def test_gpus_fault_while_the_calls_run() -> None:
    """A replay is worth its name only if the GPU gets at pages, is refused some, and loses others again."""
    counters: Counter[str] = Counter()
    for file in DEMOS:
        for window in windows(read_program(file)):
            counters.update(replay(window, "free", seed=7).counters)
    assert counters["gpu.bind"] > 10
    assert counters["gpu.invalidate.zapped"] > 10
    assert counters["gpu.fault.refused.ENOENT"] > 0
    assert counters["replay.cpu_touch_refused"] > 0


@each_demo
def test_both_back_ends_make_the_same_replay(file: Path) -> None:
    window = windows(read_program(file))[0]
    direct = replay(window, "free", 3, "direct", record=True)
    hosted = replay(window, "free", 3, "trio", record=True)
    assert direct.trace == hosted.trace
    assert direct.counters == hosted.counters


def test_a_child_is_mirrored_now_and_then() -> None:
    """Forks in a log make processes that a GPU may mirror too."""
    program = read_program(next(file for file in DEMOS if file.stem == "shell_pipeline"))
    names: Counter[int] = Counter()
    for seed in range(1, 12):
        box: list[World] = []

        async def scenario(world: World, box: list[World] = box) -> None:
            box.append(world)
            await ReplayRun(world, windows(program)[0]).run("free")

        run(scenario, strategy="random", seed=seed, backend="direct", digest=False)
        names[len(box[0].vms)] += 1
    assert max(names) > 2
    assert min(names) >= 1


# -- small parts -------------------------------------------------------------------


def test_some_pages_are_inside_the_range() -> None:
    assert some_pages((PAGE, 2 * PAGE)) == [PAGE]
    assert some_pages((0, 9 * PAGE)) == [0, 4 * PAGE, 8 * PAGE]
    assert some_pages((0, 2 * PAGE)) == [0, PAGE]


def test_stamps_differ_and_are_never_zero() -> None:
    stamps = [stamp(number) for number in range(300)]
    assert len(set(stamps)) == 300
    assert bytes(4) not in stamps


def test_gpu_work_comes_in_every_kind() -> None:
    assert {type(instruction(kind, 1, 1)).__name__ for kind in range(6)} == {"Load", "Store", "AtomicAdd"}


def test_programs_without_steps_have_no_windows() -> None:
    program = read_program(DEMOS[0])
    empty = StraceProgram(program.file, (), (), (), program.log)
    assert windows(empty) == []


# -- operations that are left out ----------------------------------------------------


def test_a_turn_of_the_gpus_is_an_operation_that_comes_without_the_calls() -> None:
    window = windows(read_program(DEMOS[0]))[0]
    scenario = replay_scenario(window, "recorded")
    calls = len(window.steps)
    turns = list(range(calls, len(scenario.operations(()))))
    assert len(turns) == -(-calls // FOLLOW_EVERY)

    def faults(kept: set[int]) -> int:
        """Of the GPU; the canonical schedule has a store in each turn."""
        made = run(scenario.keeping(frozenset(kept)), backend="direct", record=True)
        assert made.failure is None
        assert made.trace is not None
        return sum(line.startswith("main/gpu") and "send gpu0.faults" in line for line in made.trace)

    assert (faults({0, 1}), faults({0, 1, turns[-1]})) == (0, 1)


def test_what_is_drawn_for_a_call_keeps_its_name_without_the_others() -> None:
    window = windows(read_program(DEMOS[0]))[0]
    whole = subject_of(replay_scenario(window, "recorded"))
    kept = frozenset({5, 8, len(window.steps) + 2})

    def drawn(subject: Subject) -> set[Point]:
        recorder = Recorder()
        execute(subject, Settings(), recorder, "0", (), "direct", record=False, digest=False)
        points = {decision.point for decision in recorder.decisions if decision.point.label}
        return {point for point in points if point.operation in kept}

    assert drawn(whole.keeping(kept)) == drawn(whole) != set()
