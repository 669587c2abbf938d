"""Where recordings of a real kernel are: the shared data beside the repository, when it is there."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "kernel_ground_truth"


def recording(name):
    """Path of a recording; the test is skipped without it."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the recording {name} is not beside this repository")
    return path
