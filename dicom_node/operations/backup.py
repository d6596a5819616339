"""Copies a node's folder while the node runs, so that the copy is of one moment: ``dicom-node backup``.

The index is copied first, by SQLite itself; then each file that it names. Files of images and results never change, so
all that was acknowledged when the copy began is in it. (A copy of ``index.sqlite`` by cp is none: its newest
transactions are in ``index.sqlite-wal``, and it may change between two blocks of the copy.)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicom_node import __version__
from dicom_node.errors import NodeError
from dicom_node.index.index import INDEX_FILE
from dicom_node.index.journal.noting import FOLDER
from dicom_node.index.statements import read_only
from dicom_node.storage.durable import fsync_folder
from dicom_node.storage.record import PREAMBLE_BYTES, record_in

#: The file that says that a backup is whole; it is written last.
SUMMARY = "backup.json"
_AT_ONCE = 1024 * 1024
_ALSO = ("told.json", "models", FOLDER)  # of the data folder, where they are there


@dataclass(slots=True)
class Backup:
    """What a backup holds. ``gone`` files were removed by retention, or replaced by a correction, while it was made."""

    version: str = __version__
    made: str = ""
    images: int = 0
    results: int = 0
    bytes: int = 0
    gone: int = 0


def backup(data_dir: Path, config: Path, to: Path, *, on_file: Callable[[int, int], None] = lambda *_: None) -> Backup:
    """Copy the index, all files that it names, the journal, installed models and the configuration to a new folder.

    Args:
        data_dir: the folder of a node, which may run.
        config: its configuration file; it is copied as ``node.toml``.
        to: the new folder.
        on_file: called after each file with how many are copied and how many there are.

    Raises:
        NodeError: the folder is not new, the disk is full, or a file is missing or damaged; what was copied stays
            there, without `SUMMARY`.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise NodeError(f"{to}: is there already; name a folder that is not")
    if not (data_dir / INDEX_FILE).exists():
        raise NodeError(f"{data_dir / INDEX_FILE}: is not there; no node has run on this data_dir yet")
    made = Backup(made=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        to.mkdir(parents=True, exist_ok=True, mode=0o700)
        _copy_index(data_dir / INDEX_FILE, to / INDEX_FILE)
        _copy_files(data_dir, to, made, on_file)
        for name in _ALSO:
            if (data_dir / name).is_dir():
                shutil.copytree(data_dir / name, to / name, dirs_exist_ok=True)
            elif (data_dir / name).is_file():
                shutil.copy2(data_dir / name, to / name)
        shutil.copy2(config, to / "node.toml")
        _sync(to)
        (to / SUMMARY).write_text(json.dumps(asdict(made), indent=4) + "\n", encoding="utf-8")
        _sync(to)
    except (OSError, sqlite3.Error) as error:
        raise NodeError(f"{to}: the backup is not whole: {getattr(error, 'strerror', None) or error}") from error
    return made


def _copy_index(index: Path, to: Path) -> None:
    with (
        read_only(index, timeout=30.0) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)  # in one step: a transaction of the node in between would begin it anew
        target.execute("PRAGMA journal_mode=DELETE")  # one file


def _copy_files(data_dir: Path, to: Path, made: Backup, on_file: Callable[[int, int], None]) -> None:
    with closing(sqlite3.connect(to / INDEX_FILE)) as connection:
        images = [row[0] for row in connection.execute("SELECT file FROM instances WHERE removed IS NULL")]
        held = [row[0] for row in connection.execute("SELECT file FROM contradictions WHERE file IS NOT NULL")]
        results = [row[0] for row in connection.execute("SELECT file FROM results WHERE removed IS NULL")]
    with read_only(data_dir / INDEX_FILE) as now:
        tables = (("instances WHERE removed IS NULL", images), ("results WHERE removed IS NULL", results))
        named = [(rows, name) for rows, names in (*tables, ("contradictions WHERE 1", held)) for name in names]
        for count, (rows, name) in enumerate(named, 1):
            try:
                made.bytes += _copy(data_dir / name, to / name)
            except FileNotFoundError as error:
                there = now.execute(f"SELECT 1 FROM {rows} AND file = ?", (name,))  # noqa: S608
                if there.fetchone() is not None:
                    raise NodeError(f"{data_dir / name}: is missing; run dicom-node index check") from error
                made.gone += 1
            on_file(count, len(named))
    made.images, made.results = len(images), len(results)


def _copy(file: Path, to: Path) -> int:
    """Copy a file durably, and compare what was read with its digest; its size in bytes.

    Raises:
        OSError: it cannot be read or written.
        NodeError: it is not what was received.
    """
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("rb") as source, to.open("xb") as target:
        preamble = source.read(PREAMBLE_BYTES)
        record = record_in(preamble)
        size = os.fstat(source.fileno()).st_size
        begin = size - record.data_set_bytes if record is not None else size
        target.write(preamble)
        target.write(source.read(begin - len(preamble)))
        digest = hashlib.sha256()
        while piece := source.read(_AT_ONCE):
            digest.update(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    if record is not None and digest.digest() != record.digest:
        raise NodeError(f"{file}: is not what was received: its SHA-256 differs; run dicom-node index check")
    return size


def _sync(folder: Path) -> None:
    for each in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
        fsync_folder(each)
