"""Studies: open until they are completed. The state of a completed study follows from its jobs (`_STATE`).

What retention removes is removed of whole studies, so it is recorded here, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dicom_node.index.rows import (
    REJECTION,
    JobRow,
    OpenStudy,
    StoredSeries,
    StudyRow,
)
from dicom_node.index.statements import Statements
from dicom_node.index.withdrawals import IS_WITHDRAWN

_NEWEST = "SELECT * FROM studies ORDER BY last_received DESC LIMIT :limit"

_ONE = "SELECT * FROM studies WHERE study = :study"

_OLD = """SELECT * FROM studies WHERE completed IS NOT NULL AND kept = 1
    AND last_received < :before AND (last_received, study) > (:after, :study)
    ORDER BY last_received, study LIMIT :limit"""

# The jobs of a revision: its read jobs and summaries, the sending and commitment of the runs that these ended with,
# and the withdrawal of the results whose place these take.
# CROSS JOIN makes SQLite begin with the listed studies; by its own choice it begins with all jobs there ever were.
_STATE = """
    WITH listed AS MATERIALIZED ({listed}),
    reads AS MATERIALIZED (
        SELECT l.study, j.kind, j.state, j.outcome, j.run_key, j.reason, j.finished
        FROM listed l CROSS JOIN jobs j ON j.study = l.study AND j.revision = l.revision
            AND j.kind IN ('read', 'summary')
    ),
    work AS (
        SELECT * FROM reads
        UNION ALL
        SELECT r.study, s.kind, s.state, s.outcome, s.run_key, s.reason, s.finished
        FROM reads r CROSS JOIN jobs s
            ON s.study = r.study AND s.run_key = r.run_key AND s.kind IN ('send', 'commit', 'withdraw')
    ),
    told AS (
        SELECT study,
            sum(kind = 'read' AND state IN ('queued', 'running')) AS reading,
            sum(kind = 'read' AND state = 'failed') AS unread,
            sum(kind != 'read' AND state IN ('queued', 'running')) AS sending,
            sum(kind = 'send') AS sends,
            sum(kind = 'read' AND run_key IS NOT NULL) AS runs,
            sum(state = 'failed') AS failed,
            max(CASE WHEN kind = 'read' THEN finished END) AS read,
            max(CASE WHEN kind != 'read' THEN finished END) AS delivered,
            max(CASE WHEN state = 'failed' THEN reason END) AS failure,
            max(CASE WHEN state != 'done' OR kind = 'read' THEN reason END) AS reason,
            json_group_array(DISTINCT reason) FILTER (WHERE state = 'done' AND outcome = 'not taken') AS not_taken,
            json_group_array(DISTINCT reason) FILTER (WHERE state = 'done' AND outcome = 'withdrawn') AS withdrawn
        FROM work GROUP BY study
    )
    SELECT l.study, l.revision, l.first_received, l.last_received, l.completed, l.routes, l.removed, l.evidence,
        told.read, told.delivered, coalesce(nullif(told.failure, ''), told.reason, '') AS reason,
        coalesce(told.not_taken, '[]') AS not_taken, coalesce(told.withdrawn, '[]') AS withdrawn,
        (SELECT count(*) FROM instances i WHERE i.study = l.study AND i.newest = 1) AS instances,
        (SELECT count(*) FROM contradictions c WHERE c.study = l.study)
            + (SELECT count(*) FROM contradictions c WHERE c.other_study = l.study) AS contradictions,
        CASE
            WHEN l.completed IS NULL THEN 'receiving'
            WHEN told.study IS NULL THEN 'no route'
            WHEN told.reading THEN 'reading'
            WHEN told.unread THEN 'failed'
            WHEN told.sending THEN 'delivering'
            WHEN told.failed THEN 'failed'
            WHEN NOT told.sends AND NOT told.runs THEN 'no eligible series'
            ELSE 'delivered'
        END AS state
    FROM listed l LEFT JOIN told ON told.study = l.study ORDER BY l.last_received DESC
