"""A CSV file as it comes from a spreadsheet or a script -> its columns and rows.

The file is UTF-8, with or without a byte order mark, and separated by commas, semicolons or tabs. It is not trusted:
no cell appears in an error message.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Columns", "Record", "TableError", "plain", "read_csv", "shown"]

Record = tuple[int, list[str]]
"""A row: its line in the file, from 1, and its cells."""

_MAX_BYTES = 256 * 2**20


class TableError(ValueError):
    """The table cannot be used. The message says what is wrong, where, and what was expected."""


def plain(name: str) -> str:
    """A column's name in the form that is compared: in lower case, with underscores for spaces and hyphens."""
    return re.sub(r"[\s_\-]+", "_", name.strip().casefold())


class Columns:
    """The columns of a table, found by their names as `plain` writes them.

    Args:
        table: the file, for the messages.
        names: the names of the columns, in order.
    """

    def __init__(self, table: Path, names: Sequence[str]) -> None:
        self._table = table
        self.names = list(names)
        self._places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            self._places.setdefault(plain(name), []).append(place)

    def has(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return plain(name) in self._places

    def index(self, name: str) -> int:
        """The place of a column, from 0.

        Raises:
            TableError: there is no such column, or there are several.
        """
        places = self._places.get(plain(name))
        if places is None:
            raise TableError(f"{self._table}: has no column {shown(name)!r}; it has: {self.listed()}")
        if len(places) > 1:
            raise TableError(f"{self._table}: {len(places)} columns are called {shown(name)!r}; one was expected")
        return places[0]

    def cell(self, record: Sequence[str], name: str) -> str:
        """The text of a cell without spaces around it; empty if the row is too short or there is no such column."""
        if plain(name) not in self._places:
            return ""
        place = self.index(name)
        return record[place].strip() if place < len(record) else ""

    def listed(self) -> str:
        """The names of the columns, for a message."""
        return ", ".join(shown(name) for name in self.names[:40]) + (" ..." if len(self.names) > 40 else "")


def read_csv(table: Path) -> tuple[list[str], list[Record]]:
    """Read the names of the columns from the first row, and the rows after it. Empty rows are left out.

    Raises:
        TableError: the file cannot be read, is empty, too large, or no CSV in UTF-8.
    """
    try:
        if table.stat().st_size > _MAX_BYTES:
            raise TableError(f"{table}: is larger than {_MAX_BYTES // 2**20} MiB")
        data = table.read_bytes()
    except OSError as error:
        raise TableError(f"{table}: cannot be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise TableError(f"{table}: is UTF-16 text; save it as 'CSV UTF-8'")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableError(f"{table}: line {line} is not UTF-8; save it as 'CSV UTF-8'") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    # Cells with many boxes can be long; the file as a whole is not.
    csv.field_size_limit(max(csv.field_size_limit(), 2**20))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise TableError(f"{table}: line {reader.line_num} cannot be read as CSV: {error}") from None
    if not rows:
        raise TableError(f"{table}: is empty; a first row with the names of the columns was expected")
    return [name.strip() for name in rows[0][1]], rows[1:]


def shown(text: str, most: int = 64) -> str:
    """A text of the file for a message: on one line, cut to ``most`` characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= most else line[: most - 3] + "..."
