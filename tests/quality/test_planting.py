"""How bugs are planted: any number of them, in one machine and no other, and only where there is a guard."""

from __future__ import annotations

import re

import pytest

from svm_actors.bugs import BUGS, replace_guard
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import subject_named
from svm_actors.world import Config, World
from svm_actors.xe.exec import Exec
from svm_actors.xe.pt import XePt
from svm_actors.xe.rebind_worker import RebindWorker
from svm_actors.xe.svm import XeSvm

TOGETHER = ("SVM-B37", "SVM-B41", "SVM-B50", "VMB-R01", "VMB-R05", "VMB-R20", "VMB-R21", "PGM-B36", "FEN-B20")


def once(bugs: tuple[str, ...] = ()) -> Run:
    return run(subject_named("bind-refused@0"), strategy="random", seed=1, bugs=bugs, backend="direct", digest=False)


def test_they_can_be_planted_together_and_reach_every_gpu() -> None:
    async def scenario(world: World) -> None:
        parts = world.engine.parts
        for bug in TOGETHER:
            BUGS[bug].plant(parts)
        assert parts.of(XePt).precommit_range.__name__ == "no_recheck"
        assert parts.of(XeSvm).wait_tlb_flush.__name__ == "do_not_wait"
        assert parts.of(XeSvm).submit_tlb_flush.__name__ == "no_flush"
        assert parts.of(RebindWorker).still_valid.__name__ == "no_last_look"
        assert parts.of(RebindWorker).reactivate.__name__ == "stay_asleep"
        assert parts.of(Exec).publish.__name__ == "publish_outside"
        assert parts.of(Exec).add_fence.__name__ == "fence_for_the_vm_only"
        assert parts.of(World) is World
        for device in (world.gpu(), world.gpu(1)):
            assert type(device.driver.pagemap.evict_passes).__name__ == "EvictsByAddress"
            assert type(device.driver.submission.reset).__name__ == "ReplaysEverything"

    assert run(scenario, config=Config(gpus=2), backend="direct").failure is None


def test_a_bug_in_one_world_is_not_in_the_next() -> None:
    assert once(("VMB-B17",)).failure is not None
    assert once().failure is None


def test_a_guard_that_does_not_exist_cannot_be_replaced() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(TypeError, match="XePt has no guard no_such_guard"):
            replace_guard(XePt, "no_such_guard", lambda: None)(world.engine.parts)

    run(scenario, backend="direct")


def test_a_subclass_with_a_guard_of_its_own_keeps_it() -> None:
    class Plain(XePt):
        pass

    class Own(XePt):
        def precommit_range(self, range_: object) -> None:  # type: ignore[override]
            """Not the one that is replaced."""

    async def scenario(world: World) -> None:
        parts = world.engine.parts
        BUGS["SVM-B37"].plant(parts)
        assert parts.of(Plain).precommit_range.__name__ == "no_recheck"
        assert parts.of(Own) is Own

    assert run(scenario, backend="direct").failure is None


def test_ids_are_those_of_the_digests_and_in_their_order() -> None:
    assert all(re.fullmatch(r"(SVM|PGM|MM|VMB|FEN)-[BRS]\d{2}", bug) for bug in BUGS)
    assert list(BUGS) == sorted(BUGS)
