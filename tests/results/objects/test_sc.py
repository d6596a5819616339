"""The picture marks what was found, hides nothing of the image, and says below it what a person must know."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless

from ai.contract import ClassResult, Code, Finding, PassedOver, Presence, ReadingError, Region
from dicom_node.config.values import Pictures
from dicom_node.results import Predecessor, Run, verdict
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import sc
from dicom_node.results.pictures import drawing, legend, palette, scene
from dicom_node.results.pictures.labels import Place, Rect
from dicom_node.results.pictures.legend import Row
from tests.results.pictures.test_labels import area
from tests.results.test_common import (
    BOXES,
    CLASSES,
    CREATED,
    MODEL,
    NOT_READ,
    SOURCES,
    Boxes,
    Held,
    grey,
    header_of,
    run_of,
    with_raw,
    with_scope,
    written,
)
from tests.support.programs import run_tool
from tests.support.samples import make_image

FULL = 5000
"""A limit of rows above that of every image here, so that none is reduced."""

CLASS = ClassResult(*CLASSES[0], 0.9, 0.5, Presence.PRESENT)
SPOTS: Boxes = {
    "nodule": (0.1, 0.1, 0.2, 0.2),
    "effusion": (0.6, 0.2, 0.8, 0.35),
    "pneumothorax": (0.2, 0.45, 0.45, 0.6),
}


def render(run: Run, picture: NDArray[np.uint8], index: int = 0) -> NDArray[np.uint8]:
    """The ``index``-th picture of a run whose sources all look like this."""
    headers = [make_image(SOPInstanceUID=ref.sop_instance_uid) for ref in run.reading.sources]
    shots = scene.Scene(run, headers, Held(*headers, picture=picture)).shots()
    return next(itertools.islice(shots, index, None)).rgb


def pictures_of(run: Run, *images: Dataset, picture: NDArray[np.uint8] | None = None) -> list[Dataset]:
    """Every secondary capture of a run, as another program would read it."""
    return [written(each) for each in sc.build(run, images, Held(*images, picture=picture))]


def drawn(boxes: Boxes, rows: int, columns: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Run]:
    """The source's display picture, the rendered picture and the run, for a synthetic image."""
    run = run_of(make_image(), boxes=boxes, rows=rows, columns=columns, profile={"sc_rows": FULL})
    source = grey(rows, columns)
    return source, render(run, source), run


def edges(region: Region) -> tuple[int, int, int, int]:
    return (
        int(np.floor(region.left)),
        int(np.floor(region.top)),
        int(np.ceil(region.right)),
        int(np.ceil(region.bottom)),
    )


