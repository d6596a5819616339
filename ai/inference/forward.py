"""One pass through a bundle: what is given -> preprocessing -> network -> postprocessing, and where everything lies.

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
from ai.inference.activation_maps import Maps, activation_maps
from ai.inference.grid import Affine, cells, numbers
from ai.inference.probe import check_places
from ai.volumes.volume import MAX_VOXELS, Volume

_WHOLE = 1e-3  # as far as labels may be from whole numbers after computing with floats of 16 bits
_SIDE = 64  # voxels of a made-up volume: what networks halve again and again comes out even


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What came out of a pass.

    ``item`` is the transforms' dictionary after postprocessing; ``pred`` in it is ``values`` as an array (float32),
    absent for a detector. ``affine`` maps indices of ``values``, ``input_affine`` those of the network's input, to the
    space of what was given: (row, column) of an image, mm (right, anterior, superior) of a volume. ``space`` maps there
    from where the transforms' affines lead. ``maps`` gives the class activation maps of the pass.
    """

    item: dict[str, Any]
    values: NDArray[np.float32] | None
    affine: Affine
    input_shape: tuple[int, ...]
    input_affine: Affine
    space: Affine
    maps: Maps | None

    @property
    def answered(self) -> NDArray[np.float32]:
        """``values`` of a pass that is no detector's."""
        if self.values is None:
            raise AssertionError("only a detector has none")
        return self.values


