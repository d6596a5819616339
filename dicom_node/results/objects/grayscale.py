"""The grayscale pipeline of a source, copied into a presentation state: modality, VOI, polarity, shutter (PS3.3 C.11).

Start here for: which window or table a presentation state repeats (:func:`read_pipeline`), and when a stage is left
out. The display shutter is PS3.3 C.7.6.11.

A presentation state replaces the whole grayscale pipeline of the images that it refers to (PS3.4 N.2): a stage that it
leaves out is an identity. So a state that is to change nothing must repeat the source's stages, as the bytes that the
source has. A state holds one window or table where a source may have several: it is the first table, else the first
window, as in :mod:`ai.images.radiograph`. A stage that breaks the standard is left out whole, because nobody can say
what it shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import format_number_as_ds

from dicom_node.results.source_bytes import element_bytes, sequence_items, tag_of, text_of, unsigned_of
from dicom_node.results.source_text import certain_text

Element = tuple[BaseTag, str, bytes]
"""Tag, value representation, and the value's bytes in little endian and of even length."""

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FUNCTIONS = ("", "LINEAR", "LINEAR_EXACT", "SIGMOID")
_SHUTTERS: dict[str, tuple[tuple[str, int], ...]] = {  # attributes and how many values each must at least have
    "RECTANGULAR": (
        ("ShutterLeftVerticalEdge", 1),
        ("ShutterRightVerticalEdge", 1),
        ("ShutterUpperHorizontalEdge", 1),
        ("ShutterLowerHorizontalEdge", 1),
    ),
    "CIRCULAR": (("CenterOfCircularShutter", 2), ("RadiusOfCircularShutter", 1)),
    "POLYGONAL": (("VerticesOfThePolygonalShutter", 6),),
}
_LONGEST_EXPLANATION = 64


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What a state repeats of one frame; a stage without elements is left out.

    ``modality``, ``shape`` and ``shutter`` occur once in a state and apply to all its images; ``voi`` applies to one
    image.
    """

    modality: tuple[Element, ...]
    voi: tuple[Element, ...]
    shape: Literal["IDENTITY", "INVERSE"]
    shutter: tuple[Element, ...]


def is_grey(header: Dataset) -> bool:
    """Whether a grayscale presentation state may refer to this image."""
    return unsigned_of(header, "SamplesPerPixel") in (1, None) and text_of(header, "PhotometricInterpretation") in (
        "MONOCHROME1",
        "MONOCHROME2",
    )


def read_pipeline(header: Dataset, frame: int) -> Pipeline:
    """How frame ``frame`` (from 1) of a grey image is shown."""
    modality, signed = _modality(header, frame)
    # A window or table is in the units of the modality stage: without that stage its numbers have no meaning.
    voi = () if modality is None else _voi(header, frame, signed=signed)
    shape = text_of(header, "PresentationLUTShape").upper()
    if shape not in ("IDENTITY", "INVERSE"):
        shape = "INVERSE" if text_of(header, "PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
    return Pipeline(modality or (), voi, "INVERSE" if shape == "INVERSE" else "IDENTITY", _shutter(header))


def put(target: Dataset, elements: tuple[Element, ...]) -> None:
    """Set elements as raw bytes, in place; nothing else may be set on the target afterwards."""
    for element in elements:
        target[element[0]] = _raw(*element)


def as_item(start: Dataset, elements: tuple[Element, ...]) -> bytes:
    """The bytes of a sequence item: the elements of ``start``, then ``elements``, whose tags are higher."""
    body = b"".join(element_bytes(start[tag], [""]) for tag in sorted(start.keys()))
    body += b"".join(element_bytes(_raw(*element), [""]) for element in elements)
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body


def decimals(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a DS attribute as they are written; empty if any of them is not a finite number.

    A value longer than the 16 characters of a DS, frequent in real images, is rounded to 16 characters.
    """
    text = text_of(dataset, keyword)
    values = tuple(value.strip() for value in text.split("\\")) if text else ()
    if not all(_DECIMAL.fullmatch(value) and math.isfinite(float(value)) for value in values):
        return ()
    return tuple(value if len(value) <= 16 else format_number_as_ds(float(value)) for value in values)


def macros(header: Dataset, frame: int, keyword: str) -> Iterator[Dataset]:
    """The data sets in which a frame's attributes may be: its functional group macro ``keyword``, then the header.

    See PS3.3 C.7.6.16.
    """
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame - 1), ("SharedFunctionalGroupsSequence", 0)):
        group = _item(header, groups, index)
        macro = None if group is None else _item(group, keyword)
        if macro is not None:
            yield macro
    yield header


def _item(dataset: Dataset, keyword: str, index: int = 0) -> Dataset | None:
    """An item of a sequence. None if the sequence does not have it."""
    items = sequence_items(dataset, tag_of(keyword))
    return items[index] if 0 <= index < len(items) else None


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def _text(keyword: str, value: str | bytes) -> Element:
    coded = value.encode("latin-1") if isinstance(value, str) else value
    tag = tag_of(keyword)
    return tag, dictionary_VR(tag), coded + b" " * (len(coded) % 2)


# --- stages ---------------------------------------------------------------------------------------------------------


