"""The order behind the images is named in every result, in the words and characters of the image."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ai.contract import Code, Segment, Segmentation
from dicom_node.config.settings import Profile
from dicom_node.results import encode, uids
from tests.results.test_common import BOXES, Held, run_of, with_raw
from tests.support.samples import make_image


def request(**attributes: Any) -> Dataset:
    item, procedure = Dataset(), Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "CXR2", "99RIS", "Thorax pa"
    item.AccessionNumber = "ACC-7"
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP1", "SPS1"
    item.RequestedProcedureDescription = "Röntgen Thorax"
    item.RequestedProcedureCodeSequence = Sequence([procedure])
    for name, value in attributes.items():
        setattr(item, name, value)
    return item


def located(**attributes: Any) -> Dataset:
    return make_image(
        SpecificCharacterSet="ISO_IR 100",
        AccessionNumber="ACC-7",
        FrameOfReferenceUID="1.2.9",
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[1, 1],
        Modality="CT",
        SliceThickness=1,
        **attributes,
    )


def results(image: Dataset, **profile: Any) -> dict[str, Dataset]:
    """One object of each role, as another program reads it; the finding is outlined."""
    outputs = ("sr", "sc", "gsps", "seg", "pdf", "kos")
    run = run_of(image, boxes=BOXES["one"], rows=64, columns=64, profile={"outputs": outputs, **profile})
    (found,) = run.reading.findings
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10:20, 10:20] = True
    category = Code("49755003", "SCT", "Morphologically Abnormal Structure")
    segment = Segment(found.key, found.name, found.code, category, mask, part="one", volume_ml=0.12345)
    drawn = Segmentation("binary", ((run.reading.sources[0], 1),), (segment,))
    reading = replace(run.reading, findings=(replace(found, part="one"),), segmentations=(drawn,))
    made = encode(replace(run, reading=reading), Held(image, picture=np.zeros((64, 64), np.uint8)))
    return {each.role: pydicom.dcmread(BytesIO(each.content)) for each in made}


@pytest.mark.parametrize("characters", ["source", "utf-8"])
def test_every_result_names_the_order(characters: str) -> None:
    image = located(RequestAttributesSequence=[request()], InstitutionName="Klinik Süd", StationName="CT3")
    found = results(image, character_set=characters)
    assert set(found) == {"sr", "sc", "gsps", "seg", "pdf", "kos"}
    for role, result in found.items():
        assert (result.InstitutionName, result.StationName) == ("Klinik Süd", "CT3"), role
        keyword = "ReferencedRequestSequence" if role in ("sr", "kos") else "RequestAttributesSequence"
        (item,) = result[keyword].value
        assert item.RequestedProcedureID == "RP1", role
        assert item.RequestedProcedureDescription == "Röntgen Thorax", role
        assert item.RequestedProcedureCodeSequence[0].CodeMeaning == "Thorax pa", role
        assert item.AccessionNumber == "ACC-7", role
        other = "RequestAttributesSequence" if role in ("sr", "kos") else "ReferencedRequestSequence"
        assert other not in result, role
    for role in ("sr", "kos"):
        (item,) = found[role].ReferencedRequestSequence
        assert item.StudyInstanceUID == image.StudyInstanceUID
        assert item["PlacerOrderNumberImagingServiceRequest"].value in ("", None)  # type 2


def test_an_accession_number_alone_is_a_request() -> None:
    (item,) = results(located())["sr"].ReferencedRequestSequence
    assert (item.AccessionNumber, item["RequestedProcedureID"].value) == ("ACC-7", "")


def test_without_an_order_none_is_invented() -> None:
    image = located()
    image.AccessionNumber = ""
    for role, result in results(image).items():
        assert "ReferencedRequestSequence" not in result, role
        assert "RequestAttributesSequence" not in result, role


def test_an_empty_item_says_nothing() -> None:
    empty = Dataset()
    empty.RequestedProcedureID = empty.ScheduledProcedureStepID = ""
    found = results(located(RequestAttributesSequence=[empty]))
    assert "RequestAttributesSequence" not in found["sc"]


@pytest.mark.parametrize(
    "hostile",
    [
        "long",
        "deep",
        b"\xfe\xff\x00\xe0\xff\xff\xff\x7f",
    ],
    ids=["long", "deep", "broken"],
)
def test_what_is_longer_or_deeper_than_any_order_is_left_out(hostile: Any) -> None:
    image = located()
    if hostile == "deep":
        hostile = request()
        for _ in range(50):
            outer = Dataset()
            outer.RequestedProcedureCodeSequence = Sequence([hostile])
            hostile = outer
    if hostile == "long":
        hostile = request(RequestedProcedureCodeSequence=[request() for _ in range(2000)])
    if isinstance(hostile, bytes):
        with_raw(image, RequestAttributesSequence=hostile)
    else:
        image.RequestAttributesSequence = [hostile]
    for role, result in results(image).items():
        assert "RequestAttributesSequence" not in result, role


def test_a_finding_and_its_segment_have_one_tracking_uid_and_the_report_refers_to_it() -> None:
    image = located()
    found = results(image)
    run = run_of(image, boxes=BOXES["one"], profile={"outputs": Profile().outputs})
    uid = uids.tracking_uid(run.key, 0)
    (segment,) = found["seg"].SegmentSequence
    (mark,) = found["gsps"].GraphicAnnotationSequence[0].GraphicObjectSequence
    (key_image,) = (item for item in found["kos"].ContentSequence if item.ValueType == "IMAGE")
    assert (segment.TrackingUID, mark.TrackingUID, key_image.ObservationUID) == (uid, uid, uid)
    measurements = next(each for each in found["sr"].ContentSequence if _name(each) == "126010")
    (group,) = measurements.ContentSequence
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    parts = {_name(item): item for item in group.ContentSequence}
    assert uid == parts["112040"].UID
    (reference,) = parts["121191"].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == found["seg"].SOPInstanceUID
    assert reference.ReferencedSegmentNumber == segment.SegmentNumber
    assert image.SeriesInstanceUID == parts["121232"].UID
    volume = parts["118565006"].MeasuredValueSequence[0]
    assert (float(volume.NumericValue), volume.MeasurementUnitsCodeSequence[0].CodeValue) == (0.123, "mL")
    first = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    assert [each.ValueType for each in first.ContentSequence] == ["SCOORD"]  # OHIF asks for it
    evidence = found["sr"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert found["seg"].SeriesInstanceUID in {series.SeriesInstanceUID for series in evidence}


def test_ohif_gets_the_region_under_the_name_that_it_shows_or_loads() -> None:
    """OHIF 3.12 shows a group with any SCOORD, and loads one with an Image Region (looked at in the viewer)."""
    for viewer, template, name in (("any", "1411", "111041"), ("ohif", "1410", "111030")):
        report = results(located(), viewer=viewer)["sr"]
        (group,) = next(each for each in report.ContentSequence if _name(each) == "126010").ContentSequence
        assert group.ContentTemplateSequence[0].TemplateIdentifier == template
        (region,) = (item for item in group.ContentSequence if item.ValueType == "SCOORD")
        assert _name(region) == name
        assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert any(_name(item) == "118565006" for item in group.ContentSequence)


def test_without_a_segmentation_object_the_report_has_the_box() -> None:
    image = located()
    del image.FrameOfReferenceUID
    measurements = next(each for each in results(image)["sr"].ContentSequence if _name(each) == "126010")
    (group,) = measurements.ContentSequence
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""
