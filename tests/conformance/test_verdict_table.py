"""docs/conformance.md lists every case of the given suites with its verdict and its test.

The page is generated from the tests: ``python tests/conformance/test_verdict_table.py`` writes it,
and the test here fails when it no longer says what the tests say.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "conformance.md"
HEAD = """# Conformance: the suites, case by case

Generated from the tests by `python tests/conformance/test_verdict_table.py`; a test compares the two.
"Tested" means that the named test runs the case under the default schedule and under random ones, in every `make test`.
"""


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
        lines += [f"\n## {suite}\n", "| case | name | verdict | test, or why not |", "|---|---|---|---|"]
        for row in cases.table(suite):
            where = f"`{row.test}`" if row.test is not None else row.reason
            lines.append(f"| {row.id} | {row.name} | {row.verdict} | {where} |")
    return "\n".join(lines) + "\n"


def test_the_page_says_what_the_tests_say():
    assert PAGE.read_text() == page(), f"run python {Path(__file__).name} to write {PAGE.name} anew"


def test_the_page_names_every_suite_that_has_tests():
    text = page()
    for suite in ("dma_fence_selftests", "drm_sched_kunit"):
        assert f"## {suite}" in text


if __name__ == "__main__":
    PAGE.write_text(page())
