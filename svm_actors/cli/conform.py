"""``svm-actors conform``: the model against recordings of a real kernel."""

from __future__ import annotations

import click

from svm_actors.cli.conform_kernel import kernel
from svm_actors.cli.conform_litmus import litmus


@click.group()
def conform() -> None:
    """Compare the model with recordings of a real kernel."""


conform.add_command(kernel)
conform.add_command(litmus)
