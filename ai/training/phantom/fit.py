"""Trains the bundle ``phantom_cxr`` on phantoms, and measures it on other phantoms.

    python -m ai.training.phantom.fit train --seed 1
    python -m ai.training.phantom.fit evaluate --count 400 --seed 900001

Training draws its own images. Network, grid size and preprocessing come from the bundle's ``inference.json``. Weights,
operating points and measures are written into the bundle. Training uses the seeds from seed * 1,000,000 on, validation
those from seed * 1,000,000 + 500,000 on. A test uses other seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.utils import set_determinism
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional

from ai.phantom.draw import FINDING_KEYS, draw_phantom
from ai.training.phantom.bundle import Figures, operating_points, write_bundle, write_evaluation
from ai.training.phantom.evaluation import Case, Reader, case, evaluate, grey, load_config, prepare, tally

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "phantom_cxr"
IMAGES = 1800
EPOCHS = 4
VALIDATION = 160
_BATCH = 4
_RATE = 3e-3
_WEIGHTS = (16.0, 4.0, 3.0, 3.0)  # weights of the cells of a finding, by class: a nodule has few cells
_KEEP = 0.99  # decay of the running mean of the weights, which is saved
_SHARES = (0.65, 0.5, 0.5, 0.45)  # shares of training images that show each class
_CROP = 208  # columns: portrait images fill only the middle of the square

Say = Callable[[str], None]


def _sample(seed: int, bundle: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A phantom as the network's input (h, w), 0..255, and its masks (classes, h, w)."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 99])
    tall = int(rng.integers(330, 450))
    # More findings than the random mix has, because an empty lung teaches little. Thresholds use the random mix.
    often = [key for key, share in zip(FINDING_KEYS, _SHARES, strict=True) if rng.random() < share]
    often += ["nodule"] if "nodule" in often and rng.random() < 0.4 else []
    phantom = draw_phantom(seed, tall, int(tall * rng.uniform(0.80, 0.90)), often)
    prepared = prepare(_preprocessing(bundle), grey(phantom))
    affine = np.asarray(prepared.affine)
    side = prepared.shape[1:]
    down = np.rint(affine[0, 0] * np.arange(side[0]) + affine[0, 3]).astype(int)
    over = np.rint(affine[1, 1] * np.arange(side[1]) + affine[1, 3]).astype(int)
    masks = np.zeros((len(FINDING_KEYS), *side), dtype=np.uint8)
    rows, columns = phantom.pixels.shape
    inside = ((down >= 0) & (down < rows))[:, None] & ((over >= 0) & (over < columns))
    place = np.ix_(np.clip(down, 0, rows - 1), np.clip(over, 0, columns - 1))
    for finding in phantom.findings:
        masks[FINDING_KEYS.index(finding.key)] |= (finding.mask[place] & inside).astype(np.uint8)
    image = np.rint(np.asarray(prepared[0]) * 255.0).astype(np.uint8)
    start = (side[1] - _CROP) // 2
    return image[:, start : start + _CROP], masks[:, :, start : start + _CROP]


_LOADED: dict[str, Any] = {}


def _preprocessing(bundle: str) -> Any:
    if bundle not in _LOADED:
        _LOADED[bundle] = load_config(Path(bundle)).get_parsed_content("preprocessing")
    return _LOADED[bundle]


def draw_set(bundle: Path, first: int, count: int, say: Say) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``count`` phantoms with the seeds from ``first`` on: images (n, h, w), masks (n, classes, h, w), uint8."""
    images, masks = [], []
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the drawing processes already use all cores
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1), mp_context=context) as pool:
        work = pool.map(partial(_sample, bundle=str(bundle)), range(first, first + count), chunksize=8)
        for number, (image, mask) in enumerate(work, start=1):
            images.append(image)
            masks.append(mask)
            if number % 400 == 0:
                say(f"drew {number} of {count}")
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def augment(images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment images (n, 1, h, w), 0..1, and masks: rotation, scale, shift, mirror, exposure, blur and noise."""
    count, _, tall, wide = images.shape

    def chance(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    turn, scale = chance(-0.07, 0.07), 1.0 / chance(0.84, 1.12)
    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = scale * mirror * torch.cos(turn)
    theta[:, 0, 1] = -scale * torch.sin(turn) * tall / wide
    theta[:, 1, 0] = scale * mirror * torch.sin(turn) * wide / tall
    theta[:, 1, 1] = scale * torch.cos(turn)
    theta[:, 0, 2], theta[:, 1, 2] = chance(-0.07, 0.07), chance(-0.07, 0.07)
    grid = functional.affine_grid(theta, [count, 1, tall, wide], align_corners=False)
    images = functional.grid_sample(images, grid, align_corners=False)
    masks = functional.grid_sample(masks, grid, align_corners=False)

    def each(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    images = images.clamp(0, 1) ** each(torch.exp(chance(-0.5, 0.5)))
    low, high = chance(-0.12, 0.12), chance(0.86, 1.15)
    images = (images - each(low)) / each(high - low)
    smooth = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images += each(chance(-0.6, 0.5)) * (smooth - images)
    images += each(chance(0.0, 0.03)) * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1), masks


def fit(
    network: torch.nn.Module,
    images: torch.Tensor,
    masks: torch.Tensor,
    *,
    epochs: int,
    seed: int,
    device: str,
    say: Say,
) -> torch.nn.Module:
    """Train a network, and return the running mean of its weights, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    head = getattr(network, "final_conv", None)
    if head is not None:
        torch.nn.init.constant_(head.bias, -4.0)  # most cells hold no finding
    network.to(device, memory_format=torch.channels_last).train()
    mean = deepcopy(network)
    steps = epochs * (len(images) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.15)
    weight = torch.tensor(_WEIGHTS, device=device)[:, None, None]
    step, total = 0, 0.0
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH]
            x, y = augment(images[chosen, None].float() / 255.0, masks[chosen].float(), generator)
            logits, y = network(x.to(device, memory_format=torch.channels_last)), y.to(device)
            loss = 4.0 * functional.binary_cross_entropy_with_logits(logits, y, pos_weight=weight) + _overlap(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            _follow(mean, network, min(_KEEP, step / (step + 20)))
            step, total = step + 1, total + float(loss.detach())
            if step % 50 == 0:
                say(f"epoch {epoch + 1}, step {step} of {steps}, loss {total / 50:.4f}")
                total = 0.0
    return mean.to("cpu").eval()


def _overlap(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice loss over the batch: the mean over the classes that are present in it."""
    probability, over = torch.sigmoid(logits), (0, 2, 3)
    shared = 2.0 * (probability * truth).sum(over) + 1.0
    loss = 1.0 - shared / ((probability + truth).sum(over) + 1.0)
    there = (truth.sum(over) > 0).float()
    return (loss * there).sum() / there.sum().clamp(min=1.0)


def _follow(mean: torch.nn.Module, network: torch.nn.Module, keep: float) -> None:
    with torch.no_grad():
        for old, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.mul_(keep).add_(new, alpha=1.0 - keep)
            else:
                old.copy_(new)


def validation_cases(reader: Reader, first: int, count: int) -> list[Case]:
    """Cases to choose the operating points on, drawn larger than those of training."""
    return [case(reader, draw_phantom(first + i, 700, 574), FINDING_KEYS) for i in range(count)]


def train(bundle: Path, *, seed: int, device: str, images: int, epochs: int, drawn: Path | None, say: Say) -> None:
    """Draw phantoms, train, choose the operating points, and write the results into ``bundle``."""
    started, used = time.monotonic(), _processor_seconds()
    set_determinism(seed)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    first = seed * 1_000_000
    if drawn is not None and drawn.exists():
        kept = np.load(drawn)
        pictures, masks = torch.from_numpy(kept["pictures"]), torch.from_numpy(kept["masks"])
        started, used = started - float(kept["seconds"]), used - float(kept["processor_seconds"])
    else:
        pictures, masks = draw_set(bundle, first, images, say)
        if drawn is not None:
            np.savez_compressed(
                drawn,
                pictures=pictures.numpy(),
                masks=masks.numpy(),
                seconds=np.array(time.monotonic() - started),
                processor_seconds=np.array(_processor_seconds() - used),
            )
    say(f"drew {len(pictures)} in {time.monotonic() - started:.0f} s")
    network = cast("torch.nn.Module", load_config(bundle).get_parsed_content("network_def"))
    trained = fit(network, pictures, masks, epochs=epochs, seed=seed, device=device, say=say)
    say(f"trained after {time.monotonic() - started:.0f} s")
    cases = validation_cases(Reader(bundle, trained), first + 500_000, VALIDATION)
    outputs = operating_points(cases)
    figures = Figures(
        seed, images, epochs, VALIDATION, time.monotonic() - started, _processor_seconds() - used, tally(cases, outputs)
    )
    weights = {key: value.contiguous() for key, value in trained.state_dict().items()}
    write_bundle(bundle, weights, outputs, figures)
    say(json.dumps(figures.validation, indent=2))
    say(f"done in {figures.seconds:.0f} s ({figures.processor_seconds:.0f} s of processor time)")


def sheet(path: Path, seed: int, count: int) -> None:
    """Write a picture of ``count`` phantoms, four in a row, with a frame around each finding."""
    rows, columns = 500, 410
    page = Image.new("RGB", (4 * columns, -(-count // 4) * rows))
    for number in range(count):
        phantom = draw_phantom(seed + number, rows, columns)
        shown = Image.fromarray(np.rint(grey(phantom) * 255.0).astype(np.uint8)).convert("RGB")
        pen = ImageDraw.Draw(shown)
        for finding in phantom.findings:
            pen.rectangle((finding.left - 2, finding.top - 2, finding.right + 2, finding.bottom + 2), outline="yellow")
            pen.text((finding.left, finding.top - 14), finding.key, fill="yellow")
        page.paste(shown, (number % 4 * columns, number // 4 * rows))
    page.save(path)


def _processor_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m ai.training.phantom.fit", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="draw phantoms, train on them, write the bundle")
    learn.add_argument("--seed", type=int, default=1)
    learn.add_argument("--out", type=Path, default=BUNDLE, help="the bundle whose inference.json is read")
    learn.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    learn.add_argument("--images", type=int, default=IMAGES)
    learn.add_argument("--epochs", type=int, default=EPOCHS)
    learn.add_argument("--drawn", type=Path, help="an .npz that keeps the drawn images, read where it exists")
    show = commands.add_parser("sheet", help="a picture of phantoms side by side, their findings framed")
    show.add_argument("--seed", type=int, default=1)
    show.add_argument("--count", type=int, default=12)
    show.add_argument("--out", type=Path, default=Path("phantoms.png"))
    test = commands.add_parser("evaluate", help="measure a bundle on phantoms that it has not seen")
    test.add_argument("--count", type=int, default=400)
    test.add_argument("--seed", type=int, default=900_001)
    test.add_argument("--bundle", type=Path, default=BUNDLE)
    test.add_argument("--rows", type=int, default=1250)
    test.add_argument("--columns", type=int, default=1024)
    test.add_argument("--write", action="store_true", help="put what is measured into the bundle and its card")
    test.add_argument("--json", action="store_true", help="print JSON alone")
    given = parser.parse_args(arguments)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)

    if given.command == "train":
        train(
            given.out,
            seed=given.seed,
            device=given.device,
            images=given.images,
            epochs=given.epochs,
            drawn=given.drawn,
            say=say,
        )
        return 0
    if given.command == "sheet":
        sheet(given.out, given.seed, given.count)
        return 0
    measured = evaluate(
        given.bundle, given.count, given.seed, given.rows, given.columns, processes=min(2, os.cpu_count() or 1)
    )
    if given.write:
        write_evaluation(given.bundle, measured)
    print(json.dumps(measured, indent=2) if given.json else _table(measured))
    return 0


def _table(measured: dict[str, Any]) -> str:
    lines = [f"{'class':14} {'AUC':>7} {'findings':>9} {'found':>6} {'sensitivity':>12} {'false boxes/image':>18}"]
    for key, one in measured["classes"].items():
        lines.append(
            f"{key:14} {one['auc']:7.4f} {one['findings']:9d} {one['found']:6d} {one['sensitivity']:12.4f} "
            f"{one['false_boxes_per_image']:18.4f}"
        )
    lines.append(
        f"all: {measured['images']} images of {measured['columns']} x {measured['rows']}, "
        f"{measured['findings']} findings, sensitivity {measured['sensitivity']:.4f}, "
        f"false boxes an image {measured['false_boxes_per_image']:.4f}"
    )
    clean = measured["images_without_finding"]
    lines.append(f"{measured['of_these_with_a_box']} of {clean} images without finding have a box")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
