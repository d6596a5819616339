"""The messages between the node and a process that reads: a request for a reading, and its answer.

On one machine both name files: the request those of the images, the answer those of the results. `lent` makes a request
for a process in a cage, which may open no image itself: it gets them open. `by_value` makes one for a process without a
disk in common with the node: images and results then travel as bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ai.contract import DEFAULT, Asked, Content, InstanceRef, LentFile, PassedOver, Reading, SeriesRef
from dicom_node.config.settings import Profile
from dicom_node.index.rows import StoredReport


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results for the destinations of one profile, and the latest report that they have, or None."""

    profile: Profile
    predecessor: StoredReport | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said of a study, for a summary: its reading, and the report that the destination has of it.

    ``run_key`` is empty for a reading that failed without a report.
    """

    run_key: str
    reading: Reading
    report: StoredReport | None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A study for a model to read, and which results to make of the reading.

    ``created`` (epoch seconds) is the one time in the results. ``known`` are the runs of this study that the index has,
    each with the digests of the profiles that it has results for. ``data_dir`` is the node's folder, below which the
    process writes the results durably; None if it has no such folder, and the results come back as bytes. ``threads``
    is how many processors the network may use; None leaves it to torch. ``batch`` begins the names of the result files
    under ``made/``. ``removed`` are the instances that retention has removed. ``asked`` is what to look for.
    ``place`` is the model's place in the configuration, from 0: it sets the Series Numbers of the results.
    ``withdrawn`` are the runs whose results were withdrawn, each with the digests of the profiles that this holds for.
    ``answers`` are what the models said, in place of ``model``, for a summary. ``tells`` are the
    series that a report is about which says that the model reads none of them; empty where no such report is wanted.
    """

    model: str
    study: str
    series: tuple[SeriesRef, ...]
    site: str
    created: float
    wanted: tuple[Wanted, ...]
    known: Mapping[str, frozenset[str]]
    data_dir: str | None
    threads: int | None = None
    batch: str = ""
    removed: tuple[str, ...] = ()
    asked: Asked = DEFAULT
    place: int = 0
    withdrawn: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    tells: tuple[SeriesRef, ...] = ()

    def key(self, key_of: Callable[[int], str]) -> str:
        """The key of a run whose results were never withdrawn, for the profiles that are wanted.

        ``key_of`` gives the run's key from the number of its withdrawals.
        """
        taken = {"", *(each.profile.digest for each in self.wanted)}
        keys = map(key_of, itertools.count())
        return next(key for key in keys if not taken & self.withdrawn.get(key, frozenset()))

    def missing(self, run_key: str) -> tuple[Wanted, ...]:
        """The profiles that a run has no results for; a destination that was added leaves those of the others alone."""
        there = self.known.get(run_key, frozenset())
        return tuple(each for each in self.wanted if each.profile.digest not in there)

    def is_done(self, run_key: str) -> bool:
        """Whether a run is known and has every result that is wanted; a reading in shadow wants none."""
        return run_key in self.known and not self.missing(run_key)


@dataclass(frozen=True, slots=True)
class ResultPart:
    """A result object: ``content`` is the path of its durable file under ``made/``, or its bytes.

    ``profile`` is the digest of the profile that it was made for; ``bytes`` is its size.
    """

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    profile: str
    content: str | bytes = dataclasses.field(repr=False)  # as bytes it holds a patient's data
    bytes: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What became of a request.

    ``run_key`` is None if nothing was eligible and no report says so. ``reading`` is None if the run was known already;
    it comes without maps and masks, which are in the results, and without the content of its sources. ``notes`` say
    which results could not be made, and why.
    """

    passed_over: tuple[PassedOver, ...]
    run_key: str | None = None
    reading: Reading | None = None
    created: float = 0.0
    parts: tuple[ResultPart, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


def by_value(request: ReadRequest) -> ReadRequest:
    """The request with the bytes of its images, whose results come back as bytes, too.

    An image whose file is gone has no content: its reading fails as that of a file that is not there.

    Raises:
        OSError: an image cannot be read, as the file system gave it.
    """

    def content(path: Path) -> Content:
        return path.read_bytes()

    return dataclasses.replace(_with_content(request, content), data_dir=None)


def lent(request: ReadRequest) -> ReadRequest:
    """The request with its images to be opened while it travels, for a process that may open no file itself."""

    def content(path: Path) -> Content:
        return LentFile(str(path))

    return _with_content(request, content)


def _with_content(request: ReadRequest, of: Callable[[Path], Content]) -> ReadRequest:
    """The request with other content in place of each path."""

    @functools.cache  # an image that is asked for twice is opened once
    def moved(ref: InstanceRef) -> InstanceRef:
        path = ref.content.path if isinstance(ref.content, LentFile) else ref.content
        if not isinstance(path, str | Path):
            return ref
        try:
            return dataclasses.replace(ref, content=of(Path(path)))
        except FileNotFoundError:
            return dataclasses.replace(ref, content=None)

    def all_moved(series: Iterable[SeriesRef]) -> tuple[SeriesRef, ...]:
        return tuple(dataclasses.replace(one, instances=tuple(map(moved, one.instances))) for one in series)

    return dataclasses.replace(request, series=all_moved(request.series), tells=all_moved(request.tells))
