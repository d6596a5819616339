"""The answer of a model on one image, in the image's own pixels, from which a `Reading` is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.contract import HeatMap


@dataclass(frozen=True, slots=True)
class MarkedBox:
    """A box around a region of a class. ``key`` is the output's key, ``score`` a probability.

    The edges are pixel edges as in `ai.contract`, columns first, and lie inside the image.
    """

    key: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageAnswer:
    """The answer of a model on one image.

    ``scores`` are probabilities in the order of the outputs in ``reading.json``, also of ``undetermined`` outputs.
    ``boxes``, best first, and ``heat_maps`` are of classes that reach their threshold. Anatomy has no boxes. The heat
    maps' ``sop_instance_uid`` is empty; `BundleModel.read` sets it. ``masks`` are (key, bool (rows, columns)) of the
    classes that a segmentation finds present.
    """

    scores: tuple[float, ...]
    boxes: tuple[MarkedBox, ...]
    heat_maps: tuple[HeatMap, ...] = ()
    masks: tuple[tuple[str, NDArray[np.bool_]], ...] = ()