class Spy:
    """Keeps what the last picture's legend says and where, and where its labels were put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.legends: list[legend.Legend] = []
        self.layouts: list[legend.Layout] = []
        self.places: list[Place] = []
        self.below = 0
        lay_out, label, bands = scene.lay_out, drawing.Picture._label, scene._bands

        def spy_lay_out(one: legend.Legend, size: int, columns: int) -> legend.Layout:
            self.legends.append(one)
            self.layouts.append(lay_out(one, size, columns))
            return self.layouts[-1]

        def spy_label(picture, boxes, panels, places):  # type: ignore[no-untyped-def]
            self.places = list(places)
            label(picture, boxes, panels, places)

        def spy_bands(legends, rows: int, columns: int):  # type: ignore[no-untyped-def]
            self.below = rows
            return bands(legends, rows, columns)

        monkeypatch.setattr(scene, "_bands", spy_bands)
        monkeypatch.setattr(scene, "lay_out", spy_lay_out)
        monkeypatch.setattr(drawing.Picture, "_label", spy_label)

    @property
    def labels(self) -> list[Rect]:
        return [each.rect for each in self.places]

    @property
    def headline(self) -> list[str]:
        return [each.text for each in self.legends[-1].sentences]

    @property
    def table(self) -> list[legend.Row]:
        return list(self.legends[-1].rows)

    @property
    def words(self) -> list[legend.Written]:
        """On the rows and columns of the whole picture."""
        written = self.layouts[-1].written
        return [
            replace(w, rect=Rect(w.rect.left, w.rect.top + self.below, w.rect.right, w.rect.bottom + self.below))
            for w in written
        ]

    @property
    def sentences(self) -> list[legend.Written]:
        """What stands before the table."""
        heading = self.legends[-1].heading
        count = next((i for i, word in enumerate(self.words) if word.text == heading[1]), None) if heading else None
        return self.words[:count]

    @property
    def cells(self) -> list[legend.Written]:
        """What stands in the table, its first row included."""
        return self.words[len(self.sentences) :]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    yield Spy(monkeypatch)


def with_findings(run: Run, *findings: Finding) -> Run:
    return replace(run, reading=replace(run.reading, findings=findings))


def with_classes(run: Run, *names: str) -> Run:
    """The run with these classes too, all undetermined."""
    more = (
        ClassResult(f"c{i}", name, Code(str(i), "99X", "c"), 0.1, 0.5, Presence.UNDETERMINED)
        for i, name in enumerate(names)
    )
    return replace(run, reading=replace(run.reading, classes=(*run.reading.classes, *more)))


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (1955, 1841), (4280, 3520)])
def test_inside_a_box_the_source_stands_and_its_edge_has_the_class_colour(rows: int, columns: int) -> None:
    source, rgb, run = drawn(SPOTS, rows, columns)
    assert rgb.shape[0] > rows
    assert rgb.shape[1] == columns
    for finding in run.reading.findings:
        left, top, right, bottom = edges(finding.region)
        inside = rgb[top:bottom, left:right]
        assert (inside == source[top:bottom, left:right, np.newaxis]).all()
        colour = palette.COLOURS[palette.place_of(finding.code)]
        assert (rgb[top - 1, left:right] == colour).all()
        assert (rgb[bottom, left:right] == colour).all()
        assert (rgb[top:bottom, left - 1] == colour).all()
        assert (rgb[top:bottom, right] == colour).all()


def test_a_frame_at_the_border_lies_within_the_picture() -> None:
    source, rgb, _ = drawn({"nodule": (0, 0, 0.5, 0.5)}, 600, 800)
    assert (rgb[0, :400] == palette.COLOURS[0]).all()
    assert (rgb[:300, 0] == palette.COLOURS[0]).all()
    assert (rgb[5:300, 5:400] == source[5:300, 5:400, np.newaxis]).all()


def test_a_finding_that_fills_the_image_has_a_number_and_its_name_in_the_legend(spy: Spy) -> None:
    source, rgb, _ = drawn({"nodule": (0, 0, 1, 1)}, 600, 800)
    (tag,) = spy.labels
    assert tag.right - tag.left < 20
    assert spy.table[-1] == legend.Row(("1: Nodule", "0.87", "", ""), palette.COLOURS[0])
    assert "phantom_cxr 1.2.0" in [word.text for word in spy.words]
    assert (rgb[599, -1] == palette.COLOURS[0]).all()
    assert (rgb[200, 600] == source[200, 600]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (700, 512), (2500, 2048), (4280, 3520)])
@pytest.mark.parametrize("boxes", [{}, BOXES["border"], SPOTS], ids=["none", "border", "spots"])
def test_the_image_is_the_source_but_for_boxes_and_labels(spy: Spy, boxes: Boxes, rows: int, columns: int) -> None:
    source, rgb, run = drawn(boxes, rows, columns)
    changed = (rgb[:rows, :columns] != source[..., np.newaxis]).any(axis=2)
    width = 2 * max(4, round(min(rows, columns) / 400))
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


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (512, 700), (2500, 2048)])
@pytest.mark.parametrize(
    "boxes", [BOXES["overlapping"], BOXES["border"], SPOTS], ids=["overlapping", "border", "spots"]
)
def test_labels_hide_no_finding_and_not_each_other(spy: Spy, boxes: Boxes, rows: int, columns: int) -> None:
    _, _, run = drawn(boxes, rows, columns)
    regions = [Rect(*edges(finding.region)) for finding in run.reading.findings]
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
    render(replace(run, reading=replace(run.reading, findings=findings)), grey(800, 800))
    assert len(spy.labels) == 9
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.labels, 2))


@pytest.mark.parametrize(
    ("source", "most", "expected"),
    [
        ((1, 1), 2048, (512, 512)),
        ((16, 16), 2048, (512, 512)),
        ((64, 64), 2048, (512, 512)),
        ((511, 600), 2048, (1022, 1200)),
        ((511, 600), 1024, (511, 600)),
        ((512, 512), 2048, (512, 512)),
        ((16, 4000), 4096, (16, 4000)),
        ((16, 4000), 2048, (8, 2048)),
        ((1, 5000), 2048, (1, 2048)),
        ((5000, 3), 2048, (2048, 1)),
        ((2500, 2048), 2048, (2048, 1678)),
        ((2048, 2500), 2048, (1678, 2048)),
        ((4280, 3520), 2048, (2048, 1684)),
    ],
)
@pytest.mark.parametrize("boxes", ["none", "border"])
def test_any_matrix_is_drawn_small_ones_enlarged_and_large_ones_reduced(
    source: tuple[int, int], most: int, expected: tuple[int, int], boxes: str
) -> None:
    rows, columns = source
    run = run_of(make_image(), boxes=BOXES[boxes], rows=rows, columns=columns, profile={"sc_rows": most})
    rgb = render(run, grey(rows, columns))
    assert scene.size_of_image(rows, columns, most) == expected
    assert rgb.shape[0] > expected[0]
    assert rgb.shape[1] >= expected[1]


@pytest.mark.parametrize(("rows", "columns"), [(2500, 2048), (2048, 2500), (4280, 3520)])
def test_a_box_on_a_reduced_image_lies_where_the_finding_is(rows: int, columns: int) -> None:
    run = run_of(make_image(), boxes=BOXES["one"], rows=rows, columns=columns)
    region, (high, wide) = run.reading.findings[0].region, scene.size_of_image(rows, columns, 2048)
    rgb = render(run, np.full((rows, columns), 90, np.uint8))
    found = measured(rgb[:high, :wide], palette.COLOURS[0])
    across, down = wide / columns, high / rows
    wanted = [region.left * across, region.top * down, region.right * across, region.bottom * down]
    assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


def test_a_reduced_image_is_the_source_seen_from_further_away() -> None:
    """Its left upper corner is the source's, no row or column is lost, and a fine pattern becomes its mean."""
    pattern = np.full((4096, 4096), 100, np.uint8)
    pattern[::2] = 140
    pattern[:2, :], pattern[-2:, :], pattern[:, :2], pattern[:, -2:] = 0, 50, 200, 250
    rgb = render(run_of(make_image(), rows=4096, columns=4096), pattern)[:2048, :2048]
    assert (rgb[2:-2, 2:-2] == 120).all()
    corners = [int(each) for each in (rgb[0, 9, 0], rgb[-1, 9, 0], rgb[9, 0, 0], rgb[9, -1, 0])]
    assert corners == pytest.approx([0, 50, 200, 250], abs=20)


