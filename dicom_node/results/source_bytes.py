"""A source's attributes as bytes: how they are read, checked, copied into a result, and written (PS3.5 7.1.2).

Start here for: how an attribute travels from an image to a result (:func:`copy_attributes`), when Laterality
(0020,0060) is copied (:func:`copy_laterality`), and how an element becomes bytes in Explicit VR Little Endian
(:func:`element_pieces`). Characters and their sets are in :mod:`source_text`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Literal, cast

from pydicom.charset import STAND_ALONE_ENCODINGS, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, EXPLICIT_VR_LENGTH_32

TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
"""The value representations whose bytes are the same in every transfer syntax: a copied sequence holds no others."""

DEEPEST = 4
"""How deep sequences in sequences are copied."""
_LONGEST_SEQUENCE = 64 * 1024  # bytes

# PS3.16 Annex L: unpaired body parts. Laterality (0020,0060) must be absent for them (PS3.3 C.7.3.1).
_UNPAIRED = re.compile(
    "ABDOMEN|AORTA|BACK|BLADDER|BRAIN|CEREBELLUM|CERVIX|CHEST|CIRCLEOFWILLIS|COCCYX|COLON|CORONARYARTERY|CSPINE|CTSPINE"
    "|DUODENUM|ESOPHAGUS|FACE|GALLBLADDER|HEAD|HEADNECK|HEART|ILEUM|ILIUM|JAW|JEJUNUM|LARYNX|LIVER|LSPINE|LSSPINE"
    "|MAXILLA|MEDIASTINUM|MOUTH|NECK|NOSE|PANCREAS|PELVIS|PENIS|PHARYNX|PROSTATE|RECTUM|SCALP|SKULL|SPINE|SPLEEN|SSPINE"
    "|STERNUM|STOMACH|THYMUS|THYROID|TLSPINE|TONGUE|TRACHEA|TSPINE|URETHRA|UTERUS|VAGINA|VULVA|WHOLEBODY"
)

_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"  # Sequence Delimitation Item (PS3.5 7.5.2)

# The form that an optional attribute must have to be copied. Patient and study are copied whatever they look like.
_WELL_FORMED = {"AS": re.compile(r"\d{3}[DWMY]|"), "CS": re.compile(r"[A-Z0-9_ ]{0,16}(\\[A-Z0-9_ ]{0,16})*")}


def text_of(dataset: Dataset, keyword: str) -> str:
    """An attribute's characters without padding, undecoded (Latin-1) and unchecked; empty if it is absent."""
    return value_bytes(dataset, tag_of(keyword)).decode("latin-1").strip(" \0")


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of a DS or IS attribute; empty if any value is not a finite number."""
    try:
        values = tuple(float(part) for part in text_of(dataset, keyword).split("\\"))
    except ValueError:
        return ()
    return values if all(abs(value) < 1e9 for value in values) else ()


def unsigned_of(dataset: Dataset, keyword: str) -> int | None:
    """The value of a US attribute. None if it is absent or is not two bytes long."""
    element = _stored(dataset, tag_of(keyword))
    if isinstance(element, RawDataElement):
        order: Literal["little", "big"] = "little" if element.is_little_endian else "big"
        return int.from_bytes(element.value, order) if element.value and len(element.value) == 2 else None
    return element.value if element is not None and isinstance(element.value, int) else None


def frames_of(header: Dataset) -> int:
    """The number of frames of an image; 1 if Number of Frames is absent or invalid."""
    number = numbers_of(header, "NumberOfFrames")
    return int(number[0]) if len(number) == 1 and number[0] >= 1 else 1


def tag_of(keyword: str) -> BaseTag:
    """The tag of a keyword of the data dictionary.

    Raises:
        KeyError: the data dictionary does not have it.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Tag(tag)


def value_bytes(dataset: Dataset, tag: BaseTag, charset: list[str] | None = None) -> bytes:
    """The bytes of a text value as the source has them; ``charset`` is what a sequence item inherits."""
    element = _stored(dataset, tag)
    if element is None:
        return b""
    if isinstance(element, RawDataElement):
        return element.value or b""
    # The value was looked at, so pydicom has decoded it: encode it again in the source's character set.
    if element.VR not in CUSTOMIZABLE_CHARSET_VR:
        charset = [""]  # to ask for the character set is to ask for such an element: without this, an endless recursion
    written = element_bytes(element, charset or charset_terms(dataset))
    return written[12:] if element.VR in EXPLICIT_VR_LENGTH_32 else written[8:]


def sequence_items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """The items of a sequence; empty if pydicom cannot parse them. The data set is not changed."""
    if tag not in dataset:
        return []
    alone = Dataset()  # so that pydicom parses the items without the source's own character set
    alone[tag] = dataset.get_item(tag)
    try:
        items = list(alone[tag].value)
        for item in items:
            item.keys()  # pydicom parses the item now, or fails now
    except Exception:  # pydicom raises nearly any exception on bytes that are not a sequence
        return []
    return items


