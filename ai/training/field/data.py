"""What the field's network is trained on: drawn phantoms with outlines, films without, and what is no frontal chest."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from ai.anatomy.field import reduced
from ai.phantom.anatomy import Anatomy, person
from ai.phantom.canvas import Canvas
from ai.phantom.chest import build
from ai.phantom.draw import draw_phantom

SHAPES = ((160, 160), (192, 157), (150, 183))
"""Rows and columns of the phantoms: square, upright and lying images."""

SIDE = 128
"""Rows and columns of what is kept; augmentation cuts the network's 96 out of it."""

_BODY_MM = 6.0  # of water along the ray: the least that counts as body
_ADULT = 18
_HOLD_OUT = 5  # each fifth patient is not trained on


class Outlined(NamedTuple):
    """Pictures (n, 1, side, side) in 0..1, outlines (n, 3, side, side) in 0..1."""

    pictures: torch.Tensor
    outlines: torch.Tensor


def phantom(seed: int, rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A phantom as it is displayed, (rows, columns) in 0..1, and its outlines (3, rows, columns): right, left, body."""
    view = "AP" if seed % 3 == 0 else "PA"
    drawn = draw_phantom(seed, rows, columns, view=view, photometric="MONOCHROME2")
    low = drawn.window_center - 0.5 - (drawn.window_width - 1.0) / 2.0
    display = np.clip((drawn.pixels - low) / (drawn.window_width - 1.0), 0.0, 1.0).astype(np.float32)
    patient = person(np.random.default_rng([seed, 2]), view)
    canvas = Canvas.over_field(rows, columns)
    return display, np.stack([*(_lung(canvas, patient, side) for side in (-1, 1)), _body(canvas, patient)])


def _lung(canvas: Canvas, patient: Anatomy, side: int) -> NDArray[np.bool_]:
    """The lung that the picture shows free of heart and diaphragm, whatever lies in it."""
    distance = side * (canvas.x - patient.middle)
    below = canvas.y > patient.diaphragm(np.clip(distance, 0.0, None), side)
    outside = (distance < patient.medial(canvas.y, side)) | (distance > patient.lateral(canvas.y))
    return np.asarray((canvas.y > patient.apex) & ~below & ~outside)


def _body(canvas: Canvas, patient: Anatomy) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_fill_holes(build(canvas, patient).body > _BODY_MM))


def phantoms(seeds: Sequence[int]) -> Outlined:
    """Draw phantoms, in turn of each shape."""
    pictures, outlines = [], []
    for number, seed in enumerate(seeds):
        display, masks = phantom(seed, *SHAPES[number % len(SHAPES)])
        pictures.append(reduced(display, SIDE)[None])
        outlines.append(np.stack([reduced(mask.astype(np.float32), SIDE) for mask in masks]))
    return Outlined(torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(outlines)))


def rows_of(data: Path) -> list[dict[str, Any]]:
    """The rows of ``labels.csv`` in a folder."""
    with (data / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_held_out(row: dict[str, Any]) -> bool:
    """Whether a film is kept for measuring: those of NLM, and those of each fifth patient of NIH."""
    digits = "".join(filter(str.isdigit, row["patient_id"]))
    return not row["dataset"].startswith("NIH") or int(digits or 0) % _HOLD_OUT == 0


def is_adult(row: dict[str, Any]) -> bool:
    """Whether a film is of somebody of 18 years or more. A film without an age counts as an adult's."""
    return not row["age"].isdigit() or int(row["age"]) >= _ADULT


def film(data: Path, row: dict[str, Any]) -> NDArray[np.float32]:
    """A film as it is displayed, (rows, columns) in 0..1."""
    with Image.open(data / row["file"]) as opened:
        return np.asarray(opened.convert("L"), dtype=np.float32) / np.float32(255.0)


def films(data: Path) -> torch.Tensor:
    """The films of adults that may be trained on, (n, 1, side, side)."""
    taken = [row for row in rows_of(data) if not is_held_out(row) and is_adult(row)]
    return torch.from_numpy(np.stack([reduced(film(data, row), SIDE)[None] for row in taken]))


def strange(rng: np.random.Generator, pictures: torch.Tensor, count: int) -> torch.Tensor:
    """Pictures that are no frontal chest: details of films, their pieces in another order, drawn limbs, clouds."""
    made = [_STRANGE[int(rng.integers(len(_STRANGE)))](rng, pictures) for _ in range(count)]
    return torch.from_numpy(np.stack(made)[:, None].astype(np.float32))


def _enlarged(cut: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.zoom(cut, SIDE / len(cut), order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def _any(rng: np.random.Generator, pictures: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(pictures[int(rng.integers(len(pictures))), 0].numpy())


def _detail(rng: np.random.Generator, pictures: torch.Tensor) -> NDArray[np.float32]:
    side = int(rng.integers(20, 44))
    top, left = rng.integers(0, SIDE - side, 2)
    cut = _any(rng, pictures)[top : top + side, left : left + side]
    return np.rot90(_enlarged(cut), int(rng.integers(4))).copy()


def _belly(rng: np.random.Generator, pictures: torch.Tensor) -> NDArray[np.float32]:
    side = int(rng.integers(36, 56))
    left = int(rng.integers(0, SIDE - side))
    cut = _any(rng, pictures)[SIDE - side :, left : left + side]
    return _enlarged(cut)


def _pieces(rng: np.random.Generator, pictures: torch.Tensor) -> NDArray[np.float32]:
    one, half = _any(rng, pictures), SIDE // 2
    parts = [one[:half, :half], one[:half, half:], one[half:, :half], one[half:, half:]]
    order = rng.permutation(4)
    while (order == np.arange(4)).sum() > 1:
        order = rng.permutation(4)
    first, second, third, fourth = (np.rot90(parts[place], int(rng.integers(4))) for place in order)
    return np.block([[first, second], [third, fourth]])


def _limb(rng: np.random.Generator, _: torch.Tensor) -> NDArray[np.float32]:
    """Tissue with bones in it: bands across the picture, one or several, each with brighter bands along it."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    picture = np.zeros((SIDE, SIDE))
    for _ in range(int(rng.integers(1, 6))):
        middle = rng.uniform(-0.35, 0.35) + rng.uniform(-0.2, 0.2) * along
        width = rng.uniform(0.05, 0.32) * (1.0 + rng.uniform(-0.6, 0.6) * along)
        profile = np.sqrt(np.clip(1.0 - ((across - middle) / width) ** 2, 0.0, 1.0))
        end = np.clip((rng.uniform(0.1, 0.7) - np.abs(along - rng.uniform(-0.2, 0.2))) * 12.0, 0.0, 1.0)
        picture += rng.uniform(0.2, 0.6) * profile * end
        for _ in range(int(rng.integers(0, 3))):
            bone = (across - middle - rng.uniform(-0.5, 0.5) * width) / (rng.uniform(0.1, 0.4) * width)
            picture += rng.uniform(0.2, 0.6) * np.sqrt(np.clip(1.0 - bone**2, 0.0, 1.0)) * end
    for _ in range(int(rng.integers(0, 5))):
        round_ = ((x - rng.uniform(-0.4, 0.4)) ** 2 + (y - rng.uniform(-0.4, 0.4)) ** 2) / rng.uniform(0.005, 0.12)
        picture += rng.uniform(-0.4, 0.5) * np.clip(1.0 - round_, 0.0, 1.0)
    return _greys(rng, ndimage.gaussian_filter(picture, rng.uniform(0.3, 2.0)))


def _clouds(rng: np.random.Generator, _: torch.Tensor) -> NDArray[np.float32]:
    picture = sum(ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in rng.uniform(0.5, 24.0, 3))
    return _greys(rng, np.asarray(picture))


def _plain(rng: np.random.Generator, _: torch.Tensor) -> NDArray[np.float32]:
    """Nearly one grey, or a step: blank exposures and test patterns."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    turn = rng.uniform(0, 2 * np.pi)
    slope = x * np.cos(turn) + y * np.sin(turn)
    if rng.random() < 0.5:
        slope = np.floor(slope * rng.integers(1, 9))
    return _greys(rng, rng.random() * slope + rng.uniform(0.0, 0.1) * rng.normal(size=slope.shape))


def _greys(rng: np.random.Generator, picture: NDArray[np.float64]) -> NDArray[np.float32]:
    low, high = picture.min(), picture.max()
    scaled = (picture - low) / max(high - low, 1e-6)
    return np.asarray(1.0 - scaled if rng.random() < 0.2 else scaled, dtype=np.float32)


_STRANGE = (_detail, _belly, _pieces, _limb, _limb, _clouds, _plain)
