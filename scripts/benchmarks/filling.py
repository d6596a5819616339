"""Fills an index as years in a hospital would: the rows that a node would have written, many in one transaction.

Half of the devices number their UIDs consecutively below a root of their own; their rows go to the end of an index's
pages. The other half draw random UIDs, as pydicom does; their rows go anywhere in the pages.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dicom_node.index.job_kinds import JOB_KINDS
from dicom_node.index.rows import JobKind, NewInstance

IMAGES = 20  # of a study, in two series
MODEL, ROUTE, DESTINATION = "phantom_cxr", "chest", "pacs"  # the model is shipped: a node can be configured with it
_APART = 30.0  # seconds between two studies
_STUDIES_AT_ONCE = 500  # of a transaction
_DEVICES = 8
_ROLES = (  # of the results of a reading, and their SOP classes
    ("sr", "1.2.840.10008.5.1.4.1.1.88.33"),
    ("sc", "1.2.840.10008.5.1.4.1.1.7"),
    ("seg", "1.2.840.10008.5.1.4.1.1.66.4"),
)
_DIGEST = "5" * 64  # of the model, and of the settings that results are made by
_CT, _EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class Study:
    """A study that arrives: its instances, and when the last of them was received (epoch seconds)."""

    uid: str
    instances: tuple[NewInstance, ...]
    received: float


class Hospital:
    """Studies as devices send them. The same ``seed`` gives the same studies. ``now`` is epoch seconds."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._seed = seed
        self._number = 0
        self.now = 1.7e9

    def study(self) -> Study:
        """The next study."""
        self._number += 1
        self.now += _APART
        number, device = self._number, self._number % _DEVICES
        if device % 2:
            stem = f"1.2.840.113619.2.{55 + device}.3.1{self._seed:05d}.{self.now:.0f}.{number}"
            uid, images = stem, [f"{stem}.{1 + each}" for each in range(IMAGES)]
            series = [f"{stem}.{101 + each}" for each in range(2)]
        else:
            uid, *images = (self.random_uid() for _ in range(1 + IMAGES))
            series = [self.random_uid() for _ in range(2)]
        described = ("CT", "CHEST", "CT chest with contrast", "axial 1.0 mm soft tissue")
        caller = f"CT_{device}"
        return Study(
            uid,
            tuple(
                NewInstance(
                    image, _CT, _EXPLICIT, uid, series[at * 2 // IMAGES], *described, caller, _file(image), 525000
                )
                for at, image in enumerate(images)
            ),
            self.now,
        )

    def random_uid(self) -> str:
        """A random UID, as `pydicom.uid.generate_uid` makes them."""
        return f"1.2.826.0.1.3680043.8.498.{self.number()}"[:64]

    def number(self) -> int:
        """A random number of the size of a UUID."""
        return self._random.getrandbits(128)

    def digest(self) -> str:
        """A random digest, such as a run key."""
        return f"{self._random.getrandbits(256):064x}"


def _file(sop_instance_uid: str, area: str = "spool") -> str:
    digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()
    return f"{area}/{digest[:2]}/{digest}.dcm"


def fill(path: Path, hospital: Hospital, studies: int) -> list[str]:
    """Add studies that were read and whose results were delivered to an index that is there already.

    Returns:
        their UIDs.
    """
    uids = []
    for part in _parts(hospital, studies):
        with _writing(path) as conn:
            for study in part:
                _receive(conn, study)
                _deliver(conn, study, hospital)
        uids += [study.uid for study in part]
    return uids


def queue(path: Path, hospital: Hospital, studies: int, *, due: float, images: int = IMAGES) -> None:
    """Add studies that wait to be read to an existing index; no reading is due before ``due`` (epoch seconds)."""
    for part in _parts(hospital, studies):
        with _writing(path) as conn:
            for study in part:
                _receive(conn, replace(study, instances=study.instances[:images]))
                _insert(conn, "jobs", [_job("read", f"{study.uid}/1", study, MODEL, due=due, run_key=None)])


def _parts(hospital: Hospital, studies: int) -> Iterator[list[Study]]:
    for begin in range(0, studies, _STUDIES_AT_ONCE):
        yield [hospital.study() for _ in range(min(_STUDIES_AT_ONCE, studies - begin))]


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that does not wait for the disk."""
    conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute("PRAGMA cache_size=-65536")
        conn.execute("BEGIN IMMEDIATE")
        yield conn
        conn.execute("COMMIT")
    finally:
        conn.close()


def _insert(conn: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    names = rows[0].keys()
    marks = ", ".join(f":{name}" for name in names)
    conn.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)  # noqa: S608 - our own words


def _receive(conn: sqlite3.Connection, study: Study) -> None:
    """Record a study that was received and is complete."""
    received = study.received
    times = {"first_received": received - 20.0, "last_received": received, "completed": received + 5.0}
    _insert(conn, "studies", [{"study": study.uid, "routes": json.dumps([ROUTE]), **times}])
    said = ("study", "series", "modality", "body_part", "study_description", "series_description")
    each = {one.series: {name: getattr(one, name) for name in said} for one in study.instances}
    _insert(conn, "series", list(each.values()))
    kept = ("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", *said[:2], "calling_ae", "file", "bytes")
    rows = [{name: getattr(one, name) for name in kept} for one in study.instances]
    _insert(conn, "instances", [{**row, "own": 0, "received": received - 20.0 + at} for at, row in enumerate(rows)])


def _deliver(conn: sqlite3.Connection, study: Study, hospital: Hospital) -> None:
    """Record the study's reading, its results, and the jobs that made and sent them."""
    created, key = study.received + 5.0, hospital.digest()
    said = {"study": study.uid, "model": MODEL, "version": "1.0", "digest": _DIGEST, "created": created}
    _insert(conn, "readings", [{"run_key": key, **said, "reading": _reading(study)}])
    results = [
        {
            "sop_instance_uid": (uid := f"2.25.{hospital.number()}"),
            "sop_class_uid": sop_class,
            "series": f"2.25.{hospital.number()}",
            "run_key": key,
            "position": position,
            "role": role,
            "file": _file(uid, "results"),
            "bytes": 60000,
            "profile": _DIGEST,
        }
        for position, (role, sop_class) in enumerate(_ROLES)
    ]
    _insert(conn, "results", results)
    jobs = [_job("read", f"{study.uid}/1", study, MODEL, due=created + 10.0, run_key=key)]
    for at, each in enumerate(results):
        jobs.append(
            _job("send", str(each["sop_instance_uid"]), study, DESTINATION, due=created + 11.0 + at, run_key=key)
        )
    _insert(conn, "jobs", jobs)


def _job(
    kind: JobKind, subject: str, study: Study, target: str, *, due: float, run_key: str | None
) -> dict[str, object]:
    """A job that ended at ``due``; without a ``run_key`` one that is queued until then."""
    began = study.received + 5.0
    job = {"kind": kind, "subject": subject, "study": study.uid, "revision": 1, "route": ROUTE, "target": target}
    job |= {"run_key": run_key, "state": "queued", "due": due, "created": began}
    ended = {"state": "done", "outcome": JOB_KINDS[kind].success, "attempts": 1}
    return job if run_key is None else job | ended | {"started": began + 0.01, "finished": due}


def _reading(study: Study) -> str:
    """A reading of about the size that a model of 18 classes gives."""
    classes = [
        {"key": f"class_{each}", "name": f"Class {each}", "presence": "absent", "score": 0.0123456789, "threshold": 0.5}
        | {"code": {"value": "12345678", "scheme": "SCT", "meaning": "A finding of the chest"}, "not_assessed": ""}
        for each in range(18)
    ]
    sources = [one.sop_instance_uid for one in study.instances]
    return json.dumps({"model": {"name": MODEL}, "classes": classes, "sources": sources, "findings": [], "seconds": {}})
