"""CT and MR series -> a volume in patient space.

Slices are sorted by their positions in the patient. Missing slices, uneven distances and different images at one place
are refused with a reason. A tilted gantry is accepted: it shears the affine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, isqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ai.contract import InstanceRef, ReadingError
from ai.images import pixels
from ai.images.elements import frame_count, guarded, open_pixels, or_missing, text_of, whole_of
from ai.images.frame_data import FrameData
from ai.images.frames import IMAGE, of_frame
from ai.images.grayscale import GREYS, form_of, grey_of, grey_or_open, named_photometric, without_voi
from ai.images.voi import BlankError, Grey, Words, as_bytes, automatic_window, render
from ai.volumes.slices import Sheet, Slice, read_sheet
from ai.volumes.stacks import Flaw, Stack, placed_once, stacks_of

__all__ = ["MAX_VOXELS", "Volume", "load_volume"]

Values = Literal["display", "bytes", "modality"]

MAX_VOXELS = 750_000_000
"""Volumes of more voxels are refused: 3 GB, or 2800 slices of 512 x 512."""

_THREADS = 4
_CHUNK = 32
_SAMPLE = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Parallel slices as one array.

    ``values`` is float32 of shape (columns, rows, slices): index (i, j, k) is (column, row, slice), the order of axes
    that MONAI's LoadImage gives. It is a view of an array (slices, rows, columns), not contiguous. ``affine`` (4 x 4,
    float64) maps (i, j, k, 1) to patient mm in RAS+, the space of NIfTI and MONAI: DICOM's LPS with x and y negated.
    Its third column is not perpendicular to the others if the gantry was tilted. ``frames`` holds the instance and the
    frame (from 1) of each slice k. k rises along row cosines x column cosines.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    frames: tuple[tuple[InstanceRef, int], ...]
    modality: str


def load_volume(chosen: Sequence[InstanceRef], values: Values = "modality") -> Volume:
    """Read the slices of one stack, in any order.

    Devices round positions, so a slice may deviate from an even row by 5 % of the distance between slices, or by
    0.11 mm. The affine then runs from the first slice to the last.

    Args:
        chosen: images of one series, with one frame or many frames each. Exact copies of a slice are left out.
        values: "modality" is the result of each slice's modality transformation (Hounsfield units for CT), padding
            included and never inverted. "display" is 0 to 1 as on screen, with each slice's own window, or with a
            window of the whole volume if a slice has none. "bytes" is the same from 0 to 255, rounded.

    Raises:
        ReadingError: an image cannot be read or has no position, slices are missing or unevenly spaced, different
            images lie at one place, the images form several stacks, or all voxels are equal.
    """
    if not chosen:
        raise ReadingError("no image was chosen, so there is nothing to read")
    sheets = [_placed(one) for one in chosen]
    stacks = stacks_of((each for sheet in sheets for each in sheet.slices), same_pixels)
    stack = placed_once(stacks)
    if stack is None:
        raise ReadingError(f"the images are no single volume: they make {len(stacks)} stacks of slices")
    if stack.flaw is not Flaw.NONE:
        raise ReadingError(stack.reason)
    array = _decode(stack, values)
    return Volume(
        array.transpose(2, 1, 0),
        stack.affine(),
        tuple((each.instance, each.frame) for each in stack.slices),
        sheets[0].header.modality,
    )


@contextmanager
def _naming(instance: InstanceRef) -> Iterator[None]:
    """Name the instance in errors that are raised inside."""
    try:
        yield
    except ReadingError as error:
        raise ReadingError(f"instance {instance.sop_instance_uid}: {error}") from None


def _placed(instance: InstanceRef) -> Sheet:
    with _naming(instance):
        sheet = read_sheet(instance)
        if sheet.placeless:
            raise ReadingError(sheet.placeless)
        return sheet


def _decode(stack: Stack, values: Values) -> NDArray[np.float32]:
    """Decode all slices (slices, rows, columns) in several threads. The codecs release Python's global lock."""
    first = stack.slices[0]
    shape = (len(stack.slices), first.rows, first.columns)
    if (voxels := shape[0] * shape[1] * shape[2]) > MAX_VOXELS:
        raise ReadingError(
            f"{shape[0]} slices of {first.rows} x {first.columns} are {voxels} voxels; at most {MAX_VOXELS} are read"
        )
    out = np.empty(shape, dtype=np.float32)
    of_image: dict[str, list[int]] = {}
    for at, each in enumerate(stack.slices):
        of_image.setdefault(each.instance.sop_instance_uid, []).append(at)
    jobs = [some[i : i + _CHUNK] for some in of_image.values() for i in range(0, len(some), _CHUNK)]
    modality = _Modality()
    inverse: dict[int, bool] = {}  # of the slices without a window of their own

    def work(job: list[int]) -> None:
        frames = _frames([stack.slices[at] for at in job], windowed=values != "modality")
        for at, (words, grey) in zip(job, frames, strict=True):
            if values == "modality":
                out[at] = modality(words, grey)
            elif grey.voi is None:
                out[at] = np.where(grey.is_padding(words, grey.depth.values(words)), np.nan, modality(words, grey))
                inverse[at] = grey.inverse
            else:
                out[at] = _shown(words, grey)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, jobs):
            pass
    if inverse:
        _by_one_window(out, inverse)
    low, high = float(out.min()), float(out.max())
    if not isfinite(low) or not isfinite(high):
        raise ReadingError("RescaleSlope and RescaleIntercept give values beyond what a float of 32 bits can hold")
    if low == high:
        raise ReadingError("every voxel has the same value, a volume was expected")
    if values == "bytes":
        for plane in out:
            plane[...] = as_bytes(plane)
    return out


