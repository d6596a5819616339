"""Measures scores of radiographs: within one source, by patient, and by sex, age and view.

The AUC of a class compares its positives with images without any finding **of the same source**. Pairs across sources
do not count, because the look of a collection predicts its content. Intervals are 95 % percentiles of a bootstrap that
draws patients, not images (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.evaluation.metrics import auc, bootstrap_auc
from ai.training.chest.data import KEYS, Cases, balanced_weights

DRAWS = 1000
_GROUP_DRAWS = 300
LEAST_SENSITIVITY = 0.7
# Factors of the logit of "abnormality", and of the linear model, in the logit of a class; see `run.calibrate`.
MIXED = dict.fromkeys(("nodule_or_mass", "pneumonia", "effusion", "cardiomegaly", "consolidation"), 0.6)
JOINED = {"tuberculosis": 1.0, "pneumonia": 0.4, "cardiomegaly": 0.4, "abnormality": 0.4}
REGION = 0.5  # share of a map's peak (in odds) at which its region ends
_FEWEST = 5  # the least positives, and normals, of a group with figures
_BINS = 10
AGES = (("under 18", 0, 18), ("18 to 39", 18, 40), ("40 to 64", 40, 65), ("65 and over", 65, 200))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A class's calibration and its threshold on the calibrated probability.

    A logit becomes slope * logit + share * (logit of "abnormality") + linear * (logit of the linear model) + offset.
    """

    slope: float
    offset: float
    threshold: float
    share: float = 0.0
    linear: float = 0.0


def probabilities(
    logits: NDArray[np.floating[Any]], linear: NDArray[np.floating[Any]], points: Sequence[OperatingPoint]
) -> NDArray[np.float64]:
    """Calibrated probabilities (n, classes) from the logits (n, classes) of the network and of the linear model."""
    slope, share, joined, offset = (
        np.array([getattr(point, what) for point in points]) for what in ("slope", "share", "linear", "offset")
    )
    abnormal = logits[:, [KEYS.index("abnormality")]]
    return np.asarray(1.0 / (1.0 + np.exp(-(logits * slope + abnormal * share + linear * joined + offset))))


