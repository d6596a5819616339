"""Character sets: a source's texts read or converted to UTF-8, and our texts fitted into the source's set.

Start here for: why a text appears without accents or with ``?`` (:func:`fit`), why a result is in English or in UTF-8
(:func:`holds_any_text`, :func:`in_utf8`), and when the PDF page leaves out a patient's name (:func:`certain_text`).
Specific Character Set is PS3.3 C.12.1.1.2, its escape sequences PS3.5 6.1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from pydicom.charset import CODES_TO_ENCODINGS, default_encoding, handled_encodings, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from dicom_node.results.source_bytes import (
    DEEPEST,
    TEXT_VRS,
    charset_terms,
    declared_charset,
    raw_element,
    sequence_items,
    tag_of,
    value_bytes,
)

_TYPOGRAPHY = str.maketrans(
    {"\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2265": ">="}
)


def own_charset(dataset: Dataset) -> str:
    """The character set for *our* text: the source's if it is a single known one, otherwise ASCII.

    ASCII is part of every character set of PS3.3 C.12.1.1.2, also before any escape sequence, so it never contradicts
    the declared one. ISO_IR 13 is left out because Python's codec for it writes more characters than that set holds.
    """
    terms = declared_charset(dataset)
    known = len(terms) == 1 and terms[0] in python_encoding and terms[0] != "ISO_IR 13"
    return terms[0] if known else ""


def fit(text: str, header: Dataset) -> str:
    """Our text in characters that the source's character set holds: else without accents, and ``?`` for the rest."""
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text.replace("\\", "/"))
    charset = own_charset(header)
    try:
        text.encode("ascii" if charset in ("", "ISO_IR 6") else python_encoding[charset])
    except UnicodeEncodeError:
        return "".join(_ascii(c) for c in text.translate(_TYPOGRAPHY))
    return text


def within(text: str, limit: int) -> str:
    """The beginning of a text that takes at most ``limit`` bytes in any character set.

    The standard counts characters (PS3.5 6.2), but programs that read DICOM count bytes: a Korean syllable has three in
    UTF-8 and four in GB18030.
    """
    taken = 0
    for place, character in enumerate(text):
        taken += max(len(character.encode(encoding, errors="replace")) for encoding in ("utf-8", "gb18030"))
        if taken > limit:
            return text[:place]
    return text


def holds_any_text(header: Dataset) -> bool:
    """Whether the source's character set holds the texts of every language of the results."""
    return own_charset(header) in ("ISO_IR 192", "GB18030")


def in_utf8(header: Dataset, keywords: Iterable[str]) -> Dataset | None:
    """The header with ``keywords`` (text or sequences of text) converted to UTF-8, which it then declares.

    None if a value does not fit the declared character set, so that its characters are not certain. People who know the
    sender still read a wrongly declared name correctly; a conversion would make it unreadable for them too.
    """
    converted = Dataset()
    for tag in sorted(header.keys()):
        converted[tag] = header.get_item(tag, keep_deferred=True)
    try:
        for tag in map(tag_of, keywords):
            if tag in header and dictionary_VR(tag) == "SQ":
                converted[tag] = DataElement(tag, "SQ", _items_in_utf8(header, header, tag, DEEPEST))
            elif tag in header and dictionary_VR(tag) in CUSTOMIZABLE_CHARSET_VR:
                converted[tag] = raw_element(tag, _utf8(header, tag, value_bytes(header, tag)))
    except (UnicodeError, LookupError):
        return None
    converted[tag_of("SpecificCharacterSet")] = raw_element(tag_of("SpecificCharacterSet"), b"ISO_IR 192")
    return converted


def certain_text(header: Dataset, keyword: str, value: bytes | None = None) -> str:
    """The characters of a text attribute, or of ``value`` in its place; empty if they are not certain."""
    tag = tag_of(keyword)
    try:
        text = _utf8(header, tag, value_bytes(header, tag) if value is None else value).decode("utf-8")
    except (UnicodeError, LookupError):
        return ""
    return text.strip(" \0")


def _ascii(character: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain.isascii() else "?"


def _items_in_utf8(header: Dataset, parent: Dataset, sequence: BaseTag, deepest: int) -> list[Dataset]:
    items = []
    for item in sequence_items(parent, sequence):
        converted = Dataset()
        for tag in sorted(item.keys()):
            vr = dictionary_VR(tag) if dictionary_has_tag(tag) else ""
            if vr in TEXT_VRS:
                value = value_bytes(item, tag, charset_terms(header))
                converted[tag] = raw_element(tag, _utf8(header, tag, value))
            elif vr == "SQ" and deepest > 1:
                converted[tag] = DataElement(tag, "SQ", _items_in_utf8(header, item, tag, deepest - 1))
        items.append(converted)
    return items


def _utf8(header: Dataset, tag: BaseTag, value: bytes) -> bytes:
    """A value's characters in UTF-8.

    Raises:
        UnicodeError, LookupError: the value does not fit its declared character set.
    """
    if value.isascii() and b"\x1b" not in value:
        return value
    terms = declared_charset(header)
    # No declaration means ASCII. pydicom takes it for Latin-1, which never fails and may be wrong.
    first = "ascii" if terms[0] in ("", "ISO_IR 6", "ISO 2022 IR 6") else python_encoding[terms[0]]
    others = {python_encoding[term] for term in terms}
    resets = b"^=\\" if dictionary_VR(tag) == "PN" else b"\t\n\f\r\\"
    fragments = re.findall(rb"^[^\x1b]+|\x1b[^\x1b]*", value)
    return "".join(_decoded(fragment, first, others, resets) for fragment in fragments).encode("utf-8")


def _decoded(fragment: bytes, first: str, others: set[str], resets: bytes) -> str:
    """The characters of a fragment, which an escape sequence may begin (PS3.5 6.1.2.5.3); stricter than pydicom."""
    if not fragment.startswith(b"\x1b"):
        return fragment.decode(first)
    length = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    encoding = CODES_TO_ENCODINGS[fragment[:length]]
    if encoding != default_encoding and encoding not in others:
        raise UnicodeError("an escape sequence switches to a character set that is not declared")
    if encoding in handled_encodings:
        return fragment.decode(encoding)
    rest = fragment[length:]
    end = next((i for i, byte in enumerate(rest) if byte in resets), len(rest))
    return rest[:end].decode(encoding) + rest[end:].decode(first)
