"""The index: one SQLite file with every study, instance, job, reading and result.

One connection serves the whole node, behind one lock: every statement is short, and SQLite allows one writer at a time.
``synchronous=FULL`` in WAL mode makes a commit durable before it returns; a C-STORE success stands on that.

A study is ``receiving`` until it is completed. Its later state is stored nowhere: it follows from its jobs
(`StudyStatements.studies_with_state`), so the two cannot disagree.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from pathlib import Path

from sqlite_utils import Database

from dicom_node.errors import ConfigError
from dicom_node.index.contradictions import ContradictionStatements
from dicom_node.index.jobs import JobStatements
from dicom_node.index.journal.base import needs_base
from dicom_node.index.journal.noting import FOLDER, Journal
from dicom_node.index.migrations import MIGRATIONS, SCHEMA
from dicom_node.index.procedure_steps import StepStatements
from dicom_node.index.readings import ReadingStatements
from dicom_node.index.studies import StudyStatements
from dicom_node.index.withdrawals import WithdrawalStatements

INDEX_FILE = "index.sqlite"  # in the data folder


def open_index(data_dir: Path) -> Index:
    """The index of a data folder, beside the node that may be running on it.

    Raises:
        ConfigError: there is none, or it cannot be opened.
    """
    file = data_dir / INDEX_FILE
    if not file.exists():
        raise ConfigError(f"{file}: is not there; no node has run on this data_dir yet")
    return Index(file)


class Index(
    ContradictionStatements, StudyStatements, JobStatements, ReadingStatements, WithdrawalStatements, StepStatements
):
    """The tables of one node. Every method is one transaction; times (``now``) are epoch seconds and are passed in."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the index; with ``create`` (the node itself) make or upgrade it first.

        Raises:
            ConfigError: there is no index to read, or it cannot be opened.
        """
        self._file = path
        try:
            mode = "rwc" if create else "rw"
            conn = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=30.0,
                check_same_thread=False,  # self._lock takes care
                isolation_level=None,  # transactions begin where `transaction` says, never by themselves
            )
            conn.row_factory = sqlite3.Row
            self._lock = threading.RLock()
            self._db = Database(conn)
            if newer := [each.name for each in SCHEMA.applied(self._db) if each.name not in MIGRATIONS]:
                conn.close()
                raise ConfigError(
                    f"{path}: was made by a newer version of dicom-node ({', '.join(newer)}), which this one would "
                    "damage: install that version again, or go back to the backup that was made before it"
                )
            if create:
                conn.execute("PRAGMA journal_mode=WAL")
                with self._db.atomic():  # all of an upgrade or nothing: nobody tested a version in between
                    SCHEMA.apply(self._db)
            elif SCHEMA.pending(self._db):
                conn.close()
                raise ConfigError(
                    f"{path}: was made by an earlier version; start the node once, which brings it up to date"
                )
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute("PRAGMA foreign_keys=ON")
            conn.execute("SELECT 1 FROM studies LIMIT 1")
            self._journal = Journal(conn, path.parent / FOLDER)
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: the index cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._journal.close()
            self._db.close()

    def begin_journal(self) -> Path | None:
        """Begin a further file of the journal if it needs a base; the path of that base, for `write_base`.

        Raises:
            OSError: the file cannot be created.
        """
        with self._lock:
            return self._journal.begin() if needs_base(self._file.parent / FOLDER) else None

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return self._file

    def node_id(self) -> str:
        """The UUID of this installation, made at its first start."""
        with self.transaction():
            row = self._run("SELECT id FROM node").fetchone()
            if row is None:
                row = (str(uuid.uuid4()),)
                self._run("INSERT INTO node VALUES (?)", row[0])
            return str(row[0])
