"""What the radiologist sees: results in a PACS and on the screen of a viewer that nobody on this project wrote."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from ai.phantom import dicom, draw
from dicom_node.node import Node
from dicom_node.operations import study_status
from dicom_node.results.objects import seg
from dicom_node.results.pictures.palette import Palette
from tests.results.objects.test_seg import run_with, segment
from tests.results.test_common import written
from tests.support import stacks
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, running_orthanc, send
from tests.support.viewer import VERSIONS, Box, Dwv, Ohif, Placement, browsing, viewing, viewing_by_dwv
from tests.support.waiting import wait_until

# A browser that draws without a GPU, on a machine that may be busy.
pytestmark = [pytest.mark.programs, pytest.mark.timeout(480)]


@dataclass
class Delivered:
    """A radiograph that is in the PACS, with what the node sent there."""

    image: Any
    drawn: draw.Phantom
    reading: dict[str, Any]
    sr: Any
    sc: Any


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("pacs") / "orthanc", "libOrthancDicomWeb") as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module", params=VERSIONS)
def ohif(browser: Browser, pacs: Orthanc, request: pytest.FixtureRequest) -> Iterator[Ohif]:
    with viewing(browser, pacs.http, request.param) as ohif:
        yield ohif


@pytest.fixture(scope="module")
def dwv(browser: Browser, pacs: Orthanc) -> Iterator[Dwv]:
    with viewing_by_dwv(browser, pacs.http) as dwv:
        yield dwv


@pytest.fixture(scope="module")
def delivered(pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    drawn = draw.draw_phantom(20260, findings=("nodule", "pneumothorax"), view="PA")
    uids = {name: generate_uid(None) for name in ("study_uid", "series_uid", "sop_uid")}
    image = dicom.to_dicom(drawn, seed=20260, now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), **uids)
    study = image.StudyInstanceUID
    node = Node(settings_for(tmp_path_factory.mktemp("node"), pacs_port=pacs.dicom))
    node.start()
    try:
        assert send(pacs.dicom, image, called="PACS") == send(node.port, image) == [0x0000]

        def look() -> dict[str, Any] | None:
            assert node.index is not None
            found = study_status.detail(node.index, study)
            return found if found is not None and found["state"] in {"delivered", "failed"} else None

        found = wait_until(look, "the study to end", 240)
        assert found["state"] == "delivered", found["reason"]
    finally:
        node.stop()
    (reading,) = found["readings"]
    roles = {one["role"]: one["instance"] for one in reversed(reading["results"])}  # the first of each
    held = pacs.objects(study)
    return Delivered(image, drawn, reading, held[roles["sr"]], held[roles["sc"]])


@dataclass
class Outlined:
    """A label map of two segments that is in the PACS, with the slices on which it lies."""

    sources: list[Any]
    labels: Any
    masks: list[NDArray[np.bool_]]
    colours: list[tuple[int, int, int]]
    """Those of the segments in the node's pictures."""