def test_an_enlarged_box_lies_where_the_finding_is() -> None:
    source, rgb, _ = drawn({"nodule": (0.25, 0.25, 0.5, 0.5)}, 64, 64)
    assert rgb.shape[1] == 512
    assert (rgb[128:256, 128:256] == source[16:32, 16:32].repeat(8, 0).repeat(8, 1)[..., np.newaxis]).all()
    assert (rgb[127, 128:256] == palette.COLOURS[0]).all()


def test_what_is_no_display_picture_is_refused() -> None:
    run = run_of(make_image())
    for wrong in (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"expected rows x columns \(x 3\) of uint8"):
            render(run, wrong)  # type: ignore[arg-type]


def measured(picture: NDArray[np.uint8], colour: drawing.Colour) -> tuple[int, int, int, int]:
    """The edges of the pixels inside of a frame of this colour, measured back from the picture."""
    ink = (picture == colour).all(axis=2)
    sides = []
    for lines in (ink, ink.T):
        counts = lines.sum(axis=1)
        full = np.flatnonzero(counts >= 0.9 * counts.max())  # the rows that the frame's upper and lower lines fill
        gap = int(np.argmax(np.diff(full)))
        sides.append((int(full[gap]) + 1, int(full[gap + 1])))
    (top, bottom), (left, right) = sides
    return left, top, right, bottom


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (1955, 1841), (2500, 2048), (4280, 3520)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, 0.99])
def test_the_drawn_box_is_the_models_region_within_one_pixel(rows: int, columns: int, shift: float) -> None:
    run = run_of(make_image(), boxes=BOXES["one"], rows=rows, columns=columns, profile={"sc_rows": FULL})
    finding = run.reading.findings[0]
    where = finding.region
    region = Region(
        where.sop_instance_uid, where.left + shift, where.top + shift, where.right + shift, where.bottom - shift
    )
    rgb = render(with_findings(run, replace(finding, region=region)), grey(rows, columns))
    found = measured(rgb[:rows, :columns], palette.COLOURS[0])
    wanted = (region.left, region.top, region.right, region.bottom)
    assert all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


