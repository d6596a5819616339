"""The picture marks what was found, hides nothing of it, and says in words what a person must know."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_image, run_tool
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from test_results_common import (
    BOXES,
    CLASSES,
    MODEL,
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

from ai.contract import ClassResult, Code, Presence, Region
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


class Spy:
    """Keeps what was written and where labels and the legend were put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.headline: list[str] = []
        self.table: list[drawing.Row] = []
        self.rects: list[drawing.Rect] = []
        draw, paste = drawing.Picture.draw, drawing.Picture._paste

        def spy_draw(picture, boxes, headline, table, emphasized):  # type: ignore[no-untyped-def]
            self.headline, self.table = list(headline), list(table)
            draw(picture, boxes, headline, table, emphasized)

        def spy_paste(picture, panel, at):  # type: ignore[no-untyped-def]
            self.rects.append(paste(picture, panel, at))
            return self.rects[-1]

        monkeypatch.setattr(drawing.Picture, "draw", spy_draw)
        monkeypatch.setattr(drawing.Picture, "_paste", spy_paste)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    yield Spy(monkeypatch)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (1955, 1841), (4280, 3520)])
def test_inside_a_box_the_source_stands_and_its_edge_has_the_class_colour(rows: int, columns: int) -> None:
    source, rgb, run = scene(SPOTS, rows, columns)
    assert rgb.shape == (rows, columns, 3)
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
    assert len(spy.rects) == 2
    assert (rgb[-1, -1] == drawing.COLOURS[0]).all()
    assert (rgb[200, 600] == source[200, 600]).all()


def test_without_findings_only_the_legend_is_drawn(spy: Spy) -> None:
    source, rgb, _ = scene({}, 600, 800)
    (legend,) = spy.rects
    changed = np.argwhere((rgb != source[..., np.newaxis]).any(axis=2))
    assert changed.min(axis=0).tolist() == [legend.top, legend.left]
    assert changed.max(axis=0).tolist() == [legend.bottom - 1, legend.right - 1]
    assert (legend.right - legend.left) * (legend.bottom - legend.top) < 0.2 * 600 * 800


def area(a: drawing.Rect, b: drawing.Rect) -> int:
    return max(min(a.right, b.right) - max(a.left, b.left), 0) * max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (512, 700), (2500, 2048)])
@pytest.mark.parametrize(
    "boxes", [BOXES["overlapping"], BOXES["border"], SPOTS], ids=["overlapping", "border", "spots"]
)
def test_labels_and_legend_hide_no_finding_and_not_each_other(spy: Spy, boxes: Boxes, rows: int, columns: int) -> None:
    _, _, run = scene(boxes, rows, columns)
    regions = [drawing.Rect(*edges(finding.region)) for finding in run.reading.findings]
    assert len(spy.rects) == 1 + len(regions)
    for panel in spy.rects:
        assert min(panel) >= 0
        assert panel.right <= columns
        assert panel.bottom <= rows
        assert all(area(panel, region) == 0 for region in regions)
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.rects, 2))


def test_many_findings_are_all_labelled(spy: Spy) -> None:
    run = run_of(make_image(), boxes=BOXES["one"], rows=800, columns=800)
    one = run.reading.findings[0]
    spots = [
        Region(one.region.sop_instance_uid, x, y, x + 60, y + 50) for y in (100, 300, 500) for x in (100, 300, 500)
    ]
    findings = tuple(replace(one, region=spot) for spot in spots)
    sc.render(replace(run, reading=replace(run.reading, findings=findings)), grey(800, 800), 0)
    assert len(spy.rects) == 10
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.rects, 2))


@pytest.mark.parametrize(
    ("rows", "columns", "factor"),
    [(1, 1, 512), (16, 16, 32), (64, 64, 8), (511, 600, 2), (512, 512, 1), (16, 4000, 1), (1, 5000, 1), (5000, 3, 1)],
)
@pytest.mark.parametrize("boxes", ["none", "border"])
def test_any_matrix_is_drawn_and_small_ones_are_enlarged(rows: int, columns: int, factor: int, boxes: str) -> None:
    _, rgb, _ = scene(BOXES[boxes], rows, columns)
    assert sc.enlargement(rows, columns) == factor
    assert rgb.shape == (rows * factor, columns * factor, 3)


def test_an_enlarged_box_lies_where_the_finding_is() -> None:
    source, rgb, _ = scene({"nodule": (0.25, 0.25, 0.5, 0.5)}, 64, 64)
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
    run = run_of(image, content_qualification="PRODUCT")
    product = written(
        sc.build(replace(run, reading=replace(run.reading, model=replace(MODEL, notice=""))), image, grey(), 0)
    )
    assert spy.headline[0] == "phantom_cxr 1.2.0"
    assert "diagnostic" not in product.SeriesDescription + product.DerivationDescription


@pytest.mark.parametrize(("room", "expected"), [(9, "abcde"), (5, "abcde"), (3, "bae"), (2, "be"), (0, "")])
def test_where_the_table_is_too_long_what_is_present_stays_and_the_rest_is_counted(room: int, expected: str) -> None:
    table = [drawing.Row((name, "", "", ""), drawing.COLOURS[0] if name in "be" else None) for name in "abcde"]
    rows = drawing._abridged(table, room)
    assert {row.cells[0] for row in rows[: len(expected)]} == set(expected)
    assert [row.cells[0] for row in rows[len(expected) :]] == ([] if room >= 5 else [f"{5 - room} more in the report"])


def test_a_table_longer_than_the_picture_leaves_no_finding_hidden(spy: Spy) -> None:
    run = run_of(make_image(), boxes={"nodule": (0.5, 0.1, 0.98, 0.98)}, rows=512, columns=512)
    many = tuple(
        ClassResult(f"c{i}", f"Class {i}", Code(str(i), "99X", "c"), 0.1, 0.5, Presence.ABSENT) for i in range(80)
    )
    sc.render(replace(run, reading=replace(run.reading, classes=(run.reading.classes[0], *many))), grey(512, 512), 0)
    box = drawing.Rect(*edges(run.reading.findings[0].region))
    assert [area(panel, box) for panel in spy.rects] == [0, 0]
    assert max(panel.bottom for panel in spy.rects) <= 512


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
    assert (picture.Rows, picture.Columns, picture.SamplesPerPixel) == (600, 700, 3)
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
    assert "enlarged" not in picture.DerivationDescription
    absent = "WindowCenter WindowWidth FrameOfReferenceUID LossyImageCompression NumberOfFrames PixelSpacing"
    assert [keyword for keyword in absent.split(" ") if keyword in picture] == []
    assert (picture.DateOfSecondaryCapture, picture.TimeOfSecondaryCapture) == ("20260301", "233015.123456")


def test_an_odd_number_of_pixels_is_padded() -> None:
    image = make_image()
    picture = sc.build(run_of(image), image, grey(513, 515), 0)
    assert written(picture).pixel_array.shape == (513, 515, 3)
    assert len(common.to_bytes(picture)) % 2 == 0


def test_enlarging_is_said() -> None:
    picture = build()
    assert (picture.Rows, picture.Columns) == (600, 600)
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
    assert build(**attributes).get("PixelAspectRatio") == expected


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
    run = run_of(header, boxes=BOXES["border"], rows=shape.Rows, columns=shape.Columns)
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
