"""A region has a side only where the thorax in the picture and the header agree on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai.anatomy.field import ChestField
from ai.anatomy.side import BILATERAL, LEFT, RIGHT, side_as_declared, side_in_chest
from ai.contract import Code
from ai.images.radiograph import Radiograph, load_radiograph
from tests.ai.images.test_radiograph import row, write

ANYWHERE = np.ones((96, 96), dtype=bool)


def field(line: tuple[float, float] | None = (160.0, 0.0)) -> ChestField:
    """The field of an image of 320 x 320 pixels with this midline."""
    return ChestField(320, 320, ANYWHERE, ANYWHERE, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), line)


def image(path: Path, **changes: Any) -> Radiograph:
    said = {"PatientOrientation": ["L", "F"], "ViewPosition": "PA"} | changes
    return load_radiograph(write(path / "image.dcm", row(*range(100)), **said))


@pytest.mark.parametrize(
    ("left", "right", "side"),
    [
        (100, 250, BILATERAL),  # was left
        (20, 100, RIGHT),
        (200, 300, LEFT),
        (60, 170, RIGHT),  # 9 % reach over the midline
        (60, 172, None),  # 11 %
        (60, 190, None),  # 23 %
        (60, 194, BILATERAL),  # 25 %
        (148, 260, None),
        (150, 260, LEFT),
        (159, 161, BILATERAL),
    ],
)
def test_the_side_is_that_of_the_midline_of_the_thorax(
    tmp_path: Path, left: float, right: float, side: Code | None
) -> None:
    assert side_in_chest(image(tmp_path), field(), (left, 50, right, 150)) == side


def test_the_midline_is_not_the_middle_of_the_matrix(tmp_path: Path) -> None:
    box = (150, 50, 200, 150)
    assert side_in_chest(image(tmp_path), field((100.0, 0.0)), box) == LEFT
    assert side_in_chest(image(tmp_path), field((240.0, 0.0)), box) == RIGHT
    leaning = field((100.0, 1.0))  # at row 100 it is at column 200
    assert side_in_chest(image(tmp_path), leaning, (100, 95, 190, 105)) == RIGHT
    assert side_in_chest(image(tmp_path), field(None), box) is None


def test_the_outline_counts_where_there_is_one(tmp_path: Path) -> None:
    box = (60.0, 50.0, 260.0, 150.0)
    assert side_in_chest(image(tmp_path), field(), box) == BILATERAL
    mask = np.zeros((320, 320), dtype=bool)
    mask[50:150, 60:170] = True
    assert side_in_chest(image(tmp_path), field(), box, mask) == RIGHT
    mask[50:52, 60:260] = True  # a thin bridge over the midline: no second quarter, but it reaches over
    assert side_in_chest(image(tmp_path), field(), box, mask) is None
    mask[50:150, 60:260] = True
    assert side_in_chest(image(tmp_path), field(), box, mask) == BILATERAL


@pytest.mark.parametrize(
    ("said", "side"),
    [
        ({}, RIGHT),
        ({"PatientOrientation": ["R", "F"]}, LEFT),
        ({"PatientOrientation": ["A", "F"]}, None),
        ({"PatientOrientation": ["L", "H"]}, None),
        ({"PatientOrientation": ""}, None),
        ({"ViewPosition": "AP"}, RIGHT),
        ({"ViewPosition": ""}, RIGHT),
        ({"ViewPosition": "LL"}, None),
        ({"ViewPosition": "RL"}, None),
        ({"ImageLaterality": "R"}, RIGHT),
        ({"ImageLaterality": "L"}, None),
        ({"Laterality": "L"}, None),
        ({"ImageLaterality": "R", "Laterality": "L"}, None),
        ({"ImageLaterality": "B"}, RIGHT),
        ({"ImageLaterality": "U"}, RIGHT),
    ],
)
def test_the_header_is_honoured_and_contradictions_give_no_side(
    tmp_path: Path, said: dict[str, Any], side: Code | None
) -> None:
    assert side_in_chest(image(tmp_path, **said), field(), (20, 50, 100, 150)) == side


def test_what_is_declared_of_one_side_is_not_on_both(tmp_path: Path) -> None:
    assert side_in_chest(image(tmp_path, ImageLaterality="L"), field(), (100, 50, 250, 150)) is None


def test_a_declared_side_is_told_unless_two_are(tmp_path: Path) -> None:
    assert side_as_declared(image(tmp_path, ImageLaterality="L")) == LEFT
    assert side_as_declared(image(tmp_path, ImageLaterality="L", Laterality="L")) == LEFT
    assert side_as_declared(image(tmp_path, ImageLaterality="L", Laterality="R")) is None
    assert side_as_declared(image(tmp_path)) is None
