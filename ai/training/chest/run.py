"""Trains the bundle from a folder of radiographs: folds, calibration, figures, files."""

from __future__ import annotations

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

from ai.chest_network import BLOCKS, SHARPNESS, ChestNetwork, ChestReader, LinearReader
from ai.training.chest.baseline import crossvalidate_linear
from ai.training.chest.boxes import box_figures
from ai.training.chest.data import (
    FOLDS,
    JOINED_LABELS,
    KEYS,
    NIH,
    REPORTED,
    TEACHERS,
    Cases,
    Prepare,
    balanced_weights,
    named_scores,
    read_cases,
)
from ai.training.chest.fit import OUTPUTS, Recipe, Say, fit, platt, predict
from ai.training.chest.measure import (
    DRAWS,
    JOINED,
    MIXED,
    Calibration,
    auc_figures,
    measure,
    probabilities,
)
from ai.training.chest.points import operating_points
from ai.training.chest.write import Written, assemble, inference, undetermined, write_bundle

THUMBNAIL = 64  # pixels: images stored at this width or less are thumbnails


@dataclass(frozen=True, slots=True)
class Place:
    """The seed and the machine of a training: ``jobs`` processes on ``device``, with networks saved in ``work``.

    ``where`` names the machine in the card.
    """

    seed: int
    device: str
    jobs: int
    work: Path
    where: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A network and a linear model for each trained fold, with their logits on the images of the fold they did not see.

    ``logits`` and ``linear`` (n, KEYS) are NaN for images of folds that were not trained. ``seconds`` is the sum of the
    training times of the folds.
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
    """Read the images at the side of the recipe's last stage; see `ai.training.chest.data.read_cases`."""
    return read_cases(data, preparation(recipe.stages[-1].side))


