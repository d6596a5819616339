"""The operations on an index that are measured: those of a node, its completer, its workers and its users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Match, NodeSettings, Peer, Route, Settings
from dicom_node.index.index import Index
from dicom_node.index.rows import Job, JobKind, NewInstance, NewReading, NewResult
from dicom_node.studies.completion import Completer
from scripts.benchmarks.filling import DESTINATION, IMAGES, MODEL, ROUTE, Hospital, Study

_QUEUED = 50  # jobs that wait while one is claimed
_LISTED = 1000  # studies: what `dicom-node studies` shows
_SETTINGS = Settings(
    node=NodeSettings(quiet_seconds=5.0),
    peers=(Peer(name=DESTINATION, ae_title="PACS", host="127.0.0.1", port=104, destination=True),),
    routes=(Route(name=ROUTE, models=(MODEL,), to=(DESTINATION,), match=Match(modality=("CT",))),),
)


class Ward:
    """An index in use, and the hospital that sends studies to it; ``uids`` are the studies that it was filled with."""

    def __init__(self, path: Path, hospital: Hospital, uids: Sequence[str], newest: int) -> None:
        self.index = Index(path)
        self.hospital = hospital
        self.uids = uids
        self.newest = newest
        self.completer = Completer(SettingsHolder(_SETTINGS), self.index)

    def receive(self, count: int, images: int = IMAGES) -> list[Study]:
        """Record studies in one transaction."""
        studies = [self.hospital.study() for _ in range(count)]
        with self.index.transaction():
            for study in studies:
                for one in study.instances[:images]:
                    self.index.add_instance(one, study.received)
        return studies

    def complete(self, kind: JobKind | None = None) -> None:
        """Complete every open study in one transaction, and queue a job of ``kind`` for each."""
        pairs = [(ROUTE, MODEL)]
        with self.index.transaction():
            for each in self.index.open_studies():
                reads, shadows = pairs if kind == "read" else [], pairs if kind == "shadow" else []
                last = each.last_received
                self.index.complete(each.study, each.revision, last, reads, last, shadows=shadows)

    def read(self) -> None:
        """End every queued job "read" in one transaction, with three results each that wait to be sent."""
        with self.index.transaction():
            while job := self.index.claim("read", None, self.hospital.now, 60.0):
                self.record(job)

    def record(self, job: Job) -> None:
        """End a job "read" with three results, as a reader does, in one transaction."""
        index, hospital, now = self.index, self.hospital, self.hospital.now
        key, destinations = hospital.digest(), [(DESTINATION, "p")]
        uids = [f"2.25.{hospital.number()}" for _ in range(4)]
        results = [NewResult(uid, "1.2", uids[3], at, "sr", "f", 1, "p") for at, uid in enumerate(uids[:3])]
        with index.transaction():
            index.finish(job, now, run_key=key)
            index.add_reading(NewReading(key, job.study, MODEL, "1.0", "d", now, "{}"), results)
            index.supersede(job, key, destinations, now)
            index.queue_sends(job, key, destinations, now)

    def tidy(self) -> None:
        """Complete all studies, and end all queued jobs."""
        self.complete()
        kinds: tuple[JobKind, ...] = ("read", "shadow", "send")
        with self.index.transaction():
            for kind in kinds:
                self.index.fail_unknown(kind, [], "it was measured", self.hospital.now)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that is measured: ``ready`` prepares the arguments of a turn's repetitions, ``act`` is timed.

    ``beside`` is the number of studies in the empty index, for an operation that would have nothing to do without any.
    """

    name: str
    repetitions: int
    ready: Callable[[Ward, int], Sequence[Any]]
    act: Callable[[Ward, Any], object]
    beside: int = 0


