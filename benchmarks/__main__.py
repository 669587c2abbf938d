"""``python -m benchmarks [MODULE ...]``: run benchmark modules; exit 1 when a budget is missed.

``python -m benchmarks MODULE --option ...`` hands the options to a module that has a command of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Result


def names() -> list[str]:
    """The benchmark modules of this package, in alphabetical order."""
    found = (info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if not name.startswith("_"))


def main(arguments: Sequence[str] = ()) -> int:
    """Print every result; 0 when all budgets are held, 1 when not, 2 for an unknown module."""
    known = names()
    if len(arguments) > 1 and arguments[0] in known and arguments[1].startswith("-"):
        return int(importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:]))
    unknown = [name for name in arguments if name not in known]
    if unknown:
        print(f"no benchmark named {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    held = True
    for name in arguments or known:
        results: list[Result] = importlib.import_module(f"benchmarks.{name}").run()
        for result in results:
            print(f"{name}: {result.line()}", flush=True)
            held = held and result.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
