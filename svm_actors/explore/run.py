"""One run of one scenario, and its strict replay.

The scenario is the task ``main``: bugs are planted, the world is built, the oracles
attached, the scenario awaited, the world closed.  A failure of any of these is a result, not an
exception: a campaign of a thousand runs is a loop.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Literal

import attrs
import trio

from svm_actors import __version__
from svm_actors.bugs import BUGS
from svm_actors.engine.backend import DirectBackend, TrioBackend
from svm_actors.engine.chooser import Chooser
from svm_actors.engine.engine import Engine
from svm_actors.engine.errors import EngineError
from svm_actors.explore.coverage import Coverage, Features
from svm_actors.explore.determinism import TraceDigest, trace_digest
from svm_actors.explore.failure import Failure, describe
from svm_actors.explore.labels import Label, labels_of
from svm_actors.explore.liveness.judge import judge
from svm_actors.explore.liveness.lasso import Continuation, Hunt
from svm_actors.explore.settings import STEP_BUDGET, Settings, check_bugs, check_strategy
from svm_actors.explore.strategies import Profile, Replay, make
from svm_actors.explore.strategies.guided import Recorder
from svm_actors.explore.strategies.profile import learn
from svm_actors.explore.subject import Scenario, Subject, subject_at, subject_of
from svm_actors.explore.token import Token, TokenError, decode, encode
from svm_actors.oracle import attach
from svm_actors.world import Config, World

Backend = Literal["trio", "direct"]
BACKENDS: Final[tuple[Backend, ...]] = ("trio", "direct")
PROFILE_STEPS: Final = 100_000
"""Ops after which a profiling run is given up."""

JUDGE_STEPS: Final = 100_000
"""Ops a judge's run may take: more than its prefix and its fair steps come to."""


class TokenMismatch(ValueError):
    """A well-formed token of another version, scenario or machine; one line that names both sides."""


@attrs.frozen
class Run:
    """One finished run."""

    subject: Subject
    """What ran."""
    settings: Settings
    """How its choices were made."""
    seed: str
    """Seed of the strategy, as text."""
    bugs: tuple[str, ...]
    """Deviations that were active."""
    backend: Backend
    """Which back end moved control."""
    failure: Failure | None
    """What went wrong; None when everything held."""
    steps: int
    """Ops announced."""
    virtual_time: int
    """Virtual nanoseconds that passed."""
    counters: dict[str, int]
    """Window events and statistics by name."""
    tape: tuple[int, ...] = attrs.field(repr=False)
    """The choices made."""
    arity: tuple[int, ...] = attrs.field(repr=False)
    """How many alternatives each choice had."""
    trace: tuple[str, ...] | None = attrs.field(repr=False)
    """Every step as a line, when recorded."""
    trace_digest: str
    """Hex digest of the trace; empty when not taken."""
    elapsed: float
    """Wall-clock seconds, outside the model."""
    features: Features = attrs.field(default=(), repr=False)
    """What it exercised (:mod:`svm_actors.explore.coverage`), sorted; empty unless asked for."""

    labels: tuple[Label, ...] = attrs.field(default=(), repr=False)
    """What each choice was between; none unless asked for."""

    @property
    def ok(self) -> bool:
        """True when every property held."""
        return self.failure is None

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.settings.strategy

    @property
    def token(self) -> str:
        """The run as text: its strict replay."""
        return encode(
            Token(
                package=__version__,
                target=self.subject.name,
                scenario=self.subject.digest,
                config=self.subject.config_digest,
                strategy=str(self.settings),
                seed=self.seed,
                bugs=self.bugs,
                choices=self.tape,
                arities=self.arity,
                trace=self.trace_digest,
                labels=self.labels,
            )
        )