def test_colour_stays_colour() -> None:
    source = np.stack([grey(600, 700), grey(600, 700) // 2, 255 - grey(600, 700)], axis=2)
    run = run_of(make_image(), boxes=BOXES["one"], rows=600, columns=700)
    rgb = render(run, source)
    left, top, right, bottom = edges(run.reading.findings[0].region)
    assert (rgb[top:bottom, left:right] == source[top:bottom, left:right]).all()
    assert (rgb[550:600, :600] == source[550:600, :600]).all()


def test_two_findings_of_one_class_are_told_apart(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    panel = drawing._panel
    monkeypatch.setattr(drawing, "_panel", lambda text, *rest: labels.append(text) or panel(text, *rest))
    run = run_of(make_image(), boxes=BOXES["overlapping"], rows=600, columns=600)
    render(run, grey(600, 600))
    assert labels == ["Nodule 0.87", "Pleural effusion 0.61", "Pneumothorax 0.50"]
    labels.clear()
    one, two, three = run.reading.findings
    render(with_findings(run, one, two, replace(three, key=one.key, name=one.name, code=one.code)), grey(600, 600))
    assert labels == ["1: Nodule 0.87", "2: Pleural effusion 0.61", "3: Nodule 0.50"]


def test_two_findings_on_one_place_are_both_seen() -> None:
    place = (0.3, 0.3, 0.5, 0.5)
    _, rgb, _ = drawn({"nodule": place, "effusion": place}, 600, 600)
    top = rgb[179, 180:300]
    colours = palette.Palette(run_of(make_image()).reading).classes
    assert {tuple(map(int, pixel)) for pixel in top} == {colours["nodule"], colours["effusion"]}


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (2500, 2048)])
def test_twelve_findings_keep_their_labels_in_every_language(spy: Spy, rows: int, columns: int, language: str) -> None:
    profile = {"language": language, "sc_rows": FULL}
    run = run_of(make_image(), boxes=BOXES["one"], rows=rows, columns=columns, profile=profile)
    one, chance = run.reading.findings[0], np.random.default_rng(3)
    findings = []
    for number in range(12):
        left, top = chance.uniform(0, 0.85, 2)
        right, bottom = left + chance.uniform(0.03, 0.15), top + chance.uniform(0.03, 0.15)
        key, name, code = CLASSES[number % 3]
        where = Region(one.region.sop_instance_uid, left * columns, top * rows, right * columns, bottom * rows)
        findings.append(replace(one, key=key, name=name, code=code, region=where))
    render(with_findings(run, *findings), grey(rows, columns))
    assert len(spy.labels) == 12
    assert len(spy.table) == 3  # no numbers were needed
    regions = [Rect(*edges(finding.region)) for finding in findings]
    assert all(area(label, region) == 0 for label in spy.labels for region in regions)
    assert all(area(a, b) == 0 for a, b in itertools.combinations(spy.labels, 2))


# --- legend ---------------------------------------------------------------------------------------------------------

LONG = ("Enlarged cardiomediastinum", "A name of a class as long as a manifest allows, sixty-four, m")


@pytest.mark.slow
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
    rgb = render(run, grey(rows, columns))
    assert [" ".join(w.text for w in spy.sentences)] == [" ".join(spy.headline)]
    cells = [cell.text for cell in spy.cells]
    parts = cells.count("score")  # a long table is set in several parts, each with the heading above it
    expected = ["score", "threshold"] * parts + [cell for row in spy.table for cell in row.cells if cell]
    assert cells == expected
    assert 1 <= parts <= 4
    numbers = [finding for finding in run.reading.findings if columns < 20 or rows < 20]  # no room for labels
    assert len(spy.table) == 3 + len(more) + len(numbers)
    for word in spy.words:  # inside of the picture, below the image, and in ink
        left, top, right, bottom = word.rect
        assert left > 0
        assert top > scene.size_of_image(rows, columns, 2048)[0]
        assert right < rgb.shape[1]
        assert bottom < rgb.shape[0]
        assert (rgb[top:bottom, left:right].max(axis=(0, 1)) >= 0.6 * np.array(word.colour)).all()
    lines = sorted(spy.words, key=lambda word: word.rect.top)
    for i, one in enumerate(lines):
        following = itertools.takewhile(lambda other: other.rect.top < one.rect.bottom, lines[i + 1 :])  # noqa: B023
        assert all(area(one.rect, other.rect) == 0 for other in following)


def test_the_warnings_stand_first_and_stand_out(spy: Spy) -> None:
    drawn(BOXES["one"], 2500, 2048)
    warnings = [word.text for word in spy.sentences if word.colour == legend.WARNING]
    assert " ".join(warnings) == " ".join(spy.headline[:2])
    others = spy.sentences[len(warnings) :]
    assert {word.colour for word in others} == {legend.TEXT}
    assert others[0].text == "phantom_cxr 1.2.0"


@pytest.mark.parametrize(("rows", "columns"), [(512, 640), (2500, 2048), (4280, 3520), (512, 3000)])
def test_sentences_and_table_stand_side_by_side_where_both_fit(spy: Spy, rows: int, columns: int) -> None:
    _, rgb, _ = drawn(BOXES["one"], rows, columns)
    assert max(word.rect.right for word in spy.sentences) < min(word.rect.left for word in spy.cells)
    assert abs(spy.sentences[0].rect.top - spy.cells[0].rect.top) < 0.02 * rows
    assert rgb.shape[0] < 1.3 * rows


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (4280, 3520), (3000, 100)])
def test_the_table_stands_below_the_sentences_where_they_do_not_fit_beside_it(
    spy: Spy, rows: int, columns: int
) -> None:
    run = with_classes(run_of(make_image(), rows=rows, columns=columns), LONG[0])
    render(run, grey(rows, columns))
    assert max(word.rect.bottom for word in spy.sentences) < min(word.rect.top for word in spy.cells)


def test_a_swatch_stands_before_what_is_not_absent(spy: Spy) -> None:
    _, rgb, _ = drawn(BOXES["one"], 2500, 2048)
    for row in spy.table:
        (name,) = [cell for cell in spy.cells if cell.text == row.cells[0]]
        before = rgb[name.rect.top : name.rect.bottom, name.rect.left - 30 : name.rect.left - 2]
        assert (before == (row.colour or 0)).all(axis=2).any()
        assert before.any() == (row.colour is not None)


def test_a_narrow_picture_gets_black_columns_on_its_right(spy: Spy) -> None:
    source, rgb, _ = drawn({}, 3000, 100)
    assert scene.size_of_image(3000, 100, FULL) == (3000, 100)
    assert rgb.shape[1] > 200
    assert (rgb[:3000, :100] == source[..., np.newaxis]).all()
    assert not rgb[:3000, 100:].any()


def test_nothing_is_drawn_from_the_image_into_the_legend(spy: Spy) -> None:
    _, plain, run = drawn({}, 600, 800)
    _, marked, _ = drawn({"nodule": (0.5, 0.9, 1, 1)}, 600, 800)
    top = min(word.rect.top for word in spy.words)
    assert (plain[600:top] == marked[600:top]).all()
    beyond = Region(run.reading.sources[0].sop_instance_uid, 700, 500, 900, 700)
    finding = run_of(make_image(), boxes=BOXES["one"]).reading.findings[0]
    findings = (replace(finding, region=beyond),)
    rgb = render(replace(run, reading=replace(run.reading, findings=findings)), grey(600, 800))
    assert rgb.shape[1] == 800
    assert (plain[600:top] == rgb[600:top]).all()


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_legend_says_what_a_person_must_know(spy: Spy) -> None:
    drawn(BOXES["one"], 512, 512)
    assert spy.headline == [
        "AI - not for diagnostic use",
        "Demonstration model, trained on no patient",
        "phantom_cxr 1.2.0",
        "Read 2026-03-01 23:30 UTC+0000",
        "1 finding marked",
    ]
    assert [row.cells for row in spy.table] == [
        ("Nodule", "0.87", "0.50", "present"),
        ("Pleural effusion", "0.12", "0.50", "absent"),
        ("Pneumothorax", "0.12", "0.50", "absent"),
    ]
    assert [row.colour for row in spy.table] == [palette.COLOURS[0], None, None]


