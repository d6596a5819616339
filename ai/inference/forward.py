"""One pass through a bundle: image or volume -> preprocessing -> network -> postprocessing, with all affines.

torch and monai are imported when something runs, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai.bundle.build import Parts
from ai.bundle.files import METADATA, BundleError, BundleInfo
from ai.bundle.manifest import Output
from ai.contract import InstanceRef, ReadingError
from ai.inference.activation_maps import Maps, hook_activation_maps
from ai.inference.grid import Affine, as_matrix, map_to_input
from ai.inference.probe import check_affine
from ai.volumes.volume import MAX_VOXELS, Volume

_WHOLE = 1e-3  # the greatest distance of labels from whole numbers, which floats of 16 bits cause
_SIDE = 64  # voxels of a made-up volume: a power of 2, because networks halve it several times


@dataclass(frozen=True, slots=True, eq=False)
class ForwardResult:
    """The result of a pass.

    ``item`` is the transforms' dictionary after postprocessing. ``values`` (channels, ...) are its ``pred`` as float32,
    None for a detector. ``affine`` (4 x 4) maps indices of ``values``, and ``input_affine`` indices of the network's
    input, to the source: (row, column) of an image, mm (right, anterior, superior) of a volume. ``space`` maps the
    target space of the transforms' affines to the source. ``maps`` are the class activation maps of the pass, or None.
    """

    item: dict[str, Any]
    values: NDArray[np.float32] | None
    affine: Affine
    input_shape: tuple[int, ...]
    input_affine: Affine
    space: Affine
    maps: Maps | None

    @property
    def map_values(self) -> NDArray[np.float32]:
        """``values`` of a pass of anything but a detector."""
        if self.values is None:
            raise AssertionError("only a detector has none")
        return self.values


class Forward:
    """Runs the parts of a bundle."""

    def __init__(self, info: BundleInfo, parts: Parts, device: Any) -> None:
        self._info = info
        self._parts = parts
        self._device = device
        self._hooks = hook_activation_maps(info, parts.network)

    @property
    def network(self) -> Any:
        """The network, between preprocessing and postprocessing."""
        return self._parts.network

    def to(self, device: Any) -> None:
        """Move the parts to another device."""
        self._parts.to(device)
        self._device = device

    def image(self, display: NDArray[np.float32], *, checked: bool = False) -> ForwardResult:
        """Pass one image (rows, columns), greys 0 to 1. ``checked`` compares the input's shape with the metadata."""
        return self._run(*self._image_input(display), checked=checked)

    def volume(self, volume: Volume, *, checked: bool = False) -> ForwardResult:
        """Pass one volume. ``checked`` compares the input's shape with the metadata.

        Raises:
            ReadingError: with the spacing of the bundle, the volume has more than `ai.volumes.volume.MAX_VOXELS`.
        """
        if all(self._parts.spacing):
            space = abs(float(np.linalg.det(volume.affine[:3, :3]))) * float(np.prod(volume.values.shape))
            if (voxels := space / float(np.prod(self._parts.spacing))) > MAX_VOXELS:
                raise ReadingError(
                    f"at the spacing that the model wants the volume would have {voxels:.3g} voxels; "
                    f"at most {MAX_VOXELS} are read"
                )
        return self._run(self._volume_input(to_meta_tensor(volume)), np.eye(4), checked=checked)

    def check_affine(self) -> None:
        """Refuse preprocessing whose affine does not lead back to the image; see `ai.inference.probe`.

        Raises:
            BundleError: the affine is wrong.
        """
        if self._info.spec.task == "classification" and self._hooks is None:
            return  # it shows no places
        if self._info.spec.input.kind == "image":
            check_affine(self._info, self._parts, made_up_picture(), self._image_input)
            return
        volume = self.made_up_volume()
        to_index = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)

        def give(values: NDArray[np.float32]) -> tuple[Any, Affine]:
            return self._volume_input(to_meta_tensor(replace(volume, values=values))), to_index

        check_affine(self._info, self._parts, volume.values, give)

    def _image_input(self, display: NDArray[np.float32]) -> tuple[Any, Affine]:
        """The input of preprocessing for an image, and the affine from the space of the transforms to (row, column)."""
        import torch  # noqa: PLC0415  (see the module)
        from monai.data import MetaTensor  # noqa: PLC0415  (see the module)

        values = display * np.float32(255.0) if self._info.spec.input.gets == "bytes" else display
        if not self._parts.loads:
            image = MetaTensor(torch.from_numpy(values)[None], affine=torch.eye(4, dtype=torch.float64))
            return image, np.eye(4)
        # The form of MONAI's readers: columns first, colours last.
        plain = torch.from_numpy(values).transpose(0, 1)
        colours = self._info.input_channels == 3 and not self._parts.repeats
        if colours:
            plain = plain[..., None].expand(-1, -1, 3)
        meta = {
            "affine": torch.eye(4, dtype=torch.float64),
            "original_affine": torch.eye(4, dtype=torch.float64),
            "spatial_shape": np.asarray(plain.shape[:2]),
            "original_channel_dim": -1 if colours else "no_channel",
            "filename_or_obj": "image",
        }
        # The metadata are given at once, because they define the number of axes.
        image = MetaTensor(plain.contiguous(), meta=meta)
        swapped = np.eye(4)[[1, 0, 2, 3]]
        return image, swapped

    def _volume_input(self, image: Any) -> Any:
        """The input of preprocessing for a volume."""
        return image if self._parts.loads else image.unsqueeze(0)

    def made_up_volume(self) -> Volume:
        """A small synthetic volume with the spacing of the bundle, for a trial run."""
        ramp = np.linspace(0.0, 1.0, _SIDE**3, dtype=np.float32).reshape(_SIDE, _SIDE, _SIDE)
        low, high = {"modality": (-1000.0, 1000.0), "bytes": (0.0, 255.0)}.get(self._info.spec.input.gets, (0.0, 1.0))
        frames = tuple((InstanceRef("", "", ""), frame + 1) for frame in range(_SIDE))
        affine = np.diag([*(side or 1.0 for side in self._parts.spacing), 1.0])
        return Volume(np.float32(low) + ramp * np.float32(high - low), affine, frames, "")

    def _run(self, image: Any, space: Affine, *, checked: bool) -> ForwardResult:
        """Run all parts. ``space`` maps the target space of the image's affine to the source."""
        import torch  # noqa: PLC0415  (see the module)
        from monai.data import MetaTensor  # noqa: PLC0415  (see the module)

        key = self._parts.key
        with torch.inference_mode():
            item = self._parts.preprocessing({key: image})
            prepared = item[key]
            if not isinstance(prepared, MetaTensor):
                raise BundleError(
                    f"{self._info.config}: preprocessing gives {key} as a {type(prepared).__name__}; "
                    "a MetaTensor was expected, whose affine takes findings back to the image"
                )
            shape = tuple(int(side) for side in prepared.shape)
            self._check_input(shape, checked=checked)
            affine = as_matrix(prepared.affine)
            # A plain tensor: the network needs no metadata, and carrying them slows every layer.
            batch = prepared.as_tensor().unsqueeze(0).to(self._device)
            if self._hooks is not None:
                self._hooks.clear()
            out = self._parts.inferer(batch, self._parts.network)
            if self._info.spec.task == "detection":
                item |= self._detector_output(out)
                item = dict(self._parts.postprocessing(item))
                return ForwardResult(item, None, space @ affine, shape, space @ affine, space, None)
            pred = self._single_output(out)
            on_input = pred.ndim == len(shape)
            on_space = affine @ map_to_input(shape, tuple(pred.shape)) if on_input else affine
            item["pred"] = MetaTensor(pred, affine=torch.from_numpy(on_space)) if on_input else pred
            item = dict(self._parts.postprocessing(item))
            values, pred_affine = self._values(item, tuple(pred.shape), on_space)
        maps = self._hooks.maps_of_pass(batch, space @ affine, shape) if self._hooks is not None else None
        return ForwardResult(item, values, space @ pred_affine, shape, space @ affine, space, maps)

    def _check_input(self, shape: tuple[int, ...], *, checked: bool) -> None:
        axes = len(self._info.input_shape)
        if len(shape) != axes + 1:
            raise BundleError(
                f"{self._info.config}: preprocessing gives an array of {shape}; a channel axis and {axes} others "
                f"were expected, as network_data_format of {METADATA} and input.kind of reading.json say"
            )
        if not checked:
            return
        if shape[0] != self._info.input_channels:
            raise BundleError(
                f"{self._info.path / METADATA}: network_data_format says an input of {self._info.input_channels} "
                f"channels, but preprocessing gives {shape[0]}"
            )
        if any(a not in (None, b) for a, b in zip(self._info.input_shape, shape[1:], strict=True)):
            wanted = " x ".join("any" if side is None else str(side) for side in self._info.input_shape)
            raise BundleError(
                f"{self._info.path / METADATA}: network_data_format says an input of {wanted}, "
                f"but preprocessing gives an array of {shape}"
            )

    def _detector_output(self, out: Any) -> dict[str, Any]:
        """The output of a detector for the one image: a dict, alone or in a list."""
        first = out[0] if isinstance(out, list | tuple) and out else out
        if not isinstance(first, dict):
            raise BundleError(
                f"{self._info.config}: the detector gives a {type(out).__name__}; a list of dicts with boxes, labels "
                "and scores was expected"
            )
        return {str(key): value.as_tensor() if hasattr(value, "as_tensor") else value for key, value in first.items()}

    def _single_output(self, out: Any) -> Any:
        """The output for the one image. Of several outputs, the first is taken: it has the highest resolution."""
        import torch  # noqa: PLC0415  (see the module)

        if isinstance(out, dict):
            out = out.get("pred", next(iter(out.values()), None))
        if isinstance(out, list | tuple) and out:
            out = out[0]
        if not isinstance(out, torch.Tensor):
            raise BundleError(f"{self._info.config}: the network gives a {type(out).__name__}; a tensor was expected")
        return out[0]

    def _values(
        self, item: dict[str, Any], before: tuple[int, ...], affine: Affine
    ) -> tuple[NDArray[np.float32], Affine]:
        """``pred`` after postprocessing as an array, and its affine."""
        import torch  # noqa: PLC0415  (see the module)
        from monai.data import MetaTensor  # noqa: PLC0415  (see the module)

        if "pred" not in item:
            raise BundleError(f"{self._info.config}: postprocessing leaves no pred")
        pred = item["pred"]
        tensor = torch.as_tensor(pred).detach()
        shape = tuple(int(side) for side in tensor.shape)
        if isinstance(pred, MetaTensor):
            affine = as_matrix(pred.affine)
        elif len(shape) > 2 and shape[1:] != before[1:]:
            raise BundleError(
                f"{self._info.config}: postprocessing gives pred of {shape} out of {before} without an affine, so its "
                "place is unknown; a MetaTensor was expected"
            )
        tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
        if self._info.spec.activation == "sigmoid":
            tensor = torch.sigmoid(tensor.float())
        elif self._info.spec.activation == "softmax":
            if shape[:1] == (1,):  # it would be 1 everywhere
                raise BundleError(
                    f"{self._info.config}: pred has one channel, but activation in reading.json is softmax, "
                    "which needs several channels; sigmoid is for one"
                )
            tensor = torch.softmax(tensor.float(), dim=0)
        return np.asarray(tensor.to("cpu", torch.float32).numpy()), affine


