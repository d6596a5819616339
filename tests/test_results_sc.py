"""The picture marks what was found, hides nothing of the image, and says below it what a person must know."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import make_image, run_tool
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from test_results_common import (
    BOXES,
    CLASSES,
    MODEL,
    NOT_READ,
    SCORES,
    SOURCES,
    Boxes,
    _strict_pydicom,  # noqa: F401 (an autouse fixture)
    grey,
    header_of,
    run_of,
    with_raw,
    written,
)

from ai.contract import ClassResult, Code, PassedOver, Presence, Region
from dicom_node.results import Run, common, drawing, sc

SPOTS: Boxes = {
    "nodule": (0.1, 0.1, 0.2, 0.2),
    "effusion": (0.6, 0.2, 0.8, 0.35),
    "pneumothorax": (0.2, 0.45, 0.45, 0.6),
}


def scene(boxes: Boxes, rows: int, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Run]:
    """The source's display picture, the rendered picture and the run, for a synthetic image."""
    run = run_of(make_image(), boxes=boxes, rows=rows, columns=columns)
    source = grey(rows, columns)
    return source, sc.render(run, source, 0), run


def edges(region: Region) -> tuple[int, int, int, int]:
    return (
        int(np.floor(region.left)),
        int(np.floor(region.top)),
        int(np.ceil(region.right)),
        int(np.ceil(region.bottom)),
    )


class Written(NamedTuple):
    """A piece of text in the legend, on the rows and columns of the whole picture."""

    text: str
    rect: drawing.Rect
    colour: drawing.Colour


