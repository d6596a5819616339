"""The pictures: Secondary Capture Image objects (PS3.3 A.8.1), one series, with the findings burned in.

Start here for: the attributes of a picture (:func:`_capture`) and the picture of the PDF page (:func:`page_picture`).
Which pictures there are, and what is drawn on them, is decided in :class:`pictures.scene.Scene`.

Every viewer shows these objects, so they say everything in words: what was found and how certain it is, what was not
found, what was not read, by which model, and that it is not for diagnosis. Only boxes, outlines and labels lie on the
image; they hide no finding. The words are in a black band below the image, so the object has more rows than the image
in it. The image begins in the top left corner, as the source does; where it was reduced or enlarged, which the
Derivation Description says, pixel coordinates are the source's times that scale. So the object has no Pixel Spacing and
no Frame of Reference: nothing can be measured on it by mistake. Marks in the source's own coordinates are in the
presentation state.

The pixels are compressed as the profile says (:attr:`Profile.pictures`). JPEG is lossy, and the object says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless
from pydicom.valuerep import format_number_as_ds

from dicom_node.config.values import Pictures
from dicom_node.dicom.compressed import jpeg, jpeg_ls, set_pixels
from dicom_node.results import highdicom_mends
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.pictures.scene import Scene, Shot, pixel_aspect
from dicom_node.results.pictures.slices import Frame
from dicom_node.results.run import Run
from dicom_node.results.source import Source, read_sources
from dicom_node.results.source_bytes import copy_laterality, copy_optional, frames_of, numbers_of, text_of
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
        yield capture(run, sources, shot, index)


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


def capture(run: Run, sources: Sequence[Source], shot: Shot, index: int) -> Dataset:
    """One Secondary Capture, the ``index``-th of its role from 0; the run's time is in the sources' zone."""
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
    lossy = [source.header for source in used if text_of(source.header, "LossyImageCompression") == "01"]
    _set_pixels(picture, shot.rgb, run.profile.pictures, lossy[0] if shot.frames and lossy else None)
    result: Dataset = picture
    return result


def _set_pixels(picture: Dataset, rgb: NDArray[np.uint8], pictures: Pictures, lossy: Dataset | None) -> None:
    """Set the pixels as the profile wants them, in place, and what was lost by all lossy compressions.

    ``lossy`` is the header of a source that was compressed with loss. Each compression is a value of ratio and method,
    in the order in which they were applied (PS3.3 C.7.6.1.1.5).
    """
    picture.Rows, picture.Columns = rgb.shape[:2]
    steps = [] if lossy is None else _lost(lossy)
    if pictures == "jpeg":
        compressed = jpeg(rgb)
        set_pixels(picture, [compressed], JPEGBaseline8Bit)
        # PS3.5 table 8.2.1-1 has it for YCbCr, whatever the sampling in the stream is (PS3.3 C.7.6.3.1.2).
        picture.PhotometricInterpretation = "YBR_FULL_422"
        steps.append((rgb.size / len(compressed), "ISO_10918_1"))
    elif pictures == "jpeg-ls":
        set_pixels(picture, [jpeg_ls(rgb)], JPEGLSLossless)
    else:
        highdicom_mends.set_picture(picture, rgb)
    if steps or lossy is not None:
        picture.LossyImageCompression = "01"
    if steps:
        picture.LossyImageCompressionRatio = [format_number_as_ds(round(ratio, 2)) for ratio, _ in steps]
        picture.LossyImageCompressionMethod = [method for _, method in steps]


def _lost(header: Dataset) -> list[tuple[float, str]]:
    """The ratio and method of each lossy compression of a source; empty unless it gives as many of both."""
    ratios = numbers_of(header, "LossyImageCompressionRatio")
    methods = [each.strip() for each in text_of(header, "LossyImageCompressionMethod").split("\\")]
    usable = len(ratios) == len(methods) and all(re.fullmatch(r"[A-Z0-9_ ]{1,16}", each) for each in methods)
    return list(zip(ratios, methods, strict=True)) if usable else []


def _reference(source: Source, frames: Sequence[Frame]) -> Dataset:
    """A source of a picture (PS3.3 C.7.6.1.1.3), with the frames that were used if it has several."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.stand_in.SOPClassUID
    item.ReferencedSOPInstanceUID = source.stand_in.SOPInstanceUID
    if frames and frames_of(source.header) > 1:
        item.ReferencedFrameNumber = [frame.number for frame in frames]
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
