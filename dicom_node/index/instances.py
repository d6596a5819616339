"""Received instances: each is recorded once, under its SOP Instance UID."""

from __future__ import annotations

import json
from collections.abc import Collection

from dicom_node.index.rows import (
    NewInstance,
    Received,
    StoredInstance,
)
from dicom_node.index.statements import Statements


class InstanceStatements(Statements):
    """What the index knows of received instances."""

    def received(self, sop_instance_uid: str) -> Received | None:
        """What the index knows of an instance; None if it was never received."""
        rows = self._rows(
            """SELECT study, transfer_syntax_uid, own, edition, file, bytes, received, removed
            FROM instances WHERE sop_instance_uid = ?""",
            sop_instance_uid,
        )
        return Received(**dict(rows[0])) if rows else None

    def known_files(self, names: Collection[str]) -> set[str]:
        """Those of some file names that are recorded files of instances; this reads the whole table."""
        sql = "SELECT file FROM instances WHERE removed IS NULL AND file IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._rows(sql, json.dumps(list(names)))}

    def replace_file(self, sop_instance_uid: str, file: str, size: int, transfer_syntax_uid: str, now: float) -> None:
        """Record the new file of an instance whose old file was missing, damaged or removed by retention.

        A removed instance counts as received now, so that retention does not remove it again at once.
        """
        with self.transaction():
            self._run(
                """UPDATE studies SET kept = 1 WHERE kept = 0
                AND study = (SELECT study FROM instances WHERE sop_instance_uid = ?)""",
                sop_instance_uid,
            )
            self._run(
                """UPDATE instances SET file = ?, bytes = ?, transfer_syntax_uid = ?,
                    received = iif(removed IS NULL, received, ?), removed = NULL
                WHERE sop_instance_uid = ?""",
                file,
                size,
                transfer_syntax_uid,
                now,
                sop_instance_uid,
            )

    def add_instance(self, new: NewInstance, now: float) -> int:
        """Record a received instance; a completed study is opened again as its next revision.

        Our own results may come back to us, from a PACS that forwards everything: they are recorded and open no study.

        Returns:
            the study's revision.
        """
        with self.transaction():
            known = self._run("SELECT revision FROM studies WHERE study = ?", new.study).fetchone()
            own = known is not None and self._is_own(new.sop_instance_uid, new.series)
            if own:
                self._run("UPDATE studies SET kept = 1 WHERE study = ? AND kept = 0", new.study)
                revision = int(known[0])
            else:
                revision = self._open_study(new, now)
            self._run(
                """INSERT INTO instances (sop_instance_uid, sop_class_uid, transfer_syntax_uid, study, series,
                    calling_ae, own, file, bytes, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                new.sop_instance_uid,
                new.sop_class_uid,
                new.transfer_syntax_uid,
                new.study,
                new.series,
                new.calling_ae,
                int(own),
                new.file,
                new.bytes,
                now,
            )
            return revision

    def correct_instance(self, new: NewInstance, edition: int, now: float, *, safety: bool) -> None:
        """Record that a corrected instance replaces its former edition; its study is opened again.

        ``safety``: it differs in patient, side or pixels (`storage.corrections`).
        """
        with self.transaction():
            self._run(
                "INSERT OR REPLACE INTO corrections (sop_instance_uid, edition, safety) VALUES (?, ?, ?)",
                new.sop_instance_uid,
                edition,
                int(safety),
            )
            self._open_study(new, now)
            self._run(
                """UPDATE instances SET edition = ?, sop_class_uid = ?, series = ?, calling_ae = ?, file = ?, bytes = ?,
                    received = ?, removed = NULL
                WHERE sop_instance_uid = ?""",
                edition,
                new.sop_class_uid,
                new.series,
                new.calling_ae,
                new.file,
                new.bytes,
                now,
                new.sop_instance_uid,
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
            f"""SELECT sop_instance_uid, sop_class_uid, series, calling_ae, file, edition FROM instances
            WHERE study = ? AND NOT own AND {condition} ORDER BY series, sop_instance_uid""",  # noqa: S608 - our own words
            study,
        )
        return [StoredInstance(*row) for row in rows]

    def knows(self, study: str) -> bool:
        """Whether anything of a study was ever received."""
        return bool(self._rows("SELECT 1 FROM studies WHERE study = ?", study))
