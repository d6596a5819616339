"""Fits the field's network: first on phantoms, then on films whose outlines it drew itself."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]
from torch.nn import functional

from ai.anatomy.network import BODY, INVERTED, LEFT, OTHER, RIGHT, SIDE, UPRIGHT, FieldNetwork
from ai.training.field.data import Outlined, strange

_BATCH = 24
_STRANGE_SHARE = 0.18
_TURNED_SHARE = 0.27
_ZOOMS = (0.85, 1.0, 1.15)  # of the views that a film's outlines are averaged over
_LEAST_LUNG = 0.025  # of the picture, on each side: less is no outline to learn from
_UNLIKE = 3.0  # times larger than the other lung: as little
_SURE = 0.80  # the mean of 2 |p - 1/2| over the maps of the lungs


class Fitting:
    """A network being fitted, with its random numbers."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = FieldNetwork()
        self._rng = np.random.default_rng(seed)
        self._random = torch.Generator().manual_seed(seed)

    def run(self, drawn: Outlined, films: Outlined | None, loose: torch.Tensor, steps: int, rate: float) -> None:
        """Fit for some steps.

        Args:
            drawn: phantoms.
            films: films with outlines, half of each batch. None for the first stage.
            loose: films without outlines, which teach what the image is.
            steps: batches.
            rate: the greatest learning rate; it falls to 0 as a cosine.
        """
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        self.network.train()
        mean = math.nan
        for step in range(steps):
            loss = self._loss(*self._batch(drawn, films, loose))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
            if step % 200 == 199:
                print(f"step {step + 1} of {steps}: loss {mean:.4f}", file=sys.stderr, flush=True)
        self.network.eval()

    def _loss(
        self, pictures: torch.Tensor, outlines: torch.Tensor, known: torch.Tensor, kinds: torch.Tensor
    ) -> torch.Tensor:
        maps, kind = self.network(pictures)
        chance = torch.sigmoid(maps)
        each = functional.binary_cross_entropy_with_logits(maps, outlines, reduction="none").mean(dim=(2, 3))
        shared, whole = (chance * outlines).sum(dim=(2, 3)), (chance + outlines).sum(dim=(2, 3))
        dice = 1.0 - (2.0 * shared + 20.0) / (whole + 20.0)
        placed = ((each + 0.5 * dice) * known).sum() / known.sum().clamp_min(1.0)
        return placed + 0.4 * functional.cross_entropy(kind, kinds)

    def _batch(
        self, drawn: Outlined, films: Outlined | None, loose: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures, outlines, which outlines are known (n, 3), and what the pictures are (n,)."""
        count = {"drawn": _BATCH // 3, "films": _BATCH // 3, "loose": _BATCH - 2 * (_BATCH // 3)}
        parts, masks, known = [], [], []
        for name, source in (("drawn", drawn), ("films", films), ("loose", None)):
            here = source or Outlined(loose, torch.zeros(len(loose), 3, *loose.shape[2:]))
            picked = torch.randint(len(here.pictures), (count[name],), generator=self._random)
            parts.append(here.pictures[picked])
            masks.append(here.outlines[picked])
            known.append(torch.full((count[name], 3), 0.0 if source is None else 1.0))
        pictures, outlines, sure = torch.cat(parts), torch.cat(masks), torch.cat(known)
        pictures, outlines = moved(pictures, outlines, self._random)
        pictures = self._opaque(pictures, outlines)
        pictures = exposed(pictures, self._random)
        kinds = torch.zeros(len(pictures), dtype=torch.long)
        for number in range(len(pictures)):
            draw = self._rng.random()
            if draw > _TURNED_SHARE + _STRANGE_SHARE:
                continue
            if draw > _TURNED_SHARE:
                other = strange(self._rng, loose, 1)
                pictures[number] = exposed(functional.interpolate(other, SIDE, mode="area"), self._random)[0]
                kinds[number] = OTHER
            else:
                quarter = int(self._rng.integers(4))
                pictures[number] = torch.rot90(pictures[number], quarter, (1, 2))
                kinds[number] = quarter
                if quarter == 0:
                    pictures[number] = 1.0 - pictures[number]
                    kinds[number] = INVERTED
            # What is no upright chest has no field.
            outlines[number], sure[number] = 0.0, 1.0
            sure[number, BODY] = 0.0
        return pictures, outlines, sure, kinds

    def _opaque(self, pictures: torch.Tensor, outlines: torch.Tensor) -> torch.Tensor:
        """Whiten parts of lungs: the field is where the lung is, whether air is in it or not."""
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        lungs = outlines[:, RIGHT] + outlines[:, LEFT]
        for number in range(len(pictures)):
            if self._rng.random() > 0.4 or lungs[number].sum() < 50:
                continue
            for _ in range(int(self._rng.integers(1, 4))):
                inside = torch.nonzero(lungs[number] > 0.5)
                row, column = inside[int(self._rng.integers(len(inside)))].tolist()
                tall, wide = self._rng.uniform(4, 22, 2)
                spot = torch.exp(-((((y - row) / tall) ** 2 + ((x - column) / wide) ** 2) ** 2))
                weight = float(self._rng.uniform(0.2, 0.95)) * spot * lungs[number].clamp(0, 1)
                level = float(self._rng.uniform(0.55, 0.95))
                pictures[number, 0] += weight * (torch.clamp(pictures[number, 0], min=level) - pictures[number, 0])
        return pictures

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def outline(self, films: torch.Tensor) -> Outlined:
        """Outlines of films, averaged over views, and only of those that have two plausible lungs."""
        self.network.eval()
        kept, drawn = [], []
        for start in range(0, len(films), 64):
            some = films[start : start + 64]
            total = torch.zeros(len(some), 3, *some.shape[2:])
            upright = torch.zeros(len(some))
            for zoom in _ZOOMS:
                for mirror in (False, True):
                    maps, kind = self._view(some, zoom, mirror=mirror)
                    total += maps / (2 * len(_ZOOMS))
                    upright += torch.softmax(kind, 1)[:, UPRIGHT] / (2 * len(_ZOOMS))
            share = (total[:, :BODY] > 0.5).float().mean(dim=(2, 3))
            lungs = total[:, :BODY]
            sure = ((lungs - 0.5).abs() * 2.0).mean(dim=(1, 2, 3))
            alike = share.amax(dim=1) < _UNLIKE * share.amin(dim=1)
            good = (share.amin(dim=1) > _LEAST_LUNG) & alike & (upright > 0.5) & (sure > _SURE)
            kept.append(some[good])
            drawn.append(torch.from_numpy(np.stack([_cleaned(one) for one in total[good].numpy()])))
        return Outlined(torch.cat(kept), torch.cat(drawn))

    def _view(self, films: torch.Tensor, zoom: float, *, mirror: bool) -> tuple[torch.Tensor, torch.Tensor]:
        theta = torch.zeros(len(films), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = (-zoom if mirror else zoom), zoom
        grid = functional.affine_grid(theta, [len(films), 1, SIDE, SIDE], align_corners=False)
        maps, kind = self.network(functional.grid_sample(films, grid, align_corners=False))
        back = torch.zeros(len(films), 2, 3)
        back[:, 0, 0], back[:, 1, 1] = (-1.0 if mirror else 1.0) / zoom, 1.0 / zoom
        grid = functional.affine_grid(back, [len(films), 3, *films.shape[2:]], align_corners=False)
        placed = functional.grid_sample(torch.sigmoid(maps), grid, align_corners=False, padding_mode="border")
        return (placed[:, [LEFT, RIGHT, BODY]] if mirror else placed), kind


def _cleaned(chances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outlines (3, side, side) of 0 and 1 from probabilities: one piece each, smooth and without holes."""
    masks = []
    for chance in chances:
        mask = ndimage.binary_opening(chance > 0.5, iterations=2)
        labels, count = ndimage.label(mask)
        if count > 1:
            mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        masks.append(ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=2)))
    return np.stack(masks).astype(np.float32)


