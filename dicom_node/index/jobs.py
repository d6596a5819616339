"""Jobs: queued, claimed with one statement, and finished in one transaction with everything that they lead to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from dicom_node.index.job_kinds import JOB_KINDS, cannot_be_revived, kinds_that_read, queued_turn_of, turn_of
from dicom_node.index.rows import Job, JobKind, Outcome
from dicom_node.index.statements import Statements

_MOVES = (
    """UPDATE asks SET asked = asked + :step, answered = answered + :step
        WHERE job IN (SELECT id FROM jobs WHERE state IN ('queued', 'running'))""",
    """UPDATE jobs SET due = due + :step, created = created + :step, started = started + :step,
        lease_until = lease_until + :step WHERE state IN ('queued', 'running')""",
    "UPDATE jobs SET finished = finished + :step WHERE finished >= :since",
    """UPDATE instances SET received = received + :step
        WHERE received >= :since AND study IN (SELECT study FROM studies WHERE last_received >= :since)""",
    """UPDATE studies SET first_received = iif(first_received >= :since, first_received + :step, first_received),
        last_received = iif(last_received >= :since OR completed IS NULL, last_received + :step, last_received),
        completed = iif(completed >= :since, completed + :step, completed)
        WHERE last_received >= :since OR completed IS NULL OR completed >= :since""",
    """UPDATE steps SET changed = changed + :step, created = iif(created >= :since, created + :step, created)
        WHERE changed >= :since""",
    "UPDATE promised SET given = given + :step WHERE given >= :since",
    "UPDATE readings SET created = created + :step WHERE created >= :since",
)
_NOT_AHEAD = (  # no job but "commit" waits for longer, and commitment is asked for again at each start
    """UPDATE jobs SET due = min(due, :now + 120.0), created = min(created, :now)
        WHERE state = 'queued' AND kind != 'commit' AND (due > :now + 120.0 OR created > :now + 60.0)""",
    "UPDATE studies SET last_received = :now WHERE completed IS NULL AND last_received > :now + 60.0",
)


class JobStatements(Statements):
    """The queue."""

    def requeue_running(self, now: float) -> int:
        """Queue again the jobs that a dead node had in work. Only the node that holds the folder's lock may call this.

        A power cut or a kill says little about a study. So the attempt does not count; the death is counted apart. But
        a study may be what ends the node, and it must not block the others: a job that reads waits behind all queued
        ones, and longer after each death (0 s, 2 s, 6 s ... 60 s). The wait is scattered by 20 %, so that two studies
        that ran at the same time do not always run together again. `Patience` says how many deaths are too many.

        A delivery that was superseded while it was sent ends here, as in :meth:`_settle`.
        """
        with self.transaction():
            return self._db.conn.execute(
                f"""UPDATE jobs SET state = iif(outcome = 'superseded', 'done', 'queued'), lease_until = NULL,
                    token = NULL, attempts = attempts - 1, deaths = deaths + 1,
                    due = :now + iif(kind NOT IN {kinds_that_read()}, 0.0,
                        min((2 << min(deaths, 9)) - 2, 60) * (0.8 + 0.4 * (random() & 1023) / 1023.0))
                WHERE state = 'running'""",  # noqa: S608 - our own words
                {"now": now},
            ).rowcount

    def fail_unknown(self, kind: JobKind, targets: Sequence[str], reason: str, now: float) -> int:
        """Fail every queued job of a kind whose target is not among ``targets``.

        Returns:
            the number of failed jobs.
        """
        marks = ", ".join("?" * len(targets))
        with self.transaction():
            return self._run(
                f"""UPDATE jobs SET state = 'failed', outcome = 'failed', finished = ?, reason = ?
                WHERE state = 'queued' AND kind = ? AND target NOT IN ({marks})""",  # noqa: S608 - marks alone
                now,
                reason,
                kind,
                *targets,
            ).rowcount

    def claim(self, kind: JobKind, target: str | None, now: float, lease_seconds: float) -> Job | None:
        """Claim the oldest due job of a kind (and target) whose turn it is (`job_kinds`); None if there is none.

        A job whose lease has expired can be claimed again.
        """
        values = {
            "kind": kind,
            "target": target,
            "now": now,
            "lease_until": now + lease_seconds,
            "token": uuid.uuid4().hex,
        }
        with self.transaction():
            # The queued jobs cost one step into an index; the running ones are few.
            row = self._db.conn.execute(
                f"""UPDATE jobs SET state = 'running', attempts = attempts + 1, token = :token,
                    lease_until = :lease_until, started = coalesce(started, :now)
                WHERE id = (
                    SELECT id FROM (
                        SELECT * FROM (SELECT id, due FROM jobs
                            WHERE {queued_turn_of(kind, target)} AND due <= :now ORDER BY due, id LIMIT 1)
                        UNION ALL
                        SELECT id, due FROM jobs
                            WHERE state = 'running' AND {turn_of(kind, target)} AND lease_until <= :now)
                    ORDER BY due, id LIMIT 1)
                RETURNING id, kind, subject, coalesce(study, ''), revision, route, target, run_key, attempts, created,
                    token, deaths""",  # noqa: S608 - our own words
                values,
            ).fetchone()
        return Job(*row) if row else None

    def is_waiting(self, kind: JobKind, count: int) -> bool:
        """Whether at least ``count`` jobs of a kind are queued."""
        counted = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'queued' AND kind = ? LIMIT ?)"
        return bool(self._rows(counted, kind, count)[0][0] == count)

    def studies_waiting(self, least: int) -> int:
        """The number of studies with a queued reading; 0 if there are fewer than ``least``, which is known at once."""
        if not self.is_waiting("read", least):
            return 0
        (row,) = self._rows("SELECT count(DISTINCT study) FROM jobs WHERE state = 'queued' AND kind = 'read'")
        return int(row[0]) if row[0] >= least else 0

    def next_due(self, kind: JobKind, target: str | None) -> float | None:
        """When the next queued job of a kind (and target) is due (epoch s); None if none is queued or has its turn."""
        sql = f"SELECT min(due) FROM jobs WHERE {queued_turn_of(kind, target)}"  # noqa: S608 - our own words
        with self._lock:
            (due,) = self._db.conn.execute(sql, {"kind": kind, "target": target}).fetchone()
        return None if due is None else float(due)

    def finish(
        self, job: Job, now: float, *, outcome: Outcome | None = None, reason: str = "", run_key: str | None = None
    ) -> bool:
        """Mark a job done, if this worker still holds it; call it inside `transaction` with the job's effects.

        ``outcome`` None is the success of its kind (`job_kinds`).

        Returns:
            False where another worker took the job over: the caller then rolls back.
        """
        ended = outcome or JOB_KINDS[job.kind].success
        return self._settle(job, "done", ended, reason, due=now, finished=now, run_key=run_key)

    def retry_later(self, job: Job, due: float, reason: str) -> bool:
        """Queue a job again."""
        with self.transaction():
            return self._settle(job, "queued", "", reason, due=due, finished=None)

    def give_back(self, job: Job, now: float) -> bool:
        """Queue a job again that was interrupted by the node, not by a fault of its own; the attempt does not count."""
        with self.transaction():
            self._run("UPDATE jobs SET attempts = attempts - 1 WHERE id = ? AND token = ?", job.id, job.token)
            return self._settle(job, "queued", "", "", due=now, finished=None)

    def fail(self, job: Job, now: float, reason: str, *, run_key: str | None = None) -> bool:
        """End a job as failed, until somebody revives it; ``run_key`` is that of the report of the failure."""
        with self.transaction():
            return self._settle(job, "failed", "failed", reason, due=now, finished=now, run_key=run_key)

    def _settle(
        self,
        job: Job,
        state: str,
        outcome: Outcome,
        reason: str,
        *,
        due: float,
        finished: float | None,
        run_key: str | None = None,
    ) -> bool:
        values = {
            "id": job.id,
            "token": job.token,
            "state": state,
            "outcome": outcome,
            "due": due,
            "finished": finished,
            "reason": reason,
            "run_key": run_key,
        }
        # A delivery that was superseded while it was sent, and did not arrive, is not sent again.
        changed = self._db.conn.execute(
            """UPDATE jobs SET state = iif(off, 'done', :state), outcome = iif(off, jobs.outcome, :outcome), due = :due,
                finished = iif(off, :due, :finished), reason = iif(off, jobs.reason, :reason),
                run_key = coalesce(:run_key, run_key), lease_until = NULL, token = NULL
            FROM (SELECT id AS job, :state != 'done' AND outcome = 'superseded' AS off FROM jobs WHERE id = :id)
            WHERE id = job AND token = :token AND state = 'running'""",
            values,
        ).rowcount
        return changed == 1

    def revive(self, study: str | None, now: float) -> int:
        """Queue every failed job again, of one study or of all; its attempts and the node's deaths count from 0 again.

        An object that a destination did not take is offered again: the destination may take its kind now. A job whose
        files retention has removed stays failed.

        Returns:
            the number of revived jobs.
        """
        with self.transaction():
            of_study = "" if study is None else "study = :study AND"
            revived = self._db.conn.execute(
                f"""UPDATE jobs SET state = 'queued', attempts = 0, deaths = 0, due = :now, created = :now,
                    finished = NULL, outcome = '', reason = '',
                    run_key = iif(kind IN {kinds_that_read()}, NULL, run_key)
                WHERE {of_study} (state = 'failed' OR (state = 'done' AND outcome = 'not taken'))
                    AND NOT {cannot_be_revived()}""",  # noqa: S608 - our own words
                {"study": study, "now": now},
            ).rowcount
            if revived:  # the destination must commit to what arrives now
                self._run(
                    """UPDATE jobs SET state = 'queued', attempts = 0, due = ?1, created = ?1, finished = NULL,
                        outcome = '', reason = ''
                    WHERE kind = 'commit' AND state = 'done' AND (study, target, run_key) IN
                        (SELECT study, target, run_key FROM jobs WHERE kind = 'send' AND state = 'queued')""",
                    now,
                )
                self._run(  # what is read now is compared again
                    """UPDATE jobs SET state = 'queued', attempts = 0, due = ?1, created = ?1, finished = NULL,
                        outcome = '', reason = '', run_key = NULL
                    WHERE kind = 'summary' AND state = 'done' AND outcome != 'superseded' AND (study, revision) IN
                        (SELECT study, revision FROM jobs WHERE kind = 'read' AND state = 'queued')""",
                    now,
                )
            return int(revived)

    # -- the clock was set

    def newest_time(self) -> float:
        """When the newest image of all came (epoch s); 0.0 if there is none."""
        return float(self._rows("SELECT coalesce(max(last_received), 0.0) FROM studies")[0][0])

    def move_times(self, since: float, step: float) -> None:
        """Move what was written by the clock of before by the step that the clock has made (s; negative: back).

        So every wait goes on as if nothing had happened, and what came a moment ago is not old. Moved are the times of
        open studies and open jobs, and all others ``since`` the start of this run (epoch s, before the step). Call it
        inside `transaction`, together with the step of the node's own clock.
        """
        for statement in _MOVES:
            self._db.conn.execute(statement, {"since": since, "step": step})

    def no_times_ahead(self, now: float) -> None:
        """Bring times that lie ahead of the clock back to it: it was set back while the node did not run."""
        with self.transaction():
            for statement in _NOT_AHEAD:
                self._db.conn.execute(statement, {"now": now})
