"""``dicom-node quarantine``: images that contradict stored ones, until somebody decides (`operations.quarantine`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption

app = typer.Typer(no_args_is_help=True, help="Images that contradict stored ones: list them, accept or drop them.")
NumbersArgument = Annotated[list[int], typer.Argument(help="Their numbers, as list shows them.")]


@app.command("list")
def list_(
    study: Annotated[str, typer.Argument(help="Only those of this study.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is contradicted: changed images from somebody who may not correct them, and UIDs in two studies."""
    from rich.markup import escape

    from dicom_node.operations import quarantine

    index, _ = _opened(config)
    found = quarantine.listed(index, study or None)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = terminal.table("number", "received", "study", "from", "what", "file")
    for one in found:
        sender = f"{one['calling_ae']} ({one['peer']})" if one["peer"] else one["calling_ae"]
        row = (str(one["number"]), one["received"], one["study"], sender, one["what"], one["file"] or "")
        table.add_row(*map(escape, row))
    terminal.console().print(table if found else "nothing is contradicted")


@app.command()
def accept(numbers: NumbersArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """The image in quarantine is right: it is read in place of the stored one, which is kept."""
    import time

    from dicom_node.operations import quarantine

    index, spool = _opened(config)
    for number in numbers:
        print(quarantine.accept(index, spool, number, time.time()))


@app.command()
def drop(numbers: NumbersArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """The stored image is right: that in quarantine is deleted."""
    from dicom_node.operations import quarantine

    index, spool = _opened(config)
    for number in numbers:
        print(quarantine.drop(index, spool, number))


def _opened(config: Path) -> tuple[Any, Any]:
    from dicom_node.config.load import load
    from dicom_node.index.index import open_index
    from dicom_node.storage.spool import Spool

    data_dir = load(config).node.data_dir
    return open_index(data_dir), Spool(data_dir)
