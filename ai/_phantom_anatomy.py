"""The healthy chest of the phantoms: its measures in millimetres and the thickness of tissue that a ray meets.

The thorax is an elliptic cylinder seen from the front. Lungs are where it holds air; heart, great vessels and diaphragm
take the air's place; ribs are curves around the cylinder, so that they grow bright where a ray runs along them at the
side. The picture shows the patient's left on the image's right. "Side" is -1 on the image's left (the patient's right
lung) and +1 on the image's right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

from ai._phantom_canvas import Canvas, Image, Points, smoothstep

SIDES = (-1, 1)
_AIR = 0.76  # share of a lung that is air: what its depth takes away from the tissue of the body


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One person: measures in mm on the field, see the module."""

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
    stomach: float  # height of the gas in it; none is seen below 8
    rib_pitch: float
    rib_drop: float
    rib_density: float
    vessel_density: float
    seed: int  # of textures and trees

    def place(self, y: Image | NDArray[np.float64]) -> NDArray[np.float64]:
        """How far down the lungs a height lies: 0 at the apex, 1 at the angle of ribs and diaphragm."""
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
        """Where the vessels of a lung begin."""
        return self.middle + side * 34.0, self.apex + (118.0 if side < 0 else 110.0)

    def in_lung(self, x: float, y: float, side: int, margin: float) -> bool:
        """Whether a point lies in the lung's free field, at least ``margin`` mm from its borders and the heart."""
        at = np.array([y])
        distance = side * (x - self.middle)
        if not self.apex + margin < y < self.diaphragm(np.array([distance]), side)[0] - margin:
            return False
        return bool(self.medial(at, side)[0] + margin < distance < self.lateral(at)[0] - margin)


def person(rng: np.random.Generator, view: str) -> Anatomy:
    """Someone: chance decides the measures, the view (PA or AP) shifts them."""
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


@dataclass(frozen=True, slots=True)
class Chest:
    """The parts of a chest on a canvas, in mm of water: findings change them before they are put together."""

    body: Image  # soft tissue if there were no air in it
    air: Image  # depth of lung along the ray
    bone: Image
    vessels: Image
    trachea: Image  # air of the windpipe and the main bronchi


def build(canvas: Canvas, person: Anatomy) -> Chest:
    """Everything of a healthy chest."""
    rng = np.random.default_rng(person.seed)
    air = _lungs(canvas, person)
    return Chest(
        _body(canvas, person),
        air,
        _bones(canvas, person, rng),
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
    # Above the axilla the shoulder carries on to the arm; below it the arm leaves the trunk.
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
        # Between its borders the mediastinum fills the depth as a rounded body does; lung lies before and behind it.
        full = np.clip(1.0 - (distance / border) ** 2, 0.0, 1.0) ** 0.40
        below = y - person.diaphragm(np.clip(distance, 0, None), side).astype(np.float32)
        # Behind the dome the lung goes on downwards: a thin wedge of air in front of the spine's side.
        wedge = 0.20 * np.exp(-np.clip(below, 0, None) / 16.0)
        share = np.where(below < 0, np.clip(-below / soft, 0, 1) * (1 - wedge) + wedge, wedge)
        air += depth * (1.0 - 0.96 * full) * share * (distance > 0)
    return np.asarray(air, dtype=np.float32)


def _cortex(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """Across a tubular bone: a shell around marrow, so bright at both edges and falling to nothing at the very rim."""
    outer = np.sqrt(np.clip(1.0 - offset**2, 0, 1))
    inner = np.sqrt(np.clip(0.80**2 - offset**2, 0, 1))
    return outer - 0.72 * inner


def _rib_depth(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rib is thin at the spine and grows thinner towards its cartilage."""
    return (1.0 - 0.35 * place) * np.clip(0.15 + place / 0.28, 0.0, 1.0) * np.clip((1.0 - place) / 0.07, 0.0, 1.0)


def _round(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.clip(1.0 - offset**2, 0, 1))


def _rib(person: Anatomy, number: int, side: int, jitter: float) -> Points:
    """The course of a rib: from the spine round the side to where its cartilage begins."""
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


def _bones(canvas: Canvas, person: Anatomy, rng: np.random.Generator) -> Image:
    strips: list[tuple[Points, NDArray[np.float64]]] = []
    for number in range(11):
        jitter = float(rng.uniform(-1.5, 1.5))
        for side in SIDES:
            half = float(rng.uniform(5.0, 6.2)) * (0.92 if number in {0, 1} else 1.0)
            path = _rib(person, number, side, jitter + float(rng.uniform(-1, 1)))
            strips.append(canvas.strip(path, half, _cortex, 30.0 * person.rib_density, along=_rib_depth))
            # The lower edge of a rib is a thin flange: brighter below than above.
            lower = path + np.array([0.0, half * 0.86])
            strips.append(canvas.strip(lower, 0.8, _round, 5.0 * person.rib_density, along=_rib_depth))
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
    # The inner border of the shoulder blade: drawn aside for PA, over the lung for AP.
    share = 0.80 if person.view == "AP" else float(rng.uniform(0.97, 1.06))
    v = np.linspace(0, 1, 40)
    edge = share * person.lateral(np.array([person.apex + 120.0]))[0] + 4.0 - 6.0 * v + 10.0 * np.sin(np.pi * v)
    border = np.stack([person.middle + side * edge, person.apex + 12.0 + 132.0 * v], axis=1)
    bands.append(canvas.strip(border, 1.8, _round, 5.0))
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
    bands = [canvas.strip(np.stack([x, np.full(2, y)], axis=1), 1.0, _round, 4.5) for y in (1.2, 20.0)]
    bands.append(canvas.strip(np.array([[0.0, 0.0], [0.0, 21.0]]), half, lambda t: 0.7 + 0.5 * np.abs(t) ** 8, 12.0))
    bands.append(canvas.strip(np.array([[0.0, 13.0], [0.0, 22.0]]), 2.2, _round, 9.0))
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


def _windpipe(canvas: Canvas, person: Anatomy) -> Image:
    fork = person.apex + 96.0
    shift = 2.0
    tube = np.array(
        [[person.middle, -40.0], [person.middle - shift, person.apex + 30.0], [person.middle - shift, fork]]
    )
    bands = [canvas.strip(tube, 8.4, _round, 17.0, along=lambda u: 0.45 + 0.55 * np.clip(u / 0.6, 0, 1))]
    for side, reach in ((-1, 30.0), (1, 38.0)):
        bronchus = np.array(
            [
                [person.middle - shift, fork - 5.0],
                [person.middle + side * 14.0, fork + 12.0],
                [person.middle + side * reach, fork + (30.0 if side < 0 else 24.0)],
            ]
        )
        bands.append(canvas.strip(bronchus, lambda u: 6.5 - 2.0 * u, _round, 12.0, along=lambda u: 1.0 - 0.7 * u))
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
    """Branches that fork and taper from a root: per level their points (n, 2) and the volume of blood at each.

    The branches leave the root at ``angles`` (0 to the right, clockwise); ``spread`` mm above and below it.
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
        # From steeply up over sideways to steeply down, denser below, where gravity fills the vessels.
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
    """All parts put together: mm of water along each ray."""
    inner = chest.body - _AIR * chest.air - 1.9 * chest.trachea
    return np.asarray(np.maximum(inner, 0.0) + chest.vessels + chest.bone, dtype=np.float32)
