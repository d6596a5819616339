"""Appends the rows that a transaction has changed to the journal, after its commit."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dicom_node.log import logger

FOLDER = "journal"  # in the data folder

# These are found again in the spool. Of an image more is noted where its file does not say all: that it was removed, is
# a further edition, or is of a further study.
FROM_FILES = {"instances": "(removed IS NOT NULL OR edition > 1 OR studies_before > 0)", "series": ""}
# A study's times change with each image: they are those of its images.
_UPDATES = {"studies": "AFTER UPDATE OF revision, completed, routes, kept ON"}
_WHEN = {
    "jobs": "WHEN new.state != 'running'",  # a claim alone: after a start every running job is queued again
    "instances": "WHEN new.removed IS NOT NULL OR new.edition > 1 OR new.studies_before > 0 OR new.meaning != 1",
}
_MOST_WAITING = 100_000  # lines that are kept while the disk takes none


class Journal:
    """The journal of one connection's changes. It is used inside the index's lock.

    A line that cannot be written (the disk is full) is kept and tried again with the next; the index works on.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        """Watch the tables of a connection. No file is opened before there is something to write."""
        self._connection = connection
        self._folder = folder
        self._file: int | None = None
        self._changed: dict[tuple[str, str], None] = {}
        self._waiting: list[str] = []
        self._failing = False
        connection.create_function("journal_note", 2, self._note)
        self._keys = dict(_keys(connection))
        for table, key in self._keys.items():
            for kind, row in _events(table):
                values = ", ".join(f"{row}.{column}" for column in key)
                connection.execute(
                    f"""CREATE TEMP TRIGGER journal_{table}_{kind.split()[1].lower()} {kind} main.{table}
                    {_WHEN.get(table, "") if row == "new" else ""}
                    BEGIN SELECT journal_note('{table}', json_array({values})); END"""
                )

    def _note(self, table: str, key: str) -> None:
        self._changed[table, key] = None

    def lines(self) -> list[str]:
        """The lines of all rows that the open transaction has changed; call it just before the commit."""
        found = []
        for table, key in self._changed:
            columns = self._keys[table]
            condition = " AND ".join(f"{column} IS ?" for column in columns)
            row = self._connection.execute(
                f"SELECT * FROM {table} WHERE {condition}",  # noqa: S608 - our own words
                json.loads(key),
            ).fetchone()
            if row is None:
                found.append(json.dumps([table, dict(zip(columns, json.loads(key), strict=True)), "gone"]))
            else:
                found.append(line(table, row))
        self._changed.clear()
        return found

    def forget(self) -> None:
        """The transaction was rolled back."""
        self._changed.clear()

    def write(self, lines: Iterable[str]) -> None:
        """Append lines of a transaction that was committed."""
        self._waiting += lines
        if not self._waiting:
            return
        data = "".join(f"{each}\n" for each in self._waiting).encode()
        try:
            if self._file is None:
                self._file = self._open()
            end = os.fstat(self._file).st_size
            if (written := os.write(self._file, data)) < len(data):
                os.ftruncate(self._file, end)
                raise OSError(28, f"only {written} of {len(data)} bytes were written")  # noqa: TRY301
        except OSError as error:
            del self._waiting[:-_MOST_WAITING]
            if not self._failing:
                self._failing = True
                logger().error("journal.failed", reason=f"the journal cannot be written: {error.strerror}")
            return
        self._waiting.clear()
        self._failing = False

    def close(self) -> None:
        """Make what was written durable, and close the file."""
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                logger().error("journal.failed", reason=f"the journal cannot be written: {error.strerror}")
            os.close(self._file)
            self._file = None

    def begin(self) -> Path:
        """Begin a further file, whose base is still to be written (`base.write_base`); the path of that base."""
        self.close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = self._folder / f"{(numbers(self._folder) or [0])[-1] + 1:08}"
        self._file = os.open(name.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return name.with_suffix(".base")

    def _open(self) -> int:
        """The newest file."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        number = (numbers(self._folder) or [1])[-1]
        path = self._folder / f"{number:08}.log"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def numbers(folder: Path) -> list[int]:
    """The numbers of the journal's files, in ascending order."""
    return sorted({int(each.stem) for each in folder.glob("*.log") if each.stem.isdecimal()})


def line(table: str, row: sqlite3.Row) -> str:
    """A row as a line of the journal, without its end."""
    return json.dumps([table, {column: _plain(row[column]) for column in row.keys()}])  # noqa: SIM118 - a Row


def tables(connection: sqlite3.Connection) -> list[str]:
    """The journal's tables, those first that others refer to."""
    return list(dict(_keys(connection)))


def _plain(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _keys(connection: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    """Each table with its key's columns; ``rowid`` where it has none."""
    found = connection.execute(
        """SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
        AND name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY name != 'studies', name"""
    )
    for (name,) in found.fetchall():
        if FROM_FILES.get(name, name):
            columns = connection.execute(f"PRAGMA main.table_info({name})").fetchall()
            key = [each[1] for each in sorted(columns, key=lambda column: column[5]) if each[5]]
            yield name, key or ["rowid"]


def _events(table: str) -> Iterator[tuple[str, str]]:
    if table in FROM_FILES:
        yield "AFTER UPDATE OF removed ON", "new"
    yield "AFTER INSERT ON", "new"
    if table in FROM_FILES:
        return
    yield _UPDATES.get(table, "AFTER UPDATE ON"), "new"
    yield "AFTER DELETE ON", "old"
