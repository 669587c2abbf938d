"""A machine in which one chosen point fails: the n-th time a kind is asked for, after a scenario says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from svm_actors.engine.faults import KINDS, Faults
from svm_actors.explore.run import Run, run
from svm_actors.world import Config, World

PAGE = 4096


class OneFault(Faults):
    """Strikes the ``nth`` point of a kind and then never again; the tape is not asked."""

    def __init__(self, world: World, kind: str, nth: int = 1) -> None:
        assert kind in KINDS
        super().__init__(lambda _count, _label: 1, world.engine.count)
        self.allow((kind,), most=1, odds=2)
        self.waits = nth - 1

    def strike(self, kind: str) -> bool:
        """Let the first points of the kind pass."""
        if kind in self.kinds and self.waits:
            self.waits -= 1
            return False
        return super().strike(kind)


def fail_next(world: World, kind: str, nth: int = 1) -> None:
    """From now on the ``nth`` point of this kind fails."""
    world.engine.faults = OneFault(world, kind, nth)


def struck(world: World) -> bool:
    """It has."""
    return bool(world.engine.faults.struck)


def held(
    scenario: Callable[[World], Awaitable[None]], config: Config | None = None, seeds: int = 8
) -> list[Run]:
    """The runs of a few schedules, the plainest first; all oracles were there and none complained."""
    runs = []
    for seed in range(seeds):
        strategy = "random" if seed else "fifo"
        result = run(scenario, seed=seed, strategy=strategy, config=config, backend="direct", digest=False)
        assert result.failure is None, f"seed {seed}: {result.failure}"
        runs.append(result)
    return runs
