"""Findings in the chest of a phantom: their places, their drawing, and the masks of what they cover.

All places are chosen in mm before anything is drawn, so that a phantom has the same findings at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai.phantom.anatomy import SIDES, Anatomy
from ai.phantom.canvas import Canvas, Image, smoothstep
from ai.phantom.chest import Chest, tree

FINDING_KEYS = ("nodule", "tuberculosis", "pneumothorax", "pneumonia")
_ORDER = (
    "pneumothorax",
    "tuberculosis",
    "pneumonia",
    "nodule",
)  # the order of drawing, large findings first
_TRIES = 400


@dataclass(frozen=True, slots=True)
class Plan:
    """A finding before it is drawn: class, centre and size in mm, side, relative contrast, and seed of its details."""

    key: str
    x: float
    y: float
    size: float
    side: int
    strength: float
    seed: int


def plan(rng: np.random.Generator, person: Anatomy, keys: Sequence[str]) -> tuple[Plan, ...]:
    """Choose a place for each of ``keys``, and return them in the order of drawing.

    Raises:
        ValueError: no place is left for a finding.
    """
    plans: list[Plan] = []
    for key in sorted(keys, key=_ORDER.index):
        for _ in range(_TRIES):
            tried = _propose(rng, person, key)
            if tried is not None and all(_apart(tried, other, person) for other in plans):
                break
        else:
            raise ValueError(f"no room for {key} beside {[p.key for p in plans]}")
        plans.append(tried)
    return tuple(plans)


def _propose(rng: np.random.Generator, person: Anatomy, key: str) -> Plan | None:
    side = int(rng.choice(SIDES))
    seed = int(rng.integers(2**31))
    height = max(person.dome) - person.apex
    x = person.middle + side * float(rng.uniform(26.0, person.half_width))
    if key == "nodule":
        size, margin = float(rng.uniform(8.0, 30.0)), 0.0
        y = person.apex + float(rng.uniform(0.08, 0.95)) * height
        margin = size / 2.0 + 2.0
        strength = float(rng.uniform(0.95, 1.35)) * (1.0 + 3.2 / size)
    elif key == "tuberculosis":
        size = float(rng.uniform(9.0, 17.0))  # radius of the cavity's outer wall
        y = person.apex + float(rng.uniform(22.0, 78.0))
        margin, strength = size * 0.9, float(rng.uniform(0.8, 1.2))
    elif key == "pneumonia":
        size = float(rng.uniform(22.0, 40.0))
        y = person.apex + float(rng.uniform(0.42, 0.97)) * height
        margin, strength = 9.0, float(rng.uniform(0.8, 1.25))
    else:
        size = float(rng.uniform(9.0, 34.0))  # distance of the lung from the wall
        return Plan(
            key, person.middle + side * 90.0, person.apex + 40.0, size, side, float(rng.uniform(0.75, 1.2)), seed
        )
    if not person.in_lung(x, y, side, margin):
        return None
    return Plan(key, x, y, size, side, strength, seed)


def _apart(new: Plan, other: Plan, person: Anatomy) -> bool:
    if other.key == "pneumothorax":
        if new.key in {"pneumothorax", "tuberculosis"}:
            return new.side != other.side
        if new.side != other.side:
            return True
        return bool(_collapsed(other, person, np.array([new.x]), np.array([new.y]), new.size * 0.6 + 3.0)[0])
    reach = {"nodule": 0.6, "tuberculosis": 2.7, "pneumonia": 1.35}
    distance = float(np.hypot(new.x - other.x, new.y - other.y))
    return distance > reach[new.key] * new.size + reach[other.key] * other.size


def _shrink(plan: Plan, person: Anatomy, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The factor by which the lung has shrunk towards its hilum, at heights ``y``. 1 is not shrunk."""
    rng = np.random.default_rng(plan.seed)
    end = person.apex + float(rng.uniform(0.45, 0.98)) * (max(person.dome) - person.apex)
    fade = np.clip((end - y) / (0.8 * (end - person.apex)), 0.0, 1.0)
    return 1.0 - plan.size / 90.0 * fade * fade * (3.0 - 2.0 * fade)


