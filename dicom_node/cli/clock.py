"""``dicom-node clock``: whether the machine's clock is confirmed (`operations.clock_watch`), and its confirmation."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption


def clock(
    config: ConfigOption = DEFAULT_CONFIG,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Confirm that this machine's clock is right: retention may go on.")
    ] = False,
) -> None:
    """Say whether this machine's clock can be trusted: retention removes nothing before it is confirmed."""
    from datetime import UTC, datetime

    from dicom_node.clock import SteadyClock, is_synchronised
    from dicom_node.config.load import load
    from dicom_node.operations import clock_watch

    data_dir = load(config).node.data_dir
    machine = SteadyClock()
    if confirm:
        clock_watch.confirm(data_dir, machine.offset())
    now = datetime.fromtimestamp(machine.now(), UTC)
    print(f"{now:%Y-%m-%d %H:%M:%S} UTC, {now.astimezone():%Y-%m-%d %H:%M:%S %z} here")
    print(f"time synchronisation: {'yes' if is_synchronised() else 'none'}")
    doubt = clock_watch.doubts(data_dir, machine.offset())
    print(f"not confirmed: {doubt}" if doubt else "confirmed")
