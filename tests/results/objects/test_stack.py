"""A stack is shown by its key slices and one montage; heat maps and outlines lie where the model saw something."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import Code, Finding, HeatMap, InstanceRef, Presence, Reading, Region, Segment, Segmentation
from ai.images import radiograph as ai_images
from dicom_node.config.settings import Profile
from dicom_node.results import Run, encode
from dicom_node.results.objects import sc
from dicom_node.results.pictures import heat_maps, palette, scene
from dicom_node.results.pictures.captions import Captions
from dicom_node.results.pictures.overlay import Overlay
from dicom_node.results.pictures.slices import KEY_SLICES, MONTAGE, Frame, Stack, key_frames, montage_frames
from tests.results.objects.test_sc import Spy, spy  # noqa: F401 (a fixture)
from tests.results.test_common import (
    BOXES,
    CLASSES,
    DICOM,
    MODEL,
    Held,
    grey,
    run_of,
    with_raw,
    written,
)
from tests.support.programs import run_tool
from tests.support.samples import make_image

ORGAN = Code("123037004", "SCT", "Anatomical structure")


class Slices:
    """Headers at hand, each frame of its own even grey; counts what was asked for."""

    def __init__(self, *headers: Dataset, rows: int = 512, columns: int = 512) -> None:
        self._places = {str(header.SOPInstanceUID): place for place, header in enumerate(headers)}
        self._headers, self._shape = headers, (rows, columns)
        self.asked: Counter[tuple[int, int]] = Counter()

    def header(self, ref: InstanceRef) -> Dataset:
        return self._headers[self._places[ref.sop_instance_uid]]

    def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
        place = self._places[ref.sop_instance_uid]
        self.asked[place, frame] += 1
        return np.full(self._shape, 20 + (7 * place + 3 * frame) % 180, np.uint8)


def ct(count: int, **attributes: object) -> list[Dataset]:
    """An axial series from head to feet, handed over in another order."""
    headers = [
        make_image(
            Modality="CT",
            InstanceNumber=number,
            SeriesInstanceUID="1.2.9",
            ImagePositionPatient=[0, 0, 100 - 2.5 * number],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            **attributes,
        )
        for number in range(1, count + 1)
    ]
    order = np.random.default_rng(1).permutation(count)
    return [headers[place] for place in order]


def run_with(headers: list[Dataset], *places: tuple[int, int, float], language: str = "en", **parts: object) -> Run:
    """A run with a nodule on each (instance number, frame) with this score."""
    run = run_of(*headers, profile={"language": language})
    uids = {int(header.InstanceNumber): str(header.SOPInstanceUID) for header in headers}
    key, name, code = CLASSES[0]
    findings = tuple(
        Finding(key, name, code, score, Region(uids[number], 100.0, 120.0, 160.0, 170.0, frame))
        for number, frame, score in places
    )
    first = run.reading.classes[0]
    if places:
        first = replace(first, presence=Presence.PRESENT, score=max(score for _, _, score in places))
    reading = replace(run.reading, findings=findings, classes=(first, *run.reading.classes[1:]), **parts)  # type: ignore[arg-type]
    return replace(run, reading=reading)


def numbers(headers: list[Dataset], frames: list[Frame]) -> list[int]:
    return [int(headers[frame.source].InstanceNumber) for frame in frames]


# --- order ----------------------------------------------------------------------------------------------------------


def test_slices_stand_in_the_order_of_their_positions() -> None:
    headers = ct(30)
    stack = Stack(headers)
    assert numbers(headers, [stack[place] for place in range(30)]) == list(range(1, 31))
    assert [stack.place(stack[place]) for place in range(30)] == list(range(30))
    for header in headers:  # numbered against the positions: these hold, but the scanner's end comes first
        header.InstanceNumber = 31 - header.InstanceNumber
    assert numbers(headers, list(map(Stack(headers).__getitem__, range(30)))) == list(range(1, 31))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", b"0\\0"),
        ("ImagePositionPatient", b"nan\\0\\0 "),
        ("ImagePositionPatient", b"\xff\xfe"),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 "),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0 "),
        ("ImageOrientationPatient", b"0\\1\\0\\0\\0\\-1"),
    ],
)
def test_without_sound_positions_the_instance_numbers_decide(keyword: str, value: bytes) -> None:
    headers = ct(12)
    with_raw(headers[3], **{keyword: value})
    assert numbers(headers, list(map(Stack(headers).__getitem__, range(12)))) == list(range(1, 13))


def test_without_anything_they_stand_as_they_came() -> None:
    headers = ct(12)
    for header in headers:
        del header.ImagePositionPatient
        with_raw(header, InstanceNumber=b"one ")
    stack = Stack(headers)
    assert [stack[place].source for place in range(12)] == list(range(12))


def test_series_stay_together() -> None:
    one, other = ct(6), ct(6)
    for header in other:
        header.SeriesInstanceUID = "1.2.10"
    mixed = [header for pair in zip(one, other, strict=True) for header in pair]
    stack = Stack(mixed)
    series = [str(mixed[stack[place].source].SeriesInstanceUID) for place in range(12)]
    assert series == ["1.2.9"] * 6 + ["1.2.10"] * 6


@pytest.mark.parametrize("claimed", [b"999999999", b"-3", b"many", b"1\\2 ", b"0.5"])
def test_a_claimed_number_of_frames_costs_nothing(claimed: bytes) -> None:
    headers = [with_raw(make_image(), NumberOfFrames=claimed) for _ in range(50)]
    tracemalloc.start()
    stack = Stack(headers)
    chosen = montage_frames(stack, [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 <= len(chosen) <= MONTAGE
    assert peak < 1e6


@pytest.mark.parametrize(
    ("modality", "count", "expected"),
    [("CT", 2, True), ("MR", 3, True), ("CT", 1, False), ("DX", 2, False), ("DX", 8, False), ("DX", 9, True)],
)
def test_what_is_a_stack(modality: str, count: int, expected: bool) -> None:
    assert Stack([make_image(Modality=modality) for _ in range(count)]).is_stack is expected
    assert Stack([make_image(NumberOfFrames=2)]).is_stack


# --- choice ---------------------------------------------------------------------------------------------------------


def test_key_slices_are_those_with_the_surest_findings() -> None:
    headers = ct(40)
    run = run_with(headers, *((number, 1, 0.5 + number / 100) for number in range(5, 25)), (7, 1, 0.99))
    keys = numbers(headers, key_frames(run.reading, Stack(headers)))
    assert keys == [7, 24, 23, 22, 21, 20, 19, 18]
    assert len(keys) == KEY_SLICES


def segmentation(headers: list[Dataset], *sizes: dict[int, int], kind: str = "binary", side: int = 512) -> Segmentation:
    """Segments that are squares of so many pixels a side on the slices with these instance numbers."""
    segments = []
    for number, size in enumerate(sizes):
        mask = np.zeros((len(headers), side, side), np.bool_ if kind == "binary" else np.float32)
        for place, header in enumerate(headers):
            edge = size.get(int(header.InstanceNumber), 0)
            mask[place, 40 : 40 + edge, 300 : 300 + edge] = 1
        segments.append(Segment(f"s{number}", f"Segment {number}", Code(str(number), "99X", "c"), ORGAN, mask))
    frames = tuple((InstanceRef(str(h.SOPInstanceUID), str(h.SOPClassUID), ""), 1) for h in headers)
    return Segmentation(kind, frames, tuple(segments))  # type: ignore[arg-type]


def test_a_segment_is_shown_where_it_is_largest() -> None:
    headers = ct(30)
    one = segmentation(headers, {4: 10, 5: 30, 6: 20}, {20: 5}, {})
    run = run_with(headers, (9, 1, 0.9), segmentations=(one,))
    assert numbers(headers, key_frames(run.reading, Stack(headers))) == [9, 5, 20]


def test_a_class_without_a_finding_is_shown_where_its_heat_map_is_hottest() -> None:
    headers = ct(30)
    run = run_with(headers)
    uids = {int(header.InstanceNumber): str(header.SOPInstanceUID) for header in headers}
    present = replace(run.reading.classes[1], presence=Presence.PRESENT)
    maps = tuple(
        HeatMap(uids[number], present.key, np.full((4, 4), value, np.float32), 0, 0, 512, 512)
        for number, value in ((3, 0.4), (11, 0.9), (12, 0.6))
    )
    reading = replace(run.reading, classes=(run.reading.classes[0], present), heat_maps=maps)
    assert numbers(headers, key_frames(reading, Stack(headers))) == [11]
    absent = replace(reading, classes=run.reading.classes)
    assert key_frames(absent, Stack(headers)) == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 19, 20, 21, 300])
@pytest.mark.parametrize("keys", [(), (1, 2), (1, 2, 3, 4, 5, 6, 7, 8), (7, 150, 151, 152, 300)])
def test_a_montage_is_evenly_spaced_in_order_and_holds_every_key_slice(count: int, keys: tuple[int, ...]) -> None:
    headers = ct(count)
    stack = Stack(headers)
    wanted = [frame for frame in map(stack.__getitem__, range(count)) if headers[frame.source].InstanceNumber in keys]
    chosen = montage_frames(stack, wanted)
    shown = numbers(headers, chosen)
    assert shown == sorted(set(shown))
    assert len(shown) == min(count, MONTAGE)
    assert {*numbers(headers, wanted)} <= {*shown}
    if not keys:
        assert (shown[0], shown[-1]) == (1, count)
        assert max(np.diff(shown)) - min(np.diff(shown)) <= 1


def test_a_finding_on_what_was_never_read_is_passed_over() -> None:
    headers = ct(10)
    run = run_with(headers, (3, 1, 0.9), (4, 99, 0.8))
    assert numbers(headers, key_frames(run.reading, Stack(headers))) == [3]


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_ct_becomes_a_montage_and_its_key_slices_and_few_pixels_are_read(spy: Spy) -> None:  # noqa: F811
    headers = ct(300)
    run = run_with(headers, (50, 1, 0.7), (200, 1, 0.9), (201, 1, 0.8))
    images = Slices(*headers)
    pictures = [written(each) for each in sc.build(run, headers, images)]
    assert len(pictures) == 4
    assert sum(images.asked.values()) == MONTAGE
    montage, *keys = pictures
    by_uid = {str(header.SOPInstanceUID): int(header.InstanceNumber) for header in headers}
    referenced = [by_uid[item.ReferencedSOPInstanceUID] for item in montage.SourceImageSequence]
    assert len(referenced) == MONTAGE
    assert referenced == sorted(referenced)
    assert {50, 200, 201} <= {*referenced}
    assert [by_uid[key.SourceImageSequence[0].ReferencedSOPInstanceUID] for key in keys] == [200, 201, 50]
    assert all(len(key.SourceImageSequence) == 1 for key in keys)
    assert not any("ReferencedFrameNumber" in picture.SourceImageSequence[0] for picture in pictures)
    assert [picture.InstanceNumber for picture in pictures] == [1, 2, 3, 4]
    assert len({picture.SeriesInstanceUID for picture in pictures}) == 1
    assert len({picture.SOPInstanceUID for picture in pictures}) == 4
    assert "20 of 300 source images" in montage.DerivationDescription
    lines = [[each.text for each in one.sentences] for one in spy.legends]
    assert "Overview: 20 of 300 images" in lines[0]
    assert ["Slice 200" in each for each in lines] == [False, True, False, False]
    assert "Image 200 of 300" in lines[1]


def test_key_slices_are_marked_in_the_montage() -> None:
    headers = ct(300)
    run = run_with(headers, (200, 1, 0.9))
    montage = next(scene.Scene(run, headers, Slices(*headers)).shots())
    light = (montage.rgb[: 4 * 410] == 235).all(axis=2)
    strips = light.sum(axis=1) > 300
    assert 15 < strips.sum() < 40  # one caption, nothing else
    blue = palette.COLOURS[0]
    boxed = np.argwhere((montage.rgb == blue).all(axis=2))
    top = np.flatnonzero(strips)[0]
    inside = boxed[(boxed[:, 0] < top) & (boxed[:, 0] > top - 384)]
    assert len(inside) > 50  # the finding, small, in the cell above that caption


def test_many_radiographs_are_no_slices() -> None:
    headers = [make_image(InstanceNumber=number) for number in range(1, 13)]
    overlay = Overlay(run_with(headers), headers)
    assert overlay.stack.is_stack
    captions = Captions(run_with(headers), headers, overlay)
    assert captions.name(Frame(4, 1)) == "Image 5 of 12"


def test_findings_beyond_the_key_slices_are_counted(spy: Spy) -> None:  # noqa: F811
    headers = ct(40)
    run = run_with(headers, *((number, 1, 0.5 + number / 100) for number in range(5, 16)))
    pictures = list(sc.build(run, headers, Slices(*headers)))
    assert len(pictures) == 1 + KEY_SLICES
    assert "3 more findings lie on images that have no picture of their own" in [
        each.text for each in spy.legends[0].sentences
    ]


def test_a_stack_without_findings_is_a_montage_that_says_so(spy: Spy) -> None:  # noqa: F811
    headers = ct(300)
    pictures = list(sc.build(run_with(headers), headers, Slices(*headers)))
    assert len(pictures) == 1
    said = [each.text for each in spy.legends[0].sentences]
    assert "No findings" in said
    assert "Images with a light caption have a picture of their own" not in said


@pytest.mark.slow
def test_three_hundred_slices_are_never_held_at_once() -> None:
    headers = ct(300)
    run = run_with(headers, (200, 1, 0.9))
    images = Slices(*headers, rows=1024, columns=1024)
    tracemalloc.start()
    for _ in scene.Scene(run, headers, images).shots():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 1024 * 1024  # 300 slices are 300 MiB


def test_key_frames_of_a_loop_are_shown_and_named(spy: Spy) -> None:  # noqa: F811
    loop = make_image(Modality="US", NumberOfFrames=60, Rows=512, Columns=512)
    run = run_with([loop], (1, 31, 0.9), (1, 7, 0.8))
    images = Slices(loop)
    montage, first, second = (written(each) for each in sc.build(run, [loop], images))
    assert {frame for _, frame in images.asked} >= {31, 7}
    assert sum(images.asked.values()) == MONTAGE
    (item,) = montage.SourceImageSequence
    assert len(item.ReferencedFrameNumber) == MONTAGE
    assert first.SourceImageSequence[0].ReferencedFrameNumber == 31
    assert second.SourceImageSequence[0].ReferencedFrameNumber == 7
    said = [[each.text for each in one.sentences] for one in spy.legends]
    assert "Frame 31" in said[1]
    assert "Frame 7" in said[2]
    top = first.pixel_array[119, 100:160].astype(int)
    assert np.abs(top - palette.COLOURS[0]).mean() < 10  # of a JPEG


def test_a_slice_that_cannot_be_displayed_leaves_its_cell_dark() -> None:
    class Broken(Slices):
        def pixels(self, ref: InstanceRef, frame: int) -> NDArray[np.uint8]:
            if self._places[ref.sop_instance_uid] == 0:
                raise ai_images.ReadingError("no")
            return super().pixels(ref, frame)

    headers = ct(4)
    shots = list(scene.Scene(run_with(headers), headers, Broken(*headers)).shots())
    assert len(shots) == 1


def test_slices_that_are_not_square_keep_their_shape_in_the_montage() -> None:
    headers = ct(4, PixelSpacing=[2.0, 1.0])
    (montage,) = scene.Scene(run_with(headers), headers, Slices(*headers)).shots()
    cell = montage.rgb[:512, :512].max(axis=2) > 10
    assert abs(cell.any(axis=0).sum() / cell.any(axis=1).sum() - 0.5) < 0.02


def test_the_page_has_the_best_slice() -> None:
    headers = ct(30)
    run = run_with(headers, (4, 1, 0.6), (20, 1, 0.9))
    images = Slices(*headers)
    page = sc.page_picture(run, headers, images)
    assert page is not None
    assert page.shape[1:] == (512, 3)
    assert page.shape[0] > 512  # below it stands which slice it is
    assert [int(headers[place].InstanceNumber) for place, _ in images.asked] == [20]
    without = sc.page_picture(run_with(headers), headers, Slices(*headers))
    assert without is not None
    assert without.shape[1] > 1024


# --- outlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_segments_are_outlined_and_named(spy: Spy, kind: str) -> None:  # noqa: F811
    headers = ct(10)
    run = run_with(headers, segmentations=(segmentation(headers, {5: 60}, {5: 60, 6: 80}, kind=kind),))
    _, first, _ = scene.Scene(run, headers, Slices(*headers)).shots()
    colour = palette.Palette(run.reading).classes["s1"]  # the second segment lies over the first, just outside of it
    assert (first.rgb[39, 300:360] == colour).all()
    assert (first.rgb[100, 300:360] == colour).all()
    inside = first.rgb[40:100, 300:360]
    assert (inside == inside[0, 0]).all()
    assert [row.cells[0] for row in spy.legends[1].rows[3:]] == ["Segment 0", "Segment 1"]
    assert [row.cells[0] for row in spy.legends[2].rows[3:]] == ["Segment 1"]


def test_more_segments_than_colours_are_dashed(spy: Spy) -> None:  # noqa: F811
    headers = ct(10)
    free = len(palette.COLOURS) - 3  # three classes have a colour each
    sizes = ({5: 10 + 8 * n} for n in range(free + 2))
    run = run_with(headers, segmentations=(segmentation(headers, *sizes),))
    list(scene.Scene(run, headers, Slices(*headers)).shots())
    rows = spy.legends[1].rows[3:]
    assert len({row.colour for row in rows if not row.dashed}) == free
    assert sum(row.dashed for row in rows) == 2


def test_a_label_does_not_lie_on_an_outline_if_it_can_be_helped(spy: Spy) -> None:  # noqa: F811
    headers = ct(10)
    masks = np.zeros((10, 512, 512), bool)
    here = [int(header.InstanceNumber) for header in headers].index(5)
    masks[here, 70:118, 90:260] = True  # where the label would stand: above the box
    one = segmentation(headers, {5: 60})
    one = replace(one, segments=(replace(one.segments[0], mask=masks),))
    list(scene.Scene(run_with(headers, (5, 1, 0.9), segmentations=(one,)), headers, Slices(*headers)).shots())
    (place,) = spy.places
    assert place.rect.top >= 118


# --- heat maps ------------------------------------------------------------------------------------------------------


def hot(run: Run, key: str = "nodule", values: NDArray[np.float32] | None = None, **edges: float) -> Run:
    if values is None:
        values = np.zeros((8, 8), np.float32)
        values[2:4, 5:7] = 1.0
    uid = run.reading.sources[0].sop_instance_uid
    area = {"left": 0.0, "top": 0.0, "right": 800.0, "bottom": 800.0, **edges}
    return replace(run, reading=replace(run.reading, heat_maps=(HeatMap(uid, key, values, **area),)))


def shots(run: Run, header: Dataset, picture: NDArray[np.uint8]) -> list[scene.Shot]:
    return list(scene.Scene(run, [header], Held(header, picture=picture)).shots())


def test_a_heat_map_is_a_second_picture_where_its_class_is_present(spy: Spy) -> None:  # noqa: F811
    image = make_image()
    run = hot(run_of(image, boxes=BOXES["one"], rows=800, columns=800, profile={"pictures": "uncompressed"}))
    plain, heated = (written(each) for each in sc.build(run, [image], Held(image, picture=grey(800, 800))))
    assert plain.SeriesInstanceUID == heated.SeriesInstanceUID
    assert [plain.InstanceNumber, heated.InstanceNumber] == [1, 2]
    assert (plain.Rows, plain.Columns) == (heated.Rows, heated.Columns)  # a viewer that toggles does not jump
    assert "heat map" in heated.DerivationDescription
    assert "Heat map: where the model saw Nodule" in [each.text for each in spy.legends[1].sentences]
    assert spy.legends[0].scale is None
    assert {"0", "0.25", "0.5", "0.75", "1"} <= {each.text for each in spy.layouts[1].written}
    source, changed = grey(800, 800)[..., np.newaxis], heated.pixel_array[:800] != plain.pixel_array[:800]
    assert changed[250:350, 550:650].any(axis=2).mean() > 0.9
    assert (heated.pixel_array[500:800, :400] == source[500:800, :400]).all()


def test_no_class_present_makes_no_heat_map() -> None:
    image = make_image()
    assert len(shots(hot(run_of(image)), image, grey(800, 800))) == 1
    boxed = run_of(image, boxes=BOXES["one"], rows=800, columns=800)
    assert len(shots(hot(boxed, "effusion"), image, grey(800, 800))) == 1


def test_a_heat_map_is_never_normalised() -> None:
    image, black = make_image(), np.zeros((800, 800), np.uint8)
    run = run_of(image, boxes=BOXES["one"], rows=800, columns=800)
    # One that would not be seen makes no picture: it would look as if there were nothing.
    assert len(shots(hot(run, values=np.full((4, 4), heat_maps.LOWEST - 0.01, np.float32)), image, black)) == 1
    half = shots(hot(run, values=np.full((4, 4), 0.6, np.float32)), image, black)[1].rgb[600, 200]
    full = shots(hot(run, values=np.full((4, 4), 1.0, np.float32)), image, black)[1].rgb[600, 200]
    assert half.any()
    assert (half != full).any()


@pytest.mark.parametrize("grey_picture", [True, False])
def test_a_map_is_blended_as_if_every_pixel_were_looked_at(grey_picture: bool) -> None:
    rng = np.random.default_rng(5)
    for rows, columns in ((61, 90), (5, 7), (1, 1)):
        picture = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        if grey_picture:
            picture[...] = picture[..., :1]
        heats = []
        for cells in ((7, 5), (1, 1), (3, 9)):  # with colour in few cells, so that most of the picture has none
            values = np.where(rng.random(cells) < 0.2, rng.random(cells), 0.2).astype(np.float32)
            heats.append(heat_maps.Heat(values, *(-3.5, 2.0, columns - 4.0, rows + 6.5)))
        heats.append(heat_maps.Heat(np.full((2, 2), np.nan, np.float32), 0.0, 0.0, float(columns), float(rows)))
        level = np.max([_levels(each, rows, columns) for each in heats], axis=0)
        share = np.where(
            level / 255 < heat_maps.LOWEST, 0.0, np.interp(level / 255, [heat_maps.LOWEST, 1.0], [0.15, 0.65])
        )
        colour = heat_maps.COLOURS[level].astype(float)
        wanted = picture + (colour - (colour @ [0.2126, 0.7152, 0.0722])[..., None]) * share[..., None]
        wanted = wanted.clip(0, 255)
        heat_maps.blend(picture, heats, grey=grey_picture)
        assert np.abs(picture - wanted).max() <= 2.0  # of 255: the two are whole numbers of 256ths


def _levels(each: heat_maps.Heat, rows: int, columns: int) -> NDArray[np.intp]:
    """The level of each pixel, interpolated between the centres of all cells, row by row and then along the rows."""
    values = np.nan_to_num(each.values.astype(float)) * 255.0
    down, across = (
        (last - first) * (np.arange(count) + 0.5) / count + first
        for first, last, count in ((each.top, each.bottom, len(values)), (each.left, each.right, values.shape[1]))
    )
    along = np.array([np.interp(np.arange(rows) + 0.5, down, column) for column in values.T])
    found = np.array([np.interp(np.arange(columns) + 0.5, across, row) for row in along.T])
    y, x = np.arange(rows)[:, None] + 0.5, np.arange(columns) + 0.5
    inside = (y > each.top - 0.5) & (y < each.bottom + 0.5) & (x > each.left - 0.5) & (x < each.right + 0.5)
    return np.where(inside, np.rint(found), 0).astype(np.intp)


def test_the_colours_grow_lighter_with_the_value() -> None:
    luminance = heat_maps.COLOURS.astype(float) / 255 @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance[::8]) > 0).all()
    # Also where two kinds of cones are missing and only lightness is left, the ends are far apart.
    assert luminance[-1] - luminance[0] > 0.7


@pytest.mark.parametrize(
    ("edges", "at"),
    [
        ({}, (250, 550)),
        ({"left": 400.0}, (250, 675)),
        ({"left": -800.0, "right": 800.0}, (250, 300)),
        ({"top": -100.0, "bottom": 300.0}, (25, 550)),
    ],
)
def test_a_heat_map_lies_between_its_edges(edges: dict[str, float], at: tuple[int, int]) -> None:
    image, black = make_image(), np.zeros((800, 800), np.uint8)
    values = np.zeros((8, 8), np.float32)
    values[2:4, 5:6] = 1.0  # 1/4 to 1/2 of the height, 5/8 to 6/8 of the width
    run = hot(run_of(image, boxes=BOXES["one"], rows=800, columns=800), values=values, **edges)
    run = replace(run, reading=replace(run.reading, findings=()))
    warm = shots(run, image, black)[1].rgb[:800].max(axis=2) > 60
    area = {"left": 0.0, "top": 0.0, "right": 800.0, "bottom": 800.0, **edges}
    wide, tall = area["right"] - area["left"], area["bottom"] - area["top"]
    y, x = np.argwhere(warm).mean(axis=0)
    assert abs(x + 0.5 - (area["left"] + wide * 5.5 / 8)) < 0.02 * wide
    visible = (max(area["top"] + tall / 4, 0) + area["top"] + tall / 2) / 2
    assert abs(y + 0.5 - visible) < 0.03 * tall


def test_broken_values_are_no_heat() -> None:
    image, black = make_image(), np.zeros((800, 800), np.uint8)
    values = np.full((4, 4), np.nan, np.float32)
    values[0, 0], values[0, 1] = np.inf, -np.inf
    run = hot(run_of(image, boxes=BOXES["one"], rows=800, columns=800), values=values)
    rgb = shots(run, image, black)[1].rgb
    assert not rgb[500:800, 50:400].any()


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.programs
def test_a_real_ct_is_shown_and_other_programs_take_it(real_data: Path, tmp_path: Path) -> None:
    files = sorted((DICOM / "chest-ct/dicom").glob("*.dcm"))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    refs = tuple(
        InstanceRef(str(header.SOPInstanceUID), str(header.SOPClassUID), str(file))
        for header, file in zip(headers, files, strict=True)
    )

    key, name, code = CLASSES[0]
    finding = Finding(key, name, code, 0.9, Region(refs[30].sop_instance_uid, 150, 200, 190, 240))
    run = run_of(*headers)
    reading = Reading(MODEL, refs, (finding,), run.reading.classes, (), ())
    objects = encode(replace(run, reading=reading, profile=Profile(language="ko", outputs=("sc",))))
    assert [(each.role, each.index) for each in objects] == [("sc", 0), ("sc", 1)]
    for each in objects:
        file = tmp_path / f"{each.index}.dcm"
        file.write_bytes(each.content)
        run_tool("dcmj2pnm", file, tmp_path / f"{each.index}.ppm")
        done = run_tool("dciodvfy", file, check=False)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert errors == []
    edge = pydicom.dcmread(tmp_path / "1.dcm").pixel_array[199, 150:190].astype(int)
    assert np.abs(edge - palette.COLOURS[0]).mean() < 10  # of a JPEG
