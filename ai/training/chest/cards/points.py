"""The section of the card about operating points."""

from __future__ import annotations

from typing import Any

from ai.training.chest.cards.tables import listed, table
from ai.training.chest.points import DEFAULT, PREVALENCES

_POINTS = """\
An operating point is a set of thresholds, chosen per study: `low_alarm` calls **anything at all** on at most 10 of 100
films without any finding, `balanced` on 25, `screening` on 45. A route names one (`operating_point`). The classes that
are looked for by default share this budget, each with the same share of normal films above its threshold, so one number
is chosen for a point. A class on request has the same budget to itself: asked for beside the others it adds alarms.

So many of 100 films have anything called [95 % interval], out of fold: with thresholds that were chosen on other
patients, and scores of the network that has not seen this one. Where such thresholds called more than promised, the
budget was lowered until they did not. Each source counts alike, however many films it has; sources with fewer than
ten films of a kind are left out. "PPV of a call": of the films on which anything is called, how many have any
finding, if .5, 5 or 20 of 100 films have one.

{table}

By source, in 100 films: the promise holds for the sources together, **not for each of them**, nor for yours. Measure it
on your own films (`dicom-node models evaluate`).

{sources}

By finding: "of 100 normal" and the next two columns are how many of 100 films of this kind, that are not known to
have the finding, are called. PPV is for prevalences of .5 / 5 / 20 %: "PPV" if all who do not have the finding have
normal films, "PPV at worst" if all of them have other findings. The truth of a hospital lies between. NIH films have no
label of tuberculosis and are taken to have none; films with tuberculosis have no label of anything else."""


def sharing(points: dict[str, Any]) -> str:
    """What it would change if "any abnormality" shared the budget of the default classes."""
    told = [
        f"{_hundred(both['other'])} with it and {_hundred(point['default']['other'])} without (`{name}`)"
        for name, point in points.items()
        if (both := point.get("sharing_with_abnormality")) and both["other"]
    ]
    if not told:
        return "It was not measured what it would add."
    return (
        "If it shared the budget of the others, of 100 films with other findings than tuberculosis anything would be "
        f"called on {listed(told)}, at the same number of normal films."
    )


def points_text(outputs: dict[str, Any], points: dict[str, Any]) -> str:
    """The section of the card about operating points, with every figure of them."""
    if not points:
        return "There are none: no class was measured well enough to be called."
    return "\n\n".join(
        [_POINTS.format(table=points_table(points), sources=_points_of_sources(points))]
        + [_point(name, point, outputs) for name, point in points.items()]
    )


def points_table(points: dict[str, Any]) -> str:
    """The films that each operating point calls, as a Markdown table."""
    rows = []
    for name, point in points.items():
        called, asked, ppv = point["default"], point.get("with_tuberculosis", {}), point.get("ppv_of_anything", {})
        row = [f"`{name}`" + (" (default)" if name == DEFAULT else ""), f"{100 * point['promised']:.0f}"]
        row += [_called(called.get(kind)) for kind in ("normal", "other", "tuberculosis")]
        row += [" / ".join(_hundred(asked.get(kind)) for kind in ("normal", "other", "tuberculosis"))]
        rows.append([*row, _ppvs(ppv)])
    head = [
        "operating point",
        "promised",
        "of 100 normal",
        "of 100 with other findings",
        "of 100 with tuberculosis",
        "the three, with tuberculosis asked for",
    ]
    return table([*head, "PPV of a call"], rows)


def _point(name: str, point: dict[str, Any], outputs: dict[str, Any]) -> str:
    rows = [
        [
            outputs[key]["name"] + ("" if outputs[key].get("default", True) else " (on request)"),
            f"{point['thresholds'][key]:.2f}",
            share(one["sensitivity"]),
            _called(one["normal"]),
            _called(one["other"]),
            _called(one["tuberculosis"]),
            _ppvs(one["ppv"]["normal"]),
            _ppvs(one["ppv"]["other"]),
        ]
        for key, one in point["figures"].items()
        if one
    ]
    head = [
        "finding",
        "threshold",
        "sensitivity",
        "of 100 normal",
        "of 100 with other findings",
        "of 100 with tuberculosis",
        "PPV",
        "PPV at worst",
    ]
    return f"### `{name}`\n\n{table(head, rows)}"


def _points_of_sources(points: dict[str, Any]) -> str:
    rows = [
        [source, str((one["normal"] or one["other"])["images"] if one["normal"] else 0)]
        + [_hundred(point["by_source"][source]["normal"]) for point in points.values()]
        + [str(one["other"]["images"] if one["other"] else 0)]
        + [_hundred(point["by_source"][source]["other"]) for point in points.values()]
        for source, one in next(iter(points.values()))["by_source"].items()
    ]
    return table(["source", "normal films", *points, "films with other findings", *points], rows)


def _hundred(one: dict[str, Any] | None) -> str:
    return "-" if one is None else f"{100 * one['share']:.0f}"


def _called(one: dict[str, Any] | None) -> str:
    return "-" if one is None else f"{100 * one['share']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}]"


def share(one: dict[str, Any] | None) -> str:
    """A share from 0 to 1 with its interval."""
    return "-" if one is None else f"{one['share']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _ppvs(ppv: dict[str, float | None]) -> str:
    known = [ppv.get(f"{prevalence:g}") for prevalence in PREVALENCES]
    if all(value is None for value in known):
        return "-"
    return " / ".join("-" if value is None else f"{100 * value:.{int(value < 0.1)}f} %" for value in known)
