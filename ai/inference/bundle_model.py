"""A MONAI bundle on disk -> a warm model.

A bundle is a directory: ``configs/metadata.json`` and ``configs/inference.json`` (or ``.yaml``) as MONAI defines them,
``models/model.pt`` (or ``model.ts``, TorchScript), and ``configs/reading.json`` (`ai.bundle.manifest`), which adds what
MONAI does not define. Bundles of MONAI's Model Zoo run unchanged. `ai.bundle.build` says which entries of a
configuration are used.

Preprocessing that begins with ``LoadImaged`` gets the form of MONAI's readers: an image as (columns, rows), a volume as
(columns, rows, slices) with its affine to patient space. Other preprocessing gets a volume with a channel axis in
front, and an image as (1, rows, columns) with the identity as its affine over (row, column) indices. The greys of an
image are float32 in 0..1 with bone white (0..255 with ``values`` in ``reading.json``). The affine after preprocessing
takes findings back to the full resolution.

**A bundle is code.** MONAI's configuration runs any Python in it (``$...`` expressions, ``_target_``). So a bundle is
installed by an administrator, from a source that is trusted like any other program, and never by a peer. Its weights
are read as plain tensors (``weights_only``).

torch and monai are imported by `load` alone; `ai.bundle.files` describes a bundle without them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ai.bundle.files import METADATA, BundleError, BundleInfo, describe, short
from ai.contract import (
    DEFAULT,
    Asked,
    Finding,
    HeatMap,
    InstanceRef,
    ModelIdentity,
    NotLookedFor,
    PassedOver,
    Reading,
    ReadingError,
    Segmentation,
    Selection,
    SeriesRef,
)
from ai.engine.shelf import Title
from ai.errors import where
from ai.images.radiograph import load_radiograph
from ai.inference.answers import class_results, only
from ai.selection.images import select
from ai.volumes.volume import load_volume

if TYPE_CHECKING:
    from ai.bundle.build import Parts
    from ai.inference.answers import ImageAnswer


def load(path: Path, *, device: str = "cpu", threads: int | None = None) -> BundleModel:
    """Load a bundle and run it once, so that it is warm for the first study and its faults show now.

    Args:
        path: the directory of the bundle.
        device: a torch device, ``"cpu"`` or ``"cuda:0"``.
        threads: the number of CPU threads for torch in this process. None leaves it to torch.

    Raises:
        BundleError: the bundle cannot be read, built, filled with its weights, or run.
        torch.OutOfMemoryError, MemoryError: the device or the machine has too little memory.
    """
    info = _described(path)
    # The libraries warn of their future changes, which do not concern those who run a node.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch  # noqa: PLC0415  (seconds, and the receiving process does without)

        from ai.bundle.build import build  # noqa: PLC0415  (so that what it imports is imported here alone)

        if threads is not None:
            torch.set_num_threads(threads)
        try:
            place = _device(device)
            model = BundleModel(info, place, build(info, place))
            model.warm_up()
        except BundleError as error:
            if (machine := _cause_of_kind(error, MemoryError, torch.OutOfMemoryError)) is not None:
                raise machine from None  # not a fault of the bundle
            raise
    return model


def title(path: Path, *, threads: int | None = None) -> Title:
    """The entry of a bundle on a shelf, before it is loaded.

    Raises:
        BundleError: as in `describe`.
    """
    info = _described(path)
    return Title(
        identity=info.identity,
        select=partial(select, info.spec.input),
        bytes=sum(file.stat().st_size for file in (path / "models").iterdir() if file.is_file()),
        load=lambda device: load(path, device=device, threads=threads),
    )


def _described(path: Path) -> BundleInfo:
    """What `describe` tells of a bundle; the identity of one for frontal chests has the field's weights as well."""
    info = describe(path)
    if not info.spec.input.adult_frontal_chest:
        return info
    from ai.anatomy.field import WEIGHTS, field_digest  # noqa: PLC0415  (scipy, for chests alone)

    try:
        digest = field_digest()
    except OSError as error:
        raise BundleError(f"{WEIGHTS}: cannot be read: {error.strerror}") from error
    return replace(info, identity=replace(info.identity, field_digest=digest))


@dataclass(frozen=True, slots=True)
class _OneImage:
    """What was read on one image."""

    findings: Sequence[Finding]
    heat_maps: Sequence[HeatMap]
    segmentations: Sequence[Segmentation]
    scores: tuple[float, ...]
    cautions: tuple[str, ...]
    dropped: int


