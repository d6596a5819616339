"""The job "summary": what several models say of a study's revision is compared, for one destination.

It is queued when a study is complete and results of two models or more go to a destination, and its turn comes when no
model is still to read the study (`dicom_node.index.job_kinds`). Like a report of a failure it is encoded in the warm
process. It is recorded as a reading by a model of the name `SUMMARY`, so that a later summary replaces and withdraws it
as a later reading does an earlier one.

Where fewer than two models are left to compare, a summary of the one that is left takes the place of an earlier summary
that the destination has or is to get: the earlier one compares readings that were replaced.

Its run key comes from those of the readings, so the same readings never make another summary. A model that failed is
named; one that had nothing to read is not. A model in shadow never counts.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor

from ai.contract import InstanceRef, ModelIdentity, Reading, ReadingError, SeriesRef
from ai.engine import process
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Profile, Route, Settings
from dicom_node.delivery.accepted import profiles
from dicom_node.errors import Hindered, Permanent, Retryable
from dicom_node.index.index import Index
from dicom_node.index.recorded import recorded, restored
from dicom_node.index.rows import SUMMARY, Job, JobRow
from dicom_node.jobs.worker import Done
from dicom_node.log import logger
from dicom_node.reading.messages import Answer, ReadRequest, Wanted, lent
from dicom_node.reading.recording import Recorder, Sending
from dicom_node.reading.warm_process import summarize
from dicom_node.storage.spool import Spool


class Summarizer:
    """Does the jobs "summary" with one executor; ``site`` and ``on_sends`` are as for `Reader`."""

    def __init__(
        self,
        settings: SettingsHolder,
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
        self._recorder = Recorder(index, spool, on_sends=on_sends, clock=clock)

    def __call__(self, job: Job) -> Done:
        """Compare what the models say; ``job.target`` is the destination.

        Raises:
            Retryable: the warm process died or took too long.
            Hindered: the process could not be started, or the results could not be written.
            Permanent: the images are not all of one patient, or the route is no longer in the configuration.
        """
        if (over := self._superseded(job)) is not None:
            return over
        settings = self._settings.current
        route = next((each for each in settings.routes if each.name == job.route and job.target in each.to), None)
        if route is None:
            raise Permanent(f"route {job.route!r} to {job.target!r} is no longer in the configuration")
        profile = dict(profiles(settings, route, self._index, job.study))[job.target]
        models = settings.reading_models()
        jobs = [each for each in self._index.jobs_of(job.study) if _counts(settings, job, each)]
        jobs.sort(key=lambda each: models.index(each.target))
        answers = tuple(self._answer(job, each) for each in jobs)
        says_something = any(one.finding for each in answers for one in each.reading.classes)
        if not (says_something and len(answers) > 1) and not self._is_outdated(job, answers, says_something):
            return Done("nothing to compare: fewer than two models read it, or none says of a finding whether it is "
                        "there", "nothing to summarize")  # fmt: skip
        request = self._request(job, answers, profile, models.index(jobs[0].target))
        try:
            answer = self._executor.submit(summarize, lent(request)).result()
        except ReadingError as error:
            raise Permanent(str(error)) from error
        except (process.WarmProcessError, RuntimeError) as error:
            self._spool.discard_parts(request.batch)
            kind = Hindered if isinstance(error, process.MachineError) else Retryable
            raise kind(str(error)) from error
        if (over := self._superseded(job)) is not None or answer.run_key is None:
            self._spool.discard_parts(request.batch)
            return over or Done("; ".join(answer.notes), "nothing to summarize")
        peer = settings.peer(job.target)
        here = frozenset([job.target])
        sending = Sending(
            ((job.target, profile.digest),),
            here if peer.commitment else frozenset(),
            here if peer.iocm else frozenset(),
            only=job.target,
        )
        by = dataclasses.replace(job, target=SUMMARY)
        recorded_as = self._recorder.sent(by, sending, answer, answer.run_key, supersedes=True)

        def then() -> None:
            logger().info("study.summarized", peer=job.target, models=[each.reading.model.name for each in answers])
            recorded_as.then()

        return dataclasses.replace(recorded_as, then=then)

    def _superseded(self, job: Job) -> Done | None:
        revision = self._index.revision(job.study)
        return Done(f"not made: superseded by revision {revision}", "superseded") if revision > job.revision else None

    def _is_outdated(self, job: Job, answers: tuple[Answer, ...], says_something: bool) -> bool:
        """Whether an earlier summary no longer holds, though there is nothing to compare.

        Where every model failed, what they found before still holds, unless an image was corrected.
        """
        if not answers or all(target != job.target for _, target in self._index.summarized_pairs(job.study)):
            return False
        return says_something or self._index.told_of_corrected(job.study, SUMMARY) is not None

    def _answer(self, job: Job, read: JobRow) -> Answer:
        text = self._index.recorded_text(read.run_key) if read.run_key else ""
        if not text or read.run_key is None:  # it failed, and no report could be made or is wanted
            nobody = ModelIdentity(read.target, "", "", "", "", "")
            return Answer("", Reading(nobody, (), (), (), (), (), failure="failed"), None)
        return Answer(read.run_key, restored(text), self._index.report_for(read.run_key, job.target))

    def _request(self, job: Job, answers: tuple[Answer, ...], profile: Profile, place: int) -> ReadRequest:
        texts = (self._index.recorded_text(each.run_key) for each in answers if each.run_key)
        read = {uid for text in texts for uid in recorded(text).sources}
        series: dict[str, list[InstanceRef]] = {}
        for one in self._index.instances_of(job.study):
            if one.sop_instance_uid in read:
                path = str(self._spool.path(one.file))
                ref = InstanceRef(one.sop_instance_uid, one.sop_class_uid, path, one.edition)
                series.setdefault(one.series, []).append(ref)
        return ReadRequest(
            model=SUMMARY,
            study=job.study,
            series=tuple(SeriesRef(job.study, uid, "", "", "", tuple(refs)) for uid, refs in series.items()),
            site=self._site,
            created=job.created,
            wanted=(Wanted(profile, self._index.latest_report(job.study, SUMMARY, [job.target])),),
            known=self._index.known_runs(job.study),
            data_dir=str(self._spool.root),
            batch=uuid.uuid4().hex,
            place=place,
            withdrawn=self._index.withdrawn_runs(job.study),
            answers=answers,
        )


def _counts(settings: Settings, job: Job, read: JobRow) -> bool:
    """Whether a job is a reading of the revision whose results go to the destination, and read or failed."""
    route: Route | None = next((each for each in settings.routes if each.name == read.route), None)
    return (
        read.kind == "read"
        and read.revision == job.revision
        and route is not None
        and job.target in route.to
        and read.target in route.models
        and (read.state == "failed" or read.outcome == "read")
    )