def to_meta_tensor(volume: Volume) -> Any:
    """A volume (columns, rows, slices) as the MetaTensor that MONAI's LoadImage makes: no channel axis, affine in RAS+.

    The tensor shares the memory of ``volume.values``.
    """
    import torch  # noqa: PLC0415  (see the module)
    from monai.data import MetaTensor  # noqa: PLC0415  (see the module)

    meta = {
        "affine": torch.from_numpy(volume.affine.copy()),
        "original_affine": torch.from_numpy(volume.affine.copy()),
        "spatial_shape": np.array(volume.values.shape),
        "space": "RAS",
        "original_channel_dim": float("nan"),  # MONAI's mark for none
        "filename_or_obj": "volume",
    }
    return MetaTensor(torch.from_numpy(volume.values), meta=meta)


def made_up_picture() -> NDArray[np.float32]:
    """A synthetic image (rows, columns) for a trial run, from 0 at the top to 1 at the bottom."""
    return np.linspace(0.0, 1.0, 480 * 400, dtype=np.float32).reshape(480, 400)


def probabilities(info: BundleInfo, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check that an output holds probabilities of all classes, and return it: (channels, ...), 0 to 1.

    Raises:
        BundleError: channels are missing, or values are not finite or not from 0 to 1.
    """
    channels = max(max((output.channel, *output.joined)) for output in info.spec.outputs) + 1
    axes = 0 if info.spec.task == "classification" else len(info.input_shape)
    if axes == 0:
        values = np.atleast_1d(values.squeeze())
    if values.ndim != axes + 1 or values.shape[0] < channels:
        form = "(classes,)" if axes == 0 else f"(channels, {'height, width' if axes == 2 else 'three sides'})"
        raise BundleError(
            f"{info.config}: pred is an array of {values.shape}; {form} with at least {channels} channels was expected"
        )
    if not np.isfinite(values).all():
        raise BundleError(f"{info.path}: the output is not finite; the weights may be damaged")
    if values.min() < -1e-4 or values.max() > 1.0 + 1e-4:
        raise BundleError(
            f"{info.config}: pred lies between {values.min():g} and {values.max():g}; probabilities in 0..1 were "
            "expected (does postprocessing lack its activation? reading.json can name one)"
        )
    return np.clip(values, 0.0, 1.0)


def class_probabilities(info: BundleInfo, values: NDArray[np.float32]) -> Callable[[Output], NDArray[np.float32]]:
    """A function that returns a segmentation's probabilities of one output. Labels become probabilities of 1 and 0.

    Raises:
        BundleError: the output is not what ``prediction`` in ``reading.json`` says.
    """
    if info.spec.prediction == "channels":
        checked = probabilities(info, values)
        return lambda output: checked[output.channel]
    labels = label_map(info, values)
    return lambda output: (labels == output.channel).astype(np.float32)


def label_map(info: BundleInfo, values: NDArray[np.float32]) -> NDArray[np.int32]:
    """A segmentation's map of labels, without a channel axis.

    Raises:
        BundleError: the output is no map of labels.
    """
    axes = len(info.input_shape)
    if values.ndim == axes + 1 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != axes:
        raise BundleError(
            f"{info.config}: pred is an array of {values.shape}; one map of labels was expected, "
            "as prediction in reading.json says"
        )
    if not np.isfinite(values).all():
        raise BundleError(f"{info.path}: the output is not finite; the weights may be damaged")
    labels = np.rint(values)
    if np.abs(values - labels).max(initial=0.0) > _WHOLE:
        # A value between two labels would become a third label.
        raise BundleError(
            f"{info.config}: pred has values between whole numbers, so it is no map of labels, as prediction in "
            "reading.json says (is it interpolated? Invertd takes labels back with nearest_interp)"
        )
    return labels.astype(np.int32)
