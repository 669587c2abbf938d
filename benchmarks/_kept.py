"""Files of JSON lines in which long measurements keep what they have made, so that they may be interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def kept(path: Path) -> Iterator[dict[str, Any]]:
    """What was kept, in order; nothing where there is no file yet."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def keep(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
