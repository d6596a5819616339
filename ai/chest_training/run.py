"""The whole way from a folder of radiographs to a bundle: folds, calibration, figures, files."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

from ai.chest_network import BLOCKS, SHARPNESS, ChestNetwork, ChestReader, LinearReader
from ai.chest_training.baseline import crossvalidate_linear
from ai.chest_training.data import FOLDS, KEYS, NIH, TEACHERS, Cases, Prepare, balanced_weights, read_cases
from ai.chest_training.fit import OUTPUTS, Recipe, Say, fit, platt, predict
from ai.chest_training.measure import (
    DRAWS,
    JOINED,
    MIXED,
    REGION,
    OperatingPoint,
    auc_figures,
    choose_threshold,
    measure,
    probabilities,
)
from ai.chest_training.write import Written, assemble, calibrated, inference, write_bundle

THUMBNAIL = 64  # pixels: images that are stored no larger
BOXES = {  # what a radiologist's box is called, and the class that it shows
    "Nodule": "nodule_or_mass",
    "Mass": "nodule_or_mass",
    "Pneumonia": "pneumonia",
    "Infiltration": "pneumonia",
    "Infiltrate": "pneumonia",
    "Effusion": "effusion",
    "Cardiomegaly": "cardiomegaly",
    "Pneumothorax": "pneumothorax",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where and from what seed a training runs: ``jobs`` processes on ``device``, networks kept in ``work``.

    ``where`` says in the card what it ran on.
    """

    seed: int
    device: str
    jobs: int
    work: Path
    where: str


@dataclass(frozen=True, slots=True)
class Trained:
    """One network and one linear model of each fold that was trained, and what each said of the images of its own fold.

    ``logits`` and ``linear`` (n, KEYS) are NaN for images of folds that were not trained; ``seconds`` is what training
    took, the folds one after another.
    """

    networks: dict[int, ChestReader]
    logits: NDArray[np.float32]
    baselines: dict[int, LinearReader]
    linear: NDArray[np.float32]
    seconds: float


def preparation(side: int) -> Prepare:
    """The preprocessing of the bundle, on a ``side`` x ``side`` grid."""
    parser = ConfigParser()
    parser.read_config(inference(side, {}))
    chain = parser.get_parsed_content("preprocessing")

    def prepare(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(chain({"image": torch.from_numpy(np.ascontiguousarray(image))[None]})["image"][0])

    return prepare


def load_cases(data: Path, recipe: Recipe) -> Cases:
    """The images at the side of the recipe's last stage; see `ai.chest_training.data.read_cases`."""
    return read_cases(data, preparation(recipe.stages[-1].side))


def crossvalidate(data: Path, cases: Cases, recipe: Recipe, folds: Sequence[int], *, place: Place, say: Say) -> Trained:
    """Train one network for each of ``folds`` on the other folds.

    What is trained is kept in a folder of ``place.work`` for this recipe and these images, and read from there when it
    is there already.
    """
    for number in folds:
        if not 0 < int((cases.folds == number).sum()) < len(cases.files):
            raise ValueError(
                f"fold {number} of the patients holds none or all of the images; 0 to {FOLDS - 1} have some"
            )
    place = replace(place, work=place.work / _digest(cases, recipe))
    place.work.mkdir(parents=True, exist_ok=True)
    job = partial(_fold, data=data, recipe=recipe, place=place)
    started = time.monotonic()
    workers = min(place.jobs, len(folds))
    if workers == 1:
        for number in folds:
            job(number, cases=cases)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
            list(pool.map(job, folds))
    say(f"trained the folds {', '.join(map(str, folds))} in {time.monotonic() - started:.0f} s")
    networks: dict[int, ChestReader] = {}
    seconds = 0.0
    logits = np.full((len(cases.files), len(KEYS)), np.nan, dtype=np.float32)
    for number in folds:
        network = ChestReader(recipe.planes, OUTPUTS)
        kept = torch.load(_kept(place, number), map_location="cpu", weights_only=True)
        network.load_state_dict(kept["network"])
        seconds += float(kept["seconds"])
        networks[number] = network.eval()
        rows = np.flatnonzero(cases.folds == number)
        logits[rows] = predict(network, cases.pixels[rows], recipe.stages[-1].side)
    return Trained(networks, logits, *crossvalidate_linear(cases, folds), seconds)


def _kept(place: Place, number: int) -> Path:
    return place.work / f"fold-{number}-seed-{place.seed}.pt"


def _digest(cases: Cases, recipe: Recipe) -> str:
    """Names what a training depends on beside its seed."""
    shape = (BLOCKS, SHARPNESS, OUTPUTS)
    whole = hashlib.sha256(repr((shape, recipe, cases.files, cases.patients, cases.sources)).encode())
    for table in (cases.pixels, cases.labels, cases.nih, cases.teacher, cases.extra, cases.stored):
        whole.update(np.ascontiguousarray(table).tobytes())
    return whole.hexdigest()[:16]


def _fold(number: int, *, data: Path, recipe: Recipe, place: Place, cases: Cases | None = None) -> None:
    if _kept(place, number).is_file():
        return
    if cases is None:  # a process of its own
        torch.set_num_threads(1)
        cases = load_cases(data, recipe)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] fold {number}: {text}", flush=True)

    chosen = np.flatnonzero(cases.folds != number)
    network = fit(cases, chosen, recipe, seed=place.seed * 100 + number, device=place.device, say=say)
    part = _kept(place, number).with_suffix(".part")
    torch.save({"network": network.state_dict(), "seconds": time.monotonic() - started}, part)
    part.replace(_kept(place, number))


