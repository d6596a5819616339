"""The marks lie where the model saw the findings, say what they are, and leave the reader's picture as it was."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileDataset

import tests.results.test_common as common_tests
from ai.contract import Region
from ai.images import radiograph
from dicom_node.results import Run, encode
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import gsps, sr
from dicom_node.results.uids import tracking_uid
from tests.results.test_common import BOXES, MODEL, SOURCES, Held, header_of, run_of, with_raw, written
from tests.support.programs import run_tool
from tests.support.samples import make_image

ZONE = {"TimezoneOffsetFromUTC": "+0900"}  # dcmpschk 3.6.7 refuses an offset of +0000, which PS3.5 6.2 allows


def states(*headers: Dataset, boxes: str = "overlapping", rows: int = 64, columns: int = 64, **changes: Any) -> Any:
    run = run_of(*headers, boxes=BOXES[boxes], rows=rows, columns=columns, **changes)
    return [written(each) for each in gsps.build(run, headers)]


def only(*headers: Dataset, **changes: Any) -> Dataset:
    (state,) = states(*headers, **changes)
    return state


def on(run: Run, *regions: Region) -> Run:
    """The run with its findings moved to other regions, one each."""
    findings = tuple(replace(f, region=r) for f, r in zip(run.reading.findings, regions, strict=True))
    return replace(run, reading=replace(run.reading, findings=findings))


def texts(item: Dataset) -> list[str]:
    return [text.UnformattedTextValue for text in item.TextObjectSequence]


def rectangle(graphic: Dataset) -> tuple[float, float, float, float]:
    left, top, right, _, _, bottom = graphic.GraphicData[:6]
    return left, top, right, bottom


def text_box(text: Dataset) -> tuple[float, float, float, float]:
    return (*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    return max(0.0, across) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))


# --- what it draws --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("boxes", ["one", "overlapping", "border"])
def test_boxes_and_tracking_are_the_reports(name: str, boxes: str) -> None:
    header, shape = header_of(SOURCES[name]), header_of(SOURCES[name])
    run = run_of(header, boxes=BOXES[boxes], rows=shape.Rows, columns=shape.Columns)
    (state,) = gsps.build(run, [header])
    report = written(sr.build(run, [header_of(SOURCES[name])]))
    told = {}
    for item in _walk(report):
        if "UID" in item and item.ConceptNameCodeSequence[0].CodeValue == "112040":
            uid = item.UID
        if item.get("ValueType") == "SCOORD":
            told[uid] = list(item.GraphicData)
    (annotation,) = written(state).GraphicAnnotationSequence
    assert annotation.GraphicLayer == "AI_RESULT"
    drawn = {g.TrackingUID: list(g.GraphicData) for g in annotation.GraphicObjectSequence}
    assert drawn == told
    for graphic in annotation.GraphicObjectSequence:
        assert (graphic.GraphicType, graphic.GraphicAnnotationUnits, graphic.NumberOfGraphicPoints) == (
            "POLYLINE",
            "PIXEL",
            5,
        )
        assert graphic.TrackingID in {item.get("TextValue") for item in _walk(report)}


def _walk(dataset: Dataset) -> Any:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _walk(item)


@pytest.mark.parametrize(
    ("language", "label", "warning"),
    [
        ("en", "Pleural effusion 0.61", "AI - not for diagnostic use"),
        ("ko", "흉수 0.61", "AI - 진단 목적으로 사용할 수 없음"),
        ("ja", "胸水 0.61", "AI - 診断目的には使用できません"),
    ],
)
def test_labels_and_warnings_are_in_the_runs_language(language: str, label: str, warning: str) -> None:
    (annotation,) = only(make_image(), profile={"language": language}).GraphicAnnotationSequence
    assert label in texts(annotation)
    assert warning in texts(annotation)
    assert len(texts(annotation)) == 5  # three findings, not for diagnosis, and the model's notice


def test_a_released_model_draws_no_warning() -> None:
    run = run_of(make := make_image(), boxes=BOXES["one"], profile={"content_qualification": "PRODUCT"})
    run = replace(run, reading=replace(run.reading, model=replace(MODEL, notice="")))
    (state,) = gsps.build(run, [make])
    assert texts(written(state).GraphicAnnotationSequence[0]) == ["Nodule 0.87"]


@pytest.mark.parametrize("boxes", ["one", "overlapping", "border"])
@pytest.mark.parametrize("shape", [(512, 512), (2000, 400), (300, 1500)])
def test_no_text_covers_a_box_or_another_text_or_leaves_the_image(boxes: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    state = only(make_image(Rows=rows, Columns=columns), boxes=boxes, rows=rows, columns=columns)
    (annotation,) = state.GraphicAnnotationSequence
    places = [text_box(text) for text in annotation.TextObjectSequence]
    drawn = [rectangle(graphic) for graphic in annotation.GraphicObjectSequence]
    for number, place in enumerate(places):
        assert 0 <= place[0] < place[2] <= columns
        assert 0 <= place[1] < place[3] <= rows
        assert all(overlap(place, other) == 0 for other in drawn)
        assert all(overlap(place, other) < 1e-6 for other in places[:number])


def test_twelve_findings_on_a_thumbnail_are_drawn() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    one = run.reading.findings[0]
    run = replace(run, reading=replace(run.reading, findings=(replace(one, name="long name " * 5),) * 12))
    regions = [Region(image.SOPInstanceUID, 5.0 * n, 2.0 * n, 5.0 * n + 9, 2.0 * n + 30) for n in range(12)]
    (state,) = gsps.build(on(run, *regions), [image])
    (annotation,) = written(state).GraphicAnnotationSequence
    assert len(annotation.GraphicObjectSequence) == 12
    assert all(0 <= edge <= 64 for text in annotation.TextObjectSequence for edge in text_box(text))


def test_a_box_beyond_the_image_ends_at_its_border() -> None:
    image = make_image()
    run = on(run_of(image, boxes=BOXES["one"]), Region(image.SOPInstanceUID, -3, -2.5, 70, 65))
    (state,) = gsps.build(run, [image])
    (graphic,) = written(state).GraphicAnnotationSequence[0].GraphicObjectSequence
    assert graphic.GraphicData == [0, 0, 64, 0, 64, 64, 0, 64, 0, 0]


def test_nothing_to_draw_makes_no_state() -> None:
    image = make_image()
    assert states(image, boxes="none") == []
    run = run_of(image, boxes=BOXES["one"])
    assert gsps.build(replace(run, reading=replace(run.reading, findings=(), failure="broken")), [image]) == []


@pytest.mark.parametrize(
    "colour",
    [{"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, {"PhotometricInterpretation": "PALETTE COLOR"}],
)
def test_colours_get_no_grey_state(colour: dict[str, Any]) -> None:
    assert states(make_image(**colour)) == []


# --- what it leaves as it is ----------------------------------------------------------------------------------------


def table(keyword: str, first: int, entries: NDArray[np.uint16], bits: int, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) & 0xFFFF, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    item.LUTExplanation = "the device's own"
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return item


CURVE = np.round(4095 * np.linspace(0, 1, 4096) ** 0.5).astype(np.uint16)
SHOWN: dict[str, dict[str, Any]] = {
    "window": {"WindowCenter": 1500, "WindowWidth": 1800},
    "mono1": {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1500, "WindowWidth": 1800},
    "mono1 inverse": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    "mono2 shown inverse": {"PresentationLUTShape": "INVERSE", "WindowCenter": 2000, "WindowWidth": 1800},
    "rescale": {"RescaleSlope": "0.5", "RescaleIntercept": "-1024", "WindowCenter": -200, "WindowWidth": 700},
    "several windows": {"WindowCenter": [1500, 300], "WindowWidth": [900, 4096]},
    "voi table": {"VOILUTSequence": [table("VOILUTSequence", 0, CURVE, 12)]},
    "voi table mono1": {
        "VOILUTSequence": [table("VOILUTSequence", 100, CURVE[:3000], 12)],
        "PhotometricInterpretation": "MONOCHROME1",
    },
    "two voi tables": {
        "VOILUTSequence": [table("VOILUTSequence", 0, CURVE, 12), table("VOILUTSequence", 0, CURVE[::-1], 12)]
    },
    "table before window": {"VOILUTSequence": [table("VOILUTSequence", 0, CURVE, 12)], "WindowCenter": 100},
    "signed voi table": {
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "VOILUTSequence": [table("VOILUTSequence", -1000, CURVE[:3500], 12, "SS")],
    },
    "modality table": {
        "ModalityLUTSequence": [table("ModalityLUTSequence", 0, 65535 - CURVE * 16, 16)],
        "WindowCenter": 24000,
        "WindowWidth": 30000,
    },
    "large table": {
        "BitsStored": 16,
        "HighBit": 15,
        "VOILUTSequence": [table("VOILUTSequence", 0, np.arange(65535, -1, -1).astype(np.uint16), 16)],
    },
}


def shades(**attributes: Any) -> FileDataset:
    """An image of 64 x 64 with every twelve-bit value once."""
    image = make_image(**ZONE, **attributes)
    if image.BitsStored == 16:
        image.PixelData = (np.arange(64 * 64, dtype=np.uint16) * 16).tobytes()
    if "VOILUTSequence" in image and "WindowWidth" in image and "WindowCenter" not in attributes:
        del image.WindowCenter, image.WindowWidth
    return image


def rendered(folder: Path, image: Path, state: Dataset | None = None, *options: str) -> NDArray[np.uint8]:
    """What DCMTK shows of an image, under a state or by its own choice."""
    if state is not None:
        (folder / "state.dcm").write_bytes(to_bytes(state))
        options = ("-p", str(folder / "state.dcm"), *options)
    done = run_tool("dcmp2pgm", *options, image, folder / "out.pgm")
    assert done.stderr.strip() == ""
    with Image.open(folder / "out.pgm") as picture:
        return np.asarray(picture)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.programs
@pytest.mark.parametrize("kind", SHOWN)
def test_the_picture_under_the_state_is_the_nodes_own(kind: str, tmp_path: Path) -> None:
    image = shades(**SHOWN[kind])
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    (state,) = gsps.build(run_of(image, boxes=BOXES["one"], rows=64, columns=64), [image])
    shown = rendered(tmp_path, tmp_path / "image.dcm", state)
    assert np.ptp(shown.astype(int)) > 200
    assert difference(shown, radiograph.display_uint8(radiograph.load_radiograph(tmp_path / "image.dcm"))) <= 1


@pytest.mark.programs
@pytest.mark.parametrize("name", ["dx", "cr-jpegls", "ct", "mr-implicit", "cr-bad-age"])
def test_real_images_look_as_without_the_state(name: str, tmp_path: Path) -> None:
    header, image = header_of(SOURCES[name]), pydicom.dcmread(SOURCES[name])
    if image.file_meta.TransferSyntaxUID.is_compressed:
        image.decompress()
    image.save_as(tmp_path / "image.dcm")
    (state,) = gsps.build(run_of(header, boxes=BOXES["one"], rows=image.Rows, columns=image.Columns), [header])
    shown = rendered(tmp_path, tmp_path / "image.dcm", state)
    assert difference(shown, rendered(tmp_path, tmp_path / "image.dcm")) <= 1
    if "WindowCenter" in image:
        assert difference(shown, radiograph.display_uint8(radiograph.load_radiograph(SOURCES[name]))) <= 1
    else:  # DCMTK spans all values, the node a share of them; the state says nothing
        assert "SoftcopyVOILUTSequence" not in written(state)


def test_stages_are_copied_byte_for_byte() -> None:
    image = make_image(**{"RescaleSlope": "1.50E+00", "RescaleIntercept": "+0010.0", "RescaleType": "OD"})
    with_raw(image, WindowCenter=b"0100.50\\7 ", WindowWidth=b"4.5e2 \\9", VOILUTFunction=b"SIGMOID ")
    with_raw(image, WindowCenterWidthExplanation=b"Lung\\Bone ")
    content = to_bytes(gsps.build(run_of(image, boxes=BOXES["one"]), [image])[0])
    for value in (b"1.50E+00", b"+0010.0 ", b"OD", b"0100.50 ", b"4.5e2 ", b"SIGMOID ", b"Lung"):
        assert value in content
    assert b"Bone" not in content


def test_an_explanation_in_the_sources_characters_arrives() -> None:
    image = with_raw(
        make_image(SpecificCharacterSet=["", "ISO 2022 IR 149"]),
        WindowCenterWidthExplanation=b"\x1b$)C" + "폐".encode("euc_kr"),
    )
    assert only(image).SoftcopyVOILUTSequence[0].WindowCenterWidthExplanation == "폐"


@pytest.mark.parametrize("explanation", ["폐".encode("euc_kr"), b"\x1b$)C" + "폐".encode("euc_kr"), b"\xff\xfe"])
def test_an_explanation_in_other_characters_than_declared_is_left_out(explanation: bytes) -> None:
    """A header brought into UTF-8 may still hold one: only patient and study are converted."""
    image = with_raw(make_image(), WindowCenterWidthExplanation=explanation)
    (window,) = only(image).SoftcopyVOILUTSequence
    assert "WindowCenterWidthExplanation" not in window
    assert window.WindowWidth == 4096


def test_an_image_without_a_window_gets_none() -> None:
    image = make_image()
    del image.WindowCenter, image.WindowWidth
    state = only(image)
    assert "SoftcopyVOILUTSequence" not in state
    assert "RescaleSlope" not in state


BROKEN: dict[str, tuple[dict[str, bytes], bool]] = {  # and whether the modality stage is left
    "word": ({"WindowCenter": b"auto"}, True),
    "negative width": ({"WindowWidth": b"-400"}, True),
    "no width": ({"WindowWidth": b""}, True),
    "width below 1": ({"WindowWidth": b"0.5 "}, True),
    "infinite": ({"WindowWidth": b"1e999 "}, True),
    "not a number": ({"WindowCenter": b"nan "}, True),
    "unequal count": ({"WindowCenter": b"1\\2 "}, True),
    "function": ({"VOILUTFunction": b"GUESS "}, True),
    "table": ({"VOILUTSequence": b"\0\1\2\3\4\5\6\7"}, True),
    "slope zero": ({"RescaleSlope": b"0 "}, False),
    "slope of two": ({"RescaleSlope": b"1\\2 "}, False),
    "slope word": ({"RescaleSlope": b"x "}, False),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_stage_that_breaks_the_standard_is_left_out(kind: str) -> None:
    values, modality = BROKEN[kind]
    image = make_image(RescaleSlope="2", RescaleIntercept="1")
    state = only(with_raw(image, **values))
    assert ("RescaleSlope" in state) == modality
    assert "SoftcopyVOILUTSequence" not in state
    assert len(state.GraphicAnnotationSequence[0].GraphicObjectSequence) == 3


HOSTILE = (
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PresentationLUTShape", "PixelSpacing", "NumberOfFrames",
    "PixelAspectRatio", "ImagerPixelSpacing", "ShutterShape", "ShutterLeftVerticalEdge", "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "Laterality",
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    st.dictionaries(st.sampled_from(HOSTILE), st.one_of(st.binary(max_size=60), st.from_regex(rb"[-+.\deE\\ ]{1,40}")))
)
def test_whatever_a_source_holds_there_is_a_state(values: dict[str, bytes]) -> None:
    state = only(with_raw(make_image(), **{k: v + b" " * (len(v) % 2) for k, v in values.items()}))
    assert len(state.GraphicAnnotationSequence[0].GraphicObjectSequence) == 3
    for item in state.get("SoftcopyVOILUTSequence", []):
        assert float(item.WindowWidth) > 0


def test_a_patient_that_breaks_the_standard_is_copied(caplog: pytest.LogCaptureFixture) -> None:
    image = with_raw(make_image(), **common_tests.BROKEN, TimezoneOffsetFromUTC=b"banana", Laterality=b"middle")
    content = to_bytes(gsps.build(run_of(image, boxes=BOXES["one"]), [image])[0])
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber", "StudyInstanceUID"):
        assert common_tests.element_in(content, keyword) == common_tests.BROKEN[keyword]
    assert content.count(b"1.2.03.004") == 2  # in the relationship and with the marks
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_an_image_of_unknown_size_gets_no_state(keyword: str) -> None:
    assert states(with_raw(make_image(), **{keyword: b"\0\0"})) == []


def test_the_devices_shutter_stays_closed() -> None:
    edges = {"ShutterLeftVerticalEdge": 3, "ShutterRightVerticalEdge": 60}
    edges |= {"ShutterUpperHorizontalEdge": 4, "ShutterLowerHorizontalEdge": 61}
    state = only(make_image(ShutterShape="RECTANGULAR", ShutterPresentationValue=7, **edges))
    assert {keyword: state[keyword].value for keyword in edges} == edges
    assert (state.ShutterShape, state.ShutterPresentationValue) == ("RECTANGULAR", 7)
    assert "ShutterShape" not in only(make_image(ShutterShape="RECTANGULAR"))  # its edges are missing


@pytest.mark.parametrize(
    ("attributes", "keyword", "value"),
    [
        ({"PixelSpacing": ["0.1430", "0.2"]}, "PresentationPixelSpacing", ["0.1430", "0.2"]),
        ({"ImagerPixelSpacing": ["0.2", "0.1"]}, "PresentationPixelAspectRatio", ["2", "1"]),
        ({"PixelAspectRatio": ["4", "3"]}, "PresentationPixelAspectRatio", ["4", "3"]),
        ({"PixelSpacing": ["0", "0"]}, "PresentationPixelAspectRatio", ["1", "1"]),
        ({}, "PresentationPixelAspectRatio", ["1", "1"]),
    ],
)
def test_the_whole_image_is_shown_in_its_proportions(
    attributes: dict[str, Any], keyword: str, value: list[str]
) -> None:
    (area,) = only(make_image(Rows=50, Columns=80, **attributes)).DisplayedAreaSelectionSequence
    assert area.DisplayedAreaTopLeftHandCorner == [1, 1]
    assert area.DisplayedAreaBottomRightHandCorner == [80, 50]
    assert area.PresentationSizeMode == "SCALE TO FIT"
    assert [getattr(each, "original_string", str(each)) for each in area[keyword].value] == value
    assert ("PresentationPixelSpacing" in area) != ("PresentationPixelAspectRatio" in area)


# --- several images -------------------------------------------------------------------------------------------------


def series(first: FileDataset, **attributes: Any) -> FileDataset:
    """Another image of the same study."""
    return make_image(StudyInstanceUID=first.StudyInstanceUID, **attributes)


def test_images_of_several_series_and_matrices_share_a_state() -> None:
    first = make_image(Rows=64, Columns=64)
    second = series(first, Rows=100, Columns=80, WindowCenter=100, WindowWidth=50)
    third = series(first, SeriesInstanceUID=first.SeriesInstanceUID)
    fourth = series(first)
    images_read = [first, second, third, fourth]
    uids = [image.SOPInstanceUID for image in images_read]
    run = on(run_of(*images_read, boxes=BOXES["overlapping"]), *(Region(uid, 1, 2, 30, 40) for uid in uids[:3]))
    (state,) = (written(each) for each in gsps.build(run, images_read))
    listed = {
        each.SeriesInstanceUID: [ref.ReferencedSOPInstanceUID for ref in each.ReferencedImageSequence]
        for each in state.ReferencedSeriesSequence
    }
    assert listed == {first.SeriesInstanceUID: [uids[0], uids[2]], second.SeriesInstanceUID: [uids[1]]}
    windows = {
        ref.ReferencedSOPInstanceUID: item.WindowWidth
        for item in state.SoftcopyVOILUTSequence
        for ref in item.ReferencedImageSequence
    }
    assert windows == {uids[0]: 4096, uids[1]: 50, uids[2]: 4096}
    areas = {
        ref.ReferencedSOPInstanceUID: item.DisplayedAreaBottomRightHandCorner
        for item in state.DisplayedAreaSelectionSequence
        for ref in item.ReferencedImageSequence
    }
    assert areas == {uids[0]: [64, 64], uids[1]: [80, 100], uids[2]: [64, 64]}
    marked = [item.ReferencedImageSequence[0].ReferencedSOPInstanceUID for item in state.GraphicAnnotationSequence]
    assert marked == uids[:3]


def test_one_image_with_a_window_among_two_says_for_which() -> None:
    first = make_image()
    second = series(first)
    del second.WindowCenter, second.WindowWidth
    run = run_of(first, second, boxes=BOXES["overlapping"])
    uids = [first.SOPInstanceUID, second.SOPInstanceUID, second.SOPInstanceUID]
    (state,) = gsps.build(on(run, *(Region(uid, 1, 2, 30, 40) for uid in uids)), [first, second])
    (window,) = written(state).SoftcopyVOILUTSequence
    assert [ref.ReferencedSOPInstanceUID for ref in window.ReferencedImageSequence] == uids[:1]


def test_what_a_state_holds_once_divides_the_images() -> None:
    first = make_image(**ZONE)
    others = [
        series(first, **ZONE, PhotometricInterpretation="MONOCHROME1"),
        series(first, **ZONE, RescaleSlope="1", RescaleIntercept="-1024"),
    ]
    run = run_of(first, *others, boxes=BOXES["overlapping"])
    run = on(run, *(Region(image.SOPInstanceUID, 1, 2, 30, 40) for image in (first, *others)))
    objects = [o for o in encode(run, Held(first, *others, picture=np.eye(64, dtype=np.uint8))) if o.role == "gsps"]
    assert [o.index for o in objects] == [0, 1, 2]
    assert len({o.sop_instance_uid for o in objects}) == 3
    assert len({o.series_instance_uid for o in objects}) == 1
    built = [written(each) for each in gsps.build(run, [first, *others])]
    assert [each.PresentationLUTShape for each in built] == ["IDENTITY", "INVERSE", "IDENTITY"]
    assert [each.get("RescaleIntercept") for each in built] == [None, None, -1024]
    uids = {g.TrackingUID for each in built for a in each.GraphicAnnotationSequence for g in a.GraphicObjectSequence}
    assert uids == {tracking_uid(run.key, number) for number in range(3)}


def test_frames_are_named() -> None:
    image = make_image(NumberOfFrames="20")
    run = run_of(image, boxes=BOXES["overlapping"])
    regions = (Region(image.SOPInstanceUID, 1, 2, 30, 40, frame) for frame in (7, 3, 7))
    (state,) = (written(each) for each in gsps.build(on(run, *regions), [image]))
    (reference,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert reference.ReferencedFrameNumber == [3, 7]
    frames = [item.ReferencedImageSequence[0].ReferencedFrameNumber for item in state.GraphicAnnotationSequence]
    assert frames == [3, 7]
    assert [len(item.GraphicObjectSequence) for item in state.GraphicAnnotationSequence] == [1, 2]
    assert "ReferencedFrameNumber" not in only(make_image()).ReferencedSeriesSequence[0].ReferencedImageSequence[0]


def test_the_windows_of_enhanced_frames_are_theirs() -> None:
    def group(**macros: Dataset) -> Dataset:
        item = Dataset()
        for keyword, macro in macros.items():
            setattr(item, keyword, [macro])
        return item

    def macro(**values: Any) -> Dataset:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return item

    image = make_image(NumberOfFrames="2", SharedFunctionalGroupsSequence=[], PerFrameFunctionalGroupsSequence=[])
    del image.WindowCenter, image.WindowWidth
    rescale = macro(RescaleSlope="1", RescaleIntercept="-1000", RescaleType="HU")
    measures = macro(PixelSpacing=["0.5", "0.5"])
    image.SharedFunctionalGroupsSequence = [
        group(PixelValueTransformationSequence=rescale, PixelMeasuresSequence=measures)
    ]
    image.PerFrameFunctionalGroupsSequence = [
        group(FrameVOILUTSequence=macro(WindowCenter="40", WindowWidth=width)) for width in ("300", "500")
    ]
    run = run_of(image, boxes=BOXES["overlapping"])
    regions = (Region(image.SOPInstanceUID, 1, 2, 30, 40, frame) for frame in (1, 2, 2))
    (state,) = (written(each) for each in gsps.build(on(run, *regions), [image]))
    assert state.RescaleIntercept == -1000
    windows = {i.ReferencedImageSequence[0].ReferencedFrameNumber: i.WindowWidth for i in state.SoftcopyVOILUTSequence}
    assert windows == {1: 300, 2: 500}
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.PresentationPixelSpacing == [0.5, 0.5]


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.mark.programs
def test_dcmtk_draws_the_boxes_where_the_model_and_the_picture_have_them(tmp_path: Path) -> None:
    """DCMTK loads the state, shows the image under it and writes the state anew; its outlines lie on SC's frames."""
    header, shape = header_of(SOURCES["cr-jpegls"]), header_of(SOURCES["cr-jpegls"])
    image = pydicom.dcmread(SOURCES["cr-jpegls"])
    image.decompress()
    image.save_as(tmp_path / "image.dcm")
    run = run_of(header, boxes=BOXES["one"], rows=shape.Rows, columns=shape.Columns)
    (state,) = gsps.build(run, [header])
    shown = rendered(tmp_path, tmp_path / "image.dcm", state, "+S", str(tmp_path / "again.dcm"))
    again = pydicom.dcmread(tmp_path / "again.dcm")
    (annotation,) = again.GraphicAnnotationSequence
    assert texts(annotation) == texts(written(state).GraphicAnnotationSequence[0])
    (graphic,) = annotation.GraphicObjectSequence
    region = run.reading.findings[0].region
    assert rectangle(graphic) == pytest.approx((region.left, region.top, region.right, region.bottom), abs=1e-3)
    # PIXEL: 0\0 is the corner of the first pixel, so whole numbers lie between pixels (PS3.3 C.10.5.1).
    drawn = Image.fromarray(np.zeros(shown.shape, np.uint8))
    left, top, right, bottom = rectangle(graphic)
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), fill=255)
    marked = np.argwhere(np.asarray(drawn))
    # The frame of SC lies around the box: what it leaves free is the picture as DCMTK shows it under the state.
    wanted = replace(run, profile=replace(run.profile, outputs=("sc",), pictures="uncompressed"))
    capture = encode(wanted, Held(header_of(SOURCES["cr-jpegls"]), picture=shown))[0]
    burned = pydicom.dcmread(BytesIO(capture.content)).pixel_array[: shape.Rows, : shape.Columns].astype(int)
    inside = (burned.max(axis=2) - burned.min(axis=2) == 0) & (np.abs(burned[..., 0] - shown) == 0)
    (y0, x0), (y1, x1) = marked.min(axis=0), marked.max(axis=0)
    assert inside[y0 + 1 : y1, x0 + 1 : x1].all()
    middle_y, middle_x = (y0 + y1) // 2, (x0 + x1) // 2
    for edge_y, edge_x in ((y0 - 1, middle_x), (y1 + 2, middle_x), (middle_y, x0 - 1), (middle_y, x1 + 2)):
        assert not inside[edge_y, edge_x]


