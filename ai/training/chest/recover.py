"""Recovers from a bundle what its training had measured: each fold's network, its calibration, and scores out of fold.

``models/model.pt`` holds the network of every fold, the calibration, and the mean of the folds' linear models. The
linear model of each fold is not in it, so these are fitted again on the same images: that takes seconds, has no random
part, and their mean is compared with the bundle's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai.chest_network import ChestNetwork, ChestReader
from ai.training.chest.baseline import crossvalidate_linear
from ai.training.chest.data import KEYS, Cases
from ai.training.chest.fit import Recipe, Say, Stage, predict
from ai.training.chest.measure import Calibration
from ai.training.chest.run import Trained, figures, load_cases
from ai.training.chest.write import Written, mean_of, write_texts

_CLOSE = 0.02  # half precision keeps three digits; other images or other folds change far more


def recipe_of(metadata: dict[str, Any]) -> Recipe:
    """The recipe that ``metadata.json`` tells of."""
    told = dict(metadata["training"]["recipe"])
    stages = tuple(Stage(**stage) for stage in told.pop("stages"))
    return Recipe(**told | {"planes": tuple(told["planes"]), "stages": stages})


def recover(bundle: Path, cases: Cases) -> tuple[Recipe, Trained, list[Calibration]]:
    """Recipe, networks with their scores out of fold, and calibration of a bundle that `run.train` wrote.

    ``cases`` are the images that it was trained on, at the side of the recipe's last stage.

    Raises:
        ValueError: the linear model in the bundle is not the mean of those of these images: the bundle was trained on
            others, and its networks have perhaps seen those that they would be measured on.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    recipe, folds = recipe_of(metadata), metadata["training"]["folds"]
    whole = ChestNetwork(recipe.planes, len(KEYS), len(folds)).eval()
    whole.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True))
    baselines, linear = crossvalidate_linear(cases, folds)
    shares = _shares(whole, [baselines[number] for number in folds], bundle)
    networks, side = {}, recipe.stages[-1].side
    logits = np.full((len(cases.files), len(KEYS)), np.nan, dtype=np.float32)
    for member, number in enumerate(folds):
        networks[number] = _network(whole, member, recipe)
        rows = np.flatnonzero(cases.folds == number)
        logits[rows] = predict(networks[number], cases.pixels[rows], side)
    trained = Trained(networks, logits, baselines, linear, float(metadata["training"]["seconds"]))
    return recipe, trained, _calibration(whole, shares)


def _network(whole: ChestNetwork, member: int, recipe: Recipe) -> ChestReader:
    network: ChestReader = ChestReader(recipe.planes, len(KEYS)).eval()
    network.trunk.load_state_dict(whole.features.members[member].state_dict())
    own = slice(member * len(KEYS), (member + 1) * len(KEYS))
    with torch.no_grad():
        network.head.weight.copy_(whole.heads.weight[own])
        network.head.bias.copy_(whole.heads.bias[own])
    return network


def _shares(whole: ChestNetwork, baselines: list[Any], bundle: Path) -> NDArray[np.float64]:
    """The factor of each class's linear model in the bundle."""
    ours, mean = (
        torch.cat([weight.detach(), bias.detach()[:, None]], dim=1).double()
        for weight, bias in (tuple(whole.linear.parameters()), mean_of(baselines))
    )
    shares = (ours * mean).sum(dim=1) / (mean * mean).sum(dim=1)
    apart = (ours - mean * shares[:, None]).norm(dim=1) / ours.norm(dim=1).clamp(min=1e-9)
    if float(apart.max()) > _CLOSE:
        raise ValueError(
            f"{bundle}: its linear model lies {float(apart.max()):.1%} from that of these images, at most "
            f"{_CLOSE:.0%} was expected: it was trained on other images, so these cannot tell how good it is"
        )
    return np.asarray(shares.numpy())


def _calibration(whole: ChestNetwork, shares: NDArray[np.float64]) -> list[Calibration]:
    weight, offset = whole.calibration.weight.detach().double(), whole.calibration.bias.detach().double()
    abnormal = KEYS.index("abnormality")
    return [
        Calibration(
            slope=float(weight[k, k]),
            offset=float(offset[k]),
            share=0.0 if k == abnormal else float(weight[k, abnormal]),
            linear=float(shares[k]),
        )
        for k in range(len(KEYS))
    ]


def remeasure(data: Path, bundle: Path, say: Say) -> None:
    """Measure a bundle again on the images that it was trained on, out of fold, and write all but its weights anew.

    Raises:
        ValueError: the images are not those; see `recover`.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    cases = load_cases(data, recipe_of(metadata))
    say(f"read {len(cases.files)} images of {len(set(cases.patients))} patients")
    recipe, trained, calibrations = recover(bundle, cases)
    say("scored each image by the network that has not seen its patient")
    _, measured = figures(cases, trained, recipe, say, calibrations)
    name = json.loads((bundle / "configs" / "reading.json").read_text(encoding="utf-8"))["name"]
    told = {key: value for key, value in metadata["training"].items() if key != "recipe"}
    whole = ChestNetwork(recipe.planes, len(KEYS), len(trained.networks))
    write_texts(bundle, Written(name, whole, recipe, told, measured))
    say(f"wrote {bundle}")