@pytest.fixture(scope="module")
def outlined(pacs: Orthanc) -> Outlined:
    uids = {name: generate_uid(None) for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    grey = np.full((3, 64, 64), 1064, np.uint16)  # soft tissue
    window = {"WindowCenter": 40, "WindowWidth": 400}
    sources = stacks.ct_images(stored=grey, count=3, PixelSpacing=[1, 1], **window, **uids)  # type: ignore[arg-type]
    masks = [np.zeros(grey.shape, bool), np.zeros(grey.shape, bool)]
    masks[0][:, 10:28, 6:26] = masks[1][:, 36:58, 34:58] = True
    run = run_with(sources, [segment(masks[0], key="a"), segment(masks[1], key="b")], profile={"seg": "labelmap"})
    (labels,) = map(written, seg.build(run, sources))
    assert set(send(pacs.dicom, *sources, called="PACS")) == {0x0000}
    pacs.put(labels)  # as shipped, Orthanc refuses label maps by DIMSE
    palette = Palette(run.reading)
    colours = [palette.segment(each)[0] for each in run.reading.segmentations[0].segments]
    return Outlined(sources, labels, masks, colours)


def walk(item: Dataset) -> Iterator[Dataset]:
    """The content items of a report."""
    yield item
    for child in item.get("ContentSequence", []):
        yield from walk(child)


def regions(sr: Dataset) -> list[Box]:
    """The regions that a report tells, from the top down."""
    found = set()
    for item in walk(sr):
        if item.get("ValueType") == "SCOORD":
            assert item.GraphicType == "POLYLINE"
            points = np.reshape(item.GraphicData, (-1, 2))
            found.add(Box(*map(float, (*points.min(axis=0), *points.max(axis=0)))))
    return sorted(found, key=lambda one: one.top)


def names(sr: Dataset) -> set[str]:
    """What a report says that it found in its regions: (121071, DCM, "Finding")."""
    return {
        str(item.ConceptCodeSequence[0].CodeMeaning)
        for item in walk(sr)
        if item.get("ValueType") == "CODE" and item.ConceptNameCodeSequence[0].CodeValue == "121071"
    }


def labels(sr: Dataset) -> set[str]:
    """What the report calls each finding for the eye, such as "AI: Nodule, left, 0.83"."""
    return {
        str(item.TextValue)
        for item in walk(sr)
        if item.get("ValueType") == "TEXT" and str(item.TextValue).startswith("AI: ")
    }


def test_the_report_in_the_pacs_tells_where_the_findings_are(delivered: Delivered) -> None:
    boxes = regions(delivered.sr)
    read = [one["region"] for one in delivered.reading["findings"]]
    told = sorted((Box(one["left"], one["top"], one["right"], one["bottom"]) for one in read), key=lambda one: one.top)
    assert len(boxes) == len(told) == len(names(delivered.sr)) == 2
    assert max(box.distance(one) for box, one in zip(boxes, told, strict=True)) < 0.01
    for one in delivered.drawn.findings:
        x, y = (one.left + one.right) / 2, (one.top + one.bottom) / 2
        assert any(box.left < x < box.right and box.top < y < box.bottom for box in boxes)


def test_ohif_draws_each_region_where_the_report_says(ohif: Ohif, delivered: Delivered, tmp_path: Path) -> None:
    image, sr = delivered.image, delivered.sr
    with ohif.study(image.StudyInstanceUID) as study:
        study.wait_for_image(image)
        frame = study.frame()
        placement = Placement.fitted(frame, image.Rows, image.Columns)
        page = np.asarray(study.drawn(tmp_path / "image.png").convert("L"))
        tolerance = max(1.5, placement.scale)  # in screen pixels, or one pixel of the image where that is larger
        assert placement.offset(image.pixel_array, page) <= tolerance

        study.open(sr)
        study.answer("Yes")  # "Do you want to continue tracking measurements for this study?"
        expected = [placement.box(one) for one in regions(sr)]
        rectangles = study.rectangles(len(expected))
        study.screenshot(tmp_path / "report.png")
        assert study.frame() == frame
        for rectangle, wanted in zip(rectangles, expected, strict=True):
            assert rectangle.distance(wanted) <= tolerance, (rectangle, wanted)

        measurements = study.open_measurements()
        assert len(labels(sr)) == len(expected)
        for label in labels(sr):
            measurements.get_by_text(label, exact=True).first.wait_for()
        study.screenshot(tmp_path / "measurements.png")
        assert not study.errors


def test_the_picture_is_a_jpeg_that_the_pacs_serves_as_a_frame(pacs: Orthanc, delivered: Delivered) -> None:
    """By WADO-RS (PS3.18 10.4): as JPEG it is the node's own, uncompressed it has the same pixels."""
    sc = delivered.sc
    assert sc.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    (own,) = generate_frames(sc.PixelData, number_of_frames=1)
    frame = (
        f"/dicom-web/studies/{sc.StudyInstanceUID}/series/{sc.SeriesInstanceUID}/instances/{sc.SOPInstanceUID}/frames/1"
    )

    def served(kind: str, syntax: str) -> bytes:
        accept = f'multipart/related; type="{kind}"; transfer-syntax={syntax}'
        request = urllib.request.Request(f"http://127.0.0.1:{pacs.http}{frame}", headers={"Accept": accept})
        with urllib.request.urlopen(request) as answer:
            body: bytes = answer.read()
        return body[body.index(b"\r\n\r\n") + 4 :]

    assert served("image/jpeg", JPEGBaseline8Bit).startswith(own.rstrip(b"\0"))
    plain = served("application/octet-stream", ExplicitVRLittleEndian)
    pixels = np.frombuffer(plain[: sc.Rows * sc.Columns * 3], np.uint8).reshape(sc.Rows, sc.Columns, 3)
    assert np.abs(pixels.astype(int) - sc.pixel_array).max() <= 1  # T.81 leaves a decoder the last bit


def test_ohif_shows_the_secondary_capture_in_its_colours(ohif: Ohif, delivered: Delivered, tmp_path: Path) -> None:
    sc = delivered.sc
    picture = sc.pixel_array
    with ohif.study(sc.StudyInstanceUID) as study:
        study.wait_for_thumbnail(sc)
        study.open(sc)
        study.wait_for_image(sc)
        placement = Placement.fitted(study.frame(), sc.Rows, sc.Columns)
        page = np.asarray(study.drawn(tmp_path / "picture.png").convert("RGB"))
        assert_in_colours(picture, page, placement)
        assert not study.errors


def test_ohif_draws_the_segments_of_a_label_map_in_their_own_colours(
    ohif: Ohif, outlined: Outlined, tmp_path: Path
) -> None:
    def hues(page: NDArray[Any]) -> NDArray[np.float64]:
        """The direction of each colour away from grey."""
        away = page - page.mean(axis=-1, keepdims=True)
        return np.asarray(away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1))

    with ohif.study(outlined.labels.StudyInstanceUID) as study:
        placement = Placement.fitted(study.frame(), 64, 64)
        study.open(outlined.labels)  # it is drawn while OHIF still asks "Do you want to open this Segmentation?"

        def look() -> list[NDArray[np.float64]]:
            page = np.asarray(study.screenshot(tmp_path / "labels.png").convert("RGB"), float)
            return [
                hues(np.median(page[placement.laid(each[0], page.shape) > 0.99], axis=0)) for each in outlined.masks
            ]

        wait_until(lambda: np.linalg.norm(look(), axis=-1).max() > 0.9, "OHIF to draw the segments", 60)
        alike = np.array(look()) @ hues(np.array(outlined.colours, float)).T
        assert alike.diagonal().min() > 0.95, alike
        assert not study.errors


