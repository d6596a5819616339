"""Attributes of a source as the bytes that they are: read, checked, copied."""

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

# PS3.16 Annex L: the parts of the body of which there is one, so that Laterality must not be said of them.
_UNPAIRED = re.compile(
    "ABDOMEN|AORTA|BACK|BLADDER|BRAIN|CEREBELLUM|CERVIX|CHEST|CIRCLEOFWILLIS|COCCYX|COLON|CORONARYARTERY|CSPINE|CTSPINE"
    "|DUODENUM|ESOPHAGUS|FACE|GALLBLADDER|HEAD|HEADNECK|HEART|ILEUM|ILIUM|JAW|JEJUNUM|LARYNX|LIVER|LSPINE|LSSPINE"
    "|MAXILLA|MEDIASTINUM|MOUTH|NECK|NOSE|PANCREAS|PELVIS|PENIS|PHARYNX|PROSTATE|RECTUM|SCALP|SKULL|SPINE|SPLEEN|SSPINE"
    "|STERNUM|STOMACH|THYMUS|THYROID|TLSPINE|TONGUE|TRACHEA|TSPINE|URETHRA|UTERUS|VAGINA|VULVA|WHOLEBODY"
)


# What an optional attribute has to look like to be worth repeating; identity is repeated whatever it looks like.
_WELL_FORMED = {"AS": re.compile(r"\d{3}[DWMY]|"), "CS": re.compile(r"[A-Z0-9_ ]{0,16}(\\[A-Z0-9_ ]{0,16})*")}


# The value representations whose bytes are the same in every transfer syntax: all that a copied sequence may hold.
TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)


def text_of(dataset: Dataset, keyword: str) -> str:
    """An attribute's characters without padding, undecoded (Latin-1) and unchecked; empty where there is none."""
    return value_bytes(dataset, tag_of(keyword)).decode("latin-1").strip(" \0")


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The finite numbers of a DS or IS attribute; empty where any value is none."""
    try:
        values = tuple(float(part) for part in text_of(dataset, keyword).split("\\"))
    except ValueError:
        return ()
    return values if all(abs(value) < 1e9 for value in values) else ()


def unsigned_of(dataset: Dataset, keyword: str) -> int | None:
    """A US attribute, none where it is absent or has not two bytes."""
    element = _stored(dataset, tag_of(keyword))
    if isinstance(element, RawDataElement):
        order: Literal["little", "big"] = "little" if element.is_little_endian else "big"
        return int.from_bytes(element.value, order) if element.value and len(element.value) == 2 else None
    return element.value if element is not None and isinstance(element.value, int) else None


def frames_of(header: Dataset) -> int:
    """How many frames an image has: 1 where it does not say, or says nonsense."""
    number = numbers_of(header, "NumberOfFrames")
    return int(number[0]) if len(number) == 1 and number[0] >= 1 else 1


def tag_of(keyword: str) -> BaseTag:
    """The tag of a keyword of the data dictionary."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Tag(tag)


