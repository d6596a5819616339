"""The colours of findings and segments: the same in the pictures and in the Segmentation objects."""

from __future__ import annotations

from collections.abc import Sequence

from ai.contract import ClassResult, Reading, Segment
from dicom_node.results import verdict
from dicom_node.results.pictures.drawing import Colour

COLOURS: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
)
"""The colours of Okabe and Ito, which people with any colour vision tell apart.

Their blue and black are left out: they are too dark on black.
"""


class Palette:
    """The colours of a reading's classes and segments, the same in every object that shows them."""

    def __init__(self, reading: Reading) -> None:
        self.classes = _colours(reading.classes)
        segments = [each for one in reading.segmentations for each in one.segments]
        self._turns = {id(each): turn for turn, each in enumerate(segments, start=len(self.classes))}

    def segment(self, segment: Segment) -> tuple[Colour, int]:
        """A segment's colour (its class's, if it has one), and how many earlier segments have the same."""
        if segment.key in self.classes:
            return self.classes[segment.key], 0
        turn = self._turns[id(segment)]
        return COLOURS[turn % len(COLOURS)], turn // len(COLOURS)


def _colours(classes: Sequence[ClassResult]) -> dict[str, Colour]:
    """The colour of each class: by its place in the model, unless an earlier class that is not faint has the same."""
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
