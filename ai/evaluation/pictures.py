"""PNG, JPEG and DICOM files -> greys from 0 to 1. The content of a file decides its kind, not its name.

White is dense (bone), as on a radiologist's screen. PNG and JPEG are taken as stored; DICOM files are displayed as
their headers say (`ai.images.radiograph.load_radiograph`). Files are not trusted: every fault raises `ReadingError`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ai.contract import ReadingError
from ai.images.pixels import MAX_PIXELS
from ai.images.radiograph import load_radiograph

__all__ = ["Picture", "load_picture"]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I")
_SAME = 4  # levels of 255 by which the colours of a grey may differ after JPEG
_FAINT = 1 / 8


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image. ``display`` is float32 (rows, columns) from 0 to 1, white is dense.

    ``note`` is a warning about the image, empty if there is none.
    """

    display: NDArray[np.float32]
    note: str = ""


def load_picture(path: Path) -> Picture:
    """Read one image.

    Raises:
        ReadingError: the file is no PNG, JPEG or DICOM image, is damaged, too large, or not grey.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ReadingError(f"cannot be opened: {error.strerror}") from None
    if not head.startswith((_PNG, _JPEG)):
        if head[128:] != b"DICM" and head[:4] in (b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"%PDF"):
            raise ReadingError("is none of PNG, JPEG and DICOM")
        return Picture(load_radiograph(path).display)
    try:
        # Pillow warns of large images, whose size is checked here, and of metadata, which is not used.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return _greys(image)
    except ReadingError:
        raise
    except Image.DecompressionBombError:
        raise ReadingError(f"has too many pixels; at most {MAX_PIXELS} are read") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, MemoryError) as error:
        # Pillow raises any of these for damaged files; its message may quote the file.
        raise ReadingError(f"is damaged or no PNG or JPEG that can be decoded ({type(error).__name__})") from None


def _greys(image: Image.Image) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise ReadingError(f"has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
    if image.mode in _SIXTEEN:
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ReadingError("has values beyond 16 bits")
        display = values.astype(np.float32) / np.float32(65535.0)
        faint = display.size > 0 and float(display.max()) < _FAINT
        return Picture(display, "is nearly black: are its 16 bits filled?" if faint else "")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ReadingError(f"is a picture of mode {image.mode}; grey of 8 or 16 bits was expected")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min(initial=255) < 255:
            raise ReadingError("is partly transparent; an opaque grey picture was expected")
    if image.mode in ("1", "L"):
        bytes_ = np.asarray(image.convert("L"))
    else:
        colours = np.asarray(image.convert("RGB")).astype(np.int16)
        if (colours.max(axis=2) - colours.min(axis=2)).max(initial=0) > _SAME:
            raise ReadingError("is a picture in colours; grey was expected")
        bytes_ = colours[..., 1].astype(np.uint8)
    return Picture(bytes_.astype(np.float32) / np.float32(255.0))
