"""Imports only go down the list of layers; the engine knows nothing above it (DESIGN section 2)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import svm_actors

PACKAGE = Path(svm_actors.__file__).parent

LAYERS = (
    "engine",
    "dma_buf",
    "mm",
    "gpu",
    "drm",
    "xe",
    "mirror",
    "world",
    "oracle",
    "bugs",
    "catalogue",
    "workload",
    "explore",
    "report",
    "cli",
    "testing",
)
"""Lowest first.  A module may import its own layer and those before it."""

SIBLINGS = frozenset({("mirror", "xe")})
"""The two drivers know nothing of each other: (importer, imported)."""

FACADE = frozenset({"__init__", "__main__"})
"""The package's own front: it may import every layer, no layer may import it."""

ABOUT = frozenset({"explore", "report", "cli"})
"""Layers that may ask the package for its version and its folder, and for nothing else of its front."""

OUTSIDE = {"click": "cli", "rich": "cli", "hypothesis": "testing", "pytest": "testing"}
"""Libraries that belong to one layer; the model must run without them."""


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    """Folder below the package, or the name of a file that lies directly in it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import, also those for type checking or in a function."""
    here = ["svm_actors", *path.relative_to(PACKAGE).with_suffix("").parts]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: -node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            found += [(node.lineno, f"{name}.{alias.name}") for alias in node.names]
    return found


def violations(importer: str, name: str) -> str | None:
    """Why ``importer`` (a layer) may not import this module; None when it may."""
    parts = name.split(".")
    if parts[0] in OUTSIDE and OUTSIDE[parts[0]] != importer and importer not in FACADE:
        return f"{parts[0]} belongs to {OUTSIDE[parts[0]]}"
    if parts[0] != "svm_actors" or importer in FACADE:
        return None
    target = parts[1] if len(parts) > 1 else ""
    if target not in LAYERS:
        if importer in ABOUT and (not target or target.startswith("__")):
            return None
        return "a layer must not import the package's front"
    if importer not in LAYERS:
        return None
    if LAYERS.index(target) > LAYERS.index(importer) or (importer, target) in SIBLINGS:
        return f"{importer} must not know {target}"
    return None


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    layer = layer_of(path)
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}: {reason}"
        for line, name in imported(path)
        if (reason := violations(layer, name))
    ]
    assert wrong == []


def test_every_folder_is_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(LAYERS)
    assert "engine" in folders


@pytest.mark.parametrize(
    ("importer", "name", "allowed"),
    [
        ("engine", "svm_actors.engine.op.Op", True),
        ("engine", "svm_actors.mm.vma.Vma", False),
        ("engine", "svm_actors.explore.token.Token", False),
        ("gpu", "svm_actors.drm.gpusvm.GpuSvm", False),
        ("gpu", "svm_actors.xe.vm.Vm", False),
        ("gpu", "svm_actors.mm.vma.Vma", True),
        ("mm", "svm_actors.gpu.tlb.Tlb", False),
        ("dma_buf", "svm_actors.mm.vma.Vma", False),
        ("drm", "svm_actors.xe.vm.Vm", False),
        ("drm", "svm_actors.gpu.tlb.Tlb", True),
        ("mirror", "svm_actors.xe.vm.Vm", False),
        ("mirror", "svm_actors.drm.gpusvm.GpuSvm", True),
        ("oracle", "svm_actors.cli.main.main", False),
        ("oracle", "svm_actors.world.World", True),
        ("world", "svm_actors.oracle.coherence.Coherence", False),
        ("explore", "svm_actors.workload.strace.parse", True),
        ("explore", "svm_actors.run", False),
        ("explore", "svm_actors", True),
        ("explore", "svm_actors.__version__", True),
        ("mm", "svm_actors.__version__", False),
        ("mm", "svm_actors", False),
        ("cli", "svm_actors.report.html.page", True),
        ("mm", "click.echo", False),
        ("cli", "click.echo", True),
        ("testing", "svm_actors.explore.campaign.fuzz", True),
        ("testing", "pytest.mark", True),
        ("cli", "svm_actors.testing.plugin", False),
        ("explore", "hypothesis.strategies", False),
        ("__init__", "svm_actors.explore.token.Token", True),
        ("mm", "collections.Counter", True),
    ],
)
def test_the_rule_itself(importer: str, name: str, allowed: bool) -> None:
    """The checker must be able to fail: examples of both kinds."""
    assert (violations(importer, name) is None) is allowed


def test_relative_and_hidden_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "gpu").mkdir()
    path = tmp_path / "gpu" / "tlb.py"
    path.write_text(
        "from ..drm import gpusvm\nfrom . import vram\nimport svm_actors.xe.vm as vm\n"
        "def late():\n    from svm_actors.cli.main import main\n"
    )
    assert imported(path) == [
        (1, "svm_actors.drm.gpusvm"),
        (2, "svm_actors.gpu.vram"),
        (3, "svm_actors.xe.vm"),
        (5, "svm_actors.cli.main.main"),
    ]