def test_the_legend_says_what_was_looked_for_and_what_a_class_stands_for(spy: Spy) -> None:
    image = make_image()
    profile = {"prevalence": (("nodule", 0.005),)}
    run = with_scope(run_of(image, boxes=BOXES["one"], profile=profile))
    (picture,) = sc.build(run, [image], Held(image))
    assert spy.headline[4:] == [
        "1 finding marked",
        "Operating point: balanced",
        "Not looked for: Tuberculosis",
        "Nodule: may be pneumonia or consolidation",
        "Nodule: probability 3.3 %, positive predictive value 2.2 % (against images without findings), "
        "0.75 % (against images with other findings) at a prevalence of 0.5 %",
    ]
    assert not any("Tuberculosis" in cell for row in spy.table for cell in row.cells)
    assert "phantom_cxr 1.2.0, operating point balanced. " in picture.DerivationDescription


def test_classes_that_are_present_have_colours_of_their_own(spy: Spy) -> None:
    run = with_classes(run_of(make_image(), boxes=BOXES["one"]), "A", "B", "C", "D", "E")  # eight, six not absent
    render(run, grey())
    colours = [row.colour for row in spy.table if row.colour is not None]
    assert len(colours) == len(set(colours)) == 6
    assert colours[0] == palette.COLOURS[0]  # as always


def test_no_findings_are_said_in_words(spy: Spy) -> None:
    drawn(BOXES["none"], 512, 512)
    assert spy.headline[-1] == "No findings"


def test_an_image_without_findings_does_not_speak_for_the_study(spy: Spy) -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, boxes=BOXES["one"])
    render(run, grey(), 1)
    assert spy.headline[-2:] == ["Image 2 of 2", "No findings in this image; 1 finding marked in the study"]


def test_the_time_is_in_the_sources_zone(spy: Spy) -> None:
    image = make_image(TimezoneOffsetFromUTC="+0900")
    pictures_of(run_of(image), image)
    assert "Read 2026-03-02 08:30 UTC+0900" in spy.headline


def test_a_product_is_not_called_research(spy: Spy) -> None:
    image = make_image()
    run = run_of(image, profile={"content_qualification": "PRODUCT"})
    (product,) = pictures_of(replace(run, reading=replace(run.reading, model=replace(MODEL, notice=""))), image)
    assert spy.headline[0] == "phantom_cxr 1.2.0"
    assert "diagnostic" not in product.SeriesDescription + product.DerivationDescription


def test_what_was_not_read_is_said_after_the_verdict(spy: Spy) -> None:
    render(run_of(make_image(), passed_over=NOT_READ), grey())
    assert spy.headline[-2:] == [
        "No findings",
        "Not read: 3 images, other objects or series: view LL is not among PA, AP; it is no image",
    ]
    assert spy.sentences[-1].colour == legend.TEXT


def test_long_and_many_reasons_are_shortened(spy: Spy) -> None:
    reasons = ["a" * 60, "long " * 20, "c", "d"]
    run = run_of(make_image(), passed_over=tuple(PassedOver(str(i), r) for i, r in enumerate(reasons)))
    render(run, grey())
    assert spy.headline[-1].split(": ")[2].split("; ") == [
        "a" * 60,
        ("long " * 11 + "lo..."),
        "c",
        "other reasons in the report",
    ]
    render(run_of(make_image(), passed_over=NOT_READ[:1]), grey())
    assert spy.headline[-1].startswith("Not read: 1 image, other object or series: view")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("解析していないもの：（シリーズ）、画像", ["解析していない", "もの：", "（シリーズ）、", "画像"]),
        ("분석하지 않음: 영상", ["분석하지 않음:", "영상"]),
        ("Read by it", ["Read by it"]),
        ("シリーズスライスフレーム", ["シリーズスライ", "スフレーム"]),
        ("", []),
    ],
)
def test_lines_are_broken_where_each_language_breaks_them(text: str, lines: list[str]) -> None:
    assert legend.wrap(text, 20, 7.4 * 20) == lines


def test_a_word_wider_than_the_picture_goes_on_in_the_next_line(spy: Spy) -> None:
    run = run_of(make_image())
    model = replace(MODEL, name="m" * 300)
    rgb = render(replace(run, reading=replace(run.reading, model=model)), grey(512, 512))
    assert "m" * 300 in "".join(word.text for word in spy.sentences)
    assert max(word.rect.right for word in spy.words) < rgb.shape[1] == 512


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_every_language_says_score_and_threshold_in_its_own_words(spy: Spy, language: str) -> None:
    run = run_of(make_image(), boxes=BOXES["one"], profile={"language": language})
    render(run, grey())
    say = run.words
    assert [cell.text for cell in spy.cells[:3]] == [say.score, say.threshold, verdict.finding_name(run, CLASS)]
    assert spy.headline[0] == say.not_for_diagnosis
    assert spy.sentences[0].text == say.not_for_diagnosis


