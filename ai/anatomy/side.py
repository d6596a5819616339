"""The patient's side of a region in a radiograph. A wrong side does more harm than none, so doubt gives none."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ai.anatomy.field import ChestField
from ai.contract import Code
from ai.images.radiograph import Radiograph

LEFT: Final = Code("7771000", "SCT", "Left")
RIGHT: Final = Code("24028007", "SCT", "Right")
BILATERAL: Final = Code("51440002", "SCT", "Bilateral")
"""The codes of CID 244 Laterality (PS3.16)."""

_REACH = 0.10  # of a region's width: reaching further over the midline, it has no side
_BOTH = 0.25  # of a region's area: holding that much, each side has its part
_FRONTAL = ("", "PA", "AP")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixel edges."""


def side_in_chest(image: Radiograph, field: ChestField, box: Box, mask: NDArray[np.bool_] | None = None) -> Code | None:
    """The side of a region in a frontal chest radiograph: left, right, both, or None where it is not certain.

    The midline is that of the thorax in the picture. A region that reaches over it by at most 10 % of its width has the
    side on which it lies; one that has at least 25 % of its area on each side lies on both.

    Which side of the picture is the patient's left is told by Patient Orientation (0020,0020). Nothing is told of any
    other view than PA and AP (0018,5101), without a midline, or where Image Laterality (0020,0062) or Laterality
    (0020,0060) declares the other side.

    Args:
        image: the radiograph.
        field: its field.
        box: around the region.
        mask: the region itself (rows, columns), if it is outlined; the box counts otherwise.
    """
    left_is_right = image.patient_left_is_right_of_image
    if left_is_right is None or image.view.upper() not in _FRONTAL:
        return None
    split = _split(field, box) if mask is None or not mask.any() else _split_of_mask(field, mask)
    if split is None:
        return None
    reach, share = split  # of the region's width and area, beyond the midline to the right of the picture
    if _BOTH <= share <= 1.0 - _BOTH:
        found = BILATERAL
    elif min(reach, 1.0 - reach) <= _REACH:
        found = LEFT if (reach > 0.5) == left_is_right else RIGHT
    else:
        return None
    return found if all(declared in (None, found) for declared in _declared(image)) else None


def side_as_declared(image: Radiograph) -> Code | None:
    """The side that the header declares of the whole image. None if it declares none, or two."""
    declared = {each for each in _declared(image) if each is not None}
    return declared.pop() if len(declared) == 1 else None


def _declared(image: Radiograph) -> tuple[Code | None, Code | None]:
    codes = {"L": LEFT, "R": RIGHT}
    return codes.get(image.image_laterality.upper()), codes.get(image.series_laterality.upper())


def _split(field: ChestField, box: Box) -> tuple[float, float] | None:
    left, top, right, bottom = box
    middle = field.midline((top + bottom) / 2.0)
    if middle is None:
        return None
    beyond = float(np.clip((right - middle) / (right - left), 0.0, 1.0))
    return beyond, beyond


def _split_of_mask(field: ChestField, mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    rows, columns = np.nonzero(mask)
    if field.line is None:
        return None
    beyond = columns + 0.5 - (field.line[0] + field.line[1] * (rows + 0.5))
    low, high = float(beyond.min()) - 0.5, float(beyond.max()) + 0.5
    return float(np.clip(high / (high - low), 0.0, 1.0)), float((beyond > 0.0).mean())