def _modality(header: Dataset, frame: int) -> tuple[tuple[Element, ...] | None, bool]:
    """The modality stage (None if it is broken), and whether its output can be negative."""
    signed = unsigned_of(header, "PixelRepresentation") == 1
    if (item := _item(header, "ModalityLUTSequence")) is not None:
        table = _table(item, header, "ModalityLUTSequence", signed=signed, kind=True)
        return ((table,) if table else None), False
    for place in macros(header, frame, "PixelValueTransformationSequence"):
        keywords = ("RescaleIntercept", "RescaleSlope")
        if not any(text_of(place, keyword) for keyword in keywords):
            continue
        intercept, slope = (decimals(place, keyword) if text_of(place, keyword) else ("",) for keyword in keywords)
        if len(intercept) != 1 or len(slope) != 1 or not float(slope[0] or 1):
            return None, signed
        at, by = float(intercept[0] or 0), float(slope[0] or 1)
        reach = (1 << min(unsigned_of(header, "BitsStored") or 16, 32)) - 1
        kind = text_of(place, "RescaleType")
        if not _ascii(kind):  # type 1C beside the other two; images of Hounsfield units may go without
            kind = "HU" if text_of(header, "Modality") == "CT" else "US"
        elements = (
            _text("RescaleIntercept", intercept[0] or "0"),
            _text("RescaleSlope", slope[0] or "1"),
            _text("RescaleType", kind[:64]),
        )
        return elements, signed or at < 0 or at + by * reach < 0
    return (), signed


def _voi(header: Dataset, frame: int, *, signed: bool) -> tuple[Element, ...]:
    if (item := _item(header, "VOILUTSequence")) is not None:
        table = _table(item, header, "VOILUTSequence", signed=signed, kind=False)
        return (table,) if table else ()
    for place in macros(header, frame, "FrameVOILUTSequence"):
        if text_of(place, "WindowCenter") or text_of(place, "WindowWidth"):
            return _window(place, header)
    return ()


def _window(place: Dataset, header: Dataset) -> tuple[Element, ...]:
    """The first window (PS3.3 C.11.8: a state has one for each image); empty if it is broken."""
    centers, widths = decimals(place, "WindowCenter"), decimals(place, "WindowWidth")
    function = text_of(place, "VOILUTFunction").upper()
    if not centers or len(centers) != len(widths) or function not in _FUNCTIONS:
        return ()
    if float(widths[0]) <= 0 or (float(widths[0]) < 1 and function in ("", "LINEAR")):
        return ()
    return (
        _text("WindowCenter", centers[0]),
        _text("WindowWidth", widths[0]),
        *_explanation(place, header, "WindowCenterWidthExplanation", alone=len(centers) == 1),
        *([_text("VOILUTFunction", function)] if function else []),
    )


def _explanation(place: Dataset, header: Dataset, keyword: str, *, alone: bool) -> tuple[Element, ...]:
    """What a window or a table is for, the first if there are several; empty if its characters are not certain."""
    value = text_of(place, keyword).encode("latin-1")
    if not alone:
        # A backslash may be the second byte of a character, except if all bytes are ASCII and none is an escape.
        single = value.isascii() and b"\x1b" not in value
        value = value.split(b"\\")[0].strip() if single else b""
    known = 0 < len(certain_text(header, keyword, value)) <= _LONGEST_EXPLANATION
    return (_text(keyword, value),) if known else ()


def _table(item: Dataset, header: Dataset, keyword: str, *, signed: bool, kind: bool) -> Element | None:
    """A sequence of one table (PS3.3 C.11.1.1.1). None if it is broken; ``kind``: the table has a type of output."""
    descriptor, data = _words(item, "LUTDescriptor"), _words(item, "LUTData")
    if len(descriptor) != 6:
        return None
    count, _, bits = (int.from_bytes(descriptor[at : at + 2], "little") for at in (0, 2, 4))
    count = count or 1 << 16
    if not 8 <= bits <= 16 or len(data) < (2 * count if bits > 8 else count):
        return None
    output = text_of(item, "ModalityLUTType")
    tag = tag_of("LUTDescriptor")
    elements: list[Element] = [(tag, "SS" if signed else "US", descriptor)]
    elements += _explanation(item, header, "LUTExplanation", alone=True)
    if kind:
        elements.append(_text("ModalityLUTType", output[:64] if _ascii(output) else "US"))
    # As words of VR US, which every reader of such tables knows, where explicit VR can say their length.
    elements.append((tag_of("LUTData"), "US" if len(data) <= 0xFFFE else "OW", data))
    return tag_of(keyword), "SQ", as_item(Dataset(), tuple(elements))


def _ascii(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()


def _words(item: Dataset, keyword: str) -> bytes:
    """16-bit words in little endian; empty if the value has another form."""
    element = item.get_item(tag_of(keyword), keep_deferred=True)
    value = None if element is None else element.value
    if isinstance(value, bytes):
        little = element.is_little_endian if isinstance(element, RawDataElement) else item.original_encoding[1]
        pairs = len(value) // 2 * 2
        if little is False:
            return b"".join(value[at : at + 2][::-1] for at in range(0, pairs, 2))
        return value[:pairs]
    try:
        return b"".join((int(each) & 0xFFFF).to_bytes(2, "little") for each in value or ())
    except (TypeError, ValueError):
        return b""


def _shutter(header: Dataset) -> tuple[Element, ...]:
    """The source's display shutter: without it, a state would uncover what the device covered (PS3.4 N.2.3)."""
    shapes = [shape.strip() for shape in text_of(header, "ShutterShape").split("\\") if shape.strip()]
    if not shapes or not set(shapes) <= _SHUTTERS.keys():
        return ()
    elements = [_text("ShutterShape", "\\".join(shapes))]
    for keyword, least in (each for shape in dict.fromkeys(shapes) for each in _SHUTTERS[shape]):
        values = [value.strip() for value in text_of(header, keyword).split("\\")]
        if len(values) < least or not all(re.fullmatch(r"[+-]?\d{1,9}", value) for value in values):
            return ()
        elements.append(_text(keyword, "\\".join(values)))
    grey = unsigned_of(header, "ShutterPresentationValue") or 0
    return (*elements, (tag_of("ShutterPresentationValue"), "US", grey.to_bytes(2, "little")))
