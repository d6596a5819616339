"""The index: one SQLite file with every study, instance, job, reading and result, and every statement that touches it.

One connection serves the whole node, behind one lock: every statement is short, and SQLite writes one at a time anyway.
``synchronous=FULL`` in WAL mode makes a commit durable before it returns; that is what a C-STORE success stands on.

A study is ``receiving`` until it is completed. What it is after that is never stored but follows from its jobs
(`studies_with_state`), so the two cannot disagree.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from dicom_node.errors import ConfigError
from dicom_node.index.commitments import CommitmentStatements
from dicom_node.index.migrations import MIGRATIONS, SCHEMA
from dicom_node.index.procedure_steps import StepStatements
from dicom_node.index.rows import (
    CALLED_OFF,
    NOT_TAKEN,
    Job,
    JobKind,
    NewInstance,
    NewReading,
    NewResult,
    OpenStudy,
    Received,
    StoredInstance,
    StoredReport,
    StoredResult,
    StoredSeries,
)

INDEX_FILE = "index.sqlite"  # in the data folder

# A reading in shadow waits until no study waits for its own: it never stands in front of a result.
# Asked of each state alone: each has an index of its own.
_ITS_TURN = """(NOT EXISTS (SELECT 1 FROM jobs r WHERE r.kind = 'read' AND r.state = 'queued')
    AND NOT EXISTS (SELECT 1 FROM jobs r WHERE r.kind = 'read' AND r.state = 'running'))"""

_STUDY_IS_FREE = """NOT EXISTS
    (SELECT 1 FROM jobs r WHERE r.state = 'running' AND r.kind = 'read' AND r.study = jobs.study)"""

_ALL_IS_SENT = """NOT EXISTS (SELECT 1 FROM jobs s
    WHERE s.study = jobs.study AND s.kind = 'send' AND s.target = jobs.target AND s.run_key = jobs.run_key
        AND s.state IN ('queued', 'running'))"""

_NEWEST = "SELECT * FROM studies ORDER BY last_received DESC LIMIT :limit"
_ONE = "SELECT * FROM studies WHERE study = :study"
_OLD = """SELECT * FROM studies WHERE completed IS NOT NULL AND kept = 1
    AND last_received < :before AND (last_received, study) > (:after, :study)
    ORDER BY last_received, study LIMIT :limit"""
# A job whose files retention has removed: a result cannot be sent again, and no image is left to be read.
_WITHOUT_FILES = """(kind = 'send' AND EXISTS
        (SELECT 1 FROM results r WHERE r.sop_instance_uid = jobs.subject AND r.removed IS NOT NULL)
    OR kind IN ('read', 'shadow') AND NOT EXISTS
        (SELECT 1 FROM instances i WHERE i.study = jobs.study AND NOT i.own AND i.removed IS NULL))"""

# What belongs to a revision: its read jobs, and of the results that they ended with the sending and commitment.
# CROSS JOIN begins with what is listed: left to choose, SQLite begins with every job that there ever was.
_STATE = """
    WITH listed AS MATERIALIZED ({listed}),
    reads AS MATERIALIZED (
        SELECT l.study, j.kind, j.state, j.run_key, j.reason, j.finished
        FROM listed l CROSS JOIN jobs j ON j.study = l.study AND j.revision = l.revision AND j.kind = 'read'
    ),
    work AS (
        SELECT * FROM reads
        UNION ALL
        SELECT r.study, s.kind, s.state, s.run_key, s.reason, s.finished
        FROM reads r CROSS JOIN jobs s
            ON s.study = r.study AND s.run_key = r.run_key AND s.kind IN ('send', 'commit')
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
            json_group_array(DISTINCT reason) FILTER (WHERE state = 'done' AND reason LIKE :not_taken) AS not_taken
        FROM work GROUP BY study
    )
    SELECT l.*, told.read, told.delivered, coalesce(nullif(told.failure, ''), told.reason) AS reason,
        coalesce(told.not_taken, '[]') AS not_taken,
        (SELECT count(*) FROM instances i WHERE i.study = l.study) AS instances,
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


