"""A MONAI bundle on disk -> a warm model.

A bundle is a directory: ``configs/metadata.json`` and ``configs/inference.json`` as MONAI defines them,
``configs/reading.json`` (`ai.manifest`) and ``models/model.pt``. Of ``inference.json`` four entries count:
``network_def``, ``preprocessing`` (``image`` -> ``image``), ``inferer`` and ``postprocessing`` (``pred`` -> ``pred``).
Preprocessing gets ``image`` as a MetaTensor of shape (1, rows, columns), float32 in 0..1 with bone white, whose affine
is the identity over (row, column) indices; what it does to the affine takes the findings back to the full resolution.
Postprocessing returns ``pred`` as probability maps of shape (channels, height, width) over the area of that image.

**A bundle is code.** MONAI's configuration runs any Python that stands in it (``$...`` expressions, ``_target_``), so a
bundle is installed by an administrator, from a source that is trusted like any other program, and never by a peer. Its
weights are read as plain tensors (``weights_only``).

torch and monai are imported by `load` alone: `describe` and `bundle_digest` do without.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ai._bundle_files import (
    BUILT,
    INFERENCE,
    METADATA,
    WEIGHTS,
    BundleError,
    BundleInfo,
    bundle_digest,
    describe,
    shipped,
    short,
)
from ai._selection import select
from ai.contract import (
    ClassResult,
    Finding,
    HeatMap,
    InstanceRef,
    ModelIdentity,
    PassedOver,
    Presence,
    Reading,
    ReadingError,
    Region,
    Selection,
    SeriesRef,
)
from ai.images import Radiograph, laterality, load_radiograph
from ai.manifest import Output
from ai.shelf import Title

if TYPE_CHECKING:
    from ai.tasks import Box

__all__ = [
    "BundleError",
    "BundleInfo",
    "BundleModel",
    "bundle_digest",
    "describe",
    "load",
    "select",
    "shipped",
    "title",
]


def load(path: Path, *, device: str = "cpu", threads: int | None = None) -> BundleModel:
    """Load a bundle and run it once, so that the first study finds it warm and what is wrong with it shows now.

    Args:
        path: the directory of the bundle.
        device: a torch device, ``"cpu"`` or ``"cuda:0"``.
        threads: how many CPU threads torch may use in this process; None leaves it to torch.

    Raises:
        BundleError: the bundle cannot be read, built, filled with its weights, or run.
    """
    info = describe(path)
    # The libraries warn of their own future; nobody who runs a node can act on it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch  # noqa: PLC0415  (seconds, and the receiving process does without)

        if threads is not None:
            torch.set_num_threads(threads)
        place = _device(device)
        parts = _build(info, place)
        _fill(info, parts["network_def"], place)
        model = BundleModel(info, place, parts)
        model.warm_up()
    return model


def title(path: Path, *, threads: int | None = None) -> Title:
    """A bundle as a shelf knows it before it is loaded.

    Raises:
        BundleError: see `describe`.
    """
    info = describe(path)
    return Title(
        identity=info.identity,
        select=partial(select, info.spec.input),
        bytes=sum(file.stat().st_size for file in (path / "models").iterdir() if file.is_file()),
        load=lambda device: load(path, device=device, threads=threads),
    )


class BundleModel:
    """A loaded bundle; `ai.contract.Model`. Made by `load`."""

    def __init__(self, info: BundleInfo, device: Any, parts: Mapping[str, Any]) -> None:
        self.info = info
        self._device = device
        self._network = parts["network_def"]
        self._preprocessing = parts["preprocessing"]
        self._inferer = parts["inferer"]
        self._postprocessing = parts["postprocessing"]

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest of what is loaded."""
        return self.info.identity

    def to(self, device: str) -> None:
        """Move the weights to a device of torch.

        Raises:
            BundleError: torch cannot use it.
        """
        self._device = _device(device)
        self._network.to(self._device)

    def select(self, series: Sequence[SeriesRef]) -> Selection:
        """Choose what to read by headers alone; see `ai._selection.select`."""
        return select(self.info.spec.input, series)

    def read(self, selection: Selection) -> Reading:
        """Read the chosen instances.

        Where one of several cannot be read, what was found on the others counts, and no class is called absent: a study
        half read must not look like a negative one.

        Raises:
            ReadingError: nothing was chosen, or no instance can be read; the message names one.
        """
        if not selection.chosen:
            raise ReadingError("no image was chosen, so there is nothing to read")
        seconds = {"decode": 0.0, "network": 0.0, "findings": 0.0}
        findings: list[Finding] = []
        heat_maps: list[HeatMap] = []
        failed: list[PassedOver] = []
        best = [0.0 for _ in self.info.spec.outputs]
        for instance in selection.chosen:
            try:
                found, heat, scores = self._read_one(instance, seconds)
            except ReadingError as error:
                failed.append(PassedOver(instance.sop_instance_uid, str(error)))
                continue
            findings += found
            heat_maps += heat
            best = [max(pair) for pair in zip(best, scores, strict=True)]
        if len(failed) == len(selection.chosen):
            raise ReadingError(f"instance {failed[0].uid}: {failed[0].reason}")
        unseen = {each.uid for each in failed}
        failed += selection.surplus
        return Reading(
            model=self.identity,
            sources=tuple(ref for ref in selection.chosen if ref.sop_instance_uid not in unseen),
            findings=tuple(findings),
            classes=tuple(
                _verdict(*pair, complete=not failed) for pair in zip(self.info.spec.outputs, best, strict=True)
            ),
            passed_over=selection.passed_over,
            seconds=tuple(seconds.items()),
            heat_maps=tuple(heat_maps),
            failed=tuple(failed),
        )

    def warm_up(self) -> None:
        """Run a made-up image through everything.

        Raises:
            BundleError: a step fails, or gives something else than the bundle declares.
        """
        ramp = np.linspace(0.0, 1.0, 480 * 400, dtype=np.float32).reshape(480, 400)
        try:
            maps, _ = self._maps(ramp, checked=True)
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self.info.path}: the bundle does not run: {short(error)}") from error
        if maps.shape[0] != self.info.output_channels:
            raise BundleError(
                f"{self.info.path / METADATA}: network_data_format says {self.info.output_channels} output channels, "
                f"but the bundle gives {maps.shape[0]}"
            )

    def _read_one(
        self, instance: InstanceRef, seconds: dict[str, float]
    ) -> tuple[list[Finding], list[HeatMap], tuple[float, ...]]:
        from ai.tasks import regions  # noqa: PLC0415  (scipy is not needed to describe a bundle)

        started = time.perf_counter()
        image = load_radiograph(instance.path)
        if image.sop_instance_uid != instance.sop_instance_uid:
            raise ReadingError("the file holds another instance than the one that was stored under its name")
        decoded = time.perf_counter()
        try:
            maps, affine = self._maps(image.display)
        except BundleError as error:
            raise ReadingError(str(error)) from None
        mapped = time.perf_counter()
        maps = _inside(maps, affine, image.rows, image.columns)
        boxes, scores = regions(maps, self.info.spec.outputs)
        found = [self._finding(image, affine, box) for box in boxes]
        heat = self._heat_maps(instance, maps, affine, scores)
        seconds["decode"] += decoded - started
        seconds["network"] += mapped - decoded
        seconds["findings"] += time.perf_counter() - mapped
        return found, heat, scores

    def _heat_maps(
        self, instance: InstanceRef, maps: NDArray[np.float32], affine: NDArray[np.float64], scores: Sequence[float]
    ) -> list[HeatMap]:
        """The probability map of each class that is present on the image.

        None where preprocessing turned or mirrored the image: its map does not lie upright on the image any more.
        """
        from ai.tasks import Box, to_image  # noqa: PLC0415  (see _read_one)

        turned = abs(affine[0, 1]) + abs(affine[1, 0]) > 1e-6 or min(affine[0, 0], affine[1, 1]) <= 0
        if turned:
            return []
        area = to_image(affine, Box(0, 0.0, 0.0, 0.0, float(maps.shape[2]), float(maps.shape[1])))
        return [
            HeatMap(
                instance.sop_instance_uid,
                output.key,
                maps[output.channel].copy(),
                area.left,
                area.top,
                area.right,
                area.bottom,
            )
            for output, score in zip(self.info.spec.outputs, scores, strict=True)
            if score >= output.threshold
        ]

    def _maps(self, display: NDArray[np.float32], *, checked: bool = False) -> tuple[NDArray[np.float32], Any]:
        """Probability maps (channels, height, width) of one image, and the affine from their cells to its pixels."""
        import torch  # noqa: PLC0415  (see load)
        from monai.data import MetaTensor  # noqa: PLC0415  (see load)

        with torch.inference_mode():
            image = MetaTensor(torch.from_numpy(display)[None], affine=torch.eye(4, dtype=torch.float64))
            item = self._preprocessing({"image": image})
            prepared = item["image"]
            if not isinstance(prepared, MetaTensor):
                raise BundleError(
                    f"{self.info.path / INFERENCE}: preprocessing gives image as a {type(prepared).__name__}; "
                    "a MetaTensor was expected, whose affine takes findings back to the image"
                )
            shape = tuple(int(side) for side in prepared.shape)
            if checked:
                self._check_input(shape)
            # A plain tensor: the network needs no metadata, and every layer would pay for carrying it.
            batch = prepared.as_tensor().unsqueeze(0).to(self._device)
            item["pred"] = self._inferer(batch, self._network)[0]
            pred = self._postprocessing(item)["pred"]
            maps = np.asarray(torch.as_tensor(pred).detach().to("cpu", torch.float32).numpy())
            affine = np.asarray(torch.as_tensor(prepared.affine).cpu().numpy(), dtype=np.float64)
        return self._checked(maps), affine @ _cells(shape, maps.shape)

    def _check_input(self, shape: tuple[int, ...]) -> None:
        declared = self.info.input_shape
        if len(shape) != 3 or any(a not in (None, b) for a, b in zip(declared, shape[1:], strict=True)):
            wanted = " x ".join("any" if side is None else str(side) for side in declared)
            raise BundleError(
                f"{self.info.path / METADATA}: network_data_format says an input of {wanted}, "
                f"but preprocessing gives an array of {shape}"
            )

    def _checked(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        channels = max(output.channel for output in self.info.spec.outputs) + 1
        if maps.ndim != 3 or maps.shape[0] < channels:
            raise BundleError(
                f"{self.info.path / INFERENCE}: pred is an array of {maps.shape}; "
                f"(channels, height, width) with at least {channels} channels was expected"
            )
        if not np.isfinite(maps).all():
            raise BundleError(f"{self.info.path}: the output is not finite; the weights may be damaged")
        if maps.min() < -1e-4 or maps.max() > 1.0 + 1e-4:
            raise BundleError(
                f"{self.info.path / INFERENCE}: pred lies between {maps.min():g} and {maps.max():g}; probabilities "
                "in 0..1 were expected (does postprocessing lack its activation?)"
            )
        return np.clip(maps, 0.0, 1.0)

    def _finding(self, image: Radiograph, affine: NDArray[np.float64], box: Box) -> Finding:
        """A box on the full-resolution image, clipped to it."""
        from ai.tasks import to_image  # noqa: PLC0415  (see _read_one)

        output = next(output for output in self.info.spec.outputs if output.channel == box.channel)
        place = to_image(affine, box)
        left, right = (min(max(x, 0.0), float(image.columns)) for x in (place.left, place.right))
        top, bottom = (min(max(y, 0.0), float(image.rows)) for y in (place.top, place.bottom))
        return Finding(
            key=output.key,
            name=output.name,
            code=output.code.code(),
            score=box.score,
            region=Region(image.sop_instance_uid, left, top, right, bottom),
            site=output.site.code() if output.site else None,
            laterality=laterality(image, (left + right) / 2.0),
        )


def _verdict(output: Output, score: float, *, complete: bool) -> ClassResult:
    below = Presence.ABSENT if complete else Presence.UNDETERMINED
    return ClassResult(
        key=output.key,
        name=output.name,
        code=output.code.code(),
        score=score,
        threshold=output.threshold,
        presence=Presence.PRESENT if score >= output.threshold else below,
    )


def _inside(maps: NDArray[np.float32], affine: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float32]:
    """The maps with 0 in each cell whose centre lies beside the image: what a network sees in its padding is nothing.

    So each region has a part on the image, and no class is present without a place to show.
    """
    i, j = np.indices(maps.shape[1:], dtype=np.float64)
    row, column = (affine[k, 0] * i + affine[k, 1] * j + affine[k, 3] for k in (0, 1))
    inside = (row > -0.5) & (row < rows - 0.5) & (column > -0.5) & (column < columns - 0.5)
    return maps if inside.all() else np.where(inside, maps, np.float32(0.0))


def _cells(inputs: tuple[int, ...], maps: tuple[int, ...]) -> NDArray[np.float64]:
    """From the index of a map's cell to the index of the network's input; a map may be coarser than the input."""
    affine = np.eye(4)
    for axis in (0, 1):
        ratio = inputs[axis + 1] / maps[axis + 1]
        affine[axis, axis] = ratio
        affine[axis, 3] = (ratio - 1.0) / 2.0
    return affine


def _device(device: str) -> Any:
    import torch  # noqa: PLC0415  (see load)

    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BundleError(f"device {device!r} cannot be used by torch: {short(error)}") from error
    return place


def _build(info: BundleInfo, device: Any) -> dict[str, Any]:
    """Have MONAI build what ``inference.json`` describes."""
    from monai.bundle import ConfigParser  # noqa: PLC0415  (see load)

    file = info.path / INFERENCE
    try:
        parser = ConfigParser()
        parser.read_config(str(file))
        parser.read_meta(str(info.path / METADATA))
        parser["bundle_root"] = str(info.path)
        parser["device"] = f"$torch.device('{device}')"
        parser.parse()
    except Exception as error:  # a config is code and can fail in any way
        raise BundleError(f"{file}: cannot be parsed: {short(error)}") from error
    parts: dict[str, Any] = {}
    for name in BUILT:
        try:
            parts[name] = parser.get_parsed_content(name, instantiate=True)
        except Exception as error:
            raise BundleError(f"{file}: {name} cannot be built: {short(error)}") from error
        if not callable(parts[name]):
            raise BundleError(f"{file}: {name} is a {type(parts[name]).__name__}; something to call was expected")
    return parts


def _fill(info: BundleInfo, network: Any, device: Any) -> None:
    """Put the weights into the network and make it ready to infer."""
    import torch  # noqa: PLC0415  (see load)

    file = info.path / WEIGHTS
    if not isinstance(network, torch.nn.Module):
        raise BundleError(f"{info.path / INFERENCE}: network_def is a {type(network).__name__}; a network was expected")
    try:
        weights = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file fails inside pickle or zip in many ways
        raise BundleError(f"{file}: is no file of weights that torch reads: {short(error)}") from error
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BundleError(f"{file}: the weights do not fit network_def: {short(error)}") from error
    network.to(device).eval().requires_grad_(False)