"""


_LISTS = ("routes", "not_taken", "withdrawn")  # columns that are JSON arrays


class StudyStatements(Statements):
    """What the index knows of studies."""

    def open_studies(self) -> list[OpenStudy]:
        """Every study that is not completed."""
        rows = self._rows("SELECT study, revision, last_received FROM studies WHERE completed IS NULL")
        return [OpenStudy(*row) for row in rows]

    def series_of(self, study: str) -> list[StoredSeries]:
        """The series of a study, without our own results; one row for each set of texts that its instances have."""
        rows = self._rows(
            """WITH callers AS MATERIALIZED (
                SELECT series, json_group_array(DISTINCT calling_ae) AS names FROM instances
                WHERE study = ?1 AND newest = 1 AND NOT own GROUP BY series
            )
            SELECT s.series, modality, body_part, study_description, series_description,
                coalesce(c.names, '[]') AS callers
            FROM series s LEFT JOIN callers c ON c.series = s.series WHERE s.study = ?1 ORDER BY s.series""",
            study,
        )
        return [StoredSeries(**{**dict(row), "callers": tuple(json.loads(row["callers"]))}) for row in rows]

    def count_with(self, study: str, peer: str) -> int:
        """How many instances of a study a peer may have: those that we received, and the results that we sent it.

        Results that are withdrawn there do not count, nor does what rejects them: the peer may hide both. One that
        hides neither has more than this count, so that the study waits longer, and never shorter.
        """
        rows = self._rows(
            f"""SELECT count(*) FROM (SELECT sop_instance_uid FROM instances WHERE study = ?1
                UNION SELECT subject FROM jobs WHERE study = ?1 AND kind = 'send' AND target = ?2 AND state = 'done'
                    AND outcome = 'sent'
                EXCEPT SELECT subject FROM jobs WHERE study = ?1 AND kind = 'send' AND target = ?2 AND {IS_WITHDRAWN}
                EXCEPT SELECT r.sop_instance_uid FROM withdrawals w CROSS JOIN results r ON r.run_key = w.run_key
                    AND r.role = '{REJECTION}' WHERE w.study = ?1)""",  # noqa: S608 - our own words
            study,
            peer,
        )
        return int(rows[0][0])

    def complete(
        self,
        study: str,
        revision: int,
        last_received: float,
        routes: Sequence[tuple[str, str]],
        now: float,
        *,
        shadows: Sequence[tuple[str, str]] = (),
        summaries: Sequence[tuple[str, str]] = (),
        evidence: str = "",
    ) -> bool:
        """Complete a study and queue one job "read" for each (route, model), unless an instance came in between.

        ``shadows`` are the (route, model) that read it in shadow; the study's state does not depend on them.
        ``summaries`` are the (route, destination) that get a summary once all models have read it.
        ``evidence`` says, for a person, why the study is known to be complete.

        Returns:
            whether it was completed; if not, nothing is changed.
        """
        with self.transaction():
            names = json.dumps(list(dict.fromkeys(route for route, _ in routes)))
            changed = self._run(
                """UPDATE studies SET completed = ?, routes = ?, evidence = ?
                WHERE study = ? AND revision = ? AND last_received = ? AND completed IS NULL""",
                now,
                names,
                evidence,
                study,
                revision,
                last_received,
            ).rowcount
            if not changed:
                return False
            queued = {"read": routes, "shadow": shadows, "summary": summaries}
            for kind, route, target in ((kind, *each) for kind, pairs in queued.items() for each in pairs):
                self._run(
                    """INSERT INTO jobs (kind, subject, study, revision, route, target, state, due, created)
                    VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?) ON CONFLICT DO NOTHING""",
                    kind,
                    f"{study}/{revision}",
                    study,
                    revision,
                    route,
                    target,
                    now,
                    now,
                )
            return True

    def last_reading_queued(self, study: str) -> float:
        """When the newest reading of a study was queued (epoch seconds); 0 if none ever was."""
        rows = self._rows("SELECT max(created) FROM jobs WHERE study = ? AND kind = 'read'", study)
        return float(rows[0][0] or 0.0)

    def revision(self, study: str) -> int:
        """The current revision of a study."""
        return int(self._rows("SELECT revision FROM studies WHERE study = ?", study)[0]["revision"])

    def studies_with_state(self, study: str | None = None, *, limit: int = 1000) -> list[StudyRow]:
        """Each study (newest first, or the one asked for) with its state and the time of each step."""
        return self._listed(_NEWEST if study is None else _ONE, {"study": study, "limit": limit})

    def old_studies(self, before: float, after: tuple[float, str], limit: int) -> list[StudyRow]:
        """Studies that have files and received their last image before a moment, oldest first, with their state.

        ``after`` is (last_received, study) of the last study of the page before.
        """
        rows = self._listed(_OLD, {"before": before, "after": after[0], "study": after[1], "limit": limit})
        return sorted(rows, key=lambda row: (row.last_received, row.study))

    # -- files that retention removes: the removal is recorded first; then the files are deleted

    def remove_files(
        self, study: str, revision: int, before: float, now: float, *, committed_before: float | None = None
    ) -> bool:
        """Record that every file of a study is removed; the caller deletes the files afterwards.

        Nothing is recorded if the study received an image or a job of it ended since ``before``, or a job is open; or
        if we have committed to one of its images since ``committed_before`` (None: ever).

        Returns:
            whether it was recorded.
        """
        with self.transaction():
            changed = self._run(
                """UPDATE studies SET removed = ?, kept = 0, leftover = 1
                WHERE study = ? AND revision = ? AND completed < ? AND last_received < ?
                    AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.study = studies.study
                        AND (j.state IN ('queued', 'running') OR j.finished >= ?))
                    AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.study = studies.study AND i.received >= ?)
                    AND NOT EXISTS (SELECT 1 FROM instances i CROSS JOIN promised p
                        ON p.sop_instance_uid = i.sop_instance_uid
                        WHERE i.study = studies.study AND p.given >= coalesce(?, p.given))""",
                now,
                study,
                revision,
                *[before] * 4,
                committed_before,
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
        images = self._rows(
            "SELECT DISTINCT sop_instance_uid FROM instances WHERE study = ? AND removed IS NOT NULL", study
        )
        results = self._rows(
            """SELECT r.file FROM readings g CROSS JOIN results r ON r.run_key = g.run_key
            WHERE g.study = ? AND r.removed IS NOT NULL""",
            study,
        )
        return [row[0] for row in images], [row[0] for row in results]

    def removed_editions(self, study: str, sop_instance_uid: str) -> list[str]:
        """The files of an instance's editions that are recorded as removed."""
        rows = self._rows(
            "SELECT file FROM instances WHERE study = ? AND sop_instance_uid = ? AND removed IS NOT NULL",
            *(study, sop_instance_uid),
        )
        return [row[0] for row in rows]

    def nothing_left(self, study: str) -> None:
        """Record that all files of a study which are recorded as removed are deleted."""
        with self.transaction():
            self._run("UPDATE studies SET leftover = 0 WHERE study = ?", study)

    def _listed(self, listed: str, values: dict[str, object]) -> list[StudyRow]:
        with self._lock:
            rows = self._db.conn.execute(_STATE.format(listed=listed), values).fetchall()
        return [StudyRow(**{**dict(row), **{name: tuple(json.loads(row[name])) for name in _LISTS}}) for row in rows]

    def jobs_of(self, study: str) -> list[JobRow]:
        """Every job of a study, oldest first; a job "send" with the role of its result."""
        rows = self._rows(
            """SELECT j.id, j.kind, j.revision, j.route, j.target, j.subject, j.run_key, j.state, j.outcome, j.attempts,
                j.due, j.created, j.started, j.finished, j.reason, r.role
            FROM jobs j LEFT JOIN results r ON j.kind = 'send' AND r.sop_instance_uid = j.subject
            WHERE j.study = ? ORDER BY j.id""",
            study,
        )
        return [JobRow(*row) for row in rows]
