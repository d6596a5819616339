"""Where a finding is, in its measurement group of the report: a box on an image, or a segment of a Segmentation object.

A finding with a segment has the group of a volume (PS3.16 TID 1411): it refers to the segment and gives its volume.
Every other one has the group of a plane (TID 1410) with its box. The box of both is repeated below the first
measurement (:func:`highdicom_mends.add_inferred_from`): OHIF loads a group only if it finds a region there.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContentItem,
    ImageContentItem,
    ImageRegion,
    NumContentItem,
    SourceImageForRegion,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai.contract import Finding
from dicom_node.results import uids
from dicom_node.results.objects.seg import SegmentReference
from dicom_node.results.run import Run
from dicom_node.results.source import Source, on_image
from dicom_node.results.source_bytes import frames_of

_BOUNDED_BY = CodedConcept("75958009", "SCT", "Bounded by")
_REFERENCED_SEGMENT = CodedConcept("121191", "DCM", "Referenced Segment")
_OUTLINE = CodedConcept("111041", "DCM", "Outline")
_SOURCE_SERIES = CodedConcept("121232", "DCM", "Source series for segmentation")
_VOLUME = CodedConcept("118565006", "SCT", "Volume")
_MILLILITRE = CodedConcept("mL", "UCUM", "milliliter")


@dataclass(frozen=True, slots=True)
class Roi:
    """What a measurement group says of a place.

    ``template`` is its TID, ``measurements`` come behind the other ones, ``items`` are the last ones of the group, and
    ``region`` is the box.
    """

    template: str
    measurements: tuple[NumContentItem, ...]
    items: tuple[ContentItem, ...]
    region: ImageRegion


def roi_of(run: Run, finding: Finding, image: Source, segment: SegmentReference | None) -> Roi:
    """The place of a finding on ``image``, with its segment if it has one."""
    region = _box(finding, image)
    if segment is None or run.profile.viewer == "ohif":
        # OHIF loads measurements only from an Image Region, which a group with a segment cannot have.
        purpose = CodeContentItem(codes.DCM.GeometricPurposeOfRegion, _BOUNDED_BY, relationship_type="CONTAINS")
        return Roi("1410", _volume(run, finding), (purpose, region), region)
    reference = ImageContentItem(
        _REFERENCED_SEGMENT,
        segment.sop_class_uid,
        segment.sop_instance_uid,
        referenced_segment_numbers=[segment.number],
        relationship_type="CONTAINS",
    )
    series = UIDRefContentItem(_SOURCE_SERIES, image.stand_in.SeriesInstanceUID, relationship_type="CONTAINS")
    return Roi("1411", _volume(run, finding), (reference, series, _named_outline(region)), region)


def _named_outline(region: ImageRegion) -> ImageRegion:
    """The box on the key slice under another name: TID 1411 admits Image Region or Referenced Segment, and not both.

    OHIF shows a group only if an SCOORD is among its items, whatever its name; it loads none but an Image Region.
    """
    outline = copy.deepcopy(region)
    outline.ConceptNameCodeSequence = [_OUTLINE]
    return outline


def add_evidence(document: Dataset, run: Run, segments: dict[str, SegmentReference]) -> None:
    """Name the Segmentation objects that the report refers to in its evidence (PS3.3 C.17.2.3), in place."""
    objects = sorted({(segment.sop_instance_uid, segment.sop_class_uid) for segment in segments.values()})
    if not objects:
        return
    series = Dataset()
    series.SeriesInstanceUID = uids.series_uid(run.objects_key, "seg")
    series.ReferencedSOPSequence = []
    for uid, sop_class in objects:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
        series.ReferencedSOPSequence.append(reference)
    document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.append(series)


def _volume(run: Run, finding: Finding) -> tuple[NumContentItem, ...]:
    """The volume of a finding's segment in ml; three significant figures, for no outline is more exact."""
    for segmentation in run.reading.segmentations:
        for segment in segmentation.segments:
            if finding.part and segment.part == finding.part and segment.volume_ml is not None:
                value = float(f"{segment.volume_ml:.3g}")
                return (NumContentItem(_VOLUME, value, _MILLILITRE, relationship_type="CONTAINS"),)
    return ()


def _box(finding: Finding, image: Source) -> ImageRegion:
    """The box as a closed polyline, clockwise from its top left corner: 5 x (column, row) (PS3.3 C.18.6.1.2).

    A box that reaches beyond the image is cut at its border: graphic data must lie on the image.
    """
    left, top, right, bottom = on_image(finding.region, image.header)
    return ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]),
        source_image=SourceImageForRegion(
            image.stand_in.SOPClassUID,
            image.stand_in.SOPInstanceUID,
            [finding.region.frame] if frames_of(image.header) > 1 else None,
        ),
    )
