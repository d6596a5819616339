"""The segments of a Segmentation object: what each is, which algorithm drew it, its name, tracking and colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept

from ai import contract
from dicom_node.results import uids, verdict
from dicom_node.results.encode import concept
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.run import Run
from dicom_node.results.source_text import within

_ARTIFICIAL_INTELLIGENCE = CodedConcept("123110", "DCM", "Artificial Intelligence")


def descriptions(run: Run, segmentation: int, drawn: Sequence[int]) -> list[SegmentDescription]:
    """For each segment: what it is, which algorithm drew it, how to track and to display it (PS3.3 C.8.20.4).

    Args:
        run: fitted to the source's character set.
        segmentation: the number of the segmentation in the reading, from 0.
        drawn: the numbers of those of its segments that have pixels, from 0.
    """
    model = run.reading.model
    algorithm = AlgorithmIdentificationSequence(
        name=within(model.name, 64),
        version=within(model.version, 64),
        family=_ARTIFICIAL_INTELLIGENCE,
        source=within(model.manufacturer, 64),
        parameters={"weights SHA-256": model.digest},
    )
    segments = [run.reading.segmentations[segmentation].segments[index] for index in drawn]
    palette = Palette(run.reading)
    findings = {finding.part: number for number, finding in enumerate(run.reading.findings) if finding.part}
    descriptions = []
    for number, (segment, label) in enumerate(zip(segments, _labels(run, segments), strict=True)):
        description = SegmentDescription(
            segment_number=number + 1,
            segment_label=label,
            segmented_property_category=concept(segment.category),
            segmented_property_type=concept(segment.code),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            **_tracking(run, findings.get(segment.part), (segmentation, drawn[number]), segment.name),
            anatomic_regions=None if segment.site is None else [concept(segment.site)],
            display_color=_colour(palette, segment),
        )
        description.SegmentDescription = within(". ".join([f"{model.name} {model.version}", *run.warnings]), 1024)
        if segment.laterality is not None:
            side = [concept(segment.laterality)]
            if segment.site is not None:
                description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
            else:
                description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
        descriptions.append(description)
    return descriptions


def _tracking(run: Run, finding: int | None, place: tuple[int, int], name: str) -> dict[str, str]:
    """The tracking of a segment: that of the finding that it outlines, else one by its place in the reading."""
    if finding is not None:
        return {"tracking_uid": uids.tracking_uid(run.key, finding), "tracking_id": verdict.tracking_id(run, finding)}
    segmentation, segment = place
    return {
        "tracking_uid": uids.segment_uid(run.key, segmentation, segment),
        "tracking_id": f"AI segment {segmentation + 1}.{segment + 1}: {name}",
    }


def _labels(run: Run, segments: Sequence[contract.Segment]) -> list[str]:
    """The names of the segments, with their side; numbered if several have the same name."""
    names = []
    for segment in segments:
        name, side = verdict.finding_name(run, segment), segment.laterality
        if side is not None and not {side.meaning.lower(), run.words.name(side, "").lower()} & set(
            name.lower().split()
        ):
            name = f"{name}, {run.words.name(side, side.meaning.lower())}"
        names.append(name)
    total, seen = Counter(names), Counter[str]()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(f"{within(name, 58)} {seen[name]}" if total[name] > 1 else within(name, 64))
    return labels


def _colour(palette: Palette, segment: contract.Segment) -> CIELabColor:
    """The segment's colour in the pictures; darker if another segment has the same colour."""
    colour, before = palette.segment(segment)
    shade = (1.0, 0.7, 0.45)[before % 3]
    return CIELabColor.from_rgb(*(shade * part for part in colour))
