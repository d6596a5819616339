"""Where highdicom 0.28 is corrected: every mend of its objects, each with its reason.

Two things that highdicom makes necessary are elsewhere, because they are how an object is built and not a correction of
it: the stand-ins that it is given in place of the sources (:class:`source.Source`; those of a Segmentation's frames in
:mod:`objects.seg`), and the parts of TID 1500 that :mod:`objects.sr` builds itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from highdicom import ContributingEquipment
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node import __version__
from dicom_node.results.run import SCHEME, Run
from dicom_node.results.source import Source
from dicom_node.results.source_bytes import tag_of
from dicom_node.results.source_text import within
from dicom_node.results.times import local_time
from dicom_node.results.uids import device_uid

# --- every object ---------------------------------------------------------------------------------------------------


def empty_patient_and_study(source: Source) -> dict[str, Any]:
    """Arguments for highdicom's base class ``SOPClass``: it demands patient and study, so it is given empty ones.

    :func:`encode.finish` copies the source's own afterwards.
    """
    patient = ["patient_id", "patient_name", "patient_birth_date", "patient_sex"]
    study = ["study_id", "accession_number", "study_date", "study_time"]
    return {"study_instance_uid": source.stand_in.StudyInstanceUID, **dict.fromkeys([*patient, *study], "")}


def set_creation_time(dataset: Dataset, at: datetime) -> None:
    """Set Instance Creation Date and Time, in place: highdicom reads the clock, so a second encoding would differ."""
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")


def set_equipment(dataset: Dataset, run: Run, at: datetime) -> None:
    """Name the model and the node in Contributing Equipment Sequence (PS3.3 C.12.1.1.5), in place.

    highdicom names itself there, with the clock's time and without the Device UID that IHE AI Results (AIR) requires.
    The node's item says with which settings the results were made.
    """
    model = run.reading.model
    # A time without a zone is local, as all other times here. dcmpschk 3.6.7 rejects the zone +0000, and no other.
    moment = at.strftime("%Y%m%d%H%M%S.%f%z").removesuffix("+0000")
    equipment = ContributingEquipment(
        manufacturer=within(model.manufacturer, 64),
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=within(f"{model.name} {model.version}", 64),
        software_versions=__version__,
        device_serial_number=within(model.digest, 64),
        contribution_datetime=moment,
        contribution_description="AI reading of the source images",
    )
    equipment.DeviceUID = device_uid(run.site, model)
    node = ContributingEquipment(
        manufacturer="dicom-node",
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name="dicom-node",
        software_versions=__version__,
        contribution_datetime=moment,
        contribution_description=f"Selection of the images, result objects; settings SHA-256 {run.profile.digest}",
    )
    dataset.ContributingEquipmentSequence = [equipment, node]


def restore_references(dataset: Dataset, sources: Sequence[Source]) -> None:
    """Replace the stand-ins' UIDs by the sources' own, in place and at any depth.

    highdicom refuses UIDs that are not well-formed, so it was given the stand-ins'. The sources' UIDs are written as
    they are, well-formed or not.
    """
    uids = {}
    classes = {}
    for source in sources:
        uids[source.stand_in.SOPInstanceUID] = source.sop_instance_uid
        uids[source.stand_in.SeriesInstanceUID] = source.series_instance_uid
        uids[source.stand_in.StudyInstanceUID] = source.study_instance_uid
        classes[source.stand_in.SOPInstanceUID] = source.sop_class_uid
    for item in _items(dataset):
        if "ReferencedSOPInstanceUID" in item and item.ReferencedSOPInstanceUID in classes:
            _set_uid(item, "ReferencedSOPClassUID", classes[item.ReferencedSOPInstanceUID])
        for keyword in ("ReferencedSOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "UID"):  # UID: of UIDREF
            # A source without a study or series UID keeps the stand-in's: without one the object cannot be stored.
            if keyword in item and uids.get(item[keyword].value):
                _set_uid(item, keyword, uids[item[keyword].value])


def name_coding_scheme(dataset: Dataset) -> None:
    """Name our own coding scheme in Coding Scheme Identification Sequence (PS3.3 C.12.1.1.1), in place, if it is used.

    highdicom names none, and nobody else knows what a code of ours means.
    """
    parts = Dataset()
    for element in dataset:
        # The groups of each frame hold no codes of ours, and may be thousands.
        if element.VR == "SQ" and element.tag != tag_of("PerFrameFunctionalGroupsSequence"):
            parts[element.tag] = element
    if any(item.get("CodingSchemeDesignator") == SCHEME for item in _items(parts)):
        scheme = Dataset()
        scheme.CodingSchemeDesignator = SCHEME
        scheme.CodingSchemeName = "Codes of dicom-node"
        scheme.CodingSchemeResponsibleOrganization = "dicom-node project"
        dataset.CodingSchemeIdentificationSequence = [scheme]


# --- Structured Report ----------------------------------------------------------------------------------------------


def set_content(document: Dataset, root: Dataset) -> None:
    """Set the content tree of a finished SR document, in place.

    highdicom copies the tree twice and walks it five times, which is half of the time that a report takes. So the
    document is built with the image library alone, which names every image that the content refers to.
    """
    document.ContentSequence = root.ContentSequence


def add_inferred_from(measurement: Dataset, region: Dataset) -> None:
    """Add a region below the measurement that was inferred from it (PS3.16 TID 320), in place.

    TID 320 gives that SCOORD no concept name. highdicom cannot build an item without a name, cannot collect the
    evidence of a document that has one, and allows none in a planar ROI. So the item is added to the finished document.
    """
    inferred = Dataset()
    inferred.RelationshipType = "INFERRED FROM"
    inferred.ValueType = "SCOORD"
    inferred.GraphicType = region.GraphicType
    inferred.GraphicData = region.GraphicData
    inferred.ContentSequence = list(region.ContentSequence)
    # An assignment as an attribute is refused: highdicom's content items check that each child has a name.
    tag = tag_of("ContentSequence")
    measurement[tag] = DataElement(tag, "SQ", [inferred])


# --- Secondary Capture ----------------------------------------------------------------------------------------------


def mend_secondary_capture(dataset: Dataset, run: Run, source: Source) -> None:
    """Correct what highdicom's ``SCImage`` sets wrongly or leaves out, in place."""
    at = local_time(run, source.header)
    # highdicom reads the clock.
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    dataset.ImageType = ["DERIVED", "SECONDARY"]  # highdicom adds OTHER, a value without a defined meaning
    dataset.ConversionType = "WSD"  # highdicom writes DI (digitized interface); the picture was made on a workstation
    dataset.BurnedInAnnotation = "YES"  # highdicom leaves it out; the scores are burned in
    # highdicom demands an orientation. It is the source's; empty (type 2C) if the source does not give one.
    dataset.PatientOrientation = None