class Forward:
    """Runs a bundle's parts."""

    def __init__(self, info: BundleInfo, parts: Parts, device: Any) -> None:
        self._info = info
        self._parts = parts
        self._device = device
        self._hooks = activation_maps(info, parts.network)

    @property
    def network(self) -> Any:
        """What stands between preprocessing and postprocessing."""
        return self._parts.network

    def to(self, device: Any) -> None:
        """Move to another device."""
        self._parts.to(device)
        self._device = device

    def image(self, display: NDArray[np.float32], *, checked: bool = False) -> Passed:
        """A pass of one image (rows x columns, greys from 0 to 1)."""
        return self._run(*self._picture(display), checked=checked)

    def volume(self, volume: Volume, *, checked: bool = False) -> Passed:
        """Pass one volume.

        Raises:
            ReadingError: at the spacing that the bundle wants it would have more than `ai.volumes.volume.MAX_VOXELS`.
        """
        if all(self._parts.spacing):
            space = abs(float(np.linalg.det(volume.affine[:3, :3]))) * float(np.prod(volume.values.shape))
            if (voxels := space / float(np.prod(self._parts.spacing))) > MAX_VOXELS:
                raise ReadingError(
                    f"at the spacing that the model wants the volume would have {voxels:.3g} voxels; "
                    f"at most {MAX_VOXELS} are read"
                )
        return self._run(self._stack(to_meta_tensor(volume)), np.eye(4), checked=checked)

    def check_places(self) -> None:
        """Refuse preprocessing after which nobody knows where on the image something is; see `ai.inference.probe`.

        Raises:
            BundleError: it does so.
        """
        if self._info.spec.task == "classification" and self._hooks is None:
            return  # it points at nothing
        if self._info.spec.input.kind == "image":
            check_places(self._info, self._parts, made_up_picture(), self._picture)
            return
        volume = self.made_up()
        to_index = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)

        def give(values: NDArray[np.float32]) -> tuple[Any, Affine]:
            return self._stack(to_meta_tensor(replace(volume, values=values))), to_index

        check_places(self._info, self._parts, volume.values, give)

    def _picture(self, display: NDArray[np.float32]) -> tuple[Any, Affine]:
        """What preprocessing gets of an image, and from where its affine leads to (row, column)."""
        import torch  # noqa: PLC0415  (see the module)
        from monai.data import MetaTensor  # noqa: PLC0415  (see the module)

        values = display * np.float32(255.0) if self._info.spec.input.gets == "bytes" else display
        if not self._parts.loads:
            image = MetaTensor(torch.from_numpy(values)[None], affine=torch.eye(4, dtype=torch.float64))
            return image, np.eye(4)
        # As MONAI's readers leave a picture: columns first, the colours last.
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
        image = MetaTensor(plain.contiguous(), meta=meta)  # with its metadata at once: they tell how many axes it has
        swapped = np.eye(4)[[1, 0, 2, 3]]
        return image, swapped

    def _stack(self, image: Any) -> Any:
        """What preprocessing gets of a volume."""
        return image if self._parts.loads else image.unsqueeze(0)

    def made_up(self) -> Volume:
        """A small volume of nothing, with the spacing that the bundle wants, to run it with."""
        ramp = np.linspace(0.0, 1.0, _SIDE**3, dtype=np.float32).reshape(_SIDE, _SIDE, _SIDE)
        low, high = {"modality": (-1000.0, 1000.0), "bytes": (0.0, 255.0)}.get(self._info.spec.input.gets, (0.0, 1.0))
        frames = tuple((InstanceRef("", "", ""), frame + 1) for frame in range(_SIDE))
        affine = np.diag([*(side or 1.0 for side in self._parts.spacing), 1.0])
        return Volume(np.float32(low) + ramp * np.float32(high - low), affine, frames, "")

    def _run(self, image: Any, space: Affine, *, checked: bool) -> Passed:
        """``space`` maps where the image's affine leads to the space of what was given."""
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
            affine = numbers(prepared.affine)
            # A plain tensor: the network needs no metadata, and every layer would pay for carrying it.
            batch = prepared.as_tensor().unsqueeze(0).to(self._device)
            if self._hooks is not None:
                self._hooks.forget()
            out = self._parts.inferer(batch, self._parts.network)
            if self._info.spec.task == "detection":
                item |= self._boxes(out)
                item = dict(self._parts.postprocessing(item))
                return Passed(item, None, space @ affine, shape, space @ affine, space, None)
            pred = self._first(out)
            on_input = pred.ndim == len(shape)
            on_space = affine @ cells(shape, tuple(pred.shape)) if on_input else affine
            item["pred"] = MetaTensor(pred, affine=torch.from_numpy(on_space)) if on_input else pred
            item = dict(self._parts.postprocessing(item))
            values, pred_affine = self._values(item, tuple(pred.shape), on_space)
        maps = self._hooks.taken(batch, space @ affine, shape) if self._hooks is not None else None
        return Passed(item, values, space @ pred_affine, shape, space @ affine, space, maps)

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

    def _boxes(self, out: Any) -> dict[str, Any]:
        """A detector's answer on the one image: a dict, alone or in a list."""
        first = out[0] if isinstance(out, list | tuple) and out else out
        if not isinstance(first, dict):
            raise BundleError(
                f"{self._info.config}: the detector gives a {type(out).__name__}; a list of dicts with boxes, labels "
                "and scores was expected"
            )
        return {str(key): value.as_tensor() if hasattr(value, "as_tensor") else value for key, value in first.items()}

    def _first(self, out: Any) -> Any:
        """The output for the one image: of several outputs the first, which is the finest."""
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
            affine = numbers(pred.affine)
        elif len(shape) > 2 and shape[1:] != before[1:]:
            raise BundleError(
                f"{self._info.config}: postprocessing gives pred of {shape} out of {before} without an affine, so that "
                "nobody knows where it lies; a MetaTensor was expected"
            )
        tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
        if self._info.spec.activation == "sigmoid":
            tensor = torch.sigmoid(tensor.float())
        elif self._info.spec.activation == "softmax":
            if shape[:1] == (1,):  # it would be 1 wherever and whatever it is
                raise BundleError(
                    f"{self._info.config}: pred has one channel, but activation in reading.json is softmax, "
                    "which weighs several against each other; sigmoid is for one"
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
    """Greys that grow from the top (0) to the bottom (1)."""
    return np.linspace(0.0, 1.0, 480 * 400, dtype=np.float32).reshape(480, 400)


def probabilities(info: BundleInfo, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check that an output holds what it must: so many channels, finite, from 0 to 1.

    Raises:
        BundleError: it does not.
    """
    channels = max(output.channel for output in info.spec.outputs) + 1
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


def of_class(info: BundleInfo, values: NDArray[np.float32]) -> Callable[[Output], NDArray[np.float32]]:
    """A segmentation's probabilities of one output; labels are probabilities of 1 and 0.

    Raises:
        BundleError: the output is not what ``prediction`` in ``reading.json`` says.
    """
    if info.spec.prediction == "channels":
        checked = probabilities(info, values)
        return lambda output: checked[output.channel]
    labels = labels_of(info, values)
    return lambda output: (labels == output.channel).astype(np.float32)


def labels_of(info: BundleInfo, values: NDArray[np.float32]) -> NDArray[np.int32]:
    """A segmentation's map of labels, without a channel axis.

    Raises:
        BundleError: the output is none.
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
        # What lies between two labels would be a third, which nobody saw.
        raise BundleError(
            f"{info.config}: pred has values between whole numbers, so it is no map of labels, as prediction in "
            "reading.json says (is it interpolated? Invertd takes labels back with nearest_interp)"
        )
    return labels.astype(np.int32)
