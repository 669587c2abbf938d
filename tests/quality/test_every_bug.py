"""Every planted bug is found by the default portfolio in its story, and what notices it is what was said.

This is the sample that each commit pays for; `svm-actors bugs --check` looks longer and in the whole mix.
"""

from __future__ import annotations

import ast
from functools import cache

import pytest

from svm_actors.bugs import BUGS, Bug
from svm_actors.explore.failure import PACKAGE
from svm_actors.explore.hunt import noticed_as_expected
from svm_actors.explore.run import Run, run
from svm_actors.explore.targets import subject_named

BUDGET = 300
"""Schedules within which a bug must be found."""
CLEAN = 25
"""Schedules in which a story must hold when nothing is planted."""
LAYERS = ("dma_buf", "mm", "gpu", "drm", "xe", "mirror")


def once(story: str, number: int, bugs: tuple[str, ...] = ()) -> Run:
    """One schedule of the portfolio."""
    return run(
        subject_named(f"{story}@0"),
        seed=f"every/{number}",
        strategy="portfolio",
        bugs=bugs,
        backend="direct",
        step_budget=50_000,
        digest=False,
    )


@cache
def docstrings() -> dict[str, str]:
    """``Class.method`` and ``module.function`` of the model, with what they say of themselves."""
    found: dict[str, str] = {}
    for layer in LAYERS:
        for path in sorted((PACKAGE / layer).glob("*.py")):
            for node in ast.parse(path.read_bytes()).body:
                owner, inner = (node.name, node.body) if isinstance(node, ast.ClassDef) else (path.stem, [node])
                for one in inner:
                    if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                        found[f"{owner}.{one.name}"] = ast.get_docstring(one) or ""
    return found


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.id)
def test_it_is_found_in_its_story_by_what_it_names(bug: Bug) -> None:
    for number in range(BUDGET):
        failure = once(bug.story, number, (bug.id,)).failure
        if failure is not None and failure.kind != "budget":
            assert noticed_as_expected(bug.id, failure), (number, str(failure))
            return
    pytest.fail(f"{bug.id} was not found in {BUDGET} schedules of {bug.story}")


@pytest.mark.parametrize("story", sorted({bug.story for bug in BUGS.values()}))
def test_its_story_holds_without_it(story: str) -> None:
    """A schedule that is unfair to a retry loop may spend its budget: no verdict, and no failure."""
    for number in range(CLEAN):
        failure = once(story, number).failure
        assert failure is None or failure.kind == "budget", (number, str(failure))


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda bug: bug.id)
def test_the_guard_it_removes_exists_and_cites_it(bug: Bug) -> None:
    """The guard is a method or a function of the model that names the bug, or a race whose window it opens."""
    assert bug.removes in docstrings()
    text = docstrings()[bug.removes]
    assert any(name in text for name in (bug.id, *bug.races)), text
    assert bug.title[0].islower() or not bug.title[1].islower()
    assert not bug.title.endswith(".")
