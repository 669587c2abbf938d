"""``svm-actors explore``."""

from __future__ import annotations

from pathlib import Path

from cli_bench import HELD, LOST_UPDATE, call, script

READS = """\
from svm_actors import World

PAGE = 4096


async def scenario(world: World) -> bytes:
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"a")
    seen = []

    async def read() -> None:
        seen.append(await process.read(addr))

    async with world.nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(process.madvise, addr, PAGE, "dontneed")
    return seen[0]
"""


def test_every_outcome_is_named(tmp_path: Path) -> None:
    answer = call("explore", script(tmp_path, READS))
    assert answer.code == 0
    first, counts, summary, *outcomes = answer.out.splitlines()
    assert first == "COMPLETE WITHIN THIS BOUND: toy.py, dpor, no bound"
    assert counts.endswith("0 pruned, 0 too long")
    assert summary == "2 outcomes, 0 failures in 0 runs"
    assert sorted(line.split()[1] for line in outcomes) == ["b'\\x00'", "b'a'"]


def test_a_failure_ends_in_a_line_that_replays_it(tmp_path: Path) -> None:
    name = script(tmp_path, LOST_UPDATE)
    answer = call("explore", name, "--preemptions", 1, "--json")
    assert answer.code == 1
    found = answer.json
    assert (found["verdict"], found["bounds"]["preemptions"]) == ("complete within this bound", 1)
    (failure,) = found["failures"]
    assert "an update was lost" in failure["message"]
    assert call("replay", f"failures/{failure['hash']}.token").code == 1
    assert call("replay", failure["token"]).code == 1
    assert found["executions"] == found["runs"] + found["sleep_blocked"] + found["pruned"] + found["too_long"]


def test_a_budget_and_a_store(tmp_path: Path) -> None:
    name = script(tmp_path, READS)
    answer = call("explore", name, "--runs", 2, "--store", "store")
    assert answer.code == 4
    assert answer.out.startswith("BUDGET SPENT (runs): toy.py, dpor, no bound\n")
    rest = call("explore", name, "--store", "store", "--json")
    assert (rest.code, rest.json["resumed"]) == (0, 2)
    whole = call("explore", name, "--json").json
    assert [each["runs"] for each in rest.json["outcomes"]] == [each["runs"] for each in whole["outcomes"]]


def test_states(tmp_path: Path) -> None:
    answer = call("explore", script(tmp_path, READS), "--algorithm", "sleep", "--state-hashing", "--json")
    assert answer.code == 0
    assert answer.json["states"] > 0
    assert len(answer.json["outcomes"]) == 2


def test_bad_input(tmp_path: Path) -> None:
    name = script(tmp_path, HELD)
    Path("junk").write_bytes(b"junk" * 300)
    assert call("explore", name, "--store", "junk").code == 2
    assert call("explore", name, "--algorithm", "sleep", "--preemptions", 1).code == 2
    assert call("explore", name, "--state-hashing").code == 2
    assert call("explore", name, "--bug", "nobody").code == 2
    assert call("explore", "nowhere.py").code == 2
    assert call("explore", "random").code == 2
