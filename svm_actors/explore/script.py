"""Scenario scripts: a Python file with ``async def scenario(world)`` and perhaps ``CONFIG = Config(...)``.

A script is executed afresh for every run, so that what one run leaves in its global names cannot
reach the next: a campaign's results do not depend on which process made which runs.  Nothing is
imported in the sense of the import system: the script leaves no entry in ``sys.modules`` and no
compiled file beside itself.

Everything that can be wrong with it is one BadInput with file and line.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import CodeType, ModuleType
from typing import Any, Final

import attrs

from svm_actors.explore.determinism import digest
from svm_actors.explore.files import read_bytes
from svm_actors.explore.subject import Scenario, Subject, fault_of
from svm_actors.workload.formats import BadInput
from svm_actors.world import Config, World

MODULE: Final = "svm_actors_scenario_script"
EXPECTED: Final = "`async def scenario(world)`"


@attrs.frozen
class Script:
    """A scenario script, read and compiled."""

    file: str
    """As the user named it."""
    digest: str
    """Hex digest of its bytes."""
    code: CodeType
    """Its compiled text."""

    def subject(self) -> Subject:
        """The script as something to run.  Raises BadInput."""
        names = self._load()
        config = names.get("CONFIG", Config())
        if not isinstance(config, Config):
            raise BadInput(self.file, 0, "`CONFIG` to be a svm_actors.Config", type(config).__name__)
        scenario_in(names, self.file)
        return Subject(self._run_afresh, self.file, self.digest, config)

    async def _run_afresh(self, world: World) -> Any:
        return await scenario_in(self._load(), self.file)(world)

    def _load(self) -> dict[str, Any]:
        """Execute the script and answer its global names.  Raises BadInput."""
        module = ModuleType(MODULE)
        module.__file__ = self.file
        # Dataclasses look their module up by name while the class is made; only then is it there.
        shadowed = sys.modules.get(MODULE)
        sys.modules[MODULE] = module
        try:
            exec(self.code, module.__dict__)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise BadInput(
                self.file, _line_in(self.file, error), "a script that loads", f"{type(error).__name__}: {error}"
            ) from None
        finally:
            del sys.modules[MODULE]
            if shadowed is not None:
                sys.modules[MODULE] = shadowed
        return module.__dict__


def read_script(path: str | os.PathLike[str]) -> Script:
    """Read and compile a script.  Raises BadInput."""
    file = os.fspath(path)
    source = read_bytes(file, "a scenario script")
    try:
        code = compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise BadInput(file, error.lineno or 0, "valid Python", error.msg) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadInput(file, 0, "valid Python", str(error) or type(error).__name__) from None
    return Script(file, digest(source), code)


def scenario_in(names: dict[str, Any], file: str) -> Scenario:
    """The scenario among a script's names.  Raises BadInput."""
    if "scenario" not in names:
        raise BadInput(file, 0, EXPECTED, "no such name")
    scenario: Scenario = names["scenario"]
    fault = fault_of(scenario)
    if fault:
        line = getattr(getattr(scenario, "__code__", None), "co_firstlineno", 0)
        raise BadInput(file, line, EXPECTED, fault)
    return scenario


def _line_in(file: str, error: BaseException) -> int:
    """The innermost line of the script itself that the error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return next((line for line in reversed(lines) if line), 0)
