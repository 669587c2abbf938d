"""One test under many schedules: what the plugin does when a marked test is called."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import pytest

from svm_actors.explore.campaign import fuzz
from svm_actors.explore.determinism import digest
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import Run, TokenMismatch, replay
from svm_actors.explore.settings import STEP_BUDGET, Settings, UnknownName
from svm_actors.explore.strategies.portfolio import NAME as PORTFOLIO
from svm_actors.explore.subject import Subject
from svm_actors.explore.token import TokenError, decode, encode
from svm_actors.report.timeline import Origin, failure_text
from svm_actors.world import Config, World

RUNS: Final = 200
"""Schedules of a test that does not say."""


@attrs.frozen
class Schedules:
    """A test, and how it is run."""

    name: str
    """Its node id: what tokens call it."""
    test: Callable[..., Coroutine[Any, Any, None]]
    """The coroutine function; it gets a keyword ``world``."""
    arguments: dict[str, Any]
    """Its other arguments, the same in every run."""
    runs: int = attrs.field(default=RUNS, kw_only=True)
    """Schedules."""
    strategy: str = attrs.field(default=PORTFOLIO, kw_only=True)
    """Who makes the choices."""
    seed: int | str = attrs.field(default=0, kw_only=True)
    """Other seeds give other schedules."""
    bugs: Iterable[str] = attrs.field(default=(), kw_only=True)
    """Deviations to plant, for tests of tests."""
    config: Config | None = attrs.field(default=None, kw_only=True)
    """The machine."""
    race_timers: bool = attrs.field(default=False, kw_only=True)
    """Make the firing of a due timer one of the choices."""
    step_budget: int = attrs.field(default=STEP_BUDGET, kw_only=True)
    """Ops after which a run is given up."""

    def run_all(self) -> None:
        """Every schedule until one fails."""
        __tracebackhide__ = True
        ends: list[BaseException] = []
        try:
            campaign = fuzz(
                self._subject(ends),
                seed=self.seed,
                strategy=self.strategy,
                bugs=tuple(self.bugs),
                executions=self.runs,
                stop_at_failure=True,
                race_timers=self.race_timers,
                step_budget=self.step_budget,
            )
        except UnknownName as error:
            raise pytest.UsageError(f"{self.name}: {error}") from None
        if ends:
            raise ends[0]
        if campaign.note:
            pytest.fail(campaign.note, pytrace=False)
        if campaign.stopped_by == "interrupt":
            raise KeyboardInterrupt
        for finding in campaign.failures:
            found = finding.found
            self._fail(found.failure, f"run {found.number} of {self.runs}", found.seed, found.strategy, found.token)

    def run_token(self, text: str) -> None:
        """The run of a token, or of the token in a file of that name; other tests are skipped."""
        __tracebackhide__ = True
        ends: list[BaseException] = []
        try:
            token = decode(_content(text))
            if token.target != self.name:
                pytest.skip(f"the token is of {token.target}")
            run: Run = replay(self._subject(ends), token, backend="direct")
        except (TokenError, TokenMismatch) as error:
            raise pytest.UsageError(f"--svm-token: {error}") from None
        if ends:
            raise ends[0]
        if run.failure is not None:
            self._fail(run.failure, "the run of the token", run.seed, run.strategy, encode(token))

    def _subject(self, ends: list[BaseException]) -> Subject:
        """The test as a subject; a skip in it goes to ``ends``, because it is no failure."""

        async def scenario(world: World) -> None:
            try:
                await self.test(world=world, **self.arguments)
            except pytest.skip.Exception as end:
                ends.append(end)
                raise

        return Subject(scenario, self.name, self._digest(), self.config or Config())

    def _digest(self) -> str:
        """Of the text of the test: a token of a test that was edited is refused."""
        try:
            return digest(inspect.getsource(self.test).encode())
        except (OSError, TypeError):
            return digest(self.name.encode())

    def _fail(self, failure: Failure, which: str, seed: str, strategy: str, token: str) -> NoReturn:
        __tracebackhide__ = True
        settings = Settings(strategy, self.race_timers, self.step_budget)
        origin = Origin(f"{self.name}, {which}", seed, str(settings), tuple(self.bugs))
        # A token is lines of text; read back, one space is as good as the end of a line.
        command = f"pytest {shlex.quote(self.name)} --svm-token={shlex.quote(' '.join(token.split()))}"
        pytest.fail(failure_text(failure, origin, command), pytrace=False)


def _content(text: str) -> str:
    """The token itself; what names a file is read."""
    try:
        return Path(text).read_text("utf-8") if Path(text).is_file() else text
    except OSError:  # a token is longer than the name of a file may be
        return text