def calibrate(
    cases: Cases,
    logits: NDArray[np.float32],
    linear: NDArray[np.float32],
    mixed: Mapping[str, float] = MIXED,
    joined: Mapping[str, float] = JOINED,
) -> list[OperatingPoint]:
    """Calibration and threshold of each class on out-of-fold logits, by the weights that make the sources alike.

    A finding is a kind of abnormality, and of that the network has learnt from more images than of any finding: the
    logit of "abnormality" joins that of each class in ``mixed``. That of the linear model, which sees the image as a
    whole, joins the classes in ``joined``. All in units of their spread.
    """
    normal = cases.labels[:, KEYS.index("abnormality")] == 0.0
    weights = balanced_weights(cases.labels, cases.sources, normal)
    points = []
    spread, linear_spread = (some.std(axis=0, dtype=np.float64) + 1e-6 for some in (logits, linear))
    for k, key in enumerate(KEYS):
        used = weights[:, k] > 0
        truth, w = cases.labels[used, k], weights[used, k]
        own, share = 1.0 / spread[k], mixed.get(key, 0.0) / spread[KEYS.index("abnormality")]
        third = joined.get(key, 0.0) / linear_spread[k]
        scores = own * logits[used, k] + share * logits[used, KEYS.index("abnormality")] + third * linear[used, k]
        if len(np.unique(truth)) < 2:
            points.append(OperatingPoint(1.0, 0.0, 0.5))
            continue
        slope, offset = platt(scores, truth, w)
        slope = max(slope, 0.05)  # a class that was not learnt keeps its order
        probability = 1.0 / (1.0 + np.exp(-(slope * scores + offset)))
        threshold = round(choose_threshold(probability, truth, w), 4)
        points.append(OperatingPoint(slope * own, offset, threshold, slope * share, slope * third))
    return points


def teacher_figures(cases: Cases) -> dict[str, Any]:
    """The AUC of the teacher on the images that its opinion is known of, by class."""
    said = np.full((len(cases.files), len(KEYS)), np.nan)
    for key, names in TEACHERS.items():
        said[:, KEYS.index(key)] = np.max([cases.teacher[:, NIH.index(name)] for name in names], axis=0)
    return _aucs(cases, said)


def _aucs(cases: Cases, scores: NDArray[np.float64]) -> dict[str, Any]:
    normal = cases.labels[:, KEYS.index("abnormality")] == 0.0
    found = {}
    for k, key in enumerate(KEYS):
        known = np.isfinite(scores[:, k])
        one = auc_figures(np.nan_to_num(scores[:, k]), (cases.labels[:, k] == 1.0) & known, normal & known, cases)
        if one:
            found[key] = one
    return found


