"""Trains a linear model on the same images. It is the baseline for the network, and part of the shipped model.

It is a logistic regression on `LinearReader.features`, with the same folds, hard labels, and the weights of the
calibration.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ai.chest_network import LinearReader
from ai.training.chest.data import FOLDS, KEYS, Cases, balanced_weights

_RIDGE = 0.03


def crossvalidate_linear(
    cases: Cases, wanted: Iterable[int] = range(FOLDS)
) -> tuple[dict[int, LinearReader], NDArray[np.float32]]:
    """A model for each wanted fold, fitted on the other folds, and its logits (n, KEYS) on the fold, elsewhere NaN."""
    parts = (cases.pixels[start : start + 128] for start in range(0, len(cases.pixels), 128))
    table = torch.cat([LinearReader.features(torch.from_numpy(part)[:, None].float() / 255.0) for part in parts])
    out = np.full((len(table), len(KEYS)), np.nan, dtype=np.float32)
    models = {}
    for number in wanted:
        inside, outside = np.flatnonzero(cases.folds != number), np.flatnonzero(cases.folds == number)
        models[number] = _fit(cases.part(inside), table[inside])
        with torch.inference_mode():
            out[outside] = models[number].classifier(table[outside]).numpy()
    return models, out


def _fit(cases: Cases, table: torch.Tensor) -> LinearReader:
    middle, spread = table.mean(dim=0), table.std(dim=0) + 1e-3
    x, y = (table - middle) / spread, torch.from_numpy(np.nan_to_num(cases.labels))
    normal = cases.labels[:, KEYS.index("abnormality")] == 0.0
    w = torch.from_numpy(balanced_weights(cases.labels, cases.sources, normal))
    w = w / w.sum(dim=0).clamp(min=1e-6)
    beta = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    offset = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([beta, offset], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = functional.binary_cross_entropy_with_logits(functional.linear(x, beta, offset), y, reduction="none")
        loss: torch.Tensor = (entropy * w).sum() + _RIDGE * (beta**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    model: LinearReader = LinearReader(y.shape[1]).eval()
    with torch.no_grad():  # one layer on the features without normalisation
        model.classifier.weight.copy_(beta / spread)
        model.classifier.bias.copy_(offset - (beta / spread) @ middle)
    return model
