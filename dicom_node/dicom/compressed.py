"""Compressed pixels of results (PS3.5 8.2, A.4): how they are made, and how a file of them is decompressed.

Start here for: JPEG baseline (:func:`jpeg`), JPEG-LS (:func:`jpeg_ls`), RLE (:func:`rle`), their place in a data set
(:func:`set_pixels`), and what an AE gets that accepts none of them (:func:`decompressed`).

A result's pixels are compressed once, and its file stays as it is. An AE that does not accept the file's transfer
syntax gets the pixels that a reader of the file sees, decoded while it is sent, under the same SOP Instance UID. So in
place of a JPEG it gets the decoded JPEG, which is marked as lossy like the JPEG itself, and never the pixels that the
JPEG was made of.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

SYNTAXES: tuple[UID, ...] = (JPEGBaseline8Bit, JPEGLSLossless, RLELossless)
"""The transfer syntaxes that compressed results are in."""

_QUALITY = 92
_WORTH_REPEATING, _LONGEST_RUN = 3, 128  # bytes
_PIXEL_DATA = Tag(0x7FE0, 0x0010)


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A picture (rows x columns x 3) as JPEG baseline (ITU-T T.81, process 1): YCbCr 4:4:4, quality 92, with JFIF.

    Colour is not subsampled: thin coloured lines and type would lose their edges.
    """
    from PIL import Image  # noqa: PLC0415 - the receiver's process needs it for no image

    out = BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return out.getvalue()


def jpeg_ls(rgb: NDArray[np.uint8]) -> bytes:
    """A picture (rows x columns x 3) as lossless JPEG-LS (ITU-T T.87), colour by pixel."""
    import jpeg_ls as charls  # noqa: PLC0415 - as in `jpeg`

    rows, columns, samples = rgb.shape
    # Its encode_array takes the precision from the brightest pixel.
    return bytes(charls.encode_buffer(rgb.tobytes(), rows, columns, samples, 8, 0, 2))


def rle(frame: NDArray[np.uint8]) -> bytes:
    """A frame (rows x columns) of 8 bits a pixel by DICOM's RLE (PS3.5 annex G); pixels of 1 bit have none.

    There is one segment, and no run goes on from one row into the next (G.3.1). pydicom's own encoder is ten times as
    slow, and GDCM ends the process at a frame of an odd number of pixels.
    """
    flat = np.ascontiguousarray(frame).reshape(-1)
    begins = np.ones(flat.size, bool)
    begins[1:] = flat[1:] != flat[:-1]
    begins[:: frame.shape[1]] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=flat.size)
    repeated = lengths >= _WORTH_REPEATING
    # Short runs that follow each other in a row are copied together.
    joined = ~repeated & np.roll(~repeated, 1) & (starts % frame.shape[1] != 0)
    joined[:1] = False
    starts, repeated = starts[~joined], repeated[~joined]
    lengths = np.diff(starts, append=flat.size)
    out = bytearray(struct.pack("<16I", 1, 64, *[0] * 14))
    pixels = flat.tobytes()
    for start, length, same in zip(starts.tolist(), lengths.tolist(), repeated.tolist(), strict=True):
        for at in range(start, start + length, _LONGEST_RUN):
            count = min(_LONGEST_RUN, start + length - at)
            if same and count > 1:
                out += bytes((257 - count, pixels[at]))
            else:
                out += bytes((count - 1,)) + pixels[at : at + count]
    return bytes(out) + b"\0" * (len(out) % 2)


def set_pixels(dataset: Dataset, frames: Sequence[bytes], syntax: UID) -> None:
    """Set compressed frames as Pixel Data, in place: one fragment each behind a basic offset table (PS3.5 A.4)."""
    value = encapsulate(list(frames), has_bot=True)
    dataset[_PIXEL_DATA] = RawDataElement(_PIXEL_DATA, "OB", 0xFFFFFFFF, value, 0, False, True)
    dataset.file_meta.TransferSyntaxUID = syntax


def decompressed(path: Path) -> Dataset | None:
    """A file of compressed pixels in Explicit VR Little Endian, with the pixels that a reader of it sees.

    JPEG of three samples becomes RGB. All other attributes stay, those of lossy compression too (PS3.3 C.7.6.1.1.5).

    Returns:
        None if its pixels are not compressed as results are.

    Raises:
        OSError: the file cannot be read.
        ReadingError: its pixels cannot be decoded; a process in a cage made them, so they are decoded in one as well.
        Exception: whatever pydicom raises if the file is damaged.
    """
    from ai.images import helpers  # noqa: PLC0415 - as in `jpeg`
    from ai.images.codecs import Form  # noqa: PLC0415 - as in `jpeg`

    dataset = dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in SYNTAXES or dataset.BitsAllocated != 8:
        return None
    is_jpeg = syntax == JPEGBaseline8Bit
    if is_jpeg and (dataset.PhotometricInterpretation != "YBR_FULL_422" or dataset.SamplesPerPixel != 3):
        return None
    form = Form(
        dataset.Rows,
        dataset.Columns,
        bits_allocated=8,
        bits_stored=8,
        high_bit=7,
        signed=False,
        photometric=str(dataset.PhotometricInterpretation),
        samples=dataset.SamplesPerPixel,
        planar=dataset.get("PlanarConfiguration") == 1,
    )
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = generate_frames(dataset.PixelData, number_of_frames=count)
    pixels = b"".join(helpers.decode(frame, form, syntax, 8, rgb=is_jpeg).data for frame in frames)
    if is_jpeg:
        dataset.PhotometricInterpretation = "RGB"
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    pixels += b"\0" * (len(pixels) % 2)
    dataset[_PIXEL_DATA] = RawDataElement(_PIXEL_DATA, "OB", len(pixels), pixels, 0, False, True)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
