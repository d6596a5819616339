"""Writes the base of a journal: every row of its tables at one moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from dicom_node.index.journal.noting import FROM_FILES, line, numbers, tables
from dicom_node.index.migrations import MIGRATIONS

#: Bytes of changes after which a base is written anew, at a start of the node.
LARGE = 256 * 1024 * 1024


def needs_base(folder: Path) -> bool:
    """Whether the newest file of a journal has no base, has one of other tables, or holds many changes."""
    found = numbers(folder)
    if not found:
        return True
    name = folder / f"{found[-1]:08}"
    base, log = name.with_suffix(".base"), name.with_suffix(".log")
    if not base.is_file() or log.stat().st_size > LARGE:
        return True
    with base.open(encoding="utf-8") as file:
        return file.readline() != _first()


def write_base(index: Path, base: Path, stopping: Callable[[], bool]) -> bool:
    """Write the base of a journal's newest file, beside the node that works on; older files then go.

    Returns:
        False if it was stopped before; the older files stay.

    Raises:
        OSError, sqlite3.Error: it cannot be written; the older files stay.
    """
    part = base.with_suffix(".part")
    connection = sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("BEGIN")  # all rows of one moment
        part.touch(0o600)
        with part.open("w", encoding="utf-8") as file:
            file.write(_first())
            for count, text in enumerate(_lines(connection)):
                if count % 1000 == 0 and stopping():
                    return False
                file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(base)
    finally:
        connection.close()
        part.unlink(missing_ok=True)
    for number in numbers(base.parent):
        if number < int(base.stem):
            for suffix in (".base", ".log"):
                (base.parent / f"{number:08}").with_suffix(suffix).unlink(missing_ok=True)
    return True


def _first() -> str:
    return " ".join(("dicom-node journal 1", *sorted(MIGRATIONS))) + "\n"


def _lines(connection: sqlite3.Connection) -> Iterator[str]:
    for table in tables(connection):
        condition = f" WHERE {FROM_FILES[table]}" if table in FROM_FILES else ""
        for row in connection.execute(f"SELECT * FROM {table}{condition}"):  # noqa: S608 - our own words
            yield line(table, row)