def run(
    scenario: Scenario | Subject,
    *,
    seed: int | str = 0,
    strategy: str = "fifo",
    bugs: Sequence[str] = (),
    config: Config | None = None,
    backend: Backend = "trio",
    record: bool = False,
    race_timers: bool = False,
    step_budget: int = STEP_BUDGET,
    chooser: Chooser | None = None,
    name: str | None = None,
    digest: bool = True,
    coverage: bool = False,
) -> Run:
    """Run a scenario once; never raises for a failed property, see :attr:`Run.failure`.

    ``record`` keeps the whole trace; ``chooser`` makes the choices instead of the named strategy;
    ``name`` is what a token calls the scenario; without ``digest`` the trace is not digested;
    with ``coverage`` the run has :attr:`Run.features`.
    ValueError for an unknown strategy, bug or back end, TypeError for what is not a scenario.
    """
    subject = subject_of(scenario, config, name)
    settings = Settings(chooser.name if chooser is not None else strategy, race_timers, step_budget)
    if chooser is None:
        check_strategy(strategy)
        # Members of a family that differ in nothing but their number are learned once.
        family = attrs.evolve(subject, name="profile")
        chooser = make(strategy, seed, partial(learned, family, settings, tuple(bugs)), step_budget)
    return execute(
        subject, settings, chooser, str(seed), tuple(bugs), backend, record=record, digest=digest, coverage=coverage
    )


def replay(
    scenario: Scenario | Subject,
    token: str | Token,
    *,
    config: Config | None = None,
    backend: Backend = "trio",
    record: bool = False,
    labels: bool = False,
) -> Run:
    """Make the choices of a token again, strictly; with ``labels`` note what each was between.

    TokenError for malformed text, TokenMismatch when the token is of another version, scenario or
    machine.  A run in which the choices do not fit fails with oracle ``engine``, rule ``ReplayMismatch``.
    """
    known = decode(token) if isinstance(token, str) else token
    subject = subject_at(known.target, scenario, config)
    check_token(known, subject)
    settings = token_settings(known)
    chooser: Replay | Recorder = Replay(known.choices, known.arities)
    if labels:
        chooser = Recorder(chooser, texts=True)
    found = execute(subject, settings, chooser, known.seed, known.bugs, backend, record=record, digest=True)
    return attrs.evolve(found, labels=labels_of(chooser.decisions)) if isinstance(chooser, Recorder) else found


def token_settings(token: Token) -> Settings:
    """The settings a token carries; TokenError for others than this version knows."""
    try:
        return Settings.parse(token.strategy)
    except ValueError as error:
        raise TokenError(str(error)) from None


def check_token(token: Token, subject: Subject) -> None:
    """Raise TokenMismatch unless the token was made by this version from this very subject."""
    for difference in differences(token, subject):
        raise TokenMismatch(difference)
    check_bugs(token.bugs)


def differences(token: Token, subject: Subject) -> list[str]:
    """In what a token's version, scenario and machine are not those at hand; one line each."""
    sides = [
        ("svm-actors", token.package, __version__),
        (f"scenario {token.target}", token.scenario, subject.digest),
        ("machine configuration", token.config, subject.config_digest),
    ]
    return [
        f"the token was made with {what} {recorded}, but here it is {here}"
        for what, recorded, here in sides
        if recorded != here
    ]


# -- the machinery --------------------------------------------------------------------


def execute(
    subject: Subject,
    settings: Settings,
    chooser: Chooser,
    seed: str,
    bugs: tuple[str, ...],
    backend: Backend,
    *,
    record: bool,
    digest: bool,
    coverage: bool = False,
    judging: bool = True,
) -> Run:
    """The run with everything given; without ``judging`` a spent step budget stays one, livelock or not."""
    check_bugs(bugs)
    if backend not in BACKENDS:
        raise ValueError(f"unknown back end {backend!r}; known: {', '.join(BACKENDS)}")
    home = DirectBackend() if backend == "direct" else TrioBackend()
    engine = Engine(home, chooser, step_budget=settings.step_budget, record=record, race_timers=settings.race_timers)
    if digest and not record:
        engine.timeline = TraceDigest()
    watch = getattr(chooser, "watch", None)
    if watch is not None:  # a chooser that looks at more than the candidates: a search, a hunt for cycles
        watch(engine)

    watcher = Coverage() if coverage else None

    async def body() -> None:
        world = build_world(engine, subject.config, bugs)
        if watcher is not None:
            watcher.watch(engine, world)
        await _scenario(subject, world)

    begin = time.perf_counter()
    error = _outcome(home, body)
    maker = chooser.inner if isinstance(chooser, Recorder) else chooser
    if error is None and isinstance(maker, Replay):
        error = _outcome_of(maker.check_finished)
    features = () if watcher is None else watcher.features(engine)
    elapsed = time.perf_counter() - begin
    result = _result(subject, settings, seed, bugs, backend, engine, error, elapsed, features)
    return judged(result) if judging and not isinstance(chooser, Hunt | Continuation) else result


