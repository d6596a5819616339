"""The outlines: a Segmentation object (PS3.3 A.51, C.8.20) for each segmentation of a reading.

Start here for: when there is no object (:func:`refusals`), where a frame lies in the patient (:func:`_place`), the
pixel measures (:func:`_measures`), the names and colours of segments (:mod:`objects.seg.segments`).

A mask lies where its source frame lies. Every frame of the object repeats the position, orientation and pixel spacing
of its source frame, character for character, refers to that frame, and has the mask's own rows and columns. So nothing
can be flipped or shifted against the source, in whatever order the images came.

highdicom builds the object from stand-ins for the frames: planes of one pixel, stacked in the order of the true
positions. The sources' geometry and the masks replace them afterwards. So highdicom never sees a hospital's numbers,
accepts two frames at one position, which it would refuse, and does not copy masks of a thousand frames and twenty
segments.

Probabilities (fractional segmentations) are for machines: OHIF 3.12 opens binary segmentations only. A model for people
gives binary ones, or both. Where the results are read in OHIF (``viewer``), fractional ones have no object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom.seg import Segmentation
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, SegmentationStorage
from pydicom.valuerep import format_number_as_ds

from ai import contract
from ai.mask import CutMask
from dicom_node.dicom.attributes import LABEL_MAP
from dicom_node.dicom.compressed import rle, set_pixels
from dicom_node.results import highdicom_mends, uids
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.objects.seg.planes import Decimals, NoPlaneError, Plane, Planes, one_grid, ordered
from dicom_node.results.objects.seg.segments import descriptions
from dicom_node.results.run import Run
from dicom_node.results.source import Source, read_sources
from dicom_node.results.source_bytes import copy_attributes, copy_optional, numbers_of, text_of
from dicom_node.results.source_text import within

_MAXIMUM = 255
"""Maximum Fractional Value: what a probability of 1 is stored as."""

_NOT_IN_OHIF = "a segmentation is one of probabilities, which OHIF does not open"

_MOST_LABELS = 255
_LARGEST = 0xFFFFFFFE
"""The most bytes of pixels that a data element can hold (PS3.5 7.1.1)."""


def build(run: Run, headers: Sequence[Dataset]) -> list[Dataset]:
    """The Segmentation objects of a run, in the order of the reading's segmentations.

    ``headers`` are those of ``run.reading.sources``, in order; pixels are not needed. :func:`refusals` says why a
    segmentation has no object. A segment without pixels is left out and the others are numbered from 1: viewers fail on
    a segment without a frame, and the report says that the class is absent. The results keep copied attributes as raw
    bytes: write them with :func:`encode.to_bytes`.

    Raises:
        ReadingError: the sources are not all of one patient.
        ValueError: the headers are not the reading's sources, a segmentation lies on another image, or its masks do not
            have the form that :class:`ai.contract.Segment` demands.
    """
    drawn = [each for each in _drawn(run, headers) if isinstance(each, _Drawn)]
    return [_object(run, each, index) for index, each in enumerate(drawn)]


def refusals(run: Run, headers: Sequence[Dataset]) -> tuple[str, ...]:
    """Why segmentations have no object: one reason for each, in plain words and without patient data.

    There is no object if nothing was segmented (an image has at least one frame, and the report says what is absent),
    if a header does not say where its frames lie, if the frames do not lie on one grid, and if the viewer of the run's
    profile does not open it. Viewers do not open an
    object without a Frame of Reference UID, and an invented position would be a wrong one.

    Raises:
        ReadingError, ValueError: as :func:`build`.
    """
    return tuple(each for each in _drawn(run, headers) if isinstance(each, str))


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentReference:
    """A segment of an object of :func:`build`: the object's class and UID, and Segment Number (0062,0004)."""

    sop_class_uid: str
    sop_instance_uid: str
    number: int


