"""Study completion: decides when a study is complete, and queues a reading for each route that takes it.

The evidence is MPPS (PS3.4 annex F), the count of a PACS (C-FIND), the release of an association, or a quiet time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Route, Settings
from dicom_node.index.index import Index
from dicom_node.index.rows import JobKind, OpenStudy
from dicom_node.log import logger, where
from dicom_node.studies.routing import routes_of, shadows_of, summaries_of

_LONGEST_PAUSE = 0.25  # seconds between two looks
_ASKED_AFTER_SECONDS = 0.5  # of quiet, so that a PACS is not asked after each image
_LONGEST_IMAGE_SECONDS = 3600.0  # for which an image that is being received delays its study
_PROMPT_REVISIONS = 10  # of a study that are read as soon as they are complete
_LATER_PAUSE = 3600.0  # seconds from one reading to the next of later revisions
_CHECK_SECONDS = 5.0  # between two looks for jobs that no worker does
_WAIVED: dict[JobKind, str] = {"commit": "commitment", "withdraw": "iocm"}  # jobs, and the key of a peer that asks so
_TO_DESTINATIONS: tuple[JobKind, ...] = ("send", "summary")


class Evidence(NamedTuple):
    """What says that a study is complete or incomplete, in words for IT."""

    complete: bool
    reason: str


class Completer:
    """Completes studies: at once if there is evidence that they are complete, else after their quiet time.

    The evidence, strongest first:

    * procedure steps (MPPS): the modality names every instance that it made. While a step is in progress, or an
      instance that it made is missing, the study waits.
    * the count of a PACS (``count_at``): while the PACS has more instances than this node, the study waits.
    * the release of an association by a peer that sends whole studies (``sends_whole_studies``).

    A study waits at most ``wait_seconds``, since not every modality ends its steps or sends all that it made. Without
    evidence it is complete after its quiet time, the longest of the routes that take it.

    Quiet means that no byte arrived on any association that brought images of the study. So an image that takes longer
    than the quiet time to cross a slow network does not split its study. This holds for one hour: a sender that
    trickles bytes, or an association that never ends, does not delay a study without end.

    ``last_byte`` returns when an open association last received bytes for a study, and ``released`` when an association
    whose release completes the study was released; both in epoch seconds, 0 if never. ``counts`` has, by the name of a
    peer, the function that returns its count of a study's instances (`Counter.count`).
    """

    def __init__(
        self,
        settings: SettingsHolder,
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
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="completer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: there is new evidence."""
        self._wake.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
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
            except Exception as error:  # the index fails: log it and try again later
                logger().error("completer.failed", error=where(error))
                pause = 1.0

    def tick(self, now: float) -> float:
        """Complete the studies that are due. ``now`` is epoch seconds.

        Returns:
            seconds until the next call is useful.
        """
        pause = _LONGEST_PAUSE
        queued = False
        settings = self._settings.current  # once: that a study is complete, and who reads it, are one decision
        if not now < self._next_check <= now + _CHECK_SECONDS:  # it is later, or the clock was set back
            self._next_check = now + _CHECK_SECONDS
            self._fail_unconfigured(settings, now)
        with_steps = self._index.studies_with_steps()
        for study in self._index.open_studies():
            longest = study.last_received + _LONGEST_IMAGE_SECONDS
            last = max(study.last_received, min(self._last_byte(study.study), longest))
            left, reason = self._left(settings, study, last, now, has_steps=study.study in with_steps)
            if left > 0:
                pause = min(pause, left)
            else:
                queued = self._complete(settings, study, reason, now) or queued
        if queued:
            self._on_jobs()
        return max(pause, 0.01)

    def _left(
        self, settings: Settings, study: OpenStudy, last: float, now: float, *, has_steps: bool
    ) -> tuple[float, str]:
        """The seconds that a study still has to wait (0 or less: it is complete), and the evidence in words."""
        if study.revision > _PROMPT_REVISIONS:  # two senders that disagree would have it read again without end
            pause = self._index.last_reading_queued(study.study) + _LATER_PAUSE - now
            if 0 < pause <= _LATER_PAUSE:  # more: the clock was set back
                return pause, ""
        can_tell = has_steps or self._counts or self._released(study.study)
        shortest = min([settings.node.quiet_seconds, *map(settings.quiet_seconds, settings.routes)])
        if not can_tell and last + shortest > now:  # the usual case
            return last + shortest - now, ""
        routes = [route for route, _ in routes_of(settings, self._index.series_of(study.study))]
        quiet = max(map(settings.quiet_seconds, routes), default=settings.node.quiet_seconds)
        evidence = self._evidence(study, routes, last, now, has_steps=has_steps)
        if evidence is None:
            return last + quiet - now, "no image arrived during the quiet time"
        if evidence.complete:
            return 0.0, evidence.reason
        wait = max(quiet, settings.node.wait_seconds)
        return last + wait - now, f"the longest wait of {wait:g} s is over: {evidence.reason}"

    def _evidence(
        self, study: OpenStudy, routes: Sequence[Route], last: float, now: float, *, has_steps: bool
    ) -> Evidence | None:
        """The strongest evidence there is. None if there is none."""
        if has_steps and (told := self._of_steps(study.study)) is not None:
            return told
        counted = self._of_counts(study, routes, last, now)
        if counted is not None and not counted.complete:
            return counted
        return self._of_release(study) or counted

    def _of_steps(self, study: str) -> Evidence | None:
        """What the procedure steps say. None if they say nothing, or do not name every instance that came."""
        steps = self._index.steps_of(study)
        open_steps = sum(step.state == "IN PROGRESS" for step in steps)
        if open_steps:
            return Evidence(
                False, f"{open_steps} of {len(steps)} procedure steps {'is' if open_steps == 1 else 'are'} in progress"
            )
        made, missing = sum(step.made for step in steps), sum(step.missing for step in steps)
        if missing:
            return Evidence(False, f"{missing} of the {made} instances that its procedure steps made are missing")
        if not made or self._index.has_unnamed(study):  # the steps do not say how many other instances there are
            return None
        return Evidence(True, f"all {made} instances that its procedure steps made are here")

    def _of_release(self, study: OpenStudy) -> Evidence | None:
        """Evidence if an association whose release completes the study was released after its last image."""
        if self._released(study.study) < study.last_received:
            return None
        return Evidence(True, "the association that brought the study was released")

    def _of_counts(self, study: OpenStudy, routes: Sequence[Route], last: float, now: float) -> Evidence | None:
        """What the PACSs say that the study's routes ask. They are asked only after a short quiet time."""
        if now - last < _ASKED_AFTER_SECONDS:
            return None
        complete = None
        for name in dict.fromkeys(route.count_at for route in routes if route.count_at in self._counts):
            count = self._counts[str(name)](study.study, study.last_received)
            if not count:
                continue  # the PACS gave no count, or does not have the study yet
            here = self._index.count_with(study.study, str(name))
            if here < count:
                return Evidence(False, f"{name} has {count} instances of the study, {here} are here")
            complete = Evidence(True, f"{name} has {count} instances of the study, all are here")
        return complete

    def _complete(self, settings: Settings, study: OpenStudy, evidence: str, now: float) -> bool:
        """Complete a study and queue its readings. True if there is something to read."""
        series = self._index.series_of(study.study)
        taken = routes_of(settings, series)
        pairs = [(route.name, model) for route, model in taken]
        # A corrected study may be none for a route that has read it: the reading is replaced by a report that says so.
        known = {(route.name, model) for route in settings.routes for model in route.models}
        models = {model for _, model in pairs}
        pairs += [each for each in self._index.corrected_pairs(study.study) if each in known and each[1] not in models]
        shadows = [(route.name, model) for route, model in shadows_of(settings, series)]
        earlier = self._index.summarized_pairs(study.study) if pairs else []
        summaries = [(route.name, destination) for route, destination in summaries_of(settings, taken, earlier)]
        if not self._index.complete(
            study.study,
            study.revision,
            study.last_received,
            pairs,
            now,
            shadows=shadows,
            summaries=summaries,
            evidence=evidence,
        ):
            return False
        logger().info(
            "study.complete",
            study=study.study,
            revision=study.revision,
            routes=sorted({name for name, _ in pairs}),
            evidence=evidence,
            reason="" if pairs else "no route takes the study",
        )
        return bool(pairs)

    def _fail_unconfigured(self, settings: Settings, now: float) -> None:
        """Fail the jobs of models and destinations that are no longer configured; they would wait without end."""
        destinations = [peer.name for peer in settings.destinations()]
        failed = (
            self._index.fail_unknown(
                "read", settings.reading_models(), "the model is no longer in any route of the configuration", now
            )
            + self._index.fail_unknown(
                "shadow", settings.shadow_models(), "no route lists the model under shadow any longer", now
            )
            + sum(
                self._index.fail_unknown(kind, destinations, "the destination is no longer in the configuration", now)
                for kind in _TO_DESTINATIONS
            )
            + self._index.fail_unknown(
                "promise",
                [peer.name for peer in settings.callable()],
                "the configuration no longer says how to reach the peer that asked for the commitment",
                now,
            )
        )
        for kind, key in _WAIVED.items():
            targets = [peer.name for peer in settings.destinations() if getattr(peer, key)]
            self._index.waive(kind, targets, f"the configuration now says {key} = false for this destination", now)
        if failed:
            logger().error(
                "jobs.failed", jobs=failed, reason="their model or destination is no longer in the configuration"
            )