def open_index(data_dir: Path) -> Index:
    """The index of a data folder, beside the node that may be running on it.

    Raises:
        ConfigError: there is none, or it cannot be opened.
    """
    file = data_dir / INDEX_FILE
    if not file.exists():
        raise ConfigError(f"{file}: is not there; no node has run on this data_dir yet")
    return Index(file)


class Index(CommitmentStatements, StepStatements):
    """The tables of one node. Every method is one transaction; times (``now``) are epoch seconds and are passed in."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open the index; with ``create`` (the node itself) make or upgrade it first.

        Raises:
            ConfigError: there is no index to read, or it cannot be opened.
        """
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
                with self._db.atomic():  # all of an upgrade or nothing: a version in between is one that nobody tested
                    SCHEMA.apply(self._db)
            elif SCHEMA.pending(self._db):
                conn.close()
                raise ConfigError(
                    f"{path}: was made by an earlier version; start the node once, which brings it up to date"
                )
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute("PRAGMA foreign_keys=ON")
            conn.execute("SELECT 1 FROM studies LIMIT 1")
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: the index cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- receiving

    def node_id(self) -> str:
        """What tells this installation from every other one; made once."""
        with self.transaction():
            row = self._run("SELECT id FROM node").fetchone()
            if row is None:
                row = (str(uuid.uuid4()),)
                self._run("INSERT INTO node VALUES (?)", row[0])
            return str(row[0])

    def received(self, sop_instance_uid: str) -> Received | None:
        """What we hold of an instance, or None where we do not have it."""
        rows = self._rows(
            """SELECT study, transfer_syntax_uid, own, edition, file, bytes, received, removed
            FROM instances WHERE sop_instance_uid = ?""",
            sop_instance_uid,
        )
        return Received(**dict(rows[0])) if rows else None

    def known_files(self, names: Collection[str]) -> set[str]:
        """Which of some files of received instances are recorded as being there; it looks through all."""
        sql = "SELECT file FROM instances WHERE removed IS NULL AND file IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._rows(sql, json.dumps(list(names)))}

    def replace_file(self, sop_instance_uid: str, file: str, size: int, transfer_syntax_uid: str, now: float) -> None:
        """Record the new file of an instance whose old one was gone, damaged or removed.

        One that was removed counts as received now: it is not removed again at once.
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

        Our own results coming back to us (a PACS that forwards everything) are recorded, and re-open nothing.

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

    def correct_instance(self, new: NewInstance, edition: int, now: float) -> None:
        """Record that a corrected instance takes the place of the one before; its study is opened again."""
        with self.transaction():
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
        """Have a study receive an instance: a completed one is opened again as its next revision, which is returned."""
        known = self._run("SELECT revision, completed FROM studies WHERE study = ?", new.study).fetchone()
        if known is not None and known["completed"] is None:
            # Nearly every instance: naming more columns would write the index of open studies again, too.
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

    # -- completing and routing

    def open_studies(self) -> list[OpenStudy]:
        """Every study that still receives."""
        rows = self._rows("SELECT study, revision, last_received FROM studies WHERE completed IS NULL")
        return [OpenStudy(*row) for row in rows]

    def series_of(self, study: str) -> list[StoredSeries]:
        """The series of a study, without our own results, each as often as its instances differ in what they say."""
        rows = self._rows(
            """SELECT s.series, modality, body_part, study_description, series_description,
                (SELECT json_group_array(DISTINCT calling_ae) FROM instances i
                 WHERE i.study = s.study AND i.series = s.series AND NOT i.own) AS callers
            FROM series s WHERE study = ? ORDER BY s.series""",
            study,
        )
        return [StoredSeries(**{**dict(row), "callers": tuple(json.loads(row["callers"]))}) for row in rows]

    def count_with(self, study: str, peer: str) -> int:
        """How many instances of a study exist that a peer could have: those that we received, and what we sent it."""
        rows = self._rows(
            """SELECT count(*) FROM (SELECT sop_instance_uid FROM instances WHERE study = ?1
                UNION SELECT subject FROM jobs WHERE study = ?1 AND kind = 'send' AND target = ?2 AND state = 'done'
                    AND reason NOT LIKE ?3 AND reason NOT LIKE ?4)""",
            study,
            peer,
            f"{NOT_TAKEN}%",
            f"{CALLED_OFF}%",
        )
        return int(rows[0][0])

    def instances_of(self, study: str) -> list[StoredInstance]:
        """The received instances of a study, without our own results, in an order that does not change.

        Those whose files retention has removed are not among them.
        """
        return self._instances(study, "removed IS NULL")

    def removed_from(self, study: str) -> list[StoredInstance]:
        """Those that `instances_of` leaves out."""
        return self._instances(study, "removed IS NOT NULL")

    def _instances(self, study: str, condition: str) -> list[StoredInstance]:
        rows = self._rows(
            f"""SELECT sop_instance_uid, sop_class_uid, series, calling_ae, file, edition FROM instances
            WHERE study = ? AND NOT own AND {condition} ORDER BY series, sop_instance_uid""",  # noqa: S608 - our own words
            study,
        )
        return [StoredInstance(*row) for row in rows]

    def complete(
        self,
        study: str,
        revision: int,
        last_received: float,
        routes: Sequence[tuple[str, str]],
        now: float,
        *,
        shadows: Sequence[tuple[str, str]] = (),
        evidence: str = "",
    ) -> bool:
        """Complete a study and queue one read job for each (route, model), unless an instance came in between.

        ``shadows`` are the (route, model) that read it in shadow; the study's state does not depend on them.
        ``evidence`` is what says that it is complete, for a person.

        Returns:
            whether it was completed; False leaves everything as it was.
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
            for kind, route, model in (*(("read", *each) for each in routes), *(("shadow", *each) for each in shadows)):
                self._run(
                    """INSERT INTO jobs (kind, subject, study, revision, route, target, state, due, created)
                    VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?) ON CONFLICT DO NOTHING""",
                    kind,
                    f"{study}/{revision}",
                    study,
                    revision,
                    route,
                    model,
                    now,
                    now,
                )
            return True

    # -- working

    def requeue_running(self, now: float) -> int:
        """Queue again what a node that is gone was doing; only for the one node that holds the folder's lock.

        A power cut or a kill tells little about a study, so the attempt does not count: the death does, apart from
        them. But a study may be what ends the node, and must not keep the others from being read: it comes behind all
        that wait, and later with each death (at once, 2 s, 6 s ... a minute; scattered, so that two which ran at the
        same time are not suspected together for ever). `Patience` says how many deaths are too many.

        What was called off while it was being sent ends instead, as in :meth:`_settle`.
        """
        with self.transaction():
            return self._db.conn.execute(
                """UPDATE jobs SET state = iif(reason LIKE :called_off, 'done', 'queued'), lease_until = NULL,
                    token = NULL, attempts = attempts - 1, deaths = deaths + 1,
                    due = :now + iif(kind NOT IN ('read', 'shadow'), 0.0,
                        min((2 << min(deaths, 9)) - 2, 60) * (0.8 + 0.4 * (random() & 1023) / 1023.0))
                WHERE state = 'running'""",
                {"called_off": f"{CALLED_OFF}%", "now": now},
            ).rowcount

    def fail_unknown(self, kind: JobKind, targets: Sequence[str], reason: str, now: float) -> int:
        """Fail every queued job of a kind whose target is none of ``targets``.

        Returns:
            how many there were.
        """
        marks = ", ".join("?" * len(targets))
        with self.transaction():
            return self._run(
                f"""UPDATE jobs SET state = 'failed', finished = ?, reason = ?
                WHERE state = 'queued' AND kind = ? AND target NOT IN ({marks})""",  # noqa: S608 - marks alone
                now,
                reason,
                kind,
                *targets,
            ).rowcount

    def claim(self, kind: JobKind, target: str | None, now: float, lease_seconds: float) -> Job | None:
        """Take the oldest due job of a kind (and target); an expired lease is claimable again.

        One of the kind "shadow" is given only while no job of the kind "read" is queued or running. Of one study no two
        are read at a time: the report on fewer images would not know of the one on all of them.
        """
        values = {
            "kind": kind,
            "target": target,
            "now": now,
            "lease_until": now + lease_seconds,
            "token": uuid.uuid4().hex,
        }
        with self.transaction():
            # First of what is queued, which is one step into an index, and of what is running, which is a few jobs.
            row = self._db.conn.execute(
                f"""UPDATE jobs SET state = 'running', attempts = attempts + 1, token = :token,
                    lease_until = :lease_until, started = coalesce(started, :now)
                WHERE id = (
                    SELECT id FROM (
                        SELECT * FROM (SELECT id, due FROM jobs
                            WHERE {_queued(kind, target)} AND due <= :now ORDER BY due, id LIMIT 1)
                        UNION ALL
                        SELECT id, due FROM jobs
                            WHERE state = 'running' AND {_of(kind, target)} AND lease_until <= :now)
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
        """How many studies have a reading queued; 0 where it is fewer than ``least``, which is told at once."""
        if not self.is_waiting("read", least):
            return 0
        (row,) = self._rows("SELECT count(DISTINCT study) FROM jobs WHERE state = 'queued' AND kind = 'read'")
        return int(row[0]) if row[0] >= least else 0

    def knows(self, study: str) -> bool:
        """Whether anything of a study was ever received."""
        return bool(self._rows("SELECT 1 FROM studies WHERE study = ?", study))

    def next_due(self, kind: JobKind, target: str | None) -> float | None:
        """When the next queued job of a kind (and target) is due; None where none is, or it is not its turn yet."""
        sql = f"SELECT min(due) FROM jobs WHERE {_queued(kind, target)}"  # noqa: S608 - our own words
        with self._lock:
            (due,) = self._db.conn.execute(sql, {"kind": kind, "target": target}).fetchone()
        return None if due is None else float(due)

    def finish(self, job: Job, now: float, *, reason: str = "", run_key: str | None = None) -> bool:
        """Mark a job done, if this worker still holds it; call it inside `transaction` with the job's effects.

        Returns:
            False where another worker took the job over: the caller then rolls back.
        """
        return self._settle(job, "done", reason, due=now, finished=now, run_key=run_key)

    def retry_later(self, job: Job, due: float, reason: str) -> bool:
        """Queue a job again."""
        with self.transaction():
            return self._settle(job, "queued", reason, due=due, finished=None)

    def give_back(self, job: Job, now: float) -> bool:
        """Queue a job again that was cut off by no fault of its own; the attempt does not count."""
        with self.transaction():
            self._run("UPDATE jobs SET attempts = attempts - 1 WHERE id = ? AND token = ?", job.id, job.token)
            return self._settle(job, "queued", "", due=now, finished=None)

    def fail(self, job: Job, now: float, reason: str, *, run_key: str | None = None) -> bool:
        """End a job as failed, until somebody revives it; ``run_key`` is that of the report that says so."""
        with self.transaction():
            return self._settle(job, "failed", reason, due=now, finished=now, run_key=run_key)

    def _settle(
        self, job: Job, state: str, reason: str, *, due: float, finished: float | None, run_key: str | None = None
    ) -> bool:
        values = {
            "id": job.id,
            "token": job.token,
            "state": state,
            "due": due,
            "finished": finished,
            "reason": reason,
            "run_key": run_key,
            "called_off": f"{CALLED_OFF}%",
        }
        # What was called off while it was being sent, and did not arrive, is not sent again.
        changed = self._db.conn.execute(
            """UPDATE jobs SET state = iif(off, 'done', :state), due = :due, finished = iif(off, :due, :finished),
                reason = iif(off, jobs.reason, :reason), run_key = coalesce(:run_key, run_key),
                lease_until = NULL, token = NULL
            FROM (SELECT id AS job, :state != 'done' AND reason LIKE :called_off AS off FROM jobs WHERE id = :id)
            WHERE id = job AND token = :token AND state = 'running'""",
            values,
        ).rowcount
        return changed == 1

    def revive(self, study: str | None, now: float) -> int:
        """Queue every failed job again (of one study, or of all) with its attempts and the node's deaths forgotten.

        What a destination did not take is offered again, too: its settings may have been mended. What needs files that
        retention has removed stays as it is.

        Returns:
            how many were revived.
        """
        with self.transaction():
            of_study = "" if study is None else "study = :study AND"
            revived = self._db.conn.execute(
                f"""UPDATE jobs SET state = 'queued', attempts = 0, deaths = 0, due = :now, created = :now,
                    finished = NULL, reason = '', run_key = iif(kind IN ('send', 'commit'), run_key, NULL)
                WHERE {of_study} (state = 'failed' OR (state = 'done' AND reason LIKE :not_taken))
                    AND NOT {_WITHOUT_FILES}""",  # noqa: S608 - our own words
                {"study": study, "now": now, "not_taken": f"{NOT_TAKEN}%"},
            ).rowcount
            if revived:  # what arrives now is to be committed to as well
                self._run(
                    """UPDATE jobs SET state = 'queued', attempts = 0, due = ?1, created = ?1, finished = NULL,
                        reason = ''
                    WHERE kind = 'commit' AND state = 'done' AND (study, target, run_key) IN
                        (SELECT study, target, run_key FROM jobs WHERE kind = 'send' AND state = 'queued')""",
                    now,
                )
            return int(revived)

    # -- reading and results

    def known_runs(self, study: str) -> dict[str, frozenset[str]]:
        """The key of every run of a study, with the profiles (digests) that it has results for."""
        known: dict[str, set[str]] = {}
        for row in self._rows(
            """SELECT g.run_key, r.profile FROM readings g LEFT JOIN results r ON r.run_key = g.run_key
            WHERE g.study = ?""",
            study,
        ):
            known.setdefault(row[0], set()).add(row[1] or "")
        return {key: frozenset(profiles) for key, profiles in known.items()}

    def add_reading(self, reading: NewReading, results: Sequence[NewResult]) -> None:
        """Record a reading with its result files; inside `transaction`, together with `finish`.

        A reading that is known already gets the files of another profile. One that was made in shadow, and is now made
        for a route, counts from now on.
        """
        self._run(
            """INSERT INTO readings (run_key, study, model, version, digest, created, reading, shadow)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (run_key) DO UPDATE SET created = excluded.created, reading = excluded.reading, shadow = 0
            WHERE readings.shadow AND NOT excluded.shadow""",
            reading.run_key,
            reading.study,
            reading.model,
            reading.version,
            reading.digest,
            reading.created,
            reading.reading,
            int(reading.shadow),
        )
        for r in results:
            self._run(
                """INSERT INTO results (sop_instance_uid, sop_class_uid, series, run_key, position, role, file, bytes,
                    profile) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                r.sop_instance_uid,
                r.sop_class_uid,
                r.series,
                reading.run_key,
                r.position,
                r.role,
                r.file,
                r.bytes,
                r.profile,
            )

    def queue_sends(
        self,
        job: Job,
        run_key: str,
        destinations: Sequence[tuple[str, str]],
        now: float,
        *,
        committing: Collection[str] = (),
    ) -> int:
        """Queue each result of a run to each destination that it was made for, once ever.

        Call it inside `transaction`, together with `finish` or `fail`. ``destinations`` are (name, digest of profile);
        those among ``committing`` are asked to commit to what they got.
        """
        queued = 0
        for destination, profile in destinations:
            before = queued
            for row in self._rows(
                "SELECT sop_instance_uid FROM results WHERE run_key = ? AND profile IN (?, '') ORDER BY position",
                run_key,
                profile,
            ):
                queued += self._run(
                    """INSERT INTO jobs (kind, subject, study, revision, route, target, run_key, state, due, created)
                    VALUES ('send', ?, ?, ?, ?, ?, ?, 'queued', ?, ?)
                    ON CONFLICT (study, kind, subject, target) DO UPDATE SET state = 'queued', attempts = 0,
                        reason = '', revision = excluded.revision, due = excluded.due, created = excluded.created,
                        finished = NULL
                    WHERE jobs.state = 'done' AND jobs.reason LIKE ?""",
                    row[0],
                    job.study,
                    job.revision,
                    job.route,
                    destination,
                    run_key,
                    now,
                    now,
                    f"{CALLED_OFF}%",
                ).rowcount
            if queued > before and destination in committing:
                self.queue_commit(job, run_key, destination, now)
        return queued

    def classes_sent(self, run_key: str, destination: str) -> frozenset[str]:
        """The SOP classes of all that a destination is to get of a run."""
        rows = self._rows(
            """SELECT DISTINCT r.sop_class_uid
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.run_key = ? AND j.target = ?""",
            run_key,
            destination,
        )
        return frozenset(row[0] for row in rows)

    def latest_report(self, study: str, model: str, destinations: Sequence[str]) -> StoredReport | None:
        """The newest report of a model on a study that any of the destinations has, or is being sent now."""
        marks = ", ".join("?" * len(destinations))
        # CROSS JOIN: from the study's readings to what was sent of them, not from all that was ever sent.
        rows = self._rows(
            f"""SELECT r.sop_class_uid, r.sop_instance_uid, r.series, g.created
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key AND r.role = 'sr'
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.study = ? AND g.model = ? AND j.target IN ({marks})
                AND (j.state = 'running' OR (j.state = 'done' AND j.reason NOT LIKE ? AND j.reason NOT LIKE ?))
            ORDER BY g.created DESC, r.sop_instance_uid LIMIT 1""",  # noqa: S608 - marks alone
            study,
            model,
            *destinations,
            f"{NOT_TAKEN}%",
            f"{CALLED_OFF}%",
        )
        return StoredReport(*rows[0]) if rows else None

    def supersede(self, job: Job, run_key: str, destinations: Sequence[tuple[str, str]], now: float) -> int:
        """Call off what older readings of the study by the same model still have to send; inside `transaction`.

        A report on fewer images, or on a reading that failed, must not arrive after the one on all of them; nor one of
        this reading that was made by settings which a destination (name, digest of profile) no longer has. What is
        being sent now may arrive; if it does not, it is not tried again.
        """
        self._run(
            """UPDATE jobs SET state = 'done', finished = ?, reason = ?
            WHERE kind = 'commit' AND study = ? AND state IN ('queued', 'failed') AND revision <= ? AND run_key != ?
                AND run_key IN (SELECT run_key FROM readings WHERE study = ? AND model = ?)""",
            now,
            f"{CALLED_OFF} revision {job.revision}",
            job.study,
            job.revision,
            run_key,
            job.study,
            job.target,
        )
        whole = self._call_off(job, now, "run_key != ?", run_key)
        return whole + sum(
            self._call_off(
                job,
                now,
                """run_key = ? AND target = ? AND subject IN
                    (SELECT sop_instance_uid FROM results WHERE run_key = ? AND profile NOT IN (?, ''))""",
                run_key,
                name,
                run_key,
                profile,
            )
            for name, profile in destinations
        )

    def _call_off(self, job: Job, now: float, condition: str, *values: str) -> int:
        return self._run(
            f"""UPDATE jobs SET state = iif(state = 'running', 'running', 'done'), finished = ?, reason = ?
            WHERE kind = 'send' AND study = ? AND (state != 'done' OR reason LIKE ?) AND revision <= ?
                AND run_key IN (SELECT run_key FROM readings WHERE study = ? AND model = ?) AND {condition}""",  # noqa: S608 - our own words
            now,
            f"{CALLED_OFF} revision {job.revision}",
            job.study,
            f"{NOT_TAKEN}%",
            job.revision,
            job.study,
            job.target,
            *values,
        ).rowcount

    def revision(self, study: str) -> int:
        """The current revision of a study."""
        return int(self._rows("SELECT revision FROM studies WHERE study = ?", study)[0]["revision"])

    def result(self, sop_instance_uid: str) -> StoredResult | None:
        """A result by its SOP Instance UID."""
        rows = self._rows(
            "SELECT sop_instance_uid, sop_class_uid, role, file, removed FROM results WHERE sop_instance_uid = ?",
            sop_instance_uid,
        )
        return StoredResult(*rows[0]) if rows else None

    # -- removing

    def old_studies(self, before: float, after: tuple[float, str], limit: int) -> list[dict[str, Any]]:
        """Studies that have files and got their last image before a moment, oldest first, each with its state.

        ``after`` is (last_received, study) of the one to go on behind.
        """
        with self._lock:
            values = {"before": before, "after": after[0], "study": after[1], "limit": limit}
            rows = self._db.conn.execute(
                _STATE.format(listed=_OLD), {**values, "not_taken": f"{NOT_TAKEN}%"}
            ).fetchall()
        return sorted(map(dict, rows), key=lambda row: (row["last_received"], row["study"]))

    def remove_files(self, study: str, revision: int, before: float, now: float) -> bool:
        """Record that every file of a study is removed, which is then to be done.

        Not where anything happened to it since ``before``, or is to be done.

        Returns:
            whether it was recorded; False leaves everything as it was.
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
        """Studies of which files may be there that are recorded as removed."""
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
        """Record that no file is there that is recorded as removed."""
        with self.transaction():
            self._run("UPDATE studies SET leftover = 0 WHERE study = ?", study)

    # -- seeing

    def studies_with_state(self, study: str | None = None, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Each study (newest first, or the one asked for) with its state and the time of each step."""
        with self._lock:
            values = {"study": study, "limit": limit, "not_taken": f"{NOT_TAKEN}%"}
            rows = self._db.conn.execute(_STATE.format(listed=_NEWEST if study is None else _ONE), values).fetchall()
        return [{**dict(row), **{name: json.loads(row[name]) for name in ("routes", "not_taken")}} for row in rows]

    def jobs_of(self, study: str) -> list[dict[str, Any]]:
        """Every job of a study, oldest first, with the role of the result that a send job carries."""
        rows = self._rows(
            """SELECT j.id, j.kind, j.revision, j.route, j.target, j.subject, j.run_key, j.state, j.attempts, j.due,
                j.created, j.started, j.finished, j.reason, r.role
            FROM jobs j LEFT JOIN results r ON j.kind = 'send' AND r.sop_instance_uid = j.subject
            WHERE j.study = ? ORDER BY j.id""",
            study,
        )
        return [dict(row) for row in rows]

    def readings_of(self, study: str) -> list[dict[str, Any]]:
        """Every reading of a study, oldest first, with the reading as an object and its results."""
        rows = self._rows("SELECT * FROM readings WHERE study = ? ORDER BY created, run_key", study)
        return [
            {
                **dict(row),
                "reading": json.loads(row["reading"]),
                "results": [
                    dict(r)
                    for r in self._rows("SELECT * FROM results WHERE run_key = ? ORDER BY position", row["run_key"])
                ],
            }
            for row in rows
        ]

    def readings_by(self, model: str, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """Every reading of a model from a moment on, by study and oldest first, with the reading as an object.

        One after the other, since a year of them is more than fits into memory; the index is not held up meanwhile.
        """
        with self._lock:
            # By the index that is in the order asked for: sorted instead, they would all be held at once.
            for row in self._run(
                """SELECT * FROM readings INDEXED BY readings_by_study
                WHERE model = ? AND created >= ? ORDER BY study, created, run_key""",
                model,
                since,
            ):
                yield {**dict(row), "reading": json.loads(row["reading"])}

    def reading_models(self) -> list[str]:
        """Every model that a reading is by."""
        return [row[0] for row in self._rows("SELECT DISTINCT model FROM readings ORDER BY model")]

    def reading_jobs(self, model: str, since: float = 0.0) -> list[dict[str, Any]]:
        """How many readings by a model, in shadow or not, were asked for from a moment on, by how each ended.

        ``eligible`` is False where a job is done and there was nothing for the model to read.
        """
        rows = self._rows(
            """SELECT state, reason, state != 'done' OR run_key IS NOT NULL AS eligible, count(*) AS jobs
            FROM jobs WHERE kind IN ('read', 'shadow') AND target = ? AND created >= ?
            GROUP BY state, reason, eligible ORDER BY jobs DESC, reason""",
            model,
            since,
        )
        return [{**dict(row), "eligible": bool(row["eligible"])} for row in rows]


def _of(kind: JobKind, target: str | None) -> str:
    """The condition for jobs of a kind (and target) whose turn it is; the values are ``:kind`` and ``:target``.

    What does not matter is left out, and not said in SQL: "is not asked for, or is this" leads past every index.
    """
    terms = ["kind = :kind"]
    if target is not None:
        terms.append("target = :target")
    if kind == "shadow":
        terms.append(_ITS_TURN)
    return " AND ".join(terms)


def _queued(kind: JobKind, target: str | None) -> str:
    """`_of` for jobs that wait and could be claimed."""
    alone = {"read": f" AND {_STUDY_IS_FREE}", "commit": f" AND {_ALL_IS_SENT}"}.get(kind, "")
    return f"state = 'queued' AND {_of(kind, target)}{alone}"
