"""Writes the bundle ``chest_xray``: weights, inference.json, reading.json, metadata.json and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ai.bundle.files import made_with, write_json
from ai.chest_network import ChestNetwork, ChestReader, LinearReader
from ai.evaluation.metrics import wilson
from ai.training.chest.cards.card import card
from ai.training.chest.data import KEYS, ON_REQUEST, REPORTED
from ai.training.chest.fit import Recipe
from ai.training.chest.measure import REGION, Calibration
from ai.training.chest.points import DEFAULT, class_figures
from ai.training.chest_codes import DIFFERENTIALS, finding_code

VERSION = "0.3.0"
_FEWEST_BOXES = 5  # the least boxes of a class to measure its heat maps on
CALIBRATED = 0.05  # the greatest calibration error within a source of a class whose score is a probability
UNRELIABLE = 0.60  # a class is undetermined if the interval of its AUC reaches down to this
NOTICE = "Research model, not for diagnostic use"
INTENDED_USE = (
    "Research and technical evaluation on frontal chest radiographs (PA or AP) of adults. Trained on public research "
    "images whose labels come mostly from reports by text mining. It must not be used for diagnosis, triage or any "
    "other decision about a patient, for children and adolescents, or for lateral views."
)
_NAMES = {
    "nodule_or_mass": "Nodule or mass",
    "tuberculosis": "Suspected tuberculosis",
    "pneumothorax": "Pneumothorax",
    "airspace_opacity": "Airspace opacity",
    "effusion": "Pleural effusion",
    "cardiomegaly": "Cardiomegaly",
    "abnormality": "Any abnormality",
}


@dataclass(frozen=True, slots=True)
class Written:
    """The content of a bundle: name, calibrated network, recipe, description of the training, figures."""

    name: str
    network: ChestNetwork | LinearReader
    recipe: Recipe
    training: dict[str, Any]
    measured: dict[str, Any]


def inference(side: int, network: dict[str, Any]) -> dict[str, Any]:
    """``inference.json``: the whole image on a square grid, scaled from its darkest to its brightest percentile."""
    return {
        "imports": ["$import torch"],
        "device": "cpu",
        "network_def": network,
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


def assemble(
    networks: Sequence[ChestReader],
    baselines: Sequence[LinearReader],
    calibrations: Sequence[Calibration],
    planes: Sequence[int],
) -> ChestNetwork:
    """Combine networks into one that averages their logits. The sigmoid of its output is the calibrated probability."""
    whole: ChestNetwork = ChestNetwork(planes, len(KEYS), len(networks)).eval()
    mixed = torch.diag(torch.tensor([one.slope for one in calibrations], dtype=torch.float64))
    mixed[:, KEYS.index("abnormality")] += torch.tensor([one.share for one in calibrations], dtype=torch.float64)
    heads = [network.head for network in networks]
    weights = torch.stack([head.weight.detach().double()[: len(KEYS), :, 0, 0] for head in heads])
    biases = torch.stack([head.bias.detach().double()[: len(KEYS)] for head in heads])
    for member, network in zip(whole.features.members, networks, strict=True):
        member.load_state_dict(network.trunk.state_dict(), strict=True)
    with torch.no_grad():
        whole.heads.weight.copy_(weights.flatten(0, 1)[:, :, None, None])
        whole.heads.bias.copy_(biases.flatten())
        whole.calibration.weight.copy_(mixed)
        whole.calibration.bias.copy_(torch.tensor([one.offset for one in calibrations]))
        together = torch.einsum("ok,mkc->omc", mixed, weights) / len(networks)
        whole.places.weight.copy_(together.flatten(1)[:, :, None, None])
        whole.places.bias.copy_(mixed @ biases.mean(dim=0))
        share = torch.tensor([one.linear for one in calibrations])
        for ours, theirs in zip(whole.linear.parameters(), mean_of(baselines), strict=True):
            ours.copy_(theirs * share.view(-1, *(1,) * (theirs.ndim - 1)))
    return whole


def calibrated(baseline: LinearReader, calibrations: Sequence[Calibration]) -> LinearReader:
    """Calibrate the linear model alone. The sigmoid of its output is the calibrated probability."""
    whole: LinearReader = LinearReader(len(KEYS)).eval()
    slope, offset = (torch.tensor([getattr(one, what) for one in calibrations]) for what in ("slope", "offset"))
    with torch.no_grad():
        whole.classifier.weight.copy_(baseline.classifier.weight * slope[:, None])
        whole.classifier.bias.copy_(baseline.classifier.bias * slope + offset)
    return whole


def mean_of(baselines: Sequence[LinearReader]) -> list[torch.Tensor]:
    """Weights and offsets of the mean of linear models."""
    parts = zip(*(baseline.parameters() for baseline in baselines), strict=True)
    return [torch.stack([part.detach() for part in same]).mean(dim=0) for same in parts]


def undetermined(key: str, figures: dict[str, Any]) -> str:
    """The reason why a class is never called present or absent. Empty if it is called."""
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
    """Whether the heat maps of a class hit it more often than a random point would (95 %, Wilson).

    Other heat maps, and those that were not measured, are not shown, because a wrong place misleads the reader.
    """
    if not boxes or boxes["findings"] < _FEWEST_BOXES:
        return False
    low, _ = wilson(boxes["hits"], boxes["findings"])
    return bool(low > boxes["chance"] / boxes["findings"])


def is_calibrated(figures: dict[str, Any] | None) -> bool:
    """Whether a class's score is a probability at another hospital, as far as these sources can tell.

    It has to be one within each of them, against images without finding and against those with other findings.
    """
    errors = (figures or {}).get("calibration_error_of_a_source", {}).values()
    return len(errors) == 2 and all(error is not None and error <= CALIBRATED for error in errors)


def reading(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """``reading.json`` out of the figures of a training (`run.figures`); see `ai.bundle.manifest`."""
    classes, boxes, points = measured["classes"], measured.get("boxes", {}), measured.get("operating_points", {})
    usual = points.get(DEFAULT, {}).get("thresholds", {})
    outputs = []
    for key, parts in REPORTED.items():
        channel, *joined = (KEYS.index(part) for part in parts)
        code, site = finding_code(key)
        output: dict[str, Any] = {
            "key": key,
            "name": _NAMES[key],
            "channel": channel,
            "code": asdict(code),
            "threshold": usual.get(key, 0.5),
            "map_threshold": REGION,
        }
        if site is not None:
            output["site"] = asdict(site)
        if reason := undetermined(key, classes):
            output["undetermined"] = reason
        if not is_placed(boxes.get(key)):
            output["located"] = False
        if key in ON_REQUEST:
            output["default"] = False
        if joined:
            output["joined"] = joined
        if key in DIFFERENTIALS:
            output["differential"] = [asdict(each) for each in DIFFERENTIALS[key]]
        if is_calibrated(classes.get(key)):
            output["calibrated"] = True
        outputs.append(output)
    return {
        "format": 1,
        "name": name,
        "task": "classification",
        "manufacturer": "dicom-node",
        "intended_use": INTENDED_USE,
        "notice": NOTICE,
        "input": {
            "modality": ["CR", "DX"],
            "body_part": ["CHEST", "THORAX", ""],
            "view": ["PA", "AP", ""],
            "max_images": 8,
            "adult_frontal_chest": True,
        },
        **({"cam": {"layer": "features", "classifier": "places"}} if any(map(is_placed, boxes.values())) else {}),
        "outputs": outputs,
        **(
            {
                "operating_points": {each: _operating_point(point) for each, point in points.items()},
                "operating_point": DEFAULT,
            }
            if points
            else {}
        ),
    }


def _operating_point(point: dict[str, Any]) -> dict[str, Any]:
    called = {
        f"called_of_100_{kind}": round(100.0 * one["share"], 1)
        for kind in ("normal", "other")
        if (one := point["default"].get(kind))
    }
    told = {key: one for key, figures in point["figures"].items() if (one := class_figures(figures))}
    return {
        "thresholds": point["thresholds"],
        **called,
        "figures": {key: one.model_dump(mode="json", exclude_none=True) for key, one in told.items()},
    }


def metadata(
    side: int, what: str, recipe: Recipe, training: dict[str, Any], measured: dict[str, Any]
) -> dict[str, Any]:
    """``metadata.json`` as MONAI defines it, with all figures in ``eval_metrics``. ``what`` is the kind of model."""
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": VERSION,
        "changelog": {
            VERSION: "The same network. Operating points per study; tuberculosis and any abnormality on request; "
            "pneumonia, consolidation and infiltration are one finding; codes say what was seen",
            "0.2.0": "Trained longer; finer maps, shown where they were measured to be right; a linear model joins",
            "0.1.0": "First version",
        },
        **made_with(),
        "name": "Frontal chest radiographs of adults (research)",
        "task": f"Classifies {len(REPORTED)} findings in frontal chest radiographs",
        "description": f"{NOTICE}. {what}, trained from nothing on {training['images']} chest radiographs.",
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


def write_bundle(bundle: Path, written: Written) -> None:
    """Write all files of the bundle. Weights are stored in half precision, which changes a score by less than 0.001."""
    (bundle / "models").mkdir(parents=True, exist_ok=True)
    halves = {
        key: value.half().contiguous() if value.dtype.is_floating_point else value
        for key, value in written.network.state_dict().items()
    }
    torch.save(halves, bundle / "models" / "model.pt")
    write_texts(bundle, written)


def write_texts(bundle: Path, written: Written) -> None:
    """Write all files of the bundle but its weights: inference.json, reading.json, metadata.json and the card."""
    for folder in ("configs", "docs"):
        (bundle / folder).mkdir(parents=True, exist_ok=True)
    recipe, network, measured = written.recipe, written.network, written.measured
    side = recipe.stages[-1].side
    defined: dict[str, Any] = {"_target_": f"{type(network).__module__}.{type(network).__name__}", "classes": len(KEYS)}
    if isinstance(network, ChestNetwork):
        defined |= {"planes": list(recipe.planes), "members": len(network.features.members)}
    manifest = reading(written.name, measured)
    what = "A linear model"
    if isinstance(network, ChestNetwork):
        what = "Small residual networks and a linear model"
    described = metadata(side, what, recipe, written.training, measured)
    for name, value in (("inference", inference(side, defined)), ("reading", manifest), ("metadata", described)):
        write_json(bundle / "configs" / f"{name}.json", value)
    if "images" in measured:  # figures of all folds, which the card needs
        size = (bundle / "models" / "model.pt").stat().st_size / 1e6
        (bundle / "docs" / "README.md").write_text(card(manifest, described, size), encoding="utf-8")
