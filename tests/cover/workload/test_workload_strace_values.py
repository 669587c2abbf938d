"""Arguments as strace prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import outcome

from svm_actors.workload.formats import BadInput, Line
from svm_actors.workload.strace_values import Flags, Keyword, Opaque, Text, Value, fits, flags_inside, parse_values


def parse(text: str, *, complete: bool = True) -> tuple[Value, ...]:
    return parse_values(Line("log", 3, text), text, complete=complete)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NULL", 0),
        ("0", 0),
        ("-1", -1),
        ("4096", 4096),
        ("0x7ffff73eb0d8", 0x7FFFF73EB0D8),
        ("0755", 0o755),
        ("089", 89),
        ("0x7ffe /* 35 vars */", 0x7FFE),
        ("3</usr/lib/libc.so, 6 (deleted)>", 3),
        ("PROT_NONE", Flags(("PROT_NONE",))),
        ("PROT_READ|PROT_WRITE", Flags(("PROT_READ", "PROT_WRITE"))),
        ("MAP_PRIVATE|MAP_HUGETLB|21<<MAP_HUGE_SHIFT", Flags(("MAP_PRIVATE", "MAP_HUGETLB", "21<<MAP_HUGE_SHIFT"))),
        ("MAP_SHARED|0x800000 /* MAP_??? */", Flags(("MAP_SHARED", "0x800000"))),
        ('"plain"', Text("plain", truncated=False)),
        ('"cut"...', Text("cut", truncated=True)),
        (r'"a\"b, (\n\\ \33\x41"', Text('a"b, (\n\\ \x1bA', truncated=False)),
        ("flags=CLONE_VM|SIGCHLD", Keyword("flags", Flags(("CLONE_VM", "SIGCHLD")))),
        ("child_stack=NULL", Keyword("child_stack", 0)),
        ('path="/a=b"', Keyword("path", Text("/a=b", truncated=False))),
        ('["sh", "-c", ")]}"]', Opaque('["sh", "-c", ")]}"]')),
        ("{flags=CLONE_VM, a=[1, 2]} => {parent_tid=[3]}", Opaque("{flags=CLONE_VM, a=[1, 2]} => {parent_tid=[3]}")),
        ("[{WIFEXITED(s) && WEXITSTATUS(s) == 0}]", Opaque("[{WIFEXITED(s) && WEXITSTATUS(s) == 0}]")),
    ],
)
def test_one_value(text: str, value: Value) -> None:
    assert parse(text) == (value,)
    # and between others
    assert parse(f"1, {text}, NULL") == (1, value, 0)


def test_no_arguments() -> None:
    assert parse("") == ()
    assert parse("  ") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,, 2", "an argument between the commas"),
        ("1, ", "an argument between the commas"),
        (", 1", "an argument between the commas"),
        ("[1, 2", "balanced brackets in the arguments"),
        ("1]", "balanced brackets in the arguments"),
        ("(1", "balanced brackets in the arguments"),
        ('"open', "a closing quotation mark in the arguments"),
        ('1, "a\\"', "a closing quotation mark in the arguments"),
    ],
)
def test_malformed_arguments(text: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert (caught.value.file, caught.value.line, caught.value.expected) == ("log", 3, expected)


@given(st.text(alphabet='1,[]{}"AZaz_|= /*', max_size=25))
def test_incomplete_arguments_give_what_is_there_or_a_clear_error(text: str) -> None:
    result = outcome(lambda: parse(text, complete=False))
    if isinstance(result, BadInput):
        assert str(result).startswith("log:3: expected ")
    else:
        assert len(result) <= text.count(",") + 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("-1, ", (-1,)),
        ("NULL", (0,)),
        ("", ()),
        ("{flags=CLONE_VM|SIGCHLD, stack=0x7f", (Opaque("{flags=CLONE_VM|SIGCHLD, stack=0x7f"),)),
    ],
)
def test_calls_that_break_off_anywhere(text: str, values: tuple[Value, ...]) -> None:
    assert parse(text, complete=False) == values


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8), max_size=4))
def test_strings_survive_quoting(strings: list[str]) -> None:
    quoted = ", ".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in strings)
    assert parse(quoted) == tuple(Text(each, truncated=False) for each in strings)


def test_what_fits_where() -> None:
    flags, number, struct = Flags(("A",)), 3, Opaque("{}")
    table = {kind: [fits(value, kind) for value in (number, flags, struct)] for kind in ("number", "flags", "any")}
    assert table == {"number": [True, False, False], "flags": [True, True, False], "any": [True, True, True]}


def test_flags_inside_a_structure() -> None:
    assert flags_inside("{flags=CLONE_VM|CLONE_VFORK|0x100, exit_signal=SIGCHLD}") == Flags(
        ("CLONE_VM", "CLONE_VFORK", "0x100")
    )
    assert flags_inside("{exit_signal=SIGCHLD}") == Flags(())
