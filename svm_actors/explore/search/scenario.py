"""Search of a scenario: the same runs as a campaign's, all of them instead of some."""

from __future__ import annotations

from collections.abc import Sequence

from svm_actors.engine.chooser import Chooser
from svm_actors.explore.failure import Failure
from svm_actors.explore.run import run
from svm_actors.explore.search.search import Bound, Found, Reduction, search
from svm_actors.explore.settings import STEP_BUDGET
from svm_actors.explore.subject import Scenario, Subject
from svm_actors.world import Config


def search_scenario(
    scenario: Scenario | Subject,
    reduction: Reduction = "dpor",
    *,
    bound: Bound | None = None,
    budget: int = 1000,
    bugs: Sequence[str] = (),
    config: Config | None = None,
    step_budget: int = STEP_BUDGET,
) -> Found:
    """Make every run of a scenario, at most ``budget``; ``first`` is the Failure of the first that failed.

    ValueError for an unknown bug or a bound together with a reduction.
    """

    def once(chooser: Chooser) -> Failure | None:
        return run(
            scenario,
            chooser=chooser,
            bugs=bugs,
            config=config,
            backend="direct",
            step_budget=step_budget,
            digest=False,
        ).failure

    return search(once, reduction, bound=bound, budget=budget)
