"""What a model says of one picture, in the picture's own pixels: between the network's output and a `Reading`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.contract import HeatMap


@dataclass(frozen=True, slots=True)
class MarkedBox:
    """A place on a picture where a class was seen: ``key`` names the output, ``score`` is a probability.

    The edges are pixel edges as in `ai.contract`, columns first, and lie within the picture.
    """

    key: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageAnswer:
    """All that a model says of one picture.

    ``scores`` are probabilities in the order of the outputs in ``reading.json``, also of outputs that are never called
    present (``undetermined``). ``boxes`` and ``heat_maps`` are of the classes that reach their threshold alone, best
    box first, and no box is of anatomy; the heat maps' ``sop_instance_uid`` is empty where the picture has none.
    ``masks`` (bool, rows x columns of the picture) are the outlines of a segmentation by the output's key; of what is
    not there, there is none.
    """

    scores: tuple[float, ...]
    boxes: tuple[MarkedBox, ...]
    heat_maps: tuple[HeatMap, ...] = ()
    masks: tuple[tuple[str, NDArray[np.bool_]], ...] = ()
