"""The two things of torchvision that MONAI's RetinaNet is built with, for installations without torchvision.

MONAI takes a backbone apart with torchvision's ``IntermediateLayerGetter`` and asks a helper how many of its layers
train. Neither needs torchvision's operators (MONAI has its own suppression of overlapping boxes), so a detector runs
with these in their place, and finds its weights under the same names.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn


class IntermediateLayers(nn.ModuleDict):  # type: ignore[misc]
    """The children of a network, in their order, up to the last one whose output is wanted.

    Args:
        model: the network; its children are run one after the other.
        return_layers: which outputs are wanted: name of the child -> name of the output.
    """

    def __init__(self, model: nn.Module, return_layers: dict[str, str]) -> None:
        children = dict(model.named_children())
        if missing := sorted(set(return_layers) - set(children)):
            raise ValueError(f"return_layers names {', '.join(missing)}, which the network has not")
        last = max(list(children).index(name) for name in return_layers)
        super().__init__(dict(list(children.items())[: last + 1]))
        self.return_layers = dict(return_layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The wanted outputs, first layer first."""
        wanted = {}
        for name, child in self.items():
            x = child(x)
            if name in self.return_layers:
                wanted[self.return_layers[name]] = x
        return wanted


def trainable_layers(is_trained: bool, layers: int | None, max_value: int, default_value: int) -> int:
    """How many layers of a backbone train: all of one that is not trained yet, else what was asked for."""
    if not is_trained:
        return max_value
    return default_value if layers is None else layers


def provide() -> None:
    """Give MONAI's detection parts these two, unless torchvision is there."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from monai.apps.detection.networks import retinanet_network  # noqa: PLC0415  (only where it is needed)
    from monai.networks.blocks import backbone_fpn_utils  # noqa: PLC0415

    parts: Any = SimpleNamespace(_utils=SimpleNamespace(IntermediateLayerGetter=IntermediateLayers))
    backbone_fpn_utils.torchvision_models = parts
    retinanet_network._validate_trainable_layers = trainable_layers
