"""The catalogue of races is what the model's own text says."""

from __future__ import annotations

from pathlib import Path

from svm_actors.explore.races import LAYERS, Race, race_catalogue

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


def test_guards_and_windows_are_found(tmp_path: Path) -> None:
    for layer in LAYERS:
        (tmp_path / layer).mkdir()
    (tmp_path / "drm" / "toy.py").write_text(SOURCE)
    (tmp_path / "xe" / "more.py").write_text('def again():\n    """SVM-R97 again."""\n')
    assert race_catalogue(tmp_path) == [
        Race("PGM-R96", ["drm/toy:Guard.stale"], ["drm/toy:10"]),
        Race("SVM-R97", ["drm/toy:Guard.stale", "xe/more:again"], ["drm/toy:7"]),
        Race("VMB-R95", ["drm/toy:late"], []),
    ]


def test_the_model_has_guards_for_its_central_races() -> None:
    found = {race.id: race for race in race_catalogue()}
    assert {"SVM-R02", "SVM-R51", "PGM-R02", "MM-R03"} <= set(found)
    assert found["SVM-R02"].guards
    assert found["SVM-R02"].windows
    assert list(found) == sorted(found)
