"""Makes the index anew from the spool and the journal: ``dicom-node index rebuild``.

Each image file says in its record who sent it and when (`storage.record`), and in its data set what it is. The journal
says what was read, delivered, committed and withdrawn (`index.journal`). Without a journal every study is read again;
results get the UIDs that they had, since these come from the node's id, which is in every record.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.dicom.header import read_header
from dicom_node.errors import ConfigError, Refused
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.journal import noting
from dicom_node.index.journal.base import write_base
from dicom_node.index.journal.replay import replay
from dicom_node.index.rows import NewInstance
from dicom_node.storage.corrections import head_bytes
from dicom_node.storage.durable import fsync_folder
from dicom_node.storage.record import PREAMBLE_BYTES, record_in
from dicom_node.storage.spool import Spool


@dataclass(slots=True)
class Rebuilt:
    """What an index was made of; ``kept_as`` is where the former index is now, None if there was none."""

    images: int = 0
    studies: int = 0
    reopened: int = 0
    results: int = 0
    without_record: int = 0
    unreadable: list[str] = field(default_factory=list)
    unused_lines: int = 0
    kept_as: Path | None = None


def rebuild(data_dir: Path, *, now: float, on_file: Callable[[], None] = lambda: None) -> Rebuilt:
    """Make the index anew; the former one is kept beside it under another name.

    Args:
        data_dir: the folder of a node that does not run.
        now: the time (epoch seconds), for the name of the former index.
        on_file: called after each image file.

    Raises:
        ConfigError: a node runs on the folder, or it cannot be read or written.
    """
    spool = Spool(data_dir)
    spool.open()
    try:
        return _rebuild(data_dir, now, on_file)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"data_dir {data_dir}: the index cannot be made anew: {error}") from error
    finally:
        spool.close()


def _rebuild(data_dir: Path, now: float, on_file: Callable[[], None]) -> Rebuilt:
    new, journal = data_dir / f"{INDEX_FILE}.new", data_dir / noting.FOLDER
    for leftover in _with_companions(new):
        leftover.unlink(missing_ok=True)
    Index(new, create=True).close()
    found = Rebuilt()
    connection = sqlite3.connect(new, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("BEGIN")
        found.unused_lines = replay(connection, journal)
        _add_images(connection, data_dir, found, on_file)
        _number_editions(connection)
        _add_quarantined(connection, data_dir, found)
        _put_studies_in_order(connection, found)
        found.results = connection.execute("SELECT count(*) FROM results").fetchone()[0]
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    found.kept_as = _put_into_place(data_dir, new, now)
    journal.mkdir(mode=0o700, exist_ok=True)
    name = journal / f"{(noting.numbers(journal) or [0])[-1] + 1:08}"
    name.with_suffix(".log").touch(0o600)
    write_base(data_dir / INDEX_FILE, name.with_suffix(".base"), lambda: False)
    return found


def _with_companions(index: Path) -> Iterator[Path]:
    for suffix in ("", "-wal", "-shm"):
        yield index.with_name(index.name + suffix)


def _put_into_place(data_dir: Path, new: Path, now: float) -> Path | None:
    """Put the new index into the place of the former one; where the former one is now."""
    former = data_dir / INDEX_FILE
    kept = data_dir / f"{INDEX_FILE}.{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    there = former.exists()
    for old, name in zip(_with_companions(former), _with_companions(kept), strict=True):
        if old.exists():
            old.replace(name)
    for leftover in list(_with_companions(new))[1:]:
        leftover.unlink(missing_ok=True)
    new.replace(former)
    fsync_folder(data_dir)
    return kept if there else None


def image_files(data_dir: Path) -> Iterator[Path]:
    """Every file of an image in the spool, in a stable order."""
    for folder in sorted((data_dir / "spool").glob("??")):
        yield from sorted(folder.glob("*.dcm"))


def _add_images(connection: sqlite3.Connection, data_dir: Path, found: Rebuilt, on_file: Callable[[], None]) -> None:
    nodes: Counter[str] = Counter()
    for path in image_files(data_dir):
        try:
            row, texts, node = _row_of(data_dir, path)
        except (OSError, Refused, InvalidDicomError, ValueError, struct.error, AttributeError):
            found.unreadable.append(str(path.relative_to(data_dir)))
            continue
        finally:
            on_file()
        if node:
            nodes[node] += 1
        else:
            found.without_record += 1
        _add_image(connection, row, texts)
    if nodes and connection.execute("SELECT 1 FROM node").fetchone() is None:
        connection.execute("INSERT INTO node VALUES (?)", (nodes.most_common(1)[0][0],))


def _row_of(data_dir: Path, path: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """The index's row of an image file, the texts of its series, and the id of the node that stored it.

    Raises:
        OSError, ValueError, struct.error, AttributeError, InvalidDicomError, Refused: it is not such a file.
    """
    meta = read_file_meta_info(path)
    uid, syntax = str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
    name, _, suffix = path.stem.partition("-")
    digest, _, study = name.partition(".")
    if digest != hashlib.sha256(uid.encode()).hexdigest():
        raise ValueError("its name is that of another instance")
    with path.open("rb") as file:
        record = record_in(file.read(PREAMBLE_BYTES))
        head = head_bytes(path)
        file.seek(head)
        header = read_header(file, syntax)
        status = os.fstat(file.fileno())
    if header.sop_instance_uid != uid or (record is not None and record.data_set_bytes != status.st_size - head):
        raise ValueError("it is cut off, or of another instance")
    row = {
        "sop_instance_uid": uid,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": syntax,
        "study": header.study,
        "series": header.series,
        "calling_ae": record.calling_ae if record else str(meta.get("SourceApplicationEntityTitle", "")),
        "file": str(path.relative_to(data_dir)),
        "bytes": status.st_size,
        "received": record.received if record else status.st_mtime,
        "edition": record.edition if record else int(suffix or 1),
        "removed": None,
        "peer": record.peer if record else None,
        "studies_before": int(study == hashlib.sha256(header.study.encode()).hexdigest()),
    }
    texts = {
        name: getattr(header, name)
        for name in ("study", "series", "modality", "body_part", "study_description", "series_description")
    }
    return row, texts, record.node if record else ""


def _add_image(connection: sqlite3.Connection, row: dict[str, Any], texts: dict[str, str]) -> None:
    """Add an edition of an image, unless the journal has its row."""
    known = connection.execute(
        "SELECT 1 FROM instances WHERE sop_instance_uid = :sop_instance_uid AND study = :study AND edition = :edition",
        row,
    ).fetchone()
    if row["studies_before"]:  # its UID came before, under another study: which number this one has
        (row["studies_before"],) = connection.execute(
            """SELECT coalesce(max(iif(study = :study, studies_before, NULL)), max(studies_before) + 1, 1)
            FROM instances WHERE sop_instance_uid = :sop_instance_uid AND (study = :study OR studies_before > 0)""",
            row,
        ).fetchone()
    own = connection.execute(
        "SELECT 1 FROM results WHERE sop_instance_uid = :sop_instance_uid OR series = :series LIMIT 1", row
    ).fetchone()
    if own is None:
        connection.execute(
            """INSERT INTO studies (study, first_received, last_received) VALUES (:study, :received, :received)
            ON CONFLICT (study) DO NOTHING""",
            row,
        )
        _insert(connection, "series", texts)
    if known is None:
        _insert(connection, "instances", {**row, "own": int(own is not None), "meaning": row["edition"]})


def _number_editions(connection: sqlite3.Connection) -> None:
    """Which edition of each image is the newest, and which one says the same as the one before."""
    same = "b.study = instances.study AND b.site = instances.site AND b.sop_instance_uid = instances.sop_instance_uid"
    connection.execute(
        f"UPDATE instances SET newest = edition = (SELECT max(b.edition) FROM instances b WHERE {same})"  # noqa: S608
    )
    rows = connection.execute(
        "SELECT study, sop_instance_uid, edition FROM corrections WHERE change = 'none' ORDER BY edition"
    )
    for row in rows.fetchall():
        connection.execute(
            f"""UPDATE instances SET meaning = coalesce(
                (SELECT b.meaning FROM instances b WHERE {same} AND b.edition = instances.edition - 1), meaning)
            WHERE study = ? AND sop_instance_uid = ? AND edition = ?""",  # noqa: S608 - our own words
            tuple(row),
        )


def _add_quarantined(connection: sqlite3.Connection, data_dir: Path, found: Rebuilt) -> None:
    """What waits for an administrator, as far as the journal does not say it."""
    rows = connection.execute("SELECT file FROM contradictions WHERE file IS NOT NULL UNION SELECT file FROM instances")
    known = {row[0] for row in rows}  # an image that was accepted stays where it is
    for path in sorted((data_dir / "quarantine").glob("*.dcm")):
        if str(path.relative_to(data_dir)) in known:
            continue
        try:
            row, texts, _ = _row_of(data_dir, path)
        except (OSError, Refused, InvalidDicomError, ValueError, struct.error, AttributeError):
            found.unreadable.append(str(path.relative_to(data_dir)))
            continue
        names = ("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "calling_ae", "file", "bytes")
        values: dict[str, Any] = {**texts, **{name: row[name] for name in names}}
        new = NewInstance(**values)
        connection.execute(
            """INSERT INTO contradictions (study, kind, sop_instance_uid, change, compared, calling_ae, instance, file,
                bytes, received) VALUES (?, 'not authorized', ?, 'unknown', ?, ?, ?, ?, ?, ?)""",
            (
                *(new.study, new.sop_instance_uid, row["edition"] - 1, new.calling_ae, json.dumps(asdict(new))),
                *(new.file, new.bytes, row["received"]),
            ),
        )


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608 - our own words


def _put_studies_in_order(connection: sqlite3.Connection, found: Rebuilt) -> None:
    """Give studies the times of their images; one that got an image after it was completed is opened again."""
    connection.execute(
        """UPDATE studies SET first_received = coalesce(i.first, first_received),
            last_received = coalesce(i.last, last_received)
        FROM (SELECT study AS of, min(received) AS first, max(received) AS last FROM instances WHERE NOT own
              GROUP BY study) i
        WHERE studies.study = i.of"""
    )
    found.reopened = connection.execute(
        """UPDATE studies SET completed = NULL, routes = '[]', revision = revision + 1
        WHERE completed IS NOT NULL AND last_received > completed"""
    ).rowcount
    found.images = connection.execute("SELECT count(*) FROM instances WHERE newest AND removed IS NULL").fetchone()[0]
    found.studies = connection.execute("SELECT count(*) FROM studies").fetchone()[0]
    for table in noting.tables(connection):  # what the journal holds of studies that nothing is left of
        if any(each[3] == "study" for each in connection.execute(f"PRAGMA foreign_key_list({table})")):
            connection.execute(
                f"DELETE FROM {table} WHERE study IS NOT NULL AND study NOT IN (SELECT study FROM studies)"  # noqa: S608
            )