def judged(result: Run) -> Run:
    """The same; a spent step budget is called a livelock where a fair run is found that comes round."""
    if result.failure is None or result.failure.kind != "budget":
        return result
    settings = attrs.evolve(result.settings, step_budget=max(result.settings.step_budget, JUDGE_STEPS))

    def once(chooser: Chooser) -> None:
        execute(result.subject, settings, chooser, "judge", result.bugs, "direct", record=False, digest=False)

    verdict = judge(once, result.tape, result.seed)
    if verdict is None:
        return result
    found = attrs.evolve(
        result.failure, kind="livelock", oracle="liveness", rule=f"livelock-{verdict.kind}", message=verdict.text
    )
    return attrs.evolve(result, failure=found)


@lru_cache(maxsize=128)
def learned(subject: Subject, settings: Settings, bugs: tuple[str, ...], random_runs: int) -> Profile:
    """What profiling runs say about a subject; made once for runs that differ in nothing but the seed."""
    brief = attrs.evolve(settings, step_budget=min(settings.step_budget, PROFILE_STEPS))

    def once(chooser: Chooser) -> Run:
        return execute(subject, brief, chooser, "profile", bugs, "direct", record=False, digest=False)

    return learn(once, random_runs)


def _result(
    subject: Subject,
    settings: Settings,
    seed: str,
    bugs: tuple[str, ...],
    backend: Backend,
    engine: Engine,
    error: BaseException | None,
    elapsed: float,
    features: Features = (),
) -> Run:
    """The run as plain data."""
    recorded = isinstance(engine.timeline, list)
    return Run(
        subject=subject,
        settings=settings,
        seed=seed,
        bugs=bugs,
        backend=backend,
        failure=None if error is None else describe(error, engine),
        steps=engine.steps,
        virtual_time=engine.now,
        counters=dict(sorted(engine.counters.items())),
        tape=tuple(engine.tape),
        arity=tuple(engine.arity),
        trace=tuple(engine.trace()) if recorded else None,
        trace_digest=trace_digest(engine) if recorded or isinstance(engine.timeline, TraceDigest) else "",
        elapsed=elapsed,
        features=features,
    )


def build_world(engine: Engine, config: Config | None, bugs: Sequence[str]) -> World:
    """A machine with its planted bugs and its oracles."""
    for bug in bugs:
        BUGS[bug].plant(engine.parts)
    world = World(engine, config)
    attach(world)
    return world


async def _scenario(subject: Subject, world: World) -> None:
    work: Any = subject.scenario(world)
    if not inspect.isawaitable(work):
        raise EngineError(f"{subject.name} is not an `async def` function: it returned {type(work).__name__}")
    await work
    await world.close()


def _outcome(home: DirectBackend | TrioBackend, body: Callable[[], Coroutine[Any, Any, None]]) -> BaseException | None:
    """Run to the end; what the run ended with."""
    if isinstance(home, DirectBackend):
        return _outcome_of(lambda: home.run(body()))
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("inside a trio run use `async with svm_actors.open_world()`, or backend='direct'")
    return _outcome_of(lambda: trio.run(_hosted, home, body))


async def _hosted(home: TrioBackend, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with home:
        home.adopt_host()
        await body()


def _outcome_of(work: Callable[[], object]) -> BaseException | None:
    """What it raised; only the user's own interrupt passes through."""
    try:
        work()
    except BaseException as error:
        if _interrupted(error):
            raise
        return error
    return None


def _interrupted(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_interrupted(each) for each in error.exceptions)
    return isinstance(error, KeyboardInterrupt)
