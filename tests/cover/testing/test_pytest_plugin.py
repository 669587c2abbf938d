"""The pytest plugin, seen from the sessions of its users."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

import svm_actors

ROOT = Path(svm_actors.__file__).parent.parent
PLUGIN = "svm_actors.testing.plugin"

HEAD = """\
import pytest

PAGE = 4096

"""

HELD = HEAD + """
@pytest.mark.svm_schedules(runs=6, strategy="random")
async def test_held(world):
    process = world.process()
    addr = await process.mmap(PAGE)
    async with world.nursery() as nursery:
        nursery.start_soon(process.write, addr, b"a")
        nursery.start_soon(process.write, addr + 8, b"b")
    assert await process.read(addr, 9) == b"a" + bytes(7) + b"b"
    print("one run")
"""

RACY = HEAD + """
@pytest.mark.svm_schedules(runs=60)
async def test_racy(world):
    process = world.process()
    addr = await process.mmap(PAGE)
    await process.write(addr, b"\\0")

    async def thread(reads_before):
        for _ in range(reads_before):
            await process.read(addr)
        value = (await process.read(addr))[0]
        await process.write(addr, bytes((value + 1,)))

    async with world.nursery() as nursery:
        nursery.start_soon(thread, 0)
        nursery.start_soon(thread, 2)
    assert await process.read(addr, 1) == b"\\2", "an update was lost"
"""


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in other processes find the package and the plugin, and print the same on every machine.

    With `CI` or `BUILD_NUMBER` in the environment pytest repeats each message whole in its short summary.
    """
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def session(pytester: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    """Run a file of tests in a session inside this process."""
    pytester.makepyfile(test_it=text)
    return pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:xdist", "-p", "no:cacheprovider", *words)


def replay_line(result: pytest.RunResult) -> tuple[str, str]:
    """The node and the token option of the line that replays a failure, the same wherever it is printed."""
    (found,) = set(re.findall(r"^E? *pytest (\S+) (--svm-token=.*)$", result.stdout.str(), re.MULTILINE))
    return found[0].strip("'"), found[1].replace("'", "")


def test_a_marked_test_is_run_under_many_schedules(pytester: pytest.Pytester) -> None:
    result = session(pytester, HELD, "-s")
    result.assert_outcomes(passed=1)
    assert result.stdout.str().count("one run") == 6


def test_a_failure_has_a_report_a_token_and_a_line_that_replays_it(pytester: pytest.Pytester) -> None:
    result = session(pytester, RACY)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "PROPERTY FAILED: scenario [assert]" in text
    assert "an update was lost" in text
    assert re.search(r"target +test_it\.py::test_racy, run \d+ of 60", text)
    node, option = replay_line(result)
    assert node == "test_it.py::test_racy"
    again = session(pytester, RACY, node, option)
    again.assert_outcomes(failed=1)
    assert "the run of the token" in again.stdout.str()
    assert replay_line(again) == (node, option)


def test_the_summary_of_a_ci_machine_has_the_same_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = replay_line(session(pytester, RACY))
    monkeypatch.setenv("CI", "true")
    assert replay_line(session(pytester, RACY)) == line


def test_a_token_can_be_in_a_file(pytester: pytest.Pytester) -> None:
    _, option = replay_line(session(pytester, RACY))
    (pytester.path / "failed.token").write_text(option.partition("=")[2])
    session(pytester, RACY, "--svm-token=failed.token").assert_outcomes(failed=1)


def test_other_tests_are_skipped_when_a_token_is_replayed(pytester: pytest.Pytester) -> None:
    _, option = replay_line(session(pytester, RACY))
    result = session(pytester, RACY + HELD.removeprefix(HEAD), option)
    result.assert_outcomes(failed=1, skipped=1)


def test_a_token_of_an_edited_test_is_refused(pytester: pytest.Pytester) -> None:
    _, option = replay_line(session(pytester, RACY))
    result = session(pytester, RACY.replace("thread, 2", "thread, 3"), option)
    result.stdout.fnmatch_lines(["*--svm-token: the token was made with scenario*"])


def test_what_is_no_token_is_refused(pytester: pytest.Pytester) -> None:
    session(pytester, HELD, "--svm-token=nonsense").stdout.fnmatch_lines(["*--svm-token: expected*"])


def test_options_overrule_the_marker(pytester: pytest.Pytester) -> None:
    assert session(pytester, HELD, "-s", "--svm-runs=3").stdout.str().count("one run") == 3
    seeds = [session(pytester, RACY, f"--svm-seed={seed}") for seed in ("1", "2", "1")]
    lines = [replay_line(one) for one in seeds]
    assert lines[0] == lines[2] != lines[1]


def test_a_number_of_runs_is_one_or_more(pytester: pytest.Pytester) -> None:
    result = session(pytester, HELD, "--svm-runs=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--svm-runs*"])


