"""A test that stands for a case runs it under as many schedules as its row of the verdict table says."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from cases import RAN


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Compare the claim of the cases with what the test has run."""
    RAN.clear()
    result = yield
    claimed = max((row.schedules for row in getattr(getattr(item, "function", None), "cases", ())), default=0)
    assert max(RAN, default=0) >= claimed, f"{claimed} random schedules are claimed, {RAN} were run"
    return result
