"""The benchmarks run, say what they measured, and fail when a budget is missed."""

from __future__ import annotations

import sys
import types

import pytest

import benchmarks
from benchmarks import Result, medians
from benchmarks.__main__ import main, names


def test_engine_benchmark_smoke() -> None:
    from benchmarks import engine

    results = engine.run(steps=200, repeats=1)
    assert len({result.name for result in results}) == len(results) >= 4
    assert all(result.value > 0 for result in results)
    assert {result.unit for result in results} == {"x", "us"}


def test_modules_are_discovered() -> None:
    assert "engine" in names()
    assert all(not name.startswith("_") for name in names())


@pytest.mark.parametrize(
    ("result", "held", "tail"),
    [
        (Result("n", 2.0, 2.5, "x"), True, "budget <= 2.5  ok"),
        (Result("n", 3.0, 2.5, "x"), False, "budget <= 2.5  MISSED"),
        (Result("n", 7.0, 6.0, "x", at_least=True), True, "budget >= 6  ok"),
        (Result("n", 5.0, 6.0, "x", at_least=True), False, "budget >= 6  MISSED"),
        (Result("n", 5.0, None, "us"), True, "5.000 us "),
    ],
)
def test_budgets(result: Result, held: bool, tail: str) -> None:
    assert result.held is held
    assert result.line().endswith(tail)


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (9.0, 1)])
def test_exit_code(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("benchmarks.toy")
    module.run = lambda: [Result("toy", value, 2.0, "x")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.toy", module)
    monkeypatch.setattr("benchmarks.__main__.names", lambda: ["toy"])
    assert main([]) == code
    assert capsys.readouterr().out == f"toy: {Result('toy', value, 2.0, 'x').line()}\n"


def test_unknown_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert capsys.readouterr().err.startswith("no benchmark named 'nonsense'; known: ")


def test_medians_are_taken_in_turns() -> None:
    order: list[str] = []
    values = iter([1.0, 10.0, 5.0, 20.0, 3.0, 60.0])

    def measure(name: str) -> float:
        order.append(name)
        return next(values)

    found = medians({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert found == {"a": 3.0, "b": 20.0}
    assert "".join(order) == "ababab"
    assert benchmarks.seconds(lambda: None) >= 0
