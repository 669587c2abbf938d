"""The format of litmus outcomes: canonical outcomes, strict reading, exact writing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workload_files import LITMUS

from svm_actors.workload import kernel_operations as ops
from svm_actors.workload.formats import BadInput, Line
from svm_actors.workload.litmus_format import Litmus, Observed, Outcome, dump_litmus, parse_litmus, read_litmus

GOOD: dict[str, Any] = {
    "litmus": 3,
    "pages": 2,
    "devices": 2,
    "setup": [{"op": "cpu_write", "page": 0, "value": 10}, {"op": "mprotect_r", "page": 1, "n": 1}],
    "threads": [
        [{"op": "dev_read", "dev": 0, "page": 0, "n": 2}, {"op": "mremap_away", "page": 1, "n": 1}],
        [{"op": "child_write", "page": 1, "value": 20}, {"op": "cpu_read", "page": 0}],
    ],
    "runs": 10,
    "outcomes": [
        {
            "threads": [[[10, 0], "ok"], ["child 255", 10]],
            "snapshot": [2, 255],
            "snapshot_errno": 0,
            "memory": [10, "segv"],
            "count": 7,
        },
        {
            "threads": [["EFAULT", "ok"], ["child 20", "segv"]],
            "snapshot": [],
            "snapshot_errno": 16,
            "memory": [10, "segv"],
            "count": 3,
        },
    ],
}


def parse(record: object) -> Litmus:
    return parse_litmus(Line("input", 5, json.dumps(record)))


def changed(path: str, value: Any) -> Any:
    """GOOD with the place ``a.0.b`` set, or removed where the value is Ellipsis."""
    record = json.loads(json.dumps(GOOD))
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = record
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


def test_reads_what_is_there() -> None:
    litmus = parse(GOOD)
    assert (litmus.number, litmus.pages, litmus.devices, litmus.runs, litmus.line) == (3, 2, 2, 10, 5)
    assert litmus.setup == (ops.CpuWrite(0, 10), ops.MprotectR(1, 1))
    assert litmus.threads == ((ops.DevRead(0, 0, 2), ops.MremapAway(1, 1)), (ops.ChildWrite(1, 20), ops.CpuRead(0)))
    assert litmus.outcomes == (
        Observed(Outcome((((10, 0), "ok"), ("child 255", 10)), (2, 255), 0, (10, "segv")), 7),
        Observed(Outcome((("EFAULT", "ok"), ("child 20", "segv")), (), 16, (10, "segv")), 3),
    )


def test_outcomes_of_lists_and_of_tuples_are_one() -> None:
    lists = Outcome([[[10, 0], "ok"], ["child 255", 10]], [2, 255], 0, [10, "segv"])  # type: ignore[arg-type]
    recorded = parse(GOOD).outcomes[0].outcome
    assert lists == recorded
    assert hash(lists) == hash(recorded)


def test_unreached_outcomes_are_found() -> None:
    litmus = parse(GOOD)
    first, second = litmus.outcomes
    assert litmus.unreached(frozenset([first.outcome, second.outcome])) == ()
    assert litmus.unreached(frozenset([second.outcome])) == (first,)
    assert litmus.unreached(frozenset()) == (first, second)


OUTCOME = GOOD["outcomes"][0]


@pytest.mark.parametrize(
    ("path", "value", "expected", "got"),
    [
        ("litmus", ..., "the field `litmus`", "none"),
        ("pages", 0, "`int` >= 1 at `pages`", "0"),
        ("runs", "10", "`int` at `runs`", "'10'"),
        ("kernel", 7, "known fields only", "the field `kernel`"),
        ("setup.0.op", "poke", "a known value at `op`", "'poke'"),
        ("setup.0.op", "snapshot", "a known value at `op`", "'snapshot'"),
        ("setup.0.page", 2, "cpu_write inside pages 0 to 1", "1 pages from page 2"),
        ("setup.0.value", ..., "the field `value`", "none"),
        ("setup.0.errno", 0, "known fields only", "the field `errno`"),
        ("threads.0.0.dev", 2, "`dev` below 2", "2"),
        ("threads.0.0.n", 3, "dev_read inside pages 0 to 1", "3 pages from page 0"),
        ("threads.1", [], "one result for each operation of each thread", None),
        ("outcomes.0.threads.0.0", [10], "2 bytes or an errno name as result of dev_read", "(10,)"),
        ("outcomes.0.threads.0.0", "ok", "2 bytes or an errno name as result of dev_read", "'ok'"),
        ("outcomes.0.threads.0.1", "EWHAT", "ok or an errno name as result of mremap_away", "'EWHAT'"),
        ("outcomes.0.threads.0.1", 0, "ok or an errno name as result of mremap_away", "0"),
        ("outcomes.0.threads.1.0", "child 256", "child V or an errno name as result of child_write", "'child 256'"),
        ("outcomes.0.threads.1.0", 20, "child V or an errno name as result of child_write", "20"),
        ("outcomes.0.threads.1.1", "ok", "a byte or segv as result of cpu_read", "'ok'"),
        ("outcomes.0.threads.1.1", 256, "`int` <= 255 at `outcomes[0].threads[1][1]`", "256"),
        ("outcomes.0.memory", [10], "`memory` of 2 pages", "1"),
        ("outcomes.0.memory.1", "gone", "a known value at `outcomes[0].memory[1]`", "'gone'"),
        ("outcomes.0.snapshot", [2], "`snapshot` of 2 pages", "1"),
        ("outcomes.0.snapshot_errno", 16, "`snapshot` of 0 pages", "2"),
        ("outcomes.0.count", 8, "outcome counts that add up to 10 runs", "11"),
        ("outcomes.0.count", 0, "`int` >= 1 at `outcomes[0].count`", "0"),
        ("outcomes.1", {**OUTCOME, "count": 3}, "distinct outcomes", "the same outcome twice"),
    ],
)
def test_errors_name_line_and_expectation(path: str, value: Any, expected: str, got: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        parse(changed(path, value))
    assert (caught.value.file, caught.value.line, caught.value.expected) == ("input", 5, expected)
    assert got is None or caught.value.got == got


def test_writes_of_the_cpu_end_ok_or_segv() -> None:
    record = changed("threads.1.1", {"op": "cpu_write", "page": 0, "value": 1})
    with pytest.raises(BadInput, match="expected ok or segv as result of cpu_write, got 10"):
        parse(record)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(BadInput, match="expected at least one litmus, got an empty file"):
        read_litmus(tmp_path / "f")


byte = st.integers(0, 255)


@st.composite
def litmuses(draw: st.DrawFn) -> dict[str, Any]:
    """Any well-formed record of two operations per thread."""
    pool: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
        ({"op": "cpu_read", "page": 0}, byte | st.just("segv")),
        ({"op": "cpu_write", "page": 1, "value": 3}, st.sampled_from(["ok", "segv"])),
        ({"op": "child_read", "page": 1}, byte.map("child {}".format)),
        ({"op": "dev_read", "dev": 1, "page": 0, "n": 2}, st.tuples(byte, byte) | st.just("EBUSY")),
        ({"op": "to_sys", "dev": 0, "page": 0, "n": 1}, st.sampled_from(["ok", "EINVAL"])),
        ({"op": "mremap", "page": 0, "n": 1, "to": 1}, st.sampled_from(["ok", "EFAULT"])),
        ({"op": "mprotect", "page": 0, "n": 1, "prot": "none"}, st.sampled_from(["ok", "ENOMEM"])),
        ({"op": "mmap", "page": 0, "n": 1, "prot": "r", "share": "shared"}, st.just("ok")),
    ]
    threads = [[draw(st.sampled_from(pool)) for _ in range(2)] for _ in range(2)]
    outcomes = st.fixed_dictionaries(
        {
            "threads": st.tuples(*[st.tuples(*[result for _, result in thread]) for thread in threads]),
            "snapshot": st.tuples(byte, byte),
            "snapshot_errno": st.just(0),
            "memory": st.tuples(byte, byte | st.just("segv")),
            "count": st.integers(1, 50),
        }
    )
    fields = ("threads", "snapshot", "memory")
    found = draw(
        st.lists(outcomes, min_size=1, max_size=4, unique_by=lambda each: tuple(each[name] for name in fields))
    )
    return {
        "litmus": draw(st.integers(0, 9)),
        "pages": 2,
        "devices": 2,
        "setup": [each for each, _ in draw(st.lists(st.sampled_from(pool), max_size=2))],
        "threads": [[each for each, _ in thread] for thread in threads],
        "runs": sum(each["count"] for each in found),
        "outcomes": found,
    }


@given(litmuses())
def test_reading_and_writing_give_the_same_line(record: dict[str, Any]) -> None:
    text = json.dumps(record, separators=(",", ":"))
    litmus = parse_litmus(Line("input", 1, text))
    assert json.loads(dump_litmus(litmus)) == json.loads(text)
    assert parse_litmus(Line("input", 1, dump_litmus(litmus))) == litmus


@pytest.mark.skipif(not LITMUS.exists(), reason="recordings are not part of the package")
def test_the_recording_is_read_whole_and_written_back_alike() -> None:
    litmuses = list(read_litmus(LITMUS))
    assert "".join(dump_litmus(litmus) for litmus in litmuses) == gzip.decompress(LITMUS.read_bytes()).decode()
    assert [litmus.line for litmus in litmuses] == list(range(1, len(litmuses) + 1))
