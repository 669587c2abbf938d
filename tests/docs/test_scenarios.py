"""The shipped scenario scripts: every one holds under every schedule tried, on both back ends."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from svm_actors.explore.run import BACKENDS, Backend, run
from svm_actors.explore.script import read_script

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.py"))
SCHEDULES = 30

each_script = pytest.mark.parametrize("script", SCENARIOS, ids=lambda path: path.stem)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def test_all_twelve_are_here() -> None:
    assert {path.stem for path in SCENARIOS} >= {
        "first_touch",
        "ping_pong",
        "mremap_under_fire",
        "eviction_pressure",
        "fork_device_resident",
        "partial_unmap_2m",
        "pipelined_scenes",
        "opposite_locks",
        "lr_preempt",
        "job_timeout",
        "userptr_under_munmap",
        "shared_object_evicted",
    }


def test_the_readme_lists_them() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [path.stem for path in SCENARIOS if f"`{path.name}`" not in readme] == []


@each_script
@each_backend
def test_it_holds_in_the_plainest_schedule(script: Path, backend: Backend) -> None:
    result = run(read_script(script).subject(), backend=backend)
    assert result.failure is None
    assert any(result.counters.get(name) for name in ("gpu.bind", "bind.cpu", "bind.job", "exec"))


@each_script
@each_backend
def test_it_holds_in_random_schedules(script: Path, backend: Backend) -> None:
    subject = read_script(script).subject()
    traces = set()
    for seed in range(SCHEDULES):
        result = run(subject, strategy="random", seed=seed, backend=backend)
        assert result.failure is None, f"seed {seed}"
        traces.add(result.trace_digest)
    assert len(traces) > SCHEDULES // 2, "schedules that do not differ test nothing"


@each_script
def test_the_back_ends_agree(script: Path) -> None:
    subject = read_script(script).subject()
    direct, hosted = (run(subject, strategy="random", seed=11, backend=backend) for backend in ("direct", "trio"))
    assert direct.trace_digest == hosted.trace_digest


@each_script
def test_it_is_a_page_for_newcomers(script: Path) -> None:
    """It says what it shows and which races it runs into, and can be read in a minute."""
    text = script.read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert "Shows:" in docstring
    races = docstring.partition("Races:")[2]
    assert re.search(r"\b(SVM|PGM|MM|VMB|FEN)-R\d\d\b", races)
    assert len(text.splitlines()) <= 75


@pytest.mark.parametrize(
    ("stem", "windows"),
    [
        ("first_touch", ["PGM-R22", "MM-R10"]),
        ("mremap_under_fire", ["SVM-R01", "MM-R04"]),
        ("eviction_pressure", ["PGM-R04", "SVM-R51"]),
        ("fork_device_resident", ["SVM-R38"]),
        ("partial_unmap_2m", ["SVM-R52", "PGM-R09"]),
        ("pipelined_scenes", ["VMB-R10", "VMB-R14"]),
        ("job_timeout", ["exec.banned", "exec.gt_reset"]),
        ("lr_preempt", ["VMB-R20", "exec.preempted"]),
        ("opposite_locks", ["exec.retry", "VMB-R05"]),
        ("ping_pong", ["migrate.timeslice", "migrate.to_ram"]),
        ("userptr_under_munmap", ["VMB-R02", "VMB-R16", "userptr.efault"]),
        ("shared_object_evicted", ["VMB-R05", "VMB-R06", "FEN-R12"]),
    ],
)
def test_it_runs_into_what_it_promises(stem: str, windows: list[str]) -> None:
    subject = read_script(SCENARIOS[0].with_name(f"{stem}.py")).subject()
    counted: set[str] = set()
    for seed in range(60):
        result = run(subject, strategy="random", seed=seed, backend="direct", digest=False)
        counted |= {name for name, count in result.counters.items() if count}
        if counted >= set(windows):
            return
    pytest.fail(f"missing: {set(windows) - counted}")
