"""Chooses the operating points of ``phantom_cxr`` and writes its weights, reading.json, metadata.json and card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ai.bundle.files import made_with, write_json
from ai.bundle.manifest import CodeSpec, InputSpec, Output, ReadingSpec
from ai.inference.regions import regions
from ai.phantom.draw import FINDING_KEYS
from ai.training.chest_codes import finding_code
from ai.training.phantom.evaluation import Case, hits

VERSION = "0.2.0"
NOTICE = "Demonstration model, trained on no patient"
INTENDED_USE = (
    "Demonstration and testing of the node with procedural phantoms of chest radiographs. It was trained on no patient "
    "and must not be used for diagnosis, triage or any other decision about a patient."
)
_CARD = """\
# phantom_cxr

**{notice}. It must not be used for diagnosis, triage or any other decision about a patient.**

## What it is

A small network that marks four kinds of findings in procedurally drawn chest radiographs ("phantoms"): nodule,
upper-lobe cavitary tuberculosis, pneumothorax and pneumonia. It exists so that the node can be shown, installed and
tested from end to end - receive, read, report, deliver - without any patient's image and without a licence. That it
finds what was drawn says nothing of how it reads a person.

## Input

Frontal chest radiographs (CR or DX, PA or AP), windowed to 0..1 with larger denser. The longer side becomes {side}
pixels, the 1st and 99th percentile become 0 and 1, and the rest of the square is empty.

## Data

Every image is drawn by `ai/phantom/draw.py`; no image and no label of any patient took part in training, in choosing
the thresholds or in the test. Training, validation and test use different seeds.

## Network and training

MONAI `BasicUNet`, four resolutions down, one probability map a class, weights of {size} MB. Trained from nothing with
binary cross entropy and Dice loss, AdamW, one cycle; the running mean of the weights is kept. Images are turned,
scaled, shifted, mirrored, and changed in exposure, contrast, sharpness and noise. Training images show more findings
than the phantoms of validation and test, of which three in ten are drawn without any.

    {command}

drew {images} phantoms, went {epochs} times through them, chose the thresholds on {validated_on} others and took
{seconds} s ({processor_seconds} s of processor time) on two CPU cores that other work shared.

## Operating points

Thresholds stand in `configs/reading.json`. They were chosen on the validation phantoms: for each class those that leave
the most true boxes less the false ones. A class is present if, and only if, a box of it is shown.

Validation ({validated_on} phantoms, the thresholds were chosen on these):

{validation}

## Measured

{measured}
## Limits

- It has seen drawings alone. On radiographs of people its boxes and its silence mean nothing.
- It knows no lateral views, no children, no devices but electrodes and one kind of catheter, and no other disease.
- A finding that lies behind the heart or the diaphragm, or is covered by another, may be missed.
- Scores are not calibrated probabilities of disease.
"""
_CARD_TEST = """\
{images} phantoms of {columns} x {rows} pixels that no training or validation has seen (seeds from {seed} on), read as
the node reads them. A finding is found if a box of its class covers it with an intersection over union of 0.3 or more;
every other box is false. {of_these_with_a_box} of the {images_without_finding} images without a finding got a box.

{table}

"""
NAMES = {
    "nodule": "Nodule",
    "tuberculosis": "Suspected tuberculosis",
    "pneumothorax": "Pneumothorax",
    "pneumonia": "Suspected pneumonia",
}
_MAP_THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
_AREAS = (3, 6, 10, 16, 30, 60)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a training: arguments, wall and processor seconds, and `evaluation.tally` of the validation."""

    seed: int
    images: int
    epochs: int
    validated_on: int
    seconds: float
    processor_seconds: float
    validation: dict[str, Any]


def operating_points(cases: Sequence[Case]) -> tuple[Output, ...]:
    """For each class, the thresholds with the most true boxes less false boxes on validation images."""
    return tuple(_operating_point(cases, channel, key) for channel, key in enumerate(FINDING_KEYS))


def _output(channel: int, key: str, threshold: float, map_threshold: float, min_area: int) -> Output:
    code, site = finding_code(key)
    return Output(
        key=key,
        name=NAMES[key],
        channel=channel,
        code=CodeSpec.of(code),
        site=None if site is None else CodeSpec.of(site),
        threshold=threshold,
        map_threshold=map_threshold,
        min_area=min_area,
    )


def _operating_point(cases: Sequence[Case], channel: int, key: str) -> Output:
    best: tuple[float, float, Output] | None = None
    for map_threshold in _MAP_THRESHOLDS:
        for min_area in _AREAS:
            trial = _output(channel, key, 0.001, map_threshold, min_area)
            found = [hit for one in cases for hit in hits(regions(one.maps, [trial])[0], one)]
            gain, threshold, plateau = _best_threshold(found, map_threshold)
            if best is None or (gain, plateau) > best[:2]:
                chosen = _output(channel, key, round(threshold, 3), map_threshold, min_area)
                best = gain, plateau, chosen
    if best is None:
        raise AssertionError("there are thresholds to try")
    return best[2]


