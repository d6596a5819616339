"""``dicom-node index check | rebuild`` and ``backup``: the index against the files (`operations.index_check`, ...)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli import terminal
from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption

app = typer.Typer(no_args_is_help=True, help="The index: check it against the files, or make it anew from them.")


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Take the SHA-256 of so many images, chosen at random; default: of all.")
    ] = None,
) -> None:
    """Compare the index, the files and their digests; the node may run. Exit status 1 if something does not agree."""
    from dicom_node.config.load import load
    from dicom_node.operations import index_check

    data_dir = load(config).node.data_dir
    counts, faults = index_check.Checked(), 0
    with terminal.counter("files") as one_more:
        for fault in index_check.check(data_dir, counts, sample=sample, on_file=one_more):
            faults += 1
            print(f"{fault.what}: {fault.wrong}")
    print(
        f"{counts.images} images ({counts.digests} by their digests), {counts.results} results: "
        + (f"{faults} faults" if faults else "no fault")
    )
    if counts.without_record:
        print(f"{counts.without_record} images are from before this version and have no digest")
    if faults:
        raise typer.Exit(1)


@app.command()
def rebuild(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make the index anew from the files and the journal; the node must not run. The former index is kept."""
    import time

    from dicom_node.config.load import load
    from dicom_node.operations import index_rebuild

    with terminal.counter("images") as one_more:
        found = index_rebuild.rebuild(load(config).node.data_dir, now=time.time(), on_file=one_more)
    print(f"{found.images} images of {found.studies} studies, {found.results} results")
    if found.reopened:
        print(f"{found.reopened} studies got images after they were complete, and are read again")
    if found.without_record:
        print(f"{found.without_record} images are from before this version: when they came is the time of their file")
    if found.unused_lines:
        print(f"{found.unused_lines} lines of the journal could not be used: they were cut off or are of no table")
    for name in found.unreadable:
        print(f"{name}: cannot be read; it stays where it is, and is not in the index")
    if found.kept_as is not None:
        print(f"the former index is {found.kept_as}")
    if found.unreadable:
        raise typer.Exit(1)


def backup(
    to: Annotated[Path, typer.Argument(help="A folder that does not exist yet, best on another disk.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Copy the index and all files of the node to a folder, while the node runs or not."""
    from dicom_node.config.load import load
    from dicom_node.operations import backup as backing_up

    with terminal.counter("files") as one_more:
        made = backing_up.backup(load(config).node.data_dir, config, to, on_file=lambda *_: one_more())
    print(f"{made.images} images and {made.results} results, {made.bytes / 1e9:.1f} GB, as of {made.made}, in {to}")
    if made.gone:
        print(f"{made.gone} files were removed by retention or replaced by corrections meanwhile")
