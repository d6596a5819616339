"""The measures, against known values and against what their definitions say, counted out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from ai.evaluation import metrics

CASES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5001, 0.9, 1.0]), st.booleans()), max_size=30)


def of_pairs(cases: Sequence[tuple[float, bool]], strata: Sequence[int] | None = None) -> float:
    """AUC by its definition: every pair looked at."""
    strata = strata or [0] * len(cases)
    every = list(zip(cases, strata, strict=True))
    pairs = [
        (a[0] > b[0]) + 0.5 * (a[0] == b[0])
        for (a, one), (b, other) in itertools.product(every, every)
        if a[1] and not b[1] and one == other
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def same(first: float, second: float) -> bool:
    return math.isclose(first, second, abs_tol=1e-12) or (math.isnan(first) and math.isnan(second))


def split(cases: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in cases], [truth for _, truth in cases]


@given(CASES)
@settings(max_examples=150, deadline=None)
def test_auc_is_the_share_of_pairs_in_order(cases: list[tuple[float, bool]]) -> None:
    assert same(metrics.auc(*split(cases)), of_pairs(cases))
    strata = [i * 7 % 3 for i in range(len(cases))]
    assert same(metrics.auc(*split(cases), strata), of_pairs(cases, strata))


def test_auc_is_mann_whitney_s_u() -> None:
    rng = np.random.default_rng(5)
    scores, truth = np.round(rng.random(500), 2), rng.random(500) < 0.3
    u = stats.mannwhitneyu(scores[truth], scores[~truth]).statistic
    assert metrics.auc(scores, truth) == pytest.approx(u / (truth.sum() * (~truth).sum()), abs=1e-12)


def test_what_only_the_source_tells_apart_is_not_told_apart_within_a_source() -> None:
    """Two hospitals of different prevalence whose images score by the hospital alone."""
    scores = [0.9] * 10 + [0.1] * 10
    truth = [True] * 8 + [False] * 2 + [True] * 2 + [False] * 8
    source = ["a"] * 10 + ["b"] * 10
    assert metrics.auc(scores, truth) == pytest.approx(0.8)
    assert metrics.auc(scores, truth, source) == 0.5
    low, high = metrics.bootstrap_auc(scores, truth, strata=source)
    assert low == high == 0.5


def of_resamples(
    scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, resamples: int, seed: int
) -> tuple[float, float]:
    """The bootstrap the plain way: draw groups, gather their images, take the AUC; of the same draws."""
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    values = []
    for drawn in rng.integers(len(names), size=(resamples, len(names))):
        rows = np.concatenate([np.flatnonzero(groups == names[i]) for i in drawn])
        value = of_pairs(list(zip(scores[rows].tolist(), truth[rows].tolist(), strict=True)))
        if not math.isnan(value):
            values.append(value)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def test_the_bootstrap_draws_patients_and_equals_drawing_them_one_by_one() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(40) < 0.3
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 1)
    patients = rng.integers(15, size=40)
    found = metrics.bootstrap_auc(scores, truth, patients, seed=11, resamples=60)
    assert found == pytest.approx(of_resamples(scores, truth, patients, 60, 11), abs=1e-12)
    named = [f"p{number:02d}" for number in patients]
    assert metrics.bootstrap_auc(scores, truth, named, seed=11, resamples=60) == found
    assert metrics.bootstrap_auc(scores, truth, patients, seed=12, resamples=60) != found


def test_images_of_one_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    truth = np.repeat(rng.random(60) < 0.5, 8)
    scores = np.repeat(np.clip(rng.normal(0.4, 0.2, 60), 0, 1), 8) + truth * 0.1
    patients = np.repeat(np.arange(60), 8)
    by_image = metrics.bootstrap_auc(scores, truth)
    by_patient = metrics.bootstrap_auc(scores, truth, patients)
    assert by_patient[1] - by_patient[0] > 2 * (by_image[1] - by_image[0])
    assert by_patient[0] < metrics.auc(scores, truth) < by_patient[1]


def test_the_interval_is_about_what_theory_says() -> None:
    """Hanley and McNeil 1982 give the standard error of an AUC in closed form."""
    rng = np.random.default_rng(8)
    truth = np.arange(600) < 200
    scores = rng.normal(truth * 1.2)
    value = metrics.auc(scores, truth)
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    error = math.sqrt((value * (1 - value) + 199 * (q1 - value**2) + 399 * (q2 - value**2)) / (200 * 400))
    low, high = metrics.bootstrap_auc(scores, truth)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.12)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_average_precision_is_the_precision_at_each_positive(cases: list[tuple[float, bool]]) -> None:
    """By the definition: the mean over positives of the precision among all that score at least as high."""
    precisions = [
        sum(t for s, t in cases if s >= score) / sum(s >= score for s, _ in cases) for score, truth in cases if truth
    ]
    expected = sum(precisions) / len(precisions) if precisions else math.nan
    assert same(metrics.average_precision(*split(cases)), expected)


def test_average_precision_of_a_known_case() -> None:
    # The example of scikit-learn's documentation.
    assert metrics.average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(0.8333333333)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_the_area_under_the_curve_is_the_auc(cases: list[tuple[float, bool]]) -> None:
    false, true, thresholds = metrics.roc_curve(*split(cases))
    if false.size == 0:
        assert math.isnan(of_pairs(cases))
        return
    assert same(float(np.trapezoid(true, false)), of_pairs(cases))
    for x, y, threshold in zip(false, true, thresholds, strict=True):
        counted = metrics.confusion(*split(cases), float(threshold))
        assert y == counted.true_positive / (counted.true_positive + counted.false_negative)
        assert x == counted.false_positive / (counted.false_positive + counted.true_negative)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_proposed_thresholds_do_what_they_promise_and_none_does_better(cases: list[tuple[float, bool]]) -> None:
    scores, truth = split(cases)
    best, sensitive = metrics.youden(scores, truth), metrics.at_sensitivity(scores, truth, 0.9)
    if math.isnan(of_pairs(cases)):
        assert best is sensitive is None
        return
    assert best is not None
    assert sensitive is not None

    def rates(threshold: float) -> tuple[float, float]:
        counted = metrics.confusion(scores, truth, threshold).rates()
        (hit, positives), (right, negatives) = counted["sensitivity"], counted["specificity"]
        return hit / positives, right / negatives

    for one in (best, sensitive):
        assert rates(one.threshold) == pytest.approx((one.sensitivity, one.specificity), abs=1e-12)
    assert sum(rates(best.threshold)) >= max(sum(rates(score)) for score in scores) - 1e-9
    assert sensitive.sensitivity >= 0.9
    higher = [score for score in scores if score > sensitive.threshold and rates(score)[0] >= 0.9 - 1e-12]
    assert not higher or rates(min(higher)) == rates(sensitive.threshold)


def test_a_proposed_threshold_lies_between_two_scores() -> None:
    one = metrics.youden([0.1, 0.2, 0.6, 0.8], [0, 0, 1, 1])
    assert one == metrics.Operating(pytest.approx(0.4), 1.0, 1.0)
    assert metrics.at_sensitivity([0.3] * 4, [0, 0, 1, 1]) == metrics.Operating(0.3, 1.0, 0.0)


def test_confusion_counts_a_score_at_the_threshold_as_present() -> None:
    counted = metrics.confusion([0.5, 0.5, 0.4, 0.2, 0.6], [1, 0, 1, 0, 1], 0.5)
    assert counted == metrics.Confusion(2, 1, 1, 1)
    assert counted.rates() == {"sensitivity": (2, 3), "specificity": (1, 2), "ppv": (2, 3), "npv": (1, 2)}


def test_wilson_s_interval_of_known_cases() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    for successes, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert metrics.wilson(successes, total) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)
    assert all(math.isnan(side) for side in metrics.wilson(0, 0))
    for successes, total in ((0, 7), (3, 7), (7, 7), (50, 1000)):
        expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
        assert metrics.wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="3 of 2"):
        metrics.wilson(3, 2)


def test_calibration_of_known_cases() -> None:
    # Bin 0..0.1 holds 0.05 twice (share 0.5), the last 0.95 and 1.0 (share 1).
    scores, truth = [0.05, 0.05, 0.95, 1.0], [0, 1, 1, 1]
    assert metrics.ece(scores, truth) == pytest.approx((2 * abs(0.05 - 0.5) + 2 * abs(0.975 - 1.0)) / 4)
    assert metrics.brier(scores, truth) == pytest.approx((0.05**2 + 0.95**2 + 0.05**2 + 0.0) / 4)
    found = metrics.bins(scores, truth)
    assert found.count.tolist() == [2, *[0] * 8, 2]
    assert np.isnan(found.mean_score[1:9]).all()
    rng = np.random.default_rng(2)
    honest = rng.random(20000)
    assert metrics.ece(honest, rng.random(20000) < honest) < 0.02
    assert math.isnan(metrics.ece([], []))
    assert math.isnan(metrics.brier([], []))


def test_what_is_no_measurement_is_refused() -> None:
    for scores, truth, told in (
        ([0.1, 0.2], [1], r"shapes \(2,\) and \(1,\)"),
        ([0.1, math.nan], [1, 0], "finite"),
        ([0.1, 0.2], [1, -1], "true and false"),
    ):
        for measure in (metrics.auc, metrics.average_precision, metrics.brier, metrics.youden, metrics.bootstrap_auc):
            with pytest.raises(ValueError, match=told):
                measure(scores, truth)
    with pytest.raises(ValueError, match="probabilities from 0 to 1"):
        metrics.ece([0.5, 1.5], [0, 1])
    with pytest.raises(ValueError, match="one for each of 2"):
        metrics.bootstrap_auc([0.1, 0.2], [0, 1], ["a"])
    with pytest.raises(ValueError, match="sensitivity"):
        metrics.at_sensitivity([0.1], [1], 0.0)


def test_a_measure_that_does_not_exist_is_nan() -> None:
    assert math.isnan(metrics.auc([0.5, 0.6], [1, 1]))
    assert math.isnan(metrics.average_precision([0.5], [0]))
    assert all(math.isnan(side) for side in metrics.bootstrap_auc([0.5, 0.6], [0, 0]))
    assert all(math.isnan(side) for side in metrics.bootstrap_auc([], []))
