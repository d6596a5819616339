"""What every module of the index shares: one connection behind one lock, and transactions that are all or nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from dicom_node.index.journal.noting import Journal


def read_only(index: Path, *, timeout: float = 5.0) -> closing[sqlite3.Connection]:
    """A further connection to an index that can only read, beside a node that may run; it is closed with the block.

    ``timeout``: seconds to wait where another writes.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    return closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True, timeout=timeout))


class Statements:
    """A connection and its lock; times (``now``) are epoch seconds and are passed in."""

    _db: Database
    _lock: threading.RLock
    _journal: Journal

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is one transaction: all of it is kept, or nothing. A nested one joins the outer one.

        It takes SQLite's write lock at the start. A transaction that reads first and then writes would fail if another
        process (the CLI) wrote in between.
        """
        with self._lock:
            conn = self._db.conn
            if conn.in_transaction:
                yield
                return
            conn.execute("BEGIN IMMEDIATE")
            try:
                yield
                changes = self._journal.lines()
                conn.execute("COMMIT")
            except BaseException:
                self._journal.forget()
                self._db.rollback()  # does nothing if SQLite has rolled back already
                raise
            self._journal.write(changes)

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._db.conn.execute(sql, values)

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._run(sql, *values).fetchall()