def references(run: Run, headers: Sequence[Dataset]) -> dict[str, SegmentReference]:
    """The segments of a run that outline a finding, by their ``part``; empty if the run has no segmentations.

    Raises:
        ReadingError, ValueError: as :func:`build`.
    """
    if "seg" not in run.profile.outputs or not run.reading.segmentations:
        return {}
    found = {}
    drawn = [each for each in _drawn(run, headers) if isinstance(each, _Drawn)]
    for index, each in enumerate(drawn):
        uid = uids.derived_uid(run.objects_key, "seg", index)
        for number, segment in enumerate(each.segments, start=1):
            if part := each.segmentation.segments[segment].part:
                found[part] = SegmentReference(LABEL_MAP if each.is_label_map else SegmentationStorage, uid, number)
    return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """A segmentation that can be an object: its ``number`` in the reading, its planes, its segments that have pixels.

    ``segments`` are indices into the segmentation's segments; ``filled`` (planes x ``segments``) says which planes have
    pixels. A label map has one frame for each plane, whose pixels are the numbers of segments (Supplement 243).
    """

    number: int
    segmentation: contract.Segmentation
    planes: tuple[Plane, ...]
    segments: tuple[int, ...]
    filled: NDArray[np.bool_]
    is_label_map: bool = False

    def stored(self, segment: int, plane: int) -> NDArray[np.uint8]:
        """A plane (rows x columns) of the ``segment``-th of :attr:`segments`, as it is stored."""
        return _stored(self.segmentation.segments[self.segments[segment]].mask[plane])

    def labels(self, plane: int) -> NDArray[np.uint8]:
        """A plane of a label map (rows x columns): the number of the segment, from 1, at each pixel, else 0."""
        labels = np.zeros((self.planes[plane].rows, self.planes[plane].columns), np.uint8)
        for segment in np.flatnonzero(self.filled[plane]).tolist():
            labels[self.stored(segment, plane) > 0] = segment + 1
        return labels


def _drawn(run: Run, headers: Sequence[Dataset]) -> list[_Drawn | str]:
    """For each segmentation, what an object is made of, or the reason why there is none."""
    planes = Planes(read_sources(run.reading.sources, headers))
    drawn = [
        _NOT_IN_OHIF if run.profile.viewer == "ohif" and each.kind == "fractional" else _draw(planes, each, number)
        for number, each in enumerate(run.reading.segmentations)
    ]
    if run.profile.seg == "binary":
        return drawn
    return [
        dataclasses.replace(each, is_label_map=True) if isinstance(each, _Drawn) and _fits_labels(each) else each
        for each in drawn
    ]


def _fits_labels(drawn: _Drawn) -> bool:
    """Whether a segmentation can be a label map: each pixel is in one segment or none, and numbers have 8 bits."""
    return drawn.segmentation.kind == "binary" and len(drawn.segments) <= _MOST_LABELS and _overlap(drawn) == "NO"


def _draw(planes_of: Planes, segmentation: contract.Segmentation, number: int) -> _Drawn | str:
    frames = [(ref.sop_instance_uid, frame) for ref, frame in segmentation.frames]
    if not frames or len(set(frames)) != len(frames):
        raise ValueError(f"a segmentation has {len(frames)} frames: expected at least one, and each only once")
    if not segmentation.segments:
        raise ValueError("a segmentation has no segments: expected at least one, with an empty mask where it is absent")
    try:
        planes = tuple(planes_of.of(uid, frame) for uid, frame in frames)
        one_grid(planes)
    except NoPlaneError as error:
        return f"a segmentation cannot be placed in the patient: of its source, {error}"
    shape = (len(planes), planes[0].rows, planes[0].columns)
    for segment in segmentation.segments:
        _check(segment.mask, segmentation.kind, shape)
    filled = np.array([_filled(segment.mask) for segment in segmentation.segments])
    segments = tuple(np.flatnonzero(filled.any(axis=1)).tolist())
    if not segments:
        return "nothing was segmented: every mask is empty"
    size = int(filled.sum()) * planes[0].rows * planes[0].columns // (8 if segmentation.kind == "binary" else 1)
    if size >= _LARGEST:
        return f"a segmentation is too large for one object: {size} bytes of pixels"
    return _Drawn(number, segmentation, planes, segments, filled[list(segments)].T)


