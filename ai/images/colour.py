"""Stored colours -> RGB of 8 bits: RGB and YBR with three samples, palettes (PS3.3 sections C.7.6.3.1 and C.7.9)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from ai.contract import ReadingError
from ai.images import pixels
from ai.images.voi import Integers, Words

SAMPLES = {"RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3, "YBR_RCT": 3, "YBR_ICT": 3, "PALETTE COLOR": 1}
"""The photometric interpretations with colours -> samples per pixel."""

_CHANNELS = ("Red", "Green", "Blue")
PALETTE = [
    f"{kind}{channel}PaletteColorLookupTable{part}"
    for channel in _CHANNELS
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
"""The attributes of the Palette Color Lookup Table Module."""

_CHUNK_ROWS = 256
# Red, green and blue from Y, CB and CR (PS3.3 section C.7.6.3.1.2, ITU-R BT.601).
_TO_RGB = np.array([[1.0, 1.0, 1.0], [0.0, -0.344136, 1.772], [1.402, -0.714136, 0.0]], dtype=np.float32)


def rgb(data: bytes, vr: str, form: pixels.Form, syntax: uid.UID) -> NDArray[np.uint8]:
    """Decode the value of Pixel Data with one frame of three samples to RGB (rows, columns, 3).

    Raises:
        ReadingError: the data are of another size than declared, damaged, or not of a standard form.
    """
    if form.bits_allocated not in (8, 16, 32) or form.signed:
        raise ReadingError(
            f"colours of {form.bits_allocated} bits{' with a sign' if form.signed else ''} are none of the standard; "
            f"8 or 16 bits without a sign were expected"
        )
    if syntax.is_encapsulated:
        words, photometric = pixels.compressed(data, form, syntax)
    else:
        if form.photometric in ("YBR_RCT", "YBR_ICT"):
            raise ReadingError(f"PhotometricInterpretation is {form.photometric}, which only JPEG 2000 images can have")
        words, photometric = _interleaved(data, vr, form, little=bool(syntax.is_little_endian)), form.photometric
    ours = np.empty((form.rows, form.columns, 3), dtype=np.uint8)
    for start in range(0, form.rows, _CHUNK_ROWS):  # in chunks, because intermediate values take four times the memory
        rows = slice(start, start + _CHUNK_ROWS)
        colours = _eight_bits(words[rows], form.bits_stored)
        ours[rows] = _from_ybr(colours) if photometric.startswith("YBR_FULL") else colours
    return ours


def _interleaved(data: bytes, vr: str, form: pixels.Form, *, little: bool) -> Words:
    count = form.rows * form.columns
    if form.photometric == "YBR_FULL_422":  # two Y, then the CB and CR of both
        if form.columns % 2 or form.planar:
            raise ReadingError(
                "YBR_FULL_422 was stored by planes or with an odd number of columns; pairs of pixels were expected"
            )
        pairs = pixels.native(data, vr, form, 2 * count, little=little).reshape(-1, 4)
        return pairs[:, [0, 2, 3, 1, 2, 3]].reshape(form.rows, form.columns, 3)
    flat = pixels.native(data, vr, form, 3 * count, little=little)
    if form.planar:
        return flat.reshape(3, form.rows, form.columns).transpose(1, 2, 0)
    return flat.reshape(form.rows, form.columns, 3)


def _eight_bits(words: Words, stored: int) -> NDArray[np.uint8]:
    top = (1 << stored) - 1
    if stored == 8:
        return np.asarray(words.clip(max=top), dtype=np.uint8)
    return np.asarray(np.rint(words.clip(max=top) * (255.0 / top)), dtype=np.uint8)


def _from_ybr(ybr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    values = ybr.astype(np.float32)
    values[..., 1:] -= 128.0
    return np.asarray(np.rint(values @ _TO_RGB).clip(0, 255), dtype=np.uint8)


def paletted(stored: Integers, dataset: Dataset, *, little: bool) -> NDArray[np.uint8]:
    """Look up stored values (rows, columns) in the image's palette: RGB (rows, columns, 3).

    Raises:
        ReadingError: the palette is missing, or its tables contradict each other.
    """
    ours = np.empty((*stored.shape, 3), dtype=np.uint8)
    for number, channel in enumerate(_CHANNELS):
        first, entries = _table(dataset, channel, signed=bool(stored.min() < 0), little=little)
        ours[..., number] = entries[np.clip(stored - first, 0, len(entries) - 1)]
    return ours


def _table(dataset: Dataset, channel: str, *, signed: bool, little: bool) -> tuple[int, NDArray[np.uint8]]:
    """The first stored value of a channel's table, and its entries (PS3.3 section C.7.6.3.1.5)."""
    where = f"{channel}PaletteColorLookupTable"
    values = dataset.get(f"{where}Descriptor")
    descriptor = [int(value) for value in values] if isinstance(values, list) or hasattr(values, "__iter__") else []
    if len(descriptor) != 3:
        raise ReadingError(f"{where}Descriptor has {len(descriptor)} values; 3 were expected")
    count, first, bits = (descriptor[0] & 0xFFFF) or 1 << 16, descriptor[1], descriptor[2]
    if bits not in (8, 16):
        raise ReadingError(f"{where}Descriptor says {bits} bits an entry; 8 or 16 were expected")
    # Many writers choose the wrong VR of the descriptor, US or SS.
    first = first - (1 << 16) if signed and first > 0x7FFF else first + (1 << 16) if not signed and first < 0 else first
    plain, segmented = dataset.get(f"{where}Data"), dataset.get(f"Segmented{where}Data")
    if plain is not None:
        entries = _entries(plain, count, bits, little=little)
    elif segmented is not None:
        entries = np.array(
            _expanded(_entries(segmented, None, bits, little=little), count, bits, where), dtype=np.int64
        )
    else:
        raise ReadingError(f"{where}Data is missing")
    if len(entries) < count:
        raise ReadingError(f"{where}Data has {len(entries)} entries; {count} were expected")
    entries = entries[:count]
    # Some devices declare 16 bits and use 8.
    return first, (entries >> 8 if bits == 16 and entries.max() > 0xFF else entries).astype(np.uint8)


