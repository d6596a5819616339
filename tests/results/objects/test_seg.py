"""A segmentation lies in the patient where its source lies, whatever reads it and in whatever order the images came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, RLELossless

from ai.contract import Code, InstanceRef, ReadingError, Segment, Segmentation
from ai.mask import CutMask
from dicom_node.config.settings import Profile
from dicom_node.dicom.attributes import LABEL_MAP
from dicom_node.results import Run, encode, uids
from dicom_node.results.encode import to_bytes
from dicom_node.results.objects import seg
from dicom_node.results.pictures.palette import Palette
from tests.results.test_common import (
    BOXES,
    LEFT,
    LUNG,
    MODEL,
    Held,
    header_of,
    run_of,
    with_raw,
    written,
)
from tests.support.programs import run_tool, tool
from tests.support.samples import DATA, make_image
from tests.support.stacks import OBLIQUE, TILTED

Mask = NDArray[Any]

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
RIGHT = Code("24028007", "SCT", "Right")
NODULE = Code("27925004", "SCT", "Nodule")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CHEST_CT = DATA / "dicom/chest-ct/dicom"
ROWS, COLUMNS = 19, 27  # no frame of one bit a pixel fills whole bytes

# Row cosines, column cosines, and the way from one slice to the next: along the normal, but with a tilted gantry.
GEOMETRIES: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "axial": (np.array([1, 0, 0, 0, 1, 0]), np.array([0, 0, 2.5])),
    "oblique": (OBLIQUE[:, :2].T.ravel(), 3.2 * OBLIQUE[:, 2]),
    "tilted": (TILTED[:, :2].T.ravel(), np.array([0, 0, 2.5])),
}


def ds(values: Sequence[float]) -> str:
    """Numbers as a modality may write them: in all 16 characters, whether they need them or not."""
    return "\\".join(f"{value:+.8e}"[:16] for value in values)


def reread(image: Dataset) -> Dataset:
    """A header as the node gets it: from a file, no element looked at."""
    image.pop("PixelData", None)
    buffer = BytesIO()
    image.save_as(buffer)
    return pydicom.dcmread(BytesIO(buffer.getvalue()), stop_before_pixels=True)


def series(
    geometry: str = "axial", count: int = 6, *, places: Sequence[float] | None = None, **attributes: Any
) -> list[Dataset]:
    """The headers of a CT series of nobody, in the order of their slices."""
    cosines, step = GEOMETRIES[geometry]
    common_to_all = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5"}
    return [
        reread(
            make_image(
                **{
                    "SOPClassUID": CTImageStorage,
                    "Modality": "CT",
                    "Rows": ROWS,
                    "Columns": COLUMNS,
                    "PixelSpacing": "0.70\\0.5000",
                    "SliceThickness": "2.50",
                    "ImageOrientationPatient": ds(cosines.tolist()),
                    "ImagePositionPatient": ds((np.array([-81.5, 33.25, -410]) + place * step).tolist()),
                    "InstanceNumber": count - number,
                    **common_to_all,
                    **attributes,
                }
            )
        )
        for number, place in enumerate(range(count) if places is None else places)
    ]


def enhanced(geometry: str = "axial", count: int = 6, *, shared: bool = True) -> Dataset:
    """The header of a multi-frame CT image whose orientation is shared by its frames, or said by each of them."""
    image = make_image(SOPClassUID=EnhancedCTImageStorage, Modality="CT", Rows=ROWS, Columns=COLUMNS)
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.4", "1.2.5"
    image.NumberOfFrames = count
    every, frames = Dataset(), []
    for single in series(geometry, count):
        orientation, measures, position, frame = Dataset(), Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = single.ImageOrientationPatient
        measures.PixelSpacing, measures.SliceThickness = single.PixelSpacing, single.SliceThickness
        position.ImagePositionPatient = single.ImagePositionPatient
        target = every if shared else frame
        target.PlaneOrientationSequence, target.PixelMeasuresSequence = [orientation], [measures]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [every], frames
    return reread(image)


def blob(count: int, seed: int = 1) -> NDArray[np.bool_]:
    """A mask that no flip, shift or exchange of slices leaves as it is."""
    mask = np.zeros((count, ROWS, COLUMNS), bool)
    mask[:, 3:9, 5:20] = np.random.default_rng(seed).random((count, 6, 15)) < 0.7
    mask[:, 12, 2] = True
    return mask


def segment(mask: Mask | CutMask, **changes: Any) -> Segment:
    return replace(Segment("lung", "Lung", LUNG, ANATOMY, mask), **changes)


def run_with(
    headers: Sequence[Dataset],
    segments: Sequence[Segment | Mask],
    *,
    kind: str = "binary",
    frames: Sequence[tuple[int, int]] | None = None,
    **changes: Any,
) -> Run:
    """A run with one segmentation; ``frames`` are (index of the header, frame number), each header's first frame."""
    run = run_of(*headers, **changes)
    places = frames or [(index, 1) for index in range(len(headers))]
    segmentation = Segmentation(
        kind,  # type: ignore[arg-type]
        tuple((run.reading.sources[index], frame) for index, frame in places),
        tuple(each if isinstance(each, Segment) else segment(each) for each in segments),
    )
    return replace(run, reading=replace(run.reading, segmentations=(segmentation,)))


def built(headers: Sequence[Dataset], segments: Sequence[Segment | Mask], **changes: Any) -> Dataset:
    """The one object of a segmentation, as another program reads it."""
    (dataset,) = seg.build(run_with(headers, segments, **changes), headers)
    return written(dataset)


def shuffled(count: int, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).permutation(count).tolist()


# --- in the patient, as another vendor would find it ----------------------------------------------------------------