def moved(pictures: torch.Tensor, outlines: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom, turn a little, shift and mirror pictures and outlines, onto the network's grid."""
    count = len(pictures)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=random) * (high - low) + low

    mirror = torch.sign(draw(-1.0, 1.0))
    zoom, stretch, turn = torch.exp(draw(-0.42, 0.22)), torch.exp(draw(-0.12, 0.12)), draw(-0.22, 0.22)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * stretch * mirror * torch.cos(turn), -zoom * torch.sin(turn)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * stretch * mirror * torch.sin(turn), zoom * torch.cos(turn)
    theta[:, 0, 2], theta[:, 1, 2] = draw(-0.16, 0.16), draw(-0.16, 0.16)
    grid = functional.affine_grid(theta, [count, 1, SIDE, SIDE], align_corners=False)
    # Beyond the picture there is black, or what its edge shows.
    beyond = [functional.grid_sample(pictures, grid, align_corners=False, padding_mode=m) for m in ("zeros", "border")]
    black = (draw(0.0, 1.0) < 0.6)[:, None, None, None]
    outlines = functional.grid_sample(outlines, grid, align_corners=False)
    flipped = outlines[:, [LEFT, RIGHT, BODY]]
    return torch.where(black, *beyond), torch.where((mirror < 0)[:, None, None, None], flipped, outlines)


def exposed(pictures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Change greys, sharpness and noise of pictures (n, 1, h, w) at random, and cover their edges as collimators do."""
    count = len(pictures)

    def draw(low: float, high: float) -> torch.Tensor:
        return (torch.rand(count, generator=random) * (high - low) + low)[:, None, None, None]

    pictures = pictures.clamp(0, 1) ** torch.exp(draw(-0.7, 0.7))
    low, high = draw(-0.25, 0.15), draw(0.8, 1.2)
    pictures = (pictures - low) / (high - low)
    smooth = functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    pictures = pictures + draw(-1.0, 0.9) * (smooth - pictures)
    x = torch.linspace(-1, 1, pictures.shape[-1])
    tilt = draw(-0.25, 0.25) * x + draw(-0.25, 0.25) * x[:, None]
    noise = torch.randn(pictures.shape, generator=random) * draw(0.0, 0.05)
    pictures = (pictures + tilt * (draw(0, 1) < 0.5) + noise).clamp(0, 1)
    for axis in (2, 3):
        size = pictures.shape[axis]
        for backwards in (False, True):
            depth = torch.where(draw(0, 1) < 0.12, draw(0.0, 0.12), torch.zeros(1)) * size
            place = torch.arange(size).float().view([1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1])
            covered = (size - 1 - place if backwards else place) < depth
            pictures = torch.where(covered, (draw(0, 1) < 0.3).float(), pictures)
    return pictures