def _instances(ward: Ward, count: int) -> Sequence[tuple[NewInstance, float]]:
    studies = [ward.hospital.study() for _ in range(-(-count // IMAGES))]
    return [(one, study.received) for study in studies for one in study.instances][:count]


def _complete(ward: Ward, study: Study) -> None:
    """Complete one open study, as the completer does."""
    (row,) = [each for each in ward.index.open_studies() if each.study == study.uid]
    ward.index.series_of(study.uid)
    if not ward.index.complete(row.study, row.revision, row.last_received, [(ROUTE, MODEL)], study.received + 5.0):
        raise RuntimeError("a study could not be completed")


def _queued(kind: JobKind) -> Callable[[Ward, int], Sequence[float]]:
    def ready(ward: Ward, count: int) -> Sequence[float]:
        """Jobs for a turn, and those that wait all the while; given are the moments at which one is claimed."""
        wanted = count + _QUEUED
        ward.receive(-(-wanted // 3) if kind == "send" else wanted, images=1)
        ward.complete("shadow" if kind == "shadow" else "read")
        if kind == "send":
            ward.read()
        return [ward.hospital.now + 60.0 + at for at in range(count)]

    return ready


def _work(kind: JobKind, target: str | None) -> Callable[[Ward, float], None]:
    def act(ward: Ward, now: float) -> None:
        """As a worker does that has a job."""
        job = ward.index.claim(kind, target, now, 600.0)
        if job is None:
            raise RuntimeError("no job was to be had")
        with ward.index.transaction():
            ward.index.finish(job, now + 1.0)

    return act


def _claimed(ward: Ward, count: int) -> Sequence[Job]:
    moments = _queued("read")(ward, count)
    with ward.index.transaction():
        jobs = [ward.index.claim("read", None, now, 600.0) for now in moments]
    return [job for job in jobs if job is not None]


def _list(ward: Ward, _: float) -> None:
    ward.index.studies_with_state(limit=min(_LISTED, ward.newest))


def _show(ward: Ward, uid: str) -> None:
    """Read all of one study, as `dicom-node studies UID` does."""
    if not ward.index.studies_with_state(uid):
        raise RuntimeError("a study is gone")
    ward.index.jobs_of(uid)
    ward.index.readings_of(uid)


def _tell(ward: Ward, uid: str) -> None:
    """Read all that a reader needs about the study of its job."""
    index = ward.index
    index.revision(uid)
    index.instances_of(uid)
    index.series_of(uid)
    index.known_runs(uid)
    index.latest_report(uid, MODEL, [DESTINATION])


def _look(ward: Ward, now: float) -> None:
    """Look for jobs as idle workers do once a second."""
    kinds: tuple[tuple[JobKind, str | None], ...] = (("read", None), ("shadow", None), ("send", DESTINATION))
    for kind, target in kinds:
        if ward.index.claim(kind, target, now, 600.0) or ward.index.next_due(kind, target):
            raise RuntimeError("a job was left over")


def _complete_ones(ward: Ward, count: int) -> Sequence[str]:
    studies = ward.receive(count)
    ward.complete()
    return [study.uid for study in studies]


def _some(ward: Ward, count: int) -> Sequence[str]:
    return [ward.uids[at * 7919 % len(ward.uids)] for at in range(count)]


def _times(ward: Ward, count: int) -> Sequence[float]:
    return [ward.hospital.now + at for at in range(count)]


OPERATIONS = (
    Operation(f"`studies`: the newest {_LISTED}", 6, _times, _list, _LISTED),
    Operation("`studies UID`: all of one", 60, _some, _show, IMAGES),
    Operation("record an instance", 400, _instances, lambda w, each: w.index.add_instance(*each)),
    Operation("complete a study", 30, lambda w, count: w.receive(count), _complete),
    Operation(
        "the completer's look, one study to complete",
        30,
        lambda w, count: w.receive(count),  # each comes when the one before it is due
        lambda w, study: w.completer.tick(study.received + 6.0),
    ),
    Operation(f"claim and finish a reading, {_QUEUED} wait", 40, _queued("read"), _work("read", None)),
    Operation("what a reading is told of its study", 20, _complete_ones, _tell),
    Operation("record a reading with three results", 30, _claimed, lambda w, job: w.record(job)),
    Operation(f"claim and finish a delivery, {_QUEUED} wait", 40, _queued("send"), _work("send", DESTINATION)),
    Operation(f"claim and finish one in shadow, {_QUEUED} wait", 40, _queued("shadow"), _work("shadow", None)),
    Operation(
        f"when the next is due, {_QUEUED} wait", 40, _queued("read"), lambda w, _: w.index.next_due("read", None)
    ),
    Operation("three workers look for work in vain", 40, _times, _look),
    Operation("queue again what ran, at a start", 20, _times, lambda w, now: w.index.requeue_running(now)),
)
