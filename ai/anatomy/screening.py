"""Whether a picture is an upright frontal chest radiograph, as far as the picture tells.

What the header says (age, view, body part) is decided before, by `ai.selection.rules`. No lateral view was at hand to
train or to measure on: most views from the side are only known by their headers.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ai.anatomy.field import ChestField

_REFUSED: Final = 0.02
_MARKED: Final = 0.50
"""Probabilities of an upright frontal chest: below the first an image is refused, below the second marked."""


class Look(Enum):
    """What a picture looks like: what is asked for, perhaps something else, or surely something else."""

    FRONTAL = "frontal"
    DOUBTFUL = "doubtful"
    OTHER = "other"


REFUSED: Final = "the image does not look like an upright frontal chest radiograph, so it was not read"
MARKED: Final = "The image may not be an upright frontal chest radiograph of an adult; the answer may be worth little"


def look_of(field: ChestField) -> Look:
    """Judge an image by its field.

    It is another image for certain only where two things agree: the network takes it for no upright chest, and outlines
    no two plausible lungs.
    """
    upright = field.kinds[0]
    if field.lungs is None and upright < _REFUSED:
        return Look.OTHER
    return Look.DOUBTFUL if upright < _MARKED else Look.FRONTAL
