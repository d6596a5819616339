"""``dicom-node models``: what is done with models by hand."""

from __future__ import annotations

import typer

from dicom_node.cli_evaluate import evaluate

app = typer.Typer(no_args_is_help=True, help="The models that the node reads with.")


@app.callback()
def models() -> None:
    """The models that the node reads with."""


app.command()(evaluate)
