"""``dicom-node demo``: show the whole way of a study on this machine (`dicom_node.demo`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.errors import NodeError


def demo(
    out: Annotated[Path, typer.Option(help="Where to put the pictures, reports and DICOM files.")] = Path("demo-out"),
    pacs: Annotated[str, typer.Option(metavar="AET@HOST:PORT", help="Send the results to this PACS instead.")] = "",
    dicom: Annotated[
        list[Path] | None, typer.Option(help="Push these files or folders instead of phantoms (may be repeated).")
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More paths for --dicom.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for everything to come back.")] = 180.0,
) -> None:
    """Show the whole way on this machine: push studies, read them, get the results back from a PACS."""
    from dicom_node.demo import Demo

    if more and not dicom:
        raise NodeError("paths go with --dicom")
    if not Demo(out, pacs=pacs or None, dicom=[*(dicom or []), *(more or [])], timeout=timeout).run():
        raise typer.Exit(1)
