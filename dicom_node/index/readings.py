"""Readings, their result files, and what is to be sent of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence

from dicom_node.index.commitments import CommitmentStatements
from dicom_node.index.recorded import recorded
from dicom_node.index.rows import (
    SUMMARY,
    Job,
    NewReading,
    NewResult,
    ReadingJobs,
    ReadingRow,
    ResultRow,
    StoredReport,
    StoredResult,
)

_HERE = "(? = '' OR target = ?)"
_READING = "run_key, study, model, version, digest, created, shadow, reading"


class ReadingStatements(CommitmentStatements):
    """What the index knows of readings and results."""

    def known_runs(self, study: str) -> dict[str, frozenset[str]]:
        """The run key of every reading of a study, with the profiles (digests) that it has results for."""
        known: dict[str, set[str]] = {}
        for row in self._rows(
            """SELECT g.run_key, r.profile FROM readings g LEFT JOIN results r ON r.run_key = g.run_key
            WHERE g.study = ?""",
            study,
        ):
            known.setdefault(row[0], set()).add(row[1] or "")
        return {key: frozenset(profiles) for key, profiles in known.items()}

    def add_reading(self, reading: NewReading, results: Sequence[NewResult]) -> None:
        """Record a reading with its result files; call it inside `transaction`, together with `finish`.

        A known reading gets the result files of a further profile. A reading in shadow that is now made for a route
        becomes a reading of that route. A later reading of a study stays the later one if the clock was set back.
        """
        self._run(
            """INSERT INTO readings (run_key, study, model, version, digest, created, reading, shadow)
            VALUES (?1, ?2, ?3, ?4, ?5,
                max(?6, coalesce((SELECT max(created) + 0.001 FROM readings WHERE study = ?2), 0.0)), ?7, ?8)
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
        """Queue each result of a run to each destination that it was made for, once only.

        Call it inside `transaction`, together with `finish` or `fail`. ``destinations`` are (name, digest of profile);
        those among ``committing`` are asked to commit to what they stored.

        Returns:
            the number of queued deliveries.
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
                        outcome = '', reason = '', revision = excluded.revision, due = excluded.due,
                        created = excluded.created, finished = NULL
                    WHERE jobs.state = 'done' AND jobs.outcome = 'superseded'""",
                    row[0],
                    job.study,
                    job.revision,
                    job.route,
                    destination,
                    run_key,
                    now,
                    now,
                ).rowcount
            if queued > before and destination in committing:
                self.queue_commit(job, run_key, destination, now)
        return queued

    def accepted_by(self, peer: str) -> dict[str, frozenset[str]]:
        """The transfer syntaxes in which a destination accepted each SOP class when it was last asked.

        A class that it refused has none; one that it was never asked for is not there.
        """
        rows = self._rows("SELECT sop_class_uid, syntaxes FROM accepted WHERE peer = ?", peer)
        return {row[0]: frozenset(json.loads(row[1])) for row in rows}

    def note_accepted(self, peer: str, accepted: Mapping[str, frozenset[str]], now: float) -> bool:
        """Record what a destination accepts of these SOP classes; whether that differs from what was known."""
        with self.transaction():
            known = self.accepted_by(peer)
            changed = [each for each in accepted if known.get(each) != accepted[each]]
            for sop_class in changed:
                self._run(
                    "INSERT OR REPLACE INTO accepted (peer, sop_class_uid, syntaxes, noted) VALUES (?, ?, ?, ?)",
                    peer,
                    sop_class,
                    json.dumps(sorted(accepted[sop_class])),
                    now,
                )
        return bool(changed)

    def classes_sent(self, run_key: str, destination: str) -> frozenset[str]:
        """The SOP classes of the results of a run that are queued or sent to a destination."""
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
        """The newest report (SR) of a model on a study that one of the destinations has, or that is being sent to
        it."""
        marks = ", ".join("?" * len(destinations))
        # CROSS JOIN makes SQLite begin with the study's readings, not with all jobs there ever were.
        rows = self._rows(
            f"""SELECT r.sop_class_uid, r.sop_instance_uid, r.series, g.created
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key AND r.role = 'sr'
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.study = ? AND g.model = ? AND j.target IN ({marks})
                AND (j.state = 'running' OR (j.state = 'done' AND j.outcome = 'sent'))
            ORDER BY g.created DESC, r.sop_instance_uid LIMIT 1""",  # noqa: S608 - marks alone
            study,
            model,
            *destinations,
        )
        return StoredReport(*rows[0]) if rows else None

    def summarized_pairs(self, study: str) -> list[tuple[str, str]]:
        """The (route, destination) of a study's earlier summaries; of several to a destination that of the last."""
        rows = self._rows(
            """SELECT route, target, max(revision) FROM jobs
            WHERE study = ? AND kind = 'summary' AND run_key IS NOT NULL GROUP BY target""",
            study,
        )
        return [(row[0], row[1]) for row in rows]

    def report_for(self, run_key: str, destination: str) -> StoredReport | None:
        """The report (SR) of a reading that a destination has, or that is to be sent to it."""
        rows = self._rows(
            """SELECT r.sop_class_uid, r.sop_instance_uid, r.series, g.created
            FROM readings g CROSS JOIN results r ON r.run_key = g.run_key AND r.role = 'sr'
                CROSS JOIN jobs j ON j.study = g.study AND j.kind = 'send' AND j.subject = r.sop_instance_uid
            WHERE g.run_key = ? AND j.target = ? AND j.outcome NOT IN ('not taken', 'superseded')
            ORDER BY r.sop_instance_uid LIMIT 1""",
            run_key,
            destination,
        )
        return StoredReport(*rows[0]) if rows else None

    def recorded_text(self, run_key: str) -> str:
        """The JSON of a reading; empty if the index has no such reading."""
        rows = self._rows("SELECT reading FROM readings WHERE run_key = ?", run_key)
        return str(rows[0][0]) if rows else ""

    def supersede(
        self, job: Job, run_key: str, destinations: Sequence[tuple[str, str]], now: float, *, only: str = ""
    ) -> int:
        """Supersede the unsent results of older readings of the study by the same model; call it inside `transaction`.

        A report on fewer images, or of a failed reading, must not arrive after the report on all images. The same holds
        for a result of this reading that was made by settings which a destination (name, digest of profile) no longer
        has. A result that is being sent now may arrive; if it does not, it is not sent again. With ``only`` a
        destination, what is to be sent to others stays.

        Returns:
            the number of superseded deliveries.
        """
        self._run(
            f"""UPDATE jobs SET state = iif(state = 'running', 'running', 'done'), outcome = 'superseded', finished = ?,
                reason = ?
            WHERE kind = 'commit' AND study = ? AND state != 'done' AND revision <= ? AND run_key != ?
                AND run_key IN (SELECT run_key FROM readings WHERE study = ? AND model = ?) AND {_HERE}""",  # noqa: S608
            now,
            _superseded_by(job),
            job.study,
            job.revision,
            run_key,
            job.study,
            job.target,
            only,
            only,
        )
        whole = self._call_off(job, now, f"run_key != ? AND {_HERE}", run_key, only, only)
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
            f"""UPDATE jobs SET state = iif(state = 'running', 'running', 'done'), outcome = 'superseded', finished = ?,
                reason = ?
            WHERE kind = 'send' AND study = ? AND (state != 'done' OR outcome = 'not taken') AND revision <= ?
                AND run_key IN (SELECT run_key FROM readings WHERE study = ? AND model = ?) AND {condition}""",  # noqa: S608 - our own words
            now,
            _superseded_by(job),
            job.study,
            job.revision,
            job.study,
            job.target,
            *values,
        ).rowcount

    def result(self, sop_instance_uid: str) -> StoredResult | None:
        """A result by its SOP Instance UID; None if we made no such result."""
        rows = self._rows(
            "SELECT sop_instance_uid, sop_class_uid, role, file, removed FROM results WHERE sop_instance_uid = ?",
            sop_instance_uid,
        )
        return StoredResult(*rows[0]) if rows else None

    def readings_of(self, study: str) -> list[ReadingRow]:
        """Every reading of a study, oldest first."""
        rows = self._rows(f"SELECT {_READING} FROM readings WHERE study = ? ORDER BY created, run_key", study)  # noqa: S608 - our own words
        return [_reading(row) for row in rows]

    def results_of(self, run_key: str) -> list[ResultRow]:
        """The result files of a reading, in the order of sending."""
        rows = self._rows(
            """SELECT sop_instance_uid, sop_class_uid, series, run_key, position, role, file, bytes, profile, removed
            FROM results WHERE run_key = ? ORDER BY position""",
            run_key,
        )
        return [ResultRow(*row) for row in rows]

    def readings_by(self, model: str, since: float = 0.0) -> Iterator[ReadingRow]:
        """Every reading of a model from a moment on, by study and oldest first.

        Rows are read one after the other: a year of them does not fit into memory.
        """
        with self._lock:
            # This index has the order that is asked for; a sort would hold all rows at once.
            for row in self._run(
                f"""SELECT {_READING} FROM readings INDEXED BY readings_by_study
                WHERE model = ? AND created >= ? ORDER BY study, created, run_key""",  # noqa: S608 - our own words
                model,
                since,
            ):
                yield _reading(row)

    def reading_models(self) -> list[str]:
        """The name of every model that has read."""
        return [
            row[0] for row in self._rows("SELECT DISTINCT model FROM readings WHERE model != ? ORDER BY model", SUMMARY)
        ]

    def reading_jobs(self, model: str, since: float = 0.0) -> list[ReadingJobs]:
        """The jobs of a model, in shadow or not, from a moment on, counted by how they ended."""
        rows = self._rows(
            """SELECT state, reason, state != 'done' OR run_key IS NOT NULL AS eligible, count(*) AS jobs
            FROM jobs WHERE kind IN ('read', 'shadow') AND target = ? AND created >= ?
            GROUP BY state, reason, eligible ORDER BY jobs DESC, reason""",
            model,
            since,
        )
        return [ReadingJobs(row["state"], row["reason"], bool(row["eligible"]), row["jobs"]) for row in rows]


def _reading(row: sqlite3.Row) -> ReadingRow:
    values = dict(row)
    return ReadingRow(**{**values, "shadow": bool(values["shadow"]), "reading": recorded(values["reading"])})


def _superseded_by(job: Job) -> str:
    """The reason, for a person, of a delivery whose place a later reading takes."""
    return f"not sent: superseded by revision {job.revision}"
