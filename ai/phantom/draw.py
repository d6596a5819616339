"""Draws chest radiographs with known findings (phantoms), for the demonstration, for training and for tests.

No data of a patient is used. `ai.phantom.anatomy` chooses the measures of a person at random, `ai.phantom.chest` builds
tissue, air and bone, and `ai.phantom.findings` adds findings. This module exposes the result to a beam and processes
the detector's signal as a machine in a hospital does. The same seed gives the same image, and the same person at any
number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from ai.phantom.anatomy import SIDES, Anatomy, person
from ai.phantom.canvas import Canvas, Image, enlarge
from ai.phantom.chest import build, tissue
from ai.phantom.findings import FINDING_KEYS, Plan, apply, plan

__all__ = ["FINDING_KEYS", "Phantom", "PhantomFinding", "draw_phantom"]

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
View = Literal["PA", "AP"]

_WORK_ROWS = 1250  # larger images are drawn at this size and enlarged; the detector's blur hides it


@dataclass(frozen=True, slots=True)
class PhantomFinding:
    """One finding: its box in pixel edges (column, row) of the whole image, and its mask (rows, columns)."""

    key: str
    left: float
    top: float
    right: float
    bottom: float
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Phantom:
    """A drawn radiograph. ``pixels`` (rows, columns) are stored values, and so are the window's center and width."""

    pixels: NDArray[np.uint16]
    bits_stored: int
    photometric: Photometric
    view: View
    window_center: float
    window_width: float
    pixel_spacing_mm: float
    findings: tuple[PhantomFinding, ...]


def draw_phantom(  # noqa: PLR0917 - the size may be given by place
    seed: int,
    rows: int = 2500,
    columns: int = 2048,
    findings: Sequence[str] | None = None,
    view: str | None = None,
    photometric: str | None = None,
) -> Phantom:
    """Draw a chest radiograph.

    Args:
        seed: decides everything that the other arguments leave open.
        rows: the rows of the image, at least 64.
        columns: the columns of the image, at least 64.
        findings: keys out of FINDING_KEYS; None draws a random mix, which may be empty.
        view: "PA" or "AP"; None draws it at random.
        photometric: "MONOCHROME1" or "MONOCHROME2"; None draws it at random.

    Raises:
        ValueError: an argument has another value.
    """
    _check(rows, columns, findings, view, photometric)
    chance = np.random.default_rng([seed, 1])
    # Random numbers are drawn in the same order for all arguments, so that an argument changes nothing else.
    chance_view: View = "AP" if chance.random() < 0.3 else "PA"
    chance_photometric: Photometric = "MONOCHROME1" if chance.random() < 0.25 else "MONOCHROME2"
    mix = _mix(chance)
    shown = cast("View", view) if view is not None else chance_view
    stored = cast("Photometric", photometric) if photometric is not None else chance_photometric
    patient = person(np.random.default_rng([seed, 2]), shown)
    plans = plan(np.random.default_rng([seed, 3]), patient, mix if findings is None else findings)

    factor = max(1.0, rows / _WORK_ROWS, columns / _WORK_ROWS)
    canvas = Canvas.over_field(max(1, round(rows / factor)), max(1, round(columns / factor)))
    chest = build(canvas, patient)
    masks = []
    for one in plans:
        chest, mask = apply(canvas, chest, patient, one)
        masks.append(mask)
    seen = tissue(chest, patient)
    seen = seen + _bystanders(canvas, chest.air, patient, plans, np.random.default_rng([seed, 4]))
    grey, noise = _expose(canvas, seen, np.random.default_rng([seed, 5]))
    grey = _furniture(canvas, grey, np.random.default_rng([seed, 6]))
    pixels, bits, centre, width = _store(
        enlarge(grey, rows, columns),
        noise,
        np.random.default_rng([seed, 7]),
        np.random.default_rng([seed, 8, rows]),
        stored,
    )
    full = Canvas.over_field(rows, columns)
    drawn = tuple(_finding(one, mask, full) for one, mask in zip(plans, masks, strict=True))
    return Phantom(pixels, bits, stored, shown, centre, width, full.step, drawn)


def _check(rows: int, columns: int, findings: Sequence[str] | None, view: str | None, photometric: str | None) -> None:
    if rows < 64 or columns < 64:
        raise ValueError(f"a phantom has at least 64 rows and columns, got {rows} x {columns}")
    unknown = [key for key in findings or () if key not in FINDING_KEYS]
    if unknown:
        raise ValueError(f"findings: {unknown} are none of {FINDING_KEYS}")
    if view not in {None, "PA", "AP"}:
        raise ValueError(f"view: expected PA or AP, got {view!r}")
    if photometric not in {None, "MONOCHROME1", "MONOCHROME2"}:
        raise ValueError(f"photometric: expected MONOCHROME1 or MONOCHROME2, got {photometric!r}")


