"""Statements of storage commitment (PS3.4 annex J), as SCU (we ask a destination) and as SCP (a peer asks us).

As SCU: a job "commit" belongs to a run and a destination. Its turn comes when every result of the run is sent there. It
is done when the destination has committed to every result that it stored. Each request is a row of ``asks`` under a
transaction UID of its own; a late answer to an earlier request counts too.

As SCP: a row of ``promises`` is a request of a peer; a job "promise" carries our answer to it. A row of ``promised`` is
an instance that we have committed to keep: retention does not remove its study before ``retention.committed_days``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path

from dicom_node.index.rows import Ask, Job, JobKind, Promise
from dicom_node.index.statements import Statements, read_only
from dicom_node.index.withdrawals import IS_WITHDRAWN

_STORED = """kind = 'send' AND state = 'done' AND outcome = 'sent'"""


def peers_that_ask(index: Path) -> list[str]:
    """The AE titles that have ever asked this node for commitment; none where no index of a node can be read.

    It reads an index of every version, also one that this version has not brought up to date yet.
    """
    try:
        with read_only(index) as connection:
            rows = connection.execute("SELECT DISTINCT calling_ae FROM promises ORDER BY calling_ae").fetchall()
    except sqlite3.Error:
        return []
    return [str(row[0]) for row in rows]


class CommitmentStatements(Statements):
    """What the index knows of storage commitment."""

    # -- asked of others

    def queue_commit(self, job: Job, run_key: str, destination: str, now: float) -> None:
        """Queue the request that a destination commits to the results of a run; call it inside `transaction`."""
        self._run(
            """INSERT INTO jobs (kind, subject, study, revision, route, target, run_key, state, due, created)
            VALUES ('commit', ?1, ?2, ?3, ?4, ?5, ?1, 'queued', ?6, ?6)
            ON CONFLICT (study, kind, subject, target) DO UPDATE SET state = 'queued', attempts = 0, outcome = '',
                reason = '', revision = excluded.revision, due = excluded.due, created = excluded.created,
                finished = NULL
            WHERE jobs.state != 'running'""",
            run_key,
            job.study,
            job.revision,
            job.route,
            destination,
            now,
        )

    def to_commit(self, job: Job) -> list[tuple[str, str]]:
        """The results of a run that a destination has stored and not committed to: (SOP class, SOP instance)."""
        with self._lock:
            return [
                (str(row[0]), str(row[1]))
                for row in self._db.conn.execute(
                    f"""SELECT r.sop_class_uid, r.sop_instance_uid
                    FROM (SELECT subject FROM jobs
                        WHERE study = :study AND target = :target AND run_key = :run_key AND {_STORED}
                            AND NOT {IS_WITHDRAWN}) s
                        CROSS JOIN results r ON r.sop_instance_uid = s.subject
                    WHERE r.sop_instance_uid NOT IN (SELECT sop_instance_uid FROM committed WHERE job = :job)
                    ORDER BY r.position""",  # noqa: S608 - our own words
                    self._of(job),
                )
            ]

    @staticmethod
    def _of(job: Job) -> dict[str, object]:
        return {
            "job": job.id,
            "study": job.study,
            "target": job.target,
            "run_key": job.run_key,
        }

    def has_committed(self, job: Job) -> bool:
        """Whether the destination has committed to anything of a run."""
        return bool(self._rows("SELECT 1 FROM committed WHERE job = ? LIMIT 1", job.id))

    def note_ask(self, transaction_uid: str, job: Job, now: float) -> None:
        """Record a request before it is sent to the destination."""
        with self.transaction():
            # The time for the destination's answers begins with the first request, not with the reading.
            self._run(
                """UPDATE jobs SET created = ?1
                WHERE id = ?2 AND NOT EXISTS (SELECT 1 FROM asks WHERE job = ?2 AND asked >= ?3)""",
                now,
                job.id,
                job.created,
            )
            self._run("INSERT INTO asks (transaction_uid, job, asked) VALUES (?, ?, ?)", transaction_uid, job.id, now)

    def forget_ask(self, transaction_uid: str) -> None:
        """Delete a request that the destination refused: it will not answer it."""
        with self.transaction():
            self._run("DELETE FROM asks WHERE transaction_uid = ?", transaction_uid)

    def asks_of(self, job: Job) -> list[Ask]:
        """The requests of a job since it was queued, oldest first."""
        rows = self._rows(
            """SELECT answered, refusal FROM asks
            WHERE job = ? AND asked >= ? ORDER BY asked""",
            job.id,
            job.created,
        )
        return [Ask(*row) for row in rows]

    def is_answered(self, transaction_uid: str) -> bool:
        """Whether the answer to a request has come."""
        rows = self._rows("SELECT 1 FROM asks WHERE transaction_uid = ? AND answered IS NOT NULL", transaction_uid)
        return bool(rows)

    def settle_ask(
        self, transaction_uid: str, committed: Collection[str], missing: Collection[str], refusal: str, now: float
    ) -> str | None:
        """Record the answer to a request. What the destination does not have (``missing``) is queued to be sent again.

        Objects that the request did not name are ignored. ``refusal`` is why the destination will never commit to the
        rest; empty if it may.

        Returns:
            the destination; None if we made no such request.
        """
        with self.transaction():
            row = self._run(
                """SELECT j.id, j.study, j.target, j.run_key, j.state FROM asks a CROSS JOIN jobs j ON j.id = a.job
                WHERE a.transaction_uid = ? AND j.kind = 'commit'""",
                transaction_uid,
            ).fetchone()
            if row is None:
                return None
            job, study, target, run_key, state = row
            self._run(
                """INSERT OR IGNORE INTO committed SELECT ?, subject FROM jobs
                WHERE kind = 'send' AND study = ? AND target = ? AND run_key = ?
                    AND subject IN (SELECT value FROM json_each(?))""",
                job,
                study,
                target,
                run_key,
                json.dumps(list(committed)),
            )
            again = self._db.conn.execute(
                f"""UPDATE jobs SET state = 'queued', attempts = 0, due = :now, created = :now, finished = NULL,
                    outcome = '', reason = ''
                WHERE study = :study AND target = :target AND run_key = :run_key AND {_STORED}
                    AND subject IN (SELECT value FROM json_each(:missing)) AND NOT {IS_WITHDRAWN}
                    AND subject NOT IN (SELECT sop_instance_uid FROM committed WHERE job = :job)""",  # noqa: S608 - our own words
                {
                    "job": job,
                    "study": study,
                    "target": target,
                    "run_key": run_key,
                    "now": now,
                    # Nothing is sent again of a run that is superseded or committed to.
                    "missing": json.dumps([] if state == "done" else list(missing)),
                },
            ).rowcount
            self._run(
                "UPDATE asks SET answered = ?, missing = ?, refusal = ? WHERE transaction_uid = ?",
                now,
                again,
                refusal,
                transaction_uid,
            )
            self._run(
                """UPDATE jobs SET state = 'queued', due = min(due, ?), finished = NULL, outcome = ''
                WHERE id = ? AND state IN ('queued', 'failed')""",  # an answer revives a job that had failed
                now,
                job,
            )
            return str(target)

    def ask_again(self, now: float) -> None:
        """Repeat every unanswered request now: its answer may have come while the node did not listen."""
        with self.transaction():
            self._run("UPDATE jobs SET due = min(due, ?) WHERE kind = 'commit' AND state = 'queued'", now)

    def waive(self, kind: JobKind, destinations: Sequence[str], reason: str, now: float) -> int:
        """End the queued jobs "commit" or "withdraw" of every destination that is not among ``destinations``."""
        with self.transaction():
            return self._run(
                """UPDATE jobs SET state = 'done', outcome = 'waived', finished = ?, reason = ?
                WHERE state = 'queued' AND kind = ? AND target NOT IN (SELECT value FROM json_each(?))""",
                now,
                reason,
                kind,
                json.dumps(list(destinations)),
            ).rowcount

    # -- asked of us

    def add_promise(self, promise: Promise, peer: str | None, now: float) -> None:
        """Record a peer's request for commitment before it is answered 0000.

        If the configuration says where to reach the caller (``peer``), the job that carries our answer is queued.
        """
        with self.transaction():
            study = self._run(
                "SELECT study FROM instances WHERE sop_instance_uid IN (SELECT value FROM json_each(?)) LIMIT 1",
                json.dumps(list(promise.instances)),
            ).fetchone()
            number = self._run(
                """INSERT INTO promises (transaction_uid, calling_ae, asked, instances) VALUES (?, ?, ?, ?)
                ON CONFLICT (transaction_uid, calling_ae)
                    DO UPDATE SET asked = excluded.asked, instances = excluded.instances
                RETURNING id""",
                promise.transaction_uid,
                promise.calling_ae,
                now,
                json.dumps(promise.instances),
            ).fetchone()[0]
            if peer is not None:
                values = (study[0] if study is not None else None, str(number), peer, now)
                again = self._run(
                    """UPDATE jobs SET state = 'queued', attempts = 0, due = ?4, created = ?4, finished = NULL,
                        outcome = '', reason = ''
                    WHERE study IS ?1 AND kind = 'promise' AND subject = ?2 AND target = ?3 AND state != 'running'""",
                    *values,
                ).rowcount
                if not again:
                    self._run(
                        """INSERT INTO jobs (kind, subject, study, revision, route, target, state, due, created)
                        VALUES ('promise', ?2, ?1, 0, '', ?3, 'queued', ?4, ?4) ON CONFLICT DO NOTHING""",
                        *values,
                    )

    def promise(self, number: int) -> Promise | None:
        """A peer's request for commitment, by its number."""
        rows = self._rows("SELECT transaction_uid, calling_ae, instances FROM promises WHERE id = ?", number)
        return Promise(rows[0][0], rows[0][1], json.loads(rows[0][2])) if rows else None

    def held(self, instances: Collection[str]) -> dict[str, tuple[str, str, int]]:
        """Those of some instances that we hold: SOP instance to (SOP class, file, bytes of the file)."""
        rows = self._rows(
            """SELECT sop_instance_uid, sop_class_uid, file, bytes FROM instances
            WHERE newest = 1 AND removed IS NULL AND sop_instance_uid IN (SELECT value FROM json_each(?))""",
            json.dumps(list(instances)),
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def note_promised(self, instances: Collection[str], now: float) -> set[str]:
        """Record that we commit to instances; retention, which may have come first, cannot remove them from then on.

        Returns:
            those that are still here: only to these may the peer be told that we commit.
        """
        uids = json.dumps(list(instances))
        with self.transaction():
            here = self._run(
                """SELECT DISTINCT sop_instance_uid FROM instances
                WHERE newest = 1 AND removed IS NULL AND sop_instance_uid IN (SELECT value FROM json_each(?))""",
                uids,
            ).fetchall()
            self._run(
                """INSERT INTO promised SELECT value, ?2 FROM json_each(?1) WHERE true
                ON CONFLICT (sop_instance_uid) DO UPDATE SET given = max(given, excluded.given)""",
                json.dumps(sorted({row[0] for row in here})),
                now,
            )
        return {row[0] for row in here}