def raw_element(tag: BaseTag, value: bytes) -> RawDataElement:
    """An element with these bytes as its value, padded to an even length."""
    vr = dictionary_VR(tag)
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    if len(value) > 0xFFFE and vr not in EXPLICIT_VR_LENGTH_32:
        value = b""  # Implicit VR allows a longer name than Explicit VR can hold: write no name, not half of one
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def copy_attributes(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy those of ``keywords`` that the source has (text or sequences of text), byte for byte and undecoded."""
    for tag in map(tag_of, keywords):
        if tag not in source:
            continue
        is_sequence = dictionary_VR(tag) == "SQ"
        value = copied_sequence(source, tag, charset_terms(source)) if is_sequence else value_bytes(source, tag)
        if value or not is_sequence:  # none of the sequences copied here may be empty
            target[tag] = raw_element(tag, value)


def copy_optional(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy optional attributes (AS or CS) that are well-formed; a malformed one would only make the object invalid."""
    copy_attributes(source, target, (word for word in keywords if _is_well_formed(source, word)))


def copy_laterality(source: Dataset, target: Dataset) -> None:
    """Copy Laterality (0020,0060, type 2C): the source's side, else empty; absent for an unpaired body part.

    See PS3.3 C.7.3.1. This is the laterality of the whole image. That of a finding is decided in
    :mod:`ai.anatomy.side` and written by :mod:`objects.sr`.
    """
    if text_of(source, "Laterality"):
        copy_attributes(source, target, ["Laterality"])
    elif _UNPAIRED.fullmatch(text_of(source, "BodyPartExamined")) is None:
        target.Laterality = None


def declared_charset(dataset: Dataset) -> list[str]:
    """The terms of Specific Character Set (0008,0005), as the source has them."""
    return [term.strip() for term in text_of(dataset, "SpecificCharacterSet").split("\\")]


def charset_terms(dataset: Dataset) -> list[str]:
    """The character sets with which pydicom decoded a data set: chosen as pydicom does, but without its warnings."""
    terms = declared_charset(dataset)
    if any(term not in python_encoding for term in terms):
        return [""]
    if terms[0] in STAND_ALONE_ENCODINGS:
        return terms[:1]
    return [term for term in terms if term not in STAND_ALONE_ENCODINGS]


def element_bytes(element: DataElement | RawDataElement, charset: list[str]) -> bytes:
    """One element in Explicit VR Little Endian: raw elements unchanged, texts in the character sets ``charset``."""
    return b"".join(element_pieces(element, charset))


def element_pieces(element: DataElement | RawDataElement, charset: list[str]) -> tuple[bytes | memoryview, ...]:
    """The bytes of :func:`element_bytes` in pieces.

    The pixels of a picture are a piece of their own: pydicom would copy them three times.
    """
    value = element.value
    if element.VR == "OB" and isinstance(value, bytes) and is_encapsulated(element):
        return struct.pack("<HH2s2xI", element.tag.group, element.tag.element, b"OB", 0xFFFFFFFF), value, _DELIMITER
    if element.VR == "OB" and isinstance(value, bytes | memoryview) and len(value) < 0xFFFFFFFF:
        odd = len(value) % 2
        head = struct.pack("<HH2s2xI", element.tag.group, element.tag.element, b"OB", len(value) + odd)
        return head, value, b"\0" * odd
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_data_element(out, element, charset)
    return (out.getvalue(),)


def is_encapsulated(element: DataElement | RawDataElement) -> bool:
    """Whether the element has an undefined length, as compressed pixels do (PS3.5 A.4)."""
    if isinstance(element, RawDataElement):
        return element.length == 0xFFFFFFFF
    return bool(element.is_undefined_length)


def _stored(dataset: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """An element as pydicom holds it: raw until its value is looked at."""
    return cast("DataElement | RawDataElement | None", dataset.get_item(tag, keep_deferred=True))


def copied_sequence(dataset: Dataset, tag: BaseTag, charset: list[str]) -> bytes:
    """The items of a sequence of texts, and of such sequences, in Explicit VR Little Endian.

    Empty if pydicom cannot parse them, or if they are longer than any that is honest: each object would repeat them.
    """
    value = _sequence_bytes(dataset, tag, charset, DEEPEST)
    return value if len(value) <= _LONGEST_SEQUENCE else b""


def item_of(elements: Dataset) -> bytes:
    """An item of a sequence with raw elements, of which each is in Explicit VR Little Endian."""
    body = b"".join(element_bytes(elements.get_item(tag), [""]) for tag in sorted(elements.keys()))
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body


def _sequence_bytes(dataset: Dataset, tag: BaseTag, charset: list[str], deepest: int) -> bytes:
    return b"".join(_item_bytes(item, charset, deepest) for item in sequence_items(dataset, tag))


def _item_bytes(item: Dataset, charset: list[str], deepest: int) -> bytes:
    kept = Dataset()
    for tag in sorted(item.keys()):
        vr, value = dictionary_VR(tag) if dictionary_has_tag(tag) else "", b""
        if vr in TEXT_VRS:
            value = value_bytes(item, tag, charset)
        elif vr == "SQ" and deepest > 1:
            value = _sequence_bytes(item, tag, charset, deepest - 1)
        if value.strip(b" \0"):  # an empty value says nothing, and may not be there
            kept[tag] = raw_element(tag, value)
    return item_of(kept) if kept else b""  # neither does an empty item


def _is_well_formed(source: Dataset, keyword: str) -> bool:
    tag, text = tag_of(keyword), text_of(source, keyword)
    many = dictionary_VM(tag)
    right_many = not text or many == "1-n" or str(text.count("\\") + 1) == many
    return right_many and _WELL_FORMED[dictionary_VR(tag)].fullmatch(text) is not None
