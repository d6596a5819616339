"""Reads the form of pixels and the stages of the greyscale pipeline from elements (PS3.3 sections C.7.6.3, C.11)."""

from __future__ import annotations

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from ai.contract import ReadingError
from ai.images import pixels
from ai.images.elements import frame_count, number_of, or_missing, shown, text_of, whole_of
from ai.images.voi import Depth, Grey, Lut, VoiFunction, Window

GREYS = ("MONOCHROME1", "MONOCHROME2")

FORM = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
]
PIPELINE = [
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "LUTDescriptor",
    "LUTData",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
]
_VOI = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")


def grey_form(dataset: Dataset) -> pixels.Form:
    """The Image Pixel attributes of an image that must be single-frame and grey.

    Raises:
        ReadingError: the image is of another kind, or the attributes contradict each other.
    """
    photometric = text_of(dataset, "PhotometricInterpretation")
    if photometric not in GREYS:
        raise ReadingError(
            f"PhotometricInterpretation is {named_photometric(photometric)}; {' or '.join(GREYS)} was expected"
        )
    if (samples := whole_of(dataset, "SamplesPerPixel")) != 1:
        raise ReadingError(f"SamplesPerPixel is {or_missing(samples)}; 1 was expected")
    if (frames := frame_count(dataset)) != 1:
        raise ReadingError(f"NumberOfFrames is {frames}; a single-frame image was expected")
    return form_of(dataset)


def named_photometric(photometric: str) -> str:
    """A Photometric Interpretation for a message."""
    return photometric if photometric == "PALETTE COLOR" else shown(photometric)


def form_of(dataset: Dataset, *, samples: int = 1) -> pixels.Form:
    """The checked Image Pixel attributes. The caller knows the number of samples per pixel.

    Raises:
        ReadingError: the attributes contradict each other.
    """
    rows, columns = (whole_of(dataset, keyword) or 0 for keyword in ("Rows", "Columns"))
    limit = pixels.MAX_PIXELS // samples
    if rows < 1 or columns < 1 or rows * columns > limit:
        raise ReadingError(f"Rows x Columns is {rows} x {columns}; 1 to {limit} pixels were expected")
    allocated = whole_of(dataset, "BitsAllocated")
    if allocated not in (1, 8, 16, 32):
        raise ReadingError(f"BitsAllocated is {or_missing(allocated)}; 1, 8, 16 or 32 was expected")
    stored = whole_of(dataset, "BitsStored")
    if stored is None or not 1 <= stored <= allocated:
        raise ReadingError(f"BitsStored is {or_missing(stored)}; 1 to {allocated} was expected")
    # Some files lack HighBit. The standard then allows one value (PS3.5 section 8.1.1).
    high = whole_of(dataset, "HighBit")
    high = stored - 1 if high is None else high
    if not stored - 1 <= high < allocated:
        raise ReadingError(f"HighBit is {high}; {stored - 1} was expected for {stored} bits stored")
    representation = whole_of(dataset, "PixelRepresentation")
    if representation not in (None, 0, 1):
        raise ReadingError(f"PixelRepresentation is {representation}; 0 or 1 was expected")
    photometric = text_of(dataset, "PhotometricInterpretation")
    return pixels.Form(rows, columns, allocated, stored, high, representation == 1, photometric, samples)


def depth_of(form: pixels.Form, syntax: uid.UID) -> Depth:
    """The place of a pixel's bits in its word."""
    return Depth(
        allocated=form.bits_allocated,
        stored=form.bits_stored,
        # A codec puts the pixel at the low end of its word, whatever the header says.
        high=form.bits_stored - 1 if syntax.is_encapsulated and syntax != uid.RLELossless else form.high_bit,
        signed=form.signed,
        exact=not pixels.is_lossy(syntax),
    )


def grey_of(dataset: Dataset, form: pixels.Form, syntax: uid.UID) -> Grey:
    """The greyscale pipeline of an image, or of a frame whose values are at the top level of ``dataset``.

    Raises:
        ReadingError: a stage does not follow the standard.
    """
    depth = depth_of(form, syntax)
    modality = _modality(dataset, depth, little=bool(syntax.is_little_endian))
    grey = Grey(depth, modality, None, inverse=_inverse(dataset, form), padding=_padding(dataset, depth))
    lowest = float(grey.modality_values(np.array(depth.range, dtype=np.int64)).min())
    voi = _voi(dataset, signed=lowest < 0, little=bool(syntax.is_little_endian))
    return Grey(depth, modality, voi, grey.inverse, grey.padding)


