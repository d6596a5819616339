"""Maps become boxes, boxes go back to the image, verdict and boxes agree; and what ships does its work."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ai.bundle.manifest import CodeSpec, Output, load_reading_spec
from ai.inference.regions import Box, box_to_image, peaks, regions
from tests.support.programs import ROOT

BUNDLE = ROOT / "ai" / "bundles" / "phantom_cxr"
CODE = CodeSpec(value="1", scheme="99TEST", meaning="Test")


def output(channel: int = 0, threshold: float = 0.5, map_threshold: float = 0.3, min_area: int = 4) -> Output:
    return Output(
        key=f"class{channel}",
        name="Test",
        channel=channel,
        code=CODE,
        threshold=threshold,
        map_threshold=map_threshold,
        min_area=min_area,
    )


def maps(*blocks: tuple[int, slice, slice, float], channels: int = 1) -> NDArray[np.float32]:
    drawn = np.full((channels, 40, 50), 0.05, dtype=np.float32)
    for channel, rows, columns, value in blocks:
        drawn[channel, rows, columns] = value
    return drawn


def test_a_box_covers_its_cells_to_the_edge() -> None:
    boxes, scores = regions(maps((0, slice(10, 14), slice(20, 26), 0.9)), [output()])
    (box,) = boxes
    assert (box.left, box.top, box.right, box.bottom) == (20.0, 10.0, 26.0, 14.0)
    assert box.score == pytest.approx(0.9)
    assert scores == (pytest.approx(0.9),)


def test_fragments_within_10_mm_are_one_finding() -> None:
    near = maps((0, slice(10, 20), slice(10, 20), 0.9), (0, slice(10, 20), slice(24, 34), 0.8))
    cells = {"touching": None, "4 cells of 3 mm": (3.0, 3.0), "4 cells of 2.5 mm": (2.5, 2.5)}
    boxes = {name: regions(near, [output()], mm)[0] for name, mm in cells.items()}
    assert {name: len(found) for name, found in boxes.items()} == {
        "touching": 2,
        "4 cells of 3 mm": 2,
        "4 cells of 2.5 mm": 1,
    }
    (whole,) = boxes["4 cells of 2.5 mm"]
    assert (whole.left, whole.top, whole.right, whole.bottom) == (10.0, 10.0, 34.0, 20.0)
    assert whole.score == pytest.approx(0.9)  # the best of them, so that the class keeps its score
    # Down and across may have cells of other sizes.
    assert len(regions(near, [output()], (9.0, 2.5))[0]) == 1
    assert len(regions(near, [output()], (2.5, 9.0))[0]) == 2


def test_thousands_of_fragments_are_joined_in_seconds() -> None:
    scattered = np.zeros((1, 192, 192), dtype=np.float32)
    scattered[0, ::4, ::4] = 0.9
    began = time.perf_counter()
    assert len(regions(scattered, [output(min_area=1)], (1.0, 1.0))[0]) == 1
    assert len(regions(scattered, [output(min_area=1)], (9.0, 9.0))[0]) == 48**2
    assert time.perf_counter() - began < 20.0  # comparing each with each took minutes


def test_a_fragment_under_the_threshold_joins_nothing() -> None:
    drawn = maps((0, slice(10, 20), slice(10, 20), 0.9), (0, slice(10, 20), slice(24, 34), 0.4))
    (box,) = regions(drawn, [output()], (1.0, 1.0))[0]
    assert box.right == 20.0


def test_a_slight_region_beside_a_large_one_is_no_finding_of_its_own() -> None:
    large = (0, slice(0, 20), slice(0, 20), 0.8)
    slight, enough = (0, slice(35, 39), slice(45, 49), 0.7), (0, slice(35, 39), slice(44, 49), 0.7)  # 16, 20 of 400
    assert len(regions(maps(large, slight), [output()], (9.0, 9.0))[0]) == 1
    assert len(regions(maps(large, enough), [output()], (9.0, 9.0))[0]) == 2
    # The strongest region counts, however small it is: the class has its score from it.
    boxes, scores = regions(maps(large, (*slight[:3], 0.95)), [output()], (9.0, 9.0))
    assert len(boxes) == 2
    assert scores == (pytest.approx(0.95),)


def test_the_places_of_an_activation_map_are_joined_as_well() -> None:
    activation = np.zeros((64, 64), dtype=np.float32)
    activation[10:20, 10:20], activation[10:20, 22:32], activation[50:60, 50:60] = 1.0, 0.9, 0.8
    assert len(peaks(activation, output(), 0.7)) == 3
    first, second = peaks(activation, output(), 0.7, (5.0, 5.0))
    assert (first.left, first.right, second.left) == (10.0, 32.0, 50.0)


def test_best_first_across_classes() -> None:
    drawn = maps(
        (0, slice(2, 6), slice(2, 6), 0.6),
        (1, slice(2, 6), slice(2, 6), 0.8),
        (0, slice(20, 26), slice(20, 26), 0.95),
        channels=2,
    )
    boxes, scores = regions(drawn, [output(1), output(0)])
    assert [(box.channel, round(box.score, 2)) for box in boxes] == [(0, 0.95), (1, 0.8), (0, 0.6)]
    assert scores == (pytest.approx(0.8), pytest.approx(0.95))


def test_too_small_or_too_weak_is_no_box() -> None:
    drawn = maps((0, slice(3, 4), slice(3, 6), 0.99), (0, slice(20, 26), slice(20, 26), 0.45))
    boxes, scores = regions(drawn, [output()])
    assert boxes == ()
    assert 0.0 < scores[0] < 0.5


def test_a_narrow_gap_does_not_cut_a_region() -> None:
    halves = maps((0, slice(10, 14), slice(10, 20), 0.9), (0, slice(16, 20), slice(10, 20), 0.9))
    apart = maps((0, slice(10, 14), slice(10, 20), 0.9), (0, slice(18, 22), slice(10, 20), 0.9))
    assert len(regions(halves, [output()])[0]) == 1
    assert len(regions(apart, [output()])[0]) == 2


@pytest.mark.slow
@given(
    arrays(np.float32, (2, 12, 13), elements=st.floats(0, 1, width=32)),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
    st.integers(1, 30),
)
def test_verdict_and_boxes_agree(
    drawn: NDArray[np.float32], threshold: float, map_threshold: float, min_area: int
) -> None:
    outputs = [output(channel, threshold, map_threshold, min_area) for channel in (0, 1)]
    boxes, scores = regions(drawn, outputs)
    for one, score in zip(outputs, scores, strict=True):
        own = [box.score for box in boxes if box.channel == one.channel]
        assert (score >= threshold) == bool(own)
        assert 0.0 <= score <= 1.0
        if own:
            assert score == max(own)
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    for box in boxes:
        assert 0 <= box.left < box.right <= 13
        assert 0 <= box.top < box.bottom <= 12


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4)), np.full((1, 4, 4), np.nan), np.full((1, 4, 4), 1.5), np.zeros((0, 4, 4))]
)
def test_what_is_no_probability_map_is_refused(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="maps:"):
        regions(wrong.astype(np.float32), [output()])


def test_the_identity_leaves_a_box() -> None:
    box = Box(0, 0.7, 3.0, 4.0, 9.0, 11.0)
    assert box_to_image(np.eye(4), box) == box


def test_a_turned_affine_gives_the_upright_box() -> None:
    turned = np.array([[0.0, 2.0, 0, 0.5], [-2.0, 0.0, 0, 99.0], [0, 0, 1, 0], [0, 0, 0, 1]])
    box = box_to_image(turned, Box(0, 0.7, 1.0, 2.0, 4.0, 8.0))
    # Rows come from columns: 1..4 -> 2..8; columns run backwards from rows: 2..8 -> 96.5..84.5.
    assert (box.top, box.bottom) == (pytest.approx(2.0), pytest.approx(8.0))
    assert (box.left, box.right) == (pytest.approx(84.5), pytest.approx(96.5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(1250, 1024), (1000, 1500), (640, 640), (321, 300), (150, 200)])
def test_the_bundles_own_way_leads_back_to_the_image(size: tuple[int, int]) -> None:
    evaluation = pytest.importorskip("ai.training.phantom.evaluation")
    preprocessing = evaluation.load_config(BUNDLE).get_parsed_content("preprocessing")
    rows, columns = size
    truth = (columns * 0.31, rows * 0.42, columns * 0.56, rows * 0.61)
    left, top, right, bottom = (round(value) for value in truth)
    image = np.zeros(size, dtype=np.float32)
    image[top:bottom, left:right] = 1.0
    prepared = evaluation.prepare(preprocessing, image)
    grid = np.asarray(prepared[0], dtype=np.float64)
    # The block's middle and extent by its weight: exact to a fraction of a cell, so to less than a pixel when enlarged.
    down, over = grid.sum(axis=1), grid.sum(axis=0)
    peak = grid.max()
    middle = [float((line * (np.arange(line.size) + 0.5)).sum() / line.sum()) for line in (over, down)]
    extent = [float(line.sum() / (other.max())) for line, other in ((over, over), (down, down))]
    assert peak == pytest.approx(1.0, abs=0.02)
    box = Box(
        0,
        1.0,
        middle[0] - extent[0] / 2,
        middle[1] - extent[1] / 2,
        middle[0] + extent[0] / 2,
        middle[1] + extent[1] / 2,
    )
    back = box_to_image(np.asarray(prepared.affine), box)
    assert ((back.left + back.right) / 2, (back.top + back.bottom) / 2) == (
        pytest.approx((left + right) / 2, abs=0.2),
        pytest.approx((top + bottom) / 2, abs=0.2),
    )
    assert (back.right - back.left, back.bottom - back.top) == (
        pytest.approx(right - left, rel=0.03),
        pytest.approx(bottom - top, rel=0.03),
    )


def test_the_shipped_bundle_says_what_it_is() -> None:
    spec = load_reading_spec(BUNDLE / "configs" / "reading.json")
    assert spec.name == "phantom_cxr"
    assert spec.notice == "Demonstration model, trained on no patient"
    assert {o.key: o.code.value for o in spec.outputs} == {
        "nodule": "27925004",
        "tuberculosis": "tb_susp",
        "pneumothorax": "36118008",
        "pneumonia": "pneumonia_susp",
    }
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {o.key: str(o.channel) for o in spec.outputs} == {key: channel for channel, key in channels.items()}
    card = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    assert "trained on no patient" in card
    assert "must not be used for diagnosis" in card


def test_the_weights_are_small_and_plain() -> None:
    torch = pytest.importorskip("torch")
    path = BUNDLE / "models" / "model.pt"
    assert path.stat().st_size <= 4 * 1024 * 1024
    weights = torch.load(path, map_location="cpu", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_shipped_bundle_finds_what_was_drawn() -> None:
    evaluation = pytest.importorskip("ai.training.phantom.evaluation")
    measured = evaluation.evaluate(BUNDLE, 24, 910_001, 480, 393)
    assert measured["findings"] >= 15
    assert measured["sensitivity"] >= 0.8
    assert measured["false_boxes_per_image"] <= 0.35


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_drawn_size_matters_not() -> None:
    evaluation = pytest.importorskip("ai.training.phantom.evaluation")
    phantom = pytest.importorskip("ai.phantom.draw")
    reader = evaluation.Reader(BUNDLE)
    outputs = load_reading_spec(BUNDLE / "configs" / "reading.json").outputs
    scores = []
    for rows, columns in ((480, 393), (1250, 1024)):
        maps_, _ = reader.maps(evaluation.grey(phantom.draw_phantom(910_101, rows, columns, ["pneumonia", "nodule"])))
        scores.append(regions(maps_, outputs)[1])
    for small, large, one in zip(*scores, outputs, strict=True):
        assert (small >= one.threshold) == (large >= one.threshold)
