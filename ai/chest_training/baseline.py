"""What a linear model makes of the same images: the yardstick that the network has to beat.

Logistic regression on the image at 32 x 32 pixels and on histograms of oriented gradients (Dalal and Triggs 2005;
8 x 8 cells, 8 directions), with the same folds, labels and weights as the network.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ai.chest_training.data import FOLDS, KEYS, Cases, balanced_weights

_CELLS = 8
_DIRECTIONS = 8
_RIDGE = 0.03


def features(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Features (n, 1536) of images (n, h, w) uint8."""
    parts = []
    for start in range(0, len(pixels), 128):
        images = torch.from_numpy(pixels[start : start + 128])[:, None].float() / 255.0
        small = functional.interpolate(images, size=(32, 32), mode="area")
        middle = functional.interpolate(images, size=(128, 128), mode="area")
        across = functional.pad(middle, (1, 1, 0, 0), mode="replicate")
        along = functional.pad(middle, (0, 0, 1, 1), mode="replicate")
        gx, gy = across[..., 2:] - across[..., :-2], along[..., 2:, :] - along[..., :-2, :]
        strength = torch.sqrt(gx**2 + gy**2)
        way = ((torch.atan2(gy, gx) / torch.pi % 1.0) * _DIRECTIONS).long().clamp(max=_DIRECTIONS - 1)
        planes = torch.zeros(len(images), _DIRECTIONS, 128, 128).scatter_(1, way, strength)
        cells = functional.adaptive_avg_pool2d(planes, _CELLS)
        cells = cells / (cells.sum(dim=1, keepdim=True) + 1e-3)
        parts.append(torch.cat([small.flatten(1), cells.flatten(1)], dim=1))
    return torch.cat(parts)


def crossvalidate_linear(cases: Cases, wanted: Iterable[int] = range(FOLDS)) -> NDArray[np.float32]:
    """Logits (n, KEYS), each of the model that was fitted without the image's fold; 0 in folds that are not wanted."""
    table, folds = features(cases.pixels), cases.folds
    normal = cases.labels[:, KEYS.index("abnormality")] == 0.0
    out = np.zeros((len(table), len(KEYS)), dtype=np.float32)
    for number in wanted:
        inside, outside = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        middle, spread = table[inside].mean(dim=0), table[inside].std(dim=0) + 1e-3
        x = (table - middle) / spread
        weights = balanced_weights(cases.labels[inside], [cases.sources[i] for i in inside], normal[inside])
        out[outside] = _fit(x[inside], cases.labels[inside], weights, x[outside])
    return out


def _fit(
    x: torch.Tensor, labels: NDArray[np.float32], weights: NDArray[np.float32], wanted: torch.Tensor
) -> NDArray[np.float32]:
    y, w = torch.from_numpy(np.nan_to_num(labels)), torch.from_numpy(weights)
    w = w / w.sum(dim=0).clamp(min=1e-6)
    beta = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    offset = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([beta, offset], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        entropy = functional.binary_cross_entropy_with_logits(x @ beta + offset, y, reduction="none")
        loss: torch.Tensor = (entropy * w).sum() + _RIDGE * (beta**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return np.asarray((wanted @ beta + offset).numpy(), dtype=np.float32)