def set_picture(dataset: Dataset, rgb: NDArray[np.uint8]) -> None:
    """Set the pixels (rows x columns x 3) of a finished Secondary Capture: highdicom copies a picture twice.

    The array is not copied here either, so it must not be written to afterwards.
    """
    pixels: Any = np.ascontiguousarray(rgb).data.cast("B")
    tag = tag_of("PixelData")
    # 8 bits allocated are OB (PS3.5 A.2); highdicom leaves OB or OW open.
    dataset[tag] = RawDataElement(tag, "OB", len(pixels), pixels, 0, False, True)


# --- Segmentation ---------------------------------------------------------------------------------------------------


def set_dimension_organization(segmentation: Dataset, uid: str) -> None:
    """Set the Dimension Organization UID (0020,9164), in place: highdicom draws a random one."""
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for dimension in segmentation.DimensionIndexSequence:
        dimension.DimensionOrganizationUID = uid


def name_each_instance_once(segmentation: Dataset, stand_ins: Sequence[Source]) -> None:
    """Name a multi-frame source once in the references of the whole object, in place.

    highdicom was given one stand-in for each frame, so it names such a source once for each of its frames.
    """
    first: dict[str, str] = {}
    for each in stand_ins:
        first.setdefault(each.sop_instance_uid, each.stand_in.SOPInstanceUID)
    kept = set(first.values())
    (series,) = segmentation.ReferencedSeriesSequence
    for item, keyword in ((segmentation, "SourceImageSequence"), (series, "ReferencedInstanceSequence")):
        setattr(item, keyword, [ref for ref in item[keyword].value if ref.ReferencedSOPInstanceUID in kept])


def name_background_last(segmentation: Dataset) -> None:
    """Move the background of a label map behind its segments, in place: highdicom describes it first.

    The standard gives the items no order (PS3.3 C.8.20.2). OHIF 3.12 and 3.13 take the colours by it: with the
    background first, each segment has the colour of the one before, and the first is black.
    """
    segmentation.SegmentSequence = sorted(segmentation.SegmentSequence, key=lambda item: item.SegmentNumber == 0)


# --- Key Object Selection -------------------------------------------------------------------------------------------


def key_image_reference(image: Source) -> Dataset:
    """An image as highdicom's ``KeyObjectSelection`` takes it: only what has Rows and Columns becomes an IMAGE item."""
    reference = Dataset()
    reference.SOPClassUID, reference.SOPInstanceUID = image.stand_in.SOPClassUID, image.stand_in.SOPInstanceUID
    reference.Rows = reference.Columns = 1
    return reference


def unnamed_key_images(document: Dataset) -> list[Dataset]:
    """The IMAGE items of a Key Object Selection, whose concept names are deleted: TID 2010 does not allow them."""
    entries = [item for item in document.ContentSequence if item.ValueType == "IMAGE"]
    for entry in entries:
        del entry.ConceptNameCodeSequence
    return entries


def _items(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)


def _set_uid(item: Dataset, keyword: str, uid: str) -> None:
    item[keyword] = DataElement(tag_of(keyword), "UI", uid, validation_mode=config.IGNORE)
