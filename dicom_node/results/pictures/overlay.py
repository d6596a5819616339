"""What lies on each frame: boxes, outlines and heat maps, each in the colour of its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ai.contract import Finding, HeatMap, Presence, Segment
from dicom_node.results import verdict
from dicom_node.results.pictures.drawing import Box, Colour, Outline
from dicom_node.results.pictures.heat_maps import VISIBLE, Heat
from dicom_node.results.pictures.outlines import outline_of
from dicom_node.results.pictures.palette import Palette
from dicom_node.results.pictures.slices import Frame, Stack
from dicom_node.results.run import Run


class Overlay:
    """A run's findings, segments and heat maps by frame; ``headers`` are in the order of its sources."""

    def __init__(self, run: Run, headers: Sequence[Dataset]) -> None:
        self.run, self.stack = run, Stack(headers)
        reading = run.reading
        self._palette = Palette(reading)
        self.colours = self._palette.classes
        keys = [finding.key for finding in reading.findings]
        self._by_number = len(set(keys)) < len(keys)

    def is_on(self, frame: Frame, sop_instance_uid: str, number: int) -> bool:
        """Whether a reference to this instance and frame number means this frame."""
        return (self.run.reading.sources[frame.source].sop_instance_uid, frame.number) == (sop_instance_uid, number)

    def findings(self, frame: Frame) -> list[tuple[int, Finding]]:
        """The findings on a frame with their numbers, which count from 1 over the whole reading."""
        return [
            (number, finding)
            for number, finding in enumerate(self.run.reading.findings, start=1)
            if self.is_on(frame, finding.region.sop_instance_uid, finding.region.frame)
        ]

    def colour(self, finding: Finding) -> Colour:
        """The colour of a finding's class."""
        return self._palette.colour(finding)

    def boxes(self, frame: Frame, across: float = 1.0, down: float = 1.0) -> list[Box]:
        """The findings on a frame as boxes of a picture that is ``across`` times as wide and ``down`` times as high.

        If two findings of the reading have the same class, labels begin with the findings' numbers. A finding that a
        segment outlines has no frame: its outline is drawn.
        """
        return [
            Box(
                finding.region.left * across,
                finding.region.top * down,
                finding.region.right * across,
                finding.region.bottom * down,
                self.colour(finding),
                (f"{number}: " if self._by_number else "") + verdict.finding_label(self.run, finding),
                number,
                outline_of(self.run.reading, finding) is not None,
            )
            for number, finding in self.findings(frame)
        ]

    def segments(self, frame: Frame) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
        """The segments that have pixels on a frame, with their masks (rows x columns)."""
        for segmentation in self.run.reading.segmentations:
            places = [
                place
                for place, (ref, number) in enumerate(segmentation.frames)
                if self.is_on(frame, ref.sop_instance_uid, number)
            ]
            for segment in segmentation.segments if places else ():
                mask = segment.mask[places[0]] >= 0.5
                if mask.any():
                    yield segment, mask

    def stroke(self, segment: Segment) -> tuple[Colour, bool]:
        """The colour of a segment, and whether its line is dashed because another segment has the same colour."""
        colour, before = self._palette.segment(segment)
        return colour, before > 0

    def outlines(self, frame: Frame, rows: int, columns: int) -> list[Outline]:
        """The segments on a frame, scaled to a picture of this size."""
        found = []
        for segment, mask in self.segments(frame):
            y = (np.arange(rows) + 0.5) * mask.shape[0] / rows
            x = (np.arange(columns) + 0.5) * mask.shape[1] / columns
            scaled = mask[y.astype(np.int64)][:, x.astype(np.int64)]
            found.append(Outline(scaled, *self.stroke(segment)))
        return found

    def heats(self, frame: Frame, across: float, down: float) -> list[Heat]:
        """The heat maps of present classes, for a picture so many times as wide and as high as the frame."""
        return [
            Heat(each.values, each.left * across, each.top * down, each.right * across, each.bottom * down)
            for each in self._heat_maps(frame)
        ]

    def heated(self, frame: Frame) -> list[str]:
        """The names of the present classes that have a heat map on a frame."""
        keys = {each.key for each in self._heat_maps(frame)}
        return [verdict.finding_name(self.run, each) for each in self.run.reading.classes if each.key in keys]

    def _heat_maps(self, frame: Frame) -> list[HeatMap]:
        present = {each.key for each in self.run.reading.classes if each.presence is Presence.PRESENT}
        return [
            each
            for each in self.run.reading.heat_maps
            if each.key in present
            and self.is_on(frame, each.sop_instance_uid, each.frame)
            and (each.values >= VISIBLE).any()  # a picture without a colour would look like a negative one
        ]