def _check(mask: NDArray[Any] | CutMask, kind: str, shape: tuple[int, int, int]) -> None:
    wanted = "bool" if kind == "binary" else "float from 0 to 1"
    wanted = f"expected frames x rows x columns = {shape[0]} x {shape[1]} x {shape[2]} of {wanted}"
    if kind not in ("binary", "fractional"):
        raise ValueError(f"a segmentation is of kind {kind!r}: expected 'binary' or 'fractional'")
    if mask.shape != shape or mask.dtype.kind != ("b" if kind == "binary" else "f"):
        raise ValueError(f"a mask is {' x '.join(map(str, mask.shape))} of {mask.dtype}: {wanted}")
    if (
        kind == "fractional" and isinstance(mask, np.ndarray) and not (mask.min() >= 0 and mask.max() <= 1)
    ):  # neither holds for NaN
        raise ValueError(f"a mask has values that are no number, below 0 or above 1: {wanted}")


def _filled(mask: NDArray[Any] | CutMask) -> NDArray[np.bool_]:
    """Which frames of a mask have pixels."""
    if isinstance(mask, CutMask):
        filled = np.zeros(len(mask), np.bool_)
        filled[mask.start[0] : mask.start[0] + len(mask.part)] = mask.part.any(axis=(1, 2))
        return filled
    return np.array([_stored(plane).any() for plane in mask])


