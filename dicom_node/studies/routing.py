"""Which routes take a study."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from dicom_node.config.settings import Match, Route, Settings
from dicom_node.index.rows import StoredSeries


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
