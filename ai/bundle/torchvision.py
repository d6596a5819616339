"""Replaces the two parts of torchvision that MONAI's RetinaNet uses, where torchvision is not installed.

MONAI takes the layers of a backbone from torchvision's ``IntermediateLayerGetter`` and their number from a helper
function. Neither needs torchvision's operators, and MONAI suppresses overlapping boxes itself. A detector runs with
these replacements and keeps the names of its weights.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn


class IntermediateLayers(nn.ModuleDict):  # type: ignore[misc]
    """Runs the children of a network in order, up to the last whose output is wanted, and returns those outputs.

    Args:
        model: the network; its children are run one after the other.
        return_layers: the wanted outputs: name of the child -> name of the output.
    """

    def __init__(self, model: nn.Module, return_layers: dict[str, str]) -> None:
        children = dict(model.named_children())
        if missing := sorted(set(return_layers) - set(children)):
            raise ValueError(f"return_layers names {', '.join(missing)}, which the network does not have")
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
    """The number of backbone layers that train: all if it is untrained, else ``layers`` or the default."""
    if not is_trained:
        return max_value
    return default_value if layers is None else layers


def replace_missing() -> None:
    """Put the two replacements into MONAI's detection modules, if torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from monai.apps.detection.networks import retinanet_network  # noqa: PLC0415  (only where it is needed)
    from monai.networks.blocks import backbone_fpn_utils  # noqa: PLC0415

    parts: Any = SimpleNamespace(_utils=SimpleNamespace(IntermediateLayerGetter=IntermediateLayers))
    backbone_fpn_utils.torchvision_models = parts
    retinanet_network._validate_trainable_layers = trainable_layers
