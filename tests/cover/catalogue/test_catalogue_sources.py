"""The catalogue of races is what the model's own text says."""

from __future__ import annotations

from pathlib import Path

from svm_actors.catalogue import catalogue
from svm_actors.catalogue.sources import CHECKERS, MODEL, Cited, cited

SOURCE = '''\
"""About SVM-R98 in general: a module says nothing about who guards."""


class Guard:
    def stale(self):
        """Resolves SVM-R97 and PGM-R96."""
        self.engine.count("SVM-R97")

    async def other(self):
        self.engine.count("PGM-R96" if self else "gpu.fault")


def late():
    """A race of VMB-R95; not XYZ-R01."""
    "a".count("b")
'''
ORACLE = '''\
BROKEN = "RULE-18"


class Oracle:
    """Watches INV-01."""

    def seen(self):
        fail("INV-02", "text")
'''


def toy(root: Path) -> Path:
    for layer in ("engine", *MODEL, *CHECKERS):
        (root / layer).mkdir()
    (root / "drm" / "toy.py").write_text(SOURCE)
    (root / "xe" / "more.py").write_text('def again():\n    """SVM-R97 again."""\n')
    (root / "oracle" / "one.py").write_text(ORACLE)
    (root / "engine" / "locks.py").write_text('def held():\n    """Of it."""\n    raise Broken("INV-24", "INV-2")\n')
    return root


def test_guards_windows_and_checks_are_found(tmp_path: Path) -> None:
    root = toy(tmp_path)
    stale = Cited("drm/toy.py", 5, "Guard.stale")
    assert cited("guards", root) == {
        "PGM-R96": [stale],
        "SVM-R97": [stale, Cited("xe/more.py", 1, "again")],
        "VMB-R95": [Cited("drm/toy.py", 13, "late")],
    }
    assert cited("windows", root) == {
        "SVM-R97": [Cited("drm/toy.py", 7, "SVM-R97")],
        "PGM-R96": [Cited("drm/toy.py", 10, "PGM-R96")],
    }
    assert cited("checks", root) == {
        "INV-24": [Cited("engine/locks.py", 1, "held")],
        "RULE-18": [Cited("oracle/one.py", 1, "BROKEN")],
        "INV-01": [Cited("oracle/one.py", 4, "Oracle")],
        "INV-02": [Cited("oracle/one.py", 7, "Oracle.seen")],
    }
    assert str(stale) == "drm/toy:Guard.stale"
    assert cited("guards", root)["PGM-R96"][0].text.startswith("Resolves")


def test_the_model_has_guards_for_its_central_races() -> None:
    found = {name: entry for name, entry in catalogue().items() if entry.kind == "race"}
    assert {"SVM-R02", "SVM-R51", "PGM-R02", "MM-R03"} <= set(found)
    assert found["SVM-R02"].modelled
    assert list(found) == sorted(found)