def _best_threshold(found: Sequence[tuple[float, bool]], lowest: float) -> tuple[float, float, float]:
    """The score with the most true boxes less false boxes: (that gain, middle, width of the range of such scores)."""
    ordered = sorted(found, key=lambda pair: -pair[0])
    scores = [score for score, _ in ordered]
    gains = np.cumsum([0.0] + [1.0 if hit else -1.0 for _, hit in ordered])
    best = int(np.argmax(gains))
    upper = scores[best - 1] if best > 0 else 0.99
    lower = scores[best] if best < len(scores) else lowest
    middle = float(np.clip((upper + lower) / 2.0, 0.02, 0.98))
    return float(gains[best]), middle, upper - lower


def write_bundle(bundle: Path, weights: dict[str, torch.Tensor], outputs: tuple[Output, ...], figures: Figures) -> None:
    """Write all results of a training into a bundle that already holds ``inference.json``."""
    for folder in ("configs", "models", "docs"):
        (bundle / folder).mkdir(parents=True, exist_ok=True)
    torch.save(weights, bundle / "models" / "model.pt")
    spec = ReadingSpec(
        format=1,
        name="phantom_cxr",
        task="regions",
        manufacturer="dicom-node",
        intended_use=INTENDED_USE,
        notice=NOTICE,
        input=InputSpec(
            modality=("CR", "DX"),
            body_part=("CHEST", "THORAX", ""),
            view=("PA", "AP", ""),
            adult_frontal_chest=True,
        ),
        outputs=outputs,
    )
    write_json(bundle / "configs" / "reading.json", spec.model_dump(mode="json"))
    write_json(bundle / "configs" / "metadata.json", _metadata(bundle, figures))
    _write_card(bundle)


def write_evaluation(bundle: Path, measured: dict[str, Any]) -> None:
    """Write the result of a test (`evaluation.evaluate`) into metadata.json and the card."""
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["eval_metrics"] = measured
    write_json(path, metadata)
    _write_card(bundle)


def _write_card(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    size = (bundle / "models" / "model.pt").stat().st_size / 1e6
    training, test = metadata["training"], metadata["eval_metrics"]
    measured = _CARD_TEST.format(table=_table(test), **test) if test else "Not measured yet on a test set.\n"
    card = _CARD.format(
        notice=NOTICE,
        size=f"{size:.1f}",
        side=metadata["network_data_format"]["inputs"]["image"]["spatial_shape"][0],
        measured=measured,
        validation=_table(metadata["validation"]),
        **training,
    )
    (bundle / "docs" / "README.md").write_text(card, encoding="utf-8")


def _table(measured: dict[str, Any]) -> str:
    lines = ["| class | AUC | findings | found | sensitivity | false boxes an image |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {key} | {one['auc']:.3f} | {one['findings']} | {one['found']} | {one['sensitivity']:.3f} "
        f"| {one['false_boxes_per_image']:.3f} |"
        for key, one in measured["classes"].items()
    ]
    lines.append(
        f"| all | | {measured['findings']} | | {measured['sensitivity']:.3f} "
        f"| {measured['false_boxes_per_image']:.3f} |"
    )
    return "\n".join(lines)


def _metadata(bundle: Path, figures: Figures) -> dict[str, Any]:
    config = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    side = config["preprocessing"]["transforms"][-1]["spatial_size"]
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": VERSION,
        "changelog": {
            VERSION: "Codes say what was seen: nodule, suspected tuberculosis, suspected pneumonia",
            "0.1.0": "First version",
        },
        **made_with(),
        "name": "Chest radiograph phantoms (demonstration)",
        "task": "Finds four kinds of findings in procedural phantoms of chest radiographs",
        "description": f"{NOTICE}. A small U-Net that marks nodules, upper-lobe cavitary tuberculosis, pneumothorax "
        "and pneumonia in procedurally drawn chest radiographs.",
        "authors": "dicom-node",
        "copyright": "Copyright (c) dicom-node contributors. Apache-2.0.",
        "intended_use": INTENDED_USE,
        "data_source": "Drawn by ai/phantom/draw.py; no patient's image",
        "data_type": "dicom",
        "image_classes": "single channel, 0..1, larger is denser",
        "label_classes": ", ".join(FINDING_KEYS),
        "pred_classes": "one probability map per class",
        "training": {
            "command": f"python -m ai.training.phantom.fit train --seed {figures.seed}",
            "images": figures.images,
            "epochs": figures.epochs,
            "validated_on": figures.validated_on,
            "seconds": round(figures.seconds),
            "processor_seconds": round(figures.processor_seconds),
        },
        "validation": figures.validation,
        "eval_metrics": {},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "DX",
                    "num_channels": 1,
                    "spatial_shape": side,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": len(FINDING_KEYS),
                    "spatial_shape": side,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(channel): key for channel, key in enumerate(FINDING_KEYS)},
                }
            },
        },
    }
