"""Answers and labels -> the figures of each class, as plain values for JSON.

An image counts for a class if its label is known. With a column of negatives, an image without the class counts only if
that column is 1. With ``within``, positives and negatives are compared only if they have the same value in that column;
images of a value that lacks positives or negatives are left out. A figure that cannot be computed is None.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ai.evaluation import metrics

if TYPE_CHECKING:
    from ai.bundle.manifest import Output, ReadingSpec
    from ai.evaluation.reading import Answer

__all__ = ["FEW", "WORST", "class_figures", "seconds", "usable"]

FEW = 10
"""With fewer positives or negatives than this, figures are unreliable, and the report warns."""

WORST = 4
"""The most missed cases, and the most false alarms, that are shown."""

_SENSITIVE = 0.90


def class_figures(
    spec: ReadingSpec, answers: Sequence[Answer], *, within: str | None = None, seed: int = 0, resamples: int = 2000
) -> list[dict[str, Any]]:
    """The figures of each output of a model, in its order. The module says which images count.

    Args:
        spec: the model's ``reading.json``.
        answers: the model's answers, with the labels.
        within: the column within whose values images are compared (`Row.stratum`); None compares all.
        seed: for the bootstrap.
        resamples: the number of resamples of the bootstrap.
    """
    patients = _patients(answers)
    found = []
    for place, output in enumerate(spec.outputs):
        truth = np.array([answer.row.truth[place] for answer in answers], dtype=np.int64)
        keep = usable(answers, place, within=within is not None)
        known = [answer for answer, kept in zip(answers, keep, strict=True) if kept]
        part = _Part(
            output.threshold,
            np.array([answer.scores[place] for answer in known], dtype=np.float64),
            truth[keep] == 1,
            patients[keep],
            np.array([answer.row.stratum for answer in known], dtype=np.str_) if within is not None else None,
        )
        figures = partial(_figures, seed=seed, resamples=resamples)
        scores, there = part.scores, part.there
        one: dict[str, Any] = {
            "key": output.key,
            "name": output.name,
            "undetermined": output.undetermined,
            "unknown": int((truth == -1).sum()),
            "not_compared": int((truth != -1).sum()) - len(known),
            **figures(part),
            "few": min(int(there.sum()), int((~there).sum())) < FEW,
            "average_precision": _real(metrics.average_precision(scores, there)),
            "ece": _real(metrics.ece(scores, there)),
            "brier": _real(metrics.brier(scores, there)),
            "calibration": _calibration(scores, there),
            "proposed": _proposed(spec, output, scores, there),
            "subgroups": {
                name: [
                    {
                        "value": value,
                        **figures(part.where([dict(answer.row.groups)[name] == value for answer in known])),
                    }
                    for value in _values(known, name)
                ]
                for name in dict.fromkeys(name for answer in known for name, _ in answer.row.groups)
            },
            "boxes": _boxes(answers, output.key),
            "worst": _worst(known, part),
        }
        if part.strata is not None:
            one["within"] = [
                {"value": value, **figures(part.where(part.strata == value))}
                for value in sorted(set(part.strata.tolist()))
            ]
        found.append(one)
    return found


def usable(answers: Sequence[Answer], place: int, *, within: bool) -> NDArray[np.bool_]:
    """Whether each image counts for the output at this place: bool (n,)."""
    truth = np.array([answer.row.truth[place] for answer in answers], dtype=np.int64)
    negative = np.array([answer.row.negative for answer in answers], dtype=np.bool_)
    keep = (truth == 1) | ((truth == 0) & negative)
    if within:
        strata = np.array([answer.row.stratum for answer in answers])
        for value in set(strata.tolist()):
            part = keep & (strata == value)
            if len(set(truth[part].tolist())) < 2:
                keep &= ~part
    return np.asarray(keep, dtype=np.bool_)


def seconds(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of the seconds for an image, by step, rounded to 0.1 ms."""
    steps = {"decode": [a.decode_seconds for a in answers], "model": [a.model_seconds for a in answers]}
    return {
        step: {name: round(float(np.quantile(took, share)), 4) for name, share in (("median", 0.5), ("p95", 0.95))}
        for step, took in steps.items()
        if took
    }


