"""Measures of a classifier against labels, with confidence intervals.

In every function, ``scores`` (n,) are numbers that rise with the evidence for the class, and ``truth`` (n,) says
whether the class is present (bool, or 1 and 0). A class is called present if ``score >= threshold``. A measure that
cannot be computed (an AUC without negatives, a rate out of 0) is nan.

Only numpy is needed. All is vectorised: 2000 resamples of some thousand images take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Bins",
    "Confusion",
    "Operating",
    "at_sensitivity",
    "auc",
    "average_precision",
    "bins",
    "bootstrap_auc",
    "brier",
    "confusion",
    "ece",
    "pr_curve",
    "roc_curve",
    "wilson",
    "youden",
]

_CELLS = 2_000_000  # of one block of resamples: tens of megabytes, whatever the number of images


@dataclass(frozen=True, slots=True)
class Operating:
    """A threshold, with its sensitivity and specificity on the scores that it was chosen on."""

    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many images were called present (positive) or absent (negative), rightly (true) or wrongly (false)."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    def rates(self) -> dict[str, tuple[int, int]]:
        """Sensitivity, specificity, PPV and NPV, each as (successes, total), for `wilson`."""
        return {
            "sensitivity": (self.true_positive, self.true_positive + self.false_negative),
            "specificity": (self.true_negative, self.true_negative + self.false_positive),
            "ppv": (self.true_positive, self.true_positive + self.false_positive),
            "npv": (self.true_negative, self.true_negative + self.false_negative),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Scores sorted into bins: their number in each bin, their mean, and the share of positives among them.

    An empty bin has count 0 and nan for the others. ``edges`` has one element more than the rest.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    mean_score: NDArray[np.float64]
    share_positive: NDArray[np.float64]


def auc(scores: ArrayLike, truth: ArrayLike, strata: ArrayLike | None = None) -> float:
    """Area under the ROC curve: the share of pairs whose positive scores higher, ties count half (Mann-Whitney).

    Args:
        scores: (n,).
        truth: (n,).
        strata: (n,), of any type, for example the source of an image. Only pairs within one stratum are compared, and
            the area is the share over all such pairs. None compares all pairs.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    s, t = _checked(scores, truth)
    order = _Order(s, t, _codes(strata, s.size))
    right, pairs = order.pairs(np.ones((1, s.size), dtype=np.float64)[:, order.by])
    return float(right[0] / pairs[0]) if pairs[0] else float("nan")


