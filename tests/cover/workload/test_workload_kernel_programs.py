"""The format of recorded sequential programs: strict reading, exact writing, results apart from arguments."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import PROGRAMS, lines_of, outcome

from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.formats import BadInput
from svm_actors.workload.kernel_operations import Arguments
from svm_actors.workload.kernel_programs import (
    NAMES,
    OPERATIONS,
    Difference,
    KernelProgram,
    NotifierEvent,
    Operation,
    Value,
    dump_program,
    parse_programs,
    read_programs,
)

GOOD = """\
{"program":4,"pages":4,"devices":2,"profile":1}
{"op":"mmap","page":0,"n":4,"prot":"rw","share":"private","errno":0,"events":[{"event":"UNMAP","page":0,"n":4}]}
{"op":"to_dev","dev":1,"page":1,"n":2,"errno":0,"cpages":2,"faults":0,"data":[0,255],"events":[{"event":"MIGRATE","page":1,"n":2,"owner":"other"}]}
{"op":"to_dev","dev":0,"page":0,"n":1,"errno":2,"events":[]}
{"op":"cpu_read","page":3,"signal":0,"value":9,"events":[]}
{"op":"cpu_read","page":3,"signal":11,"events":[]}
{"op":"cpu_write","page":2,"signal":0,"value":7,"events":[]}
{"op":"child_write","page":2,"value":8,"child":8,"events":[]}
{"op":"exclusive","dev":0,"page":0,"n":1,"errno":0,"events":[{"event":"EXCLUSIVE","page":0,"n":1,"owner":"none"}]}
{"op":"mremap","page":0,"n":2,"to":2,"errno":0,"events":[]}
{"op":"snapshot","dev":0,"page":0,"n":4,"errno":0,"cpages":4,"faults":0,"perm":[255,0,2,33],"events":[]}
{"end":4}
"""


def parse(text: str) -> list[KernelProgram]:
    return list(parse_programs("input", lines_of(text)))


def test_reads_what_is_there() -> None:
    (program,) = parse(GOOD)
    assert (program.number, program.pages, program.devices, program.profile, program.line) == (4, 4, 2, 1, 1)
    assert [(each.arguments, each.line) for each in program.operations[:3]] == [
        (ops.Mmap(0, 4, "rw", "private"), 2),
        (ops.ToDev(1, 1, 2), 3),
        (ops.ToDev(0, 0, 1), 4),
    ]
    assert program.operations[1].results == {
        "errno": 0,
        "cpages": 2,
        "faults": 0,
        "data": (0, 255),
        "events": (NotifierEvent("MIGRATE", 1, 2, "other"),),
    }
    assert program.operations[2].results == {"errno": 2, "events": ()}


def test_value_is_a_result_of_a_read_and_an_argument_of_a_write() -> None:
    (program,) = parse(GOOD)
    read, _, write = program.operations[3:6]
    assert (read.arguments, read.results) == (ops.CpuRead(3), {"signal": 0, "value": 9, "events": ()})
    assert (write.arguments, write.results) == (ops.CpuWrite(2, 7), {"signal": 0, "events": ()})


def test_no_result_field_is_an_argument() -> None:
    results = {name for shape in OPERATIONS.values() for name in (*shape.status, *shape.success, *shape.optional)}
    for kind in OPERATIONS:
        shared = results & set(kind.__struct_fields__)
        assert shared <= {"value"}, kind
        assert not shared or "value" not in OPERATIONS[kind].success


def test_several_programs_in_one_file() -> None:
    programs = parse(GOOD + GOOD.replace("4}\n", "5}\n").replace('"program":4', '"program":5'))
    assert [(program.number, program.line) for program in programs] == [(4, 1), (5, 13)]


def test_programs_before_a_bad_one_are_handed_out() -> None:
    programs = parse_programs("input", lines_of(GOOD + "nonsense\n"))
    assert next(programs).number == 4
    with pytest.raises(BadInput, match=r"^input:13: "):
        next(programs)


def edit(number: int, **changes: Any) -> str:
    """GOOD with fields of one line set, or removed where the value is Ellipsis."""
    lines = GOOD.splitlines()
    record = json.loads(lines[number - 1])
    for name, value in changes.items():
        record[name] = value
        if value is ...:
            del record[name]
    lines[number - 1] = json.dumps(record)
    return "\n".join(lines) + "\n"


def event(**changes: Any) -> list[dict[str, Any]]:
    return [{"event": "MIGRATE", "page": 0, "n": 1, "owner": "self"} | changes]


@pytest.mark.parametrize(
    ("text", "line", "expected", "got"),
    [
        (edit(2, op="mmmap"), 2, f"the field `op` with one of {', '.join(NAMES)}", "'mmmap'"),
        (edit(2, op=...), 2, f"the field `op` with one of {', '.join(NAMES)}", "None"),
        (edit(2, op=["mmap"]), 2, f"the field `op` with one of {', '.join(NAMES)}", "['mmap']"),
        (edit(2, page=...), 2, "the field `page`", "none"),
        (edit(2, page="0"), 2, "`int` at `page`", "'0'"),
        (edit(2, page=0.0), 2, "`int` at `page`", "0.0"),
        (edit(2, page=-1), 2, "`int` >= 0 at `page`", "-1"),
        (edit(2, n=0), 2, "`int` >= 1 at `n`", "0"),
        (edit(2, n=5), 2, "mmap inside pages 0 to 3", "5 pages from page 0"),
        (edit(2, prot="x"), 2, "a known value at `prot`", "'x'"),
        (edit(2, share="both"), 2, "a known value at `share`", "'both'"),
        (edit(2, flags=1), 2, "known fields only", "the field `flags`"),
        (edit(2, errno=...), 2, "the field `errno` in the result of mmap", "none"),
        (edit(2, errno=-12), 2, "`int` >= 0 at `errno`", "-12"),
        (edit(2, events=...), 2, "the field `events` in the result of mmap", "none"),
        (edit(2, cpages=1), 2, "only the fields errno, events in this result of mmap", "the field `cpages`"),
        (edit(3, dev=2), 3, "`dev` below 2", "2"),
        (edit(3, data=...), 3, "the field `data` in the result of to_dev", "none"),
        (edit(3, data=[1]), 3, "2 bytes in `data`", "1"),
        (edit(3, data=[1, 256]), 3, "`int` <= 255 at `data[1]`", "256"),
        (edit(4, cpages=1), 4, "only the fields errno, events in this result of to_dev", "the field `cpages`"),
        (edit(5, value=...), 5, "the field `value` in the result of cpu_read", "none"),
        (edit(6, value=1), 6, "only the fields events, signal in this result of cpu_read", "the field `value`"),
        (edit(6, signal=7), 6, "`signal` 0 or 11", "7"),
        (edit(7, value=...), 7, "the field `value`", "none"),
        (edit(8, child=...), 8, "the field `child` in the result of child_write", "none"),
        (edit(8, child=300), 8, "`int` <= 255 at `child`", "300"),
        (edit(10, to=3), 10, "mremap `to` inside pages 0 to 3", "2 pages from page 3"),
        (edit(11, perm=[0]), 11, "4 bytes in `perm`", "1"),
        (edit(4, events=event(event="MOVE")), 4, "a known value at `events[0].event`", "'MOVE'"),
        (edit(4, events=event(owner="me")), 4, "a known value at `events[0].owner`", "'me'"),
        (edit(4, events=event(page=4)), 4, "event MIGRATE inside pages 0 to 3", "1 pages from page 4"),
        (edit(4, events=event(owner=None)), 4, "the field `owner` in event MIGRATE", "none"),
        (edit(4, events=event(event="CLEAR")), 4, "no field `owner` in event CLEAR", "'self'"),
        (edit(4, events={}), 4, "`array` at `events`", "{}"),
        (edit(1, pages=0), 1, "`int` >= 1 at `pages`", "0"),
        (edit(1, profile=...), 1, "the field `profile`", "none"),
        (edit(1, kernel="7"), 1, "known fields only", "the field `kernel`"),
        (edit(12, end=5), 12, 'the line {"end":4}', "'{\"end\": 5}'"),
        (edit(12, end="4"), 12, "`int` at `end`", "'4'"),
        ("\n".join(GOOD.splitlines()[:-1]), 12, 'the line {"end":4}', "end of file"),
        ("\n".join(GOOD.splitlines()[1:]), 1, "a line that opens a program, with the field `program`", None),
        (GOOD.splitlines()[0] + "\n" + GOOD, 2, 'an operation or the line {"end":4}', None),
        ("", 0, "at least one program", "an empty file"),
        (GOOD + "\n", 13, "a JSON object", None),
    ],
)
def test_errors_name_line_and_expectation(text: str, line: int, expected: str, got: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert (caught.value.file, caught.value.line, caught.value.expected) == ("input", line, expected)
    assert got is None or caught.value.got == got


def test_differences_name_each_field() -> None:
    operation = parse(GOOD)[0].operations[1]
    same = {"errno": 0, "cpages": 2, "faults": 0, "data": [0, 255], "events": list(operation.results["events"])}  # type: ignore[arg-type]
    assert operation.differences(same) == ()
    assert operation.differences({**same, "cpages": 1, "data": (0, 1)}) == (
        Difference("cpages", 2, 1),
        Difference("data", (0, 255), (0, 1)),
    )
    assert operation.differences({"errno": 2, "events": ()}) == (
        Difference("errno", 0, 2),
        Difference("cpages", 2, None),
        Difference("faults", 0, None),
        Difference("data", (0, 255), None),
        Difference("events", operation.results["events"], ()),
    )
    assert operation.differences({**same, "signal": 11}) == (Difference("signal", None, 11),)


# -- round trips -----------------------------------------------------------------

PAGES = 16
byte = st.integers(0, 255)
count = st.integers(0, 40)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    page = draw(st.integers(0, PAGES - 1))
    return page, draw(st.integers(1, PAGES - page))


@st.composite
def events(draw: st.DrawFn) -> NotifierEvent:
    name = draw(st.sampled_from(["UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "MIGRATE", "EXCLUSIVE"]))
    owner = draw(st.sampled_from(["self", "other", "none"])) if name in ("MIGRATE", "EXCLUSIVE") else None
    return NotifierEvent(name, *draw(spans()), owner)


def draw_arguments(draw: st.DrawFn, kind: type[Arguments]) -> Arguments:
    page, n = draw(spans())
    values: dict[str, Callable[[], Any]] = {
        "page": lambda: page,
        "n": lambda: n,
        "to": lambda: draw(st.integers(0, PAGES - n)),
        "dev": lambda: draw(st.integers(0, 1)),
        "value": lambda: draw(byte),
        "prot": lambda: draw(st.sampled_from(["none", "r", "rw"])),
        "share": lambda: draw(st.sampled_from(["private", "shared"])),
    }
    return kind(**{name: values[name]() for name in kind.__struct_fields__})


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    arguments = draw_arguments(draw, draw(st.sampled_from(list(OPERATIONS))))
    shape, length = OPERATIONS[type(arguments)], arguments.span[1]
    fields: dict[str, st.SearchStrategy[Any]] = {
        "errno": st.sampled_from([0, 1, 2, 14, 22]),
        "signal": st.sampled_from([0, 11]),
        "child": byte,
        "value": byte,
        "cpages": count,
        "faults": count,
        "data": st.tuples(*[byte] * length),
        "perm": st.tuples(*[byte] * length),
    }
    results: dict[str, Value] = {name: draw(fields[name]) for name in shape.status}
    if not results.get("errno") and not results.get("signal"):
        results.update({name: draw(fields[name]) for name in shape.success})
        results.update({name: draw(fields[name]) for name in shape.optional if draw(st.booleans())})
    results["events"] = tuple(draw(st.lists(events(), max_size=3)))
    return Operation(arguments, results, 0)


@given(st.lists(operations(), max_size=8), st.integers(0, 9))
def test_writing_and_reading_give_the_same_program(body: list[Operation], number: int) -> None:
    program = KernelProgram(number, PAGES, 2, 1, tuple(body), 1)
    (again,) = parse(dump_program(program))
    assert [each.arguments for each in again.operations] == [each.arguments for each in body]
    assert [each.results for each in again.operations] == [each.results for each in body]
    assert [each.line for each in again.operations] == list(range(2, 2 + len(body)))
    assert dump_program(again) == dump_program(program)


@given(st.lists(operations(), min_size=1, max_size=2), st.data())
def test_damaged_lines_are_refused_with_their_place_or_still_good(body: list[Operation], data: st.DataObject) -> None:
    text = dump_program(KernelProgram(1, PAGES, 2, 1, tuple(body), 1))
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from(["", "x", "9", '"', "}"])) + text[at + 1 :]
    result = outcome(lambda: parse(damaged))
    if isinstance(result, BadInput):
        assert 1 <= result.line <= damaged.count("\n") + 2
        assert str(result).startswith(f"input:{result.line}: expected ")
    else:
        assert [len(program.operations) for program in result] == [len(body)]


@pytest.mark.skipif(not PROGRAMS.exists(), reason="recordings are not part of the package")
def test_the_recording_is_read_whole_and_written_back_alike() -> None:
    programs = list(read_programs(PROGRAMS))
    recorded = gzip.decompress(PROGRAMS.read_bytes()).decode().splitlines()
    written = "".join(dump_program(program) for program in programs).splitlines()
    assert len(written) == len(recorded)
    assert [json.loads(line) for line in written] == [json.loads(line) for line in recorded]
    # before the end every page is read by the CPU
    for program in programs:
        closing = [each.arguments for each in program.operations[-program.pages :]]
        assert closing == [ops.CpuRead(page) for page in range(program.pages)]
