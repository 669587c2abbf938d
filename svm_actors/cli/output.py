"""Where a command's answers go: text for people, or one JSON object for programs.

Asked for JSON, a command prints exactly one object on standard output, also when it fails; the text
goes to standard error then.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
import click

from svm_actors.report.as_json import SCHEMA
from svm_actors.workload.formats import BadInput

F = TypeVar("F", bound=Callable[..., Any])


@attrs.define
class Output:
    """What the user asked for."""

    json: bool = False
    """Print a JSON object."""
    debug: bool = False
    """Show tracebacks of internal errors."""
    command: str = ""
    """The command that runs."""

    def say(self, text: str = "") -> None:
        """Text for people."""
        click.echo(text, err=self.json)

    def finish(self, context: click.Context, code: int, **fields: Any) -> NoReturn:
        """Print the JSON object, if asked for, and exit with this code."""
        if self.json:
            head = {"schema": SCHEMA, "command": self.command}
            click.echo(json.dumps({**head, **fields, "exit": code}))
        context.exit(code)


def output_of(context: click.Context) -> Output:
    """What the user asked for, at any depth of commands."""
    return context.ensure_object(Output)


def common_options(command: F) -> F:
    """``--json`` and ``--debug``."""
    for name, text in (
        ("debug", "Show the traceback of an internal error."),
        ("json", "Print one JSON object on standard output; text goes to standard error."),
    ):

        def keep(context: click.Context, _parameter: click.Parameter, value: bool, name: str = name) -> None:
            output = output_of(context)
            output.command = context.command_path.partition(" ")[2]
            if value:
                setattr(output, name, True)

        option = click.option(f"--{name}", is_flag=True, is_eager=True, expose_value=False, callback=keep, help=text)
        command = option(command)
    return command


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a whole file or nothing: no reader ever sees half of it.  Raises BadInput."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise BadInput(os.fspath(path), 0, "a file that can be written", (error.strerror or str(error)).lower()) from None
    return target


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
