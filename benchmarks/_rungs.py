"""What notices mutants of the model: the rungs, and which targets and tests are nearest to a module.

Nothing here imports the package before a rung is climbed (:mod:`benchmarks._ladder`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import pytest

from benchmarks._ladder import Rung

STEPS: Final = 20_000
"""Step budget of a run: some twenty times what one takes.  A run that spends it is noticed."""
NEAR: Final = 60
"""Runs of the nearest targets."""
WHOLE: Final = 500
"""Runs of the built-in mix."""

MEMORY: Final = ("random", "random-small", "random-tight", "random-wide", "strace-demo", "eviction", "mremap-eviction")
STORIES: Final = ("fork", "mremap", "fork-eviction", "fork-mremap", "fork-swap", "swap", "mprotect", "wide", "two-vms")
RACES: Final = ("unmap", "dontneed", "storm", "cpu-write", "close", "atomics")
ALONE: Final = (*MEMORY, *STORIES, *RACES)
"""Targets whose VMs do nothing but mirror."""
FAULT: Final = ("fault-bind", "svm-and-bind", "random-tight", "close")
"""Targets whose VMs in fault mode hold objects and user memory as well."""

_SVM: Final = ("bind", "fault", "pagefault", "invalidate", "close", "suspected", "write_bit")
XE_SVM: Final = tuple(f"tests/cover/xe/test_svm_{name}.py" for name in _SVM)
XE_FAULT: Final = ("tests/cover/xe/test_fault_vm.py", "tests/cover/xe/test_fault_vm_races.py")
GPUSVM: Final = tuple(
    f"tests/cover/drm/test_gpusvm_{name}.py" for name in ("callback", "commit", "pages", "ranges", "scan")
)
PAGEMAP: Final = tuple(
    f"tests/cover/drm/test_pagemap_{name}.py" for name in ("cache", "dma", "evict", "migrate", "ram", "util", "zdd")
)
NOTIFIER: Final = tuple(
    f"tests/cover/mm/test_{name}.py"
    for name in ("notifier_events", "notifier_protocol", "plain_notifier", "races_notifier", "races_two_pass")
)
MIGRATE: Final = tuple(
    f"tests/cover/mm/test_{name}.py" for name in ("migrate_device", "entry_matrix", "entry_transitions", "races_pages")
)

WINDOWS: Final = ("tests/explore/test_windows_svm.py", "tests/explore/test_windows_mm.py")
"""Every race's window is reached: what only counts them is noticed here."""

NEAREST: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    ("drm/gpusvm", ALONE, GPUSVM),
    ("drm/pagemap", ALONE, PAGEMAP),
    ("mm/mmu_notifier", ALONE, NOTIFIER),
    ("mm/migrate_device", (*ALONE, "mirror", "mirror-threads"), MIGRATE),
    ("xe/fault_", FAULT, XE_FAULT),
    ("xe/tlb_inval", (*ALONE, "fault-bind"), ("tests/cover/xe/test_tlb_inval.py", *XE_SVM)),
    ("xe/pagefault", (*ALONE, *FAULT), ("tests/cover/xe/test_take_turns.py", *XE_SVM, *XE_FAULT)),
    ("xe/", ALONE, XE_SVM),
)
"""Begin of a module's name, targets, tests; the first that fits."""


class Noticed(Exception):
    """A run of a campaign failed."""


def kind(module: str) -> str:
    """Which line of :data:`NEAREST` is meant for a module."""
    return next(begin for begin, _, _ in NEAREST if module.startswith(begin))


def ladder(module: str) -> list[Rung]:
    """The rungs for a module, from cheap to dear."""
    _, targets, tests = next(entry for entry in NEAREST if entry[0] == kind(module))
    dotted = f"svm_actors/{module}".removesuffix(".py").replace("/", ".")
    return [
        Rung("import", 20, partial(imported, dotted)),
        Rung("near fuzz", 60, partial(fuzzed, targets, NEAR, "near")),
        Rung("witnesses", 60, partial(fuzzed, ("witnesses",), None, "witnesses")),
        Rung("tests", 120, partial(tested, tests)),
        Rung("windows", 120, partial(tested, WINDOWS)),
        Rung("whole fuzz", 120, partial(fuzzed, ("default",), WHOLE, "whole")),
    ]


def imported(dotted: str) -> str:
    """The module, and all that uses it."""
    importlib.import_module(dotted)
    importlib.import_module("svm_actors.workload.builtin")
    importlib.import_module("svm_actors.explore.campaign")
    return ""


def fuzzed(targets: tuple[str, ...], executions: int | None, seed: str) -> str:
    """The first failure of a campaign.  Without a number of runs each target gets one."""
    from svm_actors.explore.campaign import Finding, fuzz
    from svm_actors.explore.targets import resolve

    def tell(finding: Finding) -> None:
        raise Noticed(finding.failure.headline)

    count = executions or sum(len(resolve(target)) for target in targets)
    try:
        with unjudged():
            fuzz(targets, executions=count, seed=seed, step_budget=STEPS, on_failure=tell)
    except Noticed as found:
        return str(found)
    return ""


@contextmanager
def unjudged() -> Iterator[None]:
    """A spent budget is noticed whatever it is called, and to judge whether it is a livelock takes much longer.

    Only for campaigns: there are tests of the judgement.
    """
    from svm_actors.explore import run

    judged = run.judged
    run.judged = lambda result: result
    try:
        yield
    finally:
        run.judged = judged


class FirstFailure:
    """A plugin of pytest that remembers what failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of set-up, call or tear-down."""
        if report.failed:
            self.name = self.name or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported."""
        if report.failed:
            self.name = self.name or report.nodeid


ALREADY_IMPORTED: Final = "ignore::pytest.PytestAssertRewriteWarning"
"""An earlier rung has imported the package, of which pytest has a plugin where it is installed."""


def tested(paths: tuple[str, ...]) -> str:
    """The first test that fails.  Examples that Hypothesis draws are always the same ones."""
    first = FirstFailure()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=ci", "-W", ALREADY_IMPORTED]
    code = pytest.main([*options, *paths], plugins=[first])
    return "" if code == pytest.ExitCode.OK else first.name or f"pytest ends with {code!r}"
