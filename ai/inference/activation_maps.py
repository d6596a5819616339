"""Class activation maps: the places on the input that a classifier's score comes from.

With a ``classifier`` after the global mean (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR
2016), a map is that classifier applied to each cell of the feature map of the same pass, which takes no extra time.
Without it, gradients weight the feature map (Selvaraju et al., "Grad-CAM", ICCV 2017), with a further pass for each
class.

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
        """The map of a class (rows, columns), without unit. It covers the network's input evenly."""


def hook_activation_maps(info: BundleInfo, network: Any) -> MapHooks | None:
    """Put hooks on a network for the maps of ``cam`` in ``reading.json``. None if there is no ``cam``.

    Raises:
        BundleError: the network lacks the layer, or is TorchScript, whose layers cannot be accessed.
    """
    cam = info.spec.cam
    if cam is None or info.spec.input.kind == "volume":
        return None
    if info.scripted:
        raise BundleError(
            f"{info.path}: cam in reading.json needs the layers of a network, and {info.weights.name} is TorchScript"
        )
    names = [name for name, _ in network.named_modules()]
    for what, layer in (("layer", cam.layer), ("classifier", cam.classifier)):
        if layer is not None and layer not in names:
            near = difflib.get_close_matches(layer, names, n=3, cutoff=0.3) or names[-3:]
            raise BundleError(
                f"{info.path}: cam.{what} in reading.json is {layer}, which the network does not have; "
                f"it has for example {', '.join(near)}"
            )
    return MapHooks(info, network)


class MapHooks:
    """Keeps the feature map of the last pass."""

    def __init__(self, info: BundleInfo, network: Any) -> None:
        from monai.visualize import GradCAM  # noqa: PLC0415  (see the module)
        from monai.visualize.class_activation_maps import ModelWithHooks  # noqa: PLC0415  (see the module)

        cam = info.spec.cam
        if cam is None:
            raise AssertionError("cam is None")
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

    def clear(self) -> None:
        """Forget the last pass."""
        if self._hooks is not None:
            self._hooks.activations.clear()
        self._passes = 0

    def _count(self, *_: Any) -> None:
        self._passes += 1

    def maps_of_pass(self, batch: Any, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Maps:
        """The maps of the pass of ``batch`` that has just run.

        Raises:
            BundleError: the inferer ran the network several times, or the layer gives no feature map.
        """
        if self._gradients is not None:
            return _GradientMaps(self._info, self._gradients, batch, affine, shape)
        if self._passes != 1:
            raise BundleError(
                f"{self._info.config}: the inferer runs the network {self._passes} times for an image, "
                "but a class activation map (cam in reading.json) needs a single run"
            )
        features = self._hooks.activations.get(self._layer) if self._hooks is not None else None
        if getattr(features, "ndim", 0) != 4:
            raise BundleError(
                f"{self._info.path}: cam.layer in reading.json, {self._layer}, gives "
                f"{tuple(getattr(features, 'shape', ()))}; a feature map (1, features, rows, columns) was expected"
            )
        return _ClassifierMaps(self._info, self._classifier, features, affine, shape)


class _ClassifierMaps:
    def __init__(self, info: BundleInfo, classifier: Any, features: Any, affine: Any, shape: tuple[int, ...]) -> None:
        import torch  # noqa: PLC0415  (see the module)

        self.affine, self.shape = affine, shape
        weight = getattr(classifier, "weight", None)
        try:
            with torch.inference_mode():
                if getattr(weight, "ndim", 2) > 2:  # a convolution, which takes the whole map
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


class _GradientMaps:
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
        except Exception as error:  # for example a network in which no gradient reaches the layer
            raise BundleError(
                f"{self._info.path}: no gradient reaches cam.layer of reading.json: {short(error)}"
            ) from None
        return np.asarray(found.to("cpu", torch.float32).numpy())
