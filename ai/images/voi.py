"""The greyscale pipeline of PS3.3 C.11 and PS3.4 N.2 in numbers: stored words -> what stands on the screen.

Nothing here knows DICOM elements: `ai.images.radiograph` reads and checks them and describes the pipeline as a `Grey`.
Up to 16 bits a word the whole pipeline is worked out once for each possible word, in float64, and the image is one
look-up.
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

# The automatic window leaves out this share of the pixels at either end: markers, dead pixels, the unexposed border.
_TAIL = 0.005
# So many pixels settle a percentile; more only take time.
_SAMPLE = 1_000_000
_CHUNK_ROWS = 16


class BlankError(ReadingError):
    """An image that shows one ``grey`` (0 is black) throughout: nothing to read, but something to look at."""

    def __init__(self, message: str, grey: float = 0.0) -> None:
        super().__init__(message)
        self.grey = grey


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 C.11.2.1.2 and C.11.2.1.3."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Width (PS3.3 C.11.2.1.2), in values after the modality stage."""

    center: float
    width: float
    function: VoiFunction

    def __call__(self, values: Reals) -> Reals:
        """Map values to 0..1."""
        if self.function is VoiFunction.SIGMOID:
            # The exponent is bounded where the result has long been 0 or 1 in float64.
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0))))
        if self.function is VoiFunction.LINEAR_EXACT:
            return np.asarray(np.clip((values - self.center) / self.width + 0.5, 0.0, 1.0))
        center, width = self.center - 0.5, self.width - 1.0
        if width == 0.0:
            return np.asarray(values > center, dtype=np.float64)
        return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table (PS3.3 C.11.1.1 and C.11.2.1.1): ``entries[0]`` belongs to ``first`` and to all that is below it.

    ``top`` is the largest value that the declared bits of an entry can hold.
    """

    first: int
    entries: Reals
    top: float

    def __call__(self, values: Reals) -> Reals:
        """Map values to entries; fractions, which only a rescale can make, go to the nearest entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        return np.asarray(np.take(self.entries, index), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Depth:
    """How a pixel lies in its word (PS3.5 8.1.1).

    ``exact`` words are as the device stored them, so the bits outside of ``stored`` bits below and with ``high`` may
    hold anything and are cut off. Words out of a lossy codec have overshot instead and are clipped.
    """

    allocated: int
    stored: int
    high: int
    signed: bool
    exact: bool

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest stored value that these bits can hold."""
        return (-(1 << (self.stored - 1)), (1 << (self.stored - 1)) - 1) if self.signed else (0, (1 << self.stored) - 1)

    def whole(self, words: Words) -> Integers:
        """The words as integers of all their bits."""
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
    """The pipeline of one image.

    ``modality`` maps stored values (PS3.3 C.11.1); ``voi`` maps its output, and is absent where the image has none.
    ``padding`` is the closed range of stored values that are no image (PS3.3 C.7.5.1.1.2).
    """

    depth: Depth
    modality: Lut | tuple[float, float]
    voi: Lut | Window | None
    inverse: bool
    padding: tuple[int, int] | None

    def modality_values(self, stored: Integers) -> Reals:
        """The output of the modality stage.

        Raises:
            ReadingError: a value is beyond what a float can hold.
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
        """Which pixels are padding; some devices write a padding value that BitsStored cannot hold."""
        if self.padding is None:
            return np.zeros(stored.shape, dtype=np.bool_)
        low, high = self.padding
        whole = self.depth.whole(words)
        return ((stored >= low) & (stored <= high)) | ((whole >= low) & (whole <= high))


def render(words: Words, grey: Grey) -> NDArray[np.float32]:
    """What stands on the screen for ``words`` (rows x columns): float32 of the same shape in 0..1, 1 is white.

    Padding is black: the standard keeps it out of the dynamic range and viewers draw it as background. An image
    without a VOI stage gets a window from its own percentiles.

    Raises:
        BlankError: the image shows nothing: it is all padding, or one grey.
    """
    if grey.depth.allocated > 16:
        return _finish(_to_screen(words, grey, lambda keep, values: (values[keep], None), words_are_image=True))
    return _finish(_looked_up(words, _table(words, grey)))


def render_bytes(words: Words, grey: Grey) -> NDArray[np.uint8]:
    """`render` and `as_bytes` in one: the same bytes, without a picture of floats in between where a table will do.

    Raises:
        BlankError: as `render`.
    """
    if grey.depth.allocated <= 16:
        display = _looked_up(words, as_bytes(_table(words, grey)))
        if display.min() != display.max():
            return display
    return as_bytes(render(words, grey))  # which tells a blank image from one of hardly different greys


def _table(words: Words, grey: Grey) -> NDArray[np.float32]:
    """What stands on the screen for every possible word of at most 16 bits."""
    size = 1 << max(grey.depth.allocated, 8)
    counts = np.bincount(_sample(words).ravel(), minlength=size)

    def weigh(keep: NDArray[np.bool_], values: Reals) -> tuple[Reals, Integers]:
        seen = keep & (counts > 0)
        return values[seen], counts[seen]

    return _to_screen(np.arange(size, dtype=np.uint32), grey, weigh, words_are_image=False)


def _looked_up(words: Words, table: NDArray[_Shown]) -> NDArray[_Shown]:
    display = np.empty(words.shape, dtype=table.dtype)
    for start in range(0, words.shape[0], _CHUNK_ROWS):  # by chunks that stay in the cache: twice as fast
        rows = slice(start, start + _CHUNK_ROWS)
        # No word is outside of the table, and "clip" spares the check.
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
    """A window from the percentiles of the values, each of which stands ``counts`` times.

    Raises:
        BlankError: there is nothing between the darkest and the brightest value.
    """
    if values.size == 0:
        raise BlankError("every pixel is padding, an image was expected")
    order = np.argsort(values, kind="stable", axis=None)
    ranked = values.ravel()[order]
    below = np.cumsum(counts[order]) if counts is not None else np.arange(1, ranked.size + 1)
    low, high = ranked[np.searchsorted(below, np.array([_TAIL, 1.0 - _TAIL]) * below[-1]).clip(max=ranked.size - 1)]
    if low == high:  # a few bright pixels on an even ground
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
