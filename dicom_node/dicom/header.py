"""Reads the header attributes that the index records from an encoded data set (PS3.5 7), without reading the pixels.

There are two readers with the same results. `read_plain_header` is fast. It reads plain data sets: little endian, tags
in ascending order, the header within the first bytes. `read_header` reads every data set that can be parsed; pydicom
decodes its values.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ai.errors import where
from ai.images.element_walk import LONGEST_VALUE, Walk
from dicom_node.dicom.attributes import is_uid
from dicom_node.errors import Refused

HEAD_BYTES = 16 * 1024
"""Bytes of a data set's beginning that `read_plain_header` needs at most; most headers end before."""

_DEFLATED_HEAD_LIMIT = 4 * 1024 * 1024  # bytes; limits what a decompression bomb inflates to

_HEADER_TAGS: dict[str, int] = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "modality": 0x00080060,
    "study_description": 0x00081030,
    "series_description": 0x0008103E,
    "body_part": 0x00180015,
    "study": 0x0020000D,
    "series": 0x0020000E,
}
_UID_TAGS = frozenset(tag for name, tag in _HEADER_TAGS.items() if name.endswith("uid") or name in ("study", "series"))
_LO_TAGS = frozenset(tag for name, tag in _HEADER_TAGS.items() if name.endswith("description"))
_SPECIFIC_CHARACTER_SET = 0x00080005
_WANTED = frozenset((_SPECIFIC_CHARACTER_SET, *_HEADER_TAGS.values()))
_VRS = {tag: b"UI" if tag in _UID_TAGS else b"LO" if tag in _LO_TAGS else b"CS" for tag in _WANTED}
_LAST_HEADER_TAG = max(_HEADER_TAGS.values())

