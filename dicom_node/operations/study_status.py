"""What a person sees of a study: its state, the time of each step, its readings and deliveries, as plain values.

The command line prints these as tables or JSON. They hold UIDs, times, scores and reasons, and no patient data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ai.scores import score_text, shown_score
from dicom_node.index.index import Index
from dicom_node.index.rows import JobRow, ReadingRow, ResultRow, StudyRow

#: The states of a study, in the order of its way; every study has exactly one of them.
STATES: dict[str, str] = {
    "receiving": "instances still come in, or the quiet time is not over",
    "reading": "complete; a model reads it or it waits for one",
    "delivering": "read; results are on their way",
    "delivered": "every result is stored at every destination that takes its kind (and committed to, where "
    "`commitment = true`); the reason names what is not taken",
    "no route": "no route of the configuration takes it",
    "no eligible series": "a route took it, but none of its images is of the kind that the model reads",
    "failed": "a reading or a delivery failed for good; see the reason, then dicom-node retry",
}


def _time(epoch: float | None) -> str | None:
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 3)


def study(row: StudyRow) -> dict[str, Any]:
    """A study in one line: state, reason, the time of each step and the seconds between them.

    ``evidence`` is what said that the study is complete; ``withdrawn`` which earlier results its destinations reject;
    ``contradictions`` how many wait for an administrator (`operations.quarantine`).
    A step that has not ended yet is None: ``read`` while a reading is in work, ``delivered`` until all is delivered.
    """
    state = row.state
    read = row.read if state not in {"receiving", "reading"} else None
    delivered = row.delivered if state == "delivered" else None
    return {
        "study": row.study,
        "state": state,
        "reason": row.reason or "; ".join(row.not_taken),
        "withdrawn": list(row.withdrawn),
        "evidence": row.evidence if state != "receiving" else "",
        "revision": row.revision,
        "instances": row.instances,
        "contradictions": row.contradictions,
        "routes": list(row.routes),
        "times": {
            "first_received": _time(row.first_received),
            "received": _time(row.last_received),
            "complete": _time(row.completed),
            "read": _time(read),
            "delivered": _time(delivered),
            "removed": _time(row.removed),
        },
        "seconds": {
            "quiet": _between(row.last_received, row.completed),
            "reading": _between(row.completed, read),
            "delivering": _between(read, delivered),
            "turnaround": _between(row.last_received, delivered),
        },
    }


def studies(index: Index, *, limit: int = 1000) -> list[dict[str, Any]]:
    """Every study, newest first."""
    return [study(row) for row in index.studies_with_state(limit=limit)]


def detail(index: Index, uid: str) -> dict[str, Any] | None:
    """Everything about one study, or None where we do not know it."""
    rows = index.studies_with_state(uid)
    if not rows:
        return None
    jobs = index.jobs_of(uid)
    readings = [(row.shadow, _reading(row, index.results_of(row.run_key))) for row in index.readings_of(uid)]
    return {
        **study(rows[0]),
        "readings": _with_successors([reading for shadow, reading in readings if not shadow]),
        "jobs": [_job(job) for job in jobs if job.kind == "read"],
        "deliveries": [
            {"role": job.role, "instance": job.subject, "destination": job.target, **_progress(job)}
            for job in jobs
            if job.kind == "send"
        ],
        "commitments": [{"destination": job.target, **_progress(job)} for job in jobs if job.kind == "commit"],
        "withdrawals": [{"destination": job.target, **_progress(job)} for job in jobs if job.kind == "withdraw"],
        "shadow": {  # apart: of this nothing is sent, and the study's state does not depend on it
            "readings": [reading for shadow, reading in readings if shadow],
            "jobs": [_job(job) for job in jobs if job.kind == "shadow"],
        },
    }


def _with_successors(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Readings, oldest first, each with when it was superseded: by a later one of the same model on all its images.

    A failure supersedes nothing; nor does a reading on other images, such as what retention has left.
    """
    for number, one in enumerate(readings):
        later = (
            other["created"]
            for other in readings[number + 1 :]
            if other["model"] == one["model"] and not other["failure"] and set(one["sources"]) <= set(other["sources"])
        )
        one["superseded"] = next(later, None)
    return readings


def _job(job: JobRow) -> dict[str, Any]:
    return {"model": job.target, "route": job.route, "revision": job.revision, **_progress(job)}


def _progress(job: JobRow) -> dict[str, Any]:
    return {
        "state": job.state,
        "attempts": job.attempts,
        "started": _time(job.started),
        "finished": _time(job.finished),
        "next_attempt": _time(job.due) if job.state == "queued" else None,
        "reason": job.reason,
    }


def finding_score_text(reading: dict[str, Any], finding: dict[str, Any]) -> str:
    """The score of a finding as people read it, as its results show it; both are values of `detail`."""
    thresholds = (one["threshold"] for one in reading["classes"] if one["key"] == finding["key"])
    threshold, score = next(thresholds, 0.0), finding["score"]
    return score_text(shown_score(score, threshold, reached=score >= threshold))


def _reading(row: ReadingRow, results: Sequence[ResultRow]) -> dict[str, Any]:
    reading = row.reading
    return {
        "model": row.model,
        "version": row.version,
        "digest": row.digest,
        "notice": reading.notice,
        "run_key": row.run_key,
        "created": _time(row.created),
        "device": reading.device,
        "remarks": list(reading.remarks),
        "sources": list(reading.sources),
        "seconds": {name: round(value, 4) for name, value in reading.seconds.items()},
        "operating_point": reading.operating_point,
        "classes": [
            {
                "key": one.key,
                "name": one.name,
                "presence": one.presence,
                "score": one.score,
                "threshold": one.threshold,
                "not_assessed": one.not_assessed,
            }
            for one in reading.classes
        ],
        "not_looked_for": [{"key": key, "name": name} for key, name in reading.not_looked_for],
        "findings": [
            {
                "key": one.key,
                "name": one.name,
                "score": one.score,
                "laterality": one.laterality,
                "region": asdict(one.region),
            }
            for one in reading.findings
        ],
        "passed_over": [{"uid": uid, "reason": reason} for uid, reason in reading.passed_over],
        "failed": [{"uid": uid, "reason": reason} for uid, reason in reading.failed],
        "failure": reading.failure,
        "results": [
            {
                "role": each.role,
                "sop_class": each.sop_class_uid,
                "instance": each.sop_instance_uid,
                "series": each.series,
                "bytes": each.bytes,
            }
            for each in results
        ],
    }
