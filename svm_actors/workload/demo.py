"""The recordings that come with the package, so that a first run needs no input."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parent / "data"
STRACES: Final = ("malloc_heap", "mremap_pool", "shell_pipeline", "threads_fork")
"""Names of the strace demos; ``data/README.md`` says what they do."""


def demo_strace(name: str) -> Path:
    """The log of a demo.  Raises KeyError for an unknown name."""
    if name not in STRACES:
        raise KeyError(name)
    return DATA / f"{name}.strace"