def choose_threshold(scores: NDArray[np.float64], truth: NDArray[Any], weights: NDArray[Any]) -> float:
    """The threshold with the greatest weighted sensitivity + specificity (Youden 1950), the middle one of several.

    Its sensitivity is at least `LEAST_SENSITIVITY`, because with few cases the greatest sum may miss half of the sick.
    ``scores``, ``truth`` (0 or 1) and ``weights`` are (n,).
    """
    used = weights > 0
    order = np.argsort(scores[used])
    s, t, w = scores[used][order], truth[used][order], weights[used][order].astype(np.float64)
    missed = np.concatenate([[0.0], np.cumsum(w * (t == 1))]) / max(w[t == 1].sum(), 1e-12)
    spared = np.concatenate([[0.0], np.cumsum(w * (t == 0))]) / max(w[t == 0].sum(), 1e-12)
    gain = np.where(missed <= 1.0 - LEAST_SENSITIVITY + 1e-9, spared - missed, -1.0)
    # With few cases the curve is ragged. The middle of the nearly best points generalises better.
    good = np.flatnonzero(gain >= gain.max() - 0.01)
    cut = int(good[len(good) // 2])
    middle = (s[max(cut - 1, 0)] + s[min(cut, len(s) - 1)]) / 2.0
    return float(np.clip(middle, 0.02, 0.98))


def auc_figures(
    scores: NDArray[np.float64],
    positive: NDArray[Any],
    normal: NDArray[Any],
    cases: Cases,
    *,
    draws: int = DRAWS,
) -> dict[str, Any] | None:
    """AUC of positives against normals of the same source, with its interval. None if there are too few.

    ``positive`` and ``normal`` are masks (n,). Images without a counterpart in their source do not count.
    """
    names = np.array(cases.sources)
    paired = [s for s in set(names[positive]) if (normal & (names == s)).any()]
    used = (positive | normal) & np.isin(names, paired)
    truth = positive[used]
    if min(int(truth.sum()), int((~truth).sum())) < _FEWEST:
        return None
    people = np.array(cases.patients)[used]
    low, high = bootstrap_auc(scores[used], truth, people, strata=names[used], seed=1, resamples=draws)
    return {
        "auc": round(auc(scores[used], truth, names[used]), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "positives": int(truth.sum()),
        "normals": int((~truth).sum()),
        "patients": len(set(people)),
    }


def calibration_error(scores: NDArray[np.float64], truth: NDArray[Any], weights: NDArray[Any]) -> float:
    """Weighted expected calibration error over ten bins of equal width (Guo et al. 2017)."""
    cell = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    total, error = float(weights.sum()), 0.0
    for number in range(_BINS):
        w = weights * (cell == number)
        if w.sum() > 0:
            error += abs(float((w * (truth - scores)).sum()))
    return error / max(total, 1e-12)


def measure(cases: Cases, scores: NDArray[np.float64], thresholds: Sequence[float]) -> dict[str, Any]:
    """All figures of calibrated scores (n, classes), by class. See the module for the comparisons."""
    normal = cases.labels[:, KEYS.index("abnormality")] == 0.0
    weights = balanced_weights(cases.labels, cases.sources, normal)
    found = {}
    for k, key in enumerate(KEYS):
        positive = cases.labels[:, k] == 1.0
        here = auc_figures(scores[:, k], positive, normal, cases)
        if here is None:
            continue
        apart = {
            source: one
            for source in sorted(set(cases.sources))
            if (one := _group(cases, scores[:, k], positive, normal, np.array(cases.sources) == source))
        }
        comparable = normal & np.isin(np.array(cases.sources), [s for s in set(cases.sources) if _both(cases, s, k)])
        above = scores[:, k] >= thresholds[k]
        other = (cases.labels[:, k] == 0.0) & ~normal
        against_other = auc_figures(scores[:, k], positive, other, cases, draws=_GROUP_DRAWS)
        found[key] = {
            **here,
            "threshold": round(thresholds[k], 4),
            "sensitivity": _share(above[positive]),
            "specificity": _share(~above[comparable]),
            "specificity_among_other_findings": _share(~above[other]),
            "against_other_findings": against_other,
            "calibration_error": round(
                calibration_error(scores[:, k], np.nan_to_num(cases.labels[:, k]), weights[:, k]), 4
            ),
            "by_source": apart,
            "by_group": _groups(cases, scores[:, k], positive, normal),
            "control": control(cases, scores[:, k], k, normal),
        }
    return found


def _share(hits: NDArray[Any]) -> float | None:
    return round(float(hits.mean()), 4) if len(hits) else None


def _both(cases: Cases, source: str, k: int) -> bool:
    here = np.array(cases.sources) == source
    return bool((cases.labels[here, k] == 1.0).any() and (cases.labels[here, k] == 0.0).any())


def _group(
    cases: Cases, scores: NDArray[np.float64], positive: NDArray[Any], normal: NDArray[Any], inside: NDArray[Any]
) -> dict[str, Any] | None:
    return auc_figures(scores, positive & inside, normal & inside, cases, draws=_GROUP_DRAWS)


def _groups(
    cases: Cases, scores: NDArray[np.float64], positive: NDArray[Any], normal: NDArray[Any]
) -> dict[str, dict[str, Any]]:
    view, sex, age = (cases.extra[:, i] for i in range(3))
    years = age * 100.0
    groups = {"women": sex == 1.0, "men": sex == 0.0, "PA": view == 0.0, "AP": view == 1.0}
    groups |= {f"aged {name}": (years >= low) & (years < high) for name, low, high in AGES}
    groups |= {f"stored at {name}": inside for name, inside in _sizes(cases).items()}
    return {name: one for name, inside in groups.items() if (one := _group(cases, scores, positive, normal, inside))}


def _sizes(cases: Cases) -> dict[str, NDArray[Any]]:
    return {"64 px": cases.stored <= 64, "96 px": cases.stored == 96, "256 px or more": cases.stored >= 256}


def control(cases: Cases, scores: NDArray[np.float64], k: int, normal: NDArray[Any]) -> dict[str, float | None]:
    """How well the source predicts a class, and how much the network uses it.

    ``source_alone``: the AUC, over the images of all sources, of the share of positives in the image's source.
    ``normals_of_it``: the AUC of the network's score between normals of the source with the most positives and normals
    of the other sources. It is 0.5 if the score does not depend on the source.
    """
    truth, names = cases.labels[:, k], np.array(cases.sources)
    known = np.isfinite(truth)
    rate = {s: float(truth[known & (names == s)].mean()) for s in set(names[known])}
    guess = np.array([rate.get(s, 0.0) for s in names])
    richest = max(rate, key=lambda s: float((truth[names == s] == 1).sum()))
    inside = normal & known & (names == richest)
    outside = normal & known & (names != richest)
    return {
        "source_alone": _plain(guess[known & (truth == 1)], guess[known & normal]),
        "normals_of_it": _plain(scores[inside], scores[outside]),
    }


def _plain(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> float | None:
    if not min(len(upper), len(lower)):
        return None
    scores, truth = np.concatenate([upper, lower]), np.arange(len(upper) + len(lower)) < len(upper)
    return round(auc(scores, truth), 4)
