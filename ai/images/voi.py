"""Computes the greyscale pipeline of PS3.3 section C.11 and PS3.4 section N.2: stored words -> displayed greys.

This module knows no DICOM elements. `ai.images.grayscale` reads and checks them, and describes the pipeline as a
`Grey`. For words of up to 16 bits, the pipeline is computed once for each possible word, in float64, and the image is
looked up in that table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, isqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ai.contract import ReadingError

Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]
Reals = NDArray[np.float64]
_Shown = TypeVar("_Shown", np.float32, np.uint8)
Integers = NDArray[np.int64]

# The automatic window ignores this share of pixels at either end: markers, dead pixels, the unexposed border.
_TAIL = 0.005
# The number of pixels that is enough for a percentile.
_SAMPLE = 1_000_000
_CHUNK_ROWS = 16


class BlankError(ReadingError):
    """An image of a single ``grey`` (0 is black, 1 is white). It can be displayed, but not read."""

    def __init__(self, message: str, grey: float = 0.0) -> None:
        super().__init__(message)
        self.grey = grey


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 sections C.11.2.1.2 and C.11.2.1.3."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Width (PS3.3 section C.11.2.1.2), in values after the modality stage."""

    center: float
    width: float
    function: VoiFunction

    def __call__(self, values: Reals) -> Reals:
        """Map values to 0..1."""
        if self.function is VoiFunction.SIGMOID:
            # The exponent is clipped where the result is 0 or 1 in float64.
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0))))
        if self.function is VoiFunction.LINEAR_EXACT:
            return np.asarray(np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0))
        center, width = self.center - 0.5, self.width - 1.0
        if width == 0.0:
            return np.asarray(values > center, dtype=np.float64)
        return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table (PS3.3 sections C.11.1.1 and C.11.2.1.1). ``entries[0]`` is for the value ``first`` and below.

    ``top`` is the largest value of the declared bits of an entry.
    """

    first: int
    entries: Reals
    top: float

    def __call__(self, values: Reals) -> Reals:
        """Map values to entries. Fractions, which a rescale can make, are rounded."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(np.take(self.entries, index), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Depth:
    """The place of a pixel's bits in its word (PS3.5 section 8.1.1).

    ``exact`` words are those that the device stored: the bits outside the ``stored`` bits that end with bit ``high``
    may hold anything and are removed. Words from a lossy codec may overshoot and are clipped instead.
    """

    allocated: int
    stored: int
    high: int
    signed: bool
    exact: bool

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest stored value of these bits."""
        return (-(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1) if self.signed else (0, (1 << self.stored) - 1)

    def whole(self, words: Words) -> Integers:
        """The words as integers, with all their bits."""
        values = words.astype(np.int64)
        if self.signed:
            values -= (values >> (self.allocated - 1)) << self.allocated
        return values

    def values(self, words: Words) -> Integers:
        """The stored values of the words."""
        if not self.exact:
            return np.clip(self.whole(words), *self.range)
        values = (words.astype(np.int64) >> (self.high + 1 - self.stored)) & ((1 << self.stored) - 1)
        if self.signed:
            values -= (values >> (self.stored - 1)) << self.stored
        return values


@dataclass(frozen=True, slots=True)
class Grey:
    """The greyscale pipeline of one image.

    ``modality`` maps stored values (PS3.3 section C.11.1): a table, or (slope, intercept). ``voi`` maps the result, and
    is None if the image has no VOI stage. ``inverse`` is true if the lowest value is white. ``padding`` is the closed
    range of stored values that are padding (PS3.3 section C.7.5.1.1.2), or None.
    """

    depth: Depth
    modality: Lut | tuple[float, float]
    voi: Lut | Window | None
    inverse: bool
    padding: tuple[int, int] | None

    def modality_values(self, stored: Integers) -> Reals:
        """The output of the modality stage.

        Raises:
            ReadingError: a value is too large for a float.
        """
        if isinstance(self.modality, Lut):
            return self.modality(stored.astype(np.float64))
        slope, intercept = self.modality
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            raise ReadingError("RescaleSlope and RescaleIntercept give values that are not finite")
        return values

    def is_padding(self, words: Words, stored: Integers) -> NDArray[np.bool_]:
        """Whether each pixel is padding. Some devices write a padding value that needs more bits than BitsStored."""
        if self.padding is None:
            return np.zeros(stored.shape, dtype=np.bool_)
        low, high = self.padding
        whole = self.depth.whole(words)
        return ((stored >= low) & (stored <= high)) | ((whole >= low) & (whole <= high))


def render(words: Words, grey: Grey) -> NDArray[np.float32]:
    """The displayed greys of ``words`` (rows, columns): float32 of the same shape, 0 to 1, where 1 is white.

    Padding is black, because the standard excludes it from the dynamic range and viewers draw it as background. An
    image without a VOI stage gets a window from its own percentiles.

    Raises:
        BlankError: the image is all padding, or of one grey.
    """
    if grey.depth.allocated > 16:
        return _finish(_to_screen(words, grey, lambda keep, values: (values[keep], None), words_are_image=True))
    return _finish(_looked_up(words, _table(words, grey)))


def render_bytes(words: Words, grey: Grey) -> NDArray[np.uint8]:
    """The bytes of `as_bytes` of `render`, without an array of floats in between if a table is enough.

    Raises:
        BlankError: as in `render`.
    """
    if grey.depth.allocated <= 16:
        display = _looked_up(words, as_bytes(_table(words, grey)))
        if display.min() != display.max():
            return display
    return as_bytes(render(words, grey))  # which distinguishes a blank image from one with almost equal greys


def _table(words: Words, grey: Grey) -> NDArray[np.float32]:
    """The displayed grey of every possible word of at most 16 bits."""
    size = 1 << max(grey.depth.allocated, 8)
    counts = np.bincount(_sample(words).ravel(), minlength=size)

    def weigh(keep: NDArray[np.bool_], values: Reals) -> tuple[Reals, Integers]:
        seen = keep & (counts > 0)
        return values[seen], counts[seen]

    return _to_screen(np.arange(size, dtype=np.uint32), grey, weigh, words_are_image=False)


def _looked_up(words: Words, table: NDArray[_Shown]) -> NDArray[_Shown]:
    display = np.empty(words.shape, dtype=table.dtype)
    for start in range(0, words.shape[0], _CHUNK_ROWS):  # chunks that fit the cache are twice as fast
        rows = slice(start, start + _CHUNK_ROWS)
        # All words are inside the table, and "clip" saves the check.
        np.take(table, words[rows], out=display[rows], mode="clip")
    return display


def _to_screen(
    words: Words,
    grey: Grey,
    weigh: Callable[[NDArray[np.bool_], Reals], tuple[Reals, Integers | None]],
    *,
    words_are_image: bool,
) -> NDArray[np.float32]:
    stored = grey.depth.values(words)
    padding = grey.is_padding(words, stored)
    if words_are_image and padding.all():
        raise BlankError("every pixel is padding, an image was expected")
    values = grey.modality_values(stored)
    voi = grey.voi if grey.voi is not None else automatic_window(*weigh(~padding, values))
    shown = voi(values)
    if isinstance(voi, Lut):
        shown = shown / voi.top
    if grey.inverse:
        shown = 1.0 - shown
    return np.where(padding, 0.0, shown).astype(np.float32)


def _sample(words: Words) -> Words:
    step = max(1, isqrt(words.size // _SAMPLE))
    return words[::step, ::step]


def automatic_window(values: Reals, counts: Integers | None) -> Window:
    """A window from the percentiles of values, each of which occurs ``counts`` times (None for once).

    Raises:
        BlankError: there is no value, or only one.
    """
    if values.size == 0:
        raise BlankError("every pixel is padding, an image was expected")
    order = np.argsort(values, kind="stable", axis=None)
    ranked = values.ravel()[order]
    below = np.cumsum(counts[order]) if counts is not None else np.arange(1, ranked.size + 1)
    low, high = ranked[np.searchsorted(below, np.array([_TAIL, 1.0 - _TAIL]) * below[-1]).clip(max=ranked.size - 1)]
    if low == high:  # a few bright pixels on a uniform background
        low, high = ranked[0], ranked[-1]
    if low == high:
        raise BlankError("every pixel has the same value, an image was expected")
    width = float(high) - float(low)
    if not isfinite(width):
        raise ReadingError("the pixel values span more than can be shown")
    return Window(float(low) + width / 2.0, width, VoiFunction.LINEAR_EXACT)


def as_bytes(display: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Greys from 0 to 1 as bytes."""
    return np.asarray(np.rint(display * np.float32(255.0)), dtype=np.uint8)


def _finish(display: NDArray[np.float32]) -> NDArray[np.float32]:
    if display.min() == display.max():
        raise BlankError(
            "every pixel comes out as the same grey: the image is blank or its window misses its values",
            float(display.flat[0]),
        )
    return display
