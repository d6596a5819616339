"""The measures of a phantom's chest, in mm on the field of `ai.phantom.canvas`.

The thorax is an elliptic cylinder seen from the front. The patient's left is on the image's right. ``side`` is -1 on
the image's left (the patient's right lung) and +1 on the image's right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

from ai.phantom.canvas import Image

SIDES = (-1, 1)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One person: measures in mm on the field. See the module for the coordinates."""

    view: str
    middle: float  # x of the midline
    apex: float  # y of the lungs' upper ends
    half_width: float  # of the inside of the thorax at its widest
    dome: tuple[float, float]  # y of the top of each half of the diaphragm, by side
    wall: float  # thickness of the chest wall at the side
    depth: float  # of the body, front to back
    heart_left: float  # from the midline to the heart's border on the image's right
    heart_right: float
    shoulder: float  # y where the shoulder's line leaves the neck
    slope: float  # how far the shoulders fall
    axilla: float
    breast: float  # mm of tissue, 0 for none
    stomach: float  # height of the gas in it; below 8 none is drawn
    rib_pitch: float
    rib_drop: float
    rib_density: float
    vessel_density: float
    seed: int  # of textures and trees

    def place(self, y: Image | NDArray[np.float64]) -> NDArray[np.float64]:
        """The relative depth of a height in the lungs: 0 at the apex, 1 at the angle of ribs and diaphragm."""
        angle = max(self.dome) + 34.0
        return np.asarray((y - self.apex) / (angle - self.apex), dtype=np.float64)

    def lateral(self, y: Image | NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance of the lung's outer border from the midline, at heights ``y``."""
        place = np.clip(self.place(y), 0.0, 1.0)
        return 40.0 + (self.half_width - 40.0) * (1.0 - (1.0 - place) ** 2.3) ** 0.66

    def medial(self, y: Image | NDArray[np.float64], side: int) -> NDArray[np.float64]:
        """Distance of the border of mediastinum and heart from the midline, at heights ``y``."""
        dome = self.dome[0 if side < 0 else 1] - self.apex
        if side > 0:  # aortic arch, pulmonary trunk, left ventricle
            heart = self.heart_left
            points = [
                (-60, 21),
                (-20, 20),
                (30, 23),
                (58, 29),
                (74, 36),
                (88, 34),
                (98, 31),
                (112, 35),
                (126, 39),
                (dome - 74, 0.60 * heart),
                (dome - 44, 0.85 * heart),
                (dome - 14, heart),
                (dome + 10, 0.97 * heart),
                (dome + 60, 0.75 * heart),
            ]
        else:  # vena cava, right atrium
            heart = self.heart_right
            points = [
                (-60, 21),
                (-20, 19),
                (30, 20),
                (80, 25),
                (118, 27),
                (dome - 88, 0.72 * heart),
                (dome - 42, heart),
                (dome - 12, 0.98 * heart),
                (dome + 20, 0.8 * heart),
                (dome + 60, 0.7 * heart),
            ]
        heights, widths = np.array(points, dtype=np.float64).T
        place = np.clip(np.asarray(y, dtype=np.float64) - self.apex, -60, dome + 60)
        border = PchipInterpolator(heights, widths)(place)
        return np.asarray(border * (1.12 if self.view == "AP" else 1.0), dtype=np.float64)

    def diaphragm(self, distance: Image | NDArray[np.float64], side: int) -> NDArray[np.float64]:
        """Height of the diaphragm at a distance from the midline."""
        top = self.dome[0 if side < 0 else 1]
        centre = 0.50 * self.half_width
        reach = np.asarray(distance, dtype=np.float64) - centre
        outer = 48.0 * (1.0 - np.sqrt(np.clip(1.0 - (reach / (self.half_width - centre + 2.0)) ** 2, 0, 1)))
        inner = 16.0 * (reach / centre) ** 2
        return top + np.where(reach > 0, outer, inner)

    def hilum(self, side: int) -> tuple[float, float]:
        """The hilum of a lung, where its vessels begin: (x, y)."""
        return self.middle + side * 34.0, self.apex + (118.0 if side < 0 else 110.0)

    def in_lung(self, x: float, y: float, side: int, margin: float) -> bool:
        """Whether a point lies in the lung's free field, at least ``margin`` mm from its borders and the heart."""
        at = np.array([y])
        distance = side * (x - self.middle)
        if not self.apex + margin < y < self.diaphragm(np.array([distance]), side)[0] - margin:
            return False
        return bool(self.medial(at, side)[0] + margin < distance < self.lateral(at)[0] - margin)


def person(rng: np.random.Generator, view: str) -> Anatomy:
    """A person with random measures, in ranges that depend on the view (PA or AP)."""
    lying = view == "AP"
    apex = float(rng.uniform(44, 66))
    right_dome = float(rng.uniform(278, 312) if lying else rng.uniform(292, 328))
    half_width = float(rng.uniform(118, 141))
    ratio = float(rng.uniform(0.52, 0.60) if lying else rng.uniform(0.40, 0.50))
    heart = 2.0 * half_width * ratio
    right_part = float(rng.uniform(0.27, 0.35))
    return Anatomy(
        view=view,
        middle=float(rng.uniform(-8, 8)),
        apex=apex,
        half_width=half_width,
        dome=(right_dome, right_dome + float(rng.uniform(2, 16))),
        wall=float(rng.uniform(17, 36)),
        depth=float(rng.uniform(185, 235)),
        heart_left=heart * (1 - right_part),
        heart_right=heart * right_part,
        shoulder=apex - float(rng.uniform(40, 60)),
        slope=float(rng.uniform(38, 66)) * (0.75 if lying else 1.0),
        axilla=apex + float(rng.uniform(105, 140)),
        breast=float(rng.uniform(20, 55)) if rng.random() < 0.45 else 0.0,
        stomach=float(rng.uniform(0, 26)),
        rib_pitch=(right_dome + 8.0 - apex) / float(rng.uniform(10.0, 11.2)),
        rib_drop=float(rng.uniform(84, 116)),
        rib_density=float(rng.uniform(0.75, 1.2)),
        vessel_density=float(rng.uniform(0.8, 1.25)),
        seed=int(rng.integers(2**31)),
    )
