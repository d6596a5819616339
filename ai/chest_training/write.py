"""Writes the bundle ``chest_xray``: weights, inference.json, reading.json, metadata.json and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import ResNet

from ai._bundle_files import made_with, write_json
from ai.chest_network import ChestNetwork
from ai.chest_training.card import card
from ai.chest_training.data import KEYS
from ai.chest_training.fit import Recipe
from ai.chest_training.measure import OperatingPoint
from ai.evaluation.metrics import wilson

VERSION = "0.1.0"
UNRELIABLE = 0.60  # an interval of the AUC that reaches down to this leaves a class undetermined
NOTICE = "Research model, not for diagnostic use"
INTENDED_USE = (
    "Research and technical evaluation on frontal chest radiographs (PA or AP) of adults. Trained on public research "
    "images whose labels come mostly from reports by text mining. It must not be used for diagnosis, triage or any "
    "other decision about a patient, for children and adolescents, or for lateral views."
)
_LUNG = ("39607008", "Lung")
_CODES = {  # name, code (SNOMED CT), meaning, site
    "nodule_or_mass": ("Nodule or mass", "309529002", "Lung mass", _LUNG),
    "tuberculosis": ("Tuberculosis", "154283005", "Pulmonary tuberculosis", _LUNG),
    "pneumothorax": ("Pneumothorax", "36118008", "Pneumothorax", _LUNG),
    "pneumonia": ("Pneumonia", "233604007", "Pneumonia", _LUNG),
    "effusion": ("Pleural effusion", "60046008", "Pleural effusion", ("3120008", "Pleura")),
    "cardiomegaly": ("Cardiomegaly", "8186001", "Cardiomegaly", ("80891009", "Heart")),
    "abnormality": ("Any abnormality", "168734001", "Standard chest X-ray abnormal", None),
    "consolidation": ("Consolidation", "95436008", "Lung consolidation", _LUNG),
}
_REGION = 0.85  # of a map's range: a coarse map is shown by its peak, not by all that it touches


def inference(side: int, planes: Sequence[int], members: int) -> dict[str, Any]:
    """``inference.json``: the whole image on a square grid, in greys from its darkest to its brightest percentile."""
    return {
        "imports": ["$import torch"],
        "device": "cpu",
        "network_def": {
            "_target_": "ai.chest_network.ChestNetwork",
            "planes": list(planes),
            "classes": len(KEYS),
            "members": members,
            "mirror": True,
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Resized", "keys": "image", "spatial_size": [side, side], "mode": "area"},
                {
                    "_target_": "ScaleIntensityRangePercentilesd",
                    "keys": "image",
                    "lower": 0.5,
                    "upper": 99.5,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
        },
    }


def assemble(networks: Sequence[ResNet], points: Sequence[OperatingPoint], planes: Sequence[int]) -> ChestNetwork:
    """One network that says what all say on average, calibrated: its sigmoid is the calibrated probability."""
    whole: ChestNetwork = ChestNetwork(planes, len(KEYS), len(networks)).eval()
    offsets = torch.tensor([point.offset for point in points], dtype=torch.float64)
    mixed = torch.diag(torch.tensor([point.slope for point in points], dtype=torch.float64))
    mixed[:, KEYS.index("abnormality")] += torch.tensor([point.share for point in points], dtype=torch.float64)
    weights, biases = [], []
    for member, network in zip(whole.features.members, networks, strict=True):
        kept = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
        member.load_state_dict(kept, strict=True)
        weights.append(network.fc.weight.detach().double()[: len(KEYS)] / len(networks))
        biases.append(network.fc.bias.detach().double()[: len(KEYS)] / len(networks))
    with torch.no_grad():
        whole.classifier.weight.copy_(mixed @ torch.cat(weights, dim=1))
        whole.classifier.bias.copy_(mixed @ torch.stack(biases).sum(dim=0) + offsets)
    return whole


def undetermined(key: str, figures: dict[str, Any]) -> str:
    """Why a class is never called present or absent; empty where it is."""
    one = figures.get(key)
    if one is None:
        return "too few images of other patients to measure it"
    if one["low"] <= UNRELIABLE:
        return (
            f"not reliable on other patients: AUC {one['auc']:.2f}, 95 % interval {one['low']:.2f} to "
            f"{one['high']:.2f}, {one['positives']} positives"
        )
    return ""


def is_placed(boxes: dict[str, Any] | None) -> bool:
    """Whether heat maps point at findings more often than a point drawn at random would (95 %, Wilson).

    Those that do not are not shown: a place that means nothing misleads whoever looks there.
    """
    if not boxes or not boxes["findings"]:
        return False
    low, _ = wilson(boxes["hits"], boxes["findings"])
    return bool(low > boxes["chance"] / boxes["findings"])


def reading(
    points: Sequence[OperatingPoint], figures: dict[str, Any], boxes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """``reading.json``; see `ai.manifest`."""
    outputs = []
    for channel, (key, point) in enumerate(zip(KEYS, points, strict=True)):
        name, value, meaning, site = _CODES[key]
        output: dict[str, Any] = {
            "key": key,
            "name": name,
            "channel": channel,
            "code": {"value": value, "scheme": "SCT", "meaning": meaning},
            "threshold": round(point.threshold, 4),
            "map_threshold": _REGION,
        }
        if site is not None:
            output["site"] = {"value": site[0], "scheme": "SCT", "meaning": site[1]}
        if reason := undetermined(key, figures):
            output["undetermined"] = reason
        outputs.append(output)
    return {
        "format": 1,
        "name": "chest_xray",
        "task": "classification",
        "manufacturer": "dicom-node",
        "intended_use": INTENDED_USE,
        "notice": NOTICE,
        "input": {
            "modality": ["CR", "DX"],
            "body_part": ["CHEST", "THORAX", ""],
            "view": ["PA", "AP", ""],
            "max_images": 8,
        },
        **({"cam": {"layer": "features", "classifier": "classifier"}} if is_placed(boxes) else {}),
        "outputs": outputs,
    }


def metadata(side: int, recipe: Recipe, training: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """``metadata.json`` as MONAI defines it, with all figures in ``eval_metrics``."""
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": VERSION,
        "changelog": {VERSION: "First version"},
        **made_with(),
        "name": "Frontal chest radiographs of adults (research)",
        "task": "Classifies eight findings in frontal chest radiographs",
        "description": f"{NOTICE}. Small residual networks trained from nothing on 2,771 public chest radiographs.",
        "authors": "dicom-node",
        "copyright": "Copyright (c) dicom-node contributors. Apache-2.0. The images' terms stand in the model card.",
        "intended_use": INTENDED_USE,
        "data_source": "NIH ChestX-ray14 (NIH Clinical Center), NLM Shenzhen and Montgomery County chest X-ray sets",
        "data_type": "dicom",
        "image_classes": "single channel, 0..1, larger is denser",
        "label_classes": ", ".join(KEYS),
        "pred_classes": "one probability per class, calibrated to as many positives as negatives",
        "training": {**training, "recipe": asdict(recipe)},
        "eval_metrics": measured,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "DX",
                    "num_channels": 1,
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classification",
                    "num_channels": len(KEYS),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(channel): key for channel, key in enumerate(KEYS)},
                }
            },
        },
    }


def write_bundle(
    bundle: Path,
    *,
    networks: Sequence[ResNet],
    points: Sequence[OperatingPoint],
    recipe: Recipe,
    training: dict[str, Any],
    measured: dict[str, Any],
) -> None:
    """Write all files of the bundle; half precision halves the weights and moves scores by less than they mean."""
    for folder in ("configs", "models", "docs"):
        (bundle / folder).mkdir(parents=True, exist_ok=True)
    side = recipe.stages[-1].side
    whole = assemble(networks, points, recipe.planes)
    halves = {
        key: value.half().contiguous() if value.dtype.is_floating_point else value
        for key, value in whole.state_dict().items()
    }
    torch.save(halves, bundle / "models" / "model.pt")
    said = reading(points, measured["classes"], measured.get("boxes"))
    described = metadata(side, recipe, training, measured)
    for name, value in (
        ("inference", inference(side, recipe.planes, len(networks))),
        ("reading", said),
        ("metadata", described),
    ):
        write_json(bundle / "configs" / f"{name}.json", value)
    size = (bundle / "models" / "model.pt").stat().st_size / 1e6
    (bundle / "docs" / "README.md").write_text(card(said, described, size), encoding="utf-8")
