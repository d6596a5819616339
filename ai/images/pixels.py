"""Gives the stored words of one frame. Sizes are checked against the header before anything is decoded.

Compressed frames are decoded by `ai.images.helpers`, in processes of their own.

Native data in either byte order, RLE, JPEG, JPEG-LS and JPEG 2000 are read (PS3.5 section 8 and Annex A). A few bytes
of a compressed image can declare gigapixels, so the size in the code stream must equal the size in the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydicom import uid
from pydicom.encaps import get_frame

from ai.contract import ReadingError
from ai.errors import LostError
from ai.images import helpers
from ai.images.codecs import Form, item
from ai.images.voi import Words

__all__ = ["MAX_PIXELS", "Form", "compressed", "is_lossy", "item", "native", "words"]

MAX_PIXELS = 100_000_000
"""Images of more pixels (rows x columns) are refused. It is twenty times the largest radiograph."""

_LOSSY = {
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
}
_JPEG = {
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
}
_JPEG_DCT = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
_JPEG_LOSSLESS = {uid.JPEGLossless, uid.JPEGLosslessSV1}
_JPEG_2000 = {uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}


def is_lossy(syntax: uid.UID) -> bool:
    """Whether a transfer syntax is compressed with loss."""
    return syntax in _LOSSY


def words(data: bytes, vr: str, form: Form, syntax: uid.UID) -> Words:
    """Decode the value of Pixel Data (7FE0,0010) to stored words: (rows, columns), unsigned, as wide as allocated.

    Raises:
        ReadingError: the data are too short or too long, of another size than declared, or of an unknown syntax.
    """
    if not syntax.is_transfer_syntax:
        raise ReadingError("the transfer syntax is not one of the standard")
    if not syntax.is_encapsulated:
        flat = native(data, vr, form, form.rows * form.columns, little=bool(syntax.is_little_endian))
        return flat.reshape(form.rows, form.columns)
    if syntax not in _JPEG | _JPEG_2000 | {uid.RLELossless}:
        raise ReadingError(f"the transfer syntax {syntax} holds no single grey image that can be decoded")
    return _compressed(data, form, syntax)[0]


def compressed(data: bytes, form: Form, syntax: uid.UID) -> tuple[Words, str]:
    """Decode words, (rows, columns) or (rows, columns, samples), and return them with their Photometric Interpretation.

    ``data`` is the value of Pixel Data (7FE0,0010) with a single frame. A decoder may change the colour space
    (JPEG 2000), and a code stream may declare another one than the header.

    Raises:
        ReadingError: the data are of another size than declared, damaged, or of an unknown syntax.
    """
    if syntax not in _JPEG | _JPEG_2000 | {uid.RLELossless}:
        raise ReadingError(f"the transfer syntax {syntax} holds no image that can be decoded")
    return _compressed(data, form, syntax)


def native(data: bytes, vr: str, form: Form, values: int, *, little: bool) -> Words:
    """Read ``values`` uncompressed values of one frame, as a flat array.

    Raises:
        ReadingError: the data are too short or too long.
    """
    expected = -(-values * form.bits_allocated // 8)
    if len(data) < expected:
        raise ReadingError(f"PixelData is truncated: it holds {len(data)} bytes, {expected} were expected")
    if len(data) >= 2 * expected + 2:  # fewer extra bytes are padding of some devices
        raise ReadingError(f"PixelData holds {len(data)} bytes, {expected} were expected for one frame")
    if form.bits_allocated == 1:
        packed = np.frombuffer(data, dtype=np.uint8, count=expected)
        return np.unpackbits(packed, count=values, bitorder="little")
    if form.bits_allocated == 8 and not little and vr == "OW":
        # 8-bit pixels are packed in 16-bit words of the transfer syntax's byte order (PS3.5 sections A.3 and 8.1.1).
        even = data[: expected + expected % 2].ljust(expected + expected % 2, b"\0")
        return np.frombuffer(even, dtype=np.uint16).byteswap().view(np.uint8)[:values]
    dtype = np.dtype(f"{'<' if little else '>'}u{form.bits_allocated // 8}")
    return np.frombuffer(data, dtype=dtype, count=values).astype(dtype.newbyteorder("="), copy=False)


def _compressed(data: bytes, form: Form, syntax: uid.UID) -> tuple[Words, str]:
    try:
        return _decompressed(get_frame(data, 0, number_of_frames=1), form, syntax)
    except (ReadingError, LostError):
        raise
    except Exception as error:  # damaged fragments raise errors of many types; their messages may quote the file
        raise ReadingError(
            f"PixelData is damaged or not of its transfer syntax {syntax}; it cannot be decoded "
            f"({type(error).__name__})"
        ) from None


@lru_cache(maxsize=1)  # an image that was read is drawn next, and JPEG 2000 takes half a second
def _decompressed(frame: bytes, form: Form, syntax: uid.UID) -> tuple[Words, str]:
    if form.bits_allocated == 1:
        raise ReadingError("BitsAllocated is 1 in a compressed image; 8, 16 or 32 was expected")
    bits = form.bits_stored
    if syntax == uid.RLELossless:
        # RLE expands at most 64-fold, and valid data are at most 1/128 longer than plain data (PS3.5 section G.3).
        plain = form.rows * form.columns * form.samples * form.bits_allocated // 8
        if len(frame) > plain + plain // 64 + 4 * form.rows * form.samples + 1024:
            raise ReadingError(f"an RLE frame of {len(frame)} bytes is longer than its {plain} bytes of pixels")
    else:
        if syntax in _JPEG and form.bits_allocated > 16:  # GDCM would abort the process
            raise ReadingError(f"BitsAllocated is {form.bits_allocated} in a JPEG image; 8 or 16 was expected")
        stream = jpeg_stream(frame) if syntax in _JPEG else jpeg_2000_stream(frame)
        _check_stream(stream, form)
        if syntax in _JPEG_DCT and stream.bits > 8 and form.samples != 1:
            raise ReadingError(f"the compressed image has {stream.bits} bits a colour, 8 were expected")
        if syntax in _JPEG_LOSSLESS and form.samples != 1:
            _check_headers(frame, form)
        bits = stream.bits
    decoded = helpers.decode(frame, form, syntax, bits)
    decoded_words = np.frombuffer(decoded.data, dtype=f"u{decoded.word}").reshape(decoded.shape)
    decoded_words.flags.writeable = False  # the cache may return them again
    return decoded_words, decoded.photometric


@dataclass(frozen=True, slots=True)
class Stream:
    """The declarations in the header of a code stream. ``bits`` is the precision."""

    rows: int
    columns: int
    components: int
    bits: int


def _check_stream(stream: Stream, form: Form) -> None:
    if (stream.rows, stream.columns) != (form.rows, form.columns):
        raise ReadingError(
            f"the compressed image is {stream.rows} x {stream.columns}, "
            f"but Rows x Columns say {form.rows} x {form.columns}"
        )
    if stream.components != form.samples:
        expected = "1 was" if form.samples == 1 else f"{form.samples} were"
        raise ReadingError(f"the compressed image has {stream.components} components, {expected} expected")
    if stream.bits > form.bits_allocated:
        raise ReadingError(
            f"the compressed image has {stream.bits} bits a pixel, but BitsAllocated is {form.bits_allocated}"
        )


def jpeg_stream(frame: bytes) -> Stream:
    """The frame header of a JPEG or JPEG-LS code stream (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2).

    Raises:
        ReadingError: there is no frame header.
    """
    at = 2
    if frame[:2] == b"\xff\xd8":
        while at + 10 <= len(frame) and frame[at] == 0xFF:
            marker = frame[at + 1]
            if marker == 0xFF:  # fill byte
                at += 1
            elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
                rows, columns = (int.from_bytes(frame[at + i : at + i + 2], "big") for i in (5, 7))
                return Stream(rows, columns, components=frame[at + 9], bits=frame[at + 4])
            else:
                at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ReadingError("PixelData holds no JPEG image where its transfer syntax says so")


def _check_headers(frame: bytes, form: Form) -> None:
    """Refuse a colour JPEG whose headers, up to the scan, do not follow ISO 10918-1 B.2.

    Raises:
        ReadingError: a header is wrong.
    """
    at, frames = 2, 0
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA and frames == 1 and body[:1] in (b"\x01", bytes([form.samples])):
            return
        if length < 2 or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frames += 1
            if marker != 0xC3 or len(body) != 6 + 3 * form.samples:
                break
        if marker == 0xEE and body[:5] == b"Adobe" and body[11:12] not in (b"\0", b"\1"):
            break
        at += 2 + length
    raise ReadingError("PixelData is damaged: the headers of its JPEG image are none of a colour image without loss")


def jpeg_2000_stream(frame: bytes) -> Stream:
    """The SIZ marker of a JPEG 2000 code stream (ISO 15444-1 A.5.1).

    Raises:
        ReadingError: there is no SIZ marker.
    """
    # Some devices store a whole JP2 file, with boxes before the code stream.
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(frame) < start + 43:
        raise ReadingError("PixelData holds no JPEG 2000 image where its transfer syntax says so")
    right, bottom, left, top = (int.from_bytes(frame[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
    components = int.from_bytes(frame[start + 40 : start + 42], "big")
    return Stream(bottom - top, right - left, components, bits=(frame[start + 42] & 0x7F) + 1)
