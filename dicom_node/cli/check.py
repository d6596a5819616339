"""``dicom-node check``: check this machine (`operations.check`) or a PACS (`operations.preflight`), point by point."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption
from dicom_node.errors import NodeError


def check(
    config: ConfigOption = DEFAULT_CONFIG,
    peer: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Instead: send a test study to this destination, ask it back, and say what failed."
        ),
    ] = "",
    reject: Annotated[
        bool, typer.Option("--reject", help="With --peer: have the archive hide the test study at the end (IHE IOCM).")
    ] = False,
) -> None:
    """Check the configuration and this machine, or a PACS (--peer), one line a point; exit status 1 where one fails."""
    from dicom_node import log

    log.silence_libraries()
    points: Iterator[Any]
    if peer:
        from dicom_node.operations import preflight

        threading.excepthook = lambda _: None  # pynetdicom's threads die of garbage; the points say what it means
        points = preflight.points(config, peer, reject=reject)
    elif reject:
        raise NodeError("--reject goes with --peer")
    else:
        from dicom_node.operations.check import points as machine

        points = machine(config)
    bad = 0
    for point in points:
        print(f"{point.verdict:<4}  {point.what}: {point.text}", flush=True)
        bad += point.verdict == "FAIL"
    if bad:
        raise typer.Exit(1)
