"""The job "read": a study's revision and a model -> a reading, result files, and the jobs that send them.

Reading and encoding run in the warm process (`ai.engine`); it writes the result files under ``incoming/`` and answers
with their names. This process moves them into place and records everything in the transaction that ends the job.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ai import engine
from ai.contract import InstanceRef, Model, PassedOver, Reading, ReadingError, SeriesRef
from dicom_node.config import Route, Settings
from dicom_node.db import Index
from dicom_node.errors import Permanent, Retryable
from dicom_node.log import logger, silence_libraries
from dicom_node.schema import Job, NewReading, NewResult
from dicom_node.spool import Spool
from dicom_node.studies import matches
from dicom_node.worker import Done


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What goes into the warm process; ``known`` are the run keys that this study has already."""

    model: str
    series: tuple[SeriesRef, ...]
    site: str
    created: float
    outputs: tuple[str, ...]
    known: frozenset[str]
    data_dir: str


@dataclass(frozen=True, slots=True)
class ResultPart:
    """A result file that the warm process wrote, still under ``incoming/``."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    part: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """What comes back: no ``run_key`` where nothing was eligible, no ``reading`` where the run is known already."""

    passed_over: tuple[PassedOver, ...]
    run_key: str | None = None
    reading: Reading | None = None
    parts: tuple[ResultPart, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()


def load_models(bundles: Mapping[str, Path]) -> dict[str, Model | str]:
    """Load every bundle, and everything that encoding needs; runs in the warm process."""
    import ai.bundle  # noqa: PLC0415 - torch and monai stay out of the receiver's process
    import dicom_node.results  # noqa: PLC0415 - as above: highdicom

    silence_libraries()
    dicom_node.results.warm_up()
    return {name: _load(ai.bundle, path) for name, path in bundles.items()}


def _load(bundle: Any, path: Path) -> Model | str:
    """A model, or the reason why it cannot be loaded: one damaged bundle must not keep the others from reading."""
    try:
        model: Model = bundle.load(path)
    except bundle.BundleError as error:
        return str(error)
    return model


def unloadable() -> dict[str, str]:
    """The models that could not be loaded, with the reason; runs in the warm process."""
    return {name: model for name, model in engine.state().items() if isinstance(model, str)}


def loader(bundles: Mapping[str, Path]) -> Callable[[], dict[str, Model | str]]:
    """`load_models` as the picklable function that the warm process starts with."""
    return partial(load_models, dict(bundles))


def settings_digest(outputs: tuple[str, ...]) -> str:
    """SHA-256 of every setting that changes what a run produces."""
    return hashlib.sha256(json.dumps({"outputs": sorted(outputs)}).encode()).hexdigest()


def read(request: ReadRequest) -> ReadAnswer:
    """Choose, read and encode; runs in the warm process."""
    from dicom_node import results  # noqa: PLC0415 - highdicom stays out of the receiver's process

    model: Model | str = engine.state()[request.model]
    if isinstance(model, str):
        raise ReadingError(f"model {request.model} could not be loaded: {model}")
    selection = model.select(request.series)
    if not selection.chosen:
        return ReadAnswer(selection.passed_over)
    uids = [ref.sop_instance_uid for ref in selection.chosen]
    key = results.run_key(request.site, model.identity, uids, settings_digest(request.outputs))
    if key in request.known:
        return ReadAnswer(selection.passed_over, run_key=key)
    reading = model.read(selection)
    began = time.perf_counter()
    created = datetime.fromtimestamp(request.created, UTC).astimezone()
    objects = results.encode(results.Run(key, created, request.site, reading), request.outputs)
    encoded = time.perf_counter()
    spool = Spool(Path(request.data_dir))
    parts = tuple(
        ResultPart(
            o.role,
            o.sop_class_uid,
            o.sop_instance_uid,
            o.series_instance_uid,
            str(spool.write_part(o.content)),
            len(o.content),
        )
        for o in objects
    )
    seconds = (*reading.seconds, ("encode", encoded - began), ("write", time.perf_counter() - encoded))
    return ReadAnswer(selection.passed_over, key, reading, parts, seconds)


class Reader:
    """Does the job "read"."""

    def __init__(
        self,
        settings: Settings,
        index: Index,
        spool: Spool,
        executor: Executor,
        site: str,
        *,
        on_sends: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._index = index
        self._spool = spool
        self._executor = executor
        self._site = site
        self._on_sends = on_sends
        self._clock = clock

    def __call__(self, job: Job) -> Done:
        """Read a study's revision with a model.

        Raises:
            Retryable: the warm process died, took too long or could not load its models.
            Permanent: the images cannot be read, or the route is gone from the configuration.
        """
        revision = self._index.revision(job.study)
        if revision > job.revision:
            return Done(reason=f"not read: superseded by revision {revision}")
        route = next((r for r in self._settings.routes if r.name == job.route), None)
        if route is None or job.target not in self._settings.models():
            raise Permanent(
                f"route {job.route!r} with model {job.target!r} is no longer in the configuration; "
                "push the study again, or put it back and retry"
            )
        began = time.perf_counter()
        try:
            answer = self._executor.submit(read, self._request(job, route)).result()
        except ReadingError as error:
            raise Permanent(str(error)) from error
        except (engine.WarmProcessError, RuntimeError) as error:
            raise Retryable(str(error)) from error
        return self._done(job, route, answer, time.perf_counter() - began)

    def _request(self, job: Job, route: Route) -> ReadRequest:
        instances = self._index.instances_of(job.study)
        said = self._index.series_of(job.study)
        taken = dict.fromkeys(one.series for one in said if matches(route.match, one))
        series = tuple(
            SeriesRef(
                job.study,
                uid,
                _same(one.modality for one in said if one.series == uid),
                _same(one.body_part for one in said if one.series == uid),
                _same(one.series_description for one in said if one.series == uid),
                tuple(
                    InstanceRef(i.sop_instance_uid, i.sop_class_uid, str(self._spool.path(i.file)))
                    for i in instances
                    if i.series == uid
                ),
            )
            for uid in taken
        )
        return ReadRequest(
            model=job.target,
            series=series,
            site=self._site,
            created=job.created,
            outputs=route.outputs,
            known=self._index.run_keys(job.study),
            data_dir=str(self._spool.root),
        )

    def _done(self, job: Job, route: Route, answer: ReadAnswer, seconds: float) -> Done:
        log = logger().bind(model=job.target, seconds=round(seconds, 3))
        if answer.run_key is None:
            reasons = "; ".join(dict.fromkeys(passed.reason for passed in answer.passed_over)) or "no images"
            log.info("study.not_eligible", reason=reasons)
            return Done(reason=reasons[:1000])
        if answer.reading is None:
            log.info("study.read_before", reason="the same images were read by the same model before")
        key = answer.run_key

        def effects() -> None:
            if answer.reading is not None:
                self._record(job, key, answer.reading, answer)
            self._index.supersede(job, key, self._clock())
            self._index.queue_sends(job, key, route.to, self._clock())

        def then() -> None:
            if answer.reading is not None:
                log.info(
                    "study.read",
                    version=answer.reading.model.version,
                    findings=len(answer.reading.findings),
                    objects=len(answer.parts),
                )
            self._on_sends()

        return Done(run_key=key, effects=effects, then=then)

    def _record(self, job: Job, key: str, reading: Reading, answer: ReadAnswer) -> None:
        # The files go into place before the commit that names them; a crash in between leaves files that the next
        # attempt replaces, and nothing of them was sent.
        results = [
            NewResult(
                part.sop_instance_uid,
                part.sop_class_uid,
                part.series_instance_uid,
                position,
                part.role,
                self._spool.adopt(Path(part.part), "results", part.sop_instance_uid),
                part.bytes,
            )
            for position, part in enumerate(answer.parts)
        ]
        identity = reading.model
        self._index.add_reading(
            NewReading(
                key,
                job.study,
                identity.name,
                identity.version,
                identity.digest,
                job.created,
                _as_json(reading, answer.seconds),
            ),
            results,
        )


def _same(texts: Iterable[str]) -> str:
    """What all instances of a series say; empty where they differ, which leaves it to each one's own header."""
    distinct = set(texts)
    return distinct.pop() if len(distinct) == 1 else ""


def _as_json(reading: Reading, seconds: Iterable[tuple[str, float]]) -> str:
    """A reading as the index keeps it: everything but the paths of files, which may move."""
    whole: dict[str, Any] = dataclasses.asdict(reading)
    whole["sources"] = [source["sop_instance_uid"] for source in whole["sources"]]
    whole["seconds"] = dict(seconds)
    return json.dumps(whole)