def _entries(data: Any, count: int | None, bits: int, *, little: bool) -> Integers:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))
    wide = bits == 16 or (count is not None and len(data) >= 2 * count)
    return np.frombuffer(data[: len(data) // 2 * 2], dtype=f"{'<' if little else '>'}u{2 if wide else 1}").astype(
        np.int64
    )


def _expanded(words: Integers, count: int, bits: int, where: str) -> list[int]:
    """Expand segments to entries (PS3.3 section C.7.9.2): discrete, linear, and indirect, which repeat earlier ones.

    The offset in an indirect segment takes 32 bits and counts bytes.
    """
    out: list[int] = []

    def run(at: int, segments: int, *, nested: bool) -> None:
        while at + 2 <= len(words) and segments and len(out) < count:
            kind, length = int(words[at]), int(words[at + 1])
            segments -= 1
            if kind == 0 and at + 2 + length <= len(words):
                out.extend(int(word) for word in words[at + 2 : at + 2 + length])
                at += 2 + length
            elif kind == 1 and out and length and at + 3 <= len(words):
                start, end = out[-1], int(words[at + 2])
                out.extend(round(start + (end - start) * step / length) for step in range(1, length + 1))
                at += 3
            elif kind == 2 and not nested and at + 2 + 32 // bits <= len(words):
                where_to = sum(int(words[at + 2 + i]) << bits * i for i in range(32 // bits))
                run(where_to * 8 // bits, length, nested=True)
                at += 2 + 32 // bits
            else:
                raise ReadingError(f"Segmented{where}Data is damaged at word {at}: a segment was expected")

    run(0, -1, nested=False)
    return out