def test_the_report_that_is_replaced_is_named_in_the_sources_zone(spy: Spy) -> None:
    image = make_image(TimezoneOffsetFromUTC="+0900")
    before = Predecessor("1.2", "1.3", "1.4", CREATED.replace(hour=4))
    pictures_of(run_of(image, predecessor=before), image)
    assert spy.headline[4] == "Replaces the report of 2026-03-01 13:30 UTC+0900"
    pictures_of(run_of(image), image)
    assert not any("Replaces" in line for line in spy.headline)


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_what_could_not_be_read_warns_and_leaves_no_negative_answer(spy: Spy, language: str) -> None:
    run = run_of(make_image(), passed_over=NOT_READ[1:2], profile={"language": language})
    classes = tuple(replace(each, presence=Presence.UNDETERMINED) for each in run.reading.classes)
    failed = (PassedOver("1.9", "it has no pixels"),)
    render(replace(run, reading=replace(run.reading, classes=classes, failed=failed)), grey())
    say = run.words
    warnings = [each.text for each in spy.legends[-1].sentences if each.emphasized]
    assert warnings == [
        *run.warnings,
        say.unreadable(1, say.reason("it has no pixels")),
        say.no_negative_result,
    ]
    assert spy.headline[-1] == say.not_read(1, say.reason("it is no image"))
    assert say.no_findings not in spy.headline


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_a_class_that_is_not_assessed_warns_and_shows_no_score(spy: Spy, language: str) -> None:
    run = run_of(make_image(), profile={"language": language})
    silent = replace(
        run.reading.classes[-1], presence=Presence.UNDETERMINED, score=0.97, not_assessed="too few examples"
    )
    classes = (*run.reading.classes[:-1], silent)
    render(replace(run, reading=replace(run.reading, classes=classes)), grey())
    say, legend = run.words, spy.legends[-1]
    name = say.name(silent.code, silent.name)
    assert [each.text for each in legend.sentences if each.emphasized] == [*run.warnings, say.not_assessed([name])]
    assert legend.rows[-1] == Row((name, "-", "-", say.not_assessed_class), None)
    assert say.no_findings in spy.headline


def test_names_that_the_font_lacks_do_not_stop_the_picture() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    findings = tuple(replace(finding, name="결절 \U0001f4a5" * 30) for finding in run.reading.findings)
    assert render(replace(run, reading=replace(run.reading, findings=findings)), grey(600, 600)).any()


# --- the object -----------------------------------------------------------------------------------------------------


def build(image: Dataset | None = None, **attributes: object) -> Dataset:
    image = image or make_image(**attributes)
    (picture,) = pictures_of(run_of(image, boxes=BOXES["one"]), image)
    return picture


@pytest.mark.parametrize(
    ("pictures", "syntax", "photometric"),
    [
        ("uncompressed", ExplicitVRLittleEndian, "RGB"),
        ("jpeg-ls", JPEGLSLossless, "RGB"),
        ("jpeg", JPEGBaseline8Bit, "YBR_FULL_422"),
    ],
)
def test_it_is_a_single_frame_colour_secondary_capture(pictures: Pictures, syntax: str, photometric: str) -> None:
    image = make_image(Rows=600, Columns=700)
    run = run_of(image, boxes=SPOTS, rows=600, columns=700)
    run = replace(run, profile=replace(run.profile, pictures=pictures))
    (picture,) = pictures_of(run, image, picture=grey(600, 700))
    assert picture.file_meta.TransferSyntaxUID == syntax
    assert picture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (picture.Modality, picture.ConversionType, picture.BurnedInAnnotation) == ("OT", "WSD", "YES")
    assert picture.ImageType == ["DERIVED", "SECONDARY"]
    assert (picture.Rows, picture.Columns, picture.SamplesPerPixel) == (picture.pixel_array.shape[0], 700, 3)
    assert picture.Rows > 600
    assert (picture.PhotometricInterpretation, picture.PlanarConfiguration) == (photometric, 0)
    assert (picture.BitsAllocated, picture.BitsStored, picture.HighBit, picture.PixelRepresentation) == (8, 8, 7, 0)
    apart = np.abs(picture.pixel_array.astype(int) - render(run, grey(600, 700)))
    assert apart.max() == 0 if pictures != "jpeg" else 0 < apart.mean() < 2
    assert ("LossyImageCompression" in picture) == (pictures == "jpeg")
    (reference,) = picture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == image.SOPClassUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert picture.DerivationDescription.endswith(
        "AI - not for diagnostic use. Demonstration model, trained on no patient"
    )
    assert "burned in and a legend below the image." in picture.DerivationDescription
    assert "enlarged" not in picture.DerivationDescription
    absent = "WindowCenter WindowWidth FrameOfReferenceUID NumberOfFrames PixelSpacing"
    assert [keyword for keyword in absent.split(" ") if keyword in picture] == []
    assert (picture.DateOfSecondaryCapture, picture.TimeOfSecondaryCapture) == ("20260301", "233015.123456")


def test_an_odd_number_of_pixels_is_padded() -> None:
    image, odd = make_image(), 0
    for rows in (513, 514):  # the legend's own rows make one of them odd
        run = run_of(image, profile={"pictures": "uncompressed"})
        (picture,) = sc.build(run, [image], Held(image, picture=grey(rows, 515)))
        odd += picture.Rows * picture.Columns % 2
        assert written(picture).pixel_array.shape == (picture.Rows, 515, 3)
        assert len(to_bytes(picture)) % 2 == 0
    assert odd == 1


