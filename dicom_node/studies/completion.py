"""When a study is complete, and which routes take it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dicom_node.config.settings import Route, Settings
from dicom_node.index.index import Index
from dicom_node.index.rows import OpenStudy
from dicom_node.log import logger, where
from dicom_node.studies.routing import routes_of, shadows_of

_LONGEST_PAUSE = 0.25
_ASKED_AFTER_SECONDS = 0.5  # of quiet: a PACS is not asked after each image
_LONGEST_IMAGE_SECONDS = 3600.0  # that one may be on its way before the study is complete without it
_CHECK_SECONDS = 5.0  # how soon a job that nobody does is told


class Evidence(NamedTuple):
    """What speaks for a study's being complete (or not), in words for a person."""

    complete: bool
    reason: str


class Completer:
    """Completes studies: at once where something says that all of it is here, else when they have been quiet.

    The evidence, the best first:

    * procedure steps (MPPS): the modality names every instance that it made. While a step is in progress, or instances
      that it made are missing, the study waits.
    * the count of a PACS (``count_at``): while it has more than we, the study waits.
    * the release of an association by a peer that brings whole studies (``sends_whole_studies``).

    A study waits ``wait_seconds`` at most, since not every modality ends its steps and sends all that it made. Without
    evidence it is complete after the longest quiet time of the routes that take it. Quiet means that no byte came on
    any association that brought images of the study: an image that takes longer than the quiet time to cross a slow
    network does not leave its study half read; for an hour, that is: a sender that trickles, or an association that
    never ends, holds no study up for ever. ``last_byte`` knows (epoch seconds), as ``released`` knows when an
    association's release said that the study is whole; ``counts`` asks a peer, by its name.
    """

    def __init__(
        self,
        settings: Settings,
        index: Index,
        on_jobs: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        *,
        last_byte: Callable[[str], float] = lambda _study: 0.0,
        released: Callable[[str], float] = lambda _study: 0.0,
        counts: Mapping[str, Callable[[str, float], int | None]] | None = None,
    ) -> None:
        self._last_byte = last_byte
        self._released = released
        self._counts = counts or {}
        self._next_check = 0.0
        self._settings = settings
        self._index = index
        self._on_jobs = on_jobs
        self._clock = clock
        self._shortest = min(
            [settings.node.quiet_seconds, *(settings.quiet_seconds(route) for route in settings.routes)]
        )
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="completer", daemon=True)

    def start(self) -> None:
        """Begin to look for complete studies."""
        self._thread.start()

    def wake(self) -> None:
        """Look now: there is new evidence."""
        self._wake.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            try:
                pause = self.tick(self._clock())
            except Exception as error:  # the index is in trouble: say so and try again, for ever
                logger().error("completer.failed", error=where(error))
                pause = 1.0

    def tick(self, now: float) -> float:
        """Complete what is due.

        Returns:
            seconds until it is worth looking again.
        """
        pause = _LONGEST_PAUSE
        queued = False
        if now >= self._next_check:
            self._next_check = now + _CHECK_SECONDS
            self._fail_what_nobody_does(now)
        told = self._index.studies_with_steps()
        for study in self._index.open_studies():
            longest = study.last_received + _LONGEST_IMAGE_SECONDS
            last = max(study.last_received, min(self._last_byte(study.study), longest))
            left, reason = self._left(study, last, now, has_steps=study.study in told)
            if left > 0:
                pause = min(pause, left)
            else:
                queued = self._complete(study, reason, now) or queued
        if queued:
            self._on_jobs()
        return max(pause, 0.01)

    def _left(self, study: OpenStudy, last: float, now: float, *, has_steps: bool) -> tuple[float, str]:
        """For how many seconds a study is still to wait, none where it is complete, and what says so."""
        can_tell = has_steps or self._counts or self._released(study.study)
        if not can_tell and last + self._shortest > now:  # most studies, most of the time
            return last + self._shortest - now, ""
        routes = [route for route, _ in routes_of(self._settings, self._index.series_of(study.study))]
        quiet = max((self._settings.quiet_seconds(each) for each in routes), default=self._settings.node.quiet_seconds)
        evidence = self._evidence(study, routes, last, now, has_steps=has_steps)
        if evidence is None:
            return last + quiet - now, "no image for the quiet time"
        if evidence.complete:
            return 0.0, evidence.reason
        wait = max(quiet, self._settings.node.wait_seconds)
        return last + wait - now, f"waited {wait:g} s in vain: {evidence.reason}"

    def _evidence(
        self, study: OpenStudy, routes: Sequence[Route], last: float, now: float, *, has_steps: bool
    ) -> Evidence | None:
        if has_steps and (told := self._of_steps(study.study)) is not None:
            return told
        counted = self._of_counts(study, routes, last, now)
        if counted is not None and not counted.complete:
            return counted
        return self._of_release(study) or counted

    def _of_steps(self, study: str) -> Evidence | None:
        steps = self._index.steps_of(study)
        open_steps = sum(step.state == "IN PROGRESS" for step in steps)
        if open_steps:
            return Evidence(False, f"a procedure step of {len(steps)} is in progress")
        made, missing = sum(step.made for step in steps), sum(step.missing for step in steps)
        if missing:
            return Evidence(False, f"{missing} of the {made} instances that its procedure steps made did not come")
        if not made or self._index.has_unnamed(study):  # of what else comes the steps say nothing
            return None
        return Evidence(True, f"all {made} instances that its procedure steps made are here")

    def _of_release(self, study: OpenStudy) -> Evidence | None:
        if self._released(study.study) < study.last_received:
            return None
        return Evidence(True, "the association that brought it was released")

    def _of_counts(self, study: OpenStudy, routes: Sequence[Route], last: float, now: float) -> Evidence | None:
        """What the PACSs say that its routes ask, once it is quiet for a moment."""
        if now - last < _ASKED_AFTER_SECONDS:
            return None
        complete = None
        for name in dict.fromkeys(route.count_at for route in routes if route.count_at in self._counts):
            count = self._counts[str(name)](study.study, study.last_received)
            if not count:
                continue  # it does not say, or knows nothing of the study yet
            here = self._index.count_with(study.study, str(name))
            if here < count:
                return Evidence(False, f"{name} has {count} instances of it, {here} are here")
            complete = Evidence(True, f"{name} has {count} instances of it, all are here")
        return complete

    def _complete(self, study: OpenStudy, evidence: str, now: float) -> bool:
        """Complete a study; whether there is something to read."""
        series = self._index.series_of(study.study)
        pairs = [(route.name, model) for route, model in routes_of(self._settings, series)]
        shadows = [(route.name, model) for route, model in shadows_of(self._settings, series)]
        if not self._index.complete(
            study.study, study.revision, study.last_received, pairs, now, shadows=shadows, evidence=evidence
        ):
            return False
        logger().info(
            "study.complete",
            study=study.study,
            revision=study.revision,
            routes=sorted({name for name, _ in pairs}),
            evidence=evidence,
            reason="" if pairs else "no route takes it",
        )
        return bool(pairs)

    def _fail_what_nobody_does(self, now: float) -> None:
        """Jobs for a model or destination that is no longer in the configuration would wait for ever."""
        settings = self._settings
        destinations = [peer.name for peer in settings.destinations()]
        failed = (
            self._index.fail_unknown(
                "read", settings.reading_models(), "the model is in no route of the configuration any more", now
            )
            + self._index.fail_unknown(
                "shadow", settings.shadow_models(), "no route has the model in shadow any more", now
            )
            + self._index.fail_unknown(
                "send", destinations, "the destination is not in the configuration any more", now
            )
            + self._index.fail_unknown(
                "promise",
                [peer.name for peer in settings.callable()],
                "the configuration does not say any more where to reach who asked",
                now,
            )
        )
        committing = [peer.name for peer in settings.destinations() if peer.commitment]
        self._index.waive_commits(committing, "commitment = false for this destination now", now)
        if failed:
            logger().error("jobs.failed", jobs=failed, reason="their model or destination left the configuration")