def _patients(answers: Sequence[Answer]) -> NDArray[np.int64]:
    """A number for each image's patient. An image without a patient gets a number of its own."""
    numbers: dict[tuple[str, int], int] = {}
    found = []
    for place, answer in enumerate(answers):
        patient = answer.row.patient
        found.append(numbers.setdefault((patient, -1) if patient else ("", place), len(numbers)))
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The images of one class, or a subgroup: scores, truth (``there``), patients, and strata or None; each (n,)."""

    threshold: float
    scores: NDArray[np.float64]
    there: NDArray[np.bool_]
    patients: NDArray[np.int64]
    strata: NDArray[np.str_] | None

    def where(self, mask: ArrayLike) -> _Part:
        chosen = np.asarray(mask, dtype=np.bool_)
        strata = None if self.strata is None else self.strata[chosen]
        return _Part(self.threshold, self.scores[chosen], self.there[chosen], self.patients[chosen], strata)


def _figures(part: _Part, *, seed: int, resamples: int) -> dict[str, Any]:
    """The figures of any part: the counts, the AUC, and the rates at the operating point."""
    value = metrics.auc(part.scores, part.there, part.strata)
    low = high = math.nan
    if math.isfinite(value):
        low, high = metrics.bootstrap_auc(
            part.scores, part.there, part.patients, strata=part.strata, seed=seed, resamples=resamples
        )
    counted = metrics.confusion(part.scores, part.there, part.threshold)
    return {
        "images": int(part.there.size),
        "positives": int(part.there.sum()),
        "negatives": int((~part.there).sum()),
        "auc": {"value": _real(value), "low": _real(low), "high": _real(high)},
        "threshold": part.threshold,
        "confusion": asdict(counted),
        **{name: _rate(*pair) for name, pair in counted.rates().items()},
    }


def _rate(successes: int, total: int) -> dict[str, float | int | None]:
    low, high = metrics.wilson(successes, total)
    value = successes / total if total else math.nan
    return {"value": _real(value), "low": _real(low), "high": _real(high), "count": successes, "of": total}


def _calibration(scores: NDArray[np.float64], there: NDArray[np.bool_]) -> list[dict[str, float | int]]:
    found = metrics.bins(scores, there)
    return [
        {
            "from": round(float(found.edges[i]), 6),
            "to": round(float(found.edges[i + 1]), 6),
            "count": int(found.count[i]),
            "mean_score": float(found.mean_score[i]),
            "share_positive": float(found.share_positive[i]),
        }
        for i in range(found.count.size)
        if found.count[i]
    ]


def _proposed(
    spec: ReadingSpec, output: Output, scores: NDArray[np.float64], there: NDArray[np.bool_]
) -> dict[str, dict[str, Any]]:
    """Thresholds that these images suggest."""
    ways = {
        "youden": metrics.youden(scores, there),
        f"sensitivity_{_SENSITIVE:.0%}".rstrip("%"): metrics.at_sensitivity(scores, there, _SENSITIVE),
    }
    found = {}
    for name, point in ways.items():
        if point is None:
            continue
        caution = ""
        if spec.task in ("regions", "segmentation") and point.threshold < output.threshold:
            # Below its threshold the score of a map only ranks images: see ai.inference.regions.regions.
            caution = (
                "below the present threshold this model's scores only rank images: set the threshold and evaluate again"
            )
        elif not 0.0 < point.threshold < 1.0:
            caution = "is no threshold that reading.json takes, which lie between 0 and 1"
        found[name] = {
            "threshold": point.threshold,
            "sensitivity": point.sensitivity,
            "specificity": point.specificity,
            "caution": caution,
        }
    return found


def _values(answers: Sequence[Answer], name: str) -> list[str]:
    values = Counter(dict(answer.row.groups)[name] for answer in answers)
    return sorted(values, key=lambda value: (value == "unknown", _number(value), value))


def _number(text: str) -> float:
    """The number that a band of ages begins with, to sort by."""
    first = re.split(r"[- ]", text, maxsplit=1)[0]
    return float(first) if first.isdigit() else 0.0


def _boxes(answers: Sequence[Answer], key: str) -> dict[str, Any] | None:
    """How often the centre of the model's best box lies inside a radiologist's box. None if no radiologist drew one.

    ``by_chance`` is how often a random point would lie inside: the mean share of the image that the radiologists' boxes
    cover, with overlaps counted twice.
    """
    images = shown = inside = beyond = 0
    shares = []
    for answer in answers:
        drawn = [box for box in answer.row.boxes if box.key == key]
        good = [box for box in drawn if box.right <= answer.columns + 1 and box.bottom <= answer.rows + 1]
        beyond += len(drawn) - len(good)
        if not good:
            continue
        images += 1
        area = sum((box.right - box.left) * (box.bottom - box.top) for box in good)
        shares.append(min(area / (answer.rows * answer.columns), 1.0))
        best = next((box for box in answer.best if box.key == key), None)
        if best is None:
            continue
        shown += 1
        x, y = (best.left + best.right) / 2, (best.top + best.bottom) / 2
        inside += any(box.left <= x <= box.right and box.top <= y <= box.bottom for box in good)
    if not images and not beyond:
        return None
    return {
        "images": images,
        "with_a_box_of_the_model": shown,
        "inside": _rate(inside, shown),
        "by_chance": round(float(np.mean(shares)), 4) if shares else None,
        "beyond_the_image": beyond,
    }


def _worst(answers: Sequence[Answer], part: _Part) -> dict[str, list[dict[str, Any]]]:
    """The positives that were missed with the lowest scores, and the negatives called present with the highest."""
    scores, there, threshold = part.scores, part.there, part.threshold
    order = np.argsort(scores, kind="stable")
    missed = [i for i in order if there[i] and scores[i] < threshold][:WORST]
    alarms = [i for i in order[::-1] if not there[i] and scores[i] >= threshold][:WORST]
    return {
        name: [{"file": answers[i].row.file, "score": float(scores[i])} for i in places]
        for name, places in (("missed", missed), ("false_alarms", alarms))
    }


def _real(value: float) -> float | None:
    return value if math.isfinite(value) else None
