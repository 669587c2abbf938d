"""The README's tests are tests: pytest runs them with the plugin, and they hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PLUGIN = "svm_actors.testing.plugin"


def test_the_tests_of_the_readme_hold(pytester: pytest.Pytester) -> None:
    blocks = re.findall(r"^```python\n# (test_\w+\.py)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for name, text in blocks:
        (pytester.path / name).write_text(text, "utf-8")
    result = pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:xdist", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=sum(text.count("def test_") for _, text in blocks))