def _stored(dataset: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """An element as pydicom holds it: raw until somebody looks at its value."""
    return cast("DataElement | RawDataElement | None", dataset.get_item(tag, keep_deferred=True))


def value_bytes(dataset: Dataset, tag: BaseTag, charset: list[str] | None = None) -> bytes:
    """The bytes of a text value as the source has them; ``charset`` is what an item inherits from its parent."""
    element = _stored(dataset, tag)
    if element is None:
        return b""
    if isinstance(element, RawDataElement):
        return element.value or b""
    # Somebody has looked at the value, and pydicom has decoded it: encode it again under the source's character set.
    if element.VR not in CUSTOMIZABLE_CHARSET_VR:
        charset = [""]  # not only faster: to ask for the character set is itself to ask for such an element
    written = element_bytes(element, charset or charset_terms(dataset))
    return written[12:] if element.VR in EXPLICIT_VR_LENGTH_32 else written[8:]


def _sequence_bytes(dataset: Dataset, tag: BaseTag) -> bytes:
    """The items of a sequence of texts in explicit VR little endian; none where pydicom cannot make any out."""
    charset = charset_terms(dataset)
    return b"".join(_item_bytes(item, charset) for item in sequence_items(dataset, tag))


def sequence_items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """The items of a sequence; none where pydicom cannot make any out. The data set stays as it is."""
    if tag not in dataset:
        return []
    alone = Dataset()  # so that pydicom parses the items without a look at the source's own character set
    alone[tag] = dataset.get_item(tag)
    try:
        items = list(alone[tag].value)
        for item in items:
            item.keys()  # parsed now, if it can be
    except Exception:  # pydicom raises nearly anything on bytes that are no sequence
        return []
    return items


def _item_bytes(item: Dataset, charset: list[str]) -> bytes:
    tags = [tag for tag in sorted(item.keys()) if dictionary_has_tag(tag) and dictionary_VR(tag) in TEXT_VRS]
    body = b"".join(element_bytes(raw_element(tag, value_bytes(item, tag, charset)), [""]) for tag in tags)
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body if body else b""  # an empty one says nothing


def raw_element(tag: BaseTag, value: bytes) -> RawDataElement:
    """An element whose value is these bytes, padded to an even length."""
    vr = dictionary_VR(tag)
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    if len(value) > 0xFFFE and vr not in EXPLICIT_VR_LENGTH_32:
        value = b""  # an implicit VR source may hold a name longer than explicit VR can say: no name, not half of one
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def copy_attributes(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy what the source has of ``keywords`` (text or sequences of text), byte for byte, without decoding it."""
    for tag in map(tag_of, keywords):
        if tag not in source:
            continue
        is_sequence = dictionary_VR(tag) == "SQ"
        value = _sequence_bytes(source, tag) if is_sequence else value_bytes(source, tag)
        if value or not is_sequence:  # none of the sequences copied here may stand without an item
            target[tag] = raw_element(tag, value)


def copy_optional(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy what is well-formed of optional attributes (AS or CS), and leave out what would only spoil the object."""
    copy_attributes(source, target, (word for word in keywords if _is_well_formed(source, word)))


def _is_well_formed(source: Dataset, keyword: str) -> bool:
    tag, text = tag_of(keyword), text_of(source, keyword)
    many = dictionary_VM(tag)
    right_many = not text or many == "1-n" or str(text.count("\\") + 1) == many
    return right_many and _WELL_FORMED[dictionary_VR(tag)].fullmatch(text) is not None


def copy_laterality(source: Dataset, target: Dataset) -> None:
    """Copy Laterality (0020,0060), type 2C: a side is always repeated; where none is known the attribute stands empty.

    But of a part of the body of which there is one it must not stand at all (PS3.3 C.7.3.1).
    """
    if text_of(source, "Laterality"):
        copy_attributes(source, target, ["Laterality"])
    elif _UNPAIRED.fullmatch(text_of(source, "BodyPartExamined")) is None:
        target.Laterality = None


def declared_charset(dataset: Dataset) -> list[str]:
    """The terms of Specific Character Set (0008,0005), as they stand there."""
    return [term.strip() for term in text_of(dataset, "SpecificCharacterSet").split("\\")]


def charset_terms(dataset: Dataset) -> list[str]:
    """The character sets by which pydicom has decoded a data set, chosen as it does but without its warnings."""
    terms = declared_charset(dataset)
    if any(term not in python_encoding for term in terms):
        return [""]
    if terms[0] in STAND_ALONE_ENCODINGS:
        return terms[:1]
    return [term for term in terms if term not in STAND_ALONE_ENCODINGS]


def element_bytes(element: DataElement | RawDataElement, charset: list[str]) -> bytes:
    """One element in explicit VR little endian; raw ones as they are, texts under the terms of ``charset``."""
    return b"".join(element_pieces(element, charset))


def element_pieces(element: DataElement | RawDataElement, charset: list[str]) -> tuple[bytes | memoryview, ...]:
    """`element_bytes` in pieces.

    A picture is a piece of its own: pydicom would copy it three times on its way.
    """
    value = element.value
    if element.VR == "OB" and isinstance(value, bytes | memoryview) and len(value) < 0xFFFFFFFF:
        odd = len(value) % 2
        head = struct.pack("<HH2s2xI", element.tag.group, element.tag.element, b"OB", len(value) + odd)
        return head, value, b"\0" * odd
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_data_element(out, element, charset)
    return (out.getvalue(),)
