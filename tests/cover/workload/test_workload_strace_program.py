"""From records to a program: who shares memory with whom, what was mapped before, and what orders the steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import lines_of

from svm_actors.workload.strace import parse_log
from svm_actors.workload.strace_actions import (
    Action,
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
    page_down,
    page_up,
)
from svm_actors.workload.strace_program import StraceProgram, build_program
from svm_actors.workload.strace_steps import Premap, Step

A = 0x7F0000000000
P = 0x1000
SHARES = "flags=CLONE_VM|CLONE_THREAD"
FORKS = "flags=CLONE_CHILD_SETTID|SIGCHLD"
HALF = "<unfinished ...>"
Block = tuple[int, int]
"""First page, relative to A, and number of pages."""
Span = tuple[int, int]
"""First and last page, relative to A; the last is not part of it."""


def program_of(*lines: str) -> StraceProgram:
    """A program from lines without time stamps: ``PID BODY``."""
    stamped = [f"{pid} 1700000000.{number:06} {body}" for number, (pid, body) in enumerate(map(split, lines))]
    return build_program(parse_log("log", lines_of("\n".join(stamped), "log")))


def split(line: str) -> tuple[str, str]:
    pid, _, body = line.partition(" ")
    return pid, body


def mmap(at: int, pages: int = 1, *, hint: str = "NULL", flags: str = "MAP_PRIVATE|MAP_ANONYMOUS") -> str:
    return f"mmap({hint}, {pages * P}, PROT_READ|PROT_WRITE, {flags}, -1, 0) = {at:#x}"


def munmap(at: int, pages: int = 1) -> str:
    return f"munmap({at:#x}, {pages * P}) = 0"


def mprotect(at: int, pages: int = 1, result: str = "0") -> str:
    return f"mprotect({at:#x}, {pages * P}, PROT_READ) = {result}"


def clone(child: int, flags: str = FORKS) -> str:
    return f"clone(child_stack=NULL, {flags}, child_tidptr=0x7f0) = {child}"


def actions(program: StraceProgram, thread: int = 0) -> list[Action]:
    return [program.steps[number].action for number in program.threads[thread].steps]


def edges(program: StraceProgram) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    return [(step.number, step.after, step.follows) for step in program.steps if step.after or step.follows]


# -- actions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "action"),
    [
        (
            f"mmap(NULL, 5000, PROT_READ|PROT_EXEC, MAP_SHARED, 3, 0) = {A:#x}",
            Mmap(A, 5000, "rx", ("MAP_SHARED",), shared=True, fixed=False, file=True),
        ),
        (
            f"mmap({A:#x}, 4096, PROT_NONE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0) = {A:#x}",
            Mmap(A, 4096, "none", ("MAP_PRIVATE", "MAP_FIXED", "MAP_ANONYMOUS"), shared=False, fixed=True, file=False),
        ),
        (
            f"mmap(NULL, 4096, 0x3, 0x8022, -1, 0) = {A:#x}",
            Mmap(
                A, 4096, "rw", ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_POPULATE"), shared=False, fixed=False, file=False
            ),
        ),
        (
            "mmap(NULL, 0, PROT_READ, MAP_SHARED_VALIDATE|MAP_ANONYMOUS, -1, 0) = -1 EINVAL (Invalid argument)",
            Mmap(0, 0, "r", ("MAP_SHARED_VALIDATE", "MAP_ANONYMOUS"), shared=True, fixed=False, file=False),
        ),
        (f"munmap({A:#x}, 1) = 0", Munmap(A, 1)),
        (f"mprotect({A:#x}, 4096, PROT_READ|PROT_GROWSDOWN) = 0", Mprotect(A, 4096, "r")),
        (f"madvise({A:#x}, 4096, MADV_FREE) = 0", Madvise(A, 4096, "MADV_FREE")),
        (f"madvise({A:#x}, 4096, 0x4) = 0", Madvise(A, 4096, "MADV_DONTNEED")),
        (f"madvise({A:#x}, 4096, 0x63 /* MADV_??? */) = -1 EINVAL (Invalid argument)", Madvise(A, 4096, "99")),
        (
            f"mremap({A:#x}, 4096, 8192, MREMAP_MAYMOVE) = {A + P * 9:#x}",
            Mremap(A, 4096, 8192, ("MREMAP_MAYMOVE",), A + P * 9),
        ),
        (
            f"mremap({A:#x}, 4096, 4096, 0x3, {A:#x}) = -1 EINVAL (Invalid argument)",
            Mremap(A, 4096, 4096, ("MREMAP_MAYMOVE", "MREMAP_FIXED"), A),
        ),
        (f"mremap({A:#x}, 4096, 8192, 0) = -1 ENOMEM (Cannot allocate memory)", Mremap(A, 4096, 8192, (), None)),
        ("brk(NULL) = 0x5000", Brk(None)),
        ("brk(0x7000) = 0x7000", Brk(0x7000)),
    ],
)
def test_memory_calls_become_actions(body: str, action: Action) -> None:
    assert actions(program_of(f"1 {body}")) == [action]


@pytest.mark.parametrize("body", ["getpid() = 1", "wait4(-1, NULL, WNOHANG, NULL) = 0", "fork() = -1 EAGAIN (Again)"])
def test_calls_without_effect_have_no_step(body: str) -> None:
    assert program_of(f"1 {body}").steps == ()


def test_a_call_that_never_returns_has_no_step() -> None:
    program = program_of(f"1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0 {HALF}", "1 +++ killed by SIGKILL +++")
    assert actions(program) == [Exit(None, "SIGKILL")]
    assert program.statistics().log.unfinished == 1


def test_the_end_of_the_log_after_exit_is_the_end_of_the_thread() -> None:
    program = program_of(f"1 {mmap(A)}", f"1 exit_group(3 {HALF}")
    assert [type(action).__name__ for action in actions(program)] == ["Mmap"]
    program = program_of(f"1 {mmap(A)}", "1 exit_group(3) = ?")
    assert actions(program)[-1] == Exit(3, None)


def test_pages_round_as_the_kernel_does() -> None:
    assert [page_down(0x1FFF), page_up(0x1001), page_up(0x1000)] == [0x1000, 0x2000, 0x1000]
    (step,) = program_of(f"1 mmap(NULL, 5000, PROT_READ, MAP_PRIVATE, 3, 0) = {A:#x}").steps
    assert step.touched == (A, A + 2 * P)


# -- who is who ------------------------------------------------------------------


def test_a_thread_shares_and_a_child_copies() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"1 {clone(3)}",
        f"2 {mmap(A)}",
        f"3 {mmap(A)}",
    )
    assert [(each.parent, each.origin) for each in program.processes] == [(None, "root"), (0, "fork")]
    assert [(each.pid, each.process, each.parent) for each in program.threads] == [(1, 0, None), (2, 0, 0), (3, 1, 0)]
    assert actions(program) == [Fork(1, 0, shares_memory=True), Fork(2, 1, shares_memory=False)]
    assert [step.process for step in program.steps] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("call", "shares"),
    [
        ("fork() = 2", False),
        ("vfork() = 2", True),
        (clone(2, "flags=SIGCHLD"), False),
        (clone(2, "flags=CLONE_VM|CLONE_VFORK|SIGCHLD"), True),
        (clone(2, "flags=0x3d0f00"), True),
        (clone(2, "flags=0x1200011"), False),
        ("clone3({flags=CLONE_VM|CLONE_THREAD, tls=0x7f0} => {parent_tid=[2]}, 88) = 2", True),
        ("clone3({flags=CLONE_CHILD_SETTID, exit_signal=SIGCHLD}, 88) = 2", False),
    ],
)
def test_what_shares_memory(call: str, shares: bool) -> None:
    program = program_of(f"1 {call}", f"2 {mmap(A)}")
    assert actions(program) == [Fork(1, 0 if shares else 1, shares)]


def test_exec_leads_to_a_new_address_space() -> None:
    program = program_of(
        "1 vfork( <unfinished ...>",
        '2 execve("x", ["x"], 0x7f) = 0',
        "1 <... vfork resumed>) = 2",
        f"2 {mmap(A)}",
        f"1 {mmap(A)}",
    )
    assert actions(program, 1)[0] == Exec(1)
    assert [(step.thread, step.process) for step in program.steps] == [(0, 0), (1, 0), (1, 1), (0, 0)]
    assert [(each.origin, each.parent) for each in program.processes] == [("root", None), ("exec", 0)]
    assert program.threads[1].process == 0


def test_a_failed_exec_is_nothing() -> None:
    program = program_of(f"1 {mmap(A)}", '1 execve("x", ["x"], 0x7f) = -1 ENOENT (None)', f"1 {mmap(A + P)}")
    assert len(program.processes) == 1


def test_the_first_exec_of_the_log_leaves_nothing_behind() -> None:
    program = program_of('1 execve("x", ["x"], 0x7f) = 0', "1 brk(NULL) = 0x5000")
    assert [each.origin for each in program.processes] == ["root"]
    assert actions(program) == [Brk(None)]


def test_exec_by_a_thread_ends_the_first_one_and_takes_its_id() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        '2 execve("x", ["x"], 0x7f <unfinished ...>',
        "1 +++ superseded by execve in pid 2 +++",
        "1 <... execve resumed>) = 0",
        f"1 {mmap(A)}",
        "1 +++ exited with 0 +++",
    )
    assert actions(program, 0) == [Fork(1, 0, shares_memory=True), Exit(None, None)]
    assert [type(action).__name__ for action in actions(program, 1)] == ["Exec", "Mmap", "Exit"]


def test_the_child_runs_before_its_clone_returns() -> None:
    program = program_of(
        f"1 {clone(2).partition(', child_tid')[0]} {HALF}",
        f"2 {mmap(A)}",
        "2 +++ exited with 0 +++",
        "1 <... clone resumed>, child_tidptr=0x7f0) = 2",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Fork", "Mmap", "Exit"]
    assert program.steps[1].after == (0,)


def test_a_reused_id_is_another_thread() -> None:
    program = program_of(
        f"1 {clone(2)}",
        "2 +++ exited with 0 +++",
        "1 wait4(-1, NULL, 0, NULL) = 2",
        f"1 {clone(2)}",
        "2 +++ exited with 1 +++",
        "1 wait4(-1, NULL, 0, NULL) = 2",
    )
    assert [thread.pid for thread in program.threads] == [1, 2, 2]
    assert [action for action in actions(program) if isinstance(action, Wait)] == [Wait(1), Wait(2)]
    assert [step.after for step in program.steps if isinstance(step.action, Wait)] == [(1,), (4,)]


# -- inference without the calls that create and execute ---------------------------


def test_a_task_whose_end_was_signalled_is_a_child() -> None:
    program = program_of(
        "1 brk(NULL) = 0x5000",
        f"2 {mmap(A)}",
        "2 +++ exited with 0 +++",
        "1 --- SIGCHLD {si_signo=SIGCHLD, si_pid=2} ---",
    )
    fork = program.steps[1]
    assert (fork.action, fork.inferred, fork.thread) == (Fork(1, 1, shares_memory=False), True, 0)


def test_a_chain_of_children_is_introduced_together() -> None:
    program = program_of(
        "1 brk(NULL) = 0x5000",
        f"4 {mmap(A)}",
        "4 +++ exited with 0 +++",
        "3 --- SIGCHLD {si_signo=SIGCHLD, si_pid=4} ---",
        "3 +++ exited with 0 +++",
        "1 --- SIGCHLD {si_signo=SIGCHLD, si_pid=3} ---",
    )
    assert [(thread.pid, thread.parent) for thread in program.threads] == [(1, None), (3, 0), (4, 1)]


def test_circular_evidence_ends() -> None:
    program = program_of(
        "1 brk(NULL) = 0x5000",
        f"2 {mmap(A)}",
        "3 --- SIGCHLD {si_signo=SIGCHLD, si_pid=2} ---",
        "2 --- SIGCHLD {si_signo=SIGCHLD, si_pid=3} ---",
    )
    assert sorted(thread.pid for thread in program.threads) == [1, 2, 3]


def test_a_task_nobody_mourns_is_a_thread_of_the_busiest_process() -> None:
    program = program_of("1 brk(NULL) = 0x5000", f"1 {mmap(A)}", f"2 {mprotect(A)}", "2 +++ exited with 0 +++")
    assert actions(program)[-1] == Fork(1, 0, shares_memory=True)
    assert program.steps[-2].reproducible


def test_another_heap_is_another_program() -> None:
    program = program_of("1 brk(NULL) = 0x5000", f"1 {mmap(A)}", "1 brk(NULL) = 0x9000", f"1 {mmap(A)}")
    assert [type(action).__name__ for action in actions(program)] == ["Brk", "Mmap", "Exec", "Brk", "Mmap"]
    assert [(each.origin, each.brk_start) for each in program.processes] == [("root", 0x5000), ("exec", 0x9000)]
    assert [step.inferred for step in program.steps] == [False, False, True, False, False]


def test_the_same_heap_is_the_same_program() -> None:
    program = program_of("1 brk(NULL) = 0x5000", "1 brk(0x7000) = 0x7000", "1 brk(NULL) = 0x7000")
    assert len(program.processes) == 1


def test_where_execs_are_recorded_none_is_inferred() -> None:
    program = program_of('1 execve("x", ["x"], 0x7f) = 0', "1 brk(NULL) = 0x5000", "1 brk(NULL) = 0x9000")
    assert len(program.processes) == 1


def test_an_unknown_task_that_starts_with_a_heap_of_its_own_is_a_child() -> None:
    program = program_of("1 brk(NULL) = 0x5000", "2 brk(NULL) = 0x9000")
    assert actions(program)[-1] == Fork(1, 1, shares_memory=False)
    assert [type(action).__name__ for action in actions(program, 1)] == ["Exec", "Brk"]


def test_a_creation_that_never_returns_still_creates() -> None:
    program = program_of(f"1 clone(child_stack=NULL, {SHARES} {HALF}", f"2 {mmap(A)}", f"2 {mmap(A + P)}")
    assert actions(program) == [Fork(1, 0, shares_memory=True)]


# -- what was mapped before --------------------------------------------------------


def test_ranges_that_calls_needed_are_premapped_and_merged() -> None:
    program = program_of(
        f"1 {mprotect(A, 2)}",
        f"1 {mprotect(A + 2 * P)}",
        f"1 {munmap(A + 8 * P)}",
        f"1 mremap({A + 16 * P:#x}, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, {A:#x}) = {A:#x}",
        f"1 madvise({A + 8 * P - P:#x}, 4096, MADV_DONTNEED) = 0",
    )
    assert program.processes[0].premaps == (
        Premap(A, 3 * P, file=True),
        Premap(A + 7 * P, 2 * P, file=False),
        Premap(A + 16 * P, P, file=False),
    )
    assert all(step.reproducible for step in program.steps)


def test_only_the_unknown_part_is_premapped() -> None:
    program = program_of(f"1 {mmap(A + P)}", f"1 {mprotect(A, 3)}")
    assert program.processes[0].premaps == (Premap(A, P, file=True), Premap(A + 2 * P, P, file=True))


def test_what_the_log_mapped_needs_no_premap() -> None:
    program = program_of(f"1 {mmap(A, 4)}", f"1 {mprotect(A, 4)}", f"1 {munmap(A, 4)}", f"1 {munmap(A, 4)}")
    assert program.processes[0].premaps == ()


def test_what_a_child_inherited_is_premapped_in_its_ancestor() -> None:
    program = program_of(f"1 {clone(2)}", f"2 {clone(3)}", f"3 {mprotect(A)}")
    assert [each.premaps for each in program.processes] == [(Premap(A, P, file=True),), (), ()]


def test_an_executed_program_has_its_own_premaps() -> None:
    program = program_of(f"1 {mprotect(A)}", '1 execve("x", ["x"], 0x7f) = 0', f"1 {mprotect(A + P)}")
    assert [each.premaps for each in program.processes] == [(Premap(A, P, file=True),), (Premap(A + P, P, file=True),)]


def test_failed_calls_premap_nothing() -> None:
    program = program_of(f"1 {mprotect(A, 2, '-1 ENOMEM (Cannot allocate memory)')}")
    assert program.processes[0].premaps == ()
    assert (program.steps[0].result, program.steps[0].errno) == (-1, "ENOMEM")


FAILED_AT_HOLE = f"mprotect({A:#x}, 8192, PROT_READ) = -1 ENOMEM (Cannot allocate memory)"


@pytest.mark.parametrize(
    ("body", "explained"),
    [
        (FAILED_AT_HOLE, True),
        (f"mprotect({A:#x}, 4096, PROT_READ) = -1 ENOMEM (map count)", False),
        (f"mprotect({A:#x}, 8192, PROT_READ) = -1 EACCES (file)", False),
        (f"mprotect({A + 1:#x}, 4096, PROT_READ) = -1 EINVAL (unaligned)", True),
        (f"madvise({A + P:#x}, 4096, MADV_FREE) = -1 ENOMEM (hole)", True),
        (f"madvise({A:#x}, 4096, MADV_FREE) = -1 EINVAL (shared)", False),
        (f"munmap({A:#x}, 0) = -1 EINVAL (empty)", True),
        (f"munmap({A + 1:#x}, 4096) = -1 EINVAL (unaligned)", True),
        ("mmap(NULL, 0, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 EINVAL (empty)", True),
        ("mmap(NULL, 4096, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = -1 ENOMEM (limit)", False),
        (f"mmap({A:#x}, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED_NOREPLACE, -1, 0) = -1 EEXIST (there)", True),
        (f"mmap({A + P:#x}, 4096, PROT_READ, MAP_PRIVATE|MAP_FIXED_NOREPLACE, -1, 0) = -1 EEXIST (not there)", False),
        (f"mremap({A + P:#x}, 4096, 8192, MREMAP_MAYMOVE) = -1 EFAULT (hole)", True),
        (f"mremap({A:#x}, 4096, 8192, MREMAP_MAYMOVE) = -1 EFAULT (why)", False),
        (f"mremap({A:#x}, 4096, 0, MREMAP_MAYMOVE) = -1 EINVAL (empty)", True),
        (f"mremap({A + 1:#x}, 4096, 4096, MREMAP_MAYMOVE) = -1 EINVAL (unaligned)", True),
        (f"mremap({A:#x}, 8192, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, {A + P:#x}) = -1 EINVAL (overlap)", True),
        (f"mremap({A + 2 * P:#x}, 4096, 8192, 0) = -1 ENOMEM (no room)", True),
        (f"mremap({A:#x}, 4096, 8192, 0) = -1 ENOMEM (there is room)", False),
        ("brk(0x900000000000) = 0x5000", False),
    ],
)
def test_only_explained_failures_must_come_again(body: str, explained: bool) -> None:
    # page 0 is mapped, page 1 is a hole, pages 2 and 3 are mapped
    program = program_of("1 brk(NULL) = 0x5000", f"1 {mmap(A, 4)}", f"1 {munmap(A + P)}", f"1 {body}")
    step = program.steps[-1]
    assert step.reproducible == explained
    assert (step.gained, step.lost) == ((), ())


def test_success_on_a_hole_is_marked() -> None:
    program = program_of(f"1 {mmap(A)}", f"1 {munmap(A)}", f"1 {mprotect(A)}")
    assert [step.reproducible for step in program.steps] == [True, True, False]


def test_a_place_in_use_is_marked() -> None:
    program = program_of(f"1 {mmap(A, 2)}", f"1 {mmap(A + P)}", f"1 {mmap(A, flags='MAP_FIXED', hint=hex(A))}")
    assert [step.reproducible for step in program.steps] == [True, False, True]


# -- ranges ----------------------------------------------------------------------


def effects(*lines: str) -> list[tuple[Span | None, tuple[Span, ...], tuple[Span, ...]]]:
    """touched, gained and lost of every step, in pages relative to A."""
    program = program_of(*(f"1 {line}" for line in lines))

    def relative(pages: tuple[int, int]) -> Span:
        return (pages[0] - A) // P, (pages[1] - A) // P

    return [
        (
            step.touched and relative(step.touched),
            tuple(map(relative, step.gained)),
            tuple(map(relative, step.lost)),
        )
        for step in program.steps
    ]


def test_ranges_of_a_move() -> None:
    move = f"mremap({A:#x}, {2 * P}, {3 * P}, MREMAP_MAYMOVE) = {A + 8 * P:#x}"
    assert effects(mmap(A, 2), move) == [((0, 2), ((0, 2),), ()), ((8, 11), ((8, 11),), ((0, 2),))]


def test_ranges_of_a_move_that_keeps_the_old_place() -> None:
    keep = f"mremap({A:#x}, {2 * P}, {2 * P}, MREMAP_MAYMOVE|MREMAP_DONTUNMAP) = {A + 8 * P:#x}"
    twice = f"mremap({A:#x}, 0, {2 * P}, MREMAP_MAYMOVE) = {A + 16 * P:#x}"
    assert effects(mmap(A, 2), keep, twice)[1:] == [((8, 10), ((8, 10),), ()), ((16, 18), ((16, 18),), ())]


def test_ranges_of_growing_and_shrinking_in_place() -> None:
    grow = f"mremap({A:#x}, {2 * P}, {4 * P}, 0) = {A:#x}"
    shrink = f"mremap({A:#x}, {4 * P}, {P}, 0) = {A:#x}"
    assert effects(mmap(A, 2), grow, shrink)[1:] == [((0, 4), ((0, 4),), ()), ((0, 1), ((0, 1),), ((1, 4),))]


def test_ranges_of_an_unmap_with_a_hole() -> None:
    assert effects(mmap(A, 4), munmap(A + P), munmap(A, 4))[2] == ((0, 4), (), ((0, 1), (2, 4)))


def test_ranges_of_the_heap() -> None:
    def brk(end: str, result: int) -> str:
        return f"brk({end}) = {result:#x}"

    calls = (brk("NULL", A + 100), brk(hex(A + 2 * P), A + 2 * P), brk(hex(A + 5), A + 5), brk(hex(A + 6), A + 6))
    assert effects(*calls) == [
        (None, (), ()),
        ((1, 2), ((1, 2),), ()),
        ((1, 2), (), ((1, 2),)),
        (None, (), ()),
    ]


def test_touch_candidates_follow_fork_exec_and_exit() -> None:
    program = program_of(
        f"1 {mprotect(A)}",
        f"1 {mmap(A + P)}",
        f"1 {clone(2)}",
        f"2 {munmap(A)}",
        '2 execve("x", ["x"], 0x7f) = 0',
        f"2 {mprotect(A + 9 * P)}",
        "2 +++ exited with 0 +++",
        f"1 {munmap(A + P)}",
    )
    shown = [(touch.process, touch.alive, touch.gone) for touch in program.touch_candidates()]
    assert shown == [
        (0, ((A, A + P),), ()),
        (0, ((A, A + 2 * P),), ()),
        (0, ((A, A + 2 * P),), ()),
        (1, ((A + P, A + 2 * P),), ((A, A + P),)),
        (2, ((A + 9 * P, A + 10 * P),), ()),
        (2, ((A + 9 * P, A + 10 * P),), ()),
        (2, (), ()),
        (0, ((A, A + P),), ((A + P, A + 2 * P),)),
    ]
    # at the worst moment: two pages in the parent, two in the copy
    assert program.statistics().peak_bytes == 4 * P


# -- order -----------------------------------------------------------------------


def test_only_creation_and_wait_order_threads_that_share_nothing() -> None:
    program = program_of(
        f"1 {clone(2)}",
        f"2 {mmap(A)}",
        f"1 {mmap(A)}",
        "2 +++ exited with 0 +++",
        "1 wait4(-1, NULL, 0, NULL) = 2",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Fork", "Mmap", "Mmap", "Exit", "Wait"]
    assert edges(program) == [(1, (0,), ()), (4, (3,), ())]


def test_calls_on_the_same_pages_follow_each_other() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"1 {mmap(A, 4)}",
        f"2 {mprotect(A)}",
        f"1 {mprotect(A + P)}",
        f"2 {munmap(A, 2)}",
        f"1 {mmap(A)}",
    )
    assert edges(program) == [(2, (0,), (1,)), (4, (), (3,)), (5, (), (4,))]


def test_of_each_other_thread_the_last_step_is_enough() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"2 {mmap(A)}",
        f"2 {mmap(A + P)}",
        f"1 {munmap(A, 2)}",
    )
    assert edges(program) == [(1, (0,), ()), (3, (), (2,))]


def test_a_fork_copies_what_other_threads_did() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"2 {mmap(A)}",
        f"1 {clone(3)}",
        f"2 {munmap(A)}",
    )
    assert edges(program) == [(1, (0,), ()), (2, (), (1,)), (3, (), (2,))]


def test_calls_on_the_heap_follow_each_other() -> None:
    program = program_of(
        "1 brk(NULL) = 0x5000",
        f"1 {clone(2, SHARES)}",
        "2 brk(0x6000) = 0x6000",
        "1 brk(0x7000) = 0x7000",
    )
    assert edges(program) == [(2, (1,), (0,)), (3, (), (2,))]


def test_a_place_just_freed_by_a_call_still_in_the_kernel() -> None:
    program = program_of(
        f"1 {mmap(A, 4)}",
        f"1 {clone(2, SHARES)}",
        f"1 munmap({A:#x}, {4 * P} {HALF}",
        f"2 {mmap(A + P)}",
        f"2 {mprotect(A + P)}",
        "1 <... munmap resumed>) = 0",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Mmap", "Fork", "Munmap", "Mmap", "Mprotect"]
    assert edges(program) == [(3, (1,), (2,))]
    assert all(step.reproducible for step in program.steps)


def test_a_place_freed_by_a_call_still_in_the_kernel_and_mapped_before_the_log() -> None:
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"1 munmap({A:#x}, {P} {HALF}",
        f"2 {mmap(A)}",
        "1 <... munmap resumed>) = 0",
        f"2 {mprotect(A)}",
    )
    assert program.processes[0].premaps == (Premap(A, P, file=False),)
    assert all(step.reproducible for step in program.steps)


def test_a_place_freed_by_a_call_that_never_returns() -> None:
    program = program_of(
        f"1 {mmap(A, 4)}",
        f"1 {clone(2, SHARES)}",
        f"1 munmap({A:#x}, {4 * P} {HALF}",
        f"2 {mmap(A + P)}",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Mmap", "Fork", "Munmap", "Mmap"]
    assert all(step.reproducible for step in program.steps)


def test_a_place_just_left_by_a_move_still_in_the_kernel() -> None:
    program = program_of(
        f"1 {mmap(A, 4)}",
        f"1 {clone(2, SHARES)}",
        f"1 mremap({A:#x}, {4 * P}, {4 * P}, MREMAP_MAYMOVE|MREMAP_FIXED, {A + 8 * P:#x} {HALF}",
        f"2 {mmap(A + P)}",
        f"1 <... mremap resumed>) = {A + 8 * P:#x}",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Mmap", "Fork", "Mremap", "Mmap"]
    assert all(step.reproducible for step in program.steps)


def test_an_unmap_in_another_process_is_no_reason() -> None:
    program = program_of(
        f"1 {mmap(A, 4)}",
        f"1 {clone(2)}",
        f"1 munmap({A:#x}, {4 * P} {HALF}",
        f"2 {mmap(A + P)}",
        "1 <... munmap resumed>) = 0",
    )
    assert [type(step.action).__name__ for step in program.steps] == ["Mmap", "Fork", "Mmap", "Munmap"]
    assert [step.reproducible for step in program.steps] == [True, True, False, True]


# -- a real address space as the source of logs ------------------------------------


class Kernel:
    """An address space and the calls now inside it, writing the log strace would write.

    A call takes effect at some moment between its two lines.  Threads only pass on what they were given: a block
    belongs to one call at a time, so what a log leaves open is the kernel's order, not a bug of the program.
    """

    def __init__(self) -> None:
        self.mapped = set(range(4))
        self.blocks: list[Block] = [(0, 4)]
        self.inside: dict[int, tuple[str, Block, str | None]] = {}
        self.lines = [f"1 {clone(2, SHARES)}"]

    def enter(self, pid: int, name: str, block: Block) -> None:
        text = f"{A + block[0] * P:#x}, {block[1] * P}" if name != "mmap" else f"NULL, {block[1] * P}"
        tail = {"mmap": ", PROT_READ, MAP_PRIVATE, -1, 0", "munmap": "", "mprotect": ", PROT_READ"}[name]
        self.lines.append(f"{pid} {name}({text}{tail} {HALF}")
        self.inside[pid] = (name, block, None)

    def take_effect(self, pid: int) -> None:
        name, (page, count), _ = self.inside[pid]
        if name == "mmap":
            page = next(at for at in range(100) if not self.mapped & set(range(at, at + count)))
            self.mapped |= set(range(page, page + count))
        elif name == "munmap":
            self.mapped -= set(range(page, page + count))
        self.inside[pid] = (name, (page, count), f"{A + page * P:#x}" if name == "mmap" else "0")

    def leave(self, pid: int) -> None:
        name, block, result = self.inside.pop(pid)
        self.lines.append(f"{pid} <... {name} resumed>) = {result}")
        if name != "munmap":
            self.blocks.append(block)


@st.composite
def logs(draw: st.DrawFn) -> list[str]:
    """What three threads of one process do, as a log with every kind of overlap; some calls never return."""
    kernel = Kernel()
    kernel.lines.append(f"1 {clone(3, SHARES)}")
    for _ in range(draw(st.integers(1, 30))):
        pid = draw(st.sampled_from([1, 2, 3]))
        if pid in kernel.inside and kernel.inside[pid][2] is None:
            kernel.take_effect(pid)
        elif pid in kernel.inside:
            kernel.leave(pid)
        elif kernel.blocks and draw(st.booleans()):
            page, count = kernel.blocks.pop(draw(st.integers(0, len(kernel.blocks) - 1)))
            part = draw(st.integers(1, count))
            if part < count:
                kernel.blocks.append((page + part, count - part))
            kernel.enter(pid, draw(st.sampled_from(["munmap", "mprotect"])), (page, part))
        else:
            kernel.enter(pid, "mmap", (0, draw(st.integers(1, 3))))
    return kernel.lines


@given(logs())
def test_steps_of_a_thread_keep_the_order_of_its_calls(lines: list[str]) -> None:
    program = program_of(*lines)
    for thread in program.threads:
        assert list(thread.steps) == sorted(thread.steps)
        assert all(program.steps[number].thread == thread.number for number in thread.steps)
    owned = sorted(number for thread in program.threads for number in thread.steps)
    assert owned == list(range(len(program.steps)))


@given(logs())
def test_edges_point_back_to_other_threads(lines: list[str]) -> None:
    program = program_of(*lines)
    for step in program.steps:
        for before in (*step.after, *step.follows):
            assert before < step.number
            assert program.steps[before].thread != step.thread


@given(logs())
def test_the_recorded_order_explains_every_result(lines: list[str]) -> None:
    """A new place was free and a protected range was there, whatever overlapped with what."""
    program = program_of(*lines)
    assert [step for step in program.steps if not step.reproducible] == []


def test_a_program_that_unmaps_what_it_was_not_given_is_marked() -> None:
    # thread 2 was placed first, but only the later placement of thread 1 shows it
    program = program_of(
        f"1 {clone(2, SHARES)}",
        f"2 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0 {HALF}",
        f"1 {munmap(A)}",
        f"1 {mmap(A)}",
        f"2 <... mmap resumed>) = {A:#x}",
    )
    assert [step.reproducible for step in program.steps] == [True, True, True, False]


def test_steps_say_where_they_come_from() -> None:
    program = program_of(f"1 {mmap(A)}", f"1 munmap({A:#x}, 4096 {HALF}", f"2 {mmap(A)}", "1 <... munmap resumed>) = 0")
    where: list[tuple[Step, int]] = [(step, step.line) for step in program.steps]
    assert [(type(step.action).__name__, line) for step, line in where] == [
        ("Mmap", 1),
        ("Fork", 3),
        ("Munmap", 3),
        ("Mmap", 3),
    ]
