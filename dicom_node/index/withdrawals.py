"""Withdrawals: results that a later reading replaces are rejected at a destination (IHE RAD, IOCM).

A withdrawal is of the results that one destination has of one run and profile; a job "withdraw" carries it out. It is
decided in the transaction that records the later reading, whose run key is the job's. Its turn comes when nothing of
either run is left to be sent to that destination (`job_kinds`). Where a further reading replaces that reading before,
the job waits for the results of the further one instead.

From the decision on the results are never sent again and their UIDs are never used again (`withdrawn_runs`), whatever
becomes of the job.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dicom_node.index.recorded import RecordedReading, recorded
from dicom_node.index.rows import REJECTION, Job, NewResult, ResultRow, Withdrawal, WithdrawalReason
from dicom_node.index.statements import Statements

#: The SQL condition for a row of ``jobs`` of kind "send" whose result is withdrawn from its destination.
IS_WITHDRAWN = """EXISTS (SELECT 1 FROM results w1 CROSS JOIN withdrawals w2
    ON w2.study = jobs.study AND w2.run_key = w1.run_key AND w2.profile = w1.profile AND w2.target = jobs.target
    WHERE w1.sop_instance_uid = jobs.subject)"""

_RESULT = """r.sop_instance_uid, r.sop_class_uid, r.series, r.run_key, r.position, r.role, r.file, r.bytes, r.profile,
    r.removed"""


class WithdrawalStatements(Statements):
    """What the index knows of withdrawals."""

    def withdrawn_runs(self, study: str) -> dict[str, frozenset[str]]:
        """The run key of every reading of a study that was withdrawn anywhere, with the profiles that this holds for.

        Their results' UIDs must not be used again.
        """
        found: dict[str, set[str]] = {}
        for row in self._rows("SELECT run_key, profile FROM withdrawals WHERE study = ?", study):
            found.setdefault(row[0], set()).add(row[1])
        return {key: frozenset(profiles) for key, profiles in found.items()}

    def queue_withdrawals(self, job: Job, run_key: str, destinations: Sequence[tuple[str, str]], now: float) -> int:
        """Queue the withdrawal of what destinations have of earlier readings of a study by the same model.

        Call it inside `transaction`, after the reading of ``run_key`` is recorded and its results are queued: these
        take the place of the earlier ones. ``destinations`` are (name, digest of profile). An earlier reading whose
        source was not corrected stays where this one could not read every image, or retention has removed some: what it
        found may still hold. A report that a reading failed is always withdrawn.

        Returns:
            how many jobs are queued.
        """
        whole = self._is_whole(job.study, run_key)
        queued = 0
        for destination, profile in destinations:
            for old in self._replaced(job, run_key, destination, profile):
                earlier = self._recorded(old[0])
                reason = self._corrected_since(old[0], earlier) or "quality"
                if reason == "safety" or whole or earlier.failure:
                    number = self._decide(job, old, (destination, profile), reason, now)
                    queued += self._queue_withdrawal(job, run_key, destination, number, now)
        return queued

    def _replaced(self, job: Job, run_key: str, destination: str, profile: str) -> list[tuple[str, str]]:
        """The (run, profile) of the model's results that a destination has, or is being sent, but for the new ones."""
        # CROSS JOIN makes SQLite begin with the study's readings, not with all jobs there ever were.
        rows = self._rows(
            """SELECT DISTINCT r.run_key, r.profile
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.study = ? AND g.model = ? AND j.target = ? AND NOT (r.run_key = ? AND r.profile IN (?, ''))
                AND (j.state = 'running' OR (j.state = 'done' AND j.outcome = 'sent'))
            ORDER BY g.created, r.run_key, r.profile""",
            job.study,
            job.target,
            destination,
            run_key,
            profile,
        )
        return [(row[0], row[1]) for row in rows]

    def _decide(
        self, job: Job, old: tuple[str, str], destination: tuple[str, str], reason: WithdrawalReason, now: float
    ) -> int:
        """The number of the withdrawal of an old (run, profile) from a destination (name, digest of profile)."""
        number = self._run(
            """INSERT INTO withdrawals (study, run_key, profile, target, reason, decided, successor)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (study, run_key, profile, target, reason) DO UPDATE SET successor = excluded.successor
            RETURNING id""",
            *(job.study, *old, destination[0], reason, now, destination[1]),
        ).fetchone()[0]
        if reason == "safety":  # a weaker rejection that is not sent yet has no use any more
            self._run(
                """UPDATE jobs SET state = iif(state = 'running', 'running', 'done'), outcome = 'superseded',
                    finished = ?, reason = 'not sent: rejected for patient safety reasons instead'
                WHERE kind = 'withdraw' AND study = ? AND target = ? AND state != 'done' AND subject IN
                    (SELECT CAST(id AS TEXT) FROM withdrawals
                     WHERE study = ? AND run_key = ? AND profile = ? AND target = ? AND reason = 'quality')""",
                *(now, job.study, destination[0], job.study, *old, destination[0]),
            )
        return int(number)

    def _queue_withdrawal(self, job: Job, run_key: str, destination: str, number: int, now: float) -> int:
        # A job that waits, or that is in work and may have to be tried again, waits for the newest results.
        return self._run(
            """INSERT INTO jobs (kind, subject, study, revision, route, target, run_key, state, due, created)
            VALUES ('withdraw', ?1, ?2, ?3, ?4, ?5, ?6, 'queued', ?7, ?7)
            ON CONFLICT (study, kind, subject, target) DO UPDATE SET run_key = excluded.run_key,
                state = iif(jobs.state = 'running', 'running', 'queued'),
                attempts = iif(jobs.state = 'running', jobs.attempts, 0), outcome = '', reason = '',
                revision = excluded.revision, route = excluded.route, due = excluded.due, created = excluded.created,
                finished = NULL
            WHERE jobs.outcome != 'withdrawn'""",
            *(str(number), job.study, job.revision, job.route, destination, run_key, now),
        ).rowcount

    def _is_whole(self, study: str, run_key: str) -> bool:
        """Whether a reading could read every image that the study ever had."""
        if self._recorded(run_key).failed:
            return False
        removed = "SELECT 1 FROM instances WHERE study = ? AND newest = 1 AND NOT own AND removed IS NOT NULL LIMIT 1"
        return not self._rows(removed, study)

    def _recorded(self, run_key: str) -> RecordedReading:
        return recorded(self._rows("SELECT reading FROM readings WHERE run_key = ?", run_key)[0][0])

    def told_of_corrected(self, study: str, model: str) -> WithdrawalReason | None:
        """Why what a destination has, or is to get, of a model no longer holds; None if no image was corrected since.

        "safety": an image was corrected in patient, side or pixels. "quality": in something else.
        """
        rows = self._rows(
            """SELECT DISTINCT g.run_key
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.study = ? AND g.model = ? AND (j.state != 'done' OR j.outcome = 'sent')""",
            study,
            model,
        )
        found = {self._corrected_since(row[0], self._recorded(row[0])) for row in rows}
        return "safety" if "safety" in found else "quality" if "quality" in found else None

    def corrected_pairs(self, study: str) -> list[tuple[str, str]]:
        """The (route, model) of a study's earlier readings for which `told_of_corrected` has a reason."""
        rows = self._rows(
            """SELECT route, target, max(revision) FROM jobs
            WHERE study = ? AND kind = 'read' AND run_key IS NOT NULL GROUP BY target""",
            study,
        )
        return [(row[0], row[1]) for row in rows if self.told_of_corrected(study, row[1]) is not None]

    def _corrected_since(self, run_key: str, reading: RecordedReading) -> WithdrawalReason | None:
        """Whether an image of a reading was corrected since: in patient, side or pixels ("safety"), or in other things.

        It counts as the former where nobody knows what changed: where a node made the correction that did not record
        this yet, and where retention had removed the image before it came again.
        """
        rows = self._rows(
            """SELECT i.sop_instance_uid, i.meaning, i.meaning = i.edition AND i.received > g.created AS came_again,
                c.edition, c.change
            FROM readings g CROSS JOIN instances i ON i.study = g.study AND i.newest = 1
                LEFT JOIN corrections c ON c.study = i.study AND c.sop_instance_uid = i.sop_instance_uid
            WHERE g.run_key = ? AND i.sop_instance_uid IN (SELECT value FROM json_each(?))""",
            run_key,
            json.dumps(list(reading.sources)),
        )
        changes = {(uid, edition): change for uid, _, _, edition, change in rows if edition is not None}
        found: WithdrawalReason | None = None
        for uid, newest, came_again in {tuple(row)[:3] for row in rows}:
            read = reading.editions.get(uid, 1)
            made = {changes.get((uid, edition), "unknown") for edition in range(read + 1, newest + 1)}
            if made & {"safety", "unknown"} or (came_again and not made):
                return "safety"
            if made - {"none"}:
                found = "quality"
        return found

    def withdrawal(self, job: Job) -> Withdrawal | None:
        """What a job "withdraw" is about; None if the index does not know it."""
        rows = self._rows(
            "SELECT id, study, run_key, profile, target, reason, note, successor FROM withdrawals WHERE id = ?",
            int(job.subject),
        )
        if not rows:
            return None
        number, study, run_key, profile, target, reason, note, successor = rows[0]
        sent = self._rows(
            f"""SELECT {_RESULT} FROM results r CROSS JOIN jobs j
                ON j.study = ? AND j.kind = 'send' AND j.subject = r.sop_instance_uid AND j.target = ?
            WHERE r.run_key = ? AND r.profile = ? AND j.state = 'done' AND j.outcome = 'sent'
            ORDER BY r.position, r.sop_instance_uid""",  # noqa: S608 - our own words
            *(study, target, run_key, profile),
        )
        successors = self._rows(
            f"SELECT {_RESULT} FROM results r WHERE r.run_key = ? AND r.profile IN (?, '') ORDER BY r.position",  # noqa: S608
            *(job.run_key, successor),
        )
        return Withdrawal(
            number,
            study,
            run_key,
            target,
            reason,
            bool(self._recorded(run_key).failure),
            note,
            tuple(ResultRow(*row) for row in sent),
            tuple(ResultRow(*row) for row in successors),
        )

    def successors_missing(self, job: Job) -> str:
        """Why the results that take the place of withdrawn ones are not all at the destination; empty if they are.

        A kind of object that the destination does not take is no reason. Nor is a commitment that is not asked for.
        """
        row = self._rows(
            """SELECT count(*) AS sends, total(j.state = 'done' AND j.outcome = 'sent') AS sent,
                total(j.state != 'done' OR j.outcome NOT IN ('sent', 'not taken')) AS missing,
                EXISTS (SELECT 1 FROM jobs c WHERE c.study = ?1 AND c.kind = 'commit' AND c.target = ?2
                    AND c.subject = ?3 AND c.state != 'done') AS uncommitted
            FROM withdrawals w CROSS JOIN results r ON r.run_key = ?3 AND r.profile IN (w.successor, '')
                CROSS JOIN jobs j ON j.study = ?1 AND j.kind = 'send' AND j.subject = r.sop_instance_uid
                    AND j.target = ?2
            WHERE w.id = ?4""",
            *(job.study, job.target, job.run_key, int(job.subject)),
        )[0]
        if row["missing"] or not row["sent"]:
            missing = int(row["missing"]) or row["sends"]
            return f"{missing} of the {row['sends']} results that take their place are not at {job.target}"
        return f"{job.target} has not committed to the results that take their place" if row["uncommitted"] else ""

    def add_note(self, withdrawal: Withdrawal, note: NewResult, now: float) -> None:
        """Record the key object that rejects results, before it is sent: every attempt sends the same file."""
        with self.transaction():
            self._run(
                """INSERT INTO results (sop_instance_uid, sop_class_uid, series, run_key, position, role, file, bytes,
                    profile) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                *(note.sop_instance_uid, note.sop_class_uid, note.series, withdrawal.run_key, note.position),
                *(REJECTION, note.file, note.bytes, REJECTION),
            )
            self._run(
                "UPDATE withdrawals SET note = ?, objects = ?, decided = ? WHERE id = ?",
                *(note.sop_instance_uid, len(withdrawal.objects), now, withdrawal.id),
            )