def bootstrap_auc(
    scores: ArrayLike,
    truth: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    strata: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The bootstrap's percentile interval of `auc` (Efron 1979), drawing whole groups with replacement.

    Images of one patient resemble each other, so patients are drawn. A resample without a pair to compare is left out.
    If every positive scores above every negative, the interval has no width, although the next patient may differ.

    Args:
        scores: (n,).
        truth: (n,).
        groups: (n,), for example the patients. None makes each image a group of its own.
        strata: as in `auc`.
        seed: the same seed gives the same interval.
        resamples: the number of resamples.
        level: the confidence level of the interval.

    Returns:
        The low and the high end; nan where `auc` is nan.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    s, t = _checked(scores, truth)
    if resamples < 1:
        raise ValueError(f"resamples: expected 1 or more, got {resamples}")
    group = np.arange(s.size) if groups is None else _codes(groups, s.size)
    order = _Order(s, t, _codes(strata, s.size))
    count = int(group.max(initial=-1)) + 1
    if count == 0:
        return float("nan"), float("nan")
    group = group[order.by]
    rng = np.random.default_rng(seed)
    found = []
    block = max(1, _CELLS // max(count, s.size))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(count, size=(size, count)) + np.arange(size)[:, np.newaxis] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        right, pairs = order.pairs(times[:, group])
        found.append(right[pairs > 0] / pairs[pairs > 0])
    values = np.concatenate(found)
    if values.size == 0:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """The sum over the thresholds, from the highest, of (recall - recall at the threshold before) x precision.

    Precision is not interpolated, because that would overstate it.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    recall, precision, _ = pr_curve(scores, truth)
    if recall.size == 0:
        return float("nan")
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def roc_curve(
    scores: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """False positive rate, true positive rate and threshold, from "nothing is present" (infinity) downwards.

    Empty where positives or negatives are lacking.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    right, wrong, thresholds = _by_threshold(*_checked(scores, truth))
    if right.size == 0 or right[-1] == 0 or wrong[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    return (
        np.concatenate([[0.0], wrong / wrong[-1]]),
        np.concatenate([[0.0], right / right[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def pr_curve(
    scores: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Recall (sensitivity), precision (PPV) and threshold, from the highest score downwards; empty without positives.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    right, wrong, thresholds = _by_threshold(*_checked(scores, truth))
    if right.size == 0 or right[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    return right / right[-1], right / (right + wrong), thresholds


def confusion(scores: ArrayLike, truth: ArrayLike, threshold: float) -> Confusion:
    """Count what is called present and absent at a threshold.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    s, t = _checked(scores, truth)
    called = s >= threshold
    return Confusion(
        int((called & t).sum()), int((called & ~t).sum()), int((~called & ~t).sum()), int((~called & t).sum())
    )


def youden(scores: ArrayLike, truth: ArrayLike) -> Operating | None:
    """The threshold with the greatest sensitivity + specificity - 1 (Youden 1950); of several the highest.

    The threshold lies half way to the next lower score, so that rounding it changes nothing.

    Returns:
        None where positives or negatives are lacking.

    Raises:
        ValueError: the arrays do not fit each other, or a score is not finite.
    """
    false, true, thresholds = roc_curve(scores, truth)
    if true.size == 0:
        return None
    # Rates that differ by rounding alone are the same; argmax takes the first, which is the highest threshold.
    return _operating(false, true, thresholds, int(np.argmax(np.round(true - false, 12)[1:])) + 1)


def at_sensitivity(scores: ArrayLike, truth: ArrayLike, sensitivity: float = 0.90) -> Operating | None:
    """The highest threshold that has at least this sensitivity; placed as in `youden`.

    Returns:
        None where positives or negatives are lacking.

    Raises:
        ValueError: ``sensitivity`` is not above 0 and at most 1; the arrays do not fit each other; a score is not
            finite.
    """
    if not 0.0 < sensitivity <= 1.0:
        raise ValueError(f"sensitivity: expected above 0 and at most 1, got {sensitivity:g}")
    false, true, thresholds = roc_curve(scores, truth)
    if true.size == 0:
        return None
    return _operating(false, true, thresholds, int(np.argmax(true >= sensitivity - 1e-12)))


def bins(scores: ArrayLike, truth: ArrayLike, count: int = 10) -> Bins:
    """Sort probabilities into ``count`` bins of equal width over 0..1; the last one holds 1 itself.

    Raises:
        ValueError: the arrays do not fit each other, or a score is no probability.
    """
    s, t = _probabilities(scores, truth)
    place = np.minimum((s * count).astype(np.int64), count - 1)
    number = np.bincount(place, minlength=count)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=s, minlength=count) / number
        share = np.bincount(place, weights=t.astype(np.float64), minlength=count) / number
    return Bins(np.linspace(0.0, 1.0, count + 1), number, mean, share)


def ece(scores: ArrayLike, truth: ArrayLike, count: int = 10) -> float:
    """Expected calibration error: how far the mean score of a bin is from its share of positives (Guo et al. 2017).

    Over ``count`` bins of equal width, weighted by how many lie in each. 0 is perfect; it depends on how frequent
    the class is among the images.

    Raises:
        ValueError: the arrays do not fit each other, or a score is no probability.
    """
    found = bins(scores, truth, count)
    filled = found.count > 0
    if not filled.any():
        return float("nan")
    gap = np.abs(found.mean_score[filled] - found.share_positive[filled])
    return float(np.sum(gap * found.count[filled]) / found.count.sum())


def brier(scores: ArrayLike, truth: ArrayLike) -> float:
    """The mean squared difference between probability and truth (Brier 1950); 0 is perfect.

    Raises:
        ValueError: the arrays do not fit each other, or a score is no probability.
    """
    s, t = _probabilities(scores, truth)
    return float(np.mean((s - t) ** 2)) if s.size else float("nan")


def wilson(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927); nan of nothing.

    Raises:
        ValueError: there are more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"expected 0 <= successes <= total, got {successes} of {total}")
    if total == 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    share = successes / total
    middle = share + z * z / (2 * total)
    half = z * float(np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)))
    low, high = ((middle + side * half) / (1 + z * z / total) for side in (-1.0, 1.0))
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == total else min(high, 1.0))


class _Order:
    """Scores in order within their strata, from which the pairs of any weighting are counted in one pass."""

    def __init__(self, scores: NDArray[np.float64], truth: NDArray[np.bool_], strata: NDArray[np.int64]) -> None:
        self.by = np.lexsort((scores, strata))
        s, stratum = scores[self.by], strata[self.by]
        self._truth = truth[self.by]
        new_stratum = np.concatenate([[True], stratum[1:] != stratum[:-1]])[: s.size]
        new_level = new_stratum | np.concatenate([[True], s[1:] != s[:-1]])[: s.size]
        self._levels = np.flatnonzero(new_level)  # where each run of equal scores begins
        # For each level, the level that its stratum begins with.
        first = np.where(new_stratum[self._levels], np.arange(self._levels.size), 0)
        self._first = np.maximum.accumulate(first) if first.size else first

    def pairs(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each row of weights (in order ``by``): the pairs with the positive above, ties half; and all pairs."""
        if self._levels.size == 0:
            return np.zeros(len(weights)), np.zeros(len(weights))
        positive, negative = (
            np.add.reduceat(weights * side, self._levels, axis=1) for side in (self._truth, ~self._truth)
        )
        below = np.cumsum(negative, axis=1) - negative
        below -= below[:, self._first]
        right = np.sum(positive * (below + 0.5 * negative), axis=1)
        starts = np.unique(self._first)
        every = np.sum(np.add.reduceat(positive, starts, axis=1) * np.add.reduceat(negative, starts, axis=1), axis=1)
        return right, every


def _by_threshold(
    scores: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """How many positives and negatives are called present at each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    s, t = scores[order], truth[order]
    last = np.flatnonzero(np.concatenate([s[1:] != s[:-1], [True]])[: s.size])
    return (
        np.cumsum(t, dtype=np.float64)[last],
        np.cumsum(~t, dtype=np.float64)[last],
        s[last],
    )


def _operating(
    false: NDArray[np.float64], true: NDArray[np.float64], thresholds: NDArray[np.float64], at: int
) -> Operating:
    threshold = float(thresholds[at])
    if at + 1 < thresholds.size:
        middle = (threshold + float(thresholds[at + 1])) / 2.0
        threshold = middle if middle > thresholds[at + 1] else threshold
    return Operating(threshold, float(true[at]), float(1.0 - false[at]))


def _codes(values: ArrayLike | Sequence[Any] | None, size: int) -> NDArray[np.int64]:
    if values is None:
        return np.zeros(size, dtype=np.int64)
    array = np.asarray(values)
    if array.shape != (size,):
        raise ValueError(f"groups and strata: expected one for each of {size} scores, got shape {array.shape}")
    return np.asarray(np.unique(array, return_inverse=True)[1], dtype=np.int64).reshape(size)


def _checked(scores: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s, t = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if s.ndim != 1 or s.shape != t.shape:
        raise ValueError(f"scores and truth: expected two arrays of one length, got shapes {s.shape} and {t.shape}")
    if not np.isfinite(s).all():
        raise ValueError("scores: expected finite numbers")
    if t.dtype != np.bool_ and not np.isin(t, (0, 1)).all():
        raise ValueError("truth: expected true and false, or 1 and 0")
    return s, t.astype(np.bool_)


def _probabilities(scores: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s, t = _checked(scores, truth)
    if s.size and (s.min() < 0.0 or s.max() > 1.0):
        raise ValueError(f"scores: expected probabilities from 0 to 1, got {s.min():g} to {s.max():g}")
    return s, t
