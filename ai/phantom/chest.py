"""The healthy chest of a phantom: the thickness of tissue and of air along each ray.

The lungs are the air in the thorax. Heart, great vessels and diaphragm displace it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.phantom.anatomy import SIDES, Anatomy
from ai.phantom.bones import bones, round_across
from ai.phantom.canvas import Canvas, Image, Points, smoothstep

_AIR = 0.76  # share of a lung that is air, by which its depth reduces the tissue of the body


@dataclass(frozen=True, slots=True)
class Chest:
    """The parts of a chest on a canvas, (rows, columns) in mm of water. Findings change them; `tissue` adds them."""

    body: Image  # soft tissue as if it held no air
    air: Image  # depth of lung along the ray
    bone: Image
    vessels: Image
    trachea: Image  # air of the windpipe and the main bronchi


def build(canvas: Canvas, person: Anatomy) -> Chest:
    """Build the parts of a healthy chest."""
    rng = np.random.default_rng(person.seed)
    air = _lungs(canvas, person)
    return Chest(
        _body(canvas, person),
        air,
        bones(canvas, person, rng),
        _vessels(canvas, person, air, rng),
        _windpipe(canvas, person),
    )


def _body(canvas: Canvas, person: Anatomy) -> Image:
    offset = np.abs(canvas.x - person.middle)
    y = canvas.y
    outer = person.lateral(y).astype(np.float32) + person.wall
    belly = smoothstep((y - min(person.dome) - 10.0) / 80.0)
    torso = (person.depth + 26.0 * belly) * np.sqrt(np.clip(1.0 - (offset / outer) ** 2, 0.0, 1.0))
    edge = person.shoulder + person.slope * (1.0 - np.exp(-np.clip(offset - 46.0, 0, None) / 46.0))
    below = np.maximum(y - edge, (50.0 - offset) * 2.5)
    mass = 0.60 * person.depth * (1.0 - np.exp(-np.clip(below, 0, None) / 17.0))
    # Above the axilla the shoulder continues into the arm; below it the arm is apart from the trunk.
    apart = person.axilla + 2.6 * np.clip(offset - outer, 0, None) ** 0.9 - y
    arm = smoothstep(apart / 22.0)
    shoulder = mass * np.where(offset < outer, smoothstep((person.axilla + 20.0 - y) / 110.0), arm)
    torso = torso * smoothstep((y - person.shoulder - 12.0) / 70.0)
    body = np.sqrt(torso**2 + (0.8 * shoulder) ** 2)
    for side in SIDES if person.breast else ():
        x0, y0 = person.middle + side * 0.58 * person.half_width, max(person.dome) - 30.0
        radius = np.sqrt(((canvas.x - x0) / 66.0) ** 2 + ((y - y0) / np.where(y > y0, 48.0, 120.0)) ** 2)
        hanging = np.clip(1.0 - radius**2, 0.0, 1.0) ** np.where(y > y0, 0.6, 0.6 + (y0 - y) / 60.0)
        body += person.breast * hanging * (body > 2.0)
    if person.stomach > 8.0:
        reach = canvas.x - person.middle - 0.47 * person.half_width
        depth = y - person.dome[1] - 7.0 - (reach / 11.0) ** 2
        gas = smoothstep(depth / 5.0) * smoothstep((person.stomach - depth) / 7.0)
        body -= 34.0 * gas * smoothstep((28.0 + person.stomach * 0.4 - np.abs(reach)) / 14.0)
    fat = 2.4 * canvas.clouds(np.random.default_rng(person.seed + 1), 24.0)
    return np.asarray(body + fat * np.clip(body / 60.0, 0.0, 1.0), dtype=np.float32)


def _lungs(canvas: Canvas, person: Anatomy) -> Image:
    x, y = canvas.x - person.middle, canvas.y
    soft = max(1.2, canvas.step)
    outer = person.lateral(y).astype(np.float32)
    top = np.clip((y - person.apex) / 70.0, 0.0, 1.0) ** 0.6
    depth = 0.70 * person.depth * np.sqrt(np.clip(1.0 - (x / outer) ** 2, 0.0, 1.0)) ** 0.9 * top
    air = canvas.empty()
    for side in SIDES:
        distance = side * x
        border = person.medial(y, side).astype(np.float32)
        # The mediastinum is a rounded body between its borders, with lung in front of it and behind it.
        full = np.clip(1.0 - (distance / border) ** 2, 0.0, 1.0) ** 0.40
        below = y - person.diaphragm(np.clip(distance, 0, None), side).astype(np.float32)
        # Behind the dome the lung continues downwards, as a thin wedge of air.
        wedge = 0.20 * np.exp(-np.clip(below, 0, None) / 16.0)
        share = np.where(below < 0, np.clip(-below / soft, 0, 1) * (1 - wedge) + wedge, wedge)
        air += depth * (1.0 - 0.96 * full) * share * (distance > 0)
    return np.asarray(air, dtype=np.float32)


def _windpipe(canvas: Canvas, person: Anatomy) -> Image:
    fork = person.apex + 96.0
    shift = 2.0
    tube = np.array(
        [[person.middle, -40.0], [person.middle - shift, person.apex + 30.0], [person.middle - shift, fork]]
    )
    bands = [canvas.strip(tube, 8.4, round_across, 17.0, along=lambda u: 0.45 + 0.55 * np.clip(u / 0.6, 0, 1))]
    for side, reach in ((-1, 30.0), (1, 38.0)):
        bronchus = np.array(
            [
                [person.middle - shift, fork - 5.0],
                [person.middle + side * 14.0, fork + 12.0],
                [person.middle + side * reach, fork + (30.0 if side < 0 else 24.0)],
            ]
        )
        bands.append(canvas.strip(bronchus, lambda u: 6.5 - 2.0 * u, round_across, 12.0, along=lambda u: 1.0 - 0.7 * u))
    air = canvas.splat(np.concatenate([p for p, _ in bands]), np.concatenate([v for _, v in bands]))
    return canvas.blur(air, 1.2)


def tree(  # noqa: PLR0917 - plain measures of one thing
    rng: np.random.Generator,
    root: tuple[float, float],
    angles: NDArray[np.float64],
    width: float,
    length: float,
    levels: int,
    step: float,
    *,
    spread: float = 0.0,
) -> list[tuple[Points, NDArray[np.float64]]]:
    """Branches that fork and taper from a root. For each level: points (n, 2) in mm, and mm^3 of blood at each point.

    The branches start at ``angles`` (0 to the right, clockwise, in radians), up to ``spread`` mm above and below the
    root. ``width`` and ``length`` are mm of the first level, ``step`` the pixel size in mm.
    """
    start = np.repeat(np.array([root]), angles.size, axis=0)
    start[:, 1] += spread * np.sin(angles)
    heading, widths = angles, width * rng.uniform(0.75, 1.1, angles.size)
    grown = []
    for level in range(levels):
        reach = length * 0.80**level * rng.uniform(0.7, 1.25, heading.size)
        bend = rng.normal(0, 0.34, heading.size)
        count = max(3, int(np.ceil(reach.max() / (0.7 * step))))
        u = np.linspace(0, 1, count)[None, :]
        turned = heading[:, None] + bend[:, None] * u
        dx = np.cumsum(np.cos(turned), axis=1) / count * reach[:, None]
        dy = np.cumsum(np.sin(turned), axis=1) / count * reach[:, None]
        points = np.stack([start[:, :1] + dx, start[:, 1:] + dy], axis=2)
        thickness = widths[:, None] * (1.0 - 0.25 * u)
        volume = np.pi / 4.0 * thickness**2 * (reach / count)[:, None]
        grown.append((points.reshape(-1, 2), volume.reshape(-1)))
        end, last = points[:, -1], heading + bend
        fork = rng.uniform(0.22, 0.62, heading.size)
        share = rng.uniform(0.35, 0.65, heading.size)
        start = np.concatenate([end, end])
        heading = np.concatenate([last + fork * (1.2 - share), last - fork * (0.2 + share)])
        widths = np.concatenate([widths * 0.75 * np.sqrt(0.5 + share), widths * 0.75 * np.sqrt(1.5 - share)])
    return grown


def _vessels(canvas: Canvas, person: Anatomy, air: Image, rng: np.random.Generator) -> Image:
    levels = 6
    layers: list[list[tuple[Points, NDArray[np.float64]]]] = [[] for _ in range(levels)]
    for side in SIDES:
        root = person.hilum(side)
        # From steeply up to steeply down, and denser below, where gravity fills the vessels.
        spread = np.concatenate([np.linspace(-1.45, -0.2, 5), np.linspace(0.0, 1.50, 8)]) + rng.normal(0, 0.16, 13)
        angles = spread if side > 0 else np.pi - spread
        for level, branch in enumerate(tree(rng, root, angles, 5.6, 33.0, levels, canvas.step, spread=16.0)):
            layers[level].append(branch)
    image = canvas.empty()
    for level, branches in enumerate(layers):
        drawn = canvas.splat(np.concatenate([p for p, _ in branches]), np.concatenate([v for _, v in branches]))
        image += canvas.blur(drawn, max(0.4, 2.0 * 0.72**level))
    for side in SIDES:  # the hilum itself: a knot of vessels and nodes
        x0, y0 = person.hilum(side)
        image += 4.0 * np.exp(-(((canvas.x - x0) / 10.0) ** 2) - ((canvas.y - y0) / 20.0) ** 2)
    grain = canvas.clouds(rng, 2.6) * 1.1 + canvas.clouds(rng, 9.0) * 1.3
    image = np.asarray((image * 2.5 + grain) * person.vessel_density, dtype=np.float32)
    return np.asarray(image * np.clip(air / 70.0, 0.0, 1.0) ** 1.5, dtype=np.float32)


def tissue(chest: Chest, person: Anatomy) -> Image:
    """The sum of all parts, in mm of water along each ray."""
    inner = chest.body - _AIR * chest.air - 1.9 * chest.trachea
    return np.asarray(np.maximum(inner, 0.0) + chest.vessels + chest.bone, dtype=np.float32)
