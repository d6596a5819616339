"""The network of `ai.anatomy.field`: a small U-Net on 96 x 96 pixels with a second output for what the image is.

Its finest level has 48 x 48 cells, and the maps are enlarged from there: a border of a lung needs no finer one.
"""

from __future__ import annotations

import torch
from torch.nn import functional

SIDE = 96
"""Rows and columns of the input, and of the maps."""

RIGHT, LEFT, BODY = range(3)
"""The maps: the lungs at the left and at the right of the picture (of the patient: right and left), and the body."""

UPRIGHT, QUARTER, HALF, THREE_QUARTERS, INVERTED, OTHER = range(6)
"""What the image is: an upright frontal chest, one turned counter-clockwise by 90, 180 or 270 degrees, one whose greys
are inverted, or anything else."""

_WIDTHS = (16, 24, 36, 48)


class FieldNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Images (n, 1, 96, 96) in 0..1 -> logits of the maps (n, 3, 96, 96) and of what the image is (n, 6)."""

    def __init__(self) -> None:
        super().__init__()
        down, before = [], _WIDTHS[0]
        for width in _WIDTHS:
            down.append(_block(before, width))
            before = width
        self.down = torch.nn.ModuleList(down)
        self.up = torch.nn.ModuleList(
            _block(low + high, high) for low, high in zip(_WIDTHS[:0:-1], _WIDTHS[-2::-1], strict=True)
        )
        self.first = torch.nn.Conv2d(1, _WIDTHS[0], 4, stride=2, padding=1)
        self.maps = torch.nn.Conv2d(_WIDTHS[0], 3, 1)
        self.deep = _block(_WIDTHS[-1], _WIDTHS[-1])
        self.kind = torch.nn.Linear(2 * _WIDTHS[-1] * 9, 6)  # of 3 x 3 cells

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x, kept = functional.relu(self.first(images - 0.5)), []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if number else x)
            kept.append(x)
        deep = self.deep(x)  # 6 x 6 cells
        pooled = torch.cat([functional.avg_pool2d(deep, 2), functional.max_pool2d(deep, 2)], dim=1)
        for block, beside in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), beside], dim=1))
        maps = functional.interpolate(self.maps(x), scale_factor=2, mode="bilinear", align_corners=False)
        return maps, self.kind(pooled.flatten(1))


def _block(before: int, after: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(before, after, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(after),
        torch.nn.ReLU(),
        torch.nn.Conv2d(after, after, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(after),
        torch.nn.ReLU(),
    )
