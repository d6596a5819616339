"""The radiographs with their labels: ``labels.csv``, the teacher's predictions, folds, targets and weights.

``labels.csv`` has a row for each image. An empty cell is unknown, never negative. Patients, not images, are assigned to
folds, by a hash of their identifier, so that a patient is in the same fold on each machine and in each release.

**Sources.** Normals, pneumonia and nodules come from different collections, so a network could guess a finding from the
look of a collection. Therefore the positives and the negatives of a class get the same total weight within each source.
With these weights the source alone does not predict the class.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ai.training.chest_codes import NIH14

KEYS = (
    "nodule_or_mass",
    "tuberculosis",
    "pneumothorax",
    "pneumonia",
    "effusion",
    "cardiomegaly",
    "abnormality",
    "consolidation",
)
COLUMNS = (  # columns of labels.csv for KEYS; "abnormality" is the opposite of "no_finding"
    "nodule_or_mass",
    "tuberculosis",
    "Pneumothorax",
    "pneumonia_or_consolidation",
    "Effusion",
    "Cardiomegaly",
    "no_finding",
    "Consolidation",
)
REPORTED = {  # the classes that are reported, each with the classes of KEYS whose greatest score is its own
    "nodule_or_mass": ("nodule_or_mass",),
    "tuberculosis": ("tuberculosis",),
    "pneumothorax": ("pneumothorax",),
    "airspace_opacity": ("pneumonia", "consolidation"),
    "effusion": ("effusion",),
    "cardiomegaly": ("cardiomegaly",),
    "abnormality": ("abnormality",),
}
ON_REQUEST = ("tuberculosis", "abnormality")
"""The classes that are looked for only where they are asked for by name. The card says why."""
NAMED = (*KEYS, *(key for key in REPORTED if key not in KEYS))
"""Every class with figures: those of the network, and those that join several of them."""
NIH = NIH14  # the order of the labels and of the teacher's predictions
TEACHERS = {  # the teacher's classes for a class of KEYS; the greatest prediction counts
    "nodule_or_mass": ("Nodule", "Mass"),
    "pneumothorax": ("Pneumothorax",),
    "pneumonia": ("Pneumonia", "Consolidation"),
    "effusion": ("Effusion",),
    "cardiomegaly": ("Cardiomegaly",),
    "consolidation": ("Consolidation",),
}
JOINED_LABELS = {"airspace_opacity": ("Pneumonia", "Consolidation", "Infiltration")}
"""The labels of NIH, and the teacher's classes, that a class of several stands for."""
FOLDS = 5
_MOST = 4.0  # the greatest weight of a positive relative to a negative of its source
_FEWEST = 3  # the least positives, and negatives, of a class for a source to count for it
_OTHER = 0.5  # weight of a negative with another finding: reports often omit minor findings

Prepare = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Cases:
    """n images with their labels.

    ``pixels`` (n, h, w) uint8 are the network's inputs. ``labels`` (n, classes of KEYS) and ``nih`` (n, 14) hold 0, 1,
    or NaN for unknown. ``teacher`` (n, 14) are the teacher's logits, or NaN. ``extra`` (n, 3) are view (1 AP, 0 PA),
    sex (1 female, 0 male) and age in centuries, or NaN. ``stored`` (n,) is the width of the stored file in pixels.
    ``boxes`` are the radiologists' boxes as (NIH label, left, top, right, bottom), in fractions of the image's width
    and height.
    """

    files: tuple[str, ...]
    patients: tuple[str, ...]
    sources: tuple[str, ...]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.float32]
    nih: NDArray[np.float32]
    teacher: NDArray[np.float32]
    extra: NDArray[np.float32]
    stored: NDArray[np.int64]
    boxes: tuple[tuple[tuple[str, float, float, float, float], ...], ...]

    def part(self, rows: NDArray[Any]) -> Cases:
        """A copy with the images of ``rows`` (a mask or indices) alone."""
        numbers = np.arange(len(self.files))[rows]
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        taken: dict[str, Any] = {
            name: tuple(value[i] for i in numbers) if isinstance(value, tuple) else value[numbers]
            for name, value in values.items()
        }
        return Cases(**taken)

    @property
    def normal(self) -> NDArray[np.bool_]:
        """Which images are without any finding."""
        return np.asarray(self.labels[:, KEYS.index("abnormality")] == 0.0)

    def of(self, key: str) -> NDArray[np.float32]:
        """The labels (n,) of a class of `NAMED`: 0, 1, or NaN for unknown.

        An airspace opacity is what reports call pneumonia, consolidation or infiltration, each of which the others'
        labels leave out.
        """
        if key in KEYS:
            return self.labels[:, KEYS.index(key)]
        parts = [self.of(part) for part in REPORTED[key]]
        parts += [self.nih[:, NIH.index(name)] for name in JOINED_LABELS[key]]
        table = np.stack(parts, axis=1)
        known = np.isfinite(table).all(axis=1)
        found = np.where((table == 1.0).any(axis=1), 1.0, np.where(known, 0.0, np.nan))
        return np.asarray(found, dtype=np.float32)

    @property
    def folds(self) -> NDArray[np.int64]:
        """The fold of each image."""
        return np.array([fold(patient) for patient in self.patients])


