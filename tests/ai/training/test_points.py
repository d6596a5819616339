"""The operating points of ``chest_xray``: one budget for a study, figures of patients that chose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ai.bundle.files import describe, shipped
from ai.bundle.manifest import ReadingSpec
from ai.chest_network import ChestReader
from ai.training.chest import points as points_module
from ai.training.chest.baseline import crossvalidate_linear
from ai.training.chest.data import FOLDS, KEYS, NIH, ON_REQUEST, Cases, named_scores
from ai.training.chest.fit import OUTPUTS, Recipe, Stage, predict
from ai.training.chest.measure import Calibration, measure, probabilities
from ai.training.chest.points import PROMISES, class_figures, operating_points, source_weights, thresholds
from ai.training.chest.recover import recover
from ai.training.chest.run import Trained
from ai.training.chest.write import Written, assemble, is_calibrated, reading, write_bundle
from tests.ai.training.test_chest import some_cases

NAMES = ("nodule_or_mass", "effusion", "cardiomegaly")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(count: int = 1200, seed: int = 3) -> tuple[Cases, np.ndarray]:
    """Films of two hospitals, one with a fifth of them and higher scores, and their scores."""
    rng = np.random.default_rng(seed)
    small = np.arange(count) % 5 == 0
    labels = np.zeros((count, len(KEYS)))
    labels[:, KEYS.index("tuberculosis")] = np.nan
    for row in range(0, count, 2):
        labels[row, KEYS.index(NAMES[(row // 2) % 3])] = labels[row, KEYS.index("abnormality")] = 1.0
    logits = rng.normal(0.0, 1.0, labels.shape) + 2.0 * np.nan_to_num(labels) + 0.8 * small[:, None]
    cases = some_cases(["small" if few else "large" for few in small], labels)
    return cases, 1.0 / (1.0 + np.exp(-logits))


def any_called(scores: dict[str, np.ndarray], cut: dict[str, float]) -> np.ndarray:
    return np.any([scores[key] >= least for key, least in cut.items()], axis=0)


@pytest.mark.parametrize("budget", [0.1, 0.25, 0.45])
def test_all_classes_together_call_no_more_than_the_budget_and_use_it_up(budget: float) -> None:
    cases, scores = drawn()
    named = named_scores(scores)
    cut = thresholds(cases, named, NAMES, budget)
    called = any_called(named, cut)
    weights = source_weights(cases, cases.normal)
    assert budget - 0.01 < float(weights @ called) <= budget
    alone = [float(weights @ (named[key] >= cut[key])) for key in NAMES]
    assert max(alone) - min(alone) < 0.01  # each class its share, which is less than the budget
    assert max(alone) < budget


def test_a_source_with_few_films_counts_as_much_as_one_with_many() -> None:
    cases, scores = drawn()
    cut = thresholds(cases, named_scores(scores), NAMES, 0.25)
    called, names = any_called(named_scores(scores), cut), np.array(cases.sources)
    shares = [float(called[cases.normal & (names == source)].mean()) for source in ("small", "large")]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.01)
    assert shares[0] > 0.3  # the small one's films score higher: pooled it would be a fifth of the figure
    assert float(called[cases.normal].mean()) < 0.24


@pytest.mark.slow
def test_figures_are_of_patients_that_chose_no_threshold_and_keep_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_on: list[set[int]] = []

    def spy(cases: Cases, *rest: Any) -> dict[str, float]:
        chosen_on.append(set(cases.folds.tolist()))
        return thresholds(cases, *rest)

    monkeypatch.setattr(points_module, "thresholds", spy)
    cases, scores = drawn(300)
    points = operating_points(cases, named_scores(scores), ["tuberculosis", "pneumothorax", "airspace_opacity"])
    assert list(points) == list(PROMISES)
    shares = []
    for name, point in points.items():
        normal = point["default"]["normal"]
        assert normal["share"] <= PROMISES[name]
        assert normal["low"] < normal["share"] < normal["high"]
        assert set(point["thresholds"]) == {*NAMES, "abnormality"}
        # "abnormality" is on request: it has the budget to itself and no part in what is called by default.
        assert point["figures"]["abnormality"]["normal"]["share"] <= PROMISES[name]
        shares.append(point["default"]["other"]["share"])
    assert shares == sorted(shares)
    left_out = [next(iter(set(range(FOLDS)) - folds)) for folds in chosen_on if len(folds) < FOLDS]
    assert set(left_out) == set(range(FOLDS))
    assert all(len(folds) >= FOLDS - 1 for folds in chosen_on)


@pytest.mark.slow
def test_the_predictive_value_is_that_of_bayes() -> None:
    cases, scores = drawn(300)
    one = operating_points(cases, named_scores(scores), [])["balanced"]["figures"]["effusion"]
    hit, wrong = one["sensitivity"]["share"], one["normal"]["share"]
    assert one["ppv"]["normal"]["0.05"] == pytest.approx(0.05 * hit / (0.05 * hit + 0.95 * wrong), abs=1e-4)
    told = class_figures(one)
    assert told is not None
    assert (told.sensitivity, told.specificity) == (hit, pytest.approx(1.0 - wrong))
    assert told.specificity_other == pytest.approx(1.0 - one["other"]["share"])
    assert class_figures({}) is None


def test_what_joins_several_classes_has_their_labels_and_their_greatest_score() -> None:
    labels = np.zeros((4, len(KEYS)))
    labels[1, KEYS.index("consolidation")] = 1.0
    labels[3] = np.nan
    cases = some_cases(["a"] * 4, labels)
    cases.nih[2, NIH.index("Infiltration")] = 1.0
    assert np.array_equal(cases.of("airspace_opacity"), [0.0, 1.0, 1.0, np.nan], equal_nan=True)
    scores = np.full((1, len(KEYS)), 0.1)
    scores[0, KEYS.index("pneumonia")], scores[0, KEYS.index("consolidation")] = 0.4, 0.7
    assert named_scores(scores)["airspace_opacity"][0] == 0.7


@pytest.mark.slow
def test_a_score_is_called_a_probability_only_if_it_is_one_in_each_source() -> None:
    rng = np.random.default_rng(9)
    count = 4000
    labels = np.full((count, len(KEYS)), 0.0)
    sick = np.arange(count) % 2 == 0
    labels[sick, KEYS.index("effusion")] = labels[sick, KEYS.index("abnormality")] = 1.0
    other = np.arange(count) % 4 == 1  # half of those without an effusion have something else
    labels[other, KEYS.index("cardiomegaly")] = labels[other, KEYS.index("abnormality")] = 1.0
    logit = rng.normal(0.0, 1.0, count) + np.where(sick, 0.5, -0.5)  # equal normals: the log odds are the value
    sources = np.where(np.arange(count) % 8 < 4, "a", "b")

    def calibrated(shift: float) -> bool:
        scores = np.full(labels.shape, 0.5)
        moved = logit + np.where(sources == "a", shift, -shift)
        scores[:, KEYS.index("effusion")] = 1.0 / (1.0 + np.exp(-moved))
        figures = measure(some_cases(list(sources), labels), scores)["effusion"]
        assert figures["calibration_error"] < 0.05  # over both sources together it looks right
        return is_calibrated(figures)

    assert calibrated(0.0)
    assert not calibrated(0.4)
    assert not is_calibrated(None)


@pytest.mark.slow
def test_a_bundle_gives_back_the_networks_that_each_fold_was_measured_by(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    rng = np.random.default_rng(4)
    labels = (rng.random((60, len(KEYS))) < 0.5).astype(float)
    cases = some_cases(["a"] * 60, labels)
    object.__setattr__(cases, "pixels", rng.integers(0, 255, (60, 64, 64), dtype=np.uint8))
    recipe = Recipe(planes=(8, 8, 16, 16), stages=(Stage(64, 1, 1e-3),))
    trained = trained_for(cases, recipe)
    own = [Calibration(0.5 + 0.1 * k, 0.1 * k, 0.2 * (KEYS[k] != "abnormality"), 0.3) for k in range(len(KEYS))]
    whole = assemble([*trained.networks.values()], [*trained.baselines.values()], own, recipe.planes)
    training = {"folds": [*trained.networks], "seconds": 1.0, "images": 60}
    write_bundle(folder, Written("x", whole, recipe, training, {"classes": {}, "boxes": {}}))
    _, found, calibrations = recover(folder, cases)
    np.testing.assert_allclose(found.logits, trained.logits, atol=2e-2)
    for one, was in zip(calibrations, own, strict=True):
        for what in ("slope", "offset", "share", "linear"):
            assert getattr(one, what) == pytest.approx(getattr(was, what), abs=2e-3)
    others = some_cases(["a"] * 60, 1.0 - labels)
    object.__setattr__(others, "pixels", cases.pixels)
    with pytest.raises(ValueError, match="was trained on other images"):
        recover(folder, others)


def trained_for(cases: Cases, recipe: Recipe) -> Trained:
    torch.manual_seed(1)
    networks = {number: ChestReader(recipe.planes, OUTPUTS).eval() for number in range(5)}
    baselines, linear = crossvalidate_linear(cases)
    logits = np.full((len(cases.files), len(KEYS)), np.nan, dtype=np.float32)
    for number, network in networks.items():
        rows = np.flatnonzero(cases.folds == number)
        logits[rows] = predict(network, cases.pixels[rows], recipe.stages[-1].side)
    return Trained(networks, logits, baselines, linear, 1.0)


def test_the_shipped_bundle_keeps_its_promises_and_says_so() -> None:
    info = describe(shipped()["chest_xray"])
    spec: ReadingSpec = info.spec
    assert spec.operating_point == "balanced"
    measured = json.loads((info.path / "configs" / "metadata.json").read_text(encoding="utf-8"))["eval_metrics"]
    card = (info.path / "docs" / "README.md").read_text(encoding="utf-8")
    assert {output.key for output in spec.outputs if not output.default} == set(ON_REQUEST)
    (joined,) = [output for output in spec.outputs if output.joined]
    assert [code.meaning for code in joined.differential] == ["Pneumonia", "Lung consolidation", "Infiltrate"]
    assert not any(output.calibrated for output in spec.outputs)
    lowest: Sequence[float] = ()
    for name, promised in PROMISES.items():
        point = spec.operating_points[name]  # type: ignore[index]
        told = measured["operating_points"][name]
        assert point.thresholds == told["thresholds"]
        assert point.called_of_100_normal is not None
        assert point.called_of_100_normal <= 100.0 * promised
        for figure in told["default"].values():
            assert f"{100 * figure['share']:.0f} [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]" in card
        at = [output.threshold for output in spec.at(name).outputs if not output.undetermined]
        assert not lowest or all(now < before for now, before in zip(at, lowest, strict=True))
        lowest = at
        assert {key: one.positives for key, one in point.figures.items()}["effusion"] == 131
    assert (
        reading("chest_xray", measured)["operating_points"]
        == json.loads((info.path / "configs" / "reading.json").read_text(encoding="utf-8"))["operating_points"]
    )


def test_calibrated_probabilities_are_those_of_the_network() -> None:
    logits, linear = np.array([[2.0] * len(KEYS)]), np.array([[1.0] * len(KEYS)])
    own = [Calibration(0.5, -0.1, 0.2, 0.3)] * len(KEYS)
    assert probabilities(logits, linear, own)[0, 0] == pytest.approx(1.0 / (1.0 + np.exp(-(1.0 + 0.4 + 0.3 - 0.1))))
