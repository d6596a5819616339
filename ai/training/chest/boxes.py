"""Compares the regions of heat maps with the boxes that radiologists drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.chest_network import ChestNetwork
from ai.training.chest.data import KEYS, REPORTED, Cases
from ai.training.chest.measure import REGION

BOXES = {  # label of a radiologist's box -> key of the class
    "Nodule": "nodule_or_mass",
    "Mass": "nodule_or_mass",
    "Pneumonia": "airspace_opacity",
    "Infiltration": "airspace_opacity",
    "Infiltrate": "airspace_opacity",
    "Effusion": "effusion",
    "Cardiomegaly": "cardiomegaly",
    "Pneumothorax": "pneumothorax",
}


def box_figures(cases: Cases, networks: Mapping[int, ChestNetwork]) -> dict[str, Any]:
    """How often the centre of a heat map's region lies inside a radiologist's box of the same finding, by class.

    ``networks`` are the networks by the fold that they were not trained on. Of a class that joins several, the map of
    the one with the greatest score counts, as when an image is read. ``chance`` is the expected number of hits of a
    random point: the sum of the boxes' shares of the image.
    """
    found: dict[str, dict[str, Any]] = {}
    folds = cases.folds
    for row, boxes in enumerate(cases.boxes):
        known = [(BOXES[name], box) for name, *box in boxes if name in BOXES]
        if not known or folds[row] not in networks:
            continue
        maps, logits = activations(networks[int(folds[row])], cases.pixels[row])
        for key in sorted({key for key, _ in known}):
            channel = max((KEYS.index(part) for part in REPORTED[key]), key=lambda k: float(logits[k]))
            x, y = region_centre(maps[channel])
            same = [box for name, box in known if name == key]
            one = found.setdefault(key, {"findings": 0, "hits": 0, "chance": 0.0})
            one["findings"] += 1
            one["hits"] += any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in same)
            one["chance"] += min(1.0, sum((right - left) * (bottom - top) for left, top, right, bottom in same))
    return {key: {**one, "chance": round(one["chance"], 2)} for key, one in sorted(found.items())}


def activations(network: ChestNetwork, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Class activation maps (KEYS, rows, columns) and logits (KEYS,) of an image (h, w); see `ChestNetwork`."""
    image = torch.from_numpy(pixels)[None, None].float() / 255.0
    with torch.inference_mode():
        maps, logits = network.places(network.features(image)), network(image)
    return np.asarray(maps[0].numpy()), np.asarray(logits[0].numpy())


def region_centre(cam: NDArray[np.float32]) -> tuple[float, float]:
    """Centre (x, y), in fractions of width and height, of a map's first box, as in `ai.inference.regions.peaks`."""
    fine = ndimage.zoom(cam - cam.min(), 8, order=1, grid_mode=True, mode="nearest")
    places, _ = ndimage.label(fine >= REGION * fine.max(), structure=np.ones((3, 3), dtype=int))
    peak = np.unravel_index(int(np.argmax(fine)), fine.shape)
    rows, columns = np.nonzero(places == places[peak])
    return (
        float((columns.min() + columns.max() + 1) / 2.0 / fine.shape[1]),
        float((rows.min() + rows.max() + 1) / 2.0 / fine.shape[0]),
    )
