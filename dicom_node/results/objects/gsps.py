"""The marks: a Grayscale Softcopy Presentation State (PS3.3 A.33.1), a layer that a viewer draws over the sources.

Start here for: which images need a state of their own (:func:`build`), the displayed area (:func:`_areas`), and where a
label is placed (:func:`_beside`).

It draws the report's boxes, under the same tracking UIDs, and labels them. Everything else in it only keeps the image
as it is: a viewer applies a state as a whole, so the source's own grayscale pipeline (:mod:`objects.grayscale`) and its
whole area are repeated. A state holds one modality stage, one polarity and one shutter, so images that differ in these
get states of their own. Windows and matrices may differ within a state.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TypeVar

import numpy as np
from highdicom import SOPClass
from highdicom.color import CIELabColor
from highdicom.pr import GraphicLayer, GraphicObject, TextObject
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, GrayscaleSoftcopyPresentationStateStorage

from ai.contract import Finding
from dicom_node.results import highdicom_mends, uids, verdict
from dicom_node.results.encode import finish, fitted, identity
from dicom_node.results.objects.grayscale import Pipeline, as_item, decimals, is_grey, macros, put, read_pipeline
from dicom_node.results.pictures.drawing import Colour
from dicom_node.results.pictures.outlines import outline_of, polygons
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.run import Run
from dicom_node.results.source import Source, check_findings, on_image, read_sources
from dicom_node.results.source_bytes import (
    copy_laterality,
    copy_optional,
    frames_of,
    numbers_of,
    tag_of,
    text_of,
    unsigned_of,
)
from dicom_node.results.source_text import within
from dicom_node.results.times import local_time

LAYER = "AI_RESULT"
"""The name of the graphic layer, by which a viewer switches it on and off."""

_COLOUR = CIELabColor(88.0, -4.0, 78.0)  # a yellow that stands out from every grey
_LINES = 36
"""The type size is the shorter side of the image divided by this number."""

_TEXT_HEIGHT = 1.4
"""The height of a line of text in multiples of the type size."""

_AT_ONCE = 256
"""The number of places for a text that are compared in one step."""

_Value = TypeVar("_Value", bound=Hashable)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixel edges of the image."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame with findings; ``number`` is None if the image has a single frame."""

    source: Source
    number: int | None
    rows: int
    columns: int
    pipeline: Pipeline
    findings: list[tuple[int, Finding]]


def build(run: Run, headers: Sequence[Dataset]) -> list[Dataset]:
    """The presentation states of a run: usually one; none if no finding lies on a grey image.

    ``headers`` are those of ``run.reading.sources``, in order. The results keep copied attributes as raw bytes: write
    them with :func:`encode.to_bytes`.

    Graphic data in units PIXEL have their origin 0\\0 at the top left corner of the top left pixel (PS3.3 C.10.5.1),
    like SCOORD and :class:`ai.contract.Region`. Only the displayed area counts whole pixels from 1\\1 (C.10.4).

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not those of the reading's sources, or a finding lies on another image.
    """
    if run.reading.failure or not run.reading.findings:
        return []
    images = read_sources(run.reading.sources, headers)
    check_findings(run.reading.findings, images)
    groups: dict[object, list[_Frame]] = {}
    for frame in _frames(run, images):
        pipeline, charset = frame.pipeline, text_of(frame.source.header, "SpecificCharacterSet")
        groups.setdefault((pipeline.modality, pipeline.shape, pipeline.shutter, charset), []).append(frame)
    return [_state(run, index, frames) for index, frames in enumerate(groups.values())]


def _frames(run: Run, images: Sequence[Source]) -> list[_Frame]:
    """The grey frames with findings, in the order of the reading's sources."""
    frames = []
    for image in images:
        here: dict[int, list[tuple[int, Finding]]] = {}
        for number, finding in enumerate(run.reading.findings):
            if finding.region.sop_instance_uid == image.sop_instance_uid:
                here.setdefault(finding.region.frame, []).append((number, finding))
        rows, columns = unsigned_of(image.header, "Rows"), unsigned_of(image.header, "Columns")
        if not rows or not columns or not is_grey(image.header):
            continue
        multi = frames_of(image.header) > 1
        for number in sorted(here):
            pipeline = read_pipeline(image.header, number)
            frames.append(_Frame(image, number if multi else None, rows, columns, pipeline, here[number]))
    return frames


