"""The field is where the drawn lungs and body are; what is no upright frontal chest is told from one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from ai.anatomy.field import ChestField, chest_field, reduced
from ai.anatomy.screening import Look, look_of
from ai.phantom.anatomy import person
from ai.phantom.canvas import Canvas
from ai.training.field.data import SHAPES, phantom


def on_image(found: ChestField, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask of the grid on the image's pixels."""
    whole = ChestField(found.rows, found.columns, None, mask, found.kinds, None)
    return whole.body_of_image()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_field_is_where_the_phantom_has_lungs_and_body(shape: tuple[int, int]) -> None:
    for seed in range(6):  # of none that was trained on
        display, (right, left, body) = phantom(seed, *shape)
        found = chest_field(display)
        assert found.lungs is not None, seed
        lungs, drawn = on_image(found, found.lungs), right | left
        assert (lungs & drawn).sum() / (lungs | drawn).sum() > 0.80, seed
        assert (lungs & drawn).sum() / drawn.sum() > 0.85, seed
        seen = found.body_of_image()
        assert (seen & body).sum() / (seen | body).sum() > 0.85, seed
        assert look_of(found) is Look.FRONTAL, seed


@pytest.mark.parametrize("shape", SHAPES)
def test_the_midline_is_that_of_the_thorax(shape: tuple[int, int]) -> None:
    for seed in range(6):
        display, _ = phantom(seed, *shape)
        pixels = round(shape[1] * 0.15)
        moved = np.roll(display, pixels, axis=1)
        moved[:, :pixels] = 0.0
        canvas = Canvas.over_field(*shape)
        person_ = person(np.random.default_rng([seed, 2]), "AP" if seed % 3 == 0 else "PA")
        middle = shape[1] / 2.0 + person_.middle / canvas.step
        for picture, expected in ((display, middle), (moved, middle + pixels)):
            midline = chest_field(picture).midline(shape[0] * 0.4)
            assert midline is None or abs(midline - expected) * canvas.step < 10.0, seed  # mm
        assert chest_field(display).midline(0.0) is not None, seed


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_film_has_no_lungs_and_is_told(turns: int) -> None:
    for seed in range(4):
        found = chest_field(np.ascontiguousarray(np.rot90(phantom(seed, 192, 157)[0], turns)))
        assert look_of(found) is not Look.FRONTAL, seed


def test_an_inverted_film_and_no_film_are_told() -> None:
    for seed in range(4):
        assert look_of(chest_field(1.0 - phantom(seed, 192, 157)[0])) is not Look.FRONTAL, seed
    y, x = np.mgrid[0:200, 0:160].astype(np.float32) / 200
    for picture in (np.zeros((200, 160), dtype=np.float32), x, y, np.cos(40 * x) * 0.5 + 0.5, np.ones_like(x)):
        found = chest_field(picture.astype(np.float32))
        assert look_of(found) is not Look.FRONTAL
        assert found.lungs is None
        assert found.midline(100.0) is None


@pytest.mark.parametrize("shape", [(1, 1), (2, 700), (700, 2), (3, 3), (96, 96), (5, 97)])
def test_any_matrix_has_a_field(shape: tuple[int, int]) -> None:
    found = chest_field(np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape))
    assert found.body_of_image().shape == shape


def test_a_picture_is_reduced_without_moving() -> None:
    picture = np.zeros((400, 200), dtype=np.float32)
    picture[200:300, 50:100] = 1.0
    small = reduced(picture, 40)
    assert small.shape == (40, 40)
    expected = np.zeros((40, 40), dtype=np.float32)
    expected[20:30, 15:20] = 1.0  # the picture fills columns 10 to 30
    np.testing.assert_allclose(small, expected, atol=1e-6)


def test_a_box_is_cut_to_the_body() -> None:
    body = np.zeros((96, 96), dtype=bool)
    body[:, 24:72] = True
    field = ChestField(960, 960, None, body, (1.0,) * 6, None)
    assert field.share_in_body((140.0, 0.0, 340.0, 100.0)) == pytest.approx(0.5, abs=0.05)
    left, top, right, bottom = field.within_body((140.0, 0.0, 340.0, 100.0)) or (0.0,) * 4
    assert (left, top, right, bottom) == pytest.approx((240.0, 0.0, 340.0, 100.0), abs=7)
    assert field.within_body((250.0, 0.0, 340.0, 100.0)) == (250.0, 0.0, 340.0, 100.0)
    assert field.within_body((0.0, 0.0, 100.0, 100.0)) is None
    assert field.share_in_lungs((250.0, 0.0, 340.0, 100.0)) is None


@pytest.mark.slow
def test_a_field_takes_little_time() -> None:
    display = np.tile(phantom(1, 250, 205)[0], (10, 10))
    chest_field(display)
    times = []
    for _ in range(7):
        began = time.process_time()
        chest_field(display)
        times.append(time.process_time() - began)
    assert min(times) < 0.15  # CPU seconds; 0.03 on a quiet machine
