"""Puts the rows of a journal into an empty index."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dicom_node.index.journal.noting import numbers


def replay(connection: sqlite3.Connection, folder: Path) -> int:
    """Put the newest state of every row of a journal into the tables; columns and tables that are gone are left out.

    Foreign keys must not be enforced: a row may stand before those that it refers to.

    Returns:
        how many lines could not be used: they were cut off, or their rows do not fit the tables.

    Raises:
        OSError, sqlite3.Error: the journal cannot be read, or the index not be written.
    """
    unused = 0
    columns: dict[str, list[str]] = {}
    for text in _lines(folder):
        try:
            table, values, *gone = json.loads(text)
            if table not in columns:
                columns[table] = [
                    str(each[0])
                    for each in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
                ]
            row = {name: _value(values[name]) for name in columns[table] if name in values}
            if row and gone:
                condition = " AND ".join(f"{name} IS :{name}" for name in row)
                connection.execute(f"DELETE FROM {table} WHERE {condition}", row)  # noqa: S608 - names of the tables
            elif row:
                names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
                connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608
        except (ValueError, TypeError, KeyError, sqlite3.IntegrityError):
            unused += 1
    return unused


def _lines(folder: Path) -> Iterator[str]:
    """Each base with the changes that follow it, oldest first: a newer base may not be whole."""
    for number in numbers(folder):
        name = folder / f"{number:08}"
        if (base := name.with_suffix(".base")).is_file():
            with base.open(encoding="utf-8", errors="replace") as file:
                next(file, None)  # what it is
                yield from file
        with name.with_suffix(".log").open(encoding="utf-8", errors="replace") as file:
            yield from file


def _value(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
