"""The pictures of a run: which there are, and how each is made of a source's pixels, the marks and the legend.

Start here for: how many pictures a study gets (:meth:`Scene.shots`), which one is on the PDF page (:meth:`Scene.page`),
the size of an image in its picture (:func:`size_of_image`) and the pixel aspect ratio.

An image gets a picture, and a second one with heat maps if a class is present. A stack (CT, MR, a cine loop) gets one
montage and a picture of each key slice, so that hundreds of slices do not become hundreds of pictures. A reading that
failed gets a card with words and no image: any image would look like an answer.

A large image is reduced and a small one enlarged. Marks and words are drawn after that, so they are sharp at any size.
The two pictures of one image have the same rows and columns: a viewer that changes from one to the other does not move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from ai.contract import ReadingError
from dicom_node.results.pictures import heat_maps
from dicom_node.results.pictures.captions import Captions
from dicom_node.results.pictures.drawing import DARK, Picture, in_colour, line_height, line_width, type_size
from dicom_node.results.pictures.legend import TEXT, Layout, Legend, lay_out, paint
from dicom_node.results.pictures.overlay import Overlay
from dicom_node.results.pictures.slices import Frame, key_frames, montage_frames
from dicom_node.results.pictures.typeface import drawable, font
from dicom_node.results.run import Run
from dicom_node.results.source_bytes import numbers_of, unsigned_of

if TYPE_CHECKING:
    from dicom_node.results.images import Images

Pixels = NDArray[np.uint8]

_LEGIBLE = 512
"""A source whose shorter side, in pixels, is below this is enlarged: labels in the smallest type need it."""

_CELL, _FEW = 384, 4
"""The side of a montage's cells, in pixels; with at most ``_FEW`` cells it is ``_LEGIBLE``."""

_CELL_LINE = 2
"""The width of lines in a montage's cells, in pixels: its images are small already."""

_MOST_ROWS = 65535
"""The largest number of rows: Rows (0028,0010) is US."""

_CARD = 1024
"""The side of a card without an image, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A finished picture (rows x columns x 3), the frames it shows, and how it was made of them.

    A card without an image has no frames. ``pixels_of_source``: its pixels are those of its one frame.
    """

    rgb: Pixels
    frames: tuple[Frame, ...]
    how: str
    pixels_of_source: bool


