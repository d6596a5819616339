"""The key images: a Key Object Selection Document (PS3.3 A.35.4) by TID 2010, titled "Of Interest".

It names the images with findings, the most certain finding first: a PACS that cannot show boxes still leads a reader to
the images. Start here for which images are selected (:func:`selection`).
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai.contract import Reading
from dicom_node.results import highdicom_mends, uids, verdict
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.objects import sr
from dicom_node.results.run import Run
from dicom_node.results.source import check_findings, read_sources
from dicom_node.results.source_bytes import frames_of


def build(run: Run, headers: Sequence[Dataset]) -> list[Dataset]:
    """The selection of a run, alone in its list; an empty list if nothing was found or the reading failed.

    ``headers`` are those of ``run.reading.sources``, in order. The result keeps copied attributes as raw bytes: write
    it with :func:`encode.to_bytes`.

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not those of the reading's sources, or a finding lies on another image.
    """
    selected = selection(run.reading)
    if not selected:
        return []
    sources = read_sources(run.reading.sources, headers)
    check_findings(run.reading.findings, sources)
    by_uid = {image.sop_instance_uid: image for image in sources}
    images = [by_uid[uid] for uid in selected]
    run = fitted(run, images[0].header)
    incomplete = [run.words.incomplete] if verdict.is_incomplete(run.reading) else []
    content = KeyObjectSelection(
        document_title=codes.DCM.OfInterest,
        referenced_objects=[highdicom_mends.key_image_reference(image) for image in images],
        observer_device_context=sr.observer(run),
        description=". ".join([run.words.key_images, *incomplete, *run.warnings]),
    )
    document: Dataset = KeyObjectSelectionDocument(
        evidence=[image.stand_in for image in images],
        content=content,
        **identity(run, images[0], "kos", 0),
    )
    for entry, image in zip(highdicom_mends.unnamed_key_images(document), images, strict=True):
        frames = selected[image.sop_instance_uid]
        if frames and frames_of(image.header) > 1:
            entry.ReferencedSOPSequence[0].ReferencedFrameNumber = frames
        # TID 2010 has no tracking identifier. Observation UID (PS3.3 C.17.3.2.5) is the UID of what an item observes.
        if (number := _most_certain(run.reading, image.sop_instance_uid)) is not None:
            entry.ObservationUID = uids.tracking_uid(run.key, number)
    finish(document, run, images)
    return [document]


def _most_certain(reading: Reading, uid: str) -> int | None:
    """The number of the most certain finding on an image. None if there is none."""
    here = [number for number, finding in enumerate(reading.findings) if finding.region.sop_instance_uid == uid]
    return max(here, key=lambda number: reading.findings[number].score, default=None)


def selection(reading: Reading) -> dict[str, list[int]]:
    """The selected instances by their UID, with the selected frames; the most certain finding first.

    A class that is present without a finding selects the frames of its outlines and heat maps; if it has none, it may
    lie anywhere, and all sources follow without frames.
    """
    selected: dict[str, list[int]] = {}
    if reading.failure:
        return selected
    for finding in sorted(reading.findings, key=lambda finding: -finding.score):  # equal scores keep their order
        frames = selected.setdefault(finding.region.sop_instance_uid, [])
        if finding.region.frame not in frames:
            frames.append(finding.region.frame)
    for result in verdict.unplaced(reading):
        places = _places(reading, result.key)
        for uid, frame in places:
            frames = selected.setdefault(uid, [])
            if frame not in frames:
                frames.append(frame)
        if not places:
            for ref in reading.sources:
                selected.setdefault(ref.sop_instance_uid, [])
    return selected


def _places(reading: Reading, key: str) -> list[tuple[str, int]]:
    """The instances and frames on which outlines and heat maps show a class that has no finding."""
    return [
        *(
            (ref.sop_instance_uid, frame)
            for one in reading.segmentations
            for segment in one.segments
            if segment.key == key
            for (ref, frame), mask in zip(one.frames, segment.mask, strict=True)
            if (mask >= 0.5).any()
        ),
        *((each.sop_instance_uid, each.frame) for each in reading.heat_maps if each.key == key),
    ]
