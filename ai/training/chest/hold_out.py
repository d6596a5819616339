"""Writes labels and models for ``dicom-node models evaluate``, which measures them on a fold that they did not see."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from ai.training.chest.boxes import BOXES, box_figures
from ai.training.chest.data import FOLDS, REPORTED, Cases
from ai.training.chest.fit import Recipe, Say
from ai.training.chest.measure import probabilities
from ai.training.chest.run import (
    THUMBNAIL,
    Place,
    calibrate,
    crossvalidate,
    describe_training,
    load_cases,
    measure_called,
    single_networks,
)
from ai.training.chest.write import Written, calibrated, write_bundle


def hold_out(data: Path, out: Path, recipe: Recipe, fold: int, *, place: Place, say: Say) -> None:
    """Write labels and models to measure on a fold that the models did not see.

    ``out/network`` and ``out/linear`` are bundles of the models that were trained without the fold. ``out/labels.csv``
    lists the fold's images of more than 64 pixels. Calibration and thresholds are chosen on the images of the other
    folds, with scores of networks that had seen the fold. The settings of the training were chosen on all folds.

    Raises:
        ValueError: the fold has no image of more than 64 pixels.
    """
    cases = load_cases(data, recipe)
    if not (large := cases.stored > THUMBNAIL)[cases.folds == fold].any():
        raise ValueError(f"{data}: fold {fold} has no image of more than {THUMBNAIL} pixels")
    trained = crossvalidate(data, cases, recipe, tuple(range(FOLDS)), place=place, say=say)
    others, held = large & (cases.folds != fold), np.flatnonzero(large & (cases.folds == fold))
    logits, linear, seen = trained.logits[others], trained.linear[others], cases.part(others)
    points = calibrate(seen, logits, linear)
    networks = single_networks(trained, points, recipe)
    apart = calibrate(seen, linear, linear, {}, {})
    command = f"python -m ai.training.chest hold-out --data DIR --seed {place.seed} --fold {fold} --out DIR"
    learnt = describe_training(cases.part(cases.folds != fold), place, trained)
    training = {**learnt, "command": command, "folds": [fold]}
    for name, model, chosen, logits_of in (
        ("network", networks[fold], points, (logits, linear)),
        ("linear", calibrated(trained.baselines[fold], apart), apart, (linear, linear)),
    ):
        scores = probabilities(*logits_of, chosen)
        measured = {
            "method": "other folds than the bundle's, out-of-fold: what calibration and thresholds were chosen on",
            **measure_called(seen, scores, say),
            "boxes": box_figures(seen, networks) if name == "network" else {},
        }
        write_bundle(out / name, Written(f"chest_{name}", model, recipe, training, measured))
    write_labels(out / "labels.csv", cases.part(held), data)
    say(f"wrote {out}: two models that have not seen {len(held)} images, and the labels of these")


def write_labels(path: Path, cases: Cases, folder: Path) -> None:
    """Write a table for ``dicom-node models evaluate``: a row for each image, a column for each class (0, 1 or empty).

    ``folder`` holds the images. Their sizes convert boxes from fractions to pixels.
    """
    with path.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened)
        table.writerow(["file", "patient_id", "source", "view", "sex", "age", "boxes", "no_finding", *REPORTED])
        columns, known_normal = [cases.of(key) for key in REPORTED], cases.of("abnormality")
        for row, file in enumerate(cases.files):
            view, sex, age = cases.extra[row]
            known = [
                {0.0: "PA", 1.0: "AP"}.get(float(view), ""),
                {0.0: "M", 1.0: "F"}.get(float(sex), ""),
                "" if np.isnan(age) else str(round(float(age) * 100)),
            ]
            labels = ["" if np.isnan(column[row]) else str(int(column[row])) for column in columns]
            clean = "" if np.isnan(known_normal[row]) else str(int(cases.normal[row]))
            with Image.open(folder / file) as image:
                wide, tall = image.size
            boxes = [
                f"{BOXES[name]}:{x * wide:.1f},{y * tall:.1f},{(right - x) * wide:.1f},{(bottom - y) * tall:.1f}"
                for name, x, y, right, bottom in cases.boxes[row]
                if name in BOXES
            ]
            table.writerow([file, cases.patients[row], cases.sources[row], *known, ";".join(boxes), clean, *labels])