def test_dwv_shows_the_secondary_capture_in_its_colours(dwv: Dwv, delivered: Delivered, tmp_path: Path) -> None:
    sc = delivered.sc
    with dwv.object(sc) as opened:
        placement = Placement.fitted(opened.frame(), sc.Rows, sc.Columns)
        page = np.asarray(opened.drawn(tmp_path / "picture.png").convert("RGB"))
        assert_in_colours(sc.pixel_array, page, placement)
        assert any("jpegbaseline" in url for url in opened.asked)  # it had the JPEG, and decoded it
        assert not opened.errors


def test_dwv_shows_the_radiograph(dwv: Dwv, delivered: Delivered, tmp_path: Path) -> None:
    image = delivered.image
    with dwv.object(image) as opened:
        placement = Placement.fitted(opened.frame(), image.Rows, image.Columns)
        page = np.asarray(opened.drawn(tmp_path / "image.png").convert("L"))
        assert placement.offset(image.pixel_array, page) <= max(1.5, placement.scale)
        assert not opened.errors


def assert_in_colours(picture: NDArray[np.uint8], page: NDArray[np.uint8], placement: Placement) -> None:
    """The page shows the picture in its place, and what is coloured in its colours."""
    assert placement.offset(picture[..., 1], page[..., 1]) <= max(1.5, placement.scale)
    wanted = np.stack([placement.laid(picture[..., channel], page.shape) for channel in range(3)], axis=-1)
    coloured = np.ptp(wanted, axis=-1) > 64  # the boxes, their names and the legend
    assert np.median(np.abs(page - wanted)[coloured]) < 8  # most pixels: buttons of a viewer lie over some
