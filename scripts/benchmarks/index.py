"""What the index costs when it is full, beside what the same costs when it is empty.

Both are used alternately, a few repetitions each: a disk or a machine that is slower for a while is so for both. In a
turn, with an empty index that is new, the medians of both are compared; what counts is the median over the turns.
"""

from __future__ import annotations

import gc
import logging
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import Any

from filling import DESTINATION, IMAGES, MODEL, ROUTE, Hospital, Study, fill

from dicom_node import log
from dicom_node.config import Match, NodeSettings, Peer, Route, Settings
from dicom_node.db import Index
from dicom_node.schema import Job, JobKind, NewInstance, NewReading, NewResult
from dicom_node.studies import Completer

BAR = 1.1
_FOR_MEANS = 400  # repetitions of a turn that a mean is worth something of
_AT_ONCE = 10  # repetitions, before it is the other index's turn
_QUEUED = 50  # jobs that wait while one is claimed
_LISTED = 1000  # studies: what `dicom-node studies` shows
_SETTINGS = Settings(
    node=NodeSettings(quiet_seconds=5.0),
    peers=(Peer(name=DESTINATION, ae_title="PACS", host="127.0.0.1", port=104, destination=True),),
    routes=(Route(name=ROUTE, models=(MODEL,), to=(DESTINATION,), match=Match(modality=("CT",))),),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How many instances the full index has at last, and in how many turns each operation is measured."""

    instances: int
    turns: int


FULL = Scale(1_000_000, 9)
QUICK = Scale(20_000, 1)


class Ward:
    """An index in use: ``uids`` are those of the studies that it was filled with, ``hospital`` sends more.

    The last ``newest`` of them are its newest studies when the first operation is measured.
    """

    def __init__(self, path: Path, hospital: Hospital, uids: Sequence[str], newest: int) -> None:
        self.index = Index(path)
        self.hospital = hospital
        self.uids = uids
        self.newest = newest
        self.completer = Completer(_SETTINGS, self.index)

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
        """Leave no study open, and no job queued."""
        self.complete()
        kinds: tuple[JobKind, ...] = ("read", "shadow", "send")
        with self.index.transaction():
            for kind in kinds:
                self.index.fail_unknown(kind, [], "it was measured", self.hospital.now)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: ``ready`` makes what the repetitions of a turn are given, ``act`` is timed.

    ``beside`` is how many studies the empty index has where none would be no comparison.
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
    """As the completer does, for one of the studies that are open."""
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
    """All of one study, as `dicom-node studies UID` asks for it."""
    if not ward.index.studies_with_state(uid):
        raise RuntimeError("a study is gone")
    ward.index.jobs_of(uid)
    ward.index.readings_of(uid)


def _tell(ward: Ward, uid: str) -> None:
    """All that a reader asks about the study of its job."""
    index = ward.index
    index.revision(uid)
    index.instances_of(uid)
    index.series_of(uid)
    index.known_runs(uid)
    index.latest_report(uid, MODEL, [DESTINATION])


def _look(ward: Ward, now: float) -> None:
    """As the workers do that have nothing to do, each once a second."""
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


def run(folder: Path, scale: Scale, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; all figures, by the size of the full index and operation. Times are seconds."""
    log.configure(level=logging.ERROR)  # as a node does, but for what goes well
    small = _Small(folder)
    big, hospital = folder / "big.sqlite", Hospital(1)
    uids: list[str] = []
    Index(big, create=True).close()
    found: dict[str, Any] = {"instances": scale.instances, "bar": BAR, "sizes": []}
    for part in (8, 4, 2, 1):
        wanted = scale.instances // part // IMAGES
        new = fill(big, hospital, wanted - len(uids))
        uids += new
        say(f"filled with {wanted * IMAGES} instances, {big.stat().st_size / 1e6:.0f} MB")
        if part == 8:
            # What one empty index takes beside another one: what a ratio here is to be held against.
            found["sizes"].append(
                _size(0, small.template(0), [_measure(each, None, small, scale) for each in OPERATIONS])
            )
        with _ward(big, hospital, uids, len(new)) as ward:
            measured = [_measure(each, ward, small, scale) for each in OPERATIONS]
            found["sizes"].append(_size(wanted * IMAGES, big, measured))
        for each in measured:
            say(f"{each['operation']}: {each['ratio']:.2f}")
    with _ward(big, hospital, uids, 0) as ward:
        began = time.perf_counter()
        ward.index.known_files(["none"])
        found["known_files_seconds"] = time.perf_counter() - began
    return found


class _Small:
    """Empty indexes, and those with a few studies: a fresh one for each turn, so that none fills up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = numbers()
        self._uids: dict[int, list[str]] = {}

    def template(self, studies: int) -> Path:
        """The file that those with so many studies are copies of."""
        path = self._folder / f"small-{studies}.sqlite"
        if studies not in self._uids:
            Index(path, create=True).close()
            self._uids[studies] = fill(path, Hospital(2), studies)
        return path

    @contextmanager
    def fresh(self, studies: int) -> Iterator[Ward]:
        """One of them, in use."""
        number = next(self._numbers)
        path = self._folder / f"turn-{number}.sqlite"
        shutil.copy(self.template(studies), path)
        with _ward(path, Hospital(100 + number), self._uids[studies], studies) as ward:
            ward.hospital.now += 1e8  # whatever it was filled with was earlier
            yield ward
        path.unlink()


@contextmanager
def _ward(path: Path, hospital: Hospital, uids: Sequence[str], newest: int) -> Iterator[Ward]:
    ward = Ward(path, hospital, uids, newest)
    try:
        _age(path)
        yield ward
    finally:
        ward.index.close()


def _age(path: Path) -> None:
    """Have the write-ahead log as long as SQLite lets it become: one that still grows costs more with each commit."""
    conn = sqlite3.connect(path, isolation_level=None)
    try:
        conn.execute("PRAGMA synchronous=OFF")
        for left in range(int(conn.execute("PRAGMA wal_autocheckpoint").fetchone()[0]), -1, -1):
            conn.execute(f"PRAGMA user_version = {left}")  # a commit of one page, and in the end what it was
    finally:
        conn.close()


def _size(instances: int, file: Path, operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"instances": instances, "bytes": file.stat().st_size, "operations": operations}


def _measure(operation: Operation, big: Ward | None, small: _Small, scale: Scale) -> dict[str, Any]:
    """An operation in the full index (None: another empty one) and in empty ones, in turns."""
    beside = operation.beside if big is None else min(operation.beside, big.newest)
    turns = []
    for _ in range(scale.turns):
        with small.fresh(beside) as one, small.fresh(beside) if big is None else nullcontext(big) as other:
            turns.append(_turn(operation, one, other))
    empty, full = zip(*turns, strict=True)
    medians = [(statistics.median(a), statistics.median(b)) for a, b in zip(empty, full, strict=True)]
    ratios = [b / a for a, b in medians]
    return {
        "operation": operation.name,
        "repetitions": operation.repetitions * scale.turns,
        "empty_seconds": statistics.median(a for a, _ in medians),
        "full_seconds": statistics.median(b for _, b in medians),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "greatest_ratio": max(ratios),
        # With SQLite's checkpoints, one in some hundred commits: in a shorter turn there is one or none, by chance.
        "ratio_of_means": None
        if operation.repetitions < _FOR_MEANS
        else statistics.median(statistics.fmean(b) / statistics.fmean(a) for a, b in zip(empty, full, strict=True)),
    }


def _turn(operation: Operation, empty: Ward, full: Ward) -> tuple[list[float], list[float]]:
    """The seconds of each repetition in both, a few of one and a few of the other, after some that are not counted."""
    unseen = max(2, operation.repetitions // 10)
    wards = [(ward, operation.ready(ward, unseen + operation.repetitions)) for ward in (empty, full)]
    taken: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    gc.disable()
    try:
        for begin in range(0, unseen + operation.repetitions, _AT_ONCE):
            for (ward, given), times in zip(wards, taken, strict=True):
                for each in given[begin : begin + _AT_ONCE]:
                    began = time.perf_counter()
                    operation.act(ward, each)
                    times.append(time.perf_counter() - began)
    finally:
        gc.enable()
    for ward, _ in wards:
        ward.tidy()
    return taken[0][unseen:], taken[1][unseen:]


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: what each operation takes in the full index, and how many times what in an empty one."""
    sizes = found["sizes"]
    titles = [f"{size['instances']:,} ({size['bytes'] / 1e6:.0f} MB)" for size in sizes[1:]]
    lines = [
        f"Times in an index of {sizes[-1]['instances']:,} instances, and how many times those in an empty one they are,"
        " by the number of instances",
        "",
        f"| operation | empty | full | empty again | {' | '.join(titles)} |",
        f"|---|---|---|---|{'---|' * len(titles)}",
    ]
    for at, last in enumerate(sizes[-1]["operations"]):
        ratios = [size["operations"][at]["ratio"] for size in sizes]
        lines.append(
            f"| {last['operation']} | {_milliseconds(last['empty_seconds'])} | {_milliseconds(last['full_seconds'])} | "
            f"{' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"
        )
    lines.append("")
    for each in sizes[-1]["operations"]:
        if each["ratio_of_means"] is not None:
            lines.append(
                f"Means, which SQLite's checkpoints are part of; {each['operation']}: {each['ratio_of_means']:.2f}"
            )
    lines.append(
        f"Whether a file is known, which a start after a crash asks once: {found['known_files_seconds']:.2f} s"
    )
    return "\n".join([*lines, ""])


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def plot(found: dict[str, Any], file: Path) -> None:
    """Draw the ratios over the number of instances."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - seconds; only a plot needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10.0, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = found["sizes"]
    for at, operation in enumerate(sizes[-1]["operations"]):
        ratios = [size["operations"][at]["ratio"] for size in sizes]
        axes.plot(
            [size["instances"] for size in sizes],
            ratios,
            color=f"C{at % 10}",
            linestyle="solid" if at < 10 else "dashed",
            marker="o",
            label=operation["operation"].replace("`", ""),
        )
    axes.axhline(found["bar"], color="black", linestyle="dotted", label=f"{found['bar']:g}")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("instances in the index")
    axes.set_ylabel("times what it takes in an empty one")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(file)
