"""Compares the index with the files: ``dicom-node index check``."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import ConfigError
from dicom_node.index.index import INDEX_FILE
from dicom_node.index.statements import read_only
from dicom_node.operations.index_rebuild import image_files
from dicom_node.storage.record import PREAMBLE_BYTES, record_in

_HEAD = 512  # bytes, in which the file meta information names the instance


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that does not agree: the file's name, or the SOP Instance UID of what has none, and what is wrong."""

    what: str
    wrong: str


@dataclass(slots=True)
class Checked:
    """How many images and results were looked at, and of how many images every byte was read."""

    images: int = 0
    results: int = 0
    digests: int = 0
    without_record: int = 0


def check(
    data_dir: Path, counts: Checked, *, sample: int | None = None, on_file: Callable[[], None] = lambda: None
) -> Iterator[Fault]:
    """Everything that does not agree. A node may run on the folder: what it stores meanwhile is no fault.

    Args:
        data_dir: the node's folder.
        counts: is filled with what was looked at.
        sample: of how many images, chosen at random, the digests are taken; None for all.
        on_file: called after each file.

    Raises:
        ConfigError: there is no index, or it cannot be read at all.
    """
    path = data_dir / INDEX_FILE
    if not path.exists():
        raise ConfigError(f"{path}: is not there; run dicom-node index rebuild, or restore a backup")
    try:
        with read_only(path, timeout=30.0) as connection:
            yield from _of_sqlite(connection)
            yield from _of_files(data_dir, connection, counts, sample, on_file)
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: is damaged ({error}); stop the node and run dicom-node index rebuild") from error


def _of_files(
    data_dir: Path, connection: sqlite3.Connection, counts: Checked, sample: int | None, on_file: Callable[[], None]
) -> Iterator[Fault]:
    before = {str(each.relative_to(data_dir)) for each in image_files(data_dir)}
    images = connection.execute(
        "SELECT sop_instance_uid, file, bytes, edition FROM instances WHERE removed IS NULL"
    ).fetchall()
    results = connection.execute("SELECT file, bytes FROM results WHERE removed IS NULL").fetchall()
    chosen = range(len(images)) if sample is None else set(random.sample(range(len(images)), min(sample, len(images))))
    for number, (uid, name, size, edition) in enumerate(images):
        counts.images += 1
        try:
            if (wrong := _of_image(data_dir / name, (uid, size, edition), counts, whole=number in chosen)) is not None:
                yield Fault(name, wrong)
        except FileNotFoundError:
            if not _is_gone(connection, "instances", name):
                yield Fault(name, "the file of an image is missing")
        except OSError as error:
            yield Fault(name, f"the file cannot be read: {error.strerror}")
        on_file()
    for name, size in results:
        counts.results += 1
        try:
            if (found := (data_dir / name).stat().st_size) != size:
                yield Fault(name, f"the file of a result has {found} bytes, the index says {size}")
        except FileNotFoundError:
            if not _is_gone(connection, "results", name):
                yield Fault(name, "the file of a result is missing")
    yield from _of_quarantine(data_dir, connection)
    for name in sorted(before - {name for _, name, _, _ in images}):
        part = f"{Path(name).stem[:64]}.*.part"  # of an image that is being received
        if (data_dir / name).exists() and not list((data_dir / "incoming").glob(part)):
            yield Fault(name, "the file of an image is not in the index")


def _of_quarantine(data_dir: Path, connection: sqlite3.Connection) -> Iterator[Fault]:
    there = {str(each.relative_to(data_dir)) for each in (data_dir / "quarantine").glob("*.dcm")}
    waiting = "SELECT file FROM contradictions WHERE file IS NOT NULL"
    for name in sorted({row[0] for row in connection.execute(waiting)} - there):
        if connection.execute(f"{waiting} AND file = ?", (name,)).fetchone():
            yield Fault(name, "the file of an image in quarantine is missing")
    for name in sorted(there - {row[0] for row in connection.execute(waiting)}):
        part = f"{Path(name).stem[:64]}.*.part"
        if (data_dir / name).exists() and not list((data_dir / "incoming").glob(part)):
            yield Fault(name, "the file of an image in quarantine is not in the index")


def _is_gone(connection: sqlite3.Connection, table: str, name: str) -> bool:
    """Whether retention has removed a file, or a correction has taken its place, since the rows were read."""
    rows = connection.execute(f"SELECT 1 FROM {table} WHERE file = ? AND removed IS NULL", (name,))  # noqa: S608
    return rows.fetchone() is None


def _of_sqlite(connection: sqlite3.Connection) -> Iterator[Fault]:
    for (line,) in connection.execute("PRAGMA integrity_check").fetchall():
        if line != "ok":
            yield Fault(INDEX_FILE, f"SQLite: {line}")


def _of_image(file: Path, said: tuple[str, int, int], counts: Checked, *, whole: bool) -> str | None:
    """What is wrong with the file of an image; None if nothing is."""
    uid, size, edition = said
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
        record = record_in(head[:PREAMBLE_BYTES])
        found = os.fstat(opened.fileno()).st_size
        if found != size:
            return f"the file has {found} bytes, the index says {size}"
        if uid.encode() not in head:
            return "the file is of another instance"
        if record is None:
            counts.without_record += 1
            return None
        if record.edition != edition:
            return f"the file says that it is edition {record.edition}, the index says {edition}"
        if whole:
            counts.digests += 1
            if not record.is_of(opened, size):
                return "the data set is not the one that was received: its SHA-256 differs"
    return None
