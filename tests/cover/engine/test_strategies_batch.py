"""The baseline: batches in a shuffled order."""

from __future__ import annotations

from collections import Counter

from engine_toys import gather, run_on

from svm_actors.engine.engine import Engine
from svm_actors.explore.strategies.batch import Batch


def order_of(seed: int, tasks: int, rounds: int) -> list[int]:
    log: list[int] = []

    async def program(engine: Engine) -> None:
        async def body(index: int) -> None:
            for _ in range(rounds):
                await engine.step("local")
                log.append(index)

        await gather(engine, *(lambda index=index: body(index) for index in range(tasks)))

    assert run_on("direct", program, Batch(seed)).error is None
    return log


def test_everybody_gets_one_turn_per_round() -> None:
    for seed in range(50):
        log = order_of(seed, 4, 5)
        assert all(sorted(log[at : at + 4]) == [0, 1, 2, 3] for at in range(0, 20, 4)), seed


def test_the_order_inside_a_batch_is_uniform() -> None:
    """600 runs of three tasks: each of the six orders is expected 100 times, standard deviation 9.1."""
    orders = Counter(tuple(order_of(seed, 3, 1)) for seed in range(600))
    assert len(orders) == 6
    assert all(abs(count - 100) < 4 * 9.13 for count in orders.values()), orders


def test_nobody_can_be_left_behind() -> None:
    """Of the 90 interleavings of same(3,2) it reaches only those in which all first ops come first: 36."""
    assert len({tuple(order_of(seed, 3, 2)) for seed in range(1500)}) == 36


def test_the_same_seed_makes_the_same_choices() -> None:
    assert order_of(5, 5, 4) == order_of(5, 5, 4) != order_of(6, 5, 4)
