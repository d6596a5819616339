"""Runs a bundle on phantoms as the node runs it on images, and counts what it finds.

The steps are those of a node: the bundle's preprocessing of the whole image, the network, `ai.inference.regions`, and
the affine back to the image. A finding is found if a box of its class covers it with an intersection over union (IoU)
of at least 0.3. Every other box is false, also a second box on the same finding.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from ai.bundle.manifest import Output, ReadingSpec, load_reading_spec
from ai.inference.regions import Box, box_to_image, regions
from ai.phantom.draw import Phantom, draw_phantom

ENOUGH_IOU = 0.3


def grey(phantom: Phantom) -> NDArray[np.float32]:
    """The greys of a viewer, 0 to 1 with 1 white: window (PS3.3 section C.11.2.1.2.1), MONOCHROME1 inverted."""
    shifted = (phantom.pixels.astype(np.float32) - (phantom.window_center - 0.5)) / (phantom.window_width - 1.0) + 0.5
    shown = np.clip(shifted, 0.0, 1.0)
    return np.asarray(1.0 - shown if phantom.photometric == "MONOCHROME1" else shown, dtype=np.float32)


def prepare(preprocessing: Any, image: NDArray[np.float32]) -> MetaTensor:
    """Preprocess an image (rows, columns), 0..1: the network's input (1, h, w) with the affine back to the image."""
    tensor = MetaTensor(torch.from_numpy(np.ascontiguousarray(image))[None], affine=torch.eye(4, dtype=torch.float64))
    return preprocessing({"image": tensor})["image"]


def load_config(bundle: Path) -> ConfigParser:
    """Parse the bundle's ``inference.json``."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    return parser


class Reader:
    """A loaded bundle."""

    def __init__(self, bundle: Path, network: torch.nn.Module | None = None) -> None:
        """Load a bundle. ``network`` replaces the bundle's own network."""
        parser = load_config(bundle)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        self._postprocessing = parser.get_parsed_content("postprocessing")
        if network is None:
            network = cast("torch.nn.Module", parser.get_parsed_content("network_def"))
            network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True))
        self._network = network.eval()

    def maps(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Probability maps (classes, h, w) of an image (rows x columns, 0..1), and the affine back to it."""
        prepared = prepare(self.preprocessing, image)
        with torch.inference_mode():
            logits = self._inferer(prepared.as_tensor()[None].float(), self._network)[0]
        probability = self._postprocessing({"pred": logits})["pred"]
        return np.asarray(probability, dtype=np.float32), np.asarray(prepared.affine, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is on an image: a class's channel and its box in pixel edges (left, top, right, bottom)."""

    channel: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One image's maps, the affine back to it, and the truth."""

    maps: NDArray[np.float32]
    affine: NDArray[np.float64]
    truth: tuple[Truth, ...]


def case(reader: Reader, phantom: Phantom, keys: Sequence[str]) -> Case:
    """Run the network on a phantom. ``keys`` are the classes in the order of the channels."""
    maps, affine = reader.maps(grey(phantom))
    truth = tuple(Truth(keys.index(f.key), (f.left, f.top, f.right, f.bottom)) for f in phantom.findings)
    return Case(maps, affine, truth)


def iou(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    tall = min(first[3], second[3]) - max(first[1], second[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return wide * tall / (sum(areas) - wide * tall)


def hits(boxes: Sequence[Box], one: Case) -> list[tuple[float, bool]]:
    """(score, hit) of each box of one class and case, best first. Each finding is hit at most once."""
    left = list(one.truth)
    found = []
    for box in sorted(boxes, key=lambda b: -b.score):
        placed = box_to_image(one.affine, box)
        place = (placed.left, placed.top, placed.right, placed.bottom)
        near = [(iou(place, truth.box), truth) for truth in left if truth.channel == box.channel]
        best = max(near, key=lambda pair: pair[0], default=None)
        hit = best is not None and best[0] >= ENOUGH_IOU
        if best is not None and hit:
            left.remove(best[1])
        found.append((box.score, hit))
    return found


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half."""
    truth = np.asarray(positive)
    count = int(truth.sum())
    if count in {0, truth.size}:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - count * (count + 1) / 2) / (count * (truth.size - count)))


def tally(cases: Iterable[Case], outputs: Sequence[Output]) -> dict[str, Any]:
    """For each class and overall: AUC of the image scores, findings, found findings, false boxes per image."""
    count = {output.key: {"findings": 0, "found": 0, "false": 0} for output in outputs}
    scores: dict[str, list[float]] = {output.key: [] for output in outputs}
    truth: dict[str, list[bool]] = {output.key: [] for output in outputs}
    images = clean = clean_false = 0
    for one in cases:
        images += 1
        boxes, image_scores = regions(one.maps, outputs)
        clean += not one.truth
        clean_false += not one.truth and bool(boxes)
        for output, score in zip(outputs, image_scores, strict=True):
            own = [t for t in one.truth if t.channel == output.channel]
            found = hits([box for box in boxes if box.channel == output.channel], one)
            count[output.key]["findings"] += len(own)
            count[output.key]["found"] += sum(hit for _, hit in found)
            count[output.key]["false"] += sum(not hit for _, hit in found)
            scores[output.key].append(score)
            truth[output.key].append(bool(own))
    classes = {
        key: {
            "auc": round(auc(scores[key], truth[key]), 4),
            "findings": n["findings"],
            "found": n["found"],
            "sensitivity": round(n["found"] / max(n["findings"], 1), 4),
            "false_boxes_per_image": round(n["false"] / max(images, 1), 4),
        }
        for key, n in count.items()
    }
    findings, all_found = (sum(n[what] for n in count.values()) for what in ("findings", "found"))
    return {
        "images": images,
        "classes": classes,
        "findings": findings,
        "sensitivity": round(all_found / max(findings, 1), 4),
        "false_boxes_per_image": round(sum(n["false"] for n in count.values()) / max(images, 1), 4),
        "images_without_finding": clean,
        "of_these_with_a_box": clean_false,
    }


_LOADED: dict[str, Reader] = {}


def drawn_case(seed: int, bundle: str, rows: int, columns: int, keys: tuple[str, ...]) -> Case:
    """Draw a phantom and read it. A process loads each bundle once."""
    if bundle not in _LOADED:
        torch.set_num_threads(1)
        _LOADED[bundle] = Reader(Path(bundle))
    return case(_LOADED[bundle], draw_phantom(seed, rows, columns), keys)


def evaluate(bundle: Path, count: int, seed: int, rows: int, columns: int, *, processes: int = 1) -> dict[str, Any]:
    """Draw ``count`` phantoms with the seeds from ``seed`` on, and measure the bundle on them; see `tally`."""
    spec: ReadingSpec = load_reading_spec(bundle / "configs" / "reading.json")
    keys = tuple(output.key for output in sorted(spec.outputs, key=lambda o: o.channel))
    of_size = {"seed": seed, "rows": rows, "columns": columns}
    if processes == 1:
        reader = Reader(bundle)
        cases = (case(reader, draw_phantom(seed + i, rows, columns), keys) for i in range(count))
        return {**of_size, **tally(cases, spec.outputs)}
    one = partial(drawn_case, bundle=str(bundle), rows=rows, columns=columns, keys=keys)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes already use all cores
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return {**of_size, **tally(pool.map(one, range(seed, seed + count), chunksize=4), spec.outputs)}
