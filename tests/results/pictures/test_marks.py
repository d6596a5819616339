"""Marks and heat maps: seen at a quarter of the size, and hiding nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from ai.contract import Code, Segment, Segmentation
from dicom_node.results import Run
from dicom_node.results.objects import gsps
from dicom_node.results.pictures import drawing, heat_maps, palette, scene
from dicom_node.results.pictures.outlines import outline_of, polygons
from tests.results.pictures.test_palette import difference, lab, linear
from tests.results.test_common import BOXES, Held, grey, run_of, written
from tests.support.samples import make_image

LUMA = np.array([0.2126, 0.7152, 0.0722])
BLUE = palette.COLOURS[0]


@pytest.mark.parametrize("shape", [(512, 512), (2048, 1678)])
@pytest.mark.parametrize("way", [Image.Resampling.NEAREST, Image.Resampling.BOX])
@pytest.mark.parametrize("level", [0, 100, 200, 255])
def test_a_box_is_seen_at_a_quarter_of_the_size(shape: tuple[int, int], way: Image.Resampling, level: int) -> None:
    rows, columns = shape
    rgb = np.full((rows, columns, 3), level, np.uint8)
    left, top, right, bottom = columns // 4 + 1, rows // 4 + 1, columns // 2 + 2, rows // 2 + 3
    drawing.Picture(rgb).mark([drawing.Box(left, top, right, bottom, BLUE, "", 1)], labels=False)
    small = np.asarray(Image.fromarray(rgb).resize((columns // 4, rows // 4), way))
    # From the middle of each side outwards: somewhere the colour of the class stands out from the grey around it.
    y, x, reach = (top + bottom) // 8, (left + right) // 8, max(3, rows // 200)
    lines = (
        *(small[y, at // 4 - reach : at // 4 + reach] for at in (left, right)),
        *(small[at // 4 - reach : at // 4 + reach, x] for at in (top, bottom)),
    )
    around = lab(linear([level] * 3))
    for line in lines:
        seen = [lab(linear(pixel)) for pixel in line]
        assert (
            min(each[2] for each in seen) < -10
        )  # paler or darker by what is beside it, and still blue (b* of L*a*b*)
        assert max(difference(each, around) for each in seen) > 16


def warm(value: float, picture: NDArray[np.uint8], line: int = 0) -> NDArray[np.uint8]:
    rgb = np.repeat(picture[..., np.newaxis], 3, axis=2)
    rows, columns = picture.shape
    values = np.full((4, 4), value, np.float32)
    heat_maps.blend(rgb, [heat_maps.Heat(values, 0.0, 0.0, float(columns), float(rows))], grey=True, line=line)
    return rgb


@pytest.mark.parametrize("value", [0.3, 0.5, 0.75, 1.0])
def test_a_faint_lesion_keeps_its_contrast_below_a_heat_map(value: float) -> None:
    picture = np.full((64, 64), 90, np.uint8)
    picture[20:40, 20:40] = 98  # hardly lighter than the lung
    light = warm(value, picture).astype(float) @ LUMA
    assert light[30, 30] - light[5, 5] > 0.9 * 8
    assert abs(light[5, 5] - 90) < 12  # neither lighter nor darker than it was


def test_the_gradation_is_seen() -> None:
    picture = np.full((8, 8), 90, np.uint8)
    seen = [lab(linear(warm(value, picture)[4, 4])) for value in (0.2, 0.3, 0.5, 0.7, 0.9)]
    assert all(difference(one, other) > 4 for one, other in pairwise(seen))


def test_lines_stand_where_a_map_reaches_their_values() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis]
    picture = np.full((16, 1024), 90, np.uint8)
    rgb = np.repeat(picture[..., np.newaxis], 3, axis=2)
    bare = rgb.copy()
    heat = heat_maps.Heat(values, 0.0, 0.0, 1024.0, 16.0)
    heat_maps.blend(bare, [heat], grey=True)
    heat_maps.blend(rgb, [heat], grey=True, line=2)
    drawn = np.flatnonzero((rgb[8] != bare[8]).any(axis=1))
    assert [int(x) for x in drawn] == [x for at in (256, 512, 768) for x in drawn if abs(x - at) < 8]
    assert 6 <= len(drawn) <= 12  # three lines of two pixels, a little wider where cells are interpolated


# --- outlines -------------------------------------------------------------------------------------------------------


def outlined(mask: NDArray[np.bool_], header: Dataset, **changes: Any) -> Run:
    """A run with a nodule whose model outlined it."""
    run = run_of(header, boxes=BOXES["one"], rows=mask.shape[0], columns=mask.shape[1], **changes)
    (finding,) = run.reading.findings
    code = Code("49755003", "SCT", "Morphologically Abnormal Structure")
    segment = Segment(finding.key, finding.name, finding.code, code, mask[np.newaxis])
    frames = ((run.reading.sources[0], 1),)
    return replace(run, reading=replace(run.reading, segmentations=(Segmentation("binary", frames, (segment,)),)))


def disc(rows: int = 512, columns: int = 512) -> NDArray[np.bool_]:
    """A disc inside the region of the one finding."""
    y, x = np.mgrid[:rows, :columns]
    mask: NDArray[np.bool_] = (x - 0.635 * columns) ** 2 + (y - 0.375 * rows) ** 2 < (0.06 * columns) ** 2
    return mask


def test_an_outline_is_drawn_in_place_of_the_box() -> None:
    image = make_image(Rows=512, Columns=512)
    run = outlined(disc(), image)
    region = run.reading.findings[0].region
    rgb = next(scene.Scene(run, [image], Held(image, picture=grey(512, 512))).shots()).rgb[:512]
    ink = (rgb == BLUE).all(axis=2)
    assert not ink[int(region.top) - 1, int(region.left) : int(region.right)].any()
    y, x = np.nonzero(ink & (np.add.outer(np.arange(512) - 192, np.zeros(512)) > -60))
    inside = disc()
    assert not (ink & inside).any()
    on_disc = np.hypot(x - 0.635 * 512, y - 0.375 * 512) < 40
    assert on_disc.sum() > 400


def test_a_box_stays_where_the_outline_is_elsewhere_or_of_another_class() -> None:
    image = make_image(Rows=512, Columns=512)
    far = np.zeros((512, 512), np.bool_)
    far[400:420, 10:40] = True
    run = outlined(far, image)
    assert outline_of(run.reading, run.reading.findings[0]) is None
    other = outlined(disc(), image)
    (finding,) = other.reading.findings
    assert outline_of(other.reading, finding) is not None
    assert outline_of(other.reading, replace(finding, key="effusion")) is None


def test_a_presentation_state_draws_the_outline_in_the_colour_of_the_class() -> None:
    image = make_image(Rows=512, Columns=512)
    (state,) = (written(each) for each in gsps.build(outlined(disc(), image), [image]))
    (graphic,) = state.GraphicAnnotationSequence[0].GraphicObjectSequence
    points = np.reshape(graphic.GraphicData, (-1, 2))
    assert len(points) > 20
    assert (points[0] == points[-1]).all()
    radius = np.hypot(points[:, 0] - 0.5 - 0.635 * 512, points[:, 1] - 0.5 - 0.375 * 512)
    assert abs(radius - 0.06 * 512).max() < 1.5
    (style,) = graphic.LineStyleSequence
    assert list(style.PatternOnColorCIELabValue) == list(gsps.CIELabColor.from_rgb(*BLUE).value)


def test_polygons_enclose_the_pixels_and_have_few_points() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[3:7, 5:11] = True
    (polygon,) = polygons(mask)
    assert polygon.min(axis=0).tolist() == [5.0, 3.0]
    assert polygon.max(axis=0).tolist() == [11.0, 7.0]
    assert polygons(np.zeros((4, 4), np.bool_)) == []


@pytest.mark.parametrize("share", [0.5, 0.3, 0.05])
def test_a_mask_of_noise_is_outlined_in_bounded_time(share: float) -> None:
    noise = np.random.default_rng(1).random((2048, 2048)) < share
    start = time.process_time()
    found = polygons(noise)
    assert time.process_time() - start < 5.0  # of a processor; it was minutes
    assert 1 <= len(found) <= 50
    assert all(len(each) <= 2000 and (each[0] == each[-1]).all() for each in found)
    assert min(each.min() for each in found) >= 0.0
    assert max(each.max() for each in found) <= 2048.0


def test_specks_that_no_coarser_outline_holds_have_the_rectangle_around_them() -> None:
    specks = np.zeros((1503, 1203), np.bool_)
    specks[100:1400:4, 40:1100:4] = True
    (polygon,) = polygons(specks)
    assert polygon.min(axis=0) == pytest.approx([40.0, 100.0], abs=2.0)
    assert polygon.max(axis=0) == pytest.approx([1100.0, 1400.0], abs=4.0)


def test_the_largest_of_many_outlines_are_kept() -> None:
    mask = np.zeros((900, 900), np.bool_)
    mask[10:890:10, 10:400:10] = True  # specks
    mask[100:800, 500:800] = True
    found = polygons(mask)
    assert len(found) == 50
    whole = max(found, key=lambda each: float(np.ptp(each)))
    assert (whole.min(axis=0).tolist(), whole.max(axis=0).tolist()) == ([500.0, 100.0], [800.0, 800.0])
