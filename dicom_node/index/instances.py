"""Received instances: every edition of each is a row; the newest is what is read.

The key is (site, study, SOP instance, edition). Today the site is always ''.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from dicom_node.index.rows import (
    Change,
    NewInstance,
    Received,
    Sender,
    StoredInstance,
)
from dicom_node.index.statements import Statements

_ADD = """INSERT INTO instances (study, sop_instance_uid, edition, newest, meaning, studies_before, sop_class_uid,
    transfer_syntax_uid, series, calling_ae, peer, own, file, bytes, received)
    VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


class InstanceStatements(Statements):
    """What the index knows of received instances."""

    def received(self, sop_instance_uid: str, study: str | None = None) -> Received | None:
        """What the index knows of an instance: of a study, or of the first one under which it came.

        None if it was never received.
        """
        rows = self._rows(
            """SELECT study, transfer_syntax_uid, own, edition, meaning, studies_before, file, bytes, received, removed
            FROM instances WHERE sop_instance_uid = ? AND newest = 1 ORDER BY studies_before""",
            sop_instance_uid,
        )
        found = [Received(**dict(row)) for row in rows if study in (None, row["study"])]
        return found[0] if found else None

    def studies_of(self, sop_instance_uid: str) -> list[str]:
        """The studies under which an instance came, in the order in which they came."""
        rows = self._rows(
            "SELECT study FROM instances WHERE sop_instance_uid = ? AND newest = 1 ORDER BY studies_before",
            sop_instance_uid,
        )
        return [row[0] for row in rows]

    def first_sender(self, study: str, sop_instance_uid: str) -> Sender:
        """Who sent the first edition of an instance that is recorded.

        Raises:
            LookupError: it is not recorded.
        """
        rows = self._rows(
            "SELECT calling_ae, peer FROM instances WHERE study = ? AND sop_instance_uid = ? ORDER BY edition LIMIT 1",
            study,
            sop_instance_uid,
        )
        if not rows:
            raise LookupError("no such instance")
        return Sender(rows[0]["calling_ae"], rows[0]["peer"])

    def known_files(self, names: Collection[str]) -> set[str]:
        """Those of some file names that are recorded files of instances, or in quarantine; this reads whole tables."""
        sql = """SELECT file FROM instances WHERE removed IS NULL AND file IN (SELECT value FROM json_each(?1))
            UNION SELECT file FROM contradictions WHERE file IN (SELECT value FROM json_each(?1))"""
        return {row[0] for row in self._rows(sql, json.dumps(list(names)))}

    def replace_file(
        self, study: str, sop_instance_uid: str, file: str, size: int, transfer_syntax_uid: str, *, now: float
    ) -> None:
        """Record the new file of an instance's newest edition, whose old file was missing, damaged or removed.

        A removed instance counts as received now, so that retention does not remove it again at once. What it says was
        compared with no earlier edition: so it stands for none.
        """
        with self.transaction():
            self._run("UPDATE studies SET kept = 1 WHERE kept = 0 AND study = ?", study)
            self._run(
                """UPDATE instances SET file = ?, bytes = ?, transfer_syntax_uid = ?, meaning = edition,
                    received = iif(removed IS NULL, received, ?), removed = NULL
                WHERE study = ? AND sop_instance_uid = ? AND newest = 1""",
                *(file, size, transfer_syntax_uid, now, study, sop_instance_uid),
            )

    def add_instance(self, new: NewInstance, now: float, *, studies_before: int = 0) -> int:
        """Record a received instance; a completed study is opened again as its next revision.

        Our own results may come back to us, from a PACS that forwards everything: they are recorded and open no study.
        ``studies_before`` counts the studies under which its UID came before.

        Returns:
            the study's revision.

        Raises:
            sqlite3.IntegrityError: the instance is recorded already, or another study has its UID and
                ``studies_before`` is not the number of such studies.
        """
        with self.transaction():
            known = self._run("SELECT revision FROM studies WHERE study = ?", new.study).fetchone()
            own = known is not None and self._is_own(new.sop_instance_uid, new.series)
            if own:
                self._run("UPDATE studies SET kept = 1 WHERE study = ? AND kept = 0", new.study)
                revision = int(known[0])
            else:
                revision = self._open_study(new, now)
            self._add(new, 1, 1, studies_before, own=own, now=now)
            return revision

    def correct_instance(
        self, new: NewInstance, edition: int, now: float, *, change: Change, own: bool = False
    ) -> None:
        """Record a further edition of an instance, which is read from now on; its study is opened again.

        The earlier editions stay. ``change``: what it differs in (`storage.corrections`). ``own``: it is a result of
        ours, which opens no study.

        Raises:
            sqlite3.IntegrityError: this edition is recorded already.
        """
        with self.transaction():
            before, meaning = self._run(
                "SELECT studies_before, meaning FROM instances WHERE study = ? AND sop_instance_uid = ? AND newest = 1",
                *(new.study, new.sop_instance_uid),
            ).fetchone()
            self._run(
                "INSERT OR REPLACE INTO corrections (study, sop_instance_uid, edition, change) VALUES (?, ?, ?, ?)",
                *(new.study, new.sop_instance_uid, edition, change),
            )
            if own:
                self._run("UPDATE studies SET kept = 1 WHERE study = ? AND kept = 0", new.study)
            else:
                self._open_study(new, now)
            self._run(
                "UPDATE instances SET newest = 0 WHERE study = ? AND sop_instance_uid = ? AND newest = 1",
                *(new.study, new.sop_instance_uid),
            )
            self._add(new, edition, meaning if change == "none" else edition, before, own=own, now=now)

    def _add(self, new: NewInstance, edition: int, meaning: int, studies_before: int, *, own: bool, now: float) -> None:
        self._run(
            _ADD,
            *(new.study, new.sop_instance_uid, edition, meaning, studies_before, new.sop_class_uid),
            *(new.transfer_syntax_uid, new.series, new.calling_ae, new.peer, int(own), new.file, new.bytes, now),
        )

    def _open_study(self, new: NewInstance, now: float) -> int:
        """Open a study to receive an instance; a completed study gets its next revision. Returns the revision."""
        known = self._run("SELECT revision, completed FROM studies WHERE study = ?", new.study).fetchone()
        if known is not None and known["completed"] is None:
            # The way of nearly every instance. More columns here would also write the index of open studies.
            self._run("UPDATE studies SET last_received = max(last_received, ?) WHERE study = ?", now, new.study)
        else:
            known = self._run(
                """INSERT INTO studies (study, first_received, last_received) VALUES (?, ?, ?)
                ON CONFLICT (study) DO UPDATE SET last_received = max(last_received, excluded.last_received),
                    revision = revision + 1, completed = NULL, routes = '[]', kept = 1
                RETURNING revision""",
                new.study,
                now,
                now,
            ).fetchone()
        self._run(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            new.study,
            new.series,
            new.modality,
            new.body_part,
            new.study_description,
            new.series_description,
        )
        return int(known["revision"])

    def _is_own(self, sop_instance_uid: str, series: str) -> bool:
        return bool(
            self._run(
                "SELECT 1 FROM results WHERE sop_instance_uid = ? OR series = ? LIMIT 1", sop_instance_uid, series
            ).fetchone()
        )

    def instances_of(self, study: str) -> list[StoredInstance]:
        """The received instances of a study whose files are there, without our own results, in a stable order."""
        return self._instances(study, "removed IS NULL")

    def removed_from(self, study: str) -> list[StoredInstance]:
        """The received instances of a study whose files retention has removed."""
        return self._instances(study, "removed IS NOT NULL")

    def _instances(self, study: str, condition: str) -> list[StoredInstance]:
        rows = self._rows(
            f"""SELECT sop_instance_uid, sop_class_uid, series, calling_ae, file, meaning FROM instances
            WHERE study = ? AND newest = 1 AND NOT own AND {condition} ORDER BY series, sop_instance_uid""",  # noqa: S608 - our own words
            study,
        )
        return [StoredInstance(*row) for row in rows]

    def knows(self, study: str) -> bool:
        """Whether anything of a study was ever received."""
        return bool(self._rows("SELECT 1 FROM studies WHERE study = ?", study))
