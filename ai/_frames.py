"""Any frame of any stored image as a viewer shows it: grey or in colours, of one frame or of thousands.

Only the frame that is asked for is read and decoded: native frames lie one after another (PS3.5 A.4), and compressed
ones are found by the offset table or by their fragments.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from ai import _pixels
from ai._colour import PALETTE, SAMPLES, paletted, rgb
from ai._dicom import PixelValue, frame_count, guarded, open_pixels, or_missing, text_of, whole_of
from ai._pipeline import FORM, GREYS, PIPELINE, depth_of, form_of, grey_of, named_photometric
from ai._voi import BlankError, Words, as_bytes, render
from ai.contract import ReadingError

_IMAGE = [
    *FORM,
    *PIPELINE,
    *PALETTE,
    "PlanarConfiguration",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
]
# The functional groups of PS3.3 C.7.6.16 that make a grey, and what they hold.
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
_VOI = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


def load_display(path: str | Path, frame: int = 1) -> NDArray[np.uint8]:
    """A frame (from 1) as a radiologist's viewer shows it: rows x columns of grey, or x 3 (RGB) where it has colours.

    255 is white. Grey goes through the stages of PS3.3 C.11 with the frame's own rescale and window (its functional
    groups, C.7.6.16) or the image's; where there is no window, or none that can be read, one comes from the frame's
    percentiles. What :func:`load_radiograph` shows is the same here; a blank image, which it refuses, is drawn blank.
    Colours have no window: YBR becomes RGB (C.7.6.3.1.2), palettes are looked up (C.7.9), and more than 8 bits are
    scaled down.

    Raises:
        ReadingError: the file cannot be parsed or decoded, has no such frame, or contradicts itself.
    """
    with guarded(), open_pixels(Path(path), _IMAGE) as (dataset, syntax, value):
        photometric = text_of(dataset, "PhotometricInterpretation").upper()
        if photometric not in (*GREYS, *SAMPLES):
            expected = ", ".join((*GREYS, *SAMPLES))
            raise ReadingError(
                f"PhotometricInterpretation is {named_photometric(photometric)}; one of {expected} was expected"
            )
        wanted = SAMPLES.get(photometric, 1)
        if (samples := whole_of(dataset, "SamplesPerPixel")) != wanted:
            raise ReadingError(f"SamplesPerPixel is {or_missing(samples)}; {wanted} was expected for {photometric}")
        frames = frame_count(dataset)
        if not 1 <= frame <= frames:
            raise ReadingError(f"frame {frame} was asked for; the image has frames 1 to {frames}")
        form = form_of(dataset, samples=wanted)
        if wanted > 1:
            form = replace(form, planar=whole_of(dataset, "PlanarConfiguration") == 1, photometric=photometric)
        if syntax.is_encapsulated:
            data = _encapsulated(value, dataset, frame, frames)
        else:
            data = _native(value, form, frame, frames, little=bool(syntax.is_little_endian))
        if wanted > 1:
            return rgb(data, value.vr, form, syntax)
        words = _pixels.words(data, value.vr, form, syntax)
        if photometric == "PALETTE COLOR":
            stored = depth_of(form, syntax).values(words)
            return paletted(stored, dataset, little=bool(syntax.is_little_endian))
        return _grey(words, _of_frame(dataset, frame), form, syntax)


def _grey(words: Words, dataset: Dataset, form: _pixels.Form, syntax: uid.UID) -> NDArray[np.uint8]:
    try:
        pipeline = grey_of(dataset, form, syntax)
    except ReadingError:  # a window that is none is no reason to show nothing; any other stage fails once more
        for keyword in _VOI:
            if keyword in dataset:
                del dataset[keyword]
        pipeline = grey_of(dataset, form, syntax)
    try:
        return as_bytes(render(words, pipeline))
    except BlankError as blank:
        # There is nothing to read in it, but results are drawn on it, the one that says so among them.
        return as_bytes(np.full(words.shape, blank.grey, dtype=np.float32))


def _of_frame(dataset: Dataset, frame: int) -> Dataset:
    """The image with a frame's own values at the top, as in an image of a single frame."""
    own = Dataset()
    for keyword in PIPELINE:
        if keyword in dataset:
            own[keyword] = dataset[keyword]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*shared[:1], *each[frame - 1 : frame]):
        for group, keywords in _GROUPS.items():
            items = groups.get(group)
            if not items:
                continue
            for keyword in keywords:
                if keyword in items[0]:
                    own[keyword] = items[0][keyword]
                elif keyword in own:  # of another group, whose other values have just been replaced
                    del own[keyword]
    return own


# --- where a frame lies ---------------------------------------------------------------------------------------------


def _native(value: PixelValue, form: _pixels.Form, frame: int, frames: int, *, little: bool) -> bytes:
    """The bytes of one uncompressed frame; of a single one all that there are, so that their number can be checked."""
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
    if swapped:  # 8-bit pixels lie in 16-bit words, in whose middle a frame may begin and end
        first, last, skip = first - first % 2, last + last % 2, first % 2
    value.file.seek(value.start + first)
    data = value.file.read(last - first)
    if swapped:
        plain = _byteswapped(data)[skip : skip + values]
        return _byteswapped(plain)
    if skip:  # frames of single bits follow each other without a gap (PS3.5 8.1.1)
        alone = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[skip : skip + bits]
        return np.packbits(alone, bitorder="little").tobytes()
    return data


def _byteswapped(data: bytes) -> bytes:
    return np.frombuffer(data.ljust(len(data) + len(data) % 2, b"\0"), dtype=np.uint16).byteswap().tobytes()


def _encapsulated(value: PixelValue, dataset: Dataset, frame: int, frames: int) -> bytes:
    """A compressed frame as the value of Pixel Data of an image that has only this one."""
    if value.length is not None:
        raise ReadingError("PixelData has a length, though its transfer syntax is a compressed one")
    table, fragments = _fragments(value)
    if not fragments:
        raise ReadingError("PixelData is empty")
    offsets = [(dataset.get("ExtendedOffsetTable"), 8), (table, 4)]
    starts = _starts(fragments, offsets, frames) or _starts_by_markers(value, fragments, frames)
    parts = []
    for at, length in fragments[starts[frame - 1] : starts[frame]]:
        value.file.seek(at)
        parts.append(value.file.read(length))
    return encapsulate([b"".join(parts)], has_bot=False)


def _fragments(value: PixelValue) -> tuple[bytes, list[tuple[int, int]]]:
    """The Basic Offset Table and the place and length of each fragment (PS3.5 A.4); only their headers are read."""
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
    """The first fragment of each frame and the end of the last, by what can be trusted of the offset tables.

    ``tables`` are the Extended (PS3.3 C.7.6.3) and the Basic Offset Table with the bytes that an offset has in each.
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
    """The same by the marker (EOI or EOC, FFD9) that ends every JPEG code stream, perhaps with a byte of padding."""
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
