"""Reads the bytes of one frame from a file with many frames, without reading the others.

Native frames follow one another (PS3.5 section A.4). Compressed frames are found by the offset tables or by their
fragments.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from ai.contract import ReadingError
from ai.images import pixels
from ai.images.elements import PixelValue

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


class FrameData:
    """The bytes of each frame of an open file (`ai.images.elements.open_pixels`). Fragments are searched once."""

    def __init__(self, value: PixelValue, dataset: Dataset, form: pixels.Form, frames: int, syntax: uid.UID) -> None:
        self._value, self._form, self._frames, self._syntax = value, form, frames, syntax
        self._extended = dataset.get("ExtendedOffsetTable")
        self._found: tuple[list[tuple[int, int]], list[int]] | None = None

    def __getitem__(self, frame: int) -> bytes:
        """Frame ``frame`` (from 1), as the value of Pixel Data of an image with this frame alone.

        Raises:
            ReadingError: the pixels are cut off, or the start of the frame cannot be found.
        """
        if not self._syntax.is_encapsulated:
            return _native(self._value, self._form, frame, self._frames, little=bool(self._syntax.is_little_endian))
        if self._found is None:
            self._found = _encapsulated(self._value, self._extended, self._frames)
        fragments, starts = self._found
        parts = []
        for at, length in fragments[starts[frame - 1] : starts[frame]]:
            self._value.file.seek(at)
            parts.append(self._value.file.read(length))
        return pixels.item(b"".join(parts))


def _native(value: PixelValue, form: pixels.Form, frame: int, frames: int, *, little: bool) -> bytes:
    """The bytes of one uncompressed frame. Of a single frame, all bytes are returned, to check their number."""
    if value.length is None:
        raise ReadingError("PixelData has no length, though its transfer syntax is not a compressed one")
    values = form.rows * form.columns * (2 if form.photometric == "YBR_FULL_422" else form.samples)
    bits = values * form.bits_allocated
    expected = -(-frames * bits // 8)
    if min(value.length, value.size - value.start) < expected:
        here = max(min(value.length, value.size - value.start), 0)
        raise ReadingError(f"PixelData is truncated: it holds {here} bytes, {expected} were expected")
    if frames == 1:
        value.file.seek(value.start)
        return value.file.read(min(value.length, 2 * expected + 2))
    first, skip = divmod((frame - 1) * bits, 8)
    last = first + -(-(skip + bits) // 8)
    swapped = form.bits_allocated == 8 and not little and value.vr == "OW"
    if swapped:  # 8-bit pixels are packed in 16-bit words, and a frame may begin and end inside a word
        first, last, skip = first - first % 2, last + last % 2, first % 2
    value.file.seek(value.start + first)
    data = value.file.read(last - first)
    if swapped:
        plain = _byteswapped(data)[skip : skip + values]
        return _byteswapped(plain)
    if skip:  # frames of single bits follow each other without padding (PS3.5 section 8.1.1)
        alone = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[skip : skip + bits]
        return np.packbits(alone, bitorder="little").tobytes()
    return data


def _byteswapped(data: bytes) -> bytes:
    return np.frombuffer(data.ljust(len(data) + len(data) % 2, b"\0"), dtype=np.uint16).byteswap().tobytes()


def _encapsulated(value: PixelValue, extended: Any, frames: int) -> tuple[list[tuple[int, int]], list[int]]:
    """All fragments (place, length), and the number of the first fragment of each frame, and of the end."""
    if value.length is not None:
        raise ReadingError("PixelData has a length, though its transfer syntax is a compressed one")
    table, fragments = _fragments(value)
    if not fragments:
        raise ReadingError("PixelData is empty")
    starts = _starts(fragments, [(extended, 8), (table, 4)], frames)
    return fragments, starts or _starts_by_markers(value, fragments, frames)


def _fragments(value: PixelValue) -> tuple[bytes, list[tuple[int, int]]]:
    """The Basic Offset Table, and place and length of each fragment (PS3.5 section A.4), from their headers."""
    items: list[tuple[int, int]] = []
    at = value.start
    while at + 8 <= value.size:
        value.file.seek(at)
        head = value.file.read(8)
        if head[:4] == _DELIMITER:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] != _ITEM:
            raise ReadingError(f"PixelData is damaged: no item stands at byte {at}, where a fragment was expected")
        items.append((at + 8, length))
        at += 8 + length
    else:
        raise ReadingError("PixelData is cut off: the file ends before its last fragment")
    if not items:
        raise ReadingError("PixelData is damaged: it has no offset table")
    (start, length), *fragments = items
    value.file.seek(start)
    return value.file.read(length), fragments


def _starts(fragments: list[tuple[int, int]], tables: list[tuple[Any, int]], frames: int) -> list[int] | None:
    """The first fragment of each frame, and the end of the last, from a valid offset table. None if there is none.

    ``tables`` are the Extended (PS3.3 section C.7.6.3) and the Basic Offset Table, each with its bytes per offset.
    """
    if frames == 1:
        return [0, len(fragments)]
    numbers = {at - fragments[0][0]: number for number, (at, _) in enumerate(fragments)}
    for table, width in tables:
        if isinstance(table, bytes) and len(table) >= width * frames:
            offsets = [int.from_bytes(table[i * width : (i + 1) * width], "little") for i in range(frames)]
            starts = [numbers.get(offset, -1) for offset in offsets]
            if starts[0] == 0 and all(one < other for one, other in pairwise(starts)):
                return [*starts, len(fragments)]
    return list(range(frames + 1)) if len(fragments) == frames else None


def _starts_by_markers(value: PixelValue, fragments: list[tuple[int, int]], frames: int) -> list[int]:
    """The same from the marker (EOI or EOC, FFD9) that ends every JPEG code stream, before a possible padding byte."""
    starts = [0]
    for number, (at, length) in enumerate(fragments):
        value.file.seek(max(at, at + length - 3))
        if b"\xff\xd9" in value.file.read(min(length, 3)):
            starts.append(number + 1)
    if len(starts) != frames + 1:
        raise ReadingError(
            f"PixelData has {len(fragments)} fragments and no offset table that tells its {frames} frames apart"
        )
    return starts
