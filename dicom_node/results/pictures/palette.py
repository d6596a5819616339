"""The colours of findings."""

from __future__ import annotations

from collections.abc import Sequence

from ai.contract import ClassResult, Reading, Segment
from dicom_node.results import verdict
from dicom_node.results.pictures.drawing import COLOURS, Colour


class Palette:
    """The colours of a reading's classes and segments, the same in every object that shows them."""

    def __init__(self, reading: Reading) -> None:
        self.classes = _colours(reading.classes)
        segments = [each for one in reading.segmentations for each in one.segments]
        self._turns = {id(each): turn for turn, each in enumerate(segments, start=len(self.classes))}

    def segment(self, segment: Segment) -> tuple[Colour, int]:
        """The colour of one of the reading's segments, its class's where it has one; how often it was had before."""
        if segment.key in self.classes:
            return self.classes[segment.key], 0
        turn = self._turns[id(segment)]
        return COLOURS[turn % len(COLOURS)], turn // len(COLOURS)


def _colours(classes: Sequence[ClassResult]) -> dict[str, Colour]:
    """The colour of each class: the same in every study, unless another has it that is not faint either."""
    colours: dict[str, Colour] = {}
    taken: set[Colour] = set()
    for place, each in enumerate(classes):
        colour = COLOURS[place % len(COLOURS)]
        if not verdict.is_faint(each):
            free = [other for other in COLOURS if other not in taken]
            colour = free[0] if colour in taken and free else colour
            taken.add(colour)
        colours[each.key] = colour
    return colours
