"""Each planted bug of VM_BIND, exec and fences is found in a story within a stated number of schedules.

A hunt is one of the built-in stories and random schedules from seed 1 on.  Measured over 60 schedules each, the
rates were: VMB-R01 one in three, VMB-R17 one in five, VMB-B25 one in twelve, VMB-R21 one in three, FEN-B20 and
VMB-R04 two in three, VMB-B14 three in four, the others nearly always.  The budgets are several times that.
"""

from __future__ import annotations

import attrs
import pytest

from svm_actors.bugs import BUGS, replace_guard
from svm_actors.drm.gpuvm import DrmGpuvm
from svm_actors.drm.sched_entity import SchedEntity
from svm_actors.drm.sched_timeout import SchedTimeout
from svm_actors.explore.run import Run, run
from svm_actors.workload.bind_run import bind_program_scenario
from svm_actors.workload.bind_stories import BIND_STORIES
from svm_actors.workload.builtin import TIGHT
from svm_actors.world import World
from svm_actors.xe.bind_ops import BindOps
from svm_actors.xe.exec import Exec
from svm_actors.xe.gem import XeBo
from svm_actors.xe.queue_reset import GtReset
from svm_actors.xe.range_fence import RangeFenceTree
from svm_actors.xe.rebind_worker import RebindWorker
from svm_actors.xe.user_fence import UserFence
from svm_actors.xe.userptr import Userptr


@attrs.frozen
class Hunt:
    """How one bug is looked for."""

    story: str
    """What runs."""
    budget: int
    """Schedules within which it must be found."""
    signs: frozenset[str]
    """What may be noticed first, as ``oracle/rule``."""


def hunt(story: str, budget: int, *signs: str) -> Hunt:
    return Hunt(story, budget, frozenset(signs))


HUNTS = {
    "VMB-R01": hunt("bind-userptr", 30, "lifetime/RULE-18", "lifetime/INV-05"),
    "VMB-R04": hunt("bind-shared", 15, "lifetime/INV-05", "binds/INV-VMB-13"),
    "VMB-R05": hunt("bind-shared", 5, "submission/INV-VMB-06", "lifetime/INV-05"),
    "VMB-R10": hunt("bind-queues", 5, "binds/INV-VMB-13", "binds/INV-VMB-03"),
    "VMB-R17": hunt("bind-remap", 50, "lifetime/RULE-18", "lifetime/INV-05"),
    "VMB-R20": hunt("bind-lr-userptr", 10, "lifetime/RULE-18", "lifetime/INV-05"),
    "VMB-R21": hunt("bind-lr-eviction", 30, "engine/deadlock"),
    "VMB-B17": hunt("bind-refused", 2, "binds/INV-VMB-08"),
    "VMB-B25": hunt("bind-user-fence", 80, "binds/VMB-R28"),
    "VMB-B14": hunt("bind-shared", 5, "gpuvm/VMB-R06"),
    "FEN-B09": hunt("bind-queues", 2, "engine/deadlock"),
    "FEN-B19": hunt("bind-reset", 5, "engine/deadlock"),
    "FEN-B20": hunt("bind-reset", 15, "binds/INV-VMB-13"),
}

GUARDS = {
    kind.__name__: kind
    for kind in (
        *(BindOps, Exec, GtReset, RangeFenceTree, RebindWorker, UserFence, Userptr, XeBo),
        *(DrmGpuvm, SchedEntity, SchedTimeout),
    )
}


def once(story: str, seed: int, bugs: tuple[str, ...] = ()) -> Run:
    """One random schedule."""
    return run(
        bind_program_scenario(BIND_STORIES[story].program),
        seed=seed,
        strategy="random",
        bugs=bugs,
        config=TIGHT,
        backend="direct",
        step_budget=100_000,
        digest=False,
    )


def test_every_bug_is_hunted() -> None:
    assert sorted(HUNTS) == sorted(bug for bug in BUGS if bug.startswith(("VMB-", "FEN-")))
    assert len(GUARDS) >= 6, "they come from different parts"


@pytest.mark.parametrize("bug", sorted(HUNTS))
def test_found_within_its_budget(bug: str) -> None:
    hunted = HUNTS[bug]
    for seed in range(1, hunted.budget + 1):
        failure = once(hunted.story, seed, (bug,)).failure
        if failure is not None:
            assert f"{failure.oracle}/{failure.rule}" in hunted.signs, failure
            named = BUGS[bug].oracles
            assert failure.oracle in named or f"{failure.oracle}/{failure.rule}" in named, failure
            return
    pytest.fail(f"{bug} was not found in {hunted.budget} schedules")


@pytest.mark.parametrize("story", sorted({hunted.story for hunted in HUNTS.values()}))
def test_without_bugs_nothing_fails(story: str) -> None:
    for seed in range(1, 16):
        failure = once(story, seed).failure
        assert failure is None, (seed, failure)


@pytest.mark.parametrize("bug", sorted(HUNTS))
def test_the_guard_it_removes_exists_and_cites_its_race(bug: str) -> None:
    """The entry names a real method, whose docstring names the bug or one of its races."""
    owner, method = BUGS[bug].removes.split(".")
    text = getattr(GUARDS[owner], method).__doc__ or ""
    assert bug in text or any(race in text for race in BUGS[bug].races)
    assert BUGS[bug].title[0].islower()
    assert not BUGS[bug].title.endswith(".")


def test_they_can_be_planted_together() -> None:
    async def scenario(world: World) -> None:
        for bug in HUNTS:
            BUGS[bug].install(world)
        driver = world.gpu().driver
        parts = driver.parts
        assert parts.of(RebindWorker).still_valid.__name__ == "no_last_look"
        assert parts.of(RebindWorker).reactivate.__name__ == "stay_asleep"
        assert parts.of(Exec).publish.__name__ == "publish_outside"
        assert parts.of(Exec).add_fence.__name__ == "fence_for_the_vm_only"
        assert parts.of(BindOps).__name__ == "ForgetsRange"
        assert parts.of(World) is World
        assert type(driver.submission.reset).__name__ == "ReplaysEverything"

    assert run(scenario, backend="direct").failure is None


def test_a_bug_in_one_world_is_not_in_the_next() -> None:
    assert once("bind-refused", 1, ("VMB-B17",)).failure is not None
    assert once("bind-refused", 1).failure is None


def test_a_guard_that_does_not_exist_cannot_be_replaced() -> None:
    async def scenario(world: World) -> None:
        world.hooks.append(replace_guard(Exec, "no_such_guard", lambda: None))
        with pytest.raises(TypeError, match="Exec has no guard no_such_guard"):
            world.gpu()

    run(scenario, backend="direct")