def test_enlarging_is_said() -> None:
    picture = build()
    assert picture.Columns == 600
    assert picture.Rows > 600
    assert "enlarged 6 times" in picture.DerivationDescription


def test_reducing_is_said() -> None:
    image = make_image(PatientOrientation=["L", "F"], PixelSpacing=[0.1, 0.1])
    (picture,) = pictures_of(run_of(image), image, picture=grey(2500, 2048))
    assert "the image reduced from 2500 x 2048 to 2048 x 1678 pixels" in picture.DerivationDescription
    assert (picture.Columns, picture.PatientOrientation) == (1678, ["L", "F"])
    assert "PixelSpacing" not in picture


def test_each_picture_of_a_reading_is_an_instance_of_one_series() -> None:
    images = [make_image(), make_image()]
    run = run_of(*images)
    pictures = pictures_of(run, *images)
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


def test_a_jpeg_says_what_it_lost() -> None:
    picture = build()
    (frame,) = pydicom.encaps.generate_frames(picture.PixelData, number_of_frames=1)
    ratio = picture.Rows * picture.Columns * 3 / len(frame)
    assert (picture.LossyImageCompression, picture.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert picture.LossyImageCompressionRatio == pytest.approx(ratio, rel=0.01)
    assert frame[:4] == b"\xff\xd8\xff\xe0"  # with JFIF, which says that it is YCbCr
    at = frame.index(b"\xff\xc0")  # SOF0: baseline
    samplings = [frame[at + 11 + 3 * component] for component in range(3)]
    assert (frame[at + 9], samplings) == (3, [0x11] * 3)  # 4:4:4


@pytest.mark.parametrize(
    ("pictures", "ratio", "method", "expected"),
    [
        ("uncompressed", "10.5", "ISO_10918_1", ["ISO_10918_1"]),
        ("uncompressed", "10.5\\2", "ISO_10918_1\\ISO_15444_1 ", ["ISO_10918_1", "ISO_15444_1"]),
        ("uncompressed", "10.5", "iso \x1b", []),
        ("jpeg-ls", "10.5", "", []),
        ("jpeg", "10.5", "ISO_15444_1", ["ISO_15444_1", "ISO_10918_1"]),
        ("jpeg", "many", "ISO_15444_1", ["ISO_10918_1"]),
        ("jpeg", "10.5", "ISO_15444_1\\ISO_15444_1", ["ISO_10918_1"]),
    ],
)
def test_lossy_compression_is_not_forgotten(pictures: str, ratio: str, method: str, expected: list[str]) -> None:
    """PS3.3 C.7.6.1.1.5: a value for each compression, in their order; a source's own only where they are certain."""
    image = with_raw(
        make_image(LossyImageCompression="01"),
        LossyImageCompressionRatio=ratio.encode() + b" " * (len(ratio) % 2),
        LossyImageCompressionMethod=method.encode() + b" " * (len(method) % 2),
    )
    (picture,) = pictures_of(run_of(image, profile={"pictures": pictures}), image)
    methods, ratios = (picture.get(f"LossyImageCompression{word}", "") for word in ("Method", "Ratio"))
    assert picture.LossyImageCompression == "01"
    assert ([methods] if isinstance(methods, str) else list(methods)) == (expected or [""])
    known = [10.5, 2.0][: len(expected) - (pictures == "jpeg")]
    given = [ratios] if len(expected) <= 1 else list(ratios)
    assert given[: len(known)] == known
    assert len(given) == max(1, len(expected))


def test_without_lossy_compression_nothing_says_so() -> None:
    image = make_image(LossyImageCompression="00")
    for pictures in ("uncompressed", "jpeg-ls"):
        (picture,) = pictures_of(run_of(image, profile={"pictures": pictures}), image)
        assert "LossyImageCompression" not in picture


def test_pixels_that_lost_something_never_share_a_uid_with_others() -> None:
    image = make_image()
    uids = {
        built.SOPInstanceUID
        for pictures in ("uncompressed", "jpeg-ls", "jpeg")
        for built in pictures_of(run_of(image, profile={"pictures": pictures}), image)
    }
    assert len(uids) == 3


def test_spacing_that_is_no_number_is_passed_over() -> None:
    image = with_raw(make_image(), PixelSpacing=b"wide\\narrow ", ImagerPixelSpacing=b"0.2\\0.1 ")
    assert build(image).PixelAspectRatio == [2, 1]


# --- failure --------------------------------------------------------------------------------------------------------


class Unreadable(Held):
    """Images whose pixels nobody can read."""

    def pixels(self, _ref: object, _frame: int) -> NDArray[np.uint8]:
        raise ReadingError("the pixels cannot be decoded")


@pytest.mark.parametrize("language", ["en", "ko", "ja"])
def test_a_failure_is_said_large_and_is_no_answer(spy: Spy, language: str) -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, profile={"language": language}, predecessor=Predecessor("1.2", "1.3", "1.4", CREATED))
    say, reason = run.words, "the reading process died"
    run = replace(run, reading=replace(run.reading, classes=(), failure=reason))
    (card,) = (written(each) for each in sc.build(run, images, Unreadable(*images)))
    above, below = spy.legends
    assert [each.text for each in above.sentences] == [say.unanswered(reason, tried=True), say.no_negative_result]
    assert spy.layouts[0].written[0].rect.bottom - spy.layouts[0].written[0].rect.top > 60
    said = [each.text for each in (*above.sentences, *below.sentences)]
    assert {*run.warnings, "phantom_cxr 1.2.0", say.read_at("2026-03-01 23:30 UTC+0000")} <= set(said)
    assert say.replaces("2026-03-01 23:30 UTC+0000") in said
    assert (above.rows, below.rows) == ((), ())
    words = " ".join(said)
    assert say.no_findings not in words
    assert not any(
        verdict.finding_name(run, ClassResult(*each, 0.1, 0.5, Presence.ABSENT)) in words for each in CLASSES
    )
    assert (card.Columns, card.Rows) == (1024, 1024)
    assert "failed" in card.DerivationDescription
    assert [item.ReferencedSOPInstanceUID for item in card.SourceImageSequence] == [i.SOPInstanceUID for i in images]


