"""When a study is complete, and which routes take it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from dicom_node.config import Match, Route, Settings
from dicom_node.db import Index
from dicom_node.log import logger, where
from dicom_node.schema import StoredSeries

_LONGEST_PAUSE = 0.25
_CHECK_SECONDS = 5.0  # how soon a job that nobody does is told


def matches(match: Match, series: StoredSeries) -> bool:
    """Whether a series fits every key of a route's match; patterns are fnmatch, case-blind, a list is any-of."""
    return (
        _any(match.modality, (series.modality,))
        and _any(match.body_part, (series.body_part,))
        and _any(match.description, (series.study_description, series.series_description))
        and _any(match.from_, series.callers)
    )


def _any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    return any(fnmatchcase(value.lower(), pattern.lower()) for value in values for pattern in patterns)


def routes_of(settings: Settings, series: Sequence[StoredSeries]) -> list[tuple[Route, str]]:
    """Which (route, model) pairs take a study: a route needs one fitting series; the first route of a model wins."""
    taken: dict[str, Route] = {}
    for route in settings.routes:
        if any(matches(route.match, one) for one in series):
            for model in route.models:
                taken.setdefault(model, route)
    return [(route, model) for model, route in taken.items()]


def shadows_of(settings: Settings, series: Sequence[StoredSeries]) -> list[tuple[Route, str]]:
    """Which (route, model) pairs read a study in shadow: as `routes_of`, without the models that read it anyway."""
    reading = {model for _, model in routes_of(settings, series)}
    taken: dict[str, Route] = {}
    for route in settings.routes:
        if any(matches(route.match, one) for one in series):
            for model in route.shadow:
                if model not in reading:
                    taken.setdefault(model, route)
    return [(route, model) for model, route in taken.items()]


class Completer:
    """Completes studies that have been quiet for long enough: the longest quiet time of the routes that take them.

    Quiet means that no byte came on any association that brought images of the study: an image that takes longer than
    the quiet time to cross a slow network does not leave its study half read. ``last_byte`` knows (epoch seconds).
    """

    def __init__(
        self,
        settings: Settings,
        index: Index,
        on_jobs: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        *,
        last_byte: Callable[[str], float] = lambda _study: 0.0,
    ) -> None:
        self._last_byte = last_byte
        self._next_check = 0.0
        self._settings = settings
        self._index = index
        self._on_jobs = on_jobs
        self._clock = clock
        self._shortest = min(
            [settings.node.quiet_seconds, *(settings.quiet_seconds(route) for route in settings.routes)]
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completer", daemon=True)

    def start(self) -> None:
        """Begin to look for complete studies."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
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
        for study in self._index.open_studies():
            last = max(study.last_received, self._last_byte(study.study))
            left = last + self._shortest - now
            if left <= 0:
                series = self._index.series_of(study.study)
                routes = routes_of(self._settings, series)
                quiet = max(
                    (self._settings.quiet_seconds(route) for route, _ in routes),
                    default=self._settings.node.quiet_seconds,
                )
                left = last + quiet - now
                if left <= 0:
                    pairs = [(route.name, model) for route, model in routes]
                    shadows = [(route.name, model) for route, model in shadows_of(self._settings, series)]
                    if self._index.complete(
                        study.study, study.revision, study.last_received, pairs, now, shadows=shadows
                    ):
                        logger().info(
                            "study.complete",
                            study=study.study,
                            revision=study.revision,
                            routes=sorted({name for name, _ in pairs}),
                            reason="" if pairs else "no route takes it",
                        )
                        queued = queued or bool(pairs)
                    continue
            pause = min(pause, left)
        if queued:
            self._on_jobs()
        return max(pause, 0.01)

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
        )
        if failed:
            logger().error("jobs.failed", jobs=failed, reason="their model or destination left the configuration")
