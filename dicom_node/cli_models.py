"""``dicom-node models ...``: what there is to read with, and how well it reads."""

from __future__ import annotations

import typer

from dicom_node.cli_compare import compare

models = typer.Typer(no_args_is_help=True, help="Models: compare what two of them say.")
models.command("compare")(compare)


@models.callback()
def _group() -> None:
    """Keep the name of a command even while there is only one."""
