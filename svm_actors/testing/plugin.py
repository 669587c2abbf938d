"""The pytest plugin: one test, many schedules.

A scenario becomes a test by a marker; pytest collects it as any other function::

    @pytest.mark.svm_schedules(runs=200, seed=0)
    async def test_two_writers(world):
        ...

It is run ``runs`` times, each time in a new world and under another schedule, until one fails.  The
message is that of ``svm-actors fuzz``, with a token and the line that makes the same run again.

=====================  ===========================================================================
``--svm-runs N``       so many schedules per test instead of the marker's
``--svm-seed X``       another seed: other schedules
``--svm-token TOKEN``  only the run of this token (or of the file of that name), strictly
=====================  ===========================================================================

The marker takes what :func:`svm_actors.fuzz` takes: ``runs``, ``strategy``, ``seed``, ``bugs``,
``race_timers``, ``step_budget``, and ``config``, the machine.  Other fixtures and parameters are made once
per test and shared by its runs.  Worlds run on the direct back end, so tests marked so need no event loop
and stand beside those of pytest-trio, also in its trio mode.

This module is imported at the start of every pytest session in which the package is installed: what is
heavy is imported when a marked test runs.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from svm_actors.testing.schedules import Schedules

MARKER: Final = "svm_schedules"
ARGUMENT: Final = "world"
_TEST: Final = pytest.StashKey[Any]()
"""The coroutine function of a marked test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the table above."""
    group = parser.getgroup("svm-actors", "schedules of tests marked svm_schedules")
    group.addoption("--svm-runs", type=_count, metavar="N", help="schedules per test, instead of the marker's")
    group.addoption("--svm-seed", metavar="X", help="seed of the schedules, any text, instead of the marker's")
    group.addoption("--svm-token", metavar="TOKEN", help="make only the run of this token, or of the token in a file")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"expected at least 1, got {number}")
    return number


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(runs=200, strategy='portfolio', seed=0, bugs=(), config=None, race_timers=False, step_budget=...): "
        "run this `async def test(world)` under many schedules",
    )


@pytest.fixture
def world(request: pytest.FixtureRequest) -> None:
    """The world of a test marked svm_schedules: a new one in every run, so this stands for it only."""
    if request.node.get_closest_marker(MARKER) is None:
        raise pytest.UsageError(f"{request.node.nodeid}: the fixture `world` is for tests marked {MARKER}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the functions of marked tests: a plugin with an event loop would put its own in their place."""
    for item in items:
        if item.get_closest_marker(MARKER) is not None and isinstance(item, pytest.Function):
            _check(item)
            item.stash[_TEST] = item.obj


def _check(item: pytest.Function) -> None:
    if not inspect.iscoroutinefunction(item.obj) or ARGUMENT not in inspect.signature(item.obj).parameters:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} expects `async def test({ARGUMENT}, ...)`")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test under its schedules; leave the others to whoever runs them."""
    mark = pyfuncitem.get_closest_marker(MARKER)
    if mark is None:
        return None
    if mark.args:
        raise pytest.UsageError(f"{pyfuncitem.nodeid}: {MARKER} takes keyword arguments only")
    schedules = _schedules(pyfuncitem, dict(mark.kwargs))
    token = pyfuncitem.config.getoption("--svm-token")
    if token is None:
        schedules.run_all()
    else:
        schedules.run_token(token)
    return True


def _schedules(item: pytest.Function, options: dict[str, Any]) -> Schedules:
    """The marker's arguments, overruled by the command line's."""
    from svm_actors.testing.schedules import Schedules

    for name in ("runs", "seed"):
        given = item.config.getoption(f"--svm-{name}")
        if given is not None:
            options[name] = given
    test = item.stash[_TEST]
    names = inspect.signature(test).parameters
    arguments = {name: value for name, value in item.funcargs.items() if name in names and name != ARGUMENT}
    try:
        return Schedules(item.nodeid, test, arguments, **options)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER}: {error}") from None