@pytest.mark.programs
@pytest.mark.parametrize("kind", SHOWN)
def test_validators_find_no_fault(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "state.dcm"
    image = shades(**SHOWN[kind])
    path.write_bytes(to_bytes(gsps.build(run_of(image, boxes=BOXES["overlapping"]), [image])[0]))
    done = run_tool("dciodvfy", path, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    # It holds the tables of states to 8 or 16 bits; PS3.3 C.11.2.1.1 allows all between, which DX images have.
    assert [error for error in errors if "<0xc> for value 3 of attribute <LUT Descriptor>" not in error] == []
    done = run_tool("dcmpschk", path, check=False)
    assert "Test passed" in done.stdout + done.stderr


def test_the_same_run_gives_the_same_bytes() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["overlapping"])
    one, two = (to_bytes(gsps.build(run, [image])[0]) for _ in range(2))
    assert one == two


def test_a_finding_on_another_image_is_refused() -> None:
    image = make_image()
    run = run_of(image, boxes=BOXES["one"])
    for change in ({"sop_instance_uid": "1.2"}, {"frame": 2}):
        finding = replace(run.reading.findings[0], region=replace(run.reading.findings[0].region, **change))
        with pytest.raises(ValueError, match=r"is no source of the reading|which has 1"):
            gsps.build(replace(run, reading=replace(run.reading, findings=(finding,))), [image])