def grey_or_open(dataset: Dataset, form: pixels.Form, syntax: uid.UID) -> Grey:
    """The same, but without the VOI stage if it does not follow the standard: the image can still be displayed.

    Raises:
        ReadingError: another stage does not follow the standard.
    """
    try:
        return grey_of(dataset, form, syntax)
    except ReadingError:  # any other stage fails once more
        return grey_of(without_voi(dataset), form, syntax)


def without_voi(dataset: Dataset) -> Dataset:
    """Remove the VOI stage from a data set, in place, and return the data set."""
    for keyword in _VOI:
        if keyword in dataset:
            del dataset[keyword]
    return dataset


def _inverse(dataset: Dataset, form: pixels.Form) -> bool:
    """Whether the lowest value is white.

    Presentation LUT Shape INVERSE and MONOCHROME1 mean the same inversion and go together (PS3.3 sections C.8.11.3 and
    C.11.6.1), so they are never applied twice. If they disagree, the shape decides, as in DCMTK and dcm4che.
    """
    shape = text_of(dataset, "PresentationLUTShape").upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return form.photometric == "MONOCHROME1"


def _modality(dataset: Dataset, depth: Depth, *, little: bool) -> Lut | tuple[float, float]:
    if (item := _first_item(dataset, "ModalityLUTSequence")) is not None:
        return _lut(item, "ModalityLUTSequence", signed=depth.signed, little=little)
    slope, intercept = (number_of(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    slope = 1.0 if slope is None else slope
    if slope == 0.0:
        raise ReadingError("RescaleSlope is 0; another number was expected")
    return slope, intercept or 0.0


def _voi(dataset: Dataset, *, signed: bool, little: bool) -> Lut | Window | None:
    """The first table, otherwise the first window. The first is the device's default."""
    if (item := _first_item(dataset, "VOILUTSequence")) is not None:
        return _lut(item, "VOILUTSequence", signed=signed, little=little)
    center, width = (number_of(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    name = text_of(dataset, "VOILUTFunction").upper() or VoiFunction.LINEAR.value
    if name not in VoiFunction.__members__:
        raise ReadingError(f"VOILUTFunction is {shown(name)}; {', '.join(VoiFunction)} was expected")
    function = VoiFunction(name)
    if width <= 0.0 or (function is VoiFunction.LINEAR and width < 1.0):
        expected = "at least 1" if function is VoiFunction.LINEAR else "more than 0"
        raise ReadingError(f"WindowWidth is {width:g}; {expected} was expected")
    return Window(center, width, function)


def _lut(item: Dataset, where: str, *, signed: bool, little: bool) -> Lut:
    """A table of PS3.3 section C.11.1.1.1 or C.11.2.1.1. ``signed`` says whether its input can be negative."""
    descriptor = [int(value) for value in item.LUTDescriptor]
    if len(descriptor) != 3:
        raise ReadingError(f"{where}: LUTDescriptor has {len(descriptor)} values, 3 were expected")
    count, first, bits = (descriptor[0] & 0xFFFF) or 1 << 16, descriptor[1], descriptor[2]
    if not 8 <= bits <= 16:
        raise ReadingError(f"{where}: LUTDescriptor says {bits} bits an entry, 8 to 16 were expected")
    # Many writers choose the wrong VR of the descriptor, US or SS.
    first = first - (1 << 16) if signed and first > 0x7FFF else first + (1 << 16) if not signed and first < 0 else first
    data = item.LUTData
    if isinstance(data, bytes):
        # 8-bit entries may be stored one to a byte (PS3.3 section C.11.1.1.1).
        width = 2 if len(data) >= 2 * count else 1
        entries = np.frombuffer(data, dtype=f"{'<' if little else '>'}u{width}").astype(np.float64)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.float64))
    if len(entries) < count or (isinstance(data, bytes) and width == 1 and bits > 8):
        raise ReadingError(f"{where}: LUTData has too few entries, {count} were expected")
    entries = entries[:count]
    return Lut(first, entries, top=max(float((1 << bits) - 1), float(entries.max())))


def _padding(dataset: Dataset, depth: Depth) -> tuple[int, int] | None:
    value = whole_of(dataset, "PixelPaddingValue", lenient=True)
    if value is None:
        return None
    limit = whole_of(dataset, "PixelPaddingRangeLimit", lenient=True)
    ends = sorted(_as_stored(end, depth) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(value: int, depth: Depth) -> int:
    """A value of VR US or SS, which writers confuse, with the sign of the pixels."""
    size = 1 << depth.allocated
    if depth.signed and value >= size // 2:
        return value - size
    return value + size if value < 0 and not depth.signed else value


def _first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    items = dataset.get(keyword)
    return items[0] if items else None