def test_the_card_of_a_failure_leaves_the_uid_of_the_image_to_the_report(spy: Spy) -> None:
    image = make_image()
    run = run_of(image)
    reason = f"instance {image.SOPInstanceUID}: the pixels cannot be decoded"
    run = replace(run, reading=replace(run.reading, classes=(), failure=reason))
    (_card,) = sc.build(run, [image], Unreadable(image))
    assert spy.legends[0].sentences[0].text == "AI reading failed: the pixels cannot be decoded"


def test_a_long_reason_leaves_room_for_what_matters(spy: Spy) -> None:
    image = make_image()
    run = run_of(image)
    run = replace(run, reading=replace(run.reading, classes=(), failure="a reason that has no end " * 200))
    (card,) = sc.build(run, [image], Unreadable(image))
    assert card.Rows < 2048
    assert spy.legends[0].sentences[0].text.endswith("...")
    assert spy.legends[0].sentences[1].text == run.words.no_negative_result


def test_an_image_that_cannot_be_displayed_costs_no_result(spy: Spy) -> None:
    image = make_image(Rows=600, Columns=800)
    run = run_of(image, boxes=BOXES["one"], rows=600, columns=800)
    (picture,) = (written(each) for each in sc.build(run, [image], Unreadable(image)))
    assert "The image itself cannot be displayed" in spy.headline
    assert picture.Columns == 800
    left, top, right, bottom = edges(run.reading.findings[0].region)
    assert picture.pixel_array[top + 8 : bottom - 8, left + 8 : right - 8].max() <= 1  # a JPEG's black
    edge = picture.pixel_array[top - 1, left:right].astype(int)
    assert np.abs(edge - palette.COLOURS[0]).max() < 30


def test_a_page_has_the_picture_without_the_legend() -> None:
    images = [make_image(), make_image()]
    run = run_of(*images, boxes=BOXES["one"], rows=600, columns=700)
    elsewhere = replace(run.reading.findings[0], score=0.99)
    elsewhere = replace(elsewhere, region=replace(elsewhere.region, sop_instance_uid=images[1].SOPInstanceUID))
    both = with_findings(run, *run.reading.findings, elsewhere)
    held = Held(*images, picture=grey(600, 700))
    page = sc.page_picture(both, images, held)
    assert page is not None
    assert (page[:600] == render(both, grey(600, 700), 1)[:600, :700]).all()  # the surest finding's image
    assert page.shape[0] > 600  # and below it which of the images it is
    plain = sc.page_picture(run_of(*images), images, held)
    assert plain is not None
    assert (plain[:600] == grey(600, 700)[..., np.newaxis]).all()
    assert sc.page_picture(replace(run, reading=replace(run.reading, failure="x")), images, held) is None


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.mark.programs
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    ("pictures", "tool"), [("uncompressed", "dcm2pnm"), ("jpeg", "dcmj2pnm"), ("jpeg-ls", "dcml2pnm")]
)
def test_other_programs_take_the_picture_and_see_what_was_drawn(
    name: str, pictures: Pictures, tool: str, tmp_path: Path
) -> None:
    header, shape = header_of(SOURCES[name]), header_of(SOURCES[name])
    run = run_of(header, boxes=BOXES["border"], rows=shape.Rows, columns=shape.Columns, passed_over=NOT_READ)
    run = replace(run, profile=replace(run.profile, pictures=pictures))
    pixels = grey(shape.Rows, shape.Columns)
    file, ppm = tmp_path / "sc.dcm", tmp_path / "sc.ppm"
    (picture,) = sc.build(run, [header], Held(header, picture=pixels))
    file.write_bytes(to_bytes(picture))
    run_tool(tool, file, ppm)
    # The run's own zone differs from the source's: compare what does not show the time.
    seen, made = np.asarray(Image.open(ppm)), render(run, pixels)
    assert seen.shape == made.shape
    if pictures == "jpeg":
        assert np.median(np.abs(seen.astype(int) - made)) <= 2
        assert np.abs(seen.astype(int) - pydicom.dcmread(file).pixel_array).max() <= 1
    else:
        assert (seen == made).all(axis=2).mean() > 0.99
    done = run_tool("dciodvfy", file, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