def affine(position: Any, orientation: Any, spacing: Any) -> NDArray[np.float64]:
    """PS3.3 C.7.6.2.1.1, Equation C.7.6.2.1-1: (column, row, 1) to x, y, z."""
    position, orientation, spacing = (np.array([float(v) for v in x]) for x in (position, orientation, spacing))
    return np.column_stack([orientation[:3] * spacing[1], orientation[3:] * spacing[0], position])


def points(mask: NDArray[np.bool_], to_patient: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows, np.ones(len(rows))], axis=1) @ to_patient.T


def frames_of(dataset: Dataset) -> Iterator[tuple[int, Dataset, Dataset, Mask]]:
    """Segment number, per-frame and shared functional groups and stored pixels of every frame, unpacked by hand."""
    rows, columns, count = dataset.Rows, dataset.Columns, int(dataset.NumberOfFrames)
    if dataset.BitsAllocated == 1:
        stored = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    else:
        assert dataset.file_meta.TransferSyntaxUID == RLELossless
        stored = dataset.pixel_array.reshape(-1)
    pixels = stored[: count * rows * columns].reshape(count, rows, columns)
    for item, frame in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        yield number, item, dataset.SharedFunctionalGroupsSequence[0], frame


def group(item: Dataset, shared: Dataset, keyword: str) -> Dataset:
    (found,) = item[keyword].value if keyword in item else shared[keyword].value
    return found


def cloud(dataset: Dataset, number: int = 1) -> NDArray[np.float64]:
    """Where the voxels of a segment lie, by the object alone."""
    found = [
        points(
            frame > 0,
            affine(
                group(item, shared, "PlanePositionSequence").ImagePositionPatient,
                group(item, shared, "PlaneOrientationSequence").ImageOrientationPatient,
                group(item, shared, "PixelMeasuresSequence").PixelSpacing,
            ),
        )
        for segment_number, item, shared, frame in frames_of(dataset)
        if segment_number == number
    ]
    return np.concatenate(found)