def _stored(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """A plane of a mask as it is stored: 0 and 1, or probabilities as 0 to 255."""
    return plane.view(np.uint8) if plane.dtype == np.bool_ else np.rint(plane * _MAXIMUM).astype(np.uint8)


# --- the object -----------------------------------------------------------------------------------------------------


def _object(run: Run, drawn: _Drawn, index: int) -> Dataset:
    planes = drawn.planes
    header = planes[0].source.header
    run = fitted(run, header)
    model = run.reading.model
    stand_ins = _stand_ins(planes)
    result: Dataset = Segmentation(
        source_images=[each.stand_in for each in stand_ins],
        pixel_array=_stand_in_pixels(drawn),
        segmentation_type="LABELMAP" if drawn.is_label_map else drawn.segmentation.kind.upper(),
        segment_descriptions=descriptions(run, drawn.number, drawn.segments),
        fractional_type="PROBABILITY",
        max_fractional_value=_MAXIMUM,
        content_label="AI_SEG",
        content_description=within(
            run.words.not_for_diagnosis if run.research else f"{model.name} {model.version}", 64
        ),
        **identity(run, planes[0].source, "seg", index),
    )
    result.ContentCreatorName = None  # type 2: a device is no person
    organization = uids.derived_uid(run.objects_key, "seg dimensions", index)
    highdicom_mends.set_dimension_organization(result, organization)
    order = _place(result, drawn, {each.stand_in.SOPInstanceUID: i for i, each in enumerate(stand_ins)})
    _fill(result, drawn, order)
    highdicom_mends.name_each_instance_once(result, stand_ins)
    highdicom_mends.name_background_last(result)
    finish(result, run, stand_ins)
    copy_attributes(header, result, ["FrameOfReferenceUID", "PositionReferenceIndicator"])
    copy_optional(header, result, ["BodyPartExamined"])  # not Laterality: each segment has its own side
    _inherit_loss(result, planes)
    return result


def _stand_in_pixels(drawn: _Drawn) -> NDArray[np.uint8]:
    """The masks of the stand-ins: planes x 1 x 1 x segments; of a label map planes x 1 x 1, with any label."""
    if drawn.is_label_map:
        return np.asarray(drawn.filled.any(axis=1), np.uint8)[:, np.newaxis, np.newaxis]
    return drawn.filled[:, np.newaxis, np.newaxis, :].astype(np.uint8)


def _stand_ins(planes: Sequence[Plane]) -> list[Source]:
    """The sources with a stand-in for each plane: one pixel, at the plane's place in the stack."""
    first, stand_ins = planes[0].source.stand_in, {}
    for place, (index, _) in enumerate(ordered(planes)):
        source = planes[index].source
        blank = Dataset()
        # It shares its elements with the source's stand-in, so new ones are added: an assignment would change both.
        blank.update(source.stand_in)
        # Each frame of an image is a stand-in of its own. All are of one series, also if the headers name none.
        blank.add_new("SOPInstanceUID", "UI", f"{source.stand_in.SOPInstanceUID}.{planes[index].number}")
        blank.add_new("SeriesInstanceUID", "UI", first.SeriesInstanceUID)
        blank.add_new("StudyInstanceUID", "UI", first.StudyInstanceUID)
        blank.FrameOfReferenceUID = first.SeriesInstanceUID
        blank.Rows = blank.Columns = 1
        blank.ImagePositionPatient, blank.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
        blank.PixelSpacing, blank.SliceThickness = [1, 1], 1
        stand_ins[index] = dataclasses.replace(source, stand_in=blank)
    return [stand_ins[index] for index in range(len(planes))]


def _place(result: Dataset, drawn: _Drawn, index_of: dict[str, int]) -> list[tuple[int, int]]:
    """Set the position of every frame, in place, and sort the frames; return (segment, plane) of each.

    Frames are in the order of segment and position. All per-frame attributes are those of PS3.3 C.7.6.16.2. The segment
    is repeated in each frame even if there is only one: not every viewer looks for it in the shared groups.
    """
    planes = drawn.planes
    used = np.flatnonzero(drawn.filled.any(axis=1)).tolist()
    ordinals = {used[index]: ordinal for index, ordinal in ordered([planes[index] for index in used])}
    shared = result.SharedFunctionalGroupsSequence[0]
    shared.pop("SegmentIdentificationSequence", None)
    shared.PixelMeasuresSequence = [_measures(planes)]
    groups = [{"PlanePositionSequence": [_group(plane.position)]} for plane in planes]
    if len({plane.orientation.text for plane in planes}) == 1:
        shared.PlaneOrientationSequence = [_group(planes[0].orientation)]
    else:  # rounded differently: each frame repeats its own source's
        del shared.PlaneOrientationSequence
        for group, plane in zip(groups, planes, strict=True):
            group["PlaneOrientationSequence"] = [_group(plane.orientation)]
    frames = []
    for item in result.PerFrameFunctionalGroupsSequence:
        (reference,) = item.DerivationImageSequence[0].SourceImageSequence
        index = index_of[reference.ReferencedSOPInstanceUID]
        content = item.FrameContentSequence[0]
        segment = 1 if drawn.is_label_map else content.DimensionIndexValues[0]
        content.DimensionIndexValues = [ordinals[index]] if drawn.is_label_map else [segment, ordinals[index]]
        if planes[index].frame is not None:
            reference.ReferencedFrameNumber = planes[index].frame
        if not drawn.is_label_map:
            identification = Dataset()
            identification.ReferencedSegmentNumber = segment
            item.SegmentIdentificationSequence = [identification]
        for keyword, items in groups[index].items():
            setattr(item, keyword, items)
        frames.append((segment - 1, ordinals[index], index, item))
    frames.sort(key=lambda frame: frame[:3])
    result.PerFrameFunctionalGroupsSequence = [item for *_, item in frames]
    result.pop("DimensionOrganizationType", None)
    if (drawn.is_label_map or len(drawn.segments) == 1) and _spacing([planes[index] for index in used]) is not None:
        result.DimensionOrganizationType = "3D"
    return [(segment, index) for segment, _, index, _ in frames]


def _group(*attributes: Decimals) -> Dataset:
    item = Dataset()
    for element in (each.element() for each in attributes):
        item[element.tag] = element
    return item


def _measures(planes: Sequence[Plane]) -> Dataset:
    """The pixel measures that all planes share; OHIF 3.12 cannot open an object that has them in each frame.

    If the sources differ in slice thickness, or have none, it is the distance of the planes; if they are no regular
    stack, the smallest thickness.
    """
    spacing, thicknesses = _spacing(planes), [plane.thickness for plane in planes if plane.thickness is not None]
    item = _group(planes[0].spacing)
    if spacing is not None:
        item.SpacingBetweenSlices = format_number_as_ds(spacing)
    if len(thicknesses) == len(planes) and len({each.numbers for each in thicknesses}) == 1:
        item.update(_group(thicknesses[0]))
    elif spacing is not None:
        item.SliceThickness = format_number_as_ds(spacing)
    elif thicknesses:
        item.update(_group(min(thicknesses, key=lambda each: each.numbers)))
    return item


def _spacing(planes: Sequence[Plane]) -> float | None:
    """The distance of neighbouring planes in mm. None if they are no regular stack along their normal."""
    if len(planes) < 2:
        return None
    spacing, _ = get_volume_positions([plane.position.numbers for plane in planes], planes[0].orientation.numbers)
    return spacing if spacing is None or spacing > 0 else None


def _fill(result: Dataset, drawn: _Drawn, order: Sequence[tuple[int, int]]) -> None:
    """Set the pixels of all masks, in place, frame after frame.

    Binary ones are 1 bit a pixel (PS3.5 8.1.1), for which DICOM has no RLE.
    Probabilities and labels are 8 bits a pixel, by RLE (PS3.5 annex G): most of them are 0.
    """
    result.Rows, result.Columns = drawn.planes[0].rows, drawn.planes[0].columns
    if drawn.is_label_map:
        result.SegmentsOverlap = "NO"
        result["PixelPaddingValue"].VR = "US"  # as the pixels (PS3.5 A.2); highdicom leaves US or SS open
        set_pixels(result, [rle(drawn.labels(plane)) for _, plane in order], RLELossless)
        return
    result.SegmentsOverlap = _overlap(drawn)
    frames = [drawn.stored(segment, plane) for segment, plane in order]
    if drawn.segmentation.kind == "binary":
        # Bits run on from one frame into the next; eight frames of any size are whole bytes.
        eights = (np.concatenate(frames[at : at + 8], axis=None) for at in range(0, len(frames), 8))
        pixels = b"".join(np.packbits(bits, bitorder="little").tobytes() for bits in eights)
    else:
        set_pixels(result, [rle(frame) for frame in frames], RLELossless)
        return
    result.PixelData = pixels + b"\0" * (len(pixels) % 2)
    result["PixelData"].VR = "OB"  # pydicom leaves OB or OW open; up to 8 bits allocated are bytes (PS3.5 A.2)


def _overlap(drawn: _Drawn) -> str:
    """The value of Segments Overlap (0062,0013); the standard does not define when probabilities overlap."""
    for plane in range(len(drawn.planes)):
        taken = np.zeros((drawn.planes[0].rows, drawn.planes[0].columns), bool)
        for segment in np.flatnonzero(drawn.filled[plane]).tolist():
            mask = drawn.stored(segment, plane) > 0
            if (taken & mask).any():
                return "YES" if drawn.segmentation.kind == "binary" else "UNDEFINED"
            taken |= mask
    return "NO"


def _inherit_loss(result: Dataset, planes: Sequence[Plane]) -> None:
    """Copy the lossy compression of the sources, in place (PS3.3 C.8.20.2)."""
    lossy = [p.source.header for p in planes if text_of(p.source.header, "LossyImageCompression") == "01"]
    result.LossyImageCompression = "01" if lossy else "00"
    if lossy:
        if numbers_of(lossy[0], "LossyImageCompressionRatio"):
            copy_attributes(lossy[0], result, ["LossyImageCompressionRatio"])
        copy_optional(lossy[0], result, ["LossyImageCompressionMethod"])
