"""How the command line's tests call it: in this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner, Result

import svm_actors
from svm_actors.cli.main import cli

sys.path.insert(0, str(Path(__file__).parent.parent / "explore"))

from explore_toys import ENDLESS, HELD, LOST_UPDATE, UNSEEDED, script

__all__ = ["ENDLESS", "HELD", "LOST_UPDATE", "UNSEEDED", "Answer", "call", "call_process", "script"]

ROOT = Path(svm_actors.__file__).parent.parent


@attrs.frozen
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def call(*words: object, stdin: str | bytes = "") -> Answer:
    """A command in this process."""
    result: Result = CliRunner().invoke(cli, [str(word) for word in words], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def call_process(*words: object, hash_seed: str = "0", cwd: Path | None = None) -> Answer:
    """A command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-m", "svm_actors", *map(str, words)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)
