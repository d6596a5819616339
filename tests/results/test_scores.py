"""A score is shown as a number on the right side of its threshold, and is no probability without a prevalence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ai.contract import ClassResult, Code, Presence
from ai.scores import score_text, shown_threshold
from dicom_node.config.settings import Profile
from dicom_node.results import scores

SCORE = st.floats(0.0, 1.0)
TUBERCULOSIS = ClassResult(
    "tuberculosis", "Tuberculosis", Code("1", "99X", "Tuberculosis"), 0.705, 0.5, Presence.PRESENT, calibrated=True
)
SITE = Profile(prevalence=(("tuberculosis", 0.005),))


def result(score: float, threshold: float, presence: Presence | None = None) -> ClassResult:
    said = Presence.PRESENT if score >= threshold else Presence.ABSENT
    return replace(TUBERCULOSIS, score=score, threshold=threshold, presence=presence or said)


@given(SCORE, st.floats(1e-6, 1.0, exclude_max=True))
@example(0.4999, 0.5)
@example(0.1034, 0.10344)  # rounding gives both 0.10
@example(0.0001, 0.003)  # a threshold that rounds to nothing
@example(0.9989, 0.999)
def test_an_absent_class_is_never_shown_at_its_threshold_nor_a_present_one_below_it(
    score: float, threshold: float
) -> None:
    one = result(score, threshold)
    shown, limit = scores.shown_score(one), shown_threshold(threshold)
    assert (shown >= limit) is (one.presence is Presence.PRESENT)
    assert 0.0 <= shown <= 1.0
    assert abs(shown - score) <= 0.0151  # it is cut by one hundredth at most, or rounded
    assert float(score_text(shown)) == shown


@given(st.floats(0.0, 0.5, exclude_max=True))
def test_a_class_that_is_undetermined_is_shown_below_its_threshold(score: float) -> None:
    assert scores.shown_score(result(score, 0.5, Presence.UNDETERMINED)) < 0.5


def test_scores_that_need_no_care_are_rounded() -> None:
    assert [scores.shown_score(result(score, 0.5)) for score in (0.8349, 0.705, 0.1234, 0.5)] == [0.83, 0.7, 0.12, 0.5]
    assert score_text(0.7) == "0.70"


# --- probabilities --------------------------------------------------------------------------------------------------


def test_a_calibrated_score_is_a_probability_only_at_a_stated_prevalence() -> None:
    assert scores.chances(Profile(), TUBERCULOSIS) is None
    assert scores.chances(Profile(prevalence=(("nodule", 0.5),)), TUBERCULOSIS) is None
    assert scores.chances(SITE, replace(TUBERCULOSIS, calibrated=False)) is None
    said = scores.chances(SITE, TUBERCULOSIS)
    assert said is not None
    assert (said.ppv, said.npv) == (None, None)  # the model gives no grounds for them
    assert said.probability == pytest.approx(0.705 * 0.005 / (0.705 * 0.005 + 0.295 * 0.995))
    assert scores.percent_text(said.probability) == "1.2 %"
    half = scores.chances(Profile(prevalence=(("tuberculosis", 0.5),)), TUBERCULOSIS)
    assert half is not None
    assert half.probability == pytest.approx(0.705)


def test_predictive_values_need_sensitivity_and_specificity_and_fit_the_verdict() -> None:
    measured = replace(TUBERCULOSIS, calibrated=False, sensitivity=0.9, specificity=0.8)
    said = scores.chances(SITE, measured)
    assert said is not None
    assert (said.probability, said.npv) == (None, None)
    assert said.ppv == pytest.approx(45 / (45 + 1990))  # of 10000: 50 have it, 45 are called; 1990 others are called
    assert said.ppv_other is None
    others = scores.chances(SITE, replace(measured, specificity_other=0.4))
    assert others is not None
    assert (others.ppv, others.ppv_other) == (said.ppv, pytest.approx(45 / (45 + 5970)))
    absent = scores.chances(SITE, replace(measured, presence=Presence.ABSENT))
    assert absent is not None
    assert absent.ppv is None
    assert absent.npv == pytest.approx(7960 / (7960 + 5))
    assert scores.chances(SITE, replace(measured, presence=Presence.UNDETERMINED)) is None
    assert scores.chances(SITE, replace(measured, specificity=None)) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0119, "1.2 %"),
        (0.000119, "0.012 %"),
        (1e-9, "0.01 %"),
        (0.0994, "9.9 %"),
        (0.5, "50 %"),
        (0.9996, "99.9 %"),
        (1.0, "99.9 %"),
    ],
)
def test_no_figure_is_shown_as_certain(share: float, text: str) -> None:
    assert scores.percent_text(share) == text


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_score_at_either_end_is_no_error(score: float) -> None:
    said = scores.chances(SITE, result(score, 0.5))
    assert said is not None
    assert said.probability == score
