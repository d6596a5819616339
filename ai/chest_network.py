"""The network of the bundle ``chest_xray``: several ResNets and a linear model, and where they saw what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets import ResNet
from torch.nn import functional

BLOCKS = (2, 2, 2, 2)
SHARPNESS = 3.0
_SMALL, _MIDDLE = 32, 128  # sides in pixels of what the linear model sees
_CELLS, _DIRECTIONS = 8, 8


class ChestReader(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """One ResNet with a map for each output: logits (n, outputs) of images (n, 1, h, w) in -1..1.

    MONAI's ResNet of basic blocks, whose last stage keeps the resolution of the one before it: a cell of a map stands
    for 16 x 16 pixels. A convolution of one cell makes the maps, `pooled` the logits: what the map says is what the
    score is made of.
    """

    def __init__(self, planes: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.trunk = resnet(planes)
        self.head = torch.nn.Conv2d(planes[-1], outputs, 1)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (n, outputs, h / 16, w / 16)."""
        found: torch.Tensor = self.head(feature_map(self.trunk, images)).float()
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return pooled(self.maps(images))


class Trunks(torch.nn.Module):  # type: ignore[misc]
    """The feature maps of several ResNets, one behind the other: (n, 1, h, w) -> (n, members * channels, h/16, w/16).

    The image, in 0..1, is read from left to right and from right to left, and the maps are averaged.
    """

    def __init__(self, planes: Sequence[int], members: int) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(resnet(planes) for _ in range(members))
        # As the images lie in memory: else a CPU lays out every weight anew in every pass, a quarter of its time.
        self.members.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        both = torch.cat([images, images.flip(-1)])
        both = both.contiguous(memory_format=torch.channels_last) * 2.0 - 1.0
        straight, turned = torch.cat([feature_map(member, both) for member in self.members], dim=1).chunk(2)
        return (straight + turned.flip(-1)) / 2.0


class LinearReader(torch.nn.Module):  # type: ignore[misc]
    """Logits (n, classes) of images (n, 1, h, w) in 0..1: a linear layer on the small image and its gradients.

    The image at 32 x 32 pixels, and histograms of oriented gradients (Dalal and Triggs 2005; 8 x 8 cells, 8 directions)
    of the image at 128 x 128.
    """

    FEATURES = _SMALL**2 + _DIRECTIONS * _CELLS**2

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(self.FEATURES, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits

    @staticmethod
    def features(images: torch.Tensor) -> torch.Tensor:
        """Features (n, `FEATURES`)."""
        small = functional.interpolate(images, size=(_SMALL, _SMALL), mode="area")
        middle = functional.interpolate(images, size=(_MIDDLE, _MIDDLE), mode="area")
        across = functional.pad(middle, (1, 1, 0, 0), mode="replicate")
        along = functional.pad(middle, (0, 0, 1, 1), mode="replicate")
        gx, gy = across[..., 2:] - across[..., :-2], along[..., 2:, :] - along[..., :-2, :]
        strength = torch.sqrt(gx**2 + gy**2)
        # Upright and level edges lie a quarter of a bin from its border: which bin is theirs is no matter of rounding.
        way = ((torch.atan2(gy, gx) / torch.pi + 0.25 / _DIRECTIONS) % 1.0 * _DIRECTIONS).long()
        way = way.clamp(max=_DIRECTIONS - 1)
        planes = strength.new_zeros(len(images), _DIRECTIONS, _MIDDLE, _MIDDLE)
        cells = functional.adaptive_avg_pool2d(planes.scatter_(1, way, strength), _CELLS)
        cells = cells / (cells.sum(dim=1, keepdim=True) + 1e-3)
        return torch.cat([small.flatten(1), cells.flatten(1)], dim=1)


class Places(torch.nn.Conv2d):  # type: ignore[misc]
    """Maps (n, classes, h, w) of feature maps: the odds of a class at a place, in parts of those where it is likeliest.

    A convolution of one cell gives logits; of these only how far they lie below the greatest tells a place, so the map
    is 1 there and falls by half with each 0.7 of logit.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps: torch.Tensor = super().forward(features)
        return torch.exp(maps - maps.amax(dim=(2, 3), keepdim=True))


class ChestNetwork(torch.nn.Module):  # type: ignore[misc]
    """Logits (n, classes) of images (n, 1, h, w) in 0..1: what several `ChestReader` say on average, calibrated.

    ``features`` are their feature maps, ``heads`` their maps of each class; ``calibration`` takes the mean of their
    logits, and ``linear`` adds what a linear model has to say. ``places`` makes `Places` of the mean of all maps,
    weighed as the calibration weighs the logits: class activation maps (Zhou et al. 2016) of what the networks say. The
    linear model has no place and no part in them. A pass for the scores leaves them out.
    """

    def __init__(self, planes: Sequence[int], classes: int, members: int) -> None:
        super().__init__()
        self.classes = classes
        self.features = Trunks(planes, members)
        self.heads = torch.nn.Conv2d(members * planes[-1], members * classes, 1, groups=members)
        self.calibration = torch.nn.Linear(classes, classes)
        self.linear = LinearReader(classes)
        self.places = Places(members * planes[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        said = pooled(self.heads(self.features(images))).unflatten(1, (-1, self.classes))
        logits: torch.Tensor = self.calibration(said.mean(dim=1)) + self.linear(images)
        return logits


def resnet(planes: Sequence[int]) -> ResNet:
    """MONAI's ResNet of basic blocks for single-channel images: stages of ``planes`` channels, the last at 1/16."""
    network = ResNet("basic", list(BLOCKS), list(planes), spatial_dims=2, n_input_channels=1, conv1_t_stride=2)
    network.fc = torch.nn.Identity()
    first = network.layer4[0]
    for layer in (first.conv1, first.downsample[0]):
        layer.stride = (1, 1)
    return network


def feature_map(network: ResNet, images: torch.Tensor) -> torch.Tensor:
    """What MONAI's ResNet has before its global mean."""
    maps = network.maxpool(network.act(network.bn1(network.conv1(images))))
    return network.layer4(network.layer3(network.layer2(network.layer1(maps))))


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Logits (n, outputs) of maps (n, outputs, h, w): between a map's mean and its greatest value.

    Half of it is the mean over the cells, half their soft maximum, a log-sum-exp (Pinheiro and Collobert 2015): a small
    finding counts, and a map is high where the finding is.
    """
    flat = maps.flatten(2)
    greatest = (torch.logsumexp(flat * SHARPNESS, dim=2) - math.log(flat.shape[2])) / SHARPNESS
    return (flat.mean(dim=2) + greatest) / 2.0
