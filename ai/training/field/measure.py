"""Measures the field: against drawn lungs and bodies, and how many films are refused or marked, rightly and wrongly."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.anatomy.field import ChestField, chest_field
from ai.anatomy.screening import Look, look_of
from ai.bundle.files import shipped
from ai.contract import ReadingError
from ai.images.radiograph import load_radiograph, read_header
from ai.inference.bundle_model import BundleModel, load
from ai.phantom.anatomy import person
from ai.phantom.canvas import Canvas
from ai.training.field.data import SHAPES, film, is_adult, is_held_out, phantom, rows_of

_Picture = NDArray[np.float32]


def on_phantoms(count: int) -> dict[str, Any]:
    """Overlap with what was drawn, distance of the midline, and where the places of the shipped demonstration lie."""
    model = load(shipped()["phantom_cxr"], threads=1)
    overlaps: list[float] = []
    covered: list[float] = []
    bodies: list[float] = []
    distances: list[float] = []
    seen: Counter[str] = Counter()
    for number in range(count):
        rows, columns = (2 * side for side in SHAPES[number % len(SHAPES)])
        display, (right, left, body) = phantom(number, rows, columns)
        found, lungs = chest_field(display), right | left
        seen[look_of(found).value] += 1
        if found.lungs is None:
            seen["without lungs"] += 1
        else:
            drawn = ChestField(rows, columns, None, found.lungs, found.kinds, None).body_of_image()
            overlaps.append(float((drawn & lungs).sum() / (drawn | lungs).sum()))
            covered.append(float((drawn & lungs).sum() / lungs.sum()))
        bodies.append(float((found.body_of_image() & body).sum() / (found.body_of_image() | body).sum()))
        canvas = Canvas.over_field(rows, columns)
        middle = columns / 2.0 + person(np.random.default_rng([number, 2]), _view(number)).middle / canvas.step
        if (midline := found.midline(rows * 0.4)) is not None:
            distances.append(abs(midline - middle) * canvas.step)
        seen += Counter(_places(model, display, body))
    return {
        "phantoms": count,
        "lungs, IoU": _spread(overlaps),
        "lungs covered": _spread(covered),
        "body, IoU": _spread(bodies),
        "midline, mm": _spread(distances, worst=max),
        **seen,
    }


def _view(number: int) -> str:
    return "AP" if number % 3 == 0 else "PA"


def _places(model: BundleModel, display: _Picture, body: NDArray[np.bool_] | None = None) -> Iterable[str]:
    """A word for each place that the model shows, that lies by half or more outside the body, and that was dropped."""
    found = model.read_display(display)
    inside = chest_field(display).body_of_image() if body is None else body
    for box in found.boxes:
        yield "places shown"
        part = inside[int(box.top) : int(np.ceil(box.bottom)), int(box.left) : int(np.ceil(box.right))]
        if part.mean() < 0.5:
            yield "places outside the body"
    yield from ["places dropped"] * found.dropped


def _spread(values: list[float], worst: Callable[[list[float]], float] = min) -> str:
    if not values:
        return "none"
    middle, low, high = np.percentile(values, (50, 5, 95))
    return f"median {middle:.3f}, 5 to 95 of 100: {low:.3f} to {high:.3f}, worst {worst(values):.3f}"


_CHANGES: dict[str, Callable[[_Picture], _Picture]] = {
    "as it is": lambda picture: picture,
    "turned by 90 degrees": lambda picture: np.ascontiguousarray(np.rot90(picture, 1)),
    "turned by 180 degrees": lambda picture: np.ascontiguousarray(np.rot90(picture, 2)),
    "turned by 270 degrees": lambda picture: np.ascontiguousarray(np.rot90(picture, 3)),
    "inverted": lambda picture: np.float32(1.0) - picture,
}


def on_films(data: Path) -> dict[str, Any]:
    """How films that were not trained on look, as they are, turned and inverted, by collection and by age."""
    answered: dict[str, Any] = {}
    rows = rows_of(data)
    held = [row for row in rows if is_held_out(row) and is_adult(row)]
    groups = {
        "NIH, patients not trained on": [row for row in held if row["dataset"].startswith("NIH")],
        "NLM, a collection not trained on": [row for row in held if not row["dataset"].startswith("NIH")],
        "under 18": [row for row in rows if not is_adult(row)],
    }
    for group, some in groups.items():
        counts: dict[str, Counter[str]] = {name: Counter() for name in _CHANGES}
        for row in some:
            for name, change in _CHANGES.items():
                field = chest_field(change(film(data, row)))
                counts[name][look_of(field).value] += 1
                if name == "as it is" and field.lungs is None:
                    counts[name]["without lungs"] += 1
        answered[f"{group} ({len(some)})"] = {name: dict(count) for name, count in counts.items()}
    return answered


def places_on_films(data: Path) -> dict[str, Any]:
    """Where the places of ``chest_xray`` lie on all films, and how many boxes of radiologists lie in the field."""
    model = load(shipped()["chest_xray"], threads=1)
    seen: Counter[str] = Counter()
    for row in rows_of(data):
        picture = film(data, row)
        seen["films"] += 1
        seen += Counter(_places(model, picture))
        for label, box in _drawn_boxes(row):
            if label in {"Cardiomegaly"}:
                continue
            share = chest_field(picture).share_in_lungs(box)
            seen["boxes of radiologists"] += 1
            seen["boxes of radiologists by half in the lungs"] += share is None or share >= 0.5
    return dict(seen)


def _drawn_boxes(row: dict[str, Any]) -> Iterable[tuple[str, tuple[float, float, float, float]]]:
    for entry in filter(None, (row["boxes"] or "").replace(";", "|").split("|")):
        label, _, numbers = entry.partition(":")
        left, top, width, height = map(float, numbers.split(","))
        yield label, (left, top, left + width, top + height)


def on_dicom(folders: Iterable[Path]) -> list[str]:
    """What each real radiograph in folders looks like: body part, view, age and verdict."""
    lines = []
    for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
        try:
            header = read_header(file)
            if header.modality not in ("CR", "DX") or not header.has_pixels:
                continue
            image = load_radiograph(file)
        except ReadingError:
            continue
        look = look_of(chest_field(image.display))
        told = ", ".join((header.body_part or "no body part", header.view or "no view", f"age {header.age}"))
        lines.append(f"{file.name} ({image.rows} x {image.columns}; {told}): {look.value}")
    return lines


def seconds(rows: int = 2500, columns: int = 2048) -> float:
    """Seconds of one core for the field of a film of this size: the median of nine."""
    display = np.tile(phantom(1, rows // 8, columns // 8)[0], (8, 8))
    times = []
    for _ in range(9):
        began = time.process_time()
        chest_field(display)
        times.append(time.process_time() - began)
    return float(statistics.median(times))


def false_refusals(answered: dict[str, Any]) -> float:
    """The share of ordinary films that were refused, of those that `on_films` counted."""
    whole = [counts["as it is"] for group, counts in answered.items() if not group.startswith("under")]
    refused = sum(int(one.get(Look.OTHER.value, 0)) for one in whole)
    return refused / max(1, sum(_looks(one) for one in whole))


def _looks(counts: dict[str, int]) -> int:
    return sum(counts.get(look.value, 0) for look in Look)
