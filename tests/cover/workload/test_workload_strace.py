"""Lines of strace to records: every kind of line, calls cut in two, and every way to be malformed."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import STRACE_FILES, outcome

from svm_actors.workload.formats import BadInput, Line
from svm_actors.workload.strace import Call, Ended, Log, Other, Record, Signal, Superseded, parse_log, read_log
from svm_actors.workload.strace_values import Flags, Keyword, Opaque, Text

T = "1700000000.000001"
NS = 1700000000_000001000


def parse(*lines: str) -> tuple[Record, ...]:
    return parse_log("log", [Line("log", number, text) for number, text in enumerate(lines, 1)]).records


def one(body: str) -> Record:
    (record,) = parse(f"7 {T} {body}")
    return record


# -- one line --------------------------------------------------------------------


def test_a_finished_call() -> None:
    assert one("mprotect(0x7f0000001000, 8192, PROT_READ|PROT_WRITE) = 0 <0.000018>") == Call(
        pid=7,
        time_ns=NS,
        name="mprotect",
        args=(0x7F0000001000, 8192, Flags(("PROT_READ", "PROT_WRITE"))),
        result=0,
        errno=None,
        started_line=1,
        finished_line=1,
        duration_ns=18000,
    )


def test_a_failed_call() -> None:
    call = one("madvise(0x1000, 4096, MADV_FREE) = -1 EINVAL (Invalid argument) <0.000009>")
    assert isinstance(call, Call)
    assert (call.result, call.errno, call.succeeded, call.duration_ns) == (-1, "EINVAL", False, 9000)


@pytest.mark.parametrize(
    ("body", "args", "result", "errno"),
    [
        ("brk(NULL)       = 0x55ac384a5000 <0.000012>", (0,), 0x55AC384A5000, None),
        ("exit_group(3)   = ?", (3,), None, None),
        ("exit_group(0 <unfinished ...>) = ?", (0,), None, None),
        ("wait4(-1, NULL, 0, NULL) = ? ERESTARTSYS (To be restarted)", (-1, 0, 0, 0), None, "ERESTARTSYS"),
        ("wait4(-1, NULL, WNOHANG, NULL) = 0 <0.1>", (-1, 0, Flags(("WNOHANG",)), 0), 0, None),
        ("vfork()         = 12 <0.000100>", (), 12, None),
        ("fork()          = 12 (120 in strace's PID NS)", (), 12, None),
        ("mprotect(0x1000, 4096, 0x3) = 0", (0x1000, 4096, 3), 0, None),
        (
            "mremap(0x1000, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x5000) = 0x5000",
            (0x1000, 4096, 8192, Flags(("MREMAP_MAYMOVE", "MREMAP_FIXED")), 0x5000),
            0x5000,
            None,
        ),
        (
            'execve("/bin/a, (b)", ["a) = 0", "c"...], 0x7ff /* 9 vars */) = -1 ENOENT (No such file or directory)',
            (Text("/bin/a, (b)", truncated=False), Opaque('["a) = 0", "c"...]'), 0x7FF),
            -1,
            "ENOENT",
        ),
        (
            "clone(child_stack=NULL, flags=CLONE_VM|SIGCHLD, child_tidptr=0x7f0) = 9",
            (
                Keyword("child_stack", 0),
                Keyword("flags", Flags(("CLONE_VM", "SIGCHLD"))),
                Keyword("child_tidptr", 0x7F0),
            ),
            9,
            None,
        ),
        (
            "clone3({flags=CLONE_VM|CLONE_THREAD, tls=0x7f0} => {parent_tid=[9]}, 88) = 9",
            (Opaque("{flags=CLONE_VM|CLONE_THREAD, tls=0x7f0} => {parent_tid=[9]}"), 88),
            9,
            None,
        ),
        (
            "mmap(NULL, 100, PROT_READ, MAP_PRIVATE, 3</lib/a b>, 0x2000) = 0x7f0000000000",
            (0, 100, Flags(("PROT_READ",)), Flags(("MAP_PRIVATE",)), 3, 0x2000),
            0x7F0000000000,
            None,
        ),
    ],
)
def test_calls(body: str, args: tuple[object, ...], result: int | None, errno: str | None) -> None:
    call = one(body)
    assert isinstance(call, Call)
    assert (call.args, call.result, call.errno) == (args, result, errno)


@pytest.mark.parametrize(
    "body",
    [
        'openat(AT_FDCWD, "/etc/x, y", O_RDONLY|O_CLOEXEC) = 3</etc/x> <0.000010>',
        "poll([{fd=3, events=POLLIN}], 1, 100) = 1 ([{fd=3, revents=POLLIN}]) <0.000010>",
        "fcntl(3, F_GETFD)                     = 0x1 (flags FD_CLOEXEC) <0.000010>",
        "select(4, [3], NULL, NULL, NULL) = ? ERESTARTNOHAND (To be restarted if no handler) <0.000010>",
        "socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3<TCP:[127.0.0.1:1->127.0.0.1:2]> <0.000010>",
        "set_robust_list(0x7f, 24)        = 0 <0.000010>",
        "restart_syscall(<... resuming interrupted read ...>) = 0 <0.000010>",
        "syscall_0x1c8(0, 0x7f, 0x1, 0, 0, 0) = -1 ENOSYS (Function not implemented) <0.000010>",
    ],
)
def test_other_calls_are_kept_unread(body: str) -> None:
    call = one(body)
    assert isinstance(call, Other)
    assert (call.name, call.args, call.duration_ns) == (body.partition("(")[0], (), 10000)


@pytest.mark.parametrize(
    ("body", "record"),
    [
        ("+++ exited with 3 +++", Ended(7, NS, 3, None, 1)),
        ("+++ killed by SIGSEGV +++", Ended(7, NS, None, "SIGSEGV", 1)),
        ("+++ killed by SIGABRT (core dumped) +++", Ended(7, NS, None, "SIGABRT", 1)),
        (
            "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=12, si_utime=3 /* 0.03 s */} ---",
            Signal(7, NS, "SIGCHLD", 12, 1),
        ),
        ("--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=NULL} ---", Signal(7, NS, "SIGSEGV", None, 1)),
        ("--- stopped by SIGSTOP ---", Signal(7, NS, "SIGSTOP", None, 1)),
    ],
)
def test_signals_and_ends(body: str, record: Record) -> None:
    assert one(body) == record


@pytest.mark.parametrize(("fraction", "ns"), [("5", 500000000), ("000001", 1000), ("123456789", 123456789)])
def test_time_is_exact(fraction: str, ns: int) -> None:
    (call,) = parse(f"7 1700000000.{fraction} brk(NULL) = 0x1000 <0.{fraction}>")
    assert isinstance(call, Call)
    assert (call.time_ns, call.duration_ns) == (1700000000_000000000 + ns, ns)


# -- process ids -----------------------------------------------------------------


@pytest.mark.parametrize("head", ["7 ", "7    ", "[pid 7] ", "[pid     7] ", "7<bash> ", "[pid 7<bash>] "])
def test_forms_of_the_process_id(head: str) -> None:
    (record,) = parse(f"{head}{T} brk(NULL) = 0x1000")
    assert record.pid == 7


def test_without_process_ids_there_is_one_task() -> None:
    assert [record.pid for record in parse(f"{T} brk(NULL) = 0x1000", f"{T} +++ exited with 0 +++")] == [0, 0]


def test_unnumbered_lines_belong_to_the_first_task() -> None:
    records = parse(
        f"{T} fork() = 9",
        "strace: Process 9 attached",
        f"[pid 9] {T} brk(NULL) = 0x1000",
        f"[pid 7] {T} brk(NULL) = 0x2000",
        f"[pid 9] {T} +++ exited with 0 +++",
        f"{T} +++ exited with 0 +++",
    )
    assert [record.pid for record in records] == [7, 9, 7, 9, 7]


def test_unnumbered_lines_stay_so_if_two_tasks_could_be_meant() -> None:
    records = parse(f"{T} brk(NULL) = 0x1000", f"[pid 7] {T} brk(NULL) = 0x1", f"[pid 9] {T} brk(NULL) = 0x2")
    assert [record.pid for record in records] == [0, 7, 9]


# -- calls cut in two ------------------------------------------------------------


def test_two_halves_are_one_call_and_know_their_lines() -> None:
    records = parse(
        f"7 {T} mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3, 0 <unfinished ...>",
        f"9 {T} wait4(-1,  <unfinished ...>",
        "8 1700000001.000000 brk(NULL) = 0x1000 <0.000010>",
        "9 1700000002.000000 <... wait4 resumed>[{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 8 <2.000001>",
        "7 1700000003.000000 <... mmap resumed>) = 0x7f0000000000 <3.000000>",
    )
    shown = [(r.pid, r.name, r.started_line, r.finished_line, r.time_ns) for r in records if isinstance(r, Call)]
    assert shown == [
        (8, "brk", 3, 3, 1700000001_000000000),
        (9, "wait4", 2, 4, NS),
        (7, "mmap", 1, 5, NS),
    ]
    wait, mmap = records[1], records[2]
    assert isinstance(wait, Call)
    assert isinstance(mmap, Call)
    assert (wait.args, wait.result, wait.duration_ns) == (
        (-1, Opaque("[{WIFEXITED(s) && WEXITSTATUS(s) == 0}]"), 0, 0),
        8,
        2_000001000,
    )
    assert (len(mmap.args), mmap.result) == (6, 0x7F0000000000)


def test_a_cut_through_a_structure() -> None:
    (call,) = parse(
        f"7 {T} clone3({{flags=CLONE_VM|CLONE_THREAD, tls=0x7f0}} <unfinished ...>",
        f"7 {T} <... clone3 resumed> => {{parent_tid=[9]}}, 88) = 9",
    )
    assert isinstance(call, Call)
    assert call.args == (Opaque("{flags=CLONE_VM|CLONE_THREAD, tls=0x7f0} => {parent_tid=[9]}"), 88)


def test_old_form_of_resumed() -> None:
    (call,) = parse(f"7 {T} brk(NULL <unfinished ...>", f"7 {T} <... brk resumed> ) = 0x1000")
    assert isinstance(call, Call)
    assert (call.args, call.result) == ((0,), 0x1000)


def test_killed_inside_a_call_and_shown_as_resumed() -> None:
    records = parse(
        f"7 {T} wait4(-1,  <unfinished ...>",
        f"7 {T} <... wait4 resumed> <unfinished ...>) = ?",
        f"7 {T} +++ killed by SIGKILL +++",
    )
    assert [(type(r).__name__, getattr(r, "result", None)) for r in records] == [("Call", None), ("Ended", None)]


def test_calls_that_never_return_come_last_in_starting_order() -> None:
    records = parse(
        f"7 {T} wait4(-1,  <unfinished ...>",
        f"8 {T} munmap(0x1000, 4096 <unfinished ...>",
        f"9 {T} futex(0x7f, FUTEX_WAIT <detached ...>",
        f"8 {T} +++ killed by SIGKILL +++",
        f"6 {T} brk(NULL) = 0x1000",
    )
    shown = [(type(r).__name__, r.pid, getattr(r, "finished_line", 0)) for r in records]
    assert shown == [("Ended", 8, 0), ("Call", 6, 5), ("Call", 7, None), ("Call", 8, None), ("Other", 9, None)]


def test_a_signal_does_not_end_a_pending_call() -> None:
    records = parse(
        f"7 {T} wait4(-1,  <unfinished ...>",
        f"7 {T} --- SIGUSR1 {{si_signo=SIGUSR1}} ---",
        f"7 {T} <... wait4 resumed>NULL, 0, NULL) = 8",
    )
    assert [type(record).__name__ for record in records] == ["Signal", "Call"]


def test_execve_by_a_thread_resumes_under_the_first_id() -> None:
    records = parse(
        f'8 {T} execve("/bin/x", ["x"], 0x7f /* 1 var */ <unfinished ...>',
        f"7 {T} wait4(-1,  <unfinished ...>",
        f"7 {T} +++ superseded by execve in pid 8 +++",
        f"7 {T} <... execve resumed>) = 0",
    )
    assert records[0] == Superseded(7, NS, 8, 3)
    shown = [(r.pid, r.name, r.started_line, r.finished_line) for r in records if isinstance(r, Call)]
    assert shown == [(8, "execve", 1, 4), (7, "wait4", 2, None)]


# -- malformed -------------------------------------------------------------------

PENDING = f"7 {T} brk(NULL <unfinished ...>"


@pytest.mark.parametrize(
    ("lines", "line", "expected"),
    [
        ([], 0, "at least one line of strace output"),
        (["strace: Process 7 attached"], 0, "at least one line of strace output"),
        ([""], 1, "a process id (optional), a time stamp of strace -ttt, and an event"),
        (["7 brk(NULL) = 0"], 1, "a process id (optional), a time stamp of strace -ttt, and an event"),
        (["7 12:30:01 brk(NULL) = 0"], 1, "a process id (optional), a time stamp of strace -ttt, and an event"),
        (["7 12:30:01.123456 brk(NULL) = 0"], 1, "a process id (optional), a time stamp of strace -ttt, and an event"),
        ([f"7 {T}"], 1, "a process id (optional), a time stamp of strace -ttt, and an event"),
        ([f"7 {T} hello"], 1, "NAME(ARGUMENTS) = RESULT, <... NAME resumed>, --- SIGNAL ---, or +++ END +++"),
        ([f"7 {T} brk(NULL)"], 1, "the end of brk: `) = RESULT`, and perhaps its duration"),
        ([f"7 {T} brk(NULL) = "], 1, "the end of brk: `) = RESULT`, and perhaps its duration"),
        ([f"7 {T} brk(NULL) = zero"], 1, "the end of brk: `) = RESULT`, and perhaps its duration"),
        ([f"7 {T} brk(NULL) = 0x1000 <0.0000"], 1, "the end of brk: `) = RESULT`, and perhaps its duration"),
        ([f"7 {T} read(3, "], 1, "the end of read: `) = RESULT`, and perhaps its duration"),
        ([f"7 {T} munmap(0x1000) = 0"], 1, "2 arguments of munmap"),
        ([f"7 {T} munmap(0x1000, PROT_READ) = 0"], 1, "a number as argument 2 of munmap"),
        ([f'7 {T} mprotect(0x1000, 1, "r") = 0'], 1, "a flags as argument 3 of mprotect"),
        ([f"7 {T} mprotect(0x1000, {{1, PROT_READ) = 0"], 1, "balanced brackets in the arguments"),
        ([f'7 {T} execve("/bin/x, 0, 0) = 0'], 1, "a closing quotation mark in the arguments"),
        ([f"7 {T} --- SIGCHLD"], 1, "a signal name, and its siginfo in braces, between ---"),
        ([f"7 {T} --- CHLD {{}} ---"], 1, "a signal name, and its siginfo in braces, between ---"),
        ([f"7 {T} +++ gone +++"], 1, "exited with N, killed by SIGNAL, or superseded by execve in pid N, between +++"),
        ([f"7 {T} +++ superseded by execve in pid 8 +++"], 1, "an unfinished execve of pid 8 before it"),
        ([f"7 {T} <... brk resumed>) = 0"], 1, "an unfinished brk of the same task before it"),
        ([PENDING, f"8 {T} <... brk resumed>) = 0"], 2, "an unfinished brk of the same task before it"),
        ([PENDING, f"7 {T} <... mmap resumed>) = 0"], 2, "an unfinished mmap of the same task before it"),
        ([PENDING, f"7 {T} <... brk again>) = 0"], 2, "<... NAME resumed> and the rest of the call"),
        ([PENDING, f"7 {T} <... brk resumed> = 0"], 2, "the end of brk: `) = RESULT`, and perhaps its duration"),
        ([PENDING, f"7 {T} getpid() = 7"], 2, "<... brk resumed>, begun in line 1"),
    ],
)
def test_errors_name_line_and_expectation(lines: list[str], line: int, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(*lines)
    assert (caught.value.file, caught.value.line, caught.value.expected) == ("log", line, expected)


@given(st.data())
def test_a_damaged_line_is_refused_or_still_a_call(data: st.DataObject) -> None:
    good = f"7 {T} mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f00 <0.000016>"
    at = data.draw(st.integers(0, len(good) - 1))
    line = good[:at] + data.draw(st.sampled_from(["", "(", ")", '"', "=", "<", " ", "9", "{"])) + good[at + 1 :]
    result = outcome(lambda: parse(line))
    assert (isinstance(result, BadInput) and result.line == 1) or isinstance(result[0], Call)


# -- properties ------------------------------------------------------------------


@st.composite
def task_calls(draw: st.DrawFn) -> dict[int, list[str]]:
    """Per process id some calls, each as the text after the time stamp."""
    bodies = st.sampled_from(
        [
            "mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f0000000000 <0.000010>",
            "munmap(0x7f0000000000, 8192) = 0 <0.000020>",
            "brk(NULL)       = 0x5000 <0.000030>",
            'execve("/bin/x),(y", ["x"], 0x7f /* 3 vars */) = 0 <0.000040>',
            "clone3({flags=CLONE_VM, tls=0x7f0} => {parent_tid=[9]}, 88) = 9 <0.000050>",
            "wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 1}], 0, NULL) = 9 <0.000060>",
            "futex(0x7f, FUTEX_WAIT, 1, NULL) = 0 <0.000070>",
            "madvise(0x7f0000000000, 4096, MADV_FREE) = -1 EINVAL (Invalid argument) <0.000080>",
        ]
    )
    return {pid: draw(st.lists(bodies, min_size=1, max_size=4)) for pid in (5, 6, 7)}


def cut(body: str, at: int) -> tuple[str, str]:
    """The two halves strace would print: cut at an argument boundary."""
    name, _, rest = body.partition("(")
    places = [found.start() for found in re.finditer(r", |\) ", rest)]
    place = places[at % len(places)]
    return f"{name}({rest[:place]} <unfinished ...>", f"<... {name} resumed>{rest[place:]}"


@given(task_calls(), st.data())
def test_cutting_and_interleaving_changes_only_the_lines(tasks: dict[int, list[str]], data: st.DataObject) -> None:
    whole = [f"{pid} {T} {body}" for pid, bodies in tasks.items() for body in bodies]
    queues: dict[int, list[str]] = {}
    for pid, bodies in tasks.items():
        queues[pid] = []
        for body in bodies:
            queues[pid] += cut(body, data.draw(st.integers(0, 5))) if data.draw(st.booleans()) else (body,)
    mixed = []
    while any(queues.values()):
        pid = data.draw(st.sampled_from([pid for pid, queue in queues.items() if queue]))
        mixed.append(f"{pid} {T} {queues[pid].pop(0)}")
    assert by_task(parse(*mixed)) == by_task(parse(*whole))


def by_task(records: tuple[Record, ...]) -> dict[int, list[Record]]:
    """The calls of each task in order, without their lines."""
    found: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda each: each.pid):
        assert isinstance(record, Call)
        found.setdefault(record.pid, []).append(attrs.evolve(record, started_line=0, finished_line=0))
    return found


@pytest.mark.parametrize("file", STRACE_FILES, ids=lambda file: file.stem)
def test_every_line_of_a_recording_is_in_a_record(file: Path) -> None:
    log = read_log(file)
    seen: list[int] = []
    for record in log.records:
        if isinstance(record, Call):
            seen += sorted({record.started_line, record.finished_line or record.started_line})
        else:
            seen.append(record.line)
    assert sorted(seen) == list(range(1, len(file.read_text().splitlines()) + 1))
    assert log == Log(str(file), log.records)
    assert not [record for record in log.records if isinstance(record, Other)]