class Spy:
    """Keeps what was to be written, what the legend wrote and where, and where the labels were put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.headline: list[str] = []
        self.table: list[drawing.Row] = []
        self.labels: list[drawing.Rect] = []
        self.words: list[Written] = []
        draw, legend, paste, text = drawing.draw, drawing._legend, drawing._Picture._paste, ImageDraw.ImageDraw.text
        below = 0

        def spy_draw(pixels, boxes, headline, table, emphasized):  # type: ignore[no-untyped-def]
            nonlocal below
            self.headline, self.table, self.labels, self.words = list(headline), list(table), [], []
            below = pixels.shape[0]
            return draw(pixels, boxes, headline, table, emphasized)

        def spy_legend(*args, **kwargs):  # type: ignore[no-untyped-def]
            with monkeypatch.context() as patch:
                patch.setattr(ImageDraw.ImageDraw, "text", spy_text)
                return legend(*args, **kwargs)

        def spy_text(pen, at, string, fill, font):  # type: ignore[no-untyped-def]
            text(pen, at, string, fill=fill, font=font)
            left, top, right, bottom = font.getbbox(string)
            rect = drawing.Rect(at[0] + left, below + at[1] + top, at[0] + right, below + at[1] + bottom)
            if string:
                self.words.append(Written(" ".join(string.split()), rect, fill))

        def spy_paste(picture, panel, at):  # type: ignore[no-untyped-def]
            self.labels.append(paste(picture, panel, at))
            return self.labels[-1]

        monkeypatch.setattr(sc, "draw", spy_draw)
        monkeypatch.setattr(drawing, "_legend", spy_legend)
        monkeypatch.setattr(drawing._Picture, "_paste", spy_paste)

    @property
    def sentences(self) -> list[Written]:
        """What stands before the table."""
        return self.words[: next(i for i, word in enumerate(self.words) if word.text == "score")]

    @property
    def cells(self) -> list[Written]:
        """What stands in the table, its first row included."""
        return self.words[len(self.sentences) :]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    yield Spy(monkeypatch)


def with_classes(run: Run, *names: str) -> Run:
    """The run with these classes too, all undetermined."""
    more = (
        ClassResult(f"c{i}", name, Code(str(i), "99X", "c"), 0.1, 0.5, Presence.UNDETERMINED)
        for i, name in enumerate(names)
    )
    return replace(run, reading=replace(run.reading, classes=(*run.reading.classes, *more)))


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (1955, 1841), (4280, 3520)])
def test_inside_a_box_the_source_stands_and_its_edge_has_the_class_colour(rows: int, columns: int) -> None:
    source, rgb, run = scene(SPOTS, rows, columns)
    assert rgb.shape[0] > rows
    assert rgb.shape[1] == columns
    for finding in run.reading.findings:
        left, top, right, bottom = edges(finding.region)
        inside = rgb[top:bottom, left:right]
        assert (inside == source[top:bottom, left:right, np.newaxis]).all()
        colour = drawing.COLOURS[[key for key, _, _ in CLASSES].index(finding.key)]
        assert (rgb[top - 1, left:right] == colour).all()
        assert (rgb[bottom, left:right] == colour).all()
        assert (rgb[top:bottom, left - 1] == colour).all()
        assert (rgb[top:bottom, right] == colour).all()


def test_a_frame_at_the_border_lies_within_the_picture() -> None:
    source, rgb, _ = scene({"nodule": (0, 0, 0.5, 0.5)}, 600, 800)
    assert (rgb[0, :400] == drawing.COLOURS[0]).all()
    assert (rgb[:300, 0] == drawing.COLOURS[0]).all()
    assert (rgb[5:300, 5:400] == source[5:300, 5:400, np.newaxis]).all()


def test_a_finding_that_fills_the_image_is_marked_and_the_model_still_named(spy: Spy) -> None:
    source, rgb, _ = scene({"nodule": (0, 0, 1, 1)}, 600, 800)
    assert len(spy.labels) == 1
    assert "phantom_cxr 1.2.0" in [word.text for word in spy.words]
    assert (rgb[599, -1] == drawing.COLOURS[0]).all()
    assert (rgb[200, 600] == source[200, 600]).all()


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (700, 512), (2500, 2048), (4280, 3520)])
@pytest.mark.parametrize("boxes", [{}, BOXES["border"], SPOTS], ids=["none", "border", "spots"])
def test_the_image_is_the_source_but_for_boxes_and_labels(spy: Spy, boxes: Boxes, rows: int, columns: int) -> None:
    source, rgb, run = scene(boxes, rows, columns)
    changed = (rgb[:rows, :columns] != source[..., np.newaxis]).any(axis=2)
    width = 2 * max(2, round(min(rows, columns) / 400))
    for finding in run.reading.findings:
        left, top, right, bottom = edges(finding.region)
        frame = np.zeros_like(changed)
        frame[max(top - width, 0) : bottom + width, max(left - width, 0) : right + width] = True
        frame[max(top, width) : min(bottom, rows - width), max(left, width) : min(right, columns - width)] = False
        changed &= ~frame
    for label in spy.labels:
        changed[label.top : label.bottom, label.left : label.right] = False
    assert len(spy.labels) == len(boxes)
    assert not changed.any()


def area(a: drawing.Rect, b: drawing.Rect) -> int:
    return max(min(a.right, b.right) - max(a.left, b.left), 0) * max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (512, 700), (2500, 2048)])
@pytest.mark.parametrize(
    "boxes", [BOXES["overlapping"], BOXES["border"], SPOTS], ids=["overlapping", "border", "spots"]
)
def test_labels_hide_no_finding_and_not_each_other(spy: Spy, boxes: Boxes, rows: int, columns: int) -> None:
    _, _, run = scene(boxes, rows, columns)
    regions = [drawing.Rect(*edges(finding.region)) for finding in run.reading.findings]
    assert len(spy.labels) == len(regions)
    for label in spy.labels:
        assert min(label) >= 0
        assert label.right <= columns
        assert label.bottom <= rows
        assert all(area(label, region) == 0 for region in regions)
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.labels, 2))


def test_many_findings_are_all_labelled(spy: Spy) -> None:
    run = run_of(make_image(), boxes=BOXES["one"], rows=800, columns=800)
    one = run.reading.findings[0]
    spots = [
        Region(one.region.sop_instance_uid, x, y, x + 60, y + 50) for y in (100, 300, 500) for x in (100, 300, 500)
    ]
    findings = tuple(replace(one, region=spot) for spot in spots)
    sc.render(replace(run, reading=replace(run.reading, findings=findings)), grey(800, 800), 0)
    assert len(spy.labels) == 9
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.labels, 2))


@pytest.mark.parametrize(
    ("rows", "columns", "factor"),
    [(1, 1, 512), (16, 16, 32), (64, 64, 8), (511, 600, 2), (512, 512, 1), (16, 4000, 1), (1, 5000, 1), (5000, 3, 1)],
)
@pytest.mark.parametrize("boxes", ["none", "border"])
def test_any_matrix_is_drawn_and_small_ones_are_enlarged(rows: int, columns: int, factor: int, boxes: str) -> None:
    _, rgb, _ = scene(BOXES[boxes], rows, columns)
    assert sc.enlargement(rows, columns) == factor
    assert rgb.shape[0] > rows * factor
    assert rgb.shape[1] >= columns * factor


def test_an_enlarged_box_lies_where_the_finding_is() -> None:
    source, rgb, _ = scene({"nodule": (0.25, 0.25, 0.5, 0.5)}, 64, 64)
    assert rgb.shape[1] == 512
    assert (rgb[128:256, 128:256] == source[16:32, 16:32].repeat(8, 0).repeat(8, 1)[..., np.newaxis]).all()
    assert (rgb[127, 128:256] == drawing.COLOURS[0]).all()


def test_what_is_no_display_picture_is_refused() -> None:
    run = run_of(make_image())
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected rows x columns of uint8"):
            sc.render(run, wrong, 0)  # type: ignore[arg-type]


def test_a_large_radiograph_is_drawn_and_encoded_in_half_a_second() -> None:
    image = make_image(Rows=2500, Columns=2048)
    run = run_of(image, boxes=SPOTS, rows=2500, columns=2048)
    pixels, seconds = grey(2500, 2048), []
    for _ in range(3):
        start = time.perf_counter()
        common.to_bytes(sc.build(run, image, pixels, 0))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


# --- legend ---------------------------------------------------------------------------------------------------------

LONG = ("Enlarged cardiomediastinum", "A name of a class as long as a manifest allows, sixty-four, m")


@pytest.mark.parametrize(
    ("rows", "columns"), [(512, 512), (4280, 3520), (2500, 2048), (512, 3000), (3000, 520), (4000, 16), (1, 5000)]
)
@pytest.mark.parametrize("more", [(), LONG, ("Mass",) * 80], ids=["short", "long", "many"])
def test_the_legend_holds_all_words_and_they_can_be_read(
    spy: Spy, rows: int, columns: int, more: tuple[str, ...]
) -> None:
    run = with_classes(
        run_of(make_image(), boxes=BOXES["one"], rows=rows, columns=columns, passed_over=NOT_READ), *more
    )
    rgb = sc.render(run, grey(rows, columns), 0)
    assert [" ".join(w.text for w in spy.sentences)] == [" ".join(spy.headline)]
    expected = ["score", "threshold", *(cell for row in spy.table for cell in row.cells)]
    assert [cell.text for cell in spy.cells] == expected
    assert len(spy.table) == 3 + len(more)
    for word in spy.words:  # inside of the picture, below the image, and in ink
        left, top, right, bottom = word.rect
        assert left > 0
        assert top > rows * sc.enlargement(rows, columns)
        assert right < rgb.shape[1]
        assert bottom < rgb.shape[0]
        assert (rgb[top:bottom, left:right].max(axis=(0, 1)) >= 0.6 * np.array(word.colour)).all()
    lines = sorted(spy.words, key=lambda word: word.rect.top)
    for i, one in enumerate(lines):
        following = itertools.takewhile(lambda other: other.rect.top < one.rect.bottom, lines[i + 1 :])  # noqa: B023
        assert all(area(one.rect, other.rect) == 0 for other in following)


def test_the_warnings_stand_first_and_stand_out(spy: Spy) -> None:
    scene(BOXES["one"], 2500, 2048)
    assert [word.text for word in spy.sentences[:3]] == [*spy.headline[:2], "phantom_cxr 1.2.0"]
    first, second, *others = [word.colour for word in spy.sentences]
    assert first == second == drawing._WARNING
    assert set(others) == {drawing._TEXT}


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (2500, 2048), (4280, 3520), (512, 3000)])
def test_sentences_and_table_stand_side_by_side_where_both_fit(spy: Spy, rows: int, columns: int) -> None:
    _, rgb, _ = scene(BOXES["one"], rows, columns)
    assert max(word.rect.right for word in spy.sentences) < min(word.rect.left for word in spy.cells)
    assert abs(spy.sentences[0].rect.top - spy.cells[0].rect.top) < 0.02 * rows
    assert rgb.shape[0] < 1.25 * rows


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (4280, 3520), (3000, 100)])
def test_the_table_stands_below_the_sentences_where_they_do_not_fit_beside_it(
    spy: Spy, rows: int, columns: int
) -> None:
    run = with_classes(run_of(make_image(), rows=rows, columns=columns), LONG[0])
    sc.render(run, grey(rows, columns), 0)
    assert max(word.rect.bottom for word in spy.sentences) < min(word.rect.top for word in spy.cells)


def test_a_swatch_stands_before_what_is_not_absent(spy: Spy) -> None:
    _, rgb, _ = scene(BOXES["one"], 2500, 2048)
    for row in spy.table:
        (name,) = [cell for cell in spy.cells if cell.text == row.cells[0]]
        before = rgb[name.rect.top : name.rect.bottom, name.rect.left - 30 : name.rect.left - 2]
        assert (before == (row.colour or 0)).all(axis=2).any()
        assert before.any() == (row.colour is not None)


def test_a_narrow_picture_gets_black_columns_on_its_right(spy: Spy) -> None:
    source, rgb, _ = scene({}, 3000, 100)
    factor = sc.enlargement(3000, 100)
    assert factor == 1
    assert rgb.shape[1] > 200
    assert (rgb[:3000, :100] == source[..., np.newaxis]).all()
    assert not rgb[:3000, 100:].any()


def test_nothing_is_drawn_from_the_image_into_the_legend(spy: Spy) -> None:
    _, plain, run = scene({}, 600, 800)
    _, marked, _ = scene({"nodule": (0.5, 0.9, 1, 1)}, 600, 800)
    top = min(word.rect.top for word in spy.words)
    assert (plain[600:top] == marked[600:top]).all()
    beyond = Region(run.reading.sources[0].sop_instance_uid, 700, 500, 900, 700)
    finding = run_of(make_image(), boxes=BOXES["one"]).reading.findings[0]
    findings = (replace(finding, region=beyond),)
    rgb = sc.render(replace(run, reading=replace(run.reading, findings=findings)), grey(600, 800), 0)
    assert rgb.shape[1] == 800
    assert (plain[600:top] == rgb[600:top]).all()


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_legend_says_what_a_person_must_know(spy: Spy) -> None:
    scene(BOXES["one"], 512, 512)
    assert spy.headline == [
        "AI - not for diagnostic use",
        "Demonstration model, trained on no patient",
        "phantom_cxr 1.2.0",
        "Read 2026-03-01 23:30 UTC+0000",
        "1 finding with a region",
    ]
    assert [row.cells for row in spy.table] == [
        ("Nodule", "87.3 %", "50.0 %", "present"),
        ("Pleural effusion", "12.3 %", "50.0 %", "absent"),
        ("Pneumothorax", "12.3 %", "50.0 %", "absent"),
    ]
    assert [row.colour for row in spy.table] == [drawing.COLOURS[0], None, None]


def test_no_findings_are_said_in_words(spy: Spy) -> None:
    scene(BOXES["none"], 512, 512)
    assert spy.headline[-1] == "No findings"


def test_an_image_without_findings_does_not_speak_for_the_study(spy: Spy) -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, boxes=BOXES["one"])
    sc.render(run, grey(), 1)
    assert spy.headline[-2:] == ["Image 2 of 2", "No findings in this image; 1 finding with a region in the study"]


def test_the_time_is_in_the_sources_zone(spy: Spy) -> None:
    image = make_image(TimezoneOffsetFromUTC="+0900")
    sc.build(run_of(image), image, grey(), 0)
    assert "Read 2026-03-02 08:30 UTC+0900" in spy.headline


def test_a_product_is_not_called_research(spy: Spy) -> None:
    image = make_image()
    run = run_of(image, profile={"content_qualification": "PRODUCT"})
    product = written(
        sc.build(replace(run, reading=replace(run.reading, model=replace(MODEL, notice=""))), image, grey(), 0)
    )
    assert spy.headline[0] == "phantom_cxr 1.2.0"
    assert "diagnostic" not in product.SeriesDescription + product.DerivationDescription


def test_what_was_not_read_is_said_after_the_verdict(spy: Spy) -> None:
    sc.render(run_of(make_image(), passed_over=NOT_READ), grey(), 0)
    assert spy.headline[-2:] == [
        "No findings",
        "Not read: 3 images, other objects or series: view LL is not among PA, AP; it is no image",
    ]
    assert spy.sentences[-1].colour == drawing._TEXT


def test_long_and_many_reasons_are_shortened(spy: Spy) -> None:
    reasons = ["a" * 60, "long " * 20, "c", "d"]
    run = run_of(make_image(), passed_over=tuple(PassedOver(str(i), r) for i, r in enumerate(reasons)))
    sc.render(run, grey(), 0)
    assert spy.headline[-1].split(": ")[2].split("; ") == [
        "a" * 60,
        ("long " * 11 + "lo..."),
        "c",
        "other reasons in the report",
    ]
    sc.render(run_of(make_image(), passed_over=NOT_READ[:1]), grey(), 0)
    assert spy.headline[-1].startswith("Not read: 1 image, other object or series: view")


def test_a_word_wider_than_the_picture_goes_on_in_the_next_line(spy: Spy) -> None:
    run = run_of(make_image())
    model = replace(MODEL, name="m" * 300)
    rgb = sc.render(replace(run, reading=replace(run.reading, model=model)), grey(512, 512), 0)
    assert "m" * 300 in "".join(word.text for word in spy.sentences)
    assert max(word.rect.right for word in spy.words) < rgb.shape[1] == 512


def test_names_that_the_font_lacks_do_not_stop_the_picture() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    findings = tuple(replace(finding, name="결절 \U0001f4a5" * 30) for finding in run.reading.findings)
    assert sc.render(replace(run, reading=replace(run.reading, findings=findings)), grey(600, 600), 0).any()


# --- the object -----------------------------------------------------------------------------------------------------


def build(image: Dataset | None = None, **attributes: object) -> Dataset:
    image = image or make_image(**attributes)
    return written(sc.build(run_of(image, boxes=BOXES["one"]), image, grey(), 0))


def test_it_is_a_single_frame_colour_secondary_capture() -> None:
    image = make_image(Rows=600, Columns=700)
    run = run_of(image, boxes=SPOTS, rows=600, columns=700)
    picture = written(sc.build(run, image, grey(600, 700), 0))
    assert picture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (picture.Modality, picture.ConversionType, picture.BurnedInAnnotation) == ("OT", "WSD", "YES")
    assert picture.ImageType == ["DERIVED", "SECONDARY"]
    assert (picture.Rows, picture.Columns, picture.SamplesPerPixel) == (picture.pixel_array.shape[0], 700, 3)
    assert picture.Rows > 600
    assert (picture.PhotometricInterpretation, picture.PlanarConfiguration) == ("RGB", 0)
    assert (picture.BitsAllocated, picture.BitsStored, picture.HighBit, picture.PixelRepresentation) == (8, 8, 7, 0)
    assert (picture.pixel_array == sc.render(run, grey(600, 700), 0)).all()
    (reference,) = picture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == image.SOPClassUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert picture.DerivationDescription.endswith(
        "AI - not for diagnostic use. Demonstration model, trained on no patient"
    )
    assert "burned in and a legend below the image." in picture.DerivationDescription
    assert "enlarged" not in picture.DerivationDescription
    absent = "WindowCenter WindowWidth FrameOfReferenceUID LossyImageCompression NumberOfFrames PixelSpacing"
    assert [keyword for keyword in absent.split(" ") if keyword in picture] == []
    assert (picture.DateOfSecondaryCapture, picture.TimeOfSecondaryCapture) == ("20260301", "233015.123456")


def test_an_odd_number_of_pixels_is_padded() -> None:
    image, odd = make_image(), 0
    for rows in (513, 514):  # the legend's own rows make one of them odd
        picture = sc.build(run_of(image), image, grey(rows, 515), 0)
        odd += picture.Rows * picture.Columns % 2
        assert written(picture).pixel_array.shape == (picture.Rows, 515, 3)
        assert len(common.to_bytes(picture)) % 2 == 0
    assert odd == 1


def test_enlarging_is_said() -> None:
    picture = build()
    assert picture.Columns == 600
    assert picture.Rows > 600
    assert "enlarged 6 times" in picture.DerivationDescription


def test_each_picture_of_a_reading_is_an_instance_of_one_series() -> None:
    images = [make_image(), make_image()]
    run = run_of(*images)
    pictures = [written(sc.build(run, image, grey(), i)) for i, image in enumerate(images)]
    assert len({picture.SeriesInstanceUID for picture in pictures}) == 1
    assert len({picture.SOPInstanceUID for picture in pictures}) == 2
    assert [picture.InstanceNumber for picture in pictures] == [1, 2]
    assert [p.SourceImageSequence[0].ReferencedSOPInstanceUID for p in pictures] == [i.SOPInstanceUID for i in images]


@pytest.mark.parametrize(
    ("body_part", "side", "expected"),
    [("CHEST", "", None), ("KNEE", "", ""), ("KNEE", "L", "L"), ("", "", ""), ("CHEST", "R", "R")],
)
def test_the_side_is_repeated_and_otherwise_open_where_there_can_be_one(
    body_part: str, side: str, expected: str | None
) -> None:
    picture = build(BodyPartExamined=body_part, Laterality=side)
    assert (picture.Laterality or "" if "Laterality" in picture else None) == expected
    assert picture.BodyPartExamined == body_part


def test_orientation_is_the_sources_or_unknown() -> None:
    assert build(PatientOrientation=["L", "F"]).PatientOrientation == ["L", "F"]
    assert not build().PatientOrientation


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, [2, 1]),
        ({"ImagerPixelSpacing": [0.15, 0.2]}, [3, 4]),
        ({"PixelAspectRatio": [4, 3]}, [4, 3]),
        ({"PixelSpacing": [1.2, 1.2012]}, None),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)
def test_pixels_keep_their_shape(attributes: dict[str, list[float]], expected: list[int] | None) -> None:
    assert build(make_image(**attributes)).get("PixelAspectRatio") == expected


def test_lossy_compression_is_not_forgotten() -> None:
    picture = build(
        LossyImageCompression="01", LossyImageCompressionRatio="10.5", LossyImageCompressionMethod="ISO_10918_1"
    )
    assert picture.LossyImageCompression == "01"
    assert (picture.LossyImageCompressionRatio, picture.LossyImageCompressionMethod) == (10.5, "ISO_10918_1")
    assert "LossyImageCompression" not in build(LossyImageCompression="00")


def test_spacing_that_is_no_number_is_passed_over() -> None:
    image = with_raw(make_image(), PixelSpacing=b"wide\\narrow ", ImagerPixelSpacing=b"0.2\\0.1 ")
    assert build(image).PixelAspectRatio == [2, 1]


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_other_programs_take_the_picture_and_see_what_was_drawn(name: str, tmp_path: Path) -> None:
    header, shape = header_of(SOURCES[name]), header_of(SOURCES[name])
    run = run_of(header, boxes=BOXES["border"], rows=shape.Rows, columns=shape.Columns, passed_over=NOT_READ)
    pixels = grey(shape.Rows, shape.Columns)
    file, ppm = tmp_path / "sc.dcm", tmp_path / "sc.ppm"
    file.write_bytes(common.to_bytes(sc.build(run, header, pixels, 0)))
    run_tool("dcm2pnm", file, ppm)
    # The run's own zone differs from the source's: compare what does not show the time.
    seen, drawn = np.asarray(Image.open(ppm)), sc.render(run, pixels, 0)
    assert seen.shape == drawn.shape
    assert (seen == drawn).all(axis=2).mean() > 0.99
    done = run_tool("dciodvfy", file, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []


def test_scores_are_those_of_the_findings() -> None:
    assert {key: common.percent(score) for key, score in SCORES.items()} == {
        "nodule": 87.3,
        "effusion": 61.0,
        "pneumothorax": 50.0,
    }
