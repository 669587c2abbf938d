"""Where a command's answers go: text for people, or one JSON object for programs.

Asked for JSON, a command prints exactly one object on standard output, also when it fails; the text
goes to standard error then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import attrs
import click

from svm_actors.report.as_json import SCHEMA

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