def fold(patient: str) -> int:
    """The fold of a patient, 0 to 4."""
    return hashlib.sha256(f"chest_xray 1 {patient}".encode()).digest()[0] * FOLDS // 256


def read_cases(folder: Path, prepare: Prepare) -> Cases:
    """Read ``labels.csv``, its images, and ``reference_predictions.csv`` if it exists.

    ``prepare`` converts an image (rows, columns) of display greys, 0..1 with bone white, to the network's grid, 0..1.

    Raises:
        ValueError: a row or a cell is wrong. The message names the file and the line.
    """
    path = folder / "labels.csv"
    rows = _read_table(path)
    taught = {}
    if (predictions := folder / "reference_predictions.csv").is_file():
        taught = {
            row["file"]: [_logit(_number(row, key, predictions, n)) for key in NIH] for n, row in _numbered(predictions)
        }
    pixels = []
    for line, row in enumerate(rows, start=2):
        file = (folder / row["file"]).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise ValueError(f"{path}, line {line}: file {row['file']!r} lies outside of {folder}")
        try:
            with Image.open(file) as image:
                grey = np.asarray(image.convert("L"), dtype=np.float32) / 255.0
        except OSError as error:
            raise ValueError(f"{path}, line {line}: {row['file']!r} is no image that can be read") from error
        pixels.append(np.rint(prepare(grey) * 255.0).astype(np.uint8))
    lines = list(enumerate(rows, start=2))
    labels = np.array([[_label(row, key, path, n) for key in COLUMNS] for n, row in lines], dtype=np.float32)
    labels[:, KEYS.index("abnormality")] = 1.0 - labels[:, KEYS.index("abnormality")]
    return Cases(
        files=tuple(row["file"] for row in rows),
        patients=tuple(row["patient_id"] for row in rows),
        sources=tuple(f"{row['dataset']}, {row['source_repo'].split('/')[0]}" for row in rows),
        pixels=np.stack(pixels),
        labels=labels,
        nih=np.array([[_label(row, key, path, n) for key in NIH] for n, row in lines], dtype=np.float32),
        teacher=np.array([taught.get(row["file"], [np.nan] * len(NIH)) for row in rows], dtype=np.float32),
        extra=np.array([_extra(row, path, n) for n, row in lines], dtype=np.float32),
        stored=np.array([int(row["stored_px"].split("x")[0]) for row in rows]),
        boxes=tuple(_boxes(row, path, n) for n, row in lines),
    )


def _read_table(path: Path) -> list[dict[str, str]]:
    needed = {"file", "patient_id", "dataset", "source_repo", "view", "sex", "age", "stored_px", "boxes"}
    needed |= {*NIH, *COLUMNS}
    try:
        with path.open(newline="", encoding="utf-8") as opened:
            table = csv.DictReader(opened)
            if missing := sorted(needed - set(table.fieldnames or ())):
                raise ValueError(f"{path}: lacks the columns {', '.join(missing)}")
            rows = list(table)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not rows:
        raise ValueError(f"{path}: names no image")
    return rows


def _numbered(path: Path) -> list[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as opened:
        return list(enumerate(csv.DictReader(opened), start=2))


def _number(row: dict[str, str], key: str, path: Path, line: int) -> float:
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}, line {line}: {key} is {row.get(key)!r}; a number was expected") from error


