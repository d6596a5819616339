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
from ai.training.chest.data import KEYS, NAMED, Cases, balanced_weights, named_scores

DRAWS = 1000
_GROUP_DRAWS = 300
# Factors of the logit of "abnormality", and of the linear model, in the logit of a class; see `run.calibrate`.
MIXED = dict.fromkeys(("nodule_or_mass", "pneumonia", "effusion", "cardiomegaly", "consolidation"), 0.6)
JOINED = {"tuberculosis": 1.0, "pneumonia": 0.4, "cardiomegaly": 0.4, "abnormality": 0.4}
REGION = 0.5  # share of a map's peak (in odds) at which its region ends
FEWEST_OF_SOURCE = 10  # the least images of a kind in a source for it to count as one
_FEWEST = 5  # the least positives, and normals, of a group with figures
_BINS = 10
AGES = (("under 18", 0, 18), ("18 to 39", 18, 40), ("40 to 64", 40, 65), ("65 and over", 65, 200))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a class's probability of its logits.

    A logit becomes slope * logit + share * (logit of "abnormality") + linear * (logit of the linear model) + offset.
    """

    slope: float
    offset: float
    share: float = 0.0
    linear: float = 0.0


def probabilities(
    logits: NDArray[np.floating[Any]], linear: NDArray[np.floating[Any]], calibrations: Sequence[Calibration]
) -> NDArray[np.float64]:
    """Calibrated probabilities (n, classes) from the logits (n, classes) of the network and of the linear model."""
    slope, share, joined, offset = (
        np.array([getattr(one, what) for one in calibrations]) for what in ("slope", "share", "linear", "offset")
    )
    abnormal = logits[:, [KEYS.index("abnormality")]]
    return np.asarray(1.0 / (1.0 + np.exp(-(logits * slope + abnormal * share + linear * joined + offset))))


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


def calibration_apart(
    cases: Cases, scores: NDArray[np.float64], positive: NDArray[Any], negative: NDArray[Any]
) -> float | None:
    """The greatest calibration error within one source, of as many positives as negatives. None if there are too few.

    A score that is a probability over all sources together and not in each of them is none in the next hospital.
    """
    names, errors = np.array(cases.sources), []
    for source in sorted(set(cases.sources)):
        pair = [mask & (names == source) for mask in (positive, negative)]
        if min(int(mask.sum()) for mask in pair) < FEWEST_OF_SOURCE:
            continue
        weights = sum((mask / (2.0 * mask.sum()) for mask in pair), start=np.zeros(len(names)))
        errors.append(calibration_error(scores, positive.astype(np.float64), weights))
    return round(max(errors), 4) if errors else None


def measure(cases: Cases, scores: NDArray[np.float64]) -> dict[str, Any]:
    """All figures of calibrated scores (n, KEYS) that need no threshold, by class of `NAMED`; see the module."""
    normal = cases.normal
    truths = np.stack([cases.of(key) for key in NAMED], axis=1)
    weights = balanced_weights(truths, cases.sources, normal)
    found = {}
    for k, (key, own) in enumerate(named_scores(scores).items()):
        truth = truths[:, k]
        positive, other = truth == 1.0, (truth == 0.0) & ~normal
        here = auc_figures(own, positive, normal, cases)
        if here is None:
            continue
        apart = {
            source: one
            for source in sorted(set(cases.sources))
            if (one := _group(cases, own, positive, normal, np.array(cases.sources) == source))
        }
        found[key] = {
            **here,
            "against_other_findings": auc_figures(own, positive, other, cases, draws=_GROUP_DRAWS),
            "calibration_error": round(calibration_error(own, np.nan_to_num(truth), weights[:, k]), 4),
            "calibration_error_of_a_source": {
                "against_normal": calibration_apart(cases, own, positive, normal),
                "against_other_findings": calibration_apart(cases, own, positive, other),
            },
            "by_source": apart,
            "by_group": _groups(cases, own, positive, normal),
            "control": control(cases, own, truth),
        }
    return found


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


def control(cases: Cases, scores: NDArray[np.float64], truth: NDArray[Any]) -> dict[str, float | None]:
    """How well the source predicts a class, and how much the network uses it.

    ``source_alone``: the AUC, over the images of all sources, of the share of positives in the image's source.
    ``normals_of_it``: the AUC of the network's score between normals of the source with the most positives and normals
    of the other sources. It is 0.5 if the score does not depend on the source.
    """
    normal, names = cases.normal, np.array(cases.sources)
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