def test_planted_bugs_machines_fixtures_and_parameters(pytester: pytest.Pytester) -> None:
    text = HEAD + """
from svm_actors import Config

@pytest.fixture
def byte():
    return b"x"

class TestPair:
    @pytest.mark.parametrize("gpu", [0, 1])
    @pytest.mark.svm_schedules(runs=40, bugs=["SVM-B41"], config=Config(gpus=2))
    async def test_pair(self, world, byte, gpu):
        process = world.process()
        vm = await world.gpu(gpu).create_vm(process)
        addr = await process.mmap(PAGE)
        await vm.store(addr, byte)
        assert await process.read(addr) == byte
"""
    result = session(pytester, text)
    result.assert_outcomes(failed=2)
    assert result.stdout.str().count("bugs     SVM-B41") == 2
    assert "test_it.py::TestPair::test_pair[1], run" in result.stdout.str()


def test_a_test_can_skip_itself(pytester: pytest.Pytester) -> None:
    text = HEAD + """
@pytest.mark.svm_schedules
async def test_skips(world):
    pytest.skip("not here")
"""
    session(pytester, text, "-rs").assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@pytest.mark.svm_schedules\ndef test_it(world): pass\n", "expects `async def test(world, ...)`"),
        ("@pytest.mark.svm_schedules\nasync def test_it(): pass\n", "expects `async def test(world, ...)`"),
        ("@pytest.mark.svm_schedules(speed=3)\nasync def test_it(world): pass\n", "speed"),
        ("@pytest.mark.svm_schedules(200)\nasync def test_it(world): pass\n", "keyword arguments only"),
        ("@pytest.mark.svm_schedules(strategy='psychic')\nasync def test_it(world): pass\n", "unknown strategy"),
        ("@pytest.mark.svm_schedules(bugs=['SVM-B'])\nasync def test_it(world): pass\n", "unknown bug"),
        ("def test_it(world): pass\n", "for tests marked svm_schedules"),
    ],
)
def test_misuse_is_said(pytester: pytest.Pytester, text: str, words: str) -> None:
    result = session(pytester, HEAD + text)
    assert result.ret != 0
    assert words in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(("mode", "marked"), [("false", ""), ("true", ""), ("false", "pytestmark = pytest.mark.trio")])
def test_it_works_beside_pytest_trio(pytester: pytest.Pytester, mode: str, marked: str) -> None:
    pytester.makeini(f"[pytest]\ntrio_mode = {mode}\n")
    text = f"{HELD}\n{marked}" + """
import trio

@pytest.mark.trio
async def test_of_trio():
    await trio.lowlevel.checkpoint()
"""
    result = session(pytester, text, "-s")
    result.assert_outcomes(passed=2)
    assert result.stdout.str().count("one run") == 6


def test_it_works_with_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=RACY + HELD.removeprefix(HEAD))
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-n", "1", "--svm-seed=1")
    result.assert_outcomes(failed=1, passed=1)
    line = replay_line(result)
    assert line == replay_line(session(pytester, RACY + HELD.removeprefix(HEAD), "--svm-seed=1"))


def test_the_package_announces_it() -> None:
    """An installed package's plugin is loaded without being asked for, once."""
    with open(ROOT / "pyproject.toml", "rb") as stream:
        project = tomllib.load(stream)["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_loading_it_does_not_load_the_model(pytester: pytest.Pytester) -> None:
    code = f"import sys, {PLUGIN}; print(sorted(name for name in sys.modules if name.startswith('svm_actors.')))"
    result = pytester.run("python", "-c", code)
    result.stdout.fnmatch_lines([f"['svm_actors.testing', '{PLUGIN}']"])