def _state(run: Run, index: int, frames: Sequence[_Frame]) -> Dataset:
    sources = list({frame.source.sop_instance_uid: frame.source for frame in frames}.values())
    first = sources[0]
    run = fitted(run, first.header)
    shared = identity(run, first, "gsps", index)
    at = local_time(run, first.header)
    state: Dataset = SOPClass(
        sop_class_uid=GrayscaleSoftcopyPresentationStateStorage,
        modality="PR",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **highdicom_mends.empty_patient_and_study(first),
        # A presentation state has a creation date in place of a content date.
        **{name: value for name, value in shared.items() if name not in ("content_date", "content_time")},
    )
    state.ContentLabel = LAYER
    state.ContentDescription = within(f"{'. '.join(run.warnings[:1])} - {run.reading.model.name}".strip(" -"), 64)
    state.PresentationCreationDate, state.PresentationCreationTime = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    state.ContentCreatorName = ""
    state.ReferencedSeriesSequence = _relationship(frames)
    state.DisplayedAreaSelectionSequence = _areas(frames)
    state.GraphicLayerSequence = [GraphicLayer(LAYER, 1, "AI findings", display_color=_COLOUR)]
    state.GraphicAnnotationSequence = [_annotation(run, frame) for frame in frames]
    state.PresentationLUTShape = frames[0].pipeline.shape
    windows = [each for each in _shared(frames, lambda frame: frame.pipeline.voi) if each[0]]
    if windows:
        state.SoftcopyVOILUTSequence = [item for _, item in windows]  # before finish(): it replaces their stand-ins
    finish(state, run, sources)
    copy_optional(first.header, state, ["BodyPartExamined"])
    copy_laterality(first.header, state)
    put(state, frames[0].pipeline.modality)
    put(state, frames[0].pipeline.shutter)
    if windows:
        # Only now, and as bytes: pydicom would decode the items, and these are the source's own characters.
        body = b"".join(as_item(item, voi) for voi, item in windows)
        put(state, ((tag_of("SoftcopyVOILUTSequence"), "SQ", body),))
    return state


# --- what the state refers to ---------------------------------------------------------------------------------------


def _references(frames: Iterable[_Frame]) -> list[Dataset]:
    """Image SOP Instance Reference Macro (PS3.3 Table 10-3): one item for each image, with its frames."""
    items: dict[str, Dataset] = {}
    numbers: dict[str, list[int]] = {}
    for frame in frames:
        uid = frame.source.stand_in.SOPInstanceUID
        item = items.setdefault(uid, Dataset())
        item.ReferencedSOPClassUID = frame.source.stand_in.SOPClassUID
        item.ReferencedSOPInstanceUID = uid
        if frame.number is not None:
            numbers.setdefault(uid, []).append(frame.number)
            item.ReferencedFrameNumber = numbers[uid]
    return list(items.values())


def _relationship(frames: Sequence[_Frame]) -> list[Dataset]:
    series: dict[str, list[_Frame]] = {}
    for frame in frames:
        # Sources without a Series Instance UID have a stand-in each.
        key = frame.source.series_instance_uid or frame.source.stand_in.SeriesInstanceUID
        series.setdefault(key, []).append(frame)
    items = []
    for together in series.values():
        item = Dataset()
        item.SeriesInstanceUID = together[0].source.stand_in.SeriesInstanceUID
        item.ReferencedImageSequence = _references(together)
        items.append(item)
    return items


