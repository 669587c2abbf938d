"""Trying again with everybody else kept out: when, how often, and who is kept out."""

from __future__ import annotations

import pytest
from bo_bench import Machine, every, run

from svm_actors.engine.errors import EAGAIN, ENOMEM
from svm_actors.xe.validation import validating


def test_what_works_is_done_once_beside_others() -> None:
    """Two at the same time: the lock is held for read."""

    async def body(machine: Machine) -> None:
        vram = machine.xe[0].vram

        async def inner() -> int:
            return len(vram.validation.holders())

        async def other() -> None:
            assert await validating(vram, inner) == 2

        async def outer() -> str:
            await machine.engine.join(machine.engine.spawn(other(), "other"))
            return "done"

        assert await validating(vram, outer) == "done"
        assert not vram.validation.holders()

    assert not run(body).engine.counters["vram.exclusive"]


@pytest.mark.parametrize("error", [ENOMEM, EAGAIN])
def test_an_error_that_is_not_about_vram_passes_through(error: type[Exception]) -> None:
    async def body(machine: Machine) -> None:
        vram, tries = machine.xe[0].vram, []

        async def attempt() -> None:
            tries.append(1)
            raise error

        with pytest.raises(error):
            await validating(vram, attempt)
        assert (len(tries), vram.validation.holders()) == (1, [])

    run(body)


def test_the_second_attempt_is_alone_and_the_last() -> None:
    async def body(machine: Machine) -> None:
        vram = machine.xe[0].vram
        inside: list[str] = []

        async def refused(name: str) -> None:
            async def attempt() -> None:
                alone = vram.validation.held_for_write()
                inside.append(name)
                for _ in range(3):
                    await machine.engine.step("local")
                    assert not alone or inside == [name]
                inside.remove(name)
                vram.refusals += 1
                raise ENOMEM

            with pytest.raises(ENOMEM):
                await validating(vram, attempt)

        async with machine.engine.nursery() as nursery:
            for number in range(3):
                nursery.start_soon(refused, f"user{number}")
        assert vram.refusals == 6

    for machine in every(body, 30):
        assert machine.engine.counters["vram.exclusive"] == 3
