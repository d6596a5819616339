"""Study routing: which routes of the configuration take a study, for which models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dicom_node.config.settings import Match, Route, Settings
from dicom_node.index.rows import StoredSeries


def matches(match: Match, series: StoredSeries) -> bool:
    """Whether a series fits every key of a route's match.

    Patterns are those of `fnmatch`, without regard to case. One pattern of a list has to fit.
    """
    return (
        _any(match.modality, (series.modality,))
        and _any(match.body_part, (series.body_part,))
        and _any(match.description, (series.study_description, series.series_description))
        and _any(match.from_, series.callers)
    )


def _any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    return any(fnmatchcase(value.lower(), pattern.lower()) for value in values for pattern in patterns)


def routes_of(settings: Settings, series: Sequence[StoredSeries]) -> list[tuple[Route, str]]:
    """The (route, model) pairs that read a study.

    A route takes the study if one of its series fits. If several routes take it for one model, the first one counts.
    """
    taken: dict[str, Route] = {}
    for route in settings.routes:
        if any(matches(route.match, one) for one in series):
            for model in route.models:
                taken.setdefault(model, route)
    return [(route, model) for model, route in taken.items()]


def shadows_of(settings: Settings, series: Sequence[StoredSeries]) -> list[tuple[Route, str]]:
    """The (route, model) pairs that read a study in shadow: as `routes_of`, without the models that read it anyway."""
    reading = {model for _, model in routes_of(settings, series)}
    taken: dict[str, Route] = {}
    for route in settings.routes:
        if any(matches(route.match, one) for one in series):
            for model in route.shadow:
                if model not in reading:
                    taken.setdefault(model, route)
    return [(route, model) for model, route in taken.items()]


def summaries_of(
    settings: Settings, pairs: Iterable[tuple[Route, str]], earlier: Iterable[tuple[str, str]] = ()
) -> list[tuple[Route, str]]:
    """The (route, destination) pairs that get a summary: destinations to which results of two models or more go.

    ``pairs`` are those of `routes_of`. Of several routes to a destination the first one counts. ``earlier`` are the
    (route, destination) of summaries of earlier revisions: there a new one takes their place, also of fewer models.
    """
    reached: dict[str, list[Route]] = {}
    for route, _ in pairs:
        for name in route.to:
            reached.setdefault(name, []).append(route)
    found = {name: routes[0] for name, routes in reached.items() if len(routes) > 1}
    named = {route.name: route for route in settings.routes}
    for old, name in earlier:
        left = reached[name][0] if name in reached else named.get(old)
        if left is not None and name in left.to:
            found.setdefault(name, left)
    return [(route, name) for name, route in found.items()]