def crossvalidate(data: Path, cases: Cases, recipe: Recipe, folds: Sequence[int], *, place: Place, say: Say) -> Trained:
    """Train one network for each of ``folds`` on the other folds.

    Trained networks are saved in a folder of ``place.work`` for this recipe and these images. Networks that are there
    already are loaded.

    Raises:
        ValueError: a fold has no images, or all of them.
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
    """A digest of everything that a training depends on, except its seed."""
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
) -> list[Calibration]:
    """Choose the calibration of each class on out-of-fold logits, weighted by `balanced_weights`.

    Every finding is an abnormality, which the network has learnt from the most images. So the logit of "abnormality" is
    added to the classes in ``mixed``, with the factor given there. The logit of the linear model is added to the
    classes in ``joined``. All logits are in units of their standard deviation.
    """
    weights = balanced_weights(cases.labels, cases.sources, cases.normal)
    calibrations = []
    spread, linear_spread = (some.std(axis=0, dtype=np.float64) + 1e-6 for some in (logits, linear))
    for k, key in enumerate(KEYS):
        used = weights[:, k] > 0
        truth, w = cases.labels[used, k], weights[used, k]
        own, share = 1.0 / spread[k], mixed.get(key, 0.0) / spread[KEYS.index("abnormality")]
        third = joined.get(key, 0.0) / linear_spread[k]
        scores = own * logits[used, k] + share * logits[used, KEYS.index("abnormality")] + third * linear[used, k]
        if len(np.unique(truth)) < 2:
            calibrations.append(Calibration(1.0, 0.0))
            continue
        slope, offset = platt(scores, truth, w)
        slope = max(slope, 0.05)  # for a class that was not learnt: its order of scores stays
        calibrations.append(Calibration(slope * own, offset, slope * share, slope * third))
    return calibrations


def teacher_figures(cases: Cases) -> dict[str, Any]:
    """The AUC of the teacher, by class, on the images with predictions of the teacher."""
    predicted = {
        key: np.max([cases.teacher[:, NIH.index(name)] for name in names], axis=0)
        for key, names in (TEACHERS | JOINED_LABELS).items()
    }
    return _aucs(cases, predicted)


def _aucs(cases: Cases, scores: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    found = {}
    for key, own in scores.items():
        known = np.isfinite(own)
        one = auc_figures(np.nan_to_num(own), (cases.of(key) == 1.0) & known, cases.normal & known, cases)
        if one:
            found[key] = one
    return found


def _of_keys(scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {key: scores[:, k] for k, key in enumerate(KEYS)}


def train(
    data: Path, bundle: Path, recipe: Recipe, *, place: Place, say: Say, folds: Sequence[int] = tuple(range(FOLDS))
) -> None:
    """Train a network for each of ``folds``, measure each on its fold, and write a bundle that combines them."""
    cases = load_cases(data, recipe)
    say(f"read {len(cases.files)} images of {len(set(cases.patients))} patients")
    trained = crossvalidate(data, cases, recipe, folds, place=place, say=say)
    calibrations, measured = figures(cases, trained, recipe, say)
    network = assemble(
        [trained.networks[n] for n in folds], [trained.baselines[n] for n in folds], calibrations, recipe.planes
    )
    written = Written("chest_xray", network, recipe, describe_training(cases, place, trained), measured)
    write_bundle(bundle, written)
    say(f"wrote {bundle}")


def single_networks(trained: Trained, calibrations: Sequence[Calibration], recipe: Recipe) -> dict[int, ChestNetwork]:
    """Assemble the network and the linear model of each fold into a `ChestNetwork` of its own."""
    return {
        number: assemble([network], [trained.baselines[number]], calibrations, recipe.planes)
        for number, network in trained.networks.items()
    }


def figures(
    cases: Cases, trained: Trained, recipe: Recipe, say: Say, calibrations: Sequence[Calibration] | None = None
) -> tuple[Sequence[Calibration], dict[str, Any]]:
    """Choose calibration and operating points, and measure everything out of fold.

    ``calibrations`` are those of a bundle that exists; None chooses them.
    """
    # Thumbnails are used in training, but no hospital sends them: they are measured apart and choose no threshold.
    seen = np.isfinite(trained.logits).all(axis=1)
    thumbnails, known = seen & (cases.stored <= THUMBNAIL), seen & (cases.stored > THUMBNAIL)
    judged = cases.part(known)
    if calibrations is None:
        calibrations = calibrate(judged, trained.logits[known], trained.linear[known])
    logits, linear = (np.nan_to_num(some.astype(np.float64)) for some in (trained.logits, trained.linear))
    scores = probabilities(logits, linear, calibrations)
    measured = {
        "method": "out-of-fold, within one source, against images without finding; 95 % bootstrap over patients",
        "draws": DRAWS,
        **measure_called(judged, scores[known], say),
        "images": len(judged.files),
        "patients": len(set(judged.patients)),
        "thumbnails": _aucs(cases.part(thumbnails), named_scores(scores[thumbnails])),
        "linear": _aucs(judged, _of_keys(linear[known])),
        "network": _aucs(judged, _of_keys(logits[known])),
        "teacher": teacher_figures(judged),
        "boxes": box_figures(judged, single_networks(trained, calibrations, recipe)),
    }
    return calibrations, measured


def measure_called(cases: Cases, scores: NDArray[np.float64], say: Say) -> dict[str, Any]:
    """``classes`` (`measure`) and ``operating_points`` of calibrated scores (n, KEYS) of images not learnt from."""
    classes = measure(cases, scores)
    for key, one in classes.items():
        say(f"{key:16} {one['auc']:.3f} [{one['low']:.3f}, {one['high']:.3f}], {one['positives']} positives")
    points = operating_points(cases, named_scores(scores), [key for key in REPORTED if undetermined(key, classes)])
    for name, point in points.items():
        say(f"{name:16} " + ", ".join(f"{kind} {one['share']:.2f}" for kind, one in point["default"].items() if one))
    return {"classes": classes, "operating_points": points}


def describe_training(cases: Cases, place: Place, trained: Trained) -> dict[str, Any]:
    """The description of the data and of the run, for the card."""
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
        "command": f"python -m ai.training.chest train --data DIR --seed {place.seed}",
        "images": len(cases.files),
        "patients": len(set(cases.patients)),
        "under_18": int((cases.extra[:, 2] < 0.18).sum()),
        "taught": int(np.isfinite(cases.teacher[:, 0]).sum()),
        "folds": sorted(trained.networks),
        "seconds": round(trained.seconds),
        "where": place.where,
        "sources": sources,
    }
