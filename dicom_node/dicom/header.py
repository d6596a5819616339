"""What the index needs of an encoded data set, read from its first bytes; and what stands before it in a file."""

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
from dicom_node.dicom.attributes import is_uid
from dicom_node.dicom.element_walk import LONGEST_VALUE, Walk
from dicom_node.errors import Refused

HEAD_BYTES = 16 * 1024
"""How much of a data set's beginning is worth keeping in memory to be scanned: most headers end before it."""

_DEFLATED_HEAD_LIMIT = 4 * 1024 * 1024  # a header larger than this is no header; it bounds what a bomb can inflate to


@dataclass(frozen=True, slots=True)
class Header:
    """What the index needs of a data set; texts are empty where the data set has none."""

    sop_class_uid: str
    sop_instance_uid: str
    study: str
    series: str
    modality: str
    body_part: str
    study_description: str
    series_description: str


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


def glance(head: bytes | bytearray, transfer_syntax_uid: str) -> Header | None:
    """Read what the index needs from a data set's first bytes; None where they are too few, or call for `scan`."""
    try:
        texts = _plain(head, transfer_syntax_uid)
    except Exception:  # hostile bytes; `scan` says what they are
        return None
    header = None if texts is None else Header(**texts)
    return None if header is None or _missing(header) else header


def scan(data_set: BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read what the index needs from an encoded data set, from its start, stopping long before the pixels.

    Raises:
        Refused: C000, if it cannot be parsed or names no study and series.
    """
    try:
        header = Header(**_thorough(data_set, transfer_syntax_uid))
    except Exception as error:  # whatever a parser raises on hostile bytes means the same: it cannot be parsed
        raise Refused(0xC000, f"the data set cannot be parsed as {transfer_syntax_uid} ({where(error)})") from error
    if missing := _missing(header):
        raise Refused(0xC000, f"the data set has no valid {', '.join(missing)}")
    return header


def _missing(header: Header) -> list[str]:
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


# -- the thorough way: pydicom decodes, for whatever is not plain


def _thorough(data_set: BinaryIO, syntax: str) -> dict[str, str]:
    if syntax == DeflatedExplicitVRLittleEndian:
        data_set = io.BytesIO(_inflate(data_set))
    # Encapsulated and private syntaxes are Explicit VR Little Endian (PS3.5 A.4); it is noticed where not.
    walk = Walk(data_set, implicit=syntax == ImplicitVRLittleEndian, little=syntax != ExplicitVRBigEndian)
    elements = walk.wanted(_WANTED, _LAST_HEADER_TAG)
    found = Dataset({**elements})
    charset = elements.get(BaseTag(_SPECIFIC_CHARACTER_SET))
    if charset is not None:
        names = convert_encodings(convert_raw_data_element(charset).value)
        found.set_original_encoding(walk.implicit, walk.little, names)
    return {name: _text(found, tag) for name, tag in _HEADER_TAGS.items()}


def _inflate(data_set: BinaryIO) -> bytearray:
    """The beginning of a deflated data set, as far as a header can reach."""
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


# -- the plain way: little endian, sorted, everything within the head

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
_DEEPEST = 16


class _NotPlainError(Exception):
    """The bytes need a thorough look, or there are too few of them."""


def _plain(head: bytes | bytearray, syntax: str) -> dict[str, str] | None:
    """The texts of a plain header, exactly as `_thorough` gives them; None where it is not plain."""
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        return None
    explicit = syntax != ImplicitVRLittleEndian
    if not explicit and head[4:6].isalpha() and head[4:6].isupper():
        return None  # a VR, it seems, where there should be none
    found: dict[int, bytes] = {}
    at, last = 0, -1
    try:
        while True:
            tag, begin, end = _element(head, at, explicit=explicit)
            if tag > _LAST_HEADER_TAG and last >= 0:
                break
            if tag <= last:
                raise _NotPlainError  # noqa: TRY301 - as everything else that is not plain
            if tag in _WANTED:
                if end > len(head) or end < begin or (explicit and head[at + 4 : at + 6] != _VRS[tag]):
                    raise _NotPlainError  # noqa: TRY301
                found[tag] = bytes(head[begin : min(end, begin + LONGEST_VALUE)])
            at = end if end >= begin else _past_sequence(head, begin, explicit=explicit, depth=1)
            last = tag
        charset = found.pop(_SPECIFIC_CHARACTER_SET, b"")
        return {name: _decoded(found.get(tag, b""), tag, charset) for name, tag in _HEADER_TAGS.items()}
    except (_NotPlainError, struct.error):  # struct.error: the head ends here
        return None


def _element(head: bytes | bytearray, at: int, *, explicit: bool) -> tuple[int, int, int]:
    """The tag of the element at ``at``, where its value begins and ends; -1 for an end that is not said."""
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
    """Where a sequence of undefined length ends whose first item stands at ``at``."""
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
    """Where an item of undefined length ends whose first element stands at ``at``."""
    while True:
        group, element, _ = _IMPLICIT.unpack_from(head, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        _, begin, end = _element(head, at, explicit=explicit)
        at = end if end >= begin else _past_sequence(head, begin, explicit=explicit, depth=depth + 1)


def _decoded(value: bytes, tag: int, charset: bytes) -> str:
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


# -- the beginning of a file
