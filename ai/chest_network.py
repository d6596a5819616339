"""The network of the bundle ``chest_xray``: several ResNets side by side that share one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import ResNet

BLOCKS = (2, 2, 2, 2)


def resnet(planes: Sequence[int], classes: int) -> ResNet:
    """MONAI's ResNet of basic blocks for single-channel images: four stages of ``planes`` channels."""
    return ResNet(
        "basic",
        list(BLOCKS),
        list(planes),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=2,
        num_classes=classes,
    )


class Trunks(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """The feature maps of several ResNets, one behind the other: (n, 1, h, w) -> (n, members * channels, h/32, w/32).

    With ``mirror`` the image is read from left to right and from right to left, and the maps are averaged.
    """

    def __init__(self, planes: Sequence[int], members: int, mirror: bool) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(resnet(planes, 1) for _ in range(members))
        for member in self.members:
            member.fc = torch.nn.Identity()
        self.mirror = mirror

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        both = torch.cat([images, images.flip(-1)]) if self.mirror else images
        both = both.contiguous(memory_format=torch.channels_last) * 2.0 - 1.0
        maps = torch.cat([feature_map(member, both) for member in self.members], dim=1)
        if not self.mirror:
            return maps
        straight, turned = maps.chunk(2)
        return (straight + turned.flip(-1)) / 2.0


def feature_map(network: ResNet, images: torch.Tensor) -> torch.Tensor:
    """What MONAI's ResNet has before its global mean."""
    maps = network.maxpool(network.act(network.bn1(network.conv1(images))))
    return network.layer4(network.layer3(network.layer2(network.layer1(maps))))


class ChestNetwork(torch.nn.Module):  # type: ignore[misc]
    """Logits (n, classes) of images (n, 1, h, w) in 0..1: the mean of what its members say.

    Each member is a ResNet with a linear layer behind the global mean of its feature map. The mean of linear layers is
    one linear layer over all maps: so the class activation map (Zhou et al. 2016) of ``features`` and ``classifier`` is
    that of the whole ensemble.
    """

    def __init__(self, planes: Sequence[int], classes: int, members: int, mirror: bool = True) -> None:
        super().__init__()
        self.features = Trunks(planes, members, mirror)
        self.classifier = torch.nn.Linear(members * planes[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits: torch.Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