def box_figures(cases: Cases, trained: Trained, points: Sequence[OperatingPoint], recipe: Recipe) -> dict[str, Any]:
    """How often the centre of a heat map's region lies inside a radiologist's box of the same finding, by class.

    The map is that of the network that has not seen the patient. ``chance`` sums the boxes' shares of the area.
    """
    found: dict[str, dict[str, Any]] = {}
    folds = cases.folds
    alone = {
        number: assemble([network], [trained.baselines[number]], points, recipe.planes)
        for number, network in trained.networks.items()
    }
    for row, boxes in enumerate(cases.boxes):
        known = [(BOXES[name], box) for name, *box in boxes if name in BOXES]
        if not known or folds[row] not in alone:
            continue
        maps = activations(alone[int(folds[row])], cases.pixels[row])
        for key in sorted({key for key, _ in known}):
            x, y = region_centre(maps[KEYS.index(key)])
            same = [box for name, box in known if name == key]
            one = found.setdefault(key, {"findings": 0, "hits": 0, "chance": 0.0})
            one["findings"] += 1
            one["hits"] += any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in same)
            one["chance"] += min(1.0, sum((right - left) * (bottom - top) for left, top, right, bottom in same))
    return {key: {**one, "chance": round(one["chance"], 2)} for key, one in sorted(found.items())}


def activations(network: ChestNetwork, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class activation maps (KEYS, rows, columns) of an image (h, w); see `ChestNetwork`."""
    with torch.inference_mode():
        maps = network.places(network.features(torch.from_numpy(pixels)[None, None].float() / 255.0))
    return np.asarray(maps[0].numpy())


def region_centre(cam: NDArray[np.float32]) -> tuple[float, float]:
    """Centre (x, y), in parts of width and height, of a reading's first box in a map (`ai.tasks.peaks`)."""
    fine = ndimage.zoom(cam - cam.min(), 8, order=1, grid_mode=True, mode="nearest")
    places, _ = ndimage.label(fine >= REGION * fine.max(), structure=np.ones((3, 3), dtype=int))
    peak = np.unravel_index(int(np.argmax(fine)), fine.shape)
    rows, columns = np.nonzero(places == places[peak])
    return (
        float((columns.min() + columns.max() + 1) / 2.0 / fine.shape[1]),
        float((rows.min() + rows.max() + 1) / 2.0 / fine.shape[0]),
    )


def train(
    data: Path, bundle: Path, recipe: Recipe, *, place: Place, say: Say, folds: Sequence[int] = tuple(range(FOLDS))
) -> None:
    """Train a network for each of ``folds``, measure each on its fold, and write the bundle of them all."""
    cases = load_cases(data, recipe)
    say(f"read {len(cases.files)} images of {len(set(cases.patients))} patients")
    trained = crossvalidate(data, cases, recipe, folds, place=place, say=say)
    points, measured = figures(cases, trained, recipe, say)
    network = assemble(
        [trained.networks[n] for n in folds], [trained.baselines[n] for n in folds], points, recipe.planes
    )
    written = Written("chest_xray", network, recipe, describe_training(cases, place, trained), measured, points)
    write_bundle(bundle, written)
    say(f"wrote {bundle}")


def hold_out(data: Path, out: Path, recipe: Recipe, fold: int, *, place: Place, say: Say) -> None:
    """Write what ``dicom-node models evaluate`` needs to measure models on a fold that they have not learnt from.

    ``out/network`` and ``out/linear`` are bundles of what was trained without the fold; ``out/labels.csv`` names the
    fold's images of more than 64 pixels. Calibration and thresholds are chosen on the images of the other folds, by
    scores of networks that had seen the fold; how parts are weighed and how long is trained was chosen on all folds.
    """
    cases = load_cases(data, recipe)
    if not (large := cases.stored > THUMBNAIL)[cases.folds == fold].any():
        raise ValueError(f"{data}: fold {fold} has no image of more than {THUMBNAIL} pixels")
    trained = crossvalidate(data, cases, recipe, tuple(range(FOLDS)), place=place, say=say)
    others, held = large & (cases.folds != fold), np.flatnonzero(large & (cases.folds == fold))
    logits, linear, seen = trained.logits[others], trained.linear[others], cases.part(others)
    points = calibrate(seen, logits, linear)
    network = assemble([trained.networks[fold]], [trained.baselines[fold]], points, recipe.planes)
    apart = calibrate(seen, linear, linear, {}, {})
    command = f"python -m ai.chest_training hold-out --data DIR --seed {place.seed} --fold {fold} --out DIR"
    learnt = describe_training(cases.part(cases.folds != fold), place, trained)
    training = {**learnt, "command": command, "folds": [fold]}
    for name, model, chosen, said in (
        ("network", network, points, (logits, linear)),
        ("linear", calibrated(trained.baselines[fold], apart), apart, (linear, linear)),
    ):
        scores = probabilities(*said, chosen)
        measured = {
            "method": "other folds than the bundle's, out-of-fold: what calibration and thresholds were chosen on",
            "classes": measure(seen, scores, [point.threshold for point in chosen]),
            "boxes": box_figures(seen, trained, points, recipe) if name == "network" else {},
        }
        write_bundle(out / name, Written(f"chest_{name}", model, recipe, training, measured, chosen))
    write_labels(out / "labels.csv", cases.part(held), data)
    say(f"wrote {out}: two models that have not seen {len(held)} images, and the labels of these")


def write_labels(path: Path, cases: Cases, folder: Path) -> None:
    """A table for ``dicom-node models evaluate``: one row an image, one column a class, as 0, 1 or nothing.

    ``folder`` holds the images, whose sizes make pixels of the boxes' parts.
    """
    with path.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened)
        table.writerow(["file", "patient_id", "source", "view", "sex", "age", "boxes", "no_finding", *KEYS])
        for row, file in enumerate(cases.files):
            view, sex, age = cases.extra[row]
            known = [
                {0.0: "PA", 1.0: "AP"}.get(float(view), ""),
                {0.0: "M", 1.0: "F"}.get(float(sex), ""),
                "" if np.isnan(age) else str(round(float(age) * 100)),
            ]
            labels = ["" if np.isnan(label) else str(int(label)) for label in cases.labels[row]]
            clean = {"0": "1", "1": "0"}.get(labels[KEYS.index("abnormality")], "")
            with Image.open(folder / file) as image:
                wide, tall = image.size
            boxes = [
                f"{BOXES[name]}:{x * wide:.1f},{y * tall:.1f},{(right - x) * wide:.1f},{(bottom - y) * tall:.1f}"
                for name, x, y, right, bottom in cases.boxes[row]
                if name in BOXES
            ]
            table.writerow([file, cases.patients[row], cases.sources[row], *known, ";".join(boxes), clean, *labels])