def _shared(frames: Sequence[_Frame], value_of: Callable[[_Frame], _Value]) -> list[tuple[_Value, Dataset]]:
    """An item for each value, with references to the frames that have it; without them if all frames have the same."""
    groups: dict[_Value, list[_Frame]] = {}
    for frame in frames:
        groups.setdefault(value_of(frame), []).append(frame)
    items = []
    for value, together in groups.items():
        item = Dataset()
        if len(groups) > 1:
            item.ReferencedImageSequence = _references(together)
        items.append((value, item))
    return items


def _areas(frames: Sequence[_Frame]) -> list[Dataset]:
    """The displayed area: the whole of each image (PS3.3 C.10.4)."""
    items = []
    for (rows, columns, spacing, aspect), item in _shared(frames, _matrix):
        item.DisplayedAreaTopLeftHandCorner = [1, 1]
        item.DisplayedAreaBottomRightHandCorner = [columns, rows]
        item.PresentationSizeMode = "SCALE TO FIT"
        if spacing:
            item.PresentationPixelSpacing = list(spacing)
        else:
            item.PresentationPixelAspectRatio = list(aspect)
        items.append(item)
    return items


def _matrix(frame: _Frame) -> tuple[int, int, tuple[str, ...], tuple[int, int]]:
    """Rows, columns, the pixel spacing if it is valid in the patient, and the height to width of a pixel.

    Of a spacing at the detector only the ratio is used: a viewer would measure with it as if it were the patient's.
    """
    header = frame.source.header
    for place in macros(header, frame.number or 1, "PixelMeasuresSequence"):
        spacing = decimals(place, "PixelSpacing")
        if len(spacing) == 2 and all(1e-6 < float(side) < 1e6 for side in spacing):
            return frame.rows, frame.columns, spacing, (1, 1)
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sides = numbers_of(header, keyword)
        if len(sides) == 2 and all(1e-6 < side < 1e6 for side in sides):
            ratio = Fraction(sides[0] / sides[1]).limit_denominator(1000)
            if ratio:
                return frame.rows, frame.columns, (), (ratio.numerator, ratio.denominator)
    return frame.rows, frame.columns, (), (1, 1)


# --- what it draws --------------------------------------------------------------------------------------------------


def _annotation(run: Run, frame: _Frame) -> Dataset:
    """A frame's boxes, with names and scores beside them, and the warnings."""
    findings = [(number, run.reading.findings[number]) for number, _ in frame.findings]  # those of the fitted run
    boxes = [on_image(finding.region, frame.source.header) for _, finding in findings]
    palette = Palette(run.reading)
    size = max(1.0, min(frame.rows, frame.columns) / _LINES)
    taken = [
        (left - size / 4, top - size / 4, right + size / 4, bottom + size / 4) for left, top, right, bottom in boxes
    ]
    graphics, texts = [], []
    for (number, finding), (left, top, right, bottom) in zip(findings, boxes, strict=True):
        tracking = {
            "tracking_id": verdict.tracking_id(run, number),
            "tracking_uid": uids.tracking_uid(run.key, number),
        }
        box = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
        mask = outline_of(run.reading, finding)
        for line in [box] if mask is None else polygons(mask):
            graphics.append(GraphicObject("POLYLINE", line, "PIXEL", **tracking))
            graphics[-1].LineStyleSequence = [_style(palette.colour(finding))]
        label = verdict.finding_label(run, finding)
        near = (left - size / 4, top - size / 4, right + size / 4, bottom + size / 4)
        place = _beside(label, size, near, taken, frame)
        taken.append(place)
        anchor = (min(max(place[0], left), right), top if place[3] <= top + size else bottom)
        texts.append(TextObject(label, "PIXEL", bounding_box=place, anchor_point=anchor, **tracking))
    whole = (0.0, 0.0, float(frame.columns), float(frame.rows))
    for warning in (*run.warnings, *([run.words.incomplete] if verdict.is_incomplete(run.reading) else [])):
        place = _inside(warning, size, whole, taken)
        taken.append(place)
        texts.append(TextObject(warning, "PIXEL", bounding_box=place))
    item = Dataset()
    # Also if the state has one image only: a redundant reference is better than a mark on the wrong image.
    item.ReferencedImageSequence = _references([frame])
    item.GraphicLayer = LAYER
    item.GraphicObjectSequence = graphics
    item.TextObjectSequence = texts
    return item


