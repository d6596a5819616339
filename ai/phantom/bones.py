"""The bones of a phantom's chest, in mm of water that they add to each ray.

Ribs are curves around the cylinder of the thorax. Their thickness along each ray is drawn, so that they are bright at
the sides, where rays run along them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai.phantom.anatomy import SIDES, Anatomy
from ai.phantom.canvas import Canvas, Image, Points, smoothstep


def _cortex(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """The profile across a tubular bone, a shell around marrow: bright near both edges, 0 at the rim."""
    outer = np.sqrt(np.clip(1.0 - offset**2, 0, 1))
    inner = np.sqrt(np.clip(0.80**2 - offset**2, 0, 1))
    return outer - 0.72 * inner


def _rib_depth(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """The thickness of a rib along its course: thin at the spine, and thinner towards its cartilage."""
    return (1.0 - 0.35 * place) * np.clip(0.15 + place / 0.28, 0.0, 1.0) * np.clip((1.0 - place) / 0.07, 0.0, 1.0)


def round_across(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """The thickness across a round rod, for offsets from -1 to 1 in half widths."""
    return np.sqrt(np.clip(1.0 - offset**2, 0, 1))


def _rib(person: Anatomy, number: int, side: int, jitter: float) -> Points:
    """The course of a rib from the spine around the side to the beginning of its cartilage: (n, 2) in mm."""
    start = person.apex - (6.0 if number == 0 else 16.0) + number * person.rib_pitch + jitter
    drop = person.rib_drop * (0.42, 0.62, 0.78, 0.9)[number] if number < 4 else person.rib_drop
    reach = float(person.lateral(np.array([start + 0.45 * drop]))[0]) + 3.5
    if number == 0:
        reach = 56.0
    last = (2.55, 2.62, 2.60, 2.55, 2.48, 2.40, 2.3, 2.15, 2.0, 1.85, 1.6)[number]
    angle = np.linspace(0.12, last, 300)
    x = 12.0 + (reach - 12.0) * np.sin(angle) ** 0.92
    y = start + drop * ((1.0 - np.cos(angle)) / 2.0) ** 0.96 - 5.0 * np.sin(np.clip(angle * 1.6, 0, np.pi))
    return np.stack([person.middle + side * x, y], axis=1)


def bones(canvas: Canvas, person: Anatomy, rng: np.random.Generator) -> Image:
    """Draw ribs, clavicles, shoulder blades, the heads of the humeri and the spine."""
    strips: list[tuple[Points, NDArray[np.float64]]] = []
    for number in range(11):
        jitter = float(rng.uniform(-1.5, 1.5))
        for side in SIDES:
            half = float(rng.uniform(5.0, 6.2)) * (0.92 if number in {0, 1} else 1.0)
            path = _rib(person, number, side, jitter + float(rng.uniform(-1, 1)))
            strips.append(canvas.strip(path, half, _cortex, 30.0 * person.rib_density, along=_rib_depth))
            # The lower edge of a rib is a thin flange, which is brighter than the upper edge.
            lower = path + np.array([0.0, half * 0.86])
            strips.append(canvas.strip(lower, 0.8, round_across, 5.0 * person.rib_density, along=_rib_depth))
    for side in SIDES:
        strips += _shoulder_bones(canvas, person, side, rng)
    strips += _spine(canvas, person)
    bone = canvas.splat(np.concatenate([p for p, _ in strips]), np.concatenate([v for _, v in strips]))
    for side in SIDES:
        bone += _flat_bones(canvas, person, side)
    return canvas.blur(bone, max(0.45, 0.45 * canvas.step))


def _shoulder_bones(
    canvas: Canvas, person: Anatomy, side: int, rng: np.random.Generator
) -> list[tuple[Points, NDArray[np.float64]]]:
    rise = float(rng.uniform(4, 22)) - (8.0 if person.view == "AP" else 0.0)
    inner, outer = 13.0, 148.0
    u = np.linspace(0, 1, 300)
    x = inner + (outer - inner) * u
    y = person.apex + 34.0 - rise * u - 9.0 * np.sin(2 * np.pi * u * 0.95)
    clavicle = np.stack([person.middle + side * x, y], axis=1)
    bands = [
        canvas.strip(
            clavicle,
            lambda u: 5.6 + 2.2 * np.abs(2 * u - 0.9) ** 2,
            _cortex,
            40.0 * person.rib_density,
            along=lambda u: np.clip(np.minimum(u, 1.0 - u) / 0.05, 0.0, 1.0),
        )
    ]
    # The inner border of the shoulder blade lies beside the lung in PA, and over it in AP.
    share = 0.80 if person.view == "AP" else float(rng.uniform(0.97, 1.06))
    v = np.linspace(0, 1, 40)
    edge = share * person.lateral(np.array([person.apex + 120.0]))[0] + 4.0 - 6.0 * v + 10.0 * np.sin(np.pi * v)
    border = np.stack([person.middle + side * edge, person.apex + 12.0 + 132.0 * v], axis=1)
    bands.append(canvas.strip(border, 1.8, round_across, 5.0))
    tip = border[-1]
    outer_edge = np.stack(
        [np.linspace(tip[0], person.middle + side * 152.0, 30), np.linspace(tip[1], person.apex + 48.0, 30)], axis=1
    )
    bands.append(canvas.strip(outer_edge, 3.4, _cortex, 9.0, along=lambda u: np.clip((1 - u) / 0.2, 0, 1)))
    shaft = np.stack(
        [
            np.linspace(person.middle + side * 170.0, person.middle + side * 196.0, 20),
            np.linspace(person.apex + 60.0, person.apex + 230.0, 20),
        ],
        axis=1,
    )
    bands.append(canvas.strip(shaft, 11.0, _cortex, 24.0, along=lambda u: np.clip(u / 0.2, 0.0, 1.0)))
    return bands


def _flat_bones(canvas: Canvas, person: Anatomy, side: int) -> Image:
    """The head of the humerus and the blade of the scapula."""
    x, y = side * (canvas.x - person.middle), canvas.y
    head = np.sqrt((x - 164.0) ** 2 + (y - person.apex - 50.0) ** 2) / 23.0
    bone = 18.0 * np.sqrt(np.clip(1.0 - head**2, 0, 1)) + 4.0 * np.exp(-(((head - 0.97) / 0.05) ** 2))
    share = 0.80 if person.view == "AP" else 1.02
    edge = share * person.lateral(np.array([person.apex + 120.0]))[0] + 6.0
    lower = person.apex + 145.0 - (x - edge) * 1.7
    blade = smoothstep((x - edge) / 5.0) * smoothstep((lower - y) / 8.0) * smoothstep((y - person.apex - 14.0) / 25.0)
    return np.asarray(bone + 3.2 * blade * (x < 165), dtype=np.float32)


def _spine(canvas: Canvas, person: Anatomy) -> list[tuple[Points, NDArray[np.float64]]]:
    """One vertebra, drawn at every level."""
    half = 15.5
    x = np.array([-half, half])
    bands = [canvas.strip(np.stack([x, np.full(2, y)], axis=1), 1.0, round_across, 4.5) for y in (1.2, 20.0)]
    bands.append(canvas.strip(np.array([[0.0, 0.0], [0.0, 21.0]]), half, lambda t: 0.7 + 0.5 * np.abs(t) ** 8, 12.0))
    bands.append(canvas.strip(np.array([[0.0, 13.0], [0.0, 22.0]]), 2.2, round_across, 9.0))
    for side in SIDES:
        eye = side * half * 0.68
        bands.append(canvas.strip(np.array([[eye, 4.5], [eye, 10.5]]), 2.4, _cortex, 12.0))
        process = np.array([[side * half * 0.9, 6.0], [side * (half + 12.0), 4.0]])
        bands.append(canvas.strip(process, 3.4, _cortex, 7.0))
    points = np.concatenate([p for p, _ in bands])
    volume = np.concatenate([v for _, v in bands])
    levels = np.arange(-4, 17)
    scale = 1.0 + 0.016 * np.clip(levels, -4, None)
    drop = person.apex - 14.0 + levels * 22.4 + 0.18 * levels**2
    placed = points[None] * np.stack([scale, 1.0 + 0.016 * levels], axis=1)[:, None]
    placed = placed + np.stack([np.full(levels.size, person.middle), drop], axis=1)[:, None]
    return [(placed.reshape(-1, 2), np.tile(volume, levels.size))]
