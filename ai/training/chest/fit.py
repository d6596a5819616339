"""Trains one network: several tasks at once, small images first, and a running mean of the weights.

Beside the shipped classes, the network learns the 14 labels of NIH, the logits of a teacher where they exist
(distillation, Hinton et al. 2015), and view, sex and age, which teach it anatomy. These further outputs are not
shipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ai.chest_network import ChestReader, pooled
from ai.training.chest.augment import augment
from ai.training.chest.data import KEYS, NIH, TEACHERS, Cases, balanced_weights, source_odds

Say = Callable[[str], None]
OUTPUTS = len(KEYS) + 2 * len(NIH) + 3


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the training: image side in pixels, epochs, highest learning rate, share of 64-pixel images used.

    ``tuberculosis`` is a factor on the weight of that class, whose images come from other hospitals.
    """

    side: int
    epochs: int
    rate: float
    small: float = 1.0
    tuberculosis: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """The shape of a network and the settings of its training."""

    planes: tuple[int, ...] = (32, 64, 128, 192)
    stages: tuple[Stage, ...] = (
        Stage(96, 60, 3e-3),
        Stage(160, 20, 1e-3, 0.4, 2.0),
        Stage(256, 10, 7e-4, 0.2, 2.0),
    )
    batch: int = 32
    decay: float = 0.05
    keep: float = 0.995
    mixup: float = 0.5
    smooth: float = 0.05
    nih: float = 0.3
    teacher: float = 0.5
    teach: float = 0.5
    extra: float = 0.2
    strength: float = 0.8


@dataclass(frozen=True, slots=True)
class _Goals:
    """Targets, weights, and the log odds that are added to the logits in training; each (n, OUTPUTS)."""

    targets: torch.Tensor
    weights: torch.Tensor
    odds: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Run:
    """The values that all stages share."""

    cases: Cases
    chosen: NDArray[np.int64]
    goals: _Goals
    recipe: Recipe
    generator: torch.Generator
    device: str
    say: Say


def fit(cases: Cases, chosen: NDArray[np.int64], recipe: Recipe, *, seed: int, device: str, say: Say) -> ChestReader:
    """Train on the images ``chosen`` alone, and return the running mean of the weights, in evaluation mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = ChestReader(recipe.planes, OUTPUTS).to(device, memory_format=torch.channels_last)
    run = _Run(cases, chosen, _goals(cases, chosen, recipe), recipe, generator, device, say)
    mean = deepcopy(network)
    for number, stage in enumerate(recipe.stages):
        _train(network, mean, run, stage, first=number == 0)
    shipped: ChestReader = mean.to("cpu").eval()
    return shipped


def _train(network: ChestReader, mean: ChestReader, run: _Run, stage: Stage, *, first: bool) -> None:
    network.train()
    recipe, chosen, generator, device = run.recipe, run.chosen, run.generator, run.device
    small = run.cases.stored[chosen] <= 64
    keep = np.where(small, stage.small, 1.0)
    steps = max(1, stage.epochs * int(keep.sum() // recipe.batch))
    optimizer = torch.optim.AdamW(network.parameters(), lr=stage.rate, weight_decay=recipe.decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, total_steps=steps, pct_start=0.2)
    started, total, step = time.monotonic(), 0.0, 0
    stressed = run.goals.weights.clone()
    stressed[:, KEYS.index("tuberculosis")] *= stage.tuberculosis
    goals = (run.goals.targets, stressed, run.goals.odds)
    pixels = _at_side(run.cases.pixels[chosen], stage.side)
    while step < steps:
        taken = np.flatnonzero(torch.rand(len(chosen), generator=generator).numpy() < keep)
        order = taken[torch.randperm(len(taken), generator=generator).numpy()]
        batches = [order[i : i + recipe.batch] for i in range(0, max(1, len(order) - recipe.batch + 1), recipe.batch)]
        for rows in batches[: steps - step]:
            images = augment(pixels[torch.from_numpy(rows)].float() / 255.0, generator, recipe.strength)
            targets, weights, odds = (part[rows] for part in goals)
            share, other = _mixing(len(rows), recipe.mixup, generator)
            images = images * share[:, None, None, None] + images[other] * (1.0 - share[:, None, None, None])
            with torch.autocast("cuda" if device.startswith("cuda") else "cpu", torch.bfloat16):
                put = (images * 2.0 - 1.0).to(device, memory_format=torch.channels_last)
                logits = network(put)
            logits = logits.float()
            share, targets, weights, odds = (part.to(device) for part in (share, targets, weights, odds))
            loss = (share * _loss(logits + odds, targets, weights)).mean()
            loss = loss + ((1.0 - share) * _loss(logits + odds[other], targets[other], weights[other])).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            follow(mean, network, min(recipe.keep, step / (step + 20)) if first else recipe.keep)
            total, step = total + float(loss.detach()), step + 1
            if step % 200 == 0 or step == steps:
                run.say(f"{stage.side} px, step {step} of {steps}, loss {total / (step % 200 or 200):.4f}")
                total = 0.0
    run.say(f"{stage.side} px took {time.monotonic() - started:.0f} s")


def _at_side(pixels: NDArray[np.uint8], side: int) -> torch.Tensor:
    """Resize images (n, h, w) uint8 to (n, 1, side, side) uint8."""
    parts = []
    for start in range(0, len(pixels), 128):
        images = torch.from_numpy(pixels[start : start + 128])[:, None].float()
        if images.shape[-1] != side:
            images = functional.interpolate(images, size=(side, side), mode="area")
        parts.append(images.round().to(torch.uint8))
    return torch.cat(parts)


def _mixing(count: int, odds: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al. 2018): the share of each image that stays, and the index of the image that is mixed in."""
    share = torch.ones(count)
    if float(torch.rand(1, generator=generator)) < odds:
        share = 1.0 - 0.5 * torch.rand(count, generator=generator) ** 2
    return share, torch.randperm(count, generator=generator)