def _mix(rng: np.random.Generator) -> tuple[str, ...]:
    """A random mix of findings: none in 30 % of phantoms, otherwise one to three kinds."""
    count = int(rng.choice(4, p=(0.30, 0.38, 0.24, 0.08)))
    keys = [str(key) for key in rng.permutation(FINDING_KEYS)[:count]]
    if "nodule" in keys and rng.random() < 0.25:
        keys.append("nodule")
    return tuple(keys)


def _finding(one: Plan, mask: NDArray[np.bool_], full: Canvas) -> PhantomFinding:
    if mask.shape != (full.rows, full.columns):
        mask = enlarge(mask.astype(np.float32), full.rows, full.columns) > 0.5
    if not mask.any():  # smaller than a pixel: mark the pixel at its centre
        mask = mask.copy()
        mask[int(np.argmin(np.abs(full.y - one.y))), int(np.argmin(np.abs(full.x - one.x)))] = True
    down, over = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return PhantomFinding(one.key, float(over[0]), float(down[0]), float(over[-1] + 1), float(down[-1] + 1), mask)


def _disc(canvas: Canvas, x: float, y: float, radius: float) -> Image:
    """1 inside a disc and 0 outside, with an edge as soft as one pixel."""
    distance = np.hypot(canvas.x - x, canvas.y - y)
    return np.asarray(np.clip((radius - distance) / max(0.5, canvas.step) + 0.5, 0, 1), dtype=np.float32)


def _bystanders(canvas: Canvas, air: Image, patient: Anatomy, plans: Sequence[Plan], rng: np.random.Generator) -> Image:
    """Structures that may look like a finding: nipples, calcified dots, electrodes with their leads, a catheter."""
    added = canvas.empty()
    if rng.random() < 0.22:
        level, offset = float(rng.uniform(48, 78)), float(rng.uniform(0.50, 0.66)) * patient.half_width
        for side in SIDES:
            y = max(patient.dome) - level + float(rng.uniform(-4, 4))
            added += 2.8 * canvas.blur(_disc(canvas, patient.middle + side * offset, y, 4.2), 1.0)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.35 else 0):
        x = patient.middle + float(rng.choice(SIDES)) * float(rng.uniform(35, 95))
        added += 16.0 * _disc(canvas, x, patient.apex + float(rng.uniform(40, 200)), float(rng.uniform(0.8, 1.7)))
    if rng.random() < (0.5 if patient.view == "AP" else 0.10):
        for _ in range(int(rng.integers(2, 4))):
            x = patient.middle + float(rng.choice(SIDES)) * float(rng.uniform(60, 125))
            y = patient.apex + float(rng.uniform(30, 250))
            added += 9.0 * (_disc(canvas, x, y, 5.5) - 0.7 * _disc(canvas, x, y, 3.6)) + 22.0 * _disc(canvas, x, y, 1.9)
            end = np.array([x + float(rng.uniform(-120, 120)), 440.0])
            bend = np.array([x + float(rng.uniform(-30, 30)), (y + 440.0) / 2])
            lead = np.stack(
                [(1 - u) ** 2 * np.array([x, y]) + 2 * u * (1 - u) * bend + u * u * end for u in np.linspace(0, 1, 40)]
            )
            added += canvas.splat(*canvas.strip(lead, 0.8, lambda t: np.sqrt(1 - t * t), 9.0))
    if rng.random() < (0.25 if patient.view == "AP" else 0.04):
        u = np.linspace(0, 1, 60)
        course = patient.middle - 62.0 * (1 - u) ** 2.4 - 19.0
        line = np.stack([course, patient.apex - 30.0 + 45.0 * np.sin(u * 1.3) + 125.0 * u**2], axis=1)
        added += canvas.splat(*canvas.strip(line, 1.1, lambda t: np.sqrt(1 - t * t), 8.0))
    return np.asarray(added, dtype=np.float32)