def figures(cases: Cases, trained: Trained, recipe: Recipe, say: Say) -> tuple[list[OperatingPoint], dict[str, Any]]:
    """Operating points, and all that is measured out of fold."""
    # Thumbnails help to learn, but nobody will send one: they are measured apart and choose no threshold.
    seen = np.isfinite(trained.logits).all(axis=1)
    thumbnails, known = seen & (cases.stored <= THUMBNAIL), seen & (cases.stored > THUMBNAIL)
    judged = cases.part(known)
    points = calibrate(judged, trained.logits[known], trained.linear[known])
    logits, linear = (np.nan_to_num(some.astype(np.float64)) for some in (trained.logits, trained.linear))
    scores = probabilities(logits, linear, points)
    classes = measure(judged, scores[known], [point.threshold for point in points])
    for key, one in classes.items():
        say(f"{key:15} {one['auc']:.3f} [{one['low']:.3f}, {one['high']:.3f}], {one['positives']} positives")
    measured = {
        "method": "out-of-fold, within one source, against images without finding; 95 % bootstrap over patients",
        "draws": DRAWS,
        "classes": classes,
        "images": len(judged.files),
        "patients": len(set(judged.patients)),
        "thumbnails": _aucs(cases.part(thumbnails), scores[thumbnails]),
        "linear": _aucs(judged, linear[known]),
        "network": _aucs(judged, logits[known]),
        "teacher": teacher_figures(judged),
        "boxes": box_figures(judged, trained, points, recipe),
    }
    return points, measured


def describe_training(cases: Cases, place: Place, trained: Trained) -> dict[str, Any]:
    """What the card says of the data and of the run."""
    names, people = np.array(cases.sources), np.array(cases.patients)
    sources = [
        {
            "name": name,
            "images": int((names == name).sum()),
            "patients": len(set(people[names == name])),
            "positives": {key: int(np.nansum(cases.labels[names == name, k])) for k, key in enumerate(KEYS)},
        }
        for name in sorted(set(cases.sources))
    ]
    return {
        "command": f"python -m ai.chest_training train --data DIR --seed {place.seed}",
        "images": len(cases.files),
        "patients": len(set(cases.patients)),
        "under_18": int((cases.extra[:, 2] < 0.18).sum()),
        "taught": int(np.isfinite(cases.teacher[:, 0]).sum()),
        "folds": sorted(trained.networks),
        "seconds": round(trained.seconds),
        "where": place.where,
        "sources": sources,
    }
