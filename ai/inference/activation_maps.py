"""Class activation maps: where on its input a classifier saw a class.

With a ``classifier`` behind the global mean (Zhou et al., "Learning Deep Features for Discriminative Localization",
CVPR 2016) a map is that classifier on each cell of the feature map, which the pass that made the scores leaves behind:
it costs nothing. Without, gradients weight the feature map (Selvaraju et al., "Grad-CAM", ICCV 2017): one more pass
for each class that is asked for.

torch and monai are imported when something runs, not before.
"""

from __future__ import annotations

import difflib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import BundleError, BundleInfo, short


class Maps(Protocol):
    """The maps of one pass."""

    affine: NDArray[np.float64]
    shape: tuple[int, ...]

    def of(self, channel: int) -> NDArray[np.float32]:
        """The map of a class (rows, columns), in no unit; it lies evenly over the network's input."""


def activation_maps(info: BundleInfo, network: Any) -> Hooks | None:
    """Prepare a network for the maps that ``cam`` of ``reading.json`` asks for; None where there are none.

    Raises:
        BundleError: the network has no such layer, or is TorchScript, whose layers nobody can look into.
    """
    cam = info.spec.cam
    if cam is None or info.spec.input.kind == "volume":
        return None
    if info.scripted:
        raise BundleError(
            f"{info.path}: cam in reading.json looks into a network; that of {info.weights.name} is TorchScript"
        )
    names = [name for name, _ in network.named_modules()]
    for what, layer in (("layer", cam.layer), ("classifier", cam.classifier)):
        if layer is not None and layer not in names:
            near = difflib.get_close_matches(layer, names, n=3, cutoff=0.3) or names[-3:]
            raise BundleError(
                f"{info.path}: cam.{what} in reading.json is {layer}, which the network has not; "
                f"it has for example {', '.join(near)}"
            )
    return Hooks(info, network)


class Hooks:
    """Keeps the feature map of each pass."""

    def __init__(self, info: BundleInfo, network: Any) -> None:
        from monai.visualize import GradCAM  # noqa: PLC0415  (see the module)
        from monai.visualize.class_activation_maps import ModelWithHooks  # noqa: PLC0415  (see the module)

        cam = info.spec.cam
        if cam is None:
            raise AssertionError("there is a cam")
        self._info = info
        self._layer = cam.layer
        self._classifier = network.get_submodule(cam.classifier) if cam.classifier is not None else None
        self._hooks = self._gradients = None
        self._passes = 0
        if self._classifier is not None:
            self._hooks = ModelWithHooks(network, cam.layer, register_forward=True)
            network.register_forward_hook(self._count)
        else:
            self._gradients = GradCAM(nn_module=network, target_layers=cam.layer)

    def forget(self) -> None:
        """Drop the last pass."""
        if self._hooks is not None:
            self._hooks.activations.clear()
        self._passes = 0

    def _count(self, *_: Any) -> None:
        self._passes += 1

    def taken(self, batch: Any, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Maps:
        """The maps of the pass that has just been made of ``batch``."""
        if self._gradients is not None:
            return _Weighted(self._info, self._gradients, batch, affine, shape)
        if self._passes != 1:
            raise BundleError(
                f"{self._info.config}: the inferer passes an image through the network {self._passes} times, so that "
                "nobody knows of which pass a class activation map is (cam in reading.json); once was expected"
            )
        features = self._hooks.activations.get(self._layer) if self._hooks is not None else None
        if getattr(features, "ndim", 0) != 4:
            raise BundleError(
                f"{self._info.path}: cam.layer in reading.json, {self._layer}, gives "
                f"{tuple(getattr(features, 'shape', ()))}; a feature map (1, features, rows, columns) was expected"
            )
        return _Classified(self._info, self._classifier, features, affine, shape)


class _Classified:
    def __init__(self, info: BundleInfo, classifier: Any, features: Any, affine: Any, shape: tuple[int, ...]) -> None:
        import torch  # noqa: PLC0415  (see the module)

        self.affine, self.shape = affine, shape
        weight = getattr(classifier, "weight", None)
        try:
            with torch.inference_mode():
                if getattr(weight, "ndim", 2) > 2:  # a convolution takes the map as it is
                    maps = classifier(features[:1])[0]
                else:
                    maps = classifier(features[0].flatten(1).T).T.reshape(-1, *features.shape[2:])
                self._maps = np.asarray(maps.to("cpu", torch.float32).numpy())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            raise BundleError(
                f"{info.path}: cam.classifier in reading.json does not take the features of cam.layer: {short(error)}"
            ) from None

    def of(self, channel: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._maps[channel]
        return found


class _Weighted:
    def __init__(self, info: BundleInfo, cam: Any, batch: Any, affine: Any, shape: tuple[int, ...]) -> None:
        self.affine, self.shape = affine, shape
        self._info, self._cam, self._batch = info, cam, batch

    def of(self, channel: int) -> NDArray[np.float32]:
        import torch  # noqa: PLC0415  (see the module)

        try:
            with torch.enable_grad():
                x = self._batch.clone().requires_grad_(True)
                found = self._cam.compute_map(x, class_idx=channel).detach()[0, 0]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a network may be such that no gradient reaches the layer
            raise BundleError(
                f"{self._info.path}: no gradient reaches cam.layer of reading.json: {short(error)}"
            ) from None
        return np.asarray(found.to("cpu", torch.float32).numpy())
