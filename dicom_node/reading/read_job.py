"""The jobs "read" and "shadow": a model reads a revision of a study; the results are stored and queued for sending.

Reading and encoding run in an executor (`dicom_node.reading.warm_process`). It answers with the names of the result
files that it wrote under ``made/``, or with their bytes. This process puts the files into place and records
everything in the transaction that ends the job.

A study is read once. Its results are encoded once for each profile, that is, the settings of one or more destinations.
A reading that fails for good leads to a report that it failed, which says that this is no negative result.

A reading in shadow is only recorded: no result is encoded or sent, no earlier one is called off, no failure is
reported.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import nullcontext

from ai.contract import Asked, InstanceRef, ReadingError, SeriesRef
from ai.engine import process
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Profile, Route
from dicom_node.delivery.accepted import profiles
from dicom_node.errors import Hindered, Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.rows import Job
from dicom_node.jobs.worker import Done
from dicom_node.log import logger
from dicom_node.reading import editions
from dicom_node.reading.messages import ReadAnswer, ReadRequest, Wanted, lent
from dicom_node.reading.processes import Processors
from dicom_node.reading.recording import Recorder, Sending
from dicom_node.reading.warm_process import read, report_failure
from dicom_node.storage.spool import Spool
from dicom_node.studies.routing import matches


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """Where the results of a job go, by the settings in force when it begins: they may change while it runs.

    ``asked``: what the models look for. ``profiles``: each destination of the route, with how its results are made.
    ``committing``: the destinations that are asked to commit. ``place``: the model's place among all that are read for
    destinations, from 0. ``withdrawing``: the destinations where results are rejected that later ones replace.
    """

    route: Route
    asked: Asked
    profiles: tuple[tuple[str, Profile], ...]
    committing: frozenset[str]
    place: int
    withdrawing: frozenset[str]


class Reader:
    """Does the jobs "read" and "shadow" with one executor.

    Args:
        executor: where readings run; its tasks get a `ReadRequest`.
        site: what tells this node's results from those of every other node.
        on_sends: called after results were queued for sending.
        processors: shared with the other readers of this machine; None leaves the number of threads to torch.
    """

    def __init__(
        self,
        settings: SettingsHolder,
        index: Index,
        spool: Spool,
        executor: Executor,
        site: str,
        *,
        on_sends: Callable[[], None] = lambda: None,
        processors: Processors | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._processors = processors
        self._settings = settings
        self._index = index
        self._spool = spool
        self._executor = executor
        self._site = site
        self._recorder = Recorder(index, spool, on_sends=on_sends, clock=clock)
        self._clock = clock

    def __call__(self, job: Job) -> Done:
        """Read a study's revision with a model.

        Raises:
            Retryable: the reading process died, took too long or could not load its models.
            Hindered: the process could not be started, or the results could not be written.
            Permanent: the images cannot be read, or the route is no longer in the configuration.
        """
        revision = self._index.revision(job.study)
        if revision > job.revision:
            return Done(f"not read: superseded by revision {revision}", "superseded")
        way = self._way(job)
        if way is None:
            raise Permanent(
                f"route {job.route!r} with model {job.target!r} is no longer in the configuration; "
                "push the study again, or put it back and retry"
            )
        began, batch = time.perf_counter(), uuid.uuid4().hex
        try:
            editions.settle(self._index, self._spool, self._executor, job.study)
            with self._processors.shared() if self._processors is not None else nullcontext() as threads:
                request = dataclasses.replace(self._request(job, way, job.created), threads=threads, batch=batch)
                answer = self._executor.submit(read, lent(request)).result()
        except ReadingError as error:
            if self._index.revision(job.study) > revision:  # an image was corrected during the reading
                return Done(f"not read: superseded by revision {self._index.revision(job.study)}", "superseded")
            raise Permanent(str(error)) from error
        except (process.WarmProcessError, RuntimeError) as error:
            self._spool.discard_parts(batch)  # a process that dies while it encodes leaves files behind
            kind = Hindered if isinstance(error, process.MachineError) else Retryable
            raise kind(str(error)) from error
        now = self._index.revision(job.study)
        if now > revision and (answer.reading is None or answer.reading.failed or answer.reading.failure):  # as above
            self._spool.discard_parts(batch)
            return Done(f"not read: superseded by revision {now}", "superseded")
        return self._done(job, way, answer, time.perf_counter() - began)

    def failed(self, job: Job, reason: str) -> Done:
        """Report to the destinations that a reading failed for good; without a report, the reason says why.

        Raises:
            Permanent: no report can be made; the job is recorded as failed all the same.
            Hindered: no report can be made now.
        """
        if job.kind == "shadow" or self._index.revision(job.study) > job.revision:
            return Done()  # nobody waits for it; or the new revision is read, and its report counts
        way = self._way(job)
        if way is None:
            return Done("no report says so: its route and destinations are no longer in the configuration")
        # A failure replaces no earlier report: what an earlier reading found still holds. But where that was of another
        # patient, side or pixels, it does not, and the destinations hear of it whatever the route says.
        replaces = self._index.told_of_corrected(job.study, job.target) == "safety"
        if not way.route.report_failures and not replaces:
            return Done(f"no report says so: report_failures is false on route {way.route.name!r}")
        # The report has the time of the failure: a reading that is revived later must not look older than the report.
        request = self._request(job, way, self._clock())
        if not replaces:
            wanted = tuple(dataclasses.replace(each, predecessor=None) for each in request.wanted)
            request = dataclasses.replace(request, wanted=wanted)
        try:
            answer = self._executor.submit(report_failure, lent(request), reason).result()
        except process.MachineError as error:
            raise Hindered(str(error)) from error
        except (ReadingError, process.WarmProcessError) as error:
            raise Permanent(str(error)) from error
        if answer.run_key is None:
            why = "; ".join(dict.fromkeys(answer.notes)) or "no image of the study should have been read"
            return Done(f"no report says so: {why}"[:1000])
        return self._sent(job, way, answer, answer.run_key, supersedes=replaces)

    def _way(self, job: Job) -> _Way | None:
        """The route of a job and what belongs to it; None if the route or the model left the configuration."""
        settings = self._settings.current
        models = settings.shadow_models() if job.kind == "shadow" else settings.reading_models()
        route = next((each for each in settings.routes if each.name == job.route), None)
        if route is None or job.target not in models:
            return None
        return _Way(
            route,
            settings.asked(route),
            profiles(settings, route, self._index, job.study),
            frozenset(peer.name for peer in settings.destinations() if peer.commitment),
            0 if job.kind == "shadow" else models.index(job.target),
            frozenset(peer.name for peer in settings.destinations() if peer.iocm),
        )

    def _request(self, job: Job, way: _Way, created: float) -> ReadRequest:
        instances = self._index.instances_of(job.study)
        removed = self._index.removed_from(job.study)
        said = self._index.series_of(job.study)
        taken = {one.series for one in said if matches(way.route.match, one)}
        series = tuple(
            SeriesRef(
                job.study,
                uid,
                _same(one.modality for one in said if one.series == uid),
                _same(one.body_part for one in said if one.series == uid),
                _same(one.series_description for one in said if one.series == uid),
                tuple(
                    InstanceRef(i.sop_instance_uid, i.sop_class_uid, str(self._spool.path(i.file)), i.edition)
                    for i in instances
                    if i.series == uid
                ),
            )
            for uid in dict.fromkeys(one.series for one in said)
        )
        of_route = tuple(one for one in series if one.series_instance_uid in taken)
        # What a destination knows of a study does not end with a correction after which the model does not read it.
        tells = job.kind == "read" and (
            way.route.report_not_read or self._index.told_of_corrected(job.study, job.target) is not None
        )
        return ReadRequest(
            model=job.target,
            study=job.study,
            series=of_route,
            site=self._site,
            created=created,
            wanted=() if job.kind == "shadow" else self._wanted(job, way, replaces=not removed),
            known=self._index.known_runs(job.study),
            data_dir=str(self._spool.root),
            removed=tuple(each.sop_instance_uid for each in removed if each.series in taken),
            asked=way.asked,
            place=way.place,
            withdrawn=self._index.withdrawn_runs(job.study),
            tells=_with_images(of_route) or _with_images(series) if tells else (),
        )

    def _wanted(self, job: Job, way: _Way, *, replaces: bool) -> tuple[Wanted, ...]:
        """Each profile once, with the latest report that one of its destinations has, if this reading replaces it.

        It replaces none if retention has removed images: the report may be about them, and its findings still hold.
        """
        destinations: dict[Profile, list[str]] = {}
        for name, profile in way.profiles:
            destinations.setdefault(profile, []).append(name)
        return tuple(
            Wanted(profile, self._index.latest_report(job.study, job.target, names) if replaces else None)
            for profile, names in destinations.items()
        )

    def _done(self, job: Job, way: _Way, answer: ReadAnswer, seconds: float) -> Done:
        log = logger().bind(model=job.target, seconds=round(seconds, 3))
        if answer.run_key is None:
            reasons = "; ".join(dict.fromkeys(passed.reason for passed in answer.passed_over)) or "no images"
            log.info("study.not_eligible", reason=reasons)
            return Done(reasons[:1000], "nothing to read")
        if answer.reading is None:
            log.info("study.read_before", reason="the same images were read by the same model before")
        if job.kind == "shadow":
            recorded = self._recorder.in_shadow(job, answer, answer.run_key)
        else:
            recorded = self._sent(job, way, answer, answer.run_key, supersedes=True)

        not_read = answer.reading.failure if answer.reading is not None else ""

        def then() -> None:
            if not_read:
                log.info("study.not_eligible", reason=not_read)
            elif answer.reading is not None:
                log.info(
                    "study.read",
                    version=answer.reading.model.version,
                    findings=len(answer.reading.findings),
                    objects=len(answer.parts),
                )
            recorded.then()

        return dataclasses.replace(recorded, reason=(not_read or recorded.reason)[:1000], then=then)

    def _sent(self, job: Job, way: _Way, answer: ReadAnswer, key: str, *, supersedes: bool) -> Done:
        targets = tuple((name, profile.digest) for name, profile in way.profiles)
        sending = Sending(targets, way.committing, way.withdrawing)
        return self._recorder.sent(job, sending, answer, key, supersedes=supersedes)


def _with_images(series: Iterable[SeriesRef]) -> tuple[SeriesRef, ...]:
    return tuple(one for one in series if one.instances)


def _same(texts: Iterable[str]) -> str:
    """The value that all instances of a series share; empty if they differ: then each header is asked."""
    distinct = set(texts)
    return distinct.pop() if len(distinct) == 1 else ""