def _frames(slices: Sequence[Slice], *, windowed: bool) -> Iterator[tuple[Words, Grey]]:
    """The stored words of frames of one instance, with their pipelines. A wrong window counts as missing."""
    instance = slices[0].instance
    with _naming(instance), guarded(), open_pixels(instance.content, IMAGE) as (dataset, syntax, value):
        photometric = text_of(dataset, "PhotometricInterpretation")
        if photometric not in GREYS:
            raise ReadingError(
                f"PhotometricInterpretation is {named_photometric(photometric)}; {' or '.join(GREYS)} was expected"
            )
        if (samples := whole_of(dataset, "SamplesPerPixel")) != 1:
            raise ReadingError(f"SamplesPerPixel is {or_missing(samples)}; 1 was expected")
        form = form_of(dataset)
        data = FrameData(value, dataset, form, frame_count(dataset), syntax)
        for each in slices:
            own = of_frame(dataset, each.frame)
            grey = grey_or_open(own, form, syntax) if windowed else grey_of(without_voi(own), form, syntax)
            yield pixels.words(data[each.frame], value.vr, form, syntax), grey


class _Modality:
    """Words -> values after the modality stage, by a table that is kept while slices share it."""

    def __init__(self) -> None:
        self._last: tuple[object, NDArray[np.float32]] | None = None

    def __call__(self, words: Words, grey: Grey) -> NDArray[np.float32]:
        if grey.depth.allocated > 16:
            return _float32(grey.modality_values(grey.depth.values(words)))
        last = self._last
        # A look-up table of the file is not compared: a new object equals no other key.
        key = (grey.depth, grey.modality if isinstance(grey.modality, tuple) else object())
        if last is None or last[0] != key:
            domain = np.arange(1 << max(grey.depth.allocated, 8), dtype=np.uint32)
            last = self._last = (key, _float32(grey.modality_values(grey.depth.values(domain))))
        return np.take(last[1], words, mode="clip")


def _float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # the caller checks for overflow
        return values.astype(np.float32)


def _shown(words: Words, grey: Grey) -> NDArray[np.float32]:
    try:
        return render(words, grey)
    except BlankError as blank:  # a volume may have slices outside the patient
        return np.full(words.shape, blank.grey, dtype=np.float32)


def _by_one_window(out: NDArray[np.float32], inverse: dict[int, bool]) -> None:
    """Replace values by greys in slices without a window. One window for all makes the slices comparable."""
    each = sorted(inverse)
    step = max(1, isqrt(len(each) * out[0].size // _SAMPLE))
    sample = out[each, ::step, ::step].astype(np.float64)
    window = automatic_window(sample[np.isfinite(sample)], None)
    for at in each:
        values = out[at].astype(np.float64)
        padding = np.isnan(values)
        grey = window(np.where(padding, 0.0, values))
        out[at] = np.where(padding, 0.0, 1.0 - grey if inverse[at] else grey)


def same_pixels(one: Slice, other: Slice) -> bool:
    """Whether two slices have equal values after the modality stage. False if one cannot be read."""
    modality = _Modality()
    try:
        (first,), (second,) = ([modality(*pair) for pair in _frames([each], windowed=False)] for each in (one, other))
    except ReadingError:
        return False
    return np.array_equal(first, second)
