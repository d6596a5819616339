"""Which frames of a series are shown: their order in the patient, the key slices, and the frames of a montage.

Headers are not trusted: positions and counts are used if they are valid and ignored otherwise. Nothing here takes time
or memory in proportion to a number that a header claims.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import Presence, Reading
from dicom_node.results.source_bytes import frames_of, numbers_of, text_of

KEY_SLICES = 8
"""The most frames of a series that get a picture of their own."""

MONTAGE = 20
"""The most frames in a montage."""

_FEW = 8
"""More images than this are shown in a montage, whatever their modality."""

_CROSS_SECTIONAL = ("CT", "MR", "PT", "NM")
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a source: the source's index in ``Reading.sources``, and the frame number from 1."""

    source: int
    number: int


class Stack:
    """The frames of a reading's sources in the order in which a person looks through them."""

    def __init__(self, headers: Sequence[Dataset]) -> None:
        self._order = _ordered(headers)
        self.counts = [min(frames_of(header), _MOST_FRAMES) for header in headers]
        self._ends = list(accumulate(self.counts[source] for source in self._order))
        self._starts = {source: end - self.counts[source] for source, end in zip(self._order, self._ends, strict=True)}
        self.has_slices = text_of(headers[0], "Modality") in _CROSS_SECTIONAL
        several = any(count > 1 for count in self.counts) or len(headers) > _FEW
        self.is_stack = len(self) > 1 and (several or self.has_slices)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, place: int) -> Frame:
        if not 0 <= place < len(self):
            raise IndexError(place)
        at = bisect_right(self._ends, place)
        source = self._order[at]
        return Frame(source, place - self._starts[source] + 1)

    def place(self, frame: Frame) -> int:
        """The place of a frame in the stack, from 0."""
        return self._starts[frame.source] + frame.number - 1

    def __contains__(self, frame: Frame) -> bool:
        return frame.source in self._starts and 1 <= frame.number <= self.counts[frame.source]


def _ordered(headers: Sequence[Dataset]) -> list[int]:
    """The sources by series, and in each by position, else by Instance Number, else as they come."""
    series: dict[str, list[int]] = {}
    for number, header in enumerate(headers):
        series.setdefault(text_of(header, "SeriesInstanceUID"), []).append(number)
    order: list[int] = []
    for members in series.values():
        numbers = {each: numbers_of(headers[each], "InstanceNumber")[:1] for each in members}
        by_number = sorted(members, key=lambda each: (not numbers[each], numbers[each]))
        positions = _positions([headers[each] for each in by_number])
        if positions is None:
            order += by_number
            continue
        along = [by_number[int(place)] for place in np.argsort(positions, kind="stable")]
        # From the end at which the scanner began, be it head first or feet first.
        first, last = by_number.index(along[0]), by_number.index(along[-1])
        order += along if first <= last else along[::-1]
    return order


def _positions(headers: Sequence[Dataset]) -> NDArray[np.float64] | None:
    """The distance of each image along the normal of the first (PS3.3 C.7.6.2.1.1). None if it is not known."""
    places, normals = [], []
    for header in headers:
        place = numbers_of(header, "ImagePositionPatient")
        directions = numbers_of(header, "ImageOrientationPatient")
        if len(place) != 3 or len(directions) != 6:
            return None
        normal = np.cross(directions[:3], directions[3:])
        length = float(np.linalg.norm(normal))
        if not 0.5 < length < 2.0:
            return None
        places.append(place)
        normals.append(normal / length)
    if (np.array(normals) @ normals[0] < 0.99).any():
        return None  # planes that cross have no order along a normal
    return np.round(np.array(places) @ normals[0], 4)


def key_frames(reading: Reading, stack: Stack) -> list[Frame]:
    """The frames that get a picture of their own, at most :data:`KEY_SLICES`.

    First those with findings, the most certain first; then, for each segment, the frame on which it is largest; then,
    for each present class without a finding, the frame on which its heat map is hottest.
    """
    chosen = dict.fromkeys(frame for frame in _candidates(reading) if frame in stack)
    return list(chosen)[:KEY_SLICES]


def _candidates(reading: Reading) -> Iterator[Frame]:
    numbers = {ref.sop_instance_uid: number for number, ref in enumerate(reading.sources)}
    for finding in sorted(reading.findings, key=lambda each: -each.score):
        region = finding.region
        yield Frame(numbers.get(region.sop_instance_uid, -1), region.frame)
    for segmentation in reading.segmentations:
        for segment in segmentation.segments:
            areas = [int((mask >= 0.5).sum()) for mask in segment.mask]
            if areas and max(areas) > 0:
                ref, frame = segmentation.frames[int(np.argmax(areas))]
                yield Frame(numbers.get(ref.sop_instance_uid, -1), frame)
    for result in reading.classes:
        found = any(finding.key == result.key for finding in reading.findings)
        maps = [each for each in reading.heat_maps if each.key == result.key and each.values.size]
        if result.presence is Presence.PRESENT and maps and not found:
            hottest = max(maps, key=lambda each: float(each.values.max()))
            yield Frame(numbers.get(hottest.sop_instance_uid, -1), hottest.frame)


def montage_frames(stack: Stack, keys: Sequence[Frame]) -> list[Frame]:
    """Frames evenly spaced over the stack; each key frame replaces its nearest neighbour. In order."""
    count = min(MONTAGE, len(stack))
    places = np.linspace(0, len(stack) - 1, count).round().astype(np.int64)
    fixed = np.zeros(count, dtype=bool)
    for key in sorted(stack.place(frame) for frame in keys):
        apart = np.where(fixed & (places != key), np.iinfo(np.int64).max, np.abs(places - key))
        nearest = int(np.argmin(apart))
        places[nearest], fixed[nearest] = key, True
    return [stack[int(place)] for place in sorted(set(places.tolist()))]