def _pleura(plan: Plan, person: Anatomy, y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The border of the collapsed lung, at heights ``y``.

    Returns:
        Its distance from the midline, and the height of this part of the lung before it collapsed, both in mm.
    """
    hilum_x, hilum_y = person.hilum(plan.side)
    reach = abs(hilum_x - person.middle)
    shrunk = _shrink(plan, person, y)
    before = hilum_y + (y - hilum_y) / shrunk
    return reach + shrunk * (person.lateral(before) - reach), before


def _collapsed(
    plan: Plan, person: Anatomy, x: NDArray[np.float64], y: NDArray[np.float64], margin: float = 0.0
) -> NDArray[np.bool_]:
    """Whether points lie in the collapsed lung, at least ``margin`` mm from its border."""
    border, before = _pleura(plan, person, y)
    distance = plan.side * (x - person.middle)
    return (distance < border - margin) & (before > person.apex + margin)


def apply(canvas: Canvas, chest: Chest, person: Anatomy, plan: Plan) -> tuple[Chest, NDArray[np.bool_]]:
    """Draw one finding into a chest.

    Returns:
        The changed chest, and the mask (rows, columns) of the finding on the canvas.
    """
    return _DRAW[plan.key](canvas, chest, person, plan)


def _with(chest: Chest, body: Image, air: Image | None = None, vessels: Image | None = None) -> Chest:
    return Chest(
        np.asarray(body, dtype=np.float32),
        chest.air if air is None else np.asarray(air, dtype=np.float32),
        chest.bone,
        chest.vessels if vessels is None else np.asarray(vessels, dtype=np.float32),
        chest.trachea,
    )


def _nodule(canvas: Canvas, chest: Chest, person: Anatomy, plan: Plan) -> tuple[Chest, NDArray[np.bool_]]:
    rng = np.random.default_rng(plan.seed)
    x, y = canvas.x - plan.x, canvas.y - plan.y
    angle = np.arctan2(y, x)
    radius = plan.size / 2.0
    for waves in (2, 3, 5):
        radius = radius * (1.0 + float(rng.uniform(0, 0.07)) * np.sin(waves * angle + float(rng.uniform(0, 6.3))))
    ratio = np.hypot(x, y) / radius
    soft = max(0.7, 0.5 * canvas.step) / (plan.size / 2.0)
    ball = plan.size * np.sqrt(np.clip(1.0 - ratio**2, 0.0, 1.0)) * np.clip((1.0 - ratio) / soft, 0, 1)
    return _with(chest, chest.body + (1.0 + 2.5 / plan.size) * plan.strength * ball), np.asarray(ratio < 1.0)


def _tuberculosis(canvas: Canvas, chest: Chest, person: Anatomy, plan: Plan) -> tuple[Chest, NDArray[np.bool_]]:
    rng = np.random.default_rng(plan.seed)
    x, y = canvas.x - plan.x, canvas.y - plan.y
    angle = np.arctan2(y, x)
    outer = plan.size * (
        1.0 + 0.10 * np.sin(2 * angle + rng.uniform(0, 6.3)) + 0.06 * np.sin(3 * angle + rng.uniform(0, 6.3))
    )
    wall = float(rng.uniform(3.0, 5.5)) * (1.0 + 0.25 * np.sin(angle + rng.uniform(0, 6.3)))
    distance = np.hypot(x, y)
    shell = np.sqrt(np.clip(outer**2 - distance**2, 0, None)) - np.sqrt(
        np.clip((outer - wall) ** 2 - distance**2, 0, None)
    )
    ring = 1.35 * shell + 3.0 * smoothstep((outer - distance) / 3.0)
    patches = canvas.empty()
    for _ in range(int(rng.integers(9, 17))):
        turn, reach = rng.uniform(0, 2 * np.pi), plan.size * rng.uniform(0.7, 2.1)
        px, py = plan.x + reach * np.cos(turn), plan.y + reach * np.sin(turn) * 0.85
        sigma = rng.uniform(2.2, 6.0)
        patches += (rng.uniform(10.0, 19.0)) * np.exp(-((canvas.x - px) ** 2 + (canvas.y - py) ** 2) / (2 * sigma**2))
    hilum = person.hilum(plan.side)
    toward = float(np.arctan2(hilum[1] - plan.y, hilum[0] - plan.x))
    scars = tree(rng, (plan.x, plan.y), toward + rng.normal(0, 0.35, 5), 2.4, 30.0, 2, canvas.step)
    streaks = canvas.blur(
        canvas.splat(np.concatenate([p for p, _ in scars]), np.concatenate([v for _, v in scars])), 0.8
    )
    grain = np.clip(1.0 + 0.28 * canvas.clouds(rng, 3.0) + 0.2 * canvas.clouds(rng, 7.0), 0.2, None)
    inside = np.clip(chest.air / 22.0, 0.0, 1.0)
    haze = (patches * grain + 1.5 * streaks) * inside
    hollow = smoothstep((outer - wall - distance) / 2.0)  # the cavity is empty, so vessels end at it
    added = plan.strength * (haze * (1.0 - 0.8 * hollow) + ring * np.clip(chest.air / 15.0, 0.3, 1.0) - 4.0 * hollow)
    mask = (distance < outer) | (patches * inside > 5.0)
    return _with(chest, chest.body + added, vessels=chest.vessels * (1.0 - 0.8 * hollow)), np.asarray(mask)


def _pneumothorax(canvas: Canvas, chest: Chest, person: Anatomy, plan: Plan) -> tuple[Chest, NDArray[np.bool_]]:
    y = canvas.y[:, 0].astype(np.float64)
    border, before = _pleura(plan, person, y)
    distance = plan.side * (canvas.x - person.middle)
    own = distance > person.medial(canvas.y, plan.side)
    in_lung = (distance < person.lateral(canvas.y)) & own & (canvas.y > person.apex)
    soft = max(0.8, canvas.step)
    outside = np.clip((distance - border[:, None]) / soft + 0.5, 0, 1)
    above = np.clip((person.apex - before[:, None]) / soft + 0.5, 0, 1)
    free = np.asarray(np.maximum(outside, above) * own, dtype=np.float32)
    # Free air is darker than lung. The collapsed lung holds the same tissue in less space.
    body = chest.body - 0.22 * plan.strength * chest.air * free + 0.045 * chest.air * own * (1.0 - free)
    heights = np.linspace(person.apex, y.max(), 400)
    line, was = _pleura(plan, person, heights)
    top = int(np.argmax(was >= person.apex))
    apart = (person.lateral(heights) - line > 1.0) | (np.arange(heights.size) <= top)
    last = int(np.argmin(apart)) if not apart.all() else heights.size - 1
    inner = float(person.medial(heights[top : top + 1], plan.side)[0])
    across = np.linspace(inner, max(float(line[top]), inner + 1.0), 20)
    path = np.concatenate(
        [np.stack([across, np.full(20, heights[top])], 1), np.stack([line[top:last], heights[top:last]], 1)]
    )
    path[:, 0] = person.middle + plan.side * path[:, 0]
    points, volume = canvas.strip(_rounded(path), 0.75, lambda t: np.sqrt(np.clip(1 - t**2, 0, 1)), 5.5 * plan.strength)
    pleura = canvas.blur(canvas.splat(points, volume), max(0.3, 0.35 * canvas.step))
    mask = (free > 0.5) & in_lung & (canvas.y < heights[last])
    mask &= canvas.y < person.diaphragm(np.clip(distance, 0, None), plan.side)
    return _with(chest, body + pleura, vessels=chest.vessels * (1.0 - free)), np.asarray(mask)


def _rounded(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """The path with its corner smoothed."""
    kernel = np.hanning(11)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(path, ((4, 4), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel, mode="valid") for i in range(2)], axis=1)


def _pneumonia(canvas: Canvas, chest: Chest, person: Anatomy, plan: Plan) -> tuple[Chest, NDArray[np.bool_]]:
    rng = np.random.default_rng(plan.seed)
    field = canvas.empty()
    for number in range(6):
        reach = 0.0 if number == 0 else plan.size * rng.uniform(0.25, 0.75)
        turn = rng.uniform(0, 2 * np.pi)
        px, py = plan.x + reach * np.cos(turn), plan.y + 0.8 * reach * np.sin(turn)
        wide, tall = plan.size * rng.uniform(0.34, 0.6, 2)
        field += np.exp(-(((canvas.x - px) / wide) ** 2 + ((canvas.y - py) / tall) ** 2) / 2.0)
    shape = smoothstep((field - 0.15) / 1.7 + 0.05 * canvas.clouds(rng, 9.0))
    if rng.random() < 0.4:  # it ends at a fissure
        tilt = float(rng.uniform(-0.2, 0.2))
        edge = canvas.y - (plan.y - plan.size * float(rng.uniform(0.25, 0.6))) - tilt * (canvas.x - plan.x)
        shape = shape * smoothstep(edge / 3.0 + 0.5)
    grain = np.clip(0.92 + 0.07 * canvas.clouds(rng, 3.2) + 0.08 * canvas.clouds(rng, 7.0), 0.4, 1.3)
    hilum = person.hilum(plan.side)
    away = float(np.arctan2(plan.y - hilum[1], plan.x - hilum[0]))
    air = tree(rng, hilum, away + rng.normal(0, 0.3, 3), 4.2, 34.0, 4, canvas.step)
    tubes = canvas.blur(canvas.splat(np.concatenate([p for p, _ in air]), np.concatenate([v for _, v in air])), 0.9)
    open_bronchi = np.clip(1.0 - 0.10 * tubes, 0.5, 1.0)
    filled = 0.42 * plan.strength * shape * grain * open_bronchi * np.clip(chest.air / 12.0, 0, 1)
    inside = chest.air > 14.0
    return _with(chest, chest.body + filled * np.minimum(chest.air, 110.0)), np.asarray((shape > 0.30) & inside)


_DRAW = {"nodule": _nodule, "tuberculosis": _tuberculosis, "pneumothorax": _pneumothorax, "pneumonia": _pneumonia}
