"""docs/conformance.md lists every case of the given suites with its verdict and its test.

The page is generated from the tests: ``python tests/conformance/test_verdict_table.py`` writes it,
and the test here fails when it no longer says what the tests say.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "conformance.md"
HEAD = """# Conformance: the suites, case by case

Generated from the tests by `python tests/conformance/test_verdict_table.py`; a test compares the two.
"Tested" means that the named test runs the case in every `make test`: under the default schedule and under so many
random ones, which the test run itself counts. "none" is code that makes no choices: there is one way for it to run.
"""
COLUMNS = ["| case | name | verdict | schedules | test, or why not |", "|---|---|---|---|---|"]


def page() -> str:
    """The page as the test modules imply it."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    for module in sorted(HERE.glob("test_*.py")):
        if module.stem != Path(__file__).stem:
            importlib.import_module(module.stem)
    cases = importlib.import_module("cases")
    lines = [HEAD]
    for suite in sorted({suite for suite, _id in cases.RECORDED}):
        lines += [f"\n## {suite}\n", *COLUMNS]
        for row in cases.table(suite):
            where = f"`{row.test}`" if row.test is not None else row.reason
            lines.append(f"| {row.id} | {row.name} | {row.verdict} | {schedules_of(row)} | {where} |")
    return "\n".join(lines) + "\n"


def schedules_of(row: Any) -> str:
    """How often the case is run."""
    if row.test is None:
        return ""
    return f"1 + {row.schedules}" if row.schedules else "none"


def test_the_page_says_what_the_tests_say():
    assert PAGE.read_text() == page(), f"run python {Path(__file__).name} to write {PAGE.name} anew"


def test_the_page_names_every_suite_that_has_tests():
    text = page()
    for suite in ("dma_fence_selftests", "drm_sched_kunit", "hmm_selftests", "igt_vm_bind"):
        assert f"## {suite}" in text


def test_every_case_that_can_be_scheduled_has_fifty_random_schedules():
    """Only the allocator's cases have none: nothing of it is an op."""
    page()
    cases = importlib.import_module("cases")
    few = {key for key, row in cases.RECORDED.items() if row.test is not None and row.schedules < 50}
    assert few == {("drm_sched_kunit", f"B{number}") for number in range(1, 7)}


if __name__ == "__main__":
    PAGE.write_text(page())