def cloud_of_mask(mask: Mask, headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Where the voxels of a mask lie, by the headers of single-frame sources alone."""
    return np.concatenate(
        [
            points(plane > 0, affine(h.ImagePositionPatient, h.ImageOrientationPatient, h.PixelSpacing))
            for plane, h in zip(mask, headers, strict=True)
        ]
    )


def dice(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two sets of voxels that are the same where they lie within a thousandth of a millimetre."""
    cells = [{tuple(cell) for cell in np.round(each * 1000).astype(int).tolist()} for each in (one, other)]
    return 2 * len(cells[0] & cells[1]) / (len(cells[0]) + len(cells[1]))


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
@pytest.mark.parametrize("kind", ["binary", "fractional"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_voxels_lie_where_the_model_saw_them(geometry: str, kind: str, order: str) -> None:
    count = 6
    places = {"sorted": list(range(count)), "reversed": list(range(count))[::-1], "shuffled": shuffled(count)}[order]
    headers = [series(geometry, count)[place] for place in places]
    mask = blob(count)
    dataset = built(headers, [mask if kind == "binary" else mask.astype(np.float32) * 0.5], kind=kind)
    assert dice(cloud(dataset), cloud_of_mask(mask, headers)) == 1.0
    assert dice(cloud(dataset), cloud_of_mask(mask[:, :, ::-1], headers)) < 0.9  # a flip would be seen
    assert dice(cloud(dataset), cloud_of_mask(mask[::-1], headers)) < 0.9


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_frames_of_an_enhanced_image_keep_their_place(geometry: str, shared: bool) -> None:
    header, singles = enhanced(geometry, shared=shared), series(geometry)
    frames = [5, 1, 6, 3]  # not all, and in no order
    mask = blob(4)
    dataset = built([header], [mask], frames=[(0, frame) for frame in frames])
    assert dice(cloud(dataset), cloud_of_mask(mask, [singles[frame - 1] for frame in frames])) == 1.0
    for _, item, _, frame in frames_of(dataset):
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert np.array_equal(frame, mask[frames.index(source.ReferencedFrameNumber)])
    (reference,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert len(dataset.SourceImageSequence) == 1


@pytest.mark.programs
def test_a_real_chest_ct_in_shuffled_order(real_data: Path, tmp_path: Path) -> None:
    paths = sorted(CHEST_CT.glob("*.dcm"))
    headers = [header_of(paths[place]) for place in shuffled(len(paths))]
    mask = np.zeros((len(paths), 512, 512), bool)
    for place in range(len(paths)):
        mask[place, 100 + place : 110 + 2 * place, 300 : 305 + place] = True
    path = file_of(seg.build(run_with(headers, [mask]), headers)[0], tmp_path)
    assert faults(path) == []
    dataset = pydicom.dcmread(path)
    assert int(dataset.NumberOfFrames) == len(paths) >= 60
    assert dice(cloud(dataset), cloud_of_mask(mask, headers)) == 1.0
    assert {plain_text(dataset, "FrameOfReferenceUID")} == {plain_text(h, "FrameOfReferenceUID") for h in headers}


def plain_text(dataset: Dataset, keyword: str) -> str:
    """The characters of an attribute without padding, as they are written."""
    buffer = dataset.get_item(keyword)
    value = buffer.value
    return value.decode("ascii").strip(" \0") if isinstance(value, bytes) else "\\".join(map(str, np.atleast_1d(value)))


def in_pairs(text: str) -> bytes:
    return (text + " " * (len(text) % 2)).encode()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_frame_repeats_its_sources_numbers_character_for_character(geometry: str) -> None:
    headers = series(geometry, PositionReferenceIndicator="XY")
    cosines = np.array(headers[2].ImageOrientationPatient, float)
    headers[2] = with_raw(headers[2], ImageOrientationPatient=in_pairs("\\".join(f"{c:.6f}" for c in cosines)))
    by_uid = {plain_text(header, "SOPInstanceUID"): header for header in headers}
    dataset = built(headers, [blob(6)])
    assert (dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator) == ("1.2.5", "XY")
    for _, item, shared, _ in frames_of(dataset):
        source = by_uid[item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        for sequence, keyword in (
            ("PlanePositionSequence", "ImagePositionPatient"),
            ("PlaneOrientationSequence", "ImageOrientationPatient"),
            ("PixelMeasuresSequence", "PixelSpacing"),
            ("PixelMeasuresSequence", "SliceThickness"),
        ):
            assert plain_text(group(item, shared, sequence), keyword) == plain_text(source, keyword)


@pytest.mark.parametrize(
    ("thicknesses", "places", "expected"),
    [
        (["2.50", "2.50", "2.50"], [0, 1, 2], "2.50"),
        (["2.50", "2.5", "2.50"], [0, 1, 3], "2.50"),
        (["1", "3", "2"], [0, 1, 2], "2.5"),  # the sources do not agree: the way from one to the next
        (["0", "", "2"], [0, 1, 2], "2.5"),
        (["", "", ""], [0, 1, 2], "2.5"),
        (["1", "3", "0.5"], [0, 1, 3], "0.5"),  # nor are they a regular stack: no more than the thinnest
        (["", "", ""], [0, 1, 3], None),
        (["thick", "-1", "1\\2"], [0, 1, 3], None),
    ],
)
def test_pixel_measures_are_shared(thicknesses: list[str], places: list[float], expected: str | None) -> None:
    """OHIF 3.12 cannot open an object without, and its frames' thicknesses are no part of where they lie."""
    headers = [
        with_raw(header, SliceThickness=in_pairs(text))
        for header, text in zip(series(places=places), thicknesses, strict=True)
    ]
    with_raw(headers[1], PixelSpacing=b"0.7\\.5")  # the same in other characters
    dataset = built(headers, [blob(3)])
    (measures,) = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert plain_text(measures, "PixelSpacing") == "0.70\\0.5000"
    assert ("SliceThickness" in measures) == (expected is not None)
    if expected is not None:
        assert plain_text(measures, "SliceThickness") == expected
    assert all("PixelMeasuresSequence" not in item for item in dataset.PerFrameFunctionalGroupsSequence)


def test_numbers_longer_than_a_ds_may_be_are_written_anew() -> None:
    position = b"-123.45678901234567\\0.000000000000000000001\\1000 "
    headers = [with_raw(header, ImagePositionPatient=position) for header in series(count=1)]
    (item,) = built(headers, [blob(1)]).PerFrameFunctionalGroupsSequence
    text = plain_text(item.PlanePositionSequence[0], "ImagePositionPatient")
    assert all(len(part) <= 16 for part in text.split("\\"))
    assert np.allclose([float(x) for x in text.split("\\")], [-123.45678901234567, 1e-21, 1000], rtol=0, atol=1e-10)


# --- read back by others --------------------------------------------------------------------------------------------


def file_of(dataset: Dataset, folder: Path) -> Path:
    path = folder / f"{dataset.SOPInstanceUID}.dcm"
    path.write_bytes(to_bytes(dataset))
    return path


@pytest.mark.parametrize("kind", ["binary", "fractional"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_highdicom_reads_what_was_meant(geometry: str, kind: str, tmp_path: Path) -> None:
    headers = [series(geometry, 5)[place] for place in shuffled(5)]
    masks: list[Mask] = [blob(5, 1), blob(5, 2)]
    masks[1][[0, 3]] = False
    if kind == "fractional":
        masks = [mask * np.random.default_rng(4).random(mask.shape, np.float32) for mask in masks]
    run = run_with(headers, masks, kind=kind)
    read = hd.seg.segread(file_of(seg.build(run, headers)[0], tmp_path))
    pixels = read.get_pixels_by_source_instance(
        [ref.sop_instance_uid for ref in run.reading.sources], assert_missing_frames_are_empty=True
    )
    assert np.allclose(pixels, np.stack(masks, axis=-1), rtol=0, atol=0.5 / 255 + 1e-6)
    if kind == "binary":
        assert np.array_equal(read.pixel_array, np.stack([frame for *_, frame in frames_of(read)]))


def test_a_mask_that_holds_its_box_alone_makes_the_same_object() -> None:
    headers = series("axial", 5)
    masks = [blob(5), np.zeros((5, ROWS, COLUMNS), bool), blob(5, 2) & (np.arange(5) > 2)[:, None, None]]
    whole = built(headers, masks)
    assert built(headers, [segment(CutMask.of(mask)) for mask in masks]) == whole


def test_highdicom_reads_frames_of_an_enhanced_image(tmp_path: Path) -> None:
    header, mask = enhanced("oblique"), blob(6)
    mask[4] = False
    run = run_with([header], [mask], frames=[(0, number) for number in range(1, 7)])
    read = hd.seg.segread(file_of(seg.build(run, [header])[0], tmp_path))
    pixels = read.get_pixels_by_source_frame(
        header.SOPInstanceUID, list(range(1, 7)), assert_missing_frames_are_empty=True
    )
    assert np.array_equal(pixels[..., 0], mask)


def test_a_regular_stack_is_a_volume_with_its_spacing() -> None:
    headers = [series("oblique")[place] for place in shuffled(6)]
    dataset = built(headers, [blob(6)])
    assert dataset.DimensionOrganizationType == "3D"
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(3.2, abs=1e-5)
    assert "DimensionOrganizationType" not in built(series("tilted"), [blob(6)])
    assert "DimensionOrganizationType" not in built(headers, [blob(6), blob(6, 2)])


@pytest.mark.programs
@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_dcmtk_and_gdcm_see_the_same_pixels(kind: str, tmp_path: Path) -> None:
    headers, masks = series(count=3), [blob(3, 1), blob(3, 2)]
    values = [mask if kind == "binary" else mask * np.float32(1) for mask in masks]
    path = file_of(seg.build(run_with(headers, values, kind=kind), headers)[0], tmp_path)
    run_tool("dcm2pnm", "+Fa", "--no-overlays", path, tmp_path / "frame")
    for index, expected in enumerate(np.concatenate(masks)):
        picture = (tmp_path / f"frame.{index}.pgm").read_bytes()
        assert np.array_equal(np.frombuffer(picture[-ROWS * COLUMNS :], np.uint8).reshape(ROWS, COLUMNS) > 0, expected)
    assert "(0062,000b) US 2" in run_tool("gdcmdump", path).stdout
    import gdcm  # noqa: PLC0415 (its import is heavy, and it is one of two judges)

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    assert [image.GetDimension(axis) for axis in range(3)] == [COLUMNS, ROWS, 6]
    assert [image.GetSpacing(axis) for axis in range(2)] == [0.5, 0.7]
    assert [image.GetOrigin(axis) for axis in range(3)] == [-81.5, 33.25, -410.0]


def faults(path: Path) -> list[str]:
    said = run_tool("dciodvfy", path, check=False)
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


FORMS: dict[str, Callable[[], tuple[list[Dataset], dict[str, Any]]]] = {
    "binary": lambda: (series("oblique"), {"segments": [blob(6)]}),
    "fractional": lambda: (series("tilted"), {"segments": [blob(6) * np.float32(0.3)], "kind": "fractional"}),
    "many": lambda: (series(), {"segments": [segment(blob(6, n), laterality=LEFT, site=LUNG) for n in range(20)]}),
    "sided": lambda: (series(), {"segments": [segment(blob(6), laterality=RIGHT)]}),
    "sparse": lambda: (series(count=1) + series(places=[9, 4]), {"segments": [blob(3), sparse(3, 1)]}),
    "enhanced": lambda: ([enhanced()], {"segments": [blob(2)], "frames": [(0, 4), (0, 2)]}),
    "each its own": lambda: (
        [with_raw(each, SliceThickness=b"%d " % n) for n, each in enumerate(series())],
        {"segments": [blob(6)]},
    ),
    "no thickness": lambda: (series(SliceThickness=""), {"segments": [blob(6)]}),
    "lossy": lambda: (
        series(LossyImageCompression="01", LossyImageCompressionRatio="10", LossyImageCompressionMethod="ISO_10918_1"),
        {"segments": [blob(6)]},
    ),
    "knee": lambda: (series(BodyPartExamined="KNEE", Laterality="L"), {"segments": [blob(6)]}),
    "nowhere": lambda: (series(BodyPartExamined="", Laterality=""), {"segments": [blob(6)]}),
    "twice": lambda: (series(places=[0, 1, 1, 2]), {"segments": [blob(4)]}),
    "korean": lambda: (series(), {"segments": [blob(6), blob(6, 2)], "profile": {"language": "ko"}}),
}


@pytest.mark.programs
@pytest.mark.parametrize("form", FORMS)
def test_validators_find_no_fault(form: str, tmp_path: Path) -> None:
    headers, what = FORMS[form]()
    path = file_of(seg.build(run_with(headers, **what), headers)[0], tmp_path)
    assert faults(path) == []
    assert run_tool("dcm2pnm", "-q", path, tmp_path / "picture.pgm").stderr == ""
    tool("gdcminfo")
    assert "MediaStorage is 1.2.840.10008.5.1.4.1.1.66.4" in run_tool("gdcminfo", path).stdout


# --- which frames, in which order -----------------------------------------------------------------------------------


def sparse(count: int, *filled: int) -> NDArray[np.bool_]:
    mask = np.zeros((count, ROWS, COLUMNS), bool)
    for plane in filled:
        mask[plane, plane, plane + 1] = True
    return mask


def test_only_frames_with_pixels_are_stored_by_segment_and_position() -> None:
    places = shuffled(6)
    headers = [series()[place] for place in places]
    dataset = built(headers, [sparse(6, 0, 2, 4), sparse(6, 2, 5)])
    indices = [item.FrameContentSequence[0].DimensionIndexValues for item in dataset.PerFrameFunctionalGroupsSequence]
    used = sorted([0, 2, 4, 5], key=lambda index: places[index])
    expected = [[1, used.index(i) + 1] for i in used if i in (0, 2, 4)]
    assert [list(i) for i in indices] == expected + [[2, used.index(i) + 1] for i in used if i in (2, 5)]
    sources = [ref.ReferencedSOPInstanceUID for ref in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
    assert sorted(sources) == sorted(h.SOPInstanceUID for h in headers)  # the others were looked at, too
    assert dice(cloud(dataset, 2), cloud_of_mask(sparse(6, 2, 5), headers)) == 1.0


def test_twenty_overlapping_segments_keep_apart() -> None:
    headers, masks = series(count=4), [blob(4, seed) for seed in range(20)]
    each = [segment(mask, key=f"s{n}", code=Code(str(n), "99X", "c")) for n, mask in enumerate(masks)]
    dataset = built(headers, each)
    assert int(dataset.NumberOfFrames) == 80
    assert dataset.SegmentsOverlap == "YES"
    for number, mask in enumerate(masks, 1):
        frames = [frame for segment_number, _, _, frame in frames_of(dataset) if segment_number == number]
        assert np.array_equal(np.stack(frames), mask)
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in dataset.SegmentSequence}) >= 18


@pytest.mark.parametrize(
    ("kind", "second", "overlap"),
    [("binary", (1,), "NO"), ("binary", (0,), "YES"), ("fractional", (1,), "NO"), ("fractional", (0,), "UNDEFINED")],
)
def test_it_says_whether_segments_overlap(kind: str, second: tuple[int, ...], overlap: str) -> None:
    masks: list[Mask] = [sparse(2, 0), sparse(2, *second)]
    masks = masks if kind == "binary" else [mask.astype(np.float32) for mask in masks]
    assert built(series(count=2), masks, kind=kind).SegmentsOverlap == overlap


@pytest.mark.parametrize("places", [[0, 1, 5, 6.5], [0, 1, 1, 2], [3, 3, 3, 3], [0]])
def test_gaps_and_repeated_positions_are_no_obstacle(places: list[float]) -> None:
    headers, mask = series(places=places), blob(len(places))
    dataset = built(headers, [mask])
    by_uid = {header.SOPInstanceUID: index for index, header in enumerate(headers)}
    for _, item, _, frame in frames_of(dataset):
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert np.array_equal(frame, mask[by_uid[source]])
    ordinals = [item.FrameContentSequence[0].DimensionIndexValues[1] for _, item, _, _ in frames_of(dataset)]
    assert ordinals == [sorted(set(places)).index(place) + 1 for place in places]  # one position, one index


def test_probabilities_are_stored_to_a_255th() -> None:
    mask = np.zeros((1, ROWS, COLUMNS), np.float32)
    mask[0, 2, :5] = [0.001, 0.002, 0.25, 0.9999, 1.0]
    dataset = built(series(count=1), [mask], kind="fractional")
    assert (dataset.SegmentationFractionalType, dataset.MaximumFractionalValue) == ("PROBABILITY", 255)
    ((_, _, _, frame),) = frames_of(dataset)
    assert frame[2, :5].tolist() == [0, 1, 64, 255, 255]
    assert frame.sum() == 575


# --- what it says ---------------------------------------------------------------------------------------------------


def apart(count: int) -> list[Mask]:
    """Two masks that share no pixel, of which each is empty on some frames."""
    first, second = np.zeros((2, count, ROWS, COLUMNS), bool)
    first[1:4, 3:9, 2:7] = second[2:5, 10:15, 5:20] = True
    return [first, second]


@pytest.mark.parametrize("geometry", ["axial", "oblique"])
def test_a_label_map_has_the_number_of_the_segment_at_each_pixel(geometry: str, tmp_path: Path) -> None:
    headers, masks = series(geometry), apart(6)
    order = shuffled(6)
    run = run_with([headers[at] for at in order], [mask[order] for mask in masks], profile={"seg": "labelmap"})
    path = file_of(seg.build(run, [headers[at] for at in order])[0], tmp_path)
    dataset = pydicom.dcmread(path)
    assert (dataset.SOPClassUID, dataset.SegmentationType) == (LABEL_MAP, "LABELMAP")
    assert dataset.file_meta.TransferSyntaxUID == RLELossless
    assert (dataset.NumberOfFrames, dataset.BitsAllocated, dataset.SegmentsOverlap) == (4, 8, "NO")
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2, 0]  # 0 is the background
    assert dataset.PixelPaddingValue == 0
    by_source = {header.SOPInstanceUID: index for index, header in enumerate(headers)}
    for frame, item in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        (reference,) = item.DerivationImageSequence[0].SourceImageSequence
        index = by_source[reference.ReferencedSOPInstanceUID]
        expected = masks[0][index] * 1 + masks[1][index] * 2
        assert (frame == expected).all()
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert position == headers[index].ImagePositionPatient
        assert "SegmentIdentificationSequence" not in item
    labels = hd.seg.segread(path)
    assert set(labels.segment_numbers) == {1, 2}
    uids_in_order = [header.SOPInstanceUID for header in headers]
    volume = labels.get_pixels_by_source_instance(
        uids_in_order, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert (volume == masks[0] * 1 + masks[1] * 2).all()


def test_segments_that_overlap_stay_binary_also_where_label_maps_are_wished_for() -> None:
    mask = blob(6)
    dataset = built(series(), [mask, mask], profile={"seg": "labelmap"})
    assert (dataset.SegmentationType, dataset.SOPClassUID) == ("BINARY", "1.2.840.10008.5.1.4.1.1.66.4")


def test_a_segment_says_what_it_is_and_who_drew_it() -> None:
    headers = series()
    segments = [
        segment(blob(6, 1), laterality=LEFT),
        segment(blob(6, 2), key="nodule", name="Nodule", code=NODULE, category=ABNORMAL, site=LUNG, laterality=RIGHT),
        segment(blob(6, 3), name="Right lung", laterality=RIGHT),
        segment(blob(6, 4), key="nodule", name="Nodule", code=NODULE, category=ABNORMAL, site=LUNG, laterality=RIGHT),
    ]
    run = run_with(headers, segments, boxes=BOXES["overlapping"])
    dataset = written(seg.build(run, headers)[0])
    first, second, *_ = dataset.SegmentSequence
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2, 3, 4]
    labels = [item.SegmentLabel for item in dataset.SegmentSequence]
    assert labels == ["Lung, left", "Nodule, right 1", "Right lung", "Nodule, right 2"]
    for item, given_segment in zip(dataset.SegmentSequence, segments, strict=True):
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentAlgorithmName == MODEL.name
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (MODEL.name, MODEL.version)
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert MODEL.digest in algorithm.AlgorithmParameters
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == given_segment.category.value
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == given_segment.code.value
        for sentence in run.warnings:
            assert sentence in item.SegmentDescription
    assert (
        first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    )
    assert "AnatomicRegionSequence" not in first
    assert second.AnatomicRegionSequence[0].CodeValue == LUNG.value
    assert second.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue == RIGHT.value
    tracked = {item.TrackingUID for item in dataset.SegmentSequence}
    assert tracked == {uids.segment_uid(run.key, 0, index) for index in range(4)}
    assert tracked.isdisjoint(uids.tracking_uid(run.key, number) for number in range(len(run.reading.findings) + 9))
    assert len({item.TrackingID for item in dataset.SegmentSequence}) == 4


def test_the_object_is_one_of_the_runs() -> None:
    headers = series(PatientName="TEST^NOBODY", PatientAge="050Y", AccessionNumber="A1", TimezoneOffsetFromUTC="+0900")
    run = run_with(headers, [blob(6)])
    dataset = written(seg.build(run, headers)[0])
    assert (dataset.SOPClassUID, dataset.Modality) == ("1.2.840.10008.5.1.4.1.1.66.4", "SEG")
    assert (dataset.StudyInstanceUID, dataset.PatientName, dataset.AccessionNumber) == ("1.2.3", "TEST^NOBODY", "A1")
    assert (dataset.ContentDate, dataset.ContentTime) == ("20260302", "083015.123456")
    assert dataset.SeriesNumber == 9004
    assert dataset.SeriesDescription == "AI phantom_cxr segments - not for diagnostic use"
    assert (dataset.ContentLabel, dataset.ContentCreatorName) == ("AI_SEG", "")
    assert "not for diagnostic use" in dataset.ContentDescription
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.SOPInstanceUID == uids.derived_uid(run.objects_key, "seg", 0)
    assert dataset.SeriesInstanceUID == uids.series_uid(run.objects_key, "seg")
    assert dataset.BodyPartExamined == "CHEST"
    assert dataset.LossyImageCompression == "00"
    (organization,) = dataset.DimensionOrganizationSequence
    pointed = {item.DimensionOrganizationUID for item in dataset.DimensionIndexSequence}
    assert pointed == {organization.DimensionOrganizationUID}


def test_loss_is_inherited() -> None:
    headers = series()
    ratio, method = b"9.9 ", b"ISO_10918_1 "
    with_raw(
        headers[3], LossyImageCompression=b"01", LossyImageCompressionRatio=ratio, LossyImageCompressionMethod=method
    )
    dataset = built(headers, [blob(6)])
    assert (dataset.LossyImageCompression, dataset.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert dataset.LossyImageCompressionRatio == 9.9


@pytest.mark.parametrize(("language", "label"), [("en", "Lung, left"), ("ko", "폐, 좌측"), ("ja", "肺, 左")])
def test_labels_are_in_the_readers_language(language: str, label: str) -> None:
    dataset = built(series(), [segment(blob(6), laterality=LEFT)], profile={"language": language})
    assert dataset.SegmentSequence[0].SegmentLabel == label


def test_names_fit_the_sources_character_set() -> None:
    headers = series(SpecificCharacterSet="ISO_IR 100")
    dataset = built(headers, [segment(blob(6), name="Lappen – 폐\\x" + "é" * 80, code=replace(LUNG, value="1"))])
    assert dataset.SegmentSequence[0].SegmentLabel.startswith("Lappen - ?/x")
    assert len(dataset.SegmentSequence[0].SegmentLabel) <= 64


def test_the_same_run_gives_the_same_bytes() -> None:
    headers = series("oblique")
    run = run_with(headers, [blob(6), blob(6, 2)])
    assert to_bytes(seg.build(run, headers)[0]) == to_bytes(seg.build(run, headers)[0])


def test_references_name_the_sources_as_they_are_named() -> None:
    headers = [
        with_raw(
            header, SOPInstanceUID=b"1.2.03.%03d" % number, SOPClassUID=b"1.2.840.99999.1 ", SeriesInstanceUID=b"a.b "
        )
        for number, header in enumerate(series())
    ]
    content = to_bytes(seg.build(run_with(headers, [blob(6)]), headers)[0])
    dataset = pydicom.dcmread(BytesIO(content))
    names = {f"1.2.03.{number:03d}" for number in range(6)}
    frames = [item.DerivationImageSequence[0].SourceImageSequence[0] for _, item, _, _ in frames_of(dataset)]
    (one_series,) = dataset.ReferencedSeriesSequence
    assert plain_text(one_series, "SeriesInstanceUID") == "a.b"
    for references in (frames, dataset.SourceImageSequence, one_series.ReferencedInstanceSequence):
        assert {plain_text(reference, "ReferencedSOPInstanceUID") for reference in references} == names
        assert {plain_text(reference, "ReferencedSOPClassUID") for reference in references} == {"1.2.840.99999.1"}


def test_sources_without_a_series_are_one() -> None:
    headers = series()
    for header in headers:
        del header.SeriesInstanceUID
    assert int(built(headers, [blob(6)]).NumberOfFrames) == 6


# --- no object ------------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no frame of reference": ({"FrameOfReferenceUID": None}, "no Frame of Reference UID"),
    "empty frame of reference": ({"FrameOfReferenceUID": b"\0\0"}, "no Frame of Reference UID"),
    "malformed frame of reference": ({"FrameOfReferenceUID": b"1.2\\1.3"}, "Frame of Reference UID is malformed"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
    "two of three": ({"ImagePositionPatient": b"1\\2 "}, "ImagePositionPatient is not 3 numbers"),
    "not a number": ({"ImagePositionPatient": b"1\\2\\nan"}, "ImagePositionPatient is not 3 numbers"),
    "infinite": ({"ImagePositionPatient": b"1\\2\\1e999 "}, "ImagePositionPatient is beyond"),
    "underscore": ({"ImagePositionPatient": b"1\\2\\1_0 "}, "ImagePositionPatient is not 3 numbers"),
    "bytes": ({"ImagePositionPatient": b"\xff\xfe\\2\\3 "}, "ImagePositionPatient is not 3 numbers"),
    "no orientation": ({"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
    "null vector": ({"ImageOrientationPatient": b"0\\0\\0\\0\\1\\0 "}, "two unit vectors at a right angle"),
    "no right angle": ({"ImageOrientationPatient": b"1\\0\\0\\1\\0\\0 "}, "two unit vectors at a right angle"),
    "no spacing": ({"PixelSpacing": b""}, "PixelSpacing is missing"),
    "spacing of 0": ({"PixelSpacing": b"0\\1 "}, "PixelSpacing is not positive"),
    "negative spacing": ({"PixelSpacing": b"-1\\1"}, "PixelSpacing is not positive"),
    "no matrix": ({"Rows": None}, "size of its matrix"),
    "odd matrix": ({"Rows": b"\1\2\3\4"}, "size of its matrix"),
}
DIFFERENT: dict[str, tuple[dict[str, bytes | None], str]] = {
    "frame of reference": ({"FrameOfReferenceUID": b"1.2.6 "}, "differ in their Frame of Reference UID"),
    "matrix": ({"Rows": b"\x10\0"}, "differ in the size of their matrix"),
    "orientation": ({"ImageOrientationPatient": b"0\\1\\0\\1\\0\\0 "}, "not parallel"),
    "spacing": ({"PixelSpacing": b"0.7\\0.6 "}, "differ in Pixel Spacing"),
    "series": ({"SeriesInstanceUID": b"1.2.7 "}, "more than one series"),
    "study": ({"StudyInstanceUID": b"1.2.7 "}, "more than one study"),
}


def changed(header: Dataset, values: dict[str, bytes | None]) -> None:
    for keyword, value in values.items():
        if value is None:
            del header[keyword]
        else:
            with_raw(header, **{keyword: value})


def refused(headers: Sequence[Dataset], segments: Sequence[Mask], **changes: Any) -> str:
    run = run_with(headers, segments, **changes)
    assert seg.build(run, headers) == []
    (reason,) = seg.refusals(run, headers)
    return reason


@pytest.mark.parametrize(("values", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_source_that_does_not_say_where_it_lies_gets_no_object(values: dict[str, bytes | None], reason: str) -> None:
    headers = series(count=2)
    for header in headers:
        changed(header, values)
    assert reason in refused(headers, [blob(2)])


@pytest.mark.parametrize(("values", "reason"), DIFFERENT.values(), ids=DIFFERENT)
def test_frames_that_are_not_of_one_grid_get_no_object(values: dict[str, bytes | None], reason: str) -> None:
    headers = series(count=3)
    changed(headers[1], values)
    assert reason in refused(headers, [blob(3)])


def test_roughly_written_cosines_are_taken_as_they_are() -> None:
    headers = series()
    for place, header in enumerate(headers):
        with_raw(header, ImageOrientationPatient=in_pairs("0.707\\0.707\\0\\0\\0\\-1.0"))
        with_raw(header, ImagePositionPatient=in_pairs(f"{10 - place}\\{10 + place}\\5"))
    assert dice(cloud(built(headers, [blob(6)])), cloud_of_mask(blob(6), headers)) == 1.0


def test_frames_without_functional_groups_get_no_object() -> None:
    headers = [with_raw(series(count=1)[0], NumberOfFrames=b"2 ")]
    assert "no functional groups" in refused(headers, [blob(1)], frames=[(0, 2)])
    header = enhanced()
    with_raw(header, PerFrameFunctionalGroupsSequence=b"\xfe\xff\x00\xe0\xff\xff\xff\xffgarbage ")
    assert "ImagePositionPatient is missing" in refused([header], [blob(1)])


def test_a_radiograph_gets_no_object() -> None:
    image = reread(make_image(Rows=ROWS, Columns=COLUMNS))
    assert "no Frame of Reference UID" in refused([image], [blob(1)])


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_where_nothing_was_segmented_there_is_no_object(kind: str) -> None:
    empty = np.zeros((6, ROWS, COLUMNS), bool if kind == "binary" else np.float32)
    assert refused(series(), [empty, empty], kind=kind) == "nothing was segmented: every mask is empty"


def test_ohif_gets_the_binary_outline_and_no_probabilities() -> None:
    headers = series(count=2)
    both = run_with(headers, [blob(2)])
    (binary,) = both.reading.segmentations
    likely = replace(binary, kind="fractional", segments=(segment(blob(2) * np.float32(0.8)),))
    run = replace(both, reading=replace(both.reading, segmentations=(likely, binary)))
    types = {}
    for viewer in ("any", "ohif"):
        seen = replace(run, profile=Profile(viewer=viewer))  # type: ignore[arg-type]
        types[viewer] = [written(each).SegmentationType for each in seg.build(seen, headers)]
        assert len(types[viewer]) + len(seg.refusals(seen, headers)) == 2
    assert types == {"any": ["FRACTIONAL", "BINARY"], "ohif": ["BINARY"]}


def test_segments_without_pixels_are_left_out_and_the_others_keep_their_tracking() -> None:
    headers = series()
    run = run_with(headers, [sparse(6), sparse(6, 3), sparse(6), sparse(6, 1)])
    dataset = written(seg.build(run, headers)[0])
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2]
    assert [item.TrackingUID for item in dataset.SegmentSequence] == [uids.segment_uid(run.key, 0, i) for i in (1, 3)]
    assert dice(cloud(dataset, 2), cloud_of_mask(sparse(6, 1), headers)) == 1.0


def test_one_segmentation_that_has_no_object_does_not_stop_another() -> None:
    headers = series()
    one, other = (run_with(headers, [mask]) for mask in (sparse(6), blob(6)))
    both = (*one.reading.segmentations, *other.reading.segmentations)
    run = replace(one, reading=replace(one.reading, segmentations=both))
    (dataset,) = seg.build(run, headers)
    assert len(seg.refusals(run, headers)) == 1
    assert dataset.SegmentSequence[0].TrackingUID == uids.segment_uid(run.key, 1, 0)
    assert dataset.SOPInstanceUID == uids.derived_uid(run.objects_key, "seg", 0)


GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID")
UNTRUSTED = (*GEOMETRY, "NumberOfFrames", "LossyImageCompression", "LossyImageCompressionRatio", "SeriesInstanceUID")
SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
numbers = st.lists(st.one_of(st.floats(), st.integers(-2, 2)), max_size=7).map(
    lambda values: "\\".join(map(str, values)).encode()
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(st.dictionaries(st.sampled_from((*UNTRUSTED, *SEQUENCES)), st.one_of(st.binary(max_size=60), numbers)))
def test_whatever_a_source_says_nothing_breaks_and_nothing_moves(values: dict[str, bytes]) -> None:
    headers = [with_raw(header, **values) for header in series(count=2)]
    run = run_with(headers, [blob(2)])
    try:
        objects = seg.build(run, headers)
    except ValueError as error:
        assert "lies on frame" in str(error)  # the only contract that a made-up count of frames breaks
        return
    assert len(objects) + len(seg.refusals(run, headers)) == 1
    for dataset in objects:
        assert dice(cloud(written(dataset)), cloud_of_mask(blob(2), headers)) == 1.0


# --- broken contracts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mask", "message"),
    [
        ("binary", np.zeros((2, ROWS, COLUMNS + 1), bool), r"2 x 19 x 28 of bool: expected .* 2 x 19 x 27 of bool"),
        ("binary", np.zeros((3, ROWS, COLUMNS), bool), "3 x 19 x 27 of bool"),
        ("binary", np.zeros((COLUMNS, ROWS), bool), "27 x 19 of bool"),
        ("binary", np.zeros((2, ROWS, COLUMNS), np.uint8), "of uint8: expected .* of bool"),
        ("binary", np.zeros((2, ROWS, COLUMNS), np.float32), "of float32: expected .* of bool"),
        ("fractional", np.zeros((2, ROWS, COLUMNS), bool), "of bool: expected .* of float from 0 to 1"),
        ("fractional", np.full((2, ROWS, COLUMNS), np.nan, np.float32), "no number, below 0 or above 1"),
        ("fractional", np.full((2, ROWS, COLUMNS), 1.01, np.float32), "above 1: expected .* of float from 0 to 1"),
        ("fractional", np.full((2, ROWS, COLUMNS), -0.01, np.float32), "below 0"),
        ("labelmap", np.zeros((2, ROWS, COLUMNS), bool), "'labelmap': expected 'binary' or 'fractional'"),
    ],
)
def test_a_mask_of_another_form_is_refused(kind: str, mask: Mask, message: str) -> None:
    headers = series(count=2)
    with pytest.raises(ValueError, match=message):
        seg.build(run_with(headers, [mask], kind=kind), headers)


def test_a_segmentation_that_points_nowhere_is_refused() -> None:
    headers = series(count=2)
    run = run_with(headers, [blob(2)])
    elsewhere = InstanceRef("1.2.3.4", CTImageStorage, "unused")
    ref = run.reading.sources[0]
    for frames, segments, message in (
        ([(0, 1), (0, 2)], [blob(2)], "frame 2 of a source that has frames 1 to 1"),
        ([(0, 1), (0, 1)], [blob(2)], "each only once"),
        ([(0, 1), (1, 1)], [], "expected at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            seg.build(run_with(headers, segments, frames=frames), headers)
    for places, message in ((((elsewhere, 1), (ref, 1)), "no source of the reading"), ((), "expected at least one")):
        segmentation = replace(run.reading.segmentations[0], frames=places)
        with pytest.raises(ValueError, match=message):
            seg.build(replace(run, reading=replace(run.reading, segmentations=(segmentation,))), headers)


def test_images_of_two_patients_are_refused() -> None:
    headers = [*series(count=1), *series(count=1, PatientID="TEST-2")]
    with pytest.raises(ReadingError, match="more than one patient"):
        seg.build(run_with(headers, [blob(2)]), headers)


# --- encode, and how long it takes ----------------------------------------------------------------------------------


def test_it_is_sent_after_the_pictures() -> None:
    headers = series(count=2)
    run = run_with(headers, [blob(2)], profile={"outputs": ("seg", "sr")})
    objects = encode(run, Held(*headers))
    assert [(o.role, o.index) for o in objects] == [("sr", 0), ("seg", 0)]
    assert objects[1].sop_instance_uid == uids.derived_uid(run.objects_key, "seg", 0)
    assert "seg" not in {
        o.role for o in encode(replace(run, profile=replace(run.profile, outputs=("sr",))), Held(*headers))
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_three_hundred_slices_stay_small(kind: str) -> None:
    count = 300
    headers = [series(places=[place], Rows=512, Columns=512)[0] for place in range(count)]
    mask = np.zeros((count, 512, 512), bool if kind == "binary" else np.float32)
    mask[:, 100:300, 120:400] = 1
    run = run_with(headers, [mask], kind=kind)
    content = to_bytes(seg.build(run, headers)[0])
    assert len(content) < count * 512 * 512 / (8 if kind == "binary" else 1) + 500_000


def test_a_segment_has_the_colour_that_the_pictures_give_it() -> None:
    headers = series(count=3)
    masks = [segment(blob(3), key=key) for key in ("lung", "nodule", "other")]  # nodule is a class of the model, too
    run = run_with(headers, masks)
    (dataset,) = (written(each) for each in seg.build(run, headers))
    palette = Palette(run.reading)
    colours = [palette.segment(each)[0] for each in run.reading.segmentations[0].segments]
    assert len(set(colours)) == 3
    assert colours[1] == palette.classes["nodule"]
    for colour, item in zip(colours, dataset.SegmentSequence, strict=True):
        assert list(item.RecommendedDisplayCIELabValue) == list(CIELabColor.from_rgb(*colour).value)
