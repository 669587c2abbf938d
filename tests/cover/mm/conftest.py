"""Schedules for the core MM tests."""

import pytest


@pytest.fixture(params=["fifo", *range(1, 51)], ids=str)
def any_schedule(request: pytest.FixtureRequest) -> tuple[str, int]:
    """fifo and fifty random schedules, as (strategy, seed)."""
    return ("fifo", 0) if request.param == "fifo" else ("random", request.param)