def _style(colour: Colour) -> Dataset:
    """The line of a mark: in the colour of its class, with a dark edge (Line Style Sequence, PS3.3 C.10.5)."""
    style = Dataset()
    style.PatternOnColorCIELabValue = list(CIELabColor.from_rgb(*colour).value)
    style.PatternOnOpacity = 1.0
    style.LineThickness = 2.0
    style.LineDashingStyle = "SOLID"
    style.ShadowStyle = "OUTLINED"
    style.ShadowOffsetX = style.ShadowOffsetY = 0.0
    style.ShadowColorCIELabValue = list(CIELabColor.from_rgb(0, 0, 0).value)
    style.ShadowOpacity = 1.0
    return style


def _extent(text: str, size: float, frame_size: tuple[float, float]) -> tuple[float, float]:
    """The approximate width and height of a line of text: the viewer draws it in a font of its own."""
    ems = sum(1.0 if unicodedata.east_asian_width(each) in "WF" else 0.6 for each in text)
    return min(ems * size, frame_size[0]), min(_TEXT_HEIGHT * size, frame_size[1])


def _beside(text: str, size: float, box: Box, taken: Sequence[Box], frame: _Frame) -> Box:
    """The place of a label: where it covers least, as near to its box as possible."""
    columns, rows = float(frame.columns), float(frame.rows)
    width, height = _extent(text, size, (columns, rows))
    left, top, right, bottom = box
    near = [
        *((x, y) for y in (top - height, bottom) for x in (left, right - width)),
        *((x, y) for x in (right, left - width) for y in (top, bottom - height)),
    ]
    far = [(x * size, y * height) for y in range(int(rows / height)) for x in range(int((columns - width) / size) + 1)]
    far.sort(key=lambda at: abs(at[0] + width / 2 - (left + right) / 2) + abs(at[1] - (top + bottom) / 2))
    return _least([*near, *far], (width, height), (columns, rows), taken)


def _inside(text: str, size: float, whole: Box, taken: Sequence[Box]) -> Box:
    """The place of a sentence: where it covers least, far from the middle of the image, above rather than below."""
    columns, rows = whole[2:]
    width, height = _extent(text, size, (columns, rows))
    lines = sorted(
        (line * height for line in range(max(1, int(rows / height)))), key=lambda y: min(y, rows - height - y)
    )
    places = [(x, y) for y in lines for x in (size / 2, columns - width - size / 2)]
    return _least(places, (width, height), (columns, rows), taken)


def _least(
    places: Iterable[tuple[float, float]], extent: tuple[float, float], image: tuple[float, float], taken: Sequence[Box]
) -> Box:
    """The first of the places, moved into the image, that has the least overlap."""
    best: tuple[float, Box] | None = None
    others, size = np.array(taken, dtype=np.float64).reshape(-1, 4), np.array(extent)
    found = iter(places)
    while some := list(islice(found, _AT_ONCE)):
        start = np.clip(np.array(some), 0.0, np.maximum(np.array(image) - size, 0.0))
        end = start + size
        across = np.minimum(end[:, None, 0], others[:, 2]) - np.maximum(start[:, None, 0], others[:, 0])
        down = np.minimum(end[:, None, 1], others[:, 3]) - np.maximum(start[:, None, 1], others[:, 1])
        covered = (across.clip(0.0) * down.clip(0.0)).sum(axis=1)
        at = int(covered.argmin())
        if best is None or covered[at] < best[0]:
            (left, top), (right, bottom) = start[at].tolist(), end[at].tolist()
            best = float(covered[at]), (left, top, right, bottom)
        if not best[0]:
            break
    if best is None:
        raise ValueError("a text needs at least one possible place")
    return best[1]
