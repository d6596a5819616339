"""What attributes and pixels of a data set say, in a form in which two data sets can be compared.

The form does not depend on how the data set is encoded: the byte order, padding, lengths that are defined or not, and
VRs that are missing. Texts are decoded with the character set that the data set declares, so that a change of it alone
is seen if it changes a text. An attribute that is empty says as much as one that is missing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, TEXT_VR_DELIMS

from ai.images.comparing.element_values import ITEM, Value, ValueWalk

_CHARACTER_SET = 0x00080005
_LAST_BEFORE_PIXELS = 0x7FDFFFFF  # pixels have group 7FE0
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM_TAG, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_AT_ONCE = 1024 * 1024  # bytes
_UNITS = {"AT": 2, "FD": 8, "FL": 4, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "SL": 4, "SS": 2, "SV": 8, "UL": 4}
_UNITS |= {"US": 2, "UV": 8, "US or SS": 2, "US or OW": 2, "US or SS or OW": 2, "OB or OW": 2}
_ONE_TEXT = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character of it
_TEXTS = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI", *_ONE_TEXT})


class Meaning:
    """What one data set says; ``values`` are attributes by tag, those alone that say anything."""

    def __init__(
        self,
        data_set: BinaryIO,
        transfer_syntax_uid: str,
        tags: Collection[int],
        *,
        most_elements: int,
        most_bytes: int,
    ) -> None:
        """Read the attributes with some tags of a data set that begins where the file stands, up to its pixels.

        A deflated data set must be inflated before.

        Raises:
            ValueError, struct.error: it cannot be parsed, or has more elements or bytes.
        """
        self._walk = ValueWalk(
            data_set,
            implicit=transfer_syntax_uid == ImplicitVRLittleEndian,
            little=transfer_syntax_uid != ExplicitVRBigEndian,
            most_elements=most_elements,
            most_bytes=most_bytes,
        )
        self._file = data_set
        read = self._walk.values({*tags, _CHARACTER_SET}, _LAST_BEFORE_PIXELS)
        declared = read.pop(_CHARACTER_SET, [])
        self._charset = declared[0].value if declared else b""
        told = {tag: self._told(values) for tag, values in read.items()}
        self.values = {tag: value for tag, value in told.items() if value}

    def pixels(self) -> bytes:
        """A digest of the encoded pixels; call it once.

        Raises:
            ValueError, struct.error: they cannot be parsed, or are cut off.
        """
        found = hashlib.sha256()
        while (head := self._walk.next_of(_PIXELS)) is not None:
            tag, size = head
            found.update(tag.to_bytes(4, "big"))
            if size != _UNDEFINED:
                self._add(size, found)
            else:
                self._add_items(found)
        return found.digest()

    def _add_items(self, found: hashlib._Hash) -> None:
        """Encapsulated pixels with the sizes of their fragments (PS3.5 A.4)."""
        order = "<" if self._walk.little else ">"
        while True:
            group, element, size = struct.unpack(order + "HHI", self._file.read(8))
            if group << 16 | element == _SEQUENCE_END:
                return
            if group << 16 | element != _ITEM_TAG or size == _UNDEFINED:
                raise ValueError("encapsulated pixels contain something that is no fragment")
            found.update(size.to_bytes(4, "big"))
            self._add(size, found)

    def _add(self, size: int, found: hashlib._Hash) -> None:
        left = size
        while left:
            piece = self._file.read(min(left, _AT_ONCE))
            if not piece:
                raise ValueError("the data set ends inside its pixels")
            found.update(piece)
            left -= len(piece)

    def _told(self, values: list[Value]) -> bytes:
        """One attribute; a digest of a sequence, empty for one without items."""
        if len(values) == 1 and values[0].depth == 0:
            return self._text_or_words(values[0], self._charset)
        found = hashlib.sha256()
        charsets = [self._charset]  # of each open item; an item may have one of its own
        for value in values:
            del charsets[value.depth + (value.tag != ITEM) :]
            if value.tag == ITEM:
                charsets.append(charsets[-1])
            elif value.tag == _CHARACTER_SET:
                charsets[-1] = value.value
                continue
            told = self._text_or_words(value, charsets[-1])
            if told or value.tag == ITEM or value.vr == "SQ":
                found.update(struct.pack(">IIQ", value.depth, value.tag, len(told)) + told)
        return found.digest() if values else b""

    def _text_or_words(self, value: Value, charset: bytes) -> bytes:
        vr = value.vr
        if (vr is None or vr == "UN") and dictionary_has_tag(value.tag):
            vr = dictionary_VR(value.tag)
        if vr in ("DS", "IS"):
            return b"\\".join(map(_number, value.value.strip(b" \0").split(b"\\")))
        if vr in CUSTOMIZABLE_CHARSET_VR:
            return b"\\".join(_texts(value.value, vr, charset)).rstrip(b"\\")
        if vr in _TEXTS:
            return b"\\".join(part.strip(b" \0") for part in value.value.split(b"\\"))
        unit = _UNITS.get(vr or "", 1)
        if unit == 1 or value.little or len(value.value) % unit:
            return value.value
        return b"".join(value.value[at : at + unit][::-1] for at in range(0, len(value.value), unit))


def _number(text: bytes) -> bytes:
    try:
        return repr(float(text)).encode() if text.strip(b" \0") else b""
    except ValueError:
        return text.strip(b" \0")


def _texts(value: bytes, vr: str, charset: bytes) -> Iterator[bytes]:
    """The values of a text as UTF-8; as they are, with the character set, where they cannot be decoded with it."""
    text = _decoded(value, charset)
    if text is None:
        yield b"\0".join((charset.strip(b" \0"), value.strip(b" \0")))
        return
    for part in [text] if vr in _ONE_TEXT else text.split("\\"):
        told = part.strip(" \0")
        if vr == "PN":
            told = "=".join(group.strip(" ").rstrip("^ ") for group in told.split("=")).rstrip("=")
        yield told.encode("utf-8", "surrogatepass")


def _decoded(value: bytes, charset: bytes) -> str | None:
    """A text, decoded strictly; None if that cannot be done."""
    names = [name.strip() for name in charset.decode("latin-1").strip(" \0").split("\\")]
    if value.isascii() and b"\x1b" not in value and (names == [""] or names[0] not in ("ISO_IR 13", "ISO 2022 IR 13")):
        return value.decode("ascii")
    if any(name not in python_encoding for name in names):
        return None
    try:
        text = str(decode_bytes(value, convert_encodings(names), TEXT_VR_DELIMS))
    except (UnicodeError, LookupError, ValueError):
        return None
    return None if "\ufffd" in text else text