def size_of_image(rows: int, columns: int, most: int) -> tuple[int, int]:
    """The rows and columns of an image of this size in its picture.

    The longer side is ``most`` pixels at most (:attr:`Profile.sc_rows`): a larger image is reduced. A small one is
    multiplied by a whole number, so that its text is legible.
    """
    longest = max(rows, columns)
    if longest > most:
        return max(1, round(rows * most / longest)), max(1, round(columns * most / longest))
    wanted = -(-_LEGIBLE // min(rows, columns))
    factor = max(1, min(wanted, most // longest))
    return rows * factor, columns * factor


def pixel_aspect(header: Dataset) -> tuple[int, int] | None:
    """Height to width of a pixel (PS3.3 C.7.6.3.1.7) in whole numbers. None if it is square or unknown."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sides = numbers_of(header, keyword)
        if len(sides) == 2 and min(sides) > 0:
            ratio = Fraction(sides[0] / sides[1]).limit_denominator(1000)
            return None if abs(ratio - 1) < 0.005 or ratio == 0 else (ratio.numerator, ratio.denominator)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Sized:
    """A frame's pixels, grey or in colour, in the size of their picture: so many times as wide and as high.

    ``how`` says in words what was done.
    """

    pixels: Pixels
    across: float
    down: float
    how: str

    def rgb(self) -> Pixels:
        """A copy in colour, to draw on."""
        return in_colour(self.pixels)


class Scene:
    """The pictures of one run; ``headers`` are in the order of its sources, and pixels are read when needed."""

    def __init__(self, run: Run, headers: Sequence[Dataset], images: Images) -> None:
        self._reading, self._headers, self._images = run.reading, headers, images
        self._most = run.profile.sc_rows
        self._overlay = Overlay(run, headers)
        self._captions = Captions(run, headers, self._overlay)
        self._stack = self._overlay.stack

    def shots(self) -> Iterator[Shot]:
        """Every picture, one after another.

        Raises:
            ValueError: pixels do not have the shape and type that :class:`Images` demands.
        """
        if self._reading.failure:
            yield Shot(
                card(*self._captions.of_failure()), (), "Notice that the AI reading failed, without an image", False
            )
        elif self._stack.is_stack:
            yield from self._stacked()
        else:
            for source in range(len(self._headers)):
                yield from self._both(Frame(source, 1), self._pixels(Frame(source, 1)))

    def page(self) -> Pixels | None:
        """The picture for the PDF page, without a legend. None if the reading failed or it cannot be displayed."""
        if self._reading.failure:
            return None
        keys = key_frames(self._reading, self._stack)
        if self._stack.is_stack and not keys:
            return self._grid(montage_frames(self._stack, []), {})
        frame = keys[0] if keys else Frame(0, 1)
        pixels = self._pixels(frame)
        if pixels is None:
            return None
        rgb = _in_shape(self._marked(frame, self._sized(frame, pixels))[0], self._headers[frame.source])
        if len(self._stack) == 1:
            return rgb
        size = type_size(*rgb.shape[:2])
        return np.concatenate([rgb, _strip(self._captions.name(frame), rgb.shape[1], size, light=False)])

    # --- a frame ----------------------------------------------------------------------------------------------------

    def _both(self, frame: Frame, pixels: Pixels | None) -> Iterator[Shot]:
        """The picture of a frame and, if a present class has a heat map on it, the picture with heat maps."""
        sized = self._sized(frame, pixels)
        rgb, numbered = self._marked(frame, sized)
        heated = pixels is not None and bool(self._overlay.heated(frame))
        legends = [self._captions.of_frame(frame, numbered=numbered, shown=pixels is not None)]
        if heated:
            legends.append(self._captions.of_frame(frame, heated=True))
        bands = _bands(legends, *rgb.shape[:2])
        how = "Display copy of the source image with the findings burned in and a legend below the image"
        yield Shot(bands[0].with_picture(rgb), (frame,), how + sized.how, True)
        if heated:
            how = "Display copy of the source image with heat maps blended over it and a legend below the image"
            yield Shot(bands[1].with_picture(self._hot(frame, sized)), (frame,), how + sized.how, True)

    def _marked(self, frame: Frame, sized: _Sized) -> tuple[Pixels, bool]:
        """A frame with its marks, and whether its boxes have numbers in place of labels."""
        rgb = sized.rgb()
        picture = Picture(rgb)
        picture.outline(self._overlay.outlines(frame, rgb.shape[0], rgb.shape[1]))
        return rgb, picture.mark(self._overlay.boxes(frame, sized.across, sized.down))

    def _hot(self, frame: Frame, sized: _Sized) -> Pixels:
        """A frame with its heat maps and boxes."""
        rgb = sized.rgb()
        heats = self._overlay.heats(frame, sized.across, sized.down)
        line = line_width(*rgb.shape[:2]) // 2
        heat_maps.blend(rgb, heats, grey=sized.pixels.ndim == 2, line=line)
        Picture(rgb).mark(self._overlay.boxes(frame, sized.across, sized.down), labels=False)
        return rgb

    def _sized(self, frame: Frame, pixels: Pixels | None) -> _Sized:
        """A frame reduced or enlarged to the size that it has in its picture; black if it cannot be displayed."""
        if pixels is None:
            sides = [unsigned_of(self._headers[frame.source], keyword) or _LEGIBLE for keyword in ("Rows", "Columns")]
            rows, columns = size_of_image(sides[0], sides[1], self._most)
            return _Sized(np.zeros((rows, columns), np.uint8), columns / sides[1], rows / sides[0], "")
        was = (pixels.shape[0], pixels.shape[1])
        rows, columns = size_of_image(*was, self._most)
        how = ""
        if rows > was[0] or columns > was[1]:
            factor = rows // was[0]
            pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
            how = f", enlarged {factor} times by repeating pixels so that the text can be read"
        elif (rows, columns) != was:
            pixels = np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.HAMMING))
            how = f", the image reduced from {was[0]} x {was[1]} to {rows} x {columns} pixels"
        return _Sized(pixels, columns / was[1], rows / was[0], how)

    def _pixels(self, frame: Frame) -> Pixels | None:
        """A frame as it is displayed. None if it cannot be displayed: the other results must still be made."""
        try:
            pixels = np.asarray(self._images.pixels(self._reading.sources[frame.source], frame.number))
        except ReadingError:
            return None
        grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if not grey_or_colour or pixels.dtype != np.uint8 or pixels.size == 0:
            raise ValueError(f"expected rows x columns (x 3) of uint8, got {pixels.shape} of {pixels.dtype}")
        return pixels

    # --- a stack ----------------------------------------------------------------------------------------------------

    def _stacked(self) -> Iterator[Shot]:
        """The montage, and then each key frame."""
        keys = key_frames(self._reading, self._stack)
        kept: dict[Frame, Pixels | None] = dict.fromkeys(keys)
        frames = montage_frames(self._stack, keys)
        grid = self._grid(frames, kept)
        how = f"Display copies of {len(frames)} of {len(self._stack)} source images with the findings burned in, "
        how += "side by side and with a legend below"
        (band,) = _bands([self._captions.of_montage(frames, keys)], *grid.shape[:2])
        yield Shot(band.with_picture(grid), tuple(frames), how, False)
        for frame in keys:
            yield from self._both(frame, kept[frame])

    def _grid(self, frames: Sequence[Frame], kept: dict[Frame, Pixels | None]) -> Pixels:
        """Frames side by side with their names below, those of ``kept`` light; their pixels are put into ``kept``."""
        across = math.ceil(math.sqrt(1.2 * len(frames)))
        side = _CELL if len(frames) > _FEW else _LEGIBLE
        caption = line_height(side // 18)
        grid = np.zeros((-(-len(frames) // across) * (side + caption), across * side, 3), np.uint8)
        for place, frame in enumerate(frames):
            pixels = self._pixels(frame)
            if frame in kept:
                kept[frame] = pixels
            top, left = place // across * (side + caption), place % across * side
            cell = grid[top + 2 : top + side - 2, left + 2 : left + side - 2]
            if pixels is None:
                cell[:caption] = _strip(self._captions.no_picture, cell.shape[1], side // 18, light=False)
            else:
                self._shrink(frame, pixels, cell)
            strip = grid[top + side : top + side + caption, left + 2 : left + side - 2]
            strip[...] = _strip(self._captions.name(frame), strip.shape[1], side // 18, light=frame in kept)
        return grid

    def _shrink(self, frame: Frame, pixels: Pixels, cell: Pixels) -> None:
        """Draw a frame and its marks into a cell, in its true aspect ratio."""
        tall, wide = pixel_aspect(self._headers[frame.source]) or (1, 1)
        rows, columns = pixels.shape[0] * tall / wide, float(pixels.shape[1])
        scale = min(cell.shape[0] / rows, cell.shape[1] / columns)
        height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
        top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
        small = cell[top : top + height, left : left + width]
        small[...] = in_colour(np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)))
        picture = Picture(small, line=_CELL_LINE)
        picture.outline(self._overlay.outlines(frame, height, width))
        boxes = self._overlay.boxes(frame, width / pixels.shape[1], height / pixels.shape[0])
        picture.mark(boxes, labels=False)


def card(above: Legend, below: Legend) -> Pixels:
    """Words on black without an image: the large text ``above`` in the middle, and ``below`` at the bottom."""
    sized = ((above, _CARD // 22), (below, _CARD // 38))
    layouts = [lay_out(legend, size, _CARD) for legend, size in sized]
    width = max(each.columns for each in layouts)  # a wide table makes the card wider
    bands = [
        paint(layout if layout.columns == width else lay_out(legend, size, width), legend, size)
        for layout, (legend, size) in zip(layouts, sized, strict=True)
    ]
    upper, lower = bands
    height = max(_CARD, len(upper) + len(lower) + _CARD // 4)
    rgb = np.zeros((height, width, 3), np.uint8)
    top = (height - len(upper) - len(lower)) // 2
    rgb[top : top + len(upper)] = upper
    rgb[height - len(lower) :] = lower
    return rgb


@dataclass(frozen=True, slots=True)
class _Band:
    """A legend that is laid out for a picture, in type of ``size`` pixels; ``beside`` it if there is no room below."""

    legend: Legend
    layout: Layout
    size: int
    beside: bool

    def with_picture(self, picture: Pixels) -> Pixels:
        """The picture with the legend; black fills what neither covers, to the right of it or below."""
        rows, columns = picture.shape[:2]
        band = paint(self.layout, self.legend, self.size)
        if self.beside:
            rgb = np.zeros((max(rows, len(band)), columns + band.shape[1], 3), np.uint8)
            rgb[: len(band), columns:] = band
        else:
            rgb = np.zeros((rows + len(band), band.shape[1], 3), np.uint8)
            rgb[rows:] = band
        rgb[:rows, :columns] = picture
        return rgb


def _bands(legends: Sequence[Legend], rows: int, columns: int) -> list[_Band]:
    """The bands for pictures of this size; all of them are as wide and as deep as the largest."""
    size = type_size(rows, columns)
    layouts = _laid_out(legends, size, columns)
    beside = rows + layouts[0].rows > _MOST_ROWS
    if beside:
        layouts = _laid_out(legends, size, _CARD)
    return [_Band(legend, layout, size, beside) for legend, layout in zip(legends, layouts, strict=True)]


def _laid_out(legends: Sequence[Legend], size: int, columns: int) -> list[Layout]:
    layouts = [lay_out(each, size, columns) for each in legends]
    widest = max(each.columns for each in layouts)
    if any(each.columns < widest for each in layouts):
        layouts = [lay_out(each, size, widest) for each in legends]
    deepest = max(each.rows for each in layouts)
    return [replace(each, rows=deepest) for each in layouts]


def _in_shape(rgb: Pixels, header: Dataset) -> Pixels:
    """A picture in its true aspect ratio, for the PDF page; the pixels' longer side is stretched."""
    tall, wide = pixel_aspect(header) or (1, 1)
    rows, columns = rgb.shape[:2]
    stretched = (columns, round(rows * tall / wide)) if tall > wide else (round(columns * wide / tall), rows)
    if stretched == (columns, rows) or max(stretched) > _MOST_ROWS:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(stretched, Image.Resampling.BILINEAR))


def _strip(text: str, width: int, size: int, *, light: bool) -> Pixels:
    """A line of type; dark on light if the frame above it has a picture of its own."""
    image = Image.new("RGB", (width, line_height(size)), TEXT if light else DARK)
    at = image.width // 2, image.height // 2
    ImageDraw.Draw(image).text(at, drawable(text), fill=DARK if light else TEXT, font=font(size), anchor="mm")
    return np.asarray(image)
