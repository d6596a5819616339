"""The tasks of a warm process: choose the images of a study, read them, encode the results, report a failure.

Requests and answers (`dicom_node.reading.messages`) are picklable. Decoded pixels, maps and masks stay in the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ai.bundle.files import BundleError, describe
from ai.contract import (
    InstanceRef,
    Model,
    ModelIdentity,
    PassedOver,
    Reading,
    ReadingError,
    Selection,
)
from ai.engine import process
from ai.engine.devices import use_threads
from ai.selection.images import select
from dicom_node.errors import trouble
from dicom_node.reading.loading import Broken, Warm, broken_by
from dicom_node.reading.messages import ReadAnswer, ReadRequest, ResultPart
from dicom_node.storage.spool import Spool

T = TypeVar("T")
_REMOVED = "it was removed from this system by retention"


def _model(name: str) -> Model | Broken:
    """A model of this warm process."""
    warm: Warm = process.state()
    return warm.models[name]


def read(request: ReadRequest) -> ReadAnswer:
    """Choose images, read them and encode the results; runs in the warm process.

    Raises:
        ReadingError: the model is broken, or cannot read the images.
        BusyError: there is no memory for the model now.
        MachineError: the results cannot be written.
    """
    # highdicom stays out of the receiver's process
    from dicom_node.results.images import StoredImages  # noqa: PLC0415

    model = _model(request.model)
    if isinstance(model, Broken):
        raise ReadingError(f"model {request.model} could not be loaded: {model.reason}")
    selection = model.select(request.series)
    if not selection.chosen:
        passed = (*selection.passed_over, *_told_of_removed(request))
        return _not_read(request, model.identity, passed, StoredImages()) if request.tells else ReadAnswer(passed)
    # Like surplus images, removed ones should be read and cannot be: so no class may be called absent.
    gone = tuple(PassedOver(uid, _REMOVED) for uid in request.removed)
    selection = dataclasses.replace(selection, surplus=(*selection.surplus, *gone))
    uids = _editions(selection.chosen)
    key = _key(request, model.identity, uids, "")
    if not gone and request.is_done(key):
        return ReadAnswer(selection.passed_over, run_key=key)
    if request.threads is not None:
        use_threads(request.threads)
    try:
        reading = model.read(selection, request.asked)
    except BundleError as error:  # it was not loaded at the start, for lack of memory
        warm: Warm = process.state()
        warm.models[request.model] = broken_by(warm.bundles[request.model], error)
        raise ReadingError(f"model {request.model} could not be loaded: {error}") from error
    if reading.failed:  # another key: once all images can be read, the study is read again
        unread = [[each.uid, each.reason] for each in reading.failed]
        key = _key(request, model.identity, uids, _digest("incomplete", unread))
    return _encoded(request, key, reading, StoredImages())


def _key(request: ReadRequest, model: ModelIdentity, uids: Sequence[str], circumstances: str) -> str:
    """The key of a run that was never withdrawn."""
    from dicom_node import results  # noqa: PLC0415 - as in read

    def key_of(withdrawals: int) -> str:
        return results.run_key(request.site, model, uids, circumstances, request.asked, withdrawals=withdrawals)

    return request.key(key_of)


def _editions(refs: Iterable[InstanceRef]) -> list[str]:
    """The images of a run by UID and edition: a corrected image makes another run."""
    return [f"{ref.sop_instance_uid}/{ref.edition}" if ref.edition > 1 else ref.sop_instance_uid for ref in refs]


def _told_of_removed(request: ReadRequest) -> Iterator[PassedOver]:
    """Why nothing was read of a study that once had images."""
    if count := len(request.removed):
        yield PassedOver(
            request.study, f"{count} earlier image{'s were' if count > 1 else ' was'} removed by retention"
        )


def report_failure(request: ReadRequest, reason: str) -> ReadAnswer:
    """Encode a report that a study could not be read, and why; runs in the warm process, without pixels or network.

    The answer has no run key if no image should have been read, or none says which patient and study it is of; then its
    notes say which of them it was.

    Raises:
        MachineError: the report cannot be written.
    """
    from dicom_node import results  # noqa: PLC0415 - as in read
    from dicom_node.results.images import StoredImages  # noqa: PLC0415

    model = _model(request.model)
    if isinstance(model, Broken):
        identity, selection = _of_broken(request, model)
        reason = f"model {request.model} could not be loaded"  # its files are for IT alone
    else:
        identity, selection = model.identity, model.select(request.series)
    images = StoredImages()
    sources = results.identified(selection.chosen, request.study, images)
    if not sources:  # a report needs the patient and the study of an image
        notes = ("no file of the study says which patient it is of",) if selection.chosen else ()
        return ReadAnswer(selection.passed_over, notes=notes)
    uids = _editions(sources)
    key = _key(request, identity, uids, _digest("failed", reason))
    passed = (*selection.passed_over, *selection.surplus)
    failed = Reading(identity, sources, (), (), passed, (), failure=reason)
    return _encoded(request, key, failed, images)


def _not_read(request: ReadRequest, identity: ModelIdentity, passed: tuple[PassedOver, ...], images: Any) -> ReadAnswer:
    """A report that the model reads no image of the study, and why; it names one image of each series."""
    from dicom_node import results  # noqa: PLC0415 - as in read

    sources: list[InstanceRef] = []
    for one in request.tells:
        named = (found for ref in one.instances for found in results.identified([ref], request.study, images))
        sources += itertools.islice(named, 1)
    if not sources:
        return ReadAnswer(passed, notes=("no file of the study says which patient it is of",))
    reason = "; ".join(dict.fromkeys(each.reason for each in passed)) or "it is not of the kind that is read here"
    # Any image may come corrected, and with it the patient of the report.
    uids = _editions(ref for one in request.tells for ref in one.instances)
    key = _key(request, identity, uids, _digest("not read", reason))
    reading = Reading(identity, tuple(sources), (), (), (), (), failure=reason, not_meant=True)
    return _encoded(request, key, reading, images)


def summarize(request: ReadRequest) -> ReadAnswer:
    """Encode what several models said of a study; runs in the warm process, without pixels or network.

    The answer has no run key if no file says which patient and study it is of.

    Raises:
        ReadingError: the images are not all of one patient.
        MachineError: the results cannot be written.
    """
    from dicom_node import results  # noqa: PLC0415 - as in read
    from dicom_node.results.images import StoredImages  # noqa: PLC0415

    images = StoredImages()
    refs = [ref for one in request.series for ref in one.instances]
    sources = results.identified(refs, request.study, images)
    if not sources:
        return ReadAnswer((), notes=("no file of the study says which patient it is of",))
    runs = [
        [each.run_key, each.reading.model.name, each.report.sop_instance_uid if each.report else ""]
        for each in request.answers
    ]

    def key_of(withdrawals: int) -> str:
        return results.summary_key(request.site, runs, _editions(sources), withdrawals=withdrawals)

    readings = [each.reading for each in request.answers]
    return _encoded(request, request.key(key_of), results.summary_reading(request.site, sources, readings), images)


def _of_broken(request: ReadRequest, broken: Broken) -> tuple[ModelIdentity, Selection]:
    """The identity of a model that cannot be loaded and what it would have read, as far as its files tell."""
    try:
        info = None if broken.path is None else describe(broken.path)
    except BundleError:
        info = None
    if info is None:
        unknown = ModelIdentity(request.model, "unknown", "unknown", "unknown", "unknown", "")
        return unknown, Selection(tuple(ref for one in request.series for ref in one.instances), ())
    return info.identity, select(info.spec.input, request.series)


def _encoded(request: ReadRequest, key: str, reading: Reading, images: Any) -> ReadAnswer:
    """The answer with the results of a reading, for each profile that has none of this run yet."""
    from dicom_node import results  # noqa: PLC0415 - as in read

    if request.is_done(key):
        return ReadAnswer(reading.passed_over, run_key=key)
    began = time.perf_counter()
    created = _moment(request.created)
    notes: list[str] = [*reading.remarks, *reading.cautions]
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
            run = results.Run(key, created, request.site, reading, wanted.profile, predecessor, place=request.place)
            objects = _summary(request, run, images) if request.answers else results.objects_of(run, images)
            for each in _timed(objects, encoding):
                uids = (each.sop_class_uid, each.sop_instance_uid, each.series_instance_uid)
                made.append(((each.role, *uids, wanted.profile.digest), sum(map(len, each.pieces))))
                roles.append(each.role)
                yield each.pieces
            notes.extend(results.left_out(run, roles, images))

    written: Sequence[str | bytes]
    if request.data_dir is None:
        written = [b"".join(pieces) for pieces in contents()]
    else:
        written = _durable(contents(), Path(request.data_dir), request.batch)
    parts = tuple(ResultPart(*told, content, size) for (told, size), content in zip(made, written, strict=True))
    writing = time.perf_counter() - began - sum(encoding)
    seconds = (*reading.seconds, ("encode", sum(encoding)), ("write", writing))
    # Maps, masks and images are large, and the other process has no use for them: the results are made.
    sources = tuple(dataclasses.replace(ref, content=None) for ref in reading.sources)
    small = dataclasses.replace(reading, sources=sources, heat_maps=(), segmentations=())
    return ReadAnswer(reading.passed_over, key, small, request.created, parts, seconds, tuple(dict.fromkeys(notes)))


def _summary(request: ReadRequest, run: Any, images: Any) -> Iterator[Any]:
    from dicom_node import results  # noqa: PLC0415 - as in read

    reports = []
    for each in request.answers:
        if (report := each.report) is not None:
            uids = (report.sop_class_uid, report.sop_instance_uid, report.series)
            reports.append(results.Predecessor(*uids, _moment(report.created)))
    return results.summary_of(run, [each.reading for each in request.answers], reports, images)


def _durable(contents: Iterable[Sequence[bytes | memoryview]], data_dir: Path, batch: str) -> list[str]:
    """Write each result to a durable file under ``made/``; the paths of the files.

    Raises:
        MachineError: the disk is full or fails; no file is left.
    """
    try:
        return [str(file) for file in Spool(data_dir).write_parts(contents, batch)]
    except OSError as error:
        if reason := trouble(error):
            raise process.MachineError(reason) from error
        raise


def _timed(items: Iterator[T], seconds: list[float]) -> Iterator[T]:
    """The items; the seconds that each took are appended to ``seconds``."""
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
