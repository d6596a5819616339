"""What the warm process does with a study: choose, read, encode, and leave the result files under ``incoming/``.

Everything that goes in and comes back is picklable and small; pixels, maps and masks never leave the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ai import engine
from ai.contract import Model, ModelIdentity, PassedOver, Reading, ReadingError, Selection, SeriesRef
from ai.pins import Pinned
from dicom_node.config import Profile
from dicom_node.log import silence_libraries
from dicom_node.schema import StoredReport
from dicom_node.spool import Spool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results for the destinations of one profile, and the report that these have already."""

    profile: Profile
    predecessor: StoredReport | None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What goes into the warm process; ``known`` are this study's runs, each with the profiles it has results for."""

    model: str
    study: str
    series: tuple[SeriesRef, ...]
    site: str
    created: float
    wanted: tuple[Wanted, ...]
    known: Mapping[str, frozenset[str]]
    data_dir: str

    def missing(self, run_key: str) -> tuple[Wanted, ...]:
        """What a run has no results for yet: a destination that was added takes nothing from the others."""
        there = self.known.get(run_key, frozenset())
        return tuple(each for each in self.wanted if each.profile.digest not in there)


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


def load_models(bundles: Mapping[str, Pinned]) -> dict[str, Model | Broken]:
    """Load every bundle, and everything that encoding needs; runs in the warm process."""
    import ai.bundle  # noqa: PLC0415 - torch and monai stay out of the receiver's process
    import dicom_node.results  # noqa: PLC0415 - as above: highdicom

    silence_libraries()
    dicom_node.results.warm_up()
    return {name: _load(ai.bundle, pinned) for name, pinned in bundles.items()}


def _load(bundle: Any, pinned: Pinned) -> Model | Broken:
    """A model, or the reason why it cannot be loaded: one damaged bundle must not keep the others from reading."""
    try:
        pinned.check()
    except bundle.BundleError as error:
        return Broken(None, str(error))  # what was tampered with is not asked what it would have read
    try:
        model: Model = bundle.load(pinned.path)
    except bundle.BundleError as error:
        return Broken(pinned.path, str(error))
    return model


def unloadable() -> dict[str, str]:
    """The models that could not be loaded, with the reason; runs in the warm process."""
    return {name: model.reason for name, model in engine.state().items() if isinstance(model, Broken)}


def loader(bundles: Mapping[str, Pinned]) -> Callable[[], dict[str, Model | Broken]]:
    """`load_models` as the picklable function that the warm process starts with."""
    return partial(load_models, dict(bundles))


def read(request: ReadRequest) -> ReadAnswer:
    """Choose, read and encode; runs in the warm process."""
    from dicom_node import results  # noqa: PLC0415 - highdicom stays out of the receiver's process

    model: Model | Broken = engine.state()[request.model]
    if isinstance(model, Broken):
        raise ReadingError(f"model {request.model} could not be loaded: {model.reason}")
    selection = model.select(request.series)
    if not selection.chosen:
        return ReadAnswer(selection.passed_over)
    uids = [ref.sop_instance_uid for ref in selection.chosen]
    key = results.run_key(request.site, model.identity, uids, "")
    if not request.missing(key):
        return ReadAnswer(selection.passed_over, run_key=key)
    reading = model.read(selection)
    if reading.failed:  # under another key: once the images can be read, the question is open again
        unread = [[each.uid, each.reason] for each in reading.failed]
        key = results.run_key(request.site, model.identity, uids, _digest("incomplete", unread))
    return _encoded(request, key, reading, results.StoredImages())


def report_failure(request: ReadRequest, reason: str) -> ReadAnswer:
    """Encode that a study could not be read, and why; runs in the warm process, and needs no pixels and no network.

    No run key in the answer: there is nothing that should have been read, or nothing that says whose it is.
    """
    from dicom_node import results  # noqa: PLC0415 - as in read

    model: Model | Broken = engine.state()[request.model]
    if isinstance(model, Broken):
        identity, selection = _of_broken(request, model)
        reason = f"model {request.model} could not be loaded"  # the rest names files of this machine: for IT alone
    else:
        identity, selection = model.identity, model.select(request.series)
    images = results.StoredImages()
    sources = results.identified(selection.chosen, request.study, images)
    if not sources:  # a report needs the patient and the study of an image
        return ReadAnswer(selection.passed_over)
    uids = [ref.sop_instance_uid for ref in sources]
    key = results.run_key(request.site, identity, uids, _digest("failed", reason))
    passed = (*selection.passed_over, *selection.surplus)
    failed = Reading(identity, sources, (), (), passed, (), failure=reason)
    return _encoded(request, key, failed, images)


def _of_broken(request: ReadRequest, broken: Broken) -> tuple[ModelIdentity, Selection]:
    """What a model that cannot be loaded says of itself and would have read, as far as its files tell."""
    from ai import bundle  # noqa: PLC0415 - as in load_models

    try:
        info = None if broken.path is None else bundle.describe(broken.path)
    except bundle.BundleError:
        info = None
    if info is None:
        unknown = ModelIdentity(request.model, "unknown", "unknown", "unknown", "unknown", "")
        return unknown, Selection(tuple(ref for one in request.series for ref in one.instances), ())
    return info.identity, bundle.select(info.spec.input, request.series)


def _encoded(request: ReadRequest, key: str, reading: Reading, images: Any) -> ReadAnswer:
    """Write the result files of a reading, for each profile that has none of this run yet."""
    from dicom_node import results  # noqa: PLC0415 - as in read

    if not request.missing(key):
        return ReadAnswer(reading.passed_over, run_key=key)
    began = time.perf_counter()
    created, spool = _moment(request.created), Spool(Path(request.data_dir))
    objects: list[tuple[str, Any]] = []
    notes: list[str] = []
    if reading.failed:
        reasons = "; ".join(dict.fromkeys(each.reason for each in reading.failed))
        notes.append(f"incomplete: {len(reading.failed)} of the images could not be read: {reasons}")
    for wanted in request.missing(key):
        old = wanted.predecessor
        predecessor = None
        if old is not None:
            moment = _moment(old.created)
            predecessor = results.Predecessor(old.sop_class_uid, old.sop_instance_uid, old.series, moment)
        run = results.Run(key, created, request.site, reading, wanted.profile, predecessor)
        made = results.encode(run, images)
        objects += [(wanted.profile.digest, each) for each in made]
        notes += results.left_out(run, made, images)
    encoded = time.perf_counter()
    parts = tuple(
        ResultPart(
            each.role,
            each.sop_class_uid,
            each.sop_instance_uid,
            each.series_instance_uid,
            profile,
            str(spool.write_part(each.content)),
            len(each.content),
        )
        for profile, each in objects
    )
    seconds = (*reading.seconds, ("encode", encoded - began), ("write", time.perf_counter() - encoded))
    # Maps and masks are in the objects now, and would be most of what crosses to the other process.
    small = dataclasses.replace(reading, heat_maps=(), segmentations=())
    return ReadAnswer(reading.passed_over, key, small, request.created, parts, seconds, tuple(dict.fromkeys(notes)))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _moment(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC).astimezone()