def _loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Loss of each image (n,): cross entropy of labels, view and sex; smooth L1 of the teacher's logits and the age."""
    labels, taught = len(KEYS) + len(NIH), len(KEYS) + 2 * len(NIH)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets.clamp(0, 1), reduction="none")
    square = functional.smooth_l1_loss(logits, targets, reduction="none")
    each = torch.cat(
        [entropy[:, :labels], square[:, labels:taught], entropy[:, taught : taught + 2], square[:, taught + 2 :]], dim=1
    )
    return (each * weights).sum(dim=1)


def _goals(cases: Cases, chosen: NDArray[np.int64], recipe: Recipe) -> _Goals:
    sources = [cases.sources[i] for i in chosen]
    labels, nih, extra = cases.labels[chosen], cases.nih[chosen], cases.extra[chosen]
    clean = labels[:, KEYS.index("abnormality")] == 0.0
    balanced = balanced_weights(labels, sources, clean)
    odds = np.zeros((len(chosen), OUTPUTS), dtype=np.float32)
    odds[:, : len(KEYS)], label_weights = source_odds(labels, sources, clean)
    odds[:, len(KEYS) : len(KEYS) + len(NIH)], nih_weights = source_odds(nih, sources, clean)
    taught = cases.teacher[chosen]
    known = np.isfinite(taught[:, 0])
    middle, spread = np.zeros(len(NIH)), np.ones(len(NIH))
    if known.sum() > 1:
        middle, spread = taught[known].mean(axis=0), taught[known].std(axis=0) + 1e-6
    normal = (taught - middle) / spread
    soft = _soft(labels, normal, balanced, odds, recipe)
    aged = (extra[:, 2:] - 0.47) / 0.17
    targets = np.concatenate([soft, nih * (1 - recipe.smooth) + recipe.smooth / 2, normal, extra[:, :2], aged], axis=1)
    taught_weights = np.repeat(np.where(known, recipe.teacher, 0.0)[:, None], len(NIH), axis=1)
    extra_weights = np.where(np.isfinite(extra), recipe.extra, 0.0)
    together = np.concatenate([label_weights, nih_weights * recipe.nih, taught_weights, extra_weights], axis=1)
    return _Goals(
        torch.from_numpy(np.nan_to_num(targets).astype(np.float32)),
        torch.from_numpy(np.nan_to_num(together).astype(np.float32)),
        torch.from_numpy(odds),
    )


def _soft(
    labels: NDArray[np.float32],
    teacher: NDArray[np.float64],
    weights: NDArray[np.float32],
    odds: NDArray[np.float32],
    recipe: Recipe,
) -> NDArray[np.float64]:
    """Smoothed labels, moved towards the teacher's predictions, which are calibrated on these images."""
    soft = labels.astype(np.float64) * (1.0 - recipe.smooth) + recipe.smooth / 2.0
    for key, names in TEACHERS.items():
        k = KEYS.index(key)
        predicted = np.max([teacher[:, NIH.index(name)] for name in names], axis=0)
        known = np.isfinite(predicted) & np.isfinite(labels[:, k]) & (weights[:, k] > 0)
        if known.sum() < 50 or not 0 < labels[known, k].sum() < known.sum():
            continue
        slope, offset = platt(predicted[known], labels[known, k], weights[known, k])
        opinion = 1.0 / (1.0 + np.exp(-(slope * predicted[known] + offset + odds[known, k])))
        soft[known, k] = (1.0 - recipe.teach) * soft[known, k] + recipe.teach * opinion
    return soft


def platt(scores: NDArray[np.float64], truth: NDArray[np.float32], weights: NDArray[np.float32]) -> tuple[float, float]:
    """Slope and offset of the logistic regression of ``truth`` on ``scores`` (Platt 1999), with a small ridge."""
    x = torch.tensor(np.stack([scores, np.ones_like(scores)], axis=1), dtype=torch.float64)
    y, w = torch.tensor(truth, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    beta = torch.zeros(2, dtype=torch.float64)
    ridge = 1e-3 * w.sum() * torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    for _ in range(50):  # Newton's method; the problem is convex
        p = torch.sigmoid(x @ beta)
        gradient = x.T @ (w * (p - y)) + ridge @ beta
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + ridge + 1e-9 * torch.eye(2, dtype=torch.float64)
        beta = beta - torch.linalg.solve(hessian, gradient).clamp(-2, 2)
    return float(beta[0]), float(beta[1])


def follow(mean: torch.nn.Module, network: torch.nn.Module, keep: float) -> None:
    """Move the running mean of the weights towards the network."""
    with torch.no_grad():
        old, new = mean.state_dict(), network.state_dict()
        floats = [key for key, value in old.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([old[key] for key in floats], [new[key] for key in floats], 1.0 - keep)


def predict(network: ChestReader, pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Logits (n, KEYS) of images (n, h, w) uint8, from the mean of the maps of each image and its mirror image."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 64):
            images = torch.from_numpy(pixels[start : start + 64])[:, None].float() / 255.0
            if images.shape[-1] != side:
                images = functional.interpolate(images, size=(side, side), mode="area")
            images = (images * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
            maps = (network.maps(images) + network.maps(images.flip(-1)).flip(-1)) / 2.0
            parts.append(pooled(maps)[:, : len(KEYS)].numpy())
    return np.concatenate(parts)
