"""Files that retention removes. The removal is recorded first; then the files are deleted."""

from __future__ import annotations

from dicom_node.index.statements import Statements


class RemovalStatements(Statements):
    """What the index knows of removed files."""

    def remove_files(self, study: str, revision: int, before: float, now: float) -> bool:
        """Record that every file of a study is removed; the caller deletes the files afterwards.

        Nothing is recorded if the study received an image or a job of it ended since ``before``, or a job is open.

        Returns:
            whether it was recorded.
        """
        with self.transaction():
            changed = self._run(
                """UPDATE studies SET removed = ?, kept = 0, leftover = 1
                WHERE study = ? AND revision = ? AND completed < ? AND last_received < ?
                    AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.study = studies.study
                        AND (j.state IN ('queued', 'running') OR j.finished >= ?))
                    AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.study = studies.study AND i.received >= ?)""",
                now,
                study,
                revision,
                *[before] * 4,
            ).rowcount
            if not changed:
                return False
            self._run("UPDATE instances SET removed = ? WHERE study = ? AND removed IS NULL", now, study)
            self._run(
                """UPDATE results SET removed = ? WHERE removed IS NULL
                    AND run_key IN (SELECT run_key FROM readings WHERE study = ?)""",
                now,
                study,
            )
            return True

    def leftover(self) -> list[str]:
        """Studies that may still have files which are recorded as removed."""
        return [row[0] for row in self._rows("SELECT study FROM studies WHERE leftover = 1 ORDER BY study")]

    def removed_files(self, study: str) -> tuple[list[str], list[str]]:
        """The SOP Instance UIDs of a study's images, and the files of its results, that are recorded as removed."""
        images = self._rows("SELECT sop_instance_uid FROM instances WHERE study = ? AND removed IS NOT NULL", study)
        results = self._rows(
            """SELECT r.file FROM readings g CROSS JOIN results r ON r.run_key = g.run_key
            WHERE g.study = ? AND r.removed IS NOT NULL""",
            study,
        )
        return [row[0] for row in images], [row[0] for row in results]

    def nothing_left(self, study: str) -> None:
        """Record that all files of a study which are recorded as removed are deleted."""
        with self.transaction():
            self._run("UPDATE studies SET leftover = 0 WHERE study = ?", study)