# for the plain reader
_EXPLICIT = struct.Struct("<HHHH")  # group, element, VR, 16 bits of length
_IMPLICIT = struct.Struct("<HHI")
_LONG_SIZE = struct.Struct("<I")
_SHORT_VRS = frozenset(
    int.from_bytes(vr, "little") for vr in b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_LONG_VRS = frozenset(int.from_bytes(vr, "little") for vr in b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SQ = int.from_bytes(b"SQ", "little")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITER_GROUP = 0xFFFE
_FIRST_GROUP = 0x0008
_DEEPEST = 16  # nested sequences


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes that the index records. A text is empty if the data set does not have it."""

    sop_class_uid: str
    sop_instance_uid: str
    study: str
    series: str
    modality: str
    body_part: str
    study_description: str
    series_description: str


def read_plain_header(head: bytes | bytearray, transfer_syntax_uid: str) -> Header | None:
    """Read the header from the first bytes of a data set.

    Returns:
        None if the bytes are too few or not plain: `read_header` must read the data set then.
    """
    try:
        texts = _plain(head, transfer_syntax_uid)
    except Exception:  # hostile bytes; `read_header` says what is wrong
        return None
    header = None if texts is None else Header(**texts)
    return None if header is None or _missing(header) else header


def read_header(data_set: BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read the header of any encoded data set, from its start. Reading stops long before the pixels.

    Raises:
        Refused: C000, the data set cannot be parsed, or has no valid SOP Class, SOP Instance, Study Instance or Series
            Instance UID.
    """
    try:
        header = Header(**_thorough(data_set, transfer_syntax_uid))
    except Exception as error:  # whatever a parser raises on hostile bytes
        raise Refused(0xC000, f"the data set cannot be parsed as {transfer_syntax_uid} ({where(error)})") from error
    if missing := _missing(header):
        raise Refused(0xC000, f"the data set has no valid {', '.join(missing)}")
    return header


def _missing(header: Header) -> list[str]:
    """The names of required UIDs that the header does not have, or whose values are not valid."""
    return [
        name
        for name, uid in (
            ("SOP Class UID (0008,0016)", header.sop_class_uid),
            ("SOP Instance UID (0008,0018)", header.sop_instance_uid),
            ("Study Instance UID (0020,000D)", header.study),
            ("Series Instance UID (0020,000E)", header.series),
        )
        if not is_uid(uid)
    ]


# -- the thorough reader, for whatever is not plain: pydicom decodes


def _thorough(data_set: BinaryIO, syntax: str) -> dict[str, str]:
    """The texts of any header; raises whatever pydicom and the parser raise on hostile bytes."""
    if syntax == DeflatedExplicitVRLittleEndian:
        data_set = io.BytesIO(_inflate(data_set))
    # Encapsulated and private transfer syntaxes are Explicit VR Little Endian (PS3.5 A.4). `Walk` notices an exception.
    walk = Walk(data_set, implicit=syntax == ImplicitVRLittleEndian, little=syntax != ExplicitVRBigEndian)
    elements = walk.read(_WANTED, _LAST_HEADER_TAG)
    found = Dataset({**elements})
    charset = elements.get(BaseTag(_SPECIFIC_CHARACTER_SET))
    if charset is not None:
        names = convert_encodings(convert_raw_data_element(charset).value)
        found.set_original_encoding(walk.implicit, walk.little, names)
    return {name: _text(found, tag) for name, tag in _HEADER_TAGS.items()}


def _inflate(data_set: BinaryIO) -> bytearray:
    """The beginning of a deflated data set (PS3.5 A.5), as far as a header can reach."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    head = bytearray()
    while len(head) < _DEFLATED_HEAD_LIMIT and (packed := data_set.read(64 * 1024)):
        head += inflate.decompress(packed, _DEFLATED_HEAD_LIMIT - len(head))
        if inflate.eof:
            break
    return head


def _text(found: Dataset, tag: int) -> str:
    if tag not in found:
        return ""
    value = found[tag].value
    return "" if value is None else str(value).strip(" \0")


# -- the plain reader: little endian, tags in ascending order, all of it within the first bytes


class _NotPlainError(Exception):
    """The bytes are not plain, or too few: `read_header` must read the data set."""


def _plain(head: bytes | bytearray, syntax: str) -> dict[str, str] | None:
    """The texts of a plain header, exactly as `_thorough` returns them. None if it is not plain."""
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        return None
    explicit = syntax != ImplicitVRLittleEndian
    if not explicit and head[4:6].isalpha() and head[4:6].isupper():
        return None  # it looks like a VR, and the transfer syntax has none
    found: dict[int, bytes] = {}
    at, last = 0, -1
    try:
        while True:
            tag, begin, end = _element(head, at, explicit=explicit)
            if tag > _LAST_HEADER_TAG and last >= 0:
                break
            if tag <= last:
                raise _NotPlainError  # noqa: TRY301 - handled below with all that is not plain
            if tag in _WANTED:
                if end > len(head) or end < begin or (explicit and head[at + 4 : at + 6] != _VRS[tag]):
                    raise _NotPlainError  # noqa: TRY301
                found[tag] = bytes(head[begin : min(end, begin + LONGEST_VALUE)])
            at = end if end >= begin else _past_sequence(head, begin, explicit=explicit, depth=1)
            last = tag
        charset = found.pop(_SPECIFIC_CHARACTER_SET, b"")
        return {name: _decoded(found.get(tag, b""), tag, charset) for name, tag in _HEADER_TAGS.items()}
    except (_NotPlainError, struct.error):  # struct.error: the first bytes end here
        return None


def _element(head: bytes | bytearray, at: int, *, explicit: bool) -> tuple[int, int, int]:
    """The tag of the element at ``at``, and where its value begins and ends (-1: its length is undefined)."""
    if explicit:
        group, element, vr, size = _EXPLICIT.unpack_from(head, at)
        begin = at + 8
        if vr in _LONG_VRS:
            (size,) = _LONG_SIZE.unpack_from(head, begin)
            begin += 4
            if size == _UNDEFINED and vr != _SQ:
                raise _NotPlainError
        elif vr not in _SHORT_VRS:
            raise _NotPlainError
    else:
        group, element, size = _IMPLICIT.unpack_from(head, at)
        begin = at + 8
    if group < _FIRST_GROUP or group == _DELIMITER_GROUP:
        raise _NotPlainError
    return group << 16 | element, begin, begin + size if size != _UNDEFINED else -1


def _past_sequence(head: bytes | bytearray, at: int, *, explicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends. Its first item is at ``at``."""
    if depth > _DEEPEST:
        raise _NotPlainError
    while True:
        group, element, size = _IMPLICIT.unpack_from(head, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _NotPlainError
        at = at + size if size != _UNDEFINED else _past_item(head, at, explicit=explicit, depth=depth)


def _past_item(head: bytes | bytearray, at: int, *, explicit: bool, depth: int) -> int:
    """Where an item of undefined length ends. Its first element is at ``at``."""
    while True:
        group, element, _ = _IMPLICIT.unpack_from(head, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        _, begin, end = _element(head, at, explicit=explicit)
        at = end if end >= begin else _past_sequence(head, begin, explicit=explicit, depth=depth + 1)


def _decoded(value: bytes, tag: int, charset: bytes) -> str:
    """The text of a value, decoded by pydicom if it is not plain ASCII."""
    if value.isascii() and b"\x1b" not in value and b"\\" not in value:
        text = value.decode("ascii").strip(" \0")
        if tag in _UID_TAGS and text != text.strip():
            raise _NotPlainError
        return text
    if tag in _UID_TAGS:
        raise _NotPlainError
    raw = RawDataElement(BaseTag(tag), _VRS[tag].decode(), len(value), value, 0, False, True)
    names = charset.decode("latin-1").rstrip(" \0").split("\\")
    decoded = convert_raw_data_element(raw, encoding=convert_encodings(names) if charset else None).value
    return "" if decoded is None else str(decoded).strip(" \0")
