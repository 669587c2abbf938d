"""States: equal where a run can go on the same way, different where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from explore_toys import held

from svm_actors.engine.engine import Engine
from svm_actors.engine.task import Task
from svm_actors.explore.run import run
from svm_actors.explore.snapshot import state_of
from svm_actors.explore.strategies import RandomWalk
from svm_actors.world import World

PAGE = 4096
SEEN: list[bytes] = []
"""Not a variable of the scenario: those are part of its state."""


class Watching(RandomWalk):
    """A random walk that takes the state now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.states: list[bytes] = []
        self._engine: Engine | None = None
        self._step = 0

    def watch(self, engine: Engine) -> None:
        self._engine = engine

    def ran(self, task: Task) -> None:
        assert self._engine is not None
        self._step += 1
        if self._step % 12 == 0:
            self.states.append(state_of(self._engine))


def states(scenario: Any, seed: int) -> list[bytes]:
    chooser = Watching(seed)
    run(scenario, chooser=chooser, backend="direct", digest=False)
    return chooser.states


def test_the_same_run_goes_through_the_same_states_and_no_state_twice() -> None:
    one, again = states(held, 1), states(held, 1)
    assert one == again
    assert len(set(one)) == len(one) > 20


def test_states_are_the_same_in_a_process_with_another_hash_seed() -> None:
    code = (
        "from test_snapshot import *\n"
        "from hashlib import blake2b\n"
        "print(blake2b(b''.join(states(held, 2))).hexdigest())"
    )
    here = os.path.dirname(__file__)
    answers = set()
    for seed in ("1", "2"):
        path = os.pathsep.join([here, *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1


def test_a_write_that_is_undone_leads_back() -> None:
    """Names of pages and times of day do not count; contents and positions do."""
    SEEN.clear()

    async def scenario(world: World) -> None:
        process = world.process()
        addr = await process.mmap(PAGE)
        for data in (b"a", b"b", b"a", b"b"):
            await process.write(addr, data)
            await world.sleep(1000)
            SEEN.append(state_of(world.engine, oracles=False))

    run(scenario, backend="direct")
    first, second, third, fourth = SEEN
    assert first != second  # the content, and the variable that holds it
    assert (first, second) == (third, fourth)
