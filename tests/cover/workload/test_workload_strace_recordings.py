"""Recorded logs of real programs: counted against the text, and replayed on a plain model of address spaces."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from workload_files import DEMOS, STRACE_FILES

from svm_actors.workload.demo import DATA, STRACES, demo_strace
from svm_actors.workload.strace_actions import (
    Brk,
    Exec,
    Exit,
    Fork,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Wait,
)
from svm_actors.workload.strace_program import StraceProgram, read_program
from svm_actors.workload.strace_steps import Step

each_file = pytest.mark.parametrize("file", STRACE_FILES, ids=lambda file: file.stem)


def count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


@each_file
def test_counts_are_those_of_the_text(file: Path) -> None:
    text = file.read_text()
    log = read_program(file).statistics().log
    assert log.calls == dict(Counter(re.findall(r"^(?:\d+ +)?[\d.]+ ([a-z_0-9]+)\(", text, re.MULTILINE)))
    assert sum(log.failed.values()) == count(r"= -1 E", text)
    assert sum(log.signals.values()) == count(r" --- SIG", text)
    assert log.signals.get("SIGCHLD", 0) == count(r"--- SIGCHLD", text)
    assert log.exited == count(r"\+\+\+ exited with", text)
    assert log.killed == count(r"\+\+\+ killed by", text)
    cut = count(r" <unfinished \.\.\.>$", text)
    assert log.unfinished == cut - count(r"<\.\.\. \w+ resumed>", text)
    assert log.others == 0


@each_file
def test_every_task_and_every_finished_memory_call_is_in_the_program(file: Path) -> None:
    text = file.read_text()
    program = read_program(file)
    statistics = program.statistics()
    assert {thread.pid for thread in program.threads} == {int(pid) for pid in re.findall(r"^\d+", text, re.MULTILINE)}
    assert statistics.threads == len(program.threads) == log_tasks(text)
    kinds = Counter(type(step.action).__name__.lower() for step in program.steps if not step.inferred)
    for name in ("mmap", "munmap", "mremap", "mprotect", "madvise", "brk"):
        assert kinds[name] == statistics.log.calls.get(name, 0), name
    assert kinds["exit"] == statistics.log.exited + statistics.log.killed
    spawns = sum(statistics.log.calls.get(name, 0) for name in ("clone", "clone3", "fork", "vfork"))
    assert kinds["fork"] == spawns
    assert kinds["fork"] + sum(isinstance(s.action, Fork) for s in program.steps if s.inferred) == len(
        program.threads
    ) - 1


def log_tasks(text: str) -> int:
    return len(set(re.findall(r"^\d+", text, re.MULTILINE)))


@each_file
def test_nothing_in_a_recording_is_unexplained(file: Path) -> None:
    assert [step for step in read_program(file).steps if not step.reproducible] == []


@each_file
def test_reading_twice_gives_the_same_program(file: Path) -> None:
    assert read_program(file) == read_program(file)


# -- a plain model ---------------------------------------------------------------


class PlainSpace:
    """An address space as a set of page numbers."""

    def __init__(self, pages: Iterable[int], brk: int | None) -> None:
        self.pages = set(pages)
        self.brk = brk


def pages(address: int, length: int) -> range:
    return range(address // 4096, -(-(address + length) // 4096))


class Replay:
    """Does the steps of a program in any order the caller likes, and says what each call returns."""

    def __init__(self, program: StraceProgram) -> None:
        self.program = program
        self.spaces: dict[int, PlainSpace] = {}
        self.current = {thread.number: thread.process for thread in program.threads}
        for process in program.processes:
            if process.origin == "root":
                self.create(process.number)

    def create(self, number: int) -> None:
        process = self.program.processes[number]
        there = (page for premap in process.premaps for page in pages(premap.address, premap.length))
        self.spaces[number] = PlainSpace(there, process.brk_start)

    def do(self, step: Step) -> tuple[object, object]:
        """Result and errno of the call; for other steps what was recorded."""
        assert step.process == self.current[step.thread]
        space = self.spaces[step.process]
        match step.action:
            case Fork(process=child, shares_memory=False):
                self.spaces[child] = PlainSpace(space.pages, space.brk)
            case Exec(process=new):
                self.create(new)
                self.current[step.thread] = new
            case Brk(end=end):
                return self.brk(space, end), None
            case Mmap() | Munmap() | Mremap() | Mprotect() | Madvise():
                return self.call(space, step)
            case Exit() | Wait() | Fork():
                pass
        return step.result, step.errno

    def brk(self, space: PlainSpace, end: int | None) -> int | None:
        if end is not None and space.brk is not None:
            old, new = -(-space.brk // 4096), -(-end // 4096)
            space.pages -= set(range(new, old))
            space.pages |= set(range(old, new))
            space.brk = end
        return space.brk

    def call(self, space: PlainSpace, step: Step) -> tuple[int, str | None]:
        error = self.error(space, step)
        if error:
            return -1, error
        match step.action:
            case Mmap(address=address, length=length):
                space.pages |= set(pages(address, length))
                return address, None
            case Munmap(address=address, length=length):
                space.pages -= set(pages(address, length))
            case Mremap(old_address=old, old_length=size, new_length=length, new_address=int() as new):
                if size and "MREMAP_DONTUNMAP" not in step.action.flags:
                    space.pages -= set(pages(old, size))
                space.pages |= set(pages(new, length))
                return new, None
        return 0, None

    def error(self, space: PlainSpace, step: Step) -> str | None:
        match step.action:
            case Mmap(flags=flags, address=address, length=length) if "MAP_FIXED_NOREPLACE" in flags:
                return "EEXIST" if space.pages & set(pages(address, length)) else None
            case Munmap(address=address) if address % 4096:
                return "EINVAL"
            case Mprotect(address=address, length=length) | Madvise(address=address, length=length):
                return None if set(pages(address, length)) <= space.pages else "ENOMEM"
            case Mremap(old_address=old, old_length=size, new_length=length, new_address=new, flags=flags):
                before = set(pages(old, size))
                if "MREMAP_FIXED" in flags and new is not None and before & set(pages(new, length)):
                    return "EINVAL"
                if not before <= space.pages:
                    return "EFAULT"
                grown = set(pages(old, length)) - before
                return "ENOMEM" if "MREMAP_MAYMOVE" not in flags and grown & space.pages else None
        return None


@each_file
def test_a_plain_model_gives_every_recorded_result_in_recorded_order(file: Path) -> None:
    program = read_program(file)
    replay = Replay(program)
    for step in program.steps:
        assert replay.do(step) == (step.result, step.errno), step


@each_file
def test_touch_candidates_are_what_the_plain_model_has_mapped(file: Path) -> None:
    program = read_program(file)
    replay = Replay(program)
    # every step of a small log, every fiftieth of a big one: comparing means listing all pages
    every = 1 if len(program.steps) < 200 else 50
    for step, touch in zip(program.steps, program.touch_candidates(), strict=True):
        replay.do(step)
        if step.number % every == 0 and not isinstance(step.action, Exit):
            alive = {page for start, end in touch.alive for page in range(start // 4096, end // 4096)}
            assert alive == replay.spaces[replay.current[step.thread]].pages, step
            assert touch.process == replay.current[step.thread]
            assert not alive & {page for start, end in touch.gone for page in range(start // 4096, end // 4096)}


def schedule(program: StraceProgram, draw: random.Random, *, free: bool = False) -> Iterable[Step]:
    """Any order that keeps program order and the edges; a free one only those that must hold in any run."""
    queues = [list(thread.steps) for thread in program.threads]
    finished: set[int] = set()

    def ready(step: Step) -> bool:
        return finished.issuperset(step.after if free else step.after + step.follows)

    while any(queues):
        queue = draw.choice([queue for queue in queues if queue and ready(program.steps[queue[0]])])
        finished.add(queue[0])
        yield program.steps[queue.pop(0)]


@pytest.mark.parametrize("seed", range(3))
@each_file
def test_any_order_that_keeps_the_edges_gives_the_recorded_results(file: Path, seed: int) -> None:
    program = read_program(file)
    replay = Replay(program)
    order = []
    for step in schedule(program, random.Random(seed)):
        order.append(step.number)
        assert replay.do(step) == (step.result, step.errno), step
    assert sorted(order) == list(range(len(program.steps)))
    assert len(program.threads) == 1 or order != sorted(order)


def test_a_free_order_runs_too_but_gives_other_results() -> None:
    program = read_program(demo_strace("threads_fork"))
    wrong = 0
    for seed in range(20):
        replay = Replay(program)
        order = schedule(program, random.Random(seed), free=True)
        results = [replay.do(step) == (step.result, step.errno) for step in order]
        assert len(results) == len(program.steps)
        wrong += not all(results)
    assert wrong


# -- the demos -------------------------------------------------------------------


def test_demo_names_are_the_files() -> None:
    assert sorted(path.stem for path in DATA.glob("*.strace")) == list(STRACES)
    with pytest.raises(KeyError):
        demo_strace("../../secret")


@pytest.mark.parametrize("file", DEMOS, ids=lambda file: file.stem)
def test_demos_are_small_and_anonymous(file: Path) -> None:
    text = file.read_text()
    assert len(text) < 60_000
    paths = set(re.findall(r'"([^" ]*/[^" ]*)"', text))
    assert paths <= {"./heap", "./remap", "./threads", "/bin/sh", "/bin/true", "/usr/bin/cat"}


def test_the_demos_hold_what_they_are_for() -> None:
    programs = {name: read_program(demo_strace(name)) for name in STRACES}
    heap, remap, shell, threads = (programs[name] for name in STRACES)
    assert {step.errno for step in heap.steps} == {None, "ENOMEM", "EINVAL", "EEXIST"}
    assert {step.errno for step in remap.steps} == {None, "EINVAL", "ENOMEM", "EFAULT"}
    flags = {flag for step in remap.steps if isinstance(step.action, Mremap) for flag in step.action.flags}
    assert flags == {"MREMAP_MAYMOVE", "MREMAP_FIXED", "MREMAP_DONTUNMAP"}
    assert len(shell.threads) == 11
    assert [process.origin for process in shell.processes].count("exec") == 3
    shared = [step.action.shares_memory for step in threads.steps if isinstance(step.action, Fork)]
    assert shared.count(True) == 5
    assert shared.count(False) == 2
    assert any(step.follows for step in threads.steps)
    assert [step.action.signal for step in threads.steps if isinstance(step.action, Exit)].count("SIGSEGV") == 1
