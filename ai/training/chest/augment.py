"""Augments training images: rotation, scale, exposure, blur, noise and resolution.

Some collections are stored at 64 or 96 pixels. Half of all images lose resolution at random, so that the network cannot
recognise a collection by its blur.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def augment(images: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Change images (n, 1, h, w) in 0..1 at random. Shape and range stay the same."""
    count = len(images)

    def chance(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    def each(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    images = _moved(images, chance, strength)
    images = _coarser(images, generator)
    images = images.clamp(0, 1) ** each(torch.exp(strength * chance(-0.45, 0.45)))
    low, high = strength * chance(-0.15, 0.15), 1.0 + strength * chance(-0.18, 0.18)
    images = (images - each(low)) / each(high - low)
    smooth = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = images + each(strength * chance(-0.7, 0.7)) * (smooth - images)
    noise = torch.randn(images.shape, generator=generator)
    images = images + each(strength * chance(0.0, 0.04)) * noise
    return _cut(images.clamp(0, 1), generator)


def _moved(images: torch.Tensor, draw: Callable[[float, float], torch.Tensor], strength: float) -> torch.Tensor:
    turn = strength * draw(-0.16, 0.16)
    across, along = (torch.exp(strength * draw(-0.12, 0.12)) for _ in range(2))
    zoom = torch.exp(strength * draw(-0.15, 0.15))
    mirror = torch.sign(draw(-1.0, 1.0))
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = zoom * across * mirror * torch.cos(turn)
    theta[:, 0, 1] = -zoom * along * torch.sin(turn)
    theta[:, 1, 0] = zoom * across * mirror * torch.sin(turn)
    theta[:, 1, 1] = zoom * along * torch.cos(turn)
    theta[:, 0, 2], theta[:, 1, 2] = strength * draw(-0.1, 0.1), strength * draw(-0.1, 0.1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _coarser(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Reduce two quarters of the batch to a random resolution of at least 64 pixels, and enlarge them again."""
    side = images.shape[-1]
    quarter = len(images) // 4
    for group in range(2):
        if quarter == 0 or side <= 64:
            break
        part = slice(group * quarter, (group + 1) * quarter)
        small = int(torch.randint(64, side, (1,), generator=generator))
        down = functional.interpolate(images[part], size=(small, small), mode="area")
        how = ("bilinear", "nearest")[group]
        up = functional.interpolate(down, size=(side, side), mode=how)
        images = torch.cat([images[: part.start], up, images[part.stop :]])
    return images


def _cut(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Fill a rectangle of up to a quarter of each side with grey, in a third of the images, in place."""
    side = images.shape[-1]
    for image in images:
        if float(torch.rand(1, generator=generator)) < 1.0 / 3.0:
            tall, wide = (int(torch.randint(side // 16, side // 4 + 1, (1,), generator=generator)) for _ in range(2))
            top, left = (int(torch.randint(0, side, (1,), generator=generator)) for _ in range(2))
            image[:, top : top + tall, left : left + wide] = torch.rand(1, generator=generator)
    return images