class BundleModel:
    """A loaded bundle. It implements `ai.contract.Model` and is made by `load`."""

    def __init__(self, info: BundleInfo, device: Any, parts: Parts) -> None:
        from ai.inference.forward import Forward  # noqa: PLC0415  (see load)

        self.info = replace(info, spec=info.spec.at())
        self._forward = Forward(info, parts, device)

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest of the bundle."""
        return self.info.identity

    @property
    def network(self) -> Any:
        """The network (a torch module), for measurements of time."""
        return self._forward.network

    def to(self, device: str) -> None:
        """Move the weights to a device of torch.

        Raises:
            BundleError: torch cannot use the device.
        """
        self._forward.to(_device(device))

    def select(self, series: Sequence[SeriesRef]) -> Selection:
        """Choose the instances to read by their headers; see `ai.selection.images.select`."""
        return select(self.info.spec.input, series)

    def read(self, selection: Selection, asked: Asked = DEFAULT) -> Reading:
        """Read the chosen instances.

        If one of several images cannot be read, the findings on the others count, and no class is called absent: a
        study that was partly read must not look negative.

        Raises:
            ReadingError: nothing was chosen, or no instance can be read. The message names one instance. Or the bundle
                does not offer what was asked.
        """
        if not selection.chosen:
            raise ReadingError("no image was chosen, so there is nothing to read")
        try:
            info = replace(self.info, spec=self.info.spec.at(asked.operating_point))
            keys = info.spec.looked_for(asked.findings)
        except ValueError as error:
            raise ReadingError(str(error)) from None
        volume = info.spec.input.kind == "volume"
        found = self._read_volume(info, selection) if volume else self._read_images(info, selection, keys)
        # Whatever was found of a class that nobody asked for must appear nowhere.
        return replace(
            found,
            findings=tuple(one for one in found.findings if one.key in keys),
            classes=tuple(one for one in found.classes if one.key in keys),
            heat_maps=tuple(one for one in found.heat_maps if one.key in keys),
            segmentations=tuple(_only(found.segmentations, keys)),
            operating_point=info.spec.operating_point or "",
            not_looked_for=tuple(
                NotLookedFor(output.key, output.name, output.code.code())
                for output in info.spec.outputs
                if output.key not in keys
            ),
        )

    def _read_images(self, info: BundleInfo, selection: Selection, keys: Container[str]) -> Reading:
        seconds = {"decode": 0.0, "network": 0.0, "findings": 0.0}
        findings: list[Finding] = []
        heat_maps: list[HeatMap] = []
        segmentations: list[Segmentation] = []
        failed: list[PassedOver] = []
        cautions: list[str] = []
        dropped = 0
        best = [0.0 for _ in info.spec.outputs]
        for instance in selection.chosen:
            try:
                found = self._read_one(info, instance, keys, seconds)
            except ReadingError as error:
                failed.append(PassedOver(instance.sop_instance_uid, str(error)))
                continue
            findings += found.findings
            heat_maps += found.heat_maps
            segmentations += found.segmentations
            cautions += found.cautions
            dropped += found.dropped
            best = [max(pair) for pair in zip(best, found.scores, strict=True)]
        if len(failed) == len(selection.chosen):
            raise ReadingError(f"instance {failed[0].uid}: {failed[0].reason}")
        unseen = {each.uid for each in failed}
        failed += selection.surplus
        return Reading(
            model=self.identity,
            sources=tuple(ref for ref in selection.chosen if ref.sop_instance_uid not in unseen),
            findings=tuple(findings),
            classes=class_results(info.spec, best, complete=not failed),
            passed_over=selection.passed_over,
            seconds=tuple(seconds.items()),
            heat_maps=tuple(heat_maps),
            segmentations=tuple(segmentations),
            failed=tuple(failed),
            cautions=(*dict.fromkeys(cautions), *_told_of_dropped(dropped)),
            places_dropped=dropped,
        )

    def read_display(self, display: NDArray[np.float32]) -> ImageAnswer:
        """Read one image that is no DICOM file, whatever it looks like.

        Args:
            display: (rows, columns), float32 from 0 (black) to 1 (white) with bone white, as `ai.images.radiograph`
                makes it.

        Raises:
            ReadingError: the model reads volumes, the array has another form, or the model fails on it.
        """
        from ai.inference.image_answer import answer_image  # noqa: PLC0415  (see load)
        from ai.inference.places import field_of, limited  # noqa: PLC0415  (see load)

        if self.info.spec.input.kind != "image":
            raise ReadingError("the model reads volumes, a picture was given")
        if display.ndim != 2 or display.dtype != np.float32:
            raise ReadingError(
                f"the picture is an array of {display.shape}, {display.dtype}; (rows, columns), float32 was expected"
            )
        with _failing_as_reading_error(self.info):
            found = answer_image(self.info, self._forward.image(display), *display.shape)
        return limited(self.info.spec, found, field_of(self.info.spec, display))

    def warm_up(self) -> None:
        """Run a synthetic input through all parts.

        Raises:
            BundleError: a part fails, or its result differs from what the bundle declares.
        """
        from ai.inference.forward import made_up_picture  # noqa: PLC0415  (see load)
        from ai.inference.image_answer import answer_image  # noqa: PLC0415  (see load)
        from ai.inference.volume_answer import answer_volume  # noqa: PLC0415  (see load)

        try:
            if self.info.spec.input.kind == "volume":
                volume = self._forward.made_up_volume()
                result = self._forward.volume(volume, checked=True)
                answer_volume(self.info, result, volume)
            else:
                picture = made_up_picture()
                result = self._forward.image(picture, checked=True)
                answer_image(self.info, result, *picture.shape)
            self._forward.check_affine()
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self.info.path}: the bundle does not run: {short(error)}") from error
        declared, given = self.info.output_channels, 0 if result.values is None else result.values.shape[0]
        if declared is not None and given != declared:
            raise BundleError(
                f"{self.info.path / METADATA}: network_data_format says {declared} output channels, "
                f"but the bundle gives {given}"
            )

    def _read_volume(self, info: BundleInfo, selection: Selection) -> Reading:
        from ai.inference.volume_answer import answer_volume  # noqa: PLC0415  (see load)

        started = time.perf_counter()
        volume = load_volume(selection.chosen, info.spec.input.gets)
        decoded = time.perf_counter()
        with _failing_as_reading_error(info):
            result = self._forward.volume(volume)
            mapped = time.perf_counter()
            found = answer_volume(info, result, volume)
        held = {instance.sop_instance_uid for instance, _ in volume.frames}
        steps = {"decode": decoded - started, "network": mapped - decoded, "findings": time.perf_counter() - mapped}
        return Reading(
            model=self.identity,
            sources=tuple(ref for ref in selection.chosen if ref.sop_instance_uid in held),
            findings=found.findings,
            classes=class_results(info.spec, found.scores, complete=not selection.surplus),
            passed_over=selection.passed_over,
            seconds=tuple(steps.items()),
            segmentations=found.segmentations,
            failed=selection.surplus,
        )

    def _read_one(
        self, info: BundleInfo, instance: InstanceRef, keys: Container[str], seconds: dict[str, float]
    ) -> _OneImage:
        from ai.inference.image_answer import answer_image  # noqa: PLC0415  (see load)
        from ai.inference.outlines import outlined  # noqa: PLC0415  (see load)
        from ai.inference.places import caution_about, field_of, findings_of, limited  # noqa: PLC0415  (see load)

        started = time.perf_counter()
        image = load_radiograph(instance.content)
        if image.sop_instance_uid != instance.sop_instance_uid:
            raise ReadingError("the file holds another instance than the one that was stored under its name")
        decoded = time.perf_counter()
        field = field_of(info.spec, image.display)
        cautions = caution_about(field)
        looked = time.perf_counter()
        with _failing_as_reading_error(info):
            result = self._forward.image(image.display)
            mapped = time.perf_counter()
            answer = answer_image(info, result, image.rows, image.columns, image.spacing_mm)
        found = limited(info.spec, only(answer, keys), field)  # only places of what was asked for count as dropped
        findings = findings_of(info.spec, image, found, field)
        heat = [replace(one, sop_instance_uid=instance.sop_instance_uid) for one in found.heat_maps]
        known, segments = outlined(info.spec, found.masks, findings, *(image.spacing_mm or (1.0, 1.0)))
        drawn = [Segmentation("binary", ((instance, 1),), segments)] if segments else []
        seconds["decode"] += decoded - started
        seconds["network"] += mapped - looked
        seconds["findings"] += time.perf_counter() - mapped + looked - decoded
        return _OneImage(known, heat, drawn, found.scores, cautions, found.dropped)


@contextmanager
def _failing_as_reading_error(info: BundleInfo) -> Iterator[None]:
    """Raise an error of the bundle as a ReadingError: the bundle would fail on the image again.

    Errors of the machine (no memory, a failing device) are raised unchanged: another attempt may succeed.
    """
    import torch  # noqa: PLC0415  (see load)

    try:
        yield
    except BundleError as error:  # it is shown in a report, which must not name folders of this machine
        raise ReadingError(str(error).replace(str(info.path), info.identity.name)) from None
    except ReadingError:
        raise
    except Exception as error:  # a bundle is code and can fail in any way; its message may quote the image
        machine = _cause_of_kind(error, MemoryError, OSError, torch.OutOfMemoryError, torch.AcceleratorError)
        if machine is not None:
            raise machine from None
        raise ReadingError(f"the model cannot read this image: its bundle fails ({where(error)})") from None


def _cause_of_kind(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """The first of an error and its causes that is of one of these kinds. MONAI wraps errors of transforms.

    torch raises a RuntimeError if the machine has no memory, which becomes a MemoryError here.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RuntimeError) and "DefaultCPUAllocator" in str(found):
            found = MemoryError("the machine has no memory left for this reading")
        if isinstance(found, kinds):
            return found
        found = found.__cause__
    return None


def _only(segmentations: Sequence[Segmentation], keys: frozenset[str]) -> Iterator[Segmentation]:
    """The segmentations without the segments of other classes; those that have none left are left out."""
    for one in segmentations:
        if kept := tuple(segment for segment in one.segments if segment.key in keys):
            yield replace(one, segments=kept)


def _told_of_dropped(count: int) -> tuple[str, ...]:
    """The sentence about places that are not shown. Empty if there are none."""
    places = f"{count} place{'s' if count > 1 else ''}"
    return (f"Not shown, since outside the lungs or the body: {places}",) if count else ()


def _device(device: str) -> Any:
    import torch  # noqa: PLC0415  (see load)

    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BundleError(f"device {device!r} cannot be used by torch: {short(error)}") from error
    return place
