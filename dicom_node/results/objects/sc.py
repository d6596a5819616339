"""The pictures as Secondary Captures of one series, with the findings burned in (PS3.3 A.8.1).

They are the one result that every viewer shows, so they say everything in words: what was found and how surely, what
was not, what was not read, by which model, and that it is not for diagnosis. Only boxes and their labels lie on the
image, lines outside the box that they mark and labels where they hide no finding. The words stand in a black band below
it, so that the object has more rows than its source, but the same origin: pixel coordinates are the source's. Which
pictures there are is for :class:`scene.Scene` to say.
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

from dicom_node.results import encode, highdicom_mends
from dicom_node.results.pictures.scene import Scene, Shot, pixel_aspect
from dicom_node.results.pictures.slices import Frame
from dicom_node.results.run import Run
from dicom_node.results.source import Source, read_sources
from dicom_node.results.source_bytes import copy_attributes, copy_laterality, copy_optional, frames_of, text_of
from dicom_node.results.source_text import within

if TYPE_CHECKING:
    from dicom_node.results.images import Images

_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


def build(run: Run, headers: Sequence[Dataset], images: Images) -> Iterator[Dataset]:
    """The Secondary Captures of a run, one after another; each is numbered by its place.

    ``headers`` stand in the order of ``run.reading.sources``. Pixels are asked for when they are drawn, and never of a
    reading that failed. The results keep copied attributes as raw bytes: write them with :func:`common.to_bytes`.

    Raises:
        ReadingError: the sources are not all of one patient.
        ValueError: a header is not that of its source, or pixels are not of the form wanted.
    """
    sources = read_sources(run.reading.sources, headers)
    run = _ready(run, headers)
    for index, shot in enumerate(Scene(run, headers, images).shots()):
        yield _capture(run, sources, shot, index)


def page_picture(run: Run, headers: Sequence[Dataset], images: Images) -> NDArray[np.uint8] | None:
    """The one picture (rows x columns x 3) that says most of a run, with boxes and labels and without a legend.

    It is the image, or the slice of a stack, with the surest finding; of a stack without any, the montage. Numbers in
    the place of labels are those of the findings in ``run.reading.findings``, from 1. A failed reading has no picture.

    Raises:
        ValueError: pixels are not of the form wanted.
    """
    return Scene(_ready(run, headers), headers, images).page()


def _ready(run: Run, headers: Sequence[Dataset]) -> Run:
    """The run with texts that the sources' character set can hold, at its time in the sources' zone."""
    run = encode.fitted(run, headers[0])
    return dataclasses.replace(run, created=encode.local_time(run, headers[0]))


def _capture(run: Run, sources: Sequence[Source], shot: Shot, index: int) -> Dataset:
    # A card stands for all that was to be read.
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
        **encode.identity(run, first, "sc", index),
    )
    highdicom_mends.mend_secondary_capture(picture, run, first)
    picture.SourceImageSequence = [
        _reference(sources[number], [frame for frame in shot.frames if frame.source == number]) for number in shown
    ]
    model = run.reading.model
    words = f"{shot.how}. Model: {model.name} {model.version}. {'. '.join(run.warnings)}"
    picture.DerivationDescription = within(words.strip(), 1024)
    encode.finish(picture, run, used)
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
    """A source that a picture was made of (PS3.3 C.7.6.1.1.3), and which of its frames where it has several."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.stand_in.SOPClassUID
    item.ReferencedSOPInstanceUID = source.stand_in.SOPInstanceUID
    if frames and frames_of(source.header) > 1:
        item.ReferencedFrameNumber = [frame.number for frame in frames]
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
