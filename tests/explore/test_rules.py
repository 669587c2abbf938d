"""Every rule of the digests is checked, shown by what goes wrong without it, or has a reason why it is neither.

Most rules are shown by a planted bug that names them.  Those that no bug of the kernel's history has broken are broken
here.
"""

from __future__ import annotations

import pytest

from svm_actors.bugs import BUGS, Bug, replace_guard
from svm_actors.bugs.bug import Plant
from svm_actors.catalogue import catalogue
from svm_actors.drm.gpusvm import DrmGpusvm
from svm_actors.drm.gpusvm_range import GpusvmCtx, GpusvmRange
from svm_actors.engine.errors import EAGAIN
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import resolve
from svm_actors.xe.pt import XePt
from svm_actors.xe.svm import XeSvm
from svm_actors.xe.svm_range import XeSvmRange

BROKEN_HERE = ("RULE-10", "RULE-15", "RULE-21")
RULES = sorted(name for name, entry in catalogue().items() if entry.kind == "rule")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_checked_or_shown(rule: str) -> None:
    entry = catalogue()[rule]
    assert entry.checks or entry.bugs or entry.reason or rule in BROKEN_HERE
    assert not (entry.reason and (entry.checks or entry.bugs)), "a reason for what is there after all"


def test_every_invariant_has_an_oracle_or_a_reason() -> None:
    bare = [e.id for e in catalogue().values() if e.kind == "invariant" and not e.checks and not e.reason]
    assert bare == []


def broken(monkeypatch: pytest.MonkeyPatch, plant: Plant, story: str, runs: int) -> list[Run]:
    """The story with a deviation that is no bug of the list."""
    monkeypatch.setitem(BUGS, "TEST-B01", Bug("TEST-B01", "a rule is not kept", "nothing", (), (), story, plant))
    (target,) = resolve(story)
    subject = target.subject(0)
    return [run(subject, seed=number, strategy="random", bugs=("TEST-B01",), digest=False) for number in range(runs)]


async def without_eviction(svm: XeSvm, range_: XeSvmRange, ctx: GpusvmCtx) -> None:
    """RULE-10 broken: the walk is made with the reservation held that an eviction needs."""
    async with svm.vm.resv.lock:
        await svm.gpusvm.get_pages(range_.pages, svm.vm.mm, range_.interval, range_.start, range_.end, ctx)


def test_a_fault_that_keeps_evictions_out_inverts_the_lock_order(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = broken(monkeypatch, replace_guard(XeSvm, "get_pages", without_eviction), "two-vms", 1)
    assert found.failure is not None
    assert (found.failure.oracle, found.failure.rule) == ("lockdep", "INV-24")
    assert "resv" in found.failure.message


def by_sequence(pt: XePt, range_: XeSvmRange) -> None:
    """RULE-15 broken: a range is valid while nothing at all has happened to its notifier."""
    if range_.interval.read_retry(range_.pages.notifier_seq):
        pt.engine.count("spurious", int(pt.vm.svm.gpusvm.pages_valid(range_.pages)))
        raise EAGAIN


def test_a_sequence_instead_of_a_flag_retries_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = broken(monkeypatch, replace_guard(XePt, "precommit_range", by_sequence), "two-vms", 40)
    assert all(each.failure is None for each in runs)
    assert sum(each.counters.get("spurious", 0) for each in runs) > 0


async def put_under_the_lock(gpusvm: DrmGpusvm, range_: GpusvmRange) -> None:
    """RULE-21 broken: the last reference goes where range_free cannot take its lock."""
    async with gpusvm.notifier_lock.writing():
        range_.refs -= 1
        if not range_.refs:
            await gpusvm.ops.range_free(range_)


def test_the_last_reference_under_notifier_lock_takes_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = broken(monkeypatch, replace_guard(DrmGpusvm, "range_put", put_under_the_lock), "unmap", 1)
    assert found.failure is not None
    assert found.failure.rule == "INV-24"
    assert "notifier_lock" in found.failure.message
