"""A world inside the user's own ``trio.run``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from svm_actors.engine.backend import TrioBackend, raise_unchanged
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.explore.run import build_world
from svm_actors.explore.settings import STEP_BUDGET, check_bugs, check_strategy
from svm_actors.explore.strategies import make
from svm_actors.world import Config, World


class open_world:
    """``async with svm_actors.open_world(config) as world:`` inside the user's own ``trio.run``.

    The calling trio task becomes the run's ``main``.  Leaving the block closes the world, checks
    what is left, and raises the run's failure if there is one.  One world, one block.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        seed: int | str = 0,
        strategy: str = "fifo",
        bugs: Sequence[str] = (),
        race_timers: bool = False,
        step_budget: int = STEP_BUDGET,
        chooser: Chooser | None = None,
        record: bool = False,
    ) -> None:
        check_bugs(bugs)
        if chooser is None:
            check_strategy(strategy)
            chooser = make(strategy, seed)
        self._config = config
        self._bugs = tuple(bugs)
        self._backend = TrioBackend()
        self.engine = Engine(
            self._backend, chooser, step_budget=step_budget, record=record, race_timers=race_timers
        )
        self._world: World | None = None

    async def __aenter__(self) -> World:
        await self._backend.__aenter__()
        try:
            self._backend.adopt_host()
            self._world = build_world(self.engine, self._config, self._bugs)
        except BaseException as error:
            if not await self._backend.__aexit__(type(error), error, error.__traceback__):
                raise
        assert self._world is not None
        return self._world

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        found = error
        if error is None and self._world is not None:
            try:
                await self._world.close()
            except BaseException as late:
                found = late
        handled = await self._backend.__aexit__(None if found is None else type(found), found, None)
        if found is not None and found is not error and not handled:
            raise_unchanged(found)
        return handled
