"""Reading lines, plain or zipped, and the one error for everything that can be wrong with a file."""

from __future__ import annotations

import copy
import gzip
import pickle
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svm_actors.workload.formats import BadInput, Line, convert, json_object, quoted, read_lines


def test_plain_and_gzip_read_the_same(tmp_path: Path) -> None:
    content = "first\nzweite: \u00fc\n\nlast"
    (tmp_path / "plain").write_text(content, encoding="utf-8")
    # told apart by content: the name says nothing
    (tmp_path / "zipped.txt").write_bytes(gzip.compress(content.encode()))
    plain = read_lines(tmp_path / "plain")
    zipped = read_lines(tmp_path / "zipped.txt")
    assert [(line.number, line.text) for line in plain] == [(1, "first"), (2, "zweite: \u00fc"), (3, ""), (4, "last")]
    assert [(line.number, line.text) for line in zipped] == [(line.number, line.text) for line in plain]
    assert {line.file for line in plain} == {str(tmp_path / "plain")}


def test_final_newline_and_carriage_return_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\r\nb\r\n")
    assert [line.text for line in read_lines(str(tmp_path / "f"))] == ["a", "b"]


def test_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert read_lines(tmp_path / "f") == []


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert [line.text for line in read_lines(tmp_path / "f")] == ["a", "b"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_lines(tmp_path / "nothing")
    assert str(caught.value) == f"{tmp_path / 'nothing'}: expected a file, got no such file"


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_lines(tmp_path)
    assert str(caught.value) == f"{tmp_path}: expected a file, got a directory"


def test_a_file_inside_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(BadInput, match="expected a readable file, got Not a directory"):
        read_lines(tmp_path / "f" / "g")


def test_truncated_gzip_names_the_line_it_got_to(tmp_path: Path) -> None:
    # incompressible lines, so that half of the file is about half of the lines
    content = "".join(f"{pow(7, number, 1000003)}-{pow(11, number, 1000003)}\n" for number in range(20000))
    data = gzip.compress(content.encode())
    (tmp_path / "f").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput) as caught:
        read_lines(tmp_path / "f")
    assert (caught.value.expected, caught.value.got) == ("the rest of a gzip stream", "end of file")
    assert 5000 < caught.value.line < 15000


@pytest.mark.parametrize("at", [2, 10], ids=["method", "kind of the first block"])
def test_damaged_gzip(tmp_path: Path, at: int) -> None:
    data = bytearray(gzip.compress(b"some text that is long enough\n" * 20))
    data[at] = 0xFF
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read_lines(tmp_path / "f")
    assert caught.value.expected == "an intact gzip stream"
    assert caught.value.line == 1


def test_wrong_gzip_checksum(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"one\ntwo\n"))
    data[-8] ^= 1
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(BadInput, match="expected an intact gzip stream, got CRC check failed"):
        read_lines(tmp_path / "f")


def test_not_utf8_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"good\nba\xffd\n")
    with pytest.raises(BadInput) as caught:
        read_lines(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}:2: expected UTF-8 text, got byte 0xff at column 3"


def test_error_text_survives_pickle_and_copy() -> None:
    error = BadInput("file", 3, "this", "that")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(twin) == str(error) == "file:3: expected this, got that"
        assert (twin.file, twin.line, twin.expected, twin.got) == ("file", 3, "this", "that")
    assert isinstance(error, ValueError)


@given(st.text())
def test_quotes_fit_on_one_line(text: str) -> None:
    shown = quoted(text)
    assert len(shown) <= 63
    assert "\n" not in shown


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", '{"a":1}x', "[" * 100000, '{"a":' * 100000])
def test_what_is_not_a_json_object(text: str) -> None:
    with pytest.raises(BadInput, match=r"^f:7: expected a JSON object, got "):
        json_object(Line("f", 7, text))


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    size: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    parts: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("value", "expected", "got"),
    [
        ({}, "the field `number`", "none"),
        ({"number": 1, "extra": 2}, "known fields only", "the field `extra`"),
        ({"number": "x"}, "`int` at `number`", "'x'"),
        ({"number": True}, "`int` at `number`", "True"),
        ({"number": 1.5}, "`int` at `number`", "1.5"),
        ({"number": 1, "parts": {}}, "`array` at `parts`", "{}"),
        ({"number": 1, "parts": [{"kind": "a"}, {"kind": "c"}]}, "a known value at `parts[1].kind`", "'c'"),
        ({"number": 1, "parts": [{"kind": "a", "size": None}]}, "`int` at `parts[0].size`", "None"),
        ({"number": 1, "parts": [{}]}, "the field `kind` at `parts[0]`", "none"),
        ({"number": 1, "parts": [{"kind": "a", "z": 1}]}, "known fields only at `parts[0]`", "the field `z`"),
        ([1], "`object`", "[1]"),
    ],
)
def test_conversion_errors_name_the_field_and_the_value(value: object, expected: str, got: str) -> None:
    with pytest.raises(BadInput) as caught:
        convert(Line("f", 1, "..."), value, Outer)
    assert (caught.value.expected, caught.value.got) == (expected, got)
