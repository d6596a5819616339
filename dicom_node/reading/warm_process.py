"""What the warm process does with a study: choose, read, encode, and leave the result files under ``incoming/``.

Everything that goes in and comes back is picklable and small; pixels, maps and masks never leave the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ai.bundle.pins import Pinned, TamperedError
from ai.contract import (
    BusyError,
    InstanceRef,
    Model,
    ModelIdentity,
    PassedOver,
    Reading,
    ReadingError,
    Selection,
    SeriesRef,
)
from ai.engine import process
from ai.engine.devices import devices, use_threads
from ai.engine.shelf import Loaded, Shelf, Title, out_of_memory
from ai.inference import bundle_model
from dicom_node.config.settings import Profile
from dicom_node.errors import trouble
from dicom_node.index.migrations import StoredReport
from dicom_node.log import silence_libraries
from dicom_node.storage.spool import Spool

T = TypeVar("T")
_NICE = 10  # of 19: reading leaves a busy processor to receiving, which a modality waits for
_NICE_IN_BACKGROUND = 15  # and what nobody waits for leaves it to reading
_REMOVED = "it was removed from this system by retention"
_OOM_SCORE = "800"  # of 1000: where memory runs out it is ended, and no process that somebody waits for


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results for the destinations of one profile, and the report that these have already."""

    profile: Profile
    predecessor: StoredReport | None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What goes into the warm process; ``known`` are this study's runs, each with the profiles it has results for.

    ``threads`` is how many processors the network may use; None leaves it to torch. ``batch`` is in the names of the
    result files while they lie under ``incoming/``. ``removed`` are instances that retention has removed.
    """

    model: str
    study: str
    series: tuple[SeriesRef, ...]
    site: str
    created: float
    wanted: tuple[Wanted, ...]
    known: Mapping[str, frozenset[str]]
    data_dir: str
    threads: int | None = None
    batch: str = ""
    removed: tuple[str, ...] = ()

    def missing(self, run_key: str) -> tuple[Wanted, ...]:
        """What a run has no results for yet: a destination that was added takes nothing from the others."""
        there = self.known.get(run_key, frozenset())
        return tuple(each for each in self.wanted if each.profile.digest not in there)

    def is_done(self, run_key: str) -> bool:
        """Whether a run is known and has all that is wanted of it, which for a reading in shadow is nothing."""
        return run_key in self.known and not self.missing(run_key)


@dataclass(frozen=True, slots=True)
class ResultPart:
    """A result file that the warm process wrote, still under ``incoming/``; ``profile`` is that profile's digest."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    profile: str
    part: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A bundle that could not be loaded, and why; ``path`` is None where its files are not what was pinned."""

    path: Path | None
    reason: str


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What comes back: no ``run_key`` where nothing was eligible, no ``reading`` where the run is known already.

    ``created`` (epoch seconds) is the one time in the results. ``notes`` say what could not be made of the reading.
    """

    passed_over: tuple[PassedOver, ...]
    run_key: str | None = None
    reading: Reading | None = None
    created: float = 0.0
    parts: tuple[ResultPart, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Warm:
    """What the warm process keeps: the models, and what is to be told of each."""

    models: dict[str, Model | Broken]
    bundles: Mapping[str, Pinned]
    shelf: Shelf
    complaint: str
    waiting: dict[str, str]


@dataclass(frozen=True, slots=True)
class Loads:
    """How loading went: ``failed`` and ``waiting`` models with the reason, the ``loaded`` ones with their device.

    A model that waits has no room beside the others and is loaded when a study needs it. ``complaint`` is about the
    device that the configuration asks for.
    """

    loaded: Mapping[str, str]
    waiting: Mapping[str, str]
    failed: Mapping[str, str]
    complaint: str


def load_models(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Warm:
    """Load every bundle that there is room for, and everything that encoding needs; runs in the warm process.

    One in the ``background`` leaves the processor to the others wherever they want it, and is the one that the system
    ends where memory runs out.
    """
    os.nice(_NICE_IN_BACKGROUND if background else _NICE)
    if background:
        with suppress(OSError):  # not every system has it
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    import dicom_node.results  # noqa: PLC0415 - highdicom, torch and monai stay out of the receiver's process

    silence_libraries()
    dicom_node.results.warm_up()
    there, complaint = devices(device)
    titles: dict[str, Title] = {}
    models: dict[str, Model | Broken] = {}
    for name, pinned in bundles.items():
        try:
            titles[name] = _title(pinned)
        except bundle_model.BundleError as error:
            models[name] = _broken(pinned, error)
    shelf = Shelf(titles, there, out_of_memory())
    waiting: dict[str, str] = {}
    for name in titles:  # one damaged bundle must not keep the others from reading
        try:
            shelf.warm(name)
            models[name] = shelf[name]
        except BusyError as error:
            models[name] = shelf[name]
            waiting[name] = str(error)
        except bundle_model.BundleError as error:
            models[name] = _broken(bundles[name], error)
    return Warm(models, bundles, shelf, complaint, waiting)


def _title(pinned: Pinned) -> Title:
    """What the shelf knows of a bundle, whose files are compared with their pins now and at each loading."""
    pinned.check()
    title = bundle_model.title(pinned.path)
    return dataclasses.replace(title, load=partial(_load, pinned, title.load))


def _load(pinned: Pinned, load: Callable[[str], Loaded], device: str) -> Loaded:
    pinned.check()
    return load(device)


def _broken(pinned: Pinned, error: bundle_model.BundleError) -> Broken:
    """What was tampered with is not even asked what it would have read."""
    return Broken(None if isinstance(error, TamperedError) else pinned.path, str(error))


def loads() -> Loads:
    """How loading went; runs in the warm process."""
    warm: Warm = process.state()
    failed = {name: model.reason for name, model in warm.models.items() if isinstance(model, Broken)}
    return Loads(warm.shelf.places(), warm.waiting, failed, warm.complaint)


def loader(bundles: Mapping[str, Pinned], device: str, *, background: bool = False) -> Callable[[], Warm]:
    """`load_models` as the picklable function that the warm process starts with."""
    return partial(load_models, dict(bundles), device, background=background)


def _model(name: str) -> Model | Broken:
    """A model of this warm process."""
    warm: Warm = process.state()
    return warm.models[name]


def read(request: ReadRequest) -> ReadAnswer:
    """Choose, read and encode; runs in the warm process."""
    from dicom_node import results  # noqa: PLC0415 - highdicom stays out of the receiver's process

    model = _model(request.model)
    if isinstance(model, Broken):
        raise ReadingError(f"model {request.model} could not be loaded: {model.reason}")
    selection = model.select(request.series)
    if not selection.chosen:
        return ReadAnswer((*selection.passed_over, *_told_of_removed(request)))
    # As what there is too much of: it should be read and cannot, so no class is absent.
    gone = tuple(PassedOver(uid, _REMOVED) for uid in request.removed)
    selection = dataclasses.replace(selection, surplus=(*selection.surplus, *gone))
    uids = _editions(selection.chosen)
    key = results.run_key(request.site, model.identity, uids, "")
    if not gone and request.is_done(key):
        return ReadAnswer(selection.passed_over, run_key=key)
    if request.threads is not None:
        use_threads(request.threads)
    try:
        reading = model.read(selection)
    except bundle_model.BundleError as error:  # it had no room when the others were loaded
        warm: Warm = process.state()
        warm.models[request.model] = _broken(warm.bundles[request.model], error)
        raise ReadingError(f"model {request.model} could not be loaded: {error}") from error
    if reading.failed:  # under another key: once the images can be read, the question is open again
        unread = [[each.uid, each.reason] for each in reading.failed]
        key = results.run_key(request.site, model.identity, uids, _digest("incomplete", unread))
    return _encoded(request, key, reading, results.StoredImages())


def _editions(refs: Iterable[InstanceRef]) -> list[str]:
    """What tells a run's images from every other's: a corrected one is another."""
    return [f"{ref.sop_instance_uid}/{ref.edition}" if ref.edition > 1 else ref.sop_instance_uid for ref in refs]


def _told_of_removed(request: ReadRequest) -> Iterator[PassedOver]:
    """For a person who wonders why nothing was read of a study that has images."""
    if count := len(request.removed):
        yield PassedOver(
            request.study, f"{count} earlier image{'s were' if count > 1 else ' was'} removed by retention"
        )


def report_failure(request: ReadRequest, reason: str) -> ReadAnswer:
    """Encode that a study could not be read, and why; runs in the warm process, and needs no pixels and no network.

    No run key in the answer: there is nothing that should have been read, or nothing that says whose it is.
    """
    from dicom_node import results  # noqa: PLC0415 - as in read

    model = _model(request.model)
    if isinstance(model, Broken):
        identity, selection = _of_broken(request, model)
        reason = f"model {request.model} could not be loaded"  # the rest names files of this machine: for IT alone
    else:
        identity, selection = model.identity, model.select(request.series)
    images = results.StoredImages()
    sources = results.identified(selection.chosen, request.study, images)
    if not sources:  # a report needs the patient and the study of an image
        return ReadAnswer(selection.passed_over)
    uids = _editions(sources)
    key = results.run_key(request.site, identity, uids, _digest("failed", reason))
    passed = (*selection.passed_over, *selection.surplus)
    failed = Reading(identity, sources, (), (), passed, (), failure=reason)
    return _encoded(request, key, failed, images)


def _of_broken(request: ReadRequest, broken: Broken) -> tuple[ModelIdentity, Selection]:
    """What a model that cannot be loaded says of itself and would have read, as far as its files tell."""
    try:
        info = None if broken.path is None else bundle_model.describe(broken.path)
    except bundle_model.BundleError:
        info = None
    if info is None:
        unknown = ModelIdentity(request.model, "unknown", "unknown", "unknown", "unknown", "")
        return unknown, Selection(tuple(ref for one in request.series for ref in one.instances), ())
    return info.identity, bundle_model.select(info.spec.input, request.series)


def _encoded(request: ReadRequest, key: str, reading: Reading, images: Any) -> ReadAnswer:
    """Write the result files of a reading, for each profile that has none of this run yet."""
    from dicom_node import results  # noqa: PLC0415 - as in read

    if request.is_done(key):
        return ReadAnswer(reading.passed_over, run_key=key)
    began = time.perf_counter()
    created, spool = _moment(request.created), Spool(Path(request.data_dir))
    notes: list[str] = list(reading.remarks)
    if reading.failed:
        reasons = "; ".join(dict.fromkeys(each.reason for each in reading.failed))
        notes.append(f"incomplete: {len(reading.failed)} of the images could not be read: {reasons}")
    made: list[tuple[tuple[str, str, str, str, str], int]] = []
    encoding: list[float] = []

    def contents() -> Iterator[tuple[bytes | memoryview, ...]]:
        for wanted in request.missing(key):
            old, predecessor, roles = wanted.predecessor, None, []
            if old is not None:
                moment = _moment(old.created)
                predecessor = results.Predecessor(old.sop_class_uid, old.sop_instance_uid, old.series, moment)
            run = results.Run(key, created, request.site, reading, wanted.profile, predecessor)
            for each in _timed(results.objects_of(run, images), encoding):
                uids = (each.sop_class_uid, each.sop_instance_uid, each.series_instance_uid)
                made.append(((each.role, *uids, wanted.profile.digest), sum(map(len, each.pieces))))
                roles.append(each.role)
                yield each.pieces
            notes.extend(results.left_out(run, roles, images))

    try:
        files = spool.write_parts(contents(), request.batch)
    except OSError as error:
        if reason := trouble(error):
            raise process.MachineError(reason) from error
        raise
    parts = tuple(ResultPart(*told, str(file), size) for (told, size), file in zip(made, files, strict=True))
    writing = time.perf_counter() - began - sum(encoding)
    seconds = (*reading.seconds, ("encode", sum(encoding)), ("write", writing))
    # Maps and masks are in the objects now, and would be most of what crosses to the other process.
    small = dataclasses.replace(reading, heat_maps=(), segmentations=())
    return ReadAnswer(reading.passed_over, key, small, request.created, parts, seconds, tuple(dict.fromkeys(notes)))


def _timed(items: Iterator[T], seconds: list[float]) -> Iterator[T]:
    """The items, with how long each took to come."""
    while True:
        began = time.perf_counter()
        item = next(items, None)
        seconds.append(time.perf_counter() - began)
        if item is None:
            return
        yield item


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _moment(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC).astimezone()
