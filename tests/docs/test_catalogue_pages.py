"""The pages of the catalogue are what the generator makes of the sources and of what was measured.

`python -m benchmarks catalogue --none` writes them anew.
"""

from __future__ import annotations

import zlib

import pytest

from benchmarks.catalogue import PAGES, pages, read_measured
from svm_actors.bugs import BUGS
from svm_actors.catalogue import catalogue
from svm_actors.explore.best_effort import replay_best_effort
from svm_actors.explore.targets import subject_named
from svm_actors.explore.token import decode

MEASURED = read_measured()
SAMPLE = sorted(MEASURED, key=lambda bug: zlib.crc32(bug.encode()))[:12]


def test_every_page_is_up_to_date() -> None:
    texts = dict(pages(MEASURED))
    assert sorted(path.name for path in PAGES.glob("*.md")) == sorted(texts)
    stale = [name for name, text in texts.items() if (PAGES / name).read_text(encoding="utf-8") != text]
    assert stale == []


def test_every_id_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*-*.md")} == set(catalogue())
    assert set(MEASURED) <= set(BUGS)


@pytest.mark.parametrize("bug", SAMPLE)
def test_a_shrunk_run_still_fails(bug: str) -> None:
    """Of a sample: the token of the page, replayed as far as the model is still the same, is noticed."""
    token = MEASURED[bug].token
    run = replay_best_effort(subject_named(decode(token).target), token, backend="direct").run
    assert run.failure is not None, f"make it anew: python -m benchmarks shrinking --bugs {bug}"
    assert f"{run.failure.oracle}/{run.failure.rule}" == MEASURED[bug].noticed