def _label(row: dict[str, str], key: str, path: Path, line: int) -> float:
    known = {"": np.nan, "0": 0.0, "1": 1.0}
    if row[key] not in known:
        raise ValueError(f"{path}, line {line}: {key} is {row[key]!r}; 0, 1 or nothing was expected")
    return known[row[key]]


def _extra(row: dict[str, str], path: Path, line: int) -> tuple[float, float, float]:
    view = {"AP": 1.0, "PA": 0.0}.get(row["view"], np.nan)
    sex = {"F": 1.0, "M": 0.0}.get(row["sex"], np.nan)
    return view, sex, _number(row, "age", path, line) / 100.0 if row["age"] else np.nan


def _boxes(row: dict[str, str], path: Path, line: int) -> tuple[tuple[str, float, float, float, float], ...]:
    found = []
    wide, tall = (float(side) for side in row["stored_px"].split("x"))
    for part in filter(None, row["boxes"].replace("|", ";").split(";")):
        name, _, numbers = part.partition(":")
        try:
            x, y, w, h = (float(number) for number in numbers.split(","))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: boxes holds {part!r}; label:x,y,w,h was expected") from error
        found.append((name, x / wide, y / tall, (x + w) / wide, (y + h) / tall))
    return tuple(found)


def named_scores(scores: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Scores (n,) of every class of `NAMED` from those of the network's classes (n, KEYS)."""
    return {key: scores[:, [KEYS.index(part) for part in REPORTED.get(key, (key,))]].max(axis=1) for key in NAMED}


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-6), 1.0 - 1e-6)
    return float(np.log(inside / (1.0 - inside)))


def balanced_weights(labels: NDArray[np.float32], sources: Sequence[str], clean: NDArray[Any]) -> NDArray[np.float32]:
    """Weights (n, classes) with which the source of an image does not predict its classes.

    Within each source, the positives of a class have the same total weight as its negatives. If a source has almost no
    positives or negatives of a class, its weights for the class are 0. ``clean`` (n,) marks images without any finding.
    """
    weights = np.zeros(labels.shape, dtype=np.float32)
    names = np.array(sources)
    for source in sorted(set(sources)):
        here = names == source
        for k in range(labels.shape[1]):
            positive = here & (labels[:, k] == 1.0)
            negative = here & (labels[:, k] == 0.0)
            share = np.where(negative, np.where(clean, 1.0, _OTHER), 0.0)
            if min(positive.sum(), negative.sum()) < _FEWEST:
                continue
            total = min(share.sum(), _MOST * positive.sum())
            weights[positive, k] = total / positive.sum()
            weights[:, k] += (share * total / share.sum()).astype(np.float32)
    spent = weights.sum(axis=0) / max(len(labels), 1)
    # Rare classes count less than others, but still count.
    return np.asarray(weights / np.sqrt(np.maximum(spent, 1e-6)), dtype=np.float32)


def source_odds(
    labels: NDArray[np.float32], sources: Sequence[str], clean: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log odds of each class in the image's source, and weights, both (n, classes).

    They are an alternative to `balanced_weights`: a network whose logits get these odds added in training need not
    learn the source (logit adjustment, Menon et al. 2021), and no image has many times the weight of another.
    """
    odds, weights = np.zeros(labels.shape, dtype=np.float32), np.zeros(labels.shape, dtype=np.float32)
    names = np.array(sources)
    for source in sorted(set(sources)):
        here = names == source
        for k in range(labels.shape[1]):
            positive = here & (labels[:, k] == 1.0)
            share = np.where(here & (labels[:, k] == 0.0), np.where(clean, 1.0, _OTHER), 0.0)
            if min(positive.sum(), (share > 0).sum()) < _FEWEST:
                continue
            odds[here, k] = np.log(positive.sum() / share.sum())
            weights[:, k] += positive + share
    rate = 1.0 / (1.0 + np.exp(-odds))
    known = np.maximum((weights > 0).sum(axis=0), 1)
    spread = (rate * (1.0 - rate) * (weights > 0)).sum(axis=0) / known
    return odds, weights * np.sqrt(0.25 / np.maximum(spread, 1e-3))