def _expose(canvas: Canvas, seen: Image, rng: np.random.Generator) -> tuple[Image, float]:
    """Expose the tissue (mm of water) to a beam, and process the detector's signal as a machine does.

    Returns:
        Grey values, 0 for the unattenuated beam and about 1 for the densest tissue; and the strength of the noise.
    """
    kilovolts = float(rng.uniform(0.0135, 0.0175))  # attenuation of water per mm: the harder the beam, the less
    scatter = float(rng.uniform(0.010, 0.035))
    beam = np.exp(-kilovolts * seen)
    reading = -np.log(beam + scatter * canvas.blur(beam, 28.0) + 0.004)
    wide = canvas.blur(reading, float(rng.uniform(24, 34)))
    fine = canvas.blur(reading, 3.0)
    # Machines even out the large differences and lift the fine ones, so that lung and mediastinum fit one window.
    evened = (
        reading
        - float(rng.uniform(0.30, 0.50)) * (wide - wide.mean())
        + float(rng.uniform(0.15, 0.55)) * (reading - fine)
    )
    middle = evened[canvas.rows // 6 : -canvas.rows // 6, canvas.columns // 6 : -canvas.columns // 6]
    low, high = np.percentile(middle[::4, ::4], (1.0, 98.0))
    grey = (evened - low) / max(float(high - low), 1e-3) * 0.72 + 0.13
    grey = np.clip(grey, 0.0, None)
    toe = grey / (1.0 + np.clip(grey - 0.75, 0, None) * 0.9)  # a shoulder, as film had
    toe = toe ** float(rng.uniform(0.85, 1.3))
    bare = np.clip(seen / 18.0, 0.0, 1.0)
    return np.asarray(toe * bare, dtype=np.float32), float(rng.uniform(0.004, 0.016))


_GLYPHS = {
    "L": ("X....", "X....", "X....", "X....", "X....", "X....", "XXXXX"),
    "R": ("XXXX.", "X...X", "X...X", "XXXX.", "X.X..", "X..X.", "X...X"),
}


def _furniture(canvas: Canvas, grey: Image, rng: np.random.Generator) -> Image:
    """What lies on the image and not in the patient: the side marker and the edge of the collimated beam."""
    if rng.random() < 0.8:
        side = int(rng.choice(SIDES))
        glyph = np.array([[c == "X" for c in line] for line in _GLYPHS["L" if side > 0 else "R"]], dtype=np.float32)
        height, x0, y0 = float(rng.uniform(12, 18)), side * float(rng.uniform(132, 152)), float(rng.uniform(20, 62))
        cell = height / 7.0
        row, column = (canvas.y - y0) / cell - 0.5, (canvas.x - x0) / cell + 2.0
        rows, columns = np.broadcast_arrays(row, column)
        mark = ndimage.map_coordinates(np.pad(glyph, 1), [rows + 1, columns + 1], order=1, cval=0.0)
        level = float(rng.uniform(0.85, 1.05))
        grey = grey + (level - grey) * np.clip(mark * 3.0 - 1.0, 0, 1)
    if rng.random() < 0.35:
        edges = rng.uniform(0, 14, 4)
        half_x, half_y = canvas.columns * canvas.step / 2.0, canvas.rows * canvas.step
        inside = (
            np.clip((canvas.x + half_x - edges[0]) / 1.5, 0, 1)
            * np.clip((half_x - edges[1] - canvas.x) / 1.5, 0, 1)
            * np.clip((canvas.y - float(canvas.y[0, 0]) - edges[2]) / 1.5, 0, 1)
            * np.clip((float(canvas.y[0, 0]) + half_y - edges[3] - canvas.y) / 1.5, 0, 1)
        )
        beyond = 0.0 if rng.random() < 0.75 else 1.0
        grey = np.asarray(beyond + (grey - beyond) * inside, dtype=np.float32)
    return np.asarray(grey, dtype=np.float32)


def _store(
    grey: Image, noise: float, rng: np.random.Generator, grain: np.random.Generator, photometric: Photometric
) -> tuple[NDArray[np.uint16], int, float, float]:
    """Grey values -> stored values with noise, bits stored, window center and window width."""
    bits = int(rng.choice((12, 12, 14)))
    top = 2**bits - 1
    low, span = float(rng.uniform(0.02, 0.10)), float(rng.uniform(0.62, 0.80))
    # Few photons reach the detector behind dense tissue, so noise grows with the grey value.
    quanta = grain.standard_normal(grey.shape, dtype=np.float32)
    quanta *= noise * (0.35 + grey)
    stored = (grey + quanta) * (span * top) + low * top
    if photometric == "MONOCHROME1":
        stored = top - stored
    pixels = np.clip(np.rint(stored), 0, top).astype(np.uint16)
    centre, width = (low + span * float(rng.uniform(0.47, 0.55))) * top, span * float(rng.uniform(0.92, 1.08)) * top
    if photometric == "MONOCHROME1":
        centre = top - centre
    return pixels, bits, round(centre), round(width)
