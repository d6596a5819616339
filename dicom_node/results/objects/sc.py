"""The pictures: Secondary Capture Image objects (PS3.3 A.8.1), one series, with the findings burned in.

Start here for: the attributes of a picture (:func:`_capture`) and the picture of the PDF page (:func:`page_picture`).
Which pictures there are, and what is drawn on them, is decided in :class:`pictures.scene.Scene`.

Every viewer shows these objects, so they say everything in words: what was found and how certain it is, what was not
found, what was not read, by which model, and that it is not for diagnosis. Only boxes, outlines and labels lie on the
image; they hide no finding. The words are in a black band below the image, so the object has more rows than its source,
but the same origin: its pixel coordinates are the source's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.results import highdicom_mends
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.pictures.scene import Scene, Shot, pixel_aspect
from dicom_node.results.pictures.slices import Frame
from dicom_node.results.run import Run
from dicom_node.results.source import Source, read_sources
from dicom_node.results.source_bytes import copy_attributes, copy_laterality, copy_optional, frames_of, text_of
from dicom_node.results.source_text import within
from dicom_node.results.times import local_time

if TYPE_CHECKING:
    from dicom_node.results.images import Images

_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def build(run: Run, headers: Sequence[Dataset], images: Images) -> Iterator[Dataset]:
    """The Secondary Captures of a run, one after another; the Instance Number is the place of each.

    ``headers`` are in the order of ``run.reading.sources``. Pixels are read when they are drawn, and never for a
    reading that failed. The results keep copied attributes as raw bytes: write them with :func:`encode.to_bytes`.

    Raises:
        ReadingError: the sources are not all of one patient.
        ValueError: a header is not that of its source, or pixels do not have the expected shape and type.
    """
    sources = read_sources(run.reading.sources, headers)
    run = _ready(run, headers)
    for index, shot in enumerate(Scene(run, headers, images).shots()):
        yield _capture(run, sources, shot, index)


def page_picture(run: Run, headers: Sequence[Dataset], images: Images) -> NDArray[np.uint8] | None:
    """The one picture (rows x columns x 3) for the PDF page, with boxes and labels and without a legend.

    It is the image, or the slice of a stack, with the most certain finding; for a stack without findings, the montage.
    Numbers in place of labels are those of the findings in ``run.reading.findings``, from 1. None if the reading failed
    or the image cannot be displayed.

    Raises:
        ValueError: pixels do not have the expected shape and type.
    """
    return Scene(_ready(run, headers), headers, images).page()


def _ready(run: Run, headers: Sequence[Dataset]) -> Run:
    """The run with texts that the source's character set can hold, and with its time in the source's zone."""
    run = fitted(run, headers[0])
    return dataclasses.replace(run, created=local_time(run, headers[0]))


def _capture(run: Run, sources: Sequence[Source], shot: Shot, index: int) -> Dataset:
    # A card without an image refers to all sources.
    shown = list(dict.fromkeys(frame.source for frame in shot.frames)) or list(range(len(sources)))
    used = [sources[number] for number in shown]
    first = used[0]
    picture = SCImage(
        pixel_array=_NO_PIXELS,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=first.stand_in.StudyInstanceUID,
        **identity(run, first, "sc", index),
    )
    highdicom_mends.mend_secondary_capture(picture, run, first)
    picture.SourceImageSequence = [
        _reference(sources[number], [frame for frame in shot.frames if frame.source == number]) for number in shown
    ]
    model = run.reading.model
    point = run.reading.operating_point
    words = f"{shot.how}. Model: {model.name} {model.version}{f', operating point {point}' if point else ''}. "
    words += ". ".join(run.warnings)
    picture.DerivationDescription = within(words.strip(), 1024)
    finish(picture, run, used)
    copy_optional(first.header, picture, ["BodyPartExamined"])
    copy_laterality(first.header, picture)
    if shot.pixels_of_source:
        copy_optional(first.header, picture, ["PatientOrientation"])
        aspect = pixel_aspect(first.header)
        if aspect is not None:
            picture.PixelAspectRatio = list(aspect)
    lossy = [source for source in used if text_of(source.header, "LossyImageCompression") == "01"]
    if shot.frames and lossy:
        copy_attributes(
            lossy[0].header,
            picture,
            ["LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"],
        )
    highdicom_mends.set_picture(picture, shot.rgb)
    result: Dataset = picture
    return result


def _reference(source: Source, frames: Sequence[Frame]) -> Dataset:
    """A source of a picture (PS3.3 C.7.6.1.1.3), with the frames that were used if it has several."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.stand_in.SOPClassUID
    item.ReferencedSOPInstanceUID = source.stand_in.SOPInstanceUID
    if frames and frames_of(source.header) > 1:
        item.ReferencedFrameNumber = [frame.number for frame in frames]
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
