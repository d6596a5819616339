"""Of the stacks of a study the one that suits best is read, and each of the others is passed over with its reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from ai.bundle.manifest import InputSpec
from ai.contract import InstanceRef, ReadingError, Selection, SeriesRef
from ai.selection.images import select
from ai.volumes.volume import load_volume
from tests.ai.inference.test_bundle_model import write_image
from tests.support.stacks import ct_images, ct_series, enhanced, series_of, write


def spec(**rules: Any) -> InputSpec:
    return InputSpec.model_validate({"kind": "volume", "modality": ["CT"], **rules})


def uids(selection: Selection) -> list[str]:
    return [ref.sop_instance_uid for ref in selection.chosen]


def reasons(selection: Selection) -> list[tuple[str, str]]:
    return [(each.uid, each.reason) for each in selection.passed_over]


def made(folder: Path, uid: str, *args: Any, known: dict[str, str] | None = None, **attributes: Any) -> SeriesRef:
    """A CT series with this UID."""
    return series_of(ct_series(folder, *args, SeriesInstanceUID=uid, **attributes), uid, **(known or {}))


# --- what is chosen ---------------------------------------------------------------------------------------------------


def test_the_images_of_the_stack_are_chosen_in_the_order_of_their_slices(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, "oblique")
    selection = select(spec(), [series_of([refs[at] for at in (3, 0, 5, 1, 2, 4)])])
    assert selection == Selection(tuple(refs), ())
    assert load_volume(selection.chosen).frames == tuple((ref, 1) for ref in refs)


def test_an_enhanced_image_is_a_volume_of_its_own(tmp_path: Path) -> None:
    ref = write(tmp_path, enhanced(count=8))
    assert select(spec(slices={"min": 8}), [series_of([ref])]).chosen == (ref,)
    assert reasons(select(spec(slices={"min": 9}), [series_of([ref])])) == [
        ("1.2.4", "number of slices 8 is not among 9 or more")
    ]


@pytest.mark.parametrize(
    ("rules", "attributes", "reason"),
    [
        ({"modality": ["MR"]}, {}, "modality CT is not among MR"),
        ({"body_part": ["HEAD"]}, {}, "body part CHEST is not among HEAD"),
        ({"description": ["*head*", "*brain*"]}, {}, "the series description is none that the model takes"),
        ({"not_description": ["THO*"]}, {}, "the series description is one that the model does not take"),
        ({"orientation": ["coronal", "sagittal"]}, {}, "orientation axial is not among coronal, sagittal"),
        ({"slices": {"min": 2, "max": 4}}, {}, "number of slices 6 is not among 2 to 4"),
        (
            {"thickness_mm": {"min": 0, "max": 2}},
            {"SliceThickness": 5},
            "slice thickness 5 mm is not among 0 to 2 mm",
        ),
        (
            {"thickness_mm": {"max": 2}},
            {"SliceThickness": None},
            "no slice thickness is given, and the model takes 2 mm or less",
        ),
        ({"spacing_mm": {"min": 3}}, {}, "distance between slices 2.5 mm is not among 3 mm or more"),
        ({"pixel_mm": {"max": 0.6}}, {}, "pixel size 0.7 mm is not among 0.6 mm or less"),
        ({"kernel": ["B*", "LUNG"]}, {}, "kernel STANDARD is not among B*, LUNG"),
        ({"kernel": ["B*"]}, {"ConvolutionKernel": None}, "no kernel is given, and the model takes B*"),
        ({"contrast": "with"}, {}, "no contrast agent was given"),
        ({"contrast": "with"}, {"ContrastBolusAgent": "NONE"}, "no contrast agent was given"),
        ({"contrast": "without"}, {"ContrastBolusAgent": "Iohexol"}, "a contrast agent was given"),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "it is a localizer"),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "it is a projection through the body, no slice"),
        (
            {},
            {"ImageType": ["DERIVED", "SECONDARY"], "SOPClassUID": SecondaryCaptureImageStorage},
            "it is a derived secondary capture",
        ),
        ({}, {"PhotometricInterpretation": "RGB"}, "it is no grey image"),
        ({}, {"PixelData": None}, "it has no pixels"),
        ({}, {"PixelSpacing": None}, "its PixelSpacing is missing"),
    ],
)
def test_a_series_that_a_rule_keeps_out_has_one_reason(
    tmp_path: Path, rules: dict[str, Any], attributes: dict[str, Any], reason: str
) -> None:
    images = ct_images(**attributes)
    for image in images:
        if image.get("PixelData") is None:
            del image.PixelData
    one = series_of([write(tmp_path, image) for image in images])
    selection = select(spec(**rules), [one])
    assert selection.chosen == ()
    assert reasons(selection) == [("1.2.4", reason)]


@pytest.mark.parametrize(
    ("rules", "attributes"),
    [
        ({"body_part": ["chest", ""]}, {}),
        ({"description": ["*head*", "tho?ax"]}, {}),
        ({"description": [""]}, {"SeriesDescription": None}),
        ({"description": ["*[c+]*"]}, {"SeriesDescription": "Thorax [C+]"}),
        ({"orientation": ["axial"], "slices": {"min": 6, "max": 6}}, {}),
        ({"thickness_mm": {"min": 1, "max": 2.5}, "spacing_mm": {"min": 2.5, "max": 2.5}}, {}),
        ({"pixel_mm": {"min": 0.5, "max": 0.7}}, {}),
        ({"kernel": ["br*"]}, {"ConvolutionKernel": ["Br40d", "3"]}),
        ({"kernel": ["B*", ""]}, {"ConvolutionKernel": None}),
        ({"contrast": "with"}, {"ContrastBolusAgent": "Iohexol"}),
        ({"contrast": "without"}, {}),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}),
        ({"modality": ["MR"]}, {"Modality": "MR", "SOPClassUID": MRImageStorage, "AcquisitionNumber": None}),
    ],
)
def test_a_series_that_fits_is_chosen(tmp_path: Path, rules: dict[str, Any], attributes: dict[str, Any]) -> None:
    refs = ct_series(tmp_path, **attributes)
    selection = select(spec(**rules), [series_of(refs, modality="", body_part="")])
    assert selection == Selection(tuple(refs), ())


def test_what_the_index_knows_opens_no_file() -> None:
    nowhere = (InstanceRef("1.2.4.1", "1.2.840.10008.5.1.4.1.1.2", "/nowhere"),)
    rules = spec(description=["*thorax*"], body_part=["CHEST"])
    head = SeriesRef("1.2.3", "1.2.4", "CT", "HEAD", "", nowhere)
    scout = SeriesRef("1.2.3", "1.2.5", "CT", "CHEST", "Scout", nowhere)
    selection = select(rules, [head, scout])
    assert selection.chosen == ()
    assert [each.uid for each in selection.passed_over] == ["1.2.4", "1.2.5"]


def test_localizers_in_the_series_are_left_out_one_by_one(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    scouts = ct_series(
        tmp_path, "sagittal", 2, SeriesInstanceUID="1.2.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    selection = select(spec(), [series_of(scouts[:1] + refs + scouts[1:])])
    assert selection.chosen == tuple(refs)
    assert reasons(selection) == [("1.2.8.1", "it is a localizer"), ("1.2.8.2", "it is a localizer")]


# --- which of several -------------------------------------------------------------------------------------------------

LUNG, SOFT = {"ConvolutionKernel": "LUNG"}, {"ConvolutionKernel": "STANDARD"}
THIN, THICK = {"SliceThickness": 1}, {"SliceThickness": 5}
EARLY = {"AcquisitionDate": "20260101", "AcquisitionTime": "235959.9"}
LATE = {"AcquisitionDate": "20260102", "AcquisitionTime": "000000"}


@pytest.mark.parametrize(
    ("prefer", "better", "worse", "why"),
    [
        (["kernel", "thin"], {**LUNG, **THICK}, {**SOFT, **THIN}, "preferred kernel"),
        (["thin", "kernel"], {**SOFT, **THIN}, {**LUNG, **THICK}, "thinner slices"),
        (["thick"], THICK, THIN, "thicker slices"),
        (["kernel", "thin", "many"], {"count": 9}, {"count": 8}, "more slices"),
        (["latest", "thin"], {**LATE, **THICK}, {**EARLY, **THIN}, "acquired later"),
        (["latest"], {"AcquisitionDateTime": "20260103120000"}, LATE, "acquired later"),
    ],
)
def test_the_first_rule_that_tells_two_series_apart_decides(
    tmp_path: Path, prefer: list[str], better: dict[str, Any], worse: dict[str, Any], why: str
) -> None:
    good = made(tmp_path, "1.2.9", **better)
    other = made(tmp_path, "1.2.8", **worse)
    for study in ([good, other], [other, good]):
        selection = select(spec(prefer=prefer, kernel=["LUNG", "*"]), study)
        assert selection.chosen == good.instances
        assert reasons(selection) == [("1.2.8", f"another series of the study suits better: {why}")]


def test_an_original_stands_before_its_reformats_and_a_tie_goes_by_series_number(tmp_path: Path) -> None:
    reformat = made(tmp_path, "1.2.7", ImageType=["DERIVED", "SECONDARY"], SeriesNumber=1)
    second = made(tmp_path, "1.2.8", SeriesNumber=3)
    first = made(tmp_path, "1.2.9", SeriesNumber=2)
    selection = select(spec(), [reformat, second, first])
    assert selection.chosen == first.instances
    assert {reason for _, reason in reasons(selection)} == {"another series of the study suits as well and comes first"}


def test_stacks_in_one_series_are_judged_one_by_one(tmp_path: Path) -> None:
    axial = ct_series(tmp_path, "axial", 5)
    coronal = ct_series(tmp_path, "coronal", 7, SeriesInstanceUID="1.2.8")
    other_size = ct_series(tmp_path, "axial", 3, SeriesInstanceUID="1.2.9", PixelSpacing=[0.9, 0.9])
    one = series_of(axial[:2] + coronal + other_size + axial[2:])
    selection = select(spec(orientation=["axial"], prefer=["many"]), [one])
    assert selection.chosen == tuple(axial)
    assert reasons(selection) == [
        ("1.2.4", "orientation coronal is not among axial"),
        ("1.2.4", "another stack of the series suits better: more slices"),
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"EchoTime": 4.6}, {"EchoTime": 9.2}),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
        ({"AcquisitionTime": "120000"}, {"AcquisitionTime": "120030"}),
    ],
)
def test_images_at_the_same_place_are_told_apart_by_their_acquisition(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    one = ct_series(tmp_path, count=5, **first)
    two = ct_series(tmp_path, count=6, SeriesInstanceUID="1.2.8", **second)
    selection = select(spec(), [series_of([ref for pair in zip(one, two, strict=False) for ref in pair] + two[5:])])
    assert selection.chosen == tuple(two)
    assert reasons(selection) == [("1.2.4", "another stack of the series suits better: more slices")]


def test_an_acquisition_number_for_each_slice_does_not_take_a_series_apart(tmp_path: Path) -> None:
    refs = ct_series(tmp_path, each=lambda k: {"AcquisitionNumber": k, "AcquisitionTime": f"12000{k}"})
    assert select(spec(), [series_of(refs)]).chosen == tuple(refs)


def test_stations_of_a_long_scan_are_stacks_of_their_own(tmp_path: Path) -> None:
    places = [0, 1, 2, 3, 10, 11, 12, 13, 14]
    refs = ct_series(tmp_path, places=places, each=lambda k: {"AcquisitionNumber": 1 + (k > 3)})
    selection = select(spec(), [series_of(refs)])
    assert selection.chosen == tuple(refs[4:])


def test_a_copy_is_left_out_and_contradicting_images_are_no_volume(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    again = ct_images()[2]
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.4.99"
    copy = write(tmp_path, again)
    selection = select(spec(), [series_of([copy, *refs])])
    assert len(selection.chosen) == 6
    assert [reason for _, reason in reasons(selection)] == ["it shows the same as another image of the series"]
    assert load_volume(selection.chosen).values.shape[2] == 6
    again.PixelData = bytes(len(again.PixelData))
    write(tmp_path, again)
    selection = select(spec(), [series_of([copy, *refs])])
    assert selection.chosen == ()
    assert reasons(selection) == [("1.2.4", "different images lie at the same place (1 of 6 places)")]


def test_the_same_instance_in_two_series_counts_once(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    selection = select(spec(), [series_of(refs), series_of(refs, "1.2.9")])
    assert selection.chosen == tuple(refs)
    assert reasons(selection) == [("1.2.9", "the same instance is in the study twice")]


@pytest.mark.parametrize(("turned", "volume"), [(3, 5), (4, 0)])
def test_of_an_image_with_several_stacks_the_largest_can_be_read(tmp_path: Path, turned: int, volume: int) -> None:
    image = enhanced(count=8)
    order = np.random.default_rng(1).permutation(8)
    for frame, place in zip(image.PerFrameFunctionalGroupsSequence, order, strict=True):
        if place >= 8 - turned:
            orientation = Dataset()
            orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
            frame.PlaneOrientationSequence = [orientation]
            frame.PlanePositionSequence[0].ImagePositionPatient = [0, 4 * int(place), 0]
    ref = write(tmp_path, image)
    selection = select(spec(), [series_of([ref])])
    assert reasons(selection) == [("1.2.4", "its images hold another stack as large or larger")]
    if volume:
        assert selection.chosen == (ref,)
        found = load_volume(selection.chosen)
        assert [int(order[frame - 1]) for _, frame in found.frames] == [0, 1, 2, 3, 4]
    else:
        assert selection.chosen == ()
        with pytest.raises(ReadingError, match="they make 2 stacks"):
            load_volume([ref])


# --- what cannot be read fails visibly --------------------------------------------------------------------------------


def test_a_stack_that_lacks_a_slice_is_chosen_only_where_there_is_no_other(tmp_path: Path) -> None:
    whole = made(tmp_path, "1.2.8", count=12, SliceThickness=5)
    lacking = made(tmp_path, "1.2.9", count=12, SliceThickness=1)
    lacking = series_of(lacking.instances[:7] + lacking.instances[8:], "1.2.9")
    reason = "1 slice is missing: after slice 7 of 11 (from the feet) the next lies 5 mm on, not 2.5 mm"
    both = select(spec(), [lacking, whole])
    assert both.chosen == whole.instances
    assert reasons(both) == [("1.2.9", reason)]
    alone = select(spec(), [lacking])
    assert alone.chosen == lacking.instances
    with pytest.raises(ReadingError, match="1 slice is missing"):
        load_volume(alone.chosen)


def test_a_slice_whose_header_cannot_be_read_is_not_lost_in_silence(tmp_path: Path) -> None:
    torn = made(tmp_path, "1.2.9", SliceThickness=1)
    Path(torn.instances[5].content).write_bytes(b"torn")
    alone = select(spec(), [torn])
    assert alone.chosen == torn.instances
    with pytest.raises(ReadingError, match=r"instance 1\.2\.9\.6: the file is no DICOM"):
        load_volume(alone.chosen)
    whole = made(tmp_path, "1.2.8", SliceThickness=5)
    both = select(spec(), [torn, whole])
    assert both.chosen == whole.instances
    assert reasons(both) == [
        ("1.2.9", "an image of its series cannot be read"),
        ("1.2.9.6", "its header cannot be read"),
    ]


def test_a_series_of_which_nothing_can_be_read_is_chosen_so_that_it_fails(tmp_path: Path) -> None:
    refs = ct_series(tmp_path)
    for ref in refs:
        Path(ref.content).write_bytes(b"torn")
    assert select(spec(), [series_of(refs)]).chosen == tuple(refs)


def test_reasons_repeat_no_free_text(tmp_path: Path) -> None:
    secret = {
        "SeriesDescription": "SECRET",
        "ConvolutionKernel": "Secret Name",
        "PatientName": "SECRET",
        "ContrastBolusAgent": "SECRET",
    }
    refs = ct_series(tmp_path, **secret)
    for rules in ({"kernel": ["B*"]}, {"description": ["x"]}, {"contrast": "without"}):
        told = reasons(select(spec(**rules), [series_of(refs)]))
        assert len(told) == 1
        assert "secret" not in str(told).lower()


# --- and for single images --------------------------------------------------------------------------------------------


def test_descriptions_choose_among_radiographs_too(tmp_path: Path) -> None:
    one = write_image(tmp_path, "1.2.3.1", SeriesDescription="Chest PA")
    two = write_image(tmp_path, "1.2.3.2", SeriesDescription="Chest PA bone suppressed")
    rules = InputSpec.model_validate({"modality": ["DX"], "description": ["chest*"], "not_description": ["*bone*"]})
    series = SeriesRef("1.2.3", "1.2.4", "DX", "", "", (one, two))
    selection = select(rules, [series])
    assert selection.chosen == (one,)
    assert reasons(selection) == [("1.2.3.2", "the series description is one that the model does not take")]


# --- the cost ---------------------------------------------------------------------------------------------------------


def test_the_chest_ct_is_chosen_by_headers_alone(real_data: Path) -> None:
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in (real_data / "dicom/chest-ct/dicom").iterdir()]
    refs = [InstanceRef(str(each.SOPInstanceUID), str(each.SOPClassUID), str(each.filename)) for each in images]
    rules = spec(orientation=["axial"], thickness_mm={"max": 1.5}, slices={"min": 50}, contrast="without")
    started = time.process_time()
    selection = select(rules, [series_of(refs, str(images[0].SeriesInstanceUID))])
    assert time.process_time() - started < 2.0  # ten times what it takes
    assert len(selection.chosen) == 60
    places = {str(each.SOPInstanceUID): float(each.ImagePositionPatient[2]) for each in images}
    along = [places[uid] for uid in uids(selection)]
    assert along == sorted(along)
