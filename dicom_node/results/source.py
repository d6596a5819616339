"""The images that were read, as a result object needs them: copied byte for byte, never decoded and never validated.

A hospital's images break the standard in every way: missing type 2 attributes, dates that are none, names in another
character set than the one declared. None of it may stop a result, be mended in silence, or reach a log. So attributes
travel as the bytes that the modality wrote, and what we must know of a source ourselves is read as plain characters.
"""

from __future__ import annotations

import math
import re
import struct
import unicodedata
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    STAND_ALONE_ENCODINGS,
    default_encoding,
    handled_encodings,
    python_encoding,
)
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, EXPLICIT_VR_LENGTH_32

from ai.contract import Finding, InstanceRef, ReadingError, Region

_NAMESPACE = uuid.UUID("a3f2c7d8-4a51-5c0e-8e7b-0d5f9b7c2e14")
_TYPOGRAPHY = str.maketrans(
    {"\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2265": ">="}
)
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
_TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)


@dataclass(frozen=True, slots=True)
class Source:
    """An image that was read: its ``header`` as it came, what we need of it as plain text, and its ``stand_in``.

    highdicom validates, decodes and copies whatever data set it is handed, so a source that breaks the standard would
    make it raise or log patient data. It is given the stand-in: an empty patient and well-formed UIDs of our own, which
    :func:`common.finish` replaces by the source's, byte for byte.
    """

    header: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    stand_in: Dataset


def read_sources(refs: Sequence[InstanceRef], headers: Sequence[Dataset]) -> tuple[Source, ...]:
    """The sources of a reading: ``headers`` stand in the order of ``refs``.

    Raises:
        ReadingError: the headers are not all of one patient.
        ValueError: the headers are not those of the reading's sources.
    """
    check_patient(headers)
    if not refs or len(refs) != len(headers):
        raise ValueError(f"a reading of {len(refs)} images cannot be encoded from {len(headers)} headers")
    return tuple(read_source(header, ref) for header, ref in zip(headers, refs, strict=True))


def check_patient(headers: Sequence[Dataset]) -> None:
    """Refuse images of more than one patient: every object carries the identity of the first.

    Raises:
        ReadingError: the headers differ in PatientID or IssuerOfPatientID, byte for byte but for padding.
    """
    patients = {tuple(text_of(header, keyword) for keyword in ("PatientID", "IssuerOfPatientID")) for header in headers}
    if len(patients) > 1:
        raise ReadingError(
            "the study holds images of more than one patient: PatientID or IssuerOfPatientID differ among the images "
            "read, and no result can belong to both"
        )


def check_findings(findings: Iterable[Finding], sources: Sequence[Source]) -> None:
    """Refuse findings that cannot be pointed at.

    Raises:
        ValueError: a finding lies on no source of the reading, on a frame that the source does not have, or nowhere on
            the image.
    """
    frames = {source.sop_instance_uid: frames_of(source.header) for source in sources}
    for finding in findings:
        uid, frame = finding.region.sop_instance_uid, finding.region.frame
        if uid not in frames:
            raise ValueError(f"a finding lies on {uid}, which is no source of the reading")
        if not 1 <= frame <= frames[uid]:
            raise ValueError(f"a finding lies on frame {frame} of {uid}, which has {frames[uid]}")
        box = finding.region
        # Written so that no comparison with a number that is none (NaN) passes.
        if not (box.left < box.right and box.top < box.bottom and box.right > 0 and box.bottom > 0):
            raise ValueError(f"a finding lies nowhere on {uid}: its box has no part of the image")


def on_image(region: Region, header: Dataset) -> tuple[float, float, float, float]:
    """A region's left, top, right and bottom edge as every object has them: they end at the image's border."""
    columns, rows = (unsigned_of(header, side) or math.inf for side in ("Columns", "Rows"))
    left, right = (min(max(edge, 0.0), columns) for edge in (region.left, region.right))
    top, bottom = (min(max(edge, 0.0), rows) for edge in (region.top, region.bottom))
    return left, top, right, bottom


def read_source(header: Dataset, ref: InstanceRef) -> Source:
    """One source; ``ref`` answers where the header lacks its own identity.

    Raises:
        ValueError: ``header`` is another instance than ``ref``.
    """
    instance = text_of(header, "SOPInstanceUID") or ref.sop_instance_uid
    if instance != ref.sop_instance_uid:
        raise ValueError(f"the header of {instance} was given for the source {ref.sop_instance_uid}")
    series, study = text_of(header, "SeriesInstanceUID"), text_of(header, "StudyInstanceUID")
    stand_in = Dataset()
    # highdicom looks the module tables of the source's class up and knows no private or retired ones.
    stand_in.SOPClassUID = SecondaryCaptureImageStorage
    stand_in.SOPInstanceUID = _stand_in(instance)
    stand_in.SeriesInstanceUID = _stand_in(series or f"series of {instance}")
    stand_in.StudyInstanceUID = _stand_in(study or f"study of {instance}")
    stand_in.PatientName = stand_in.PatientID = stand_in.PatientBirthDate = stand_in.PatientSex = ""
    stand_in.AccessionNumber = stand_in.StudyID = stand_in.StudyDate = stand_in.StudyTime = ""
    return Source(header, text_of(header, "SOPClassUID") or ref.sop_class_uid, instance, series, study, stand_in)


def text_of(dataset: Dataset, keyword: str) -> str:
    """An attribute's characters without padding, undecoded (Latin-1) and unchecked; empty where there is none."""
    return _value_bytes(dataset, tag_of(keyword)).decode("latin-1").strip(" \0")


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


def _value_bytes(dataset: Dataset, tag: BaseTag, charset: list[str] | None = None) -> bytes:
    """The bytes of a text value as the source has them; ``charset`` is what an item inherits from its parent."""
    element = _stored(dataset, tag)
    if element is None:
        return b""
    if isinstance(element, RawDataElement):
        return element.value or b""
    # Somebody has looked at the value, and pydicom has decoded it: encode it again under the source's character set.
    if element.VR not in CUSTOMIZABLE_CHARSET_VR:
        charset = [""]  # not only faster: to ask for the character set is itself to ask for such an element
    written = element_bytes(element, charset or _charset_terms(dataset))
    return written[12:] if element.VR in EXPLICIT_VR_LENGTH_32 else written[8:]


def _sequence_bytes(dataset: Dataset, tag: BaseTag) -> bytes:
    """The items of a sequence of texts in explicit VR little endian; none where pydicom cannot make any out."""
    charset = _charset_terms(dataset)
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
    tags = [tag for tag in sorted(item.keys()) if dictionary_has_tag(tag) and dictionary_VR(tag) in _TEXT_VRS]
    body = b"".join(element_bytes(_raw(tag, _value_bytes(item, tag, charset)), [""]) for tag in tags)
    return b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body if body else b""  # an empty one says nothing


def _raw(tag: BaseTag, value: bytes) -> RawDataElement:
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
        value = _sequence_bytes(source, tag) if is_sequence else _value_bytes(source, tag)
        if value or not is_sequence:  # none of the sequences copied here may stand without an item
            target[tag] = _raw(tag, value)


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


# --- text -----------------------------------------------------------------------------------------------------------


def _declared_charset(dataset: Dataset) -> list[str]:
    return [term.strip() for term in text_of(dataset, "SpecificCharacterSet").split("\\")]


def _charset_terms(dataset: Dataset) -> list[str]:
    """The character sets by which pydicom has decoded a data set, chosen as it does but without its warnings."""
    terms = _declared_charset(dataset)
    if any(term not in python_encoding for term in terms):
        return [""]
    if terms[0] in STAND_ALONE_ENCODINGS:
        return terms[:1]
    return [term for term in terms if term not in STAND_ALONE_ENCODINGS]


def own_charset(dataset: Dataset) -> str:
    """The character set for *our* text: the source's where it is a single known one, otherwise ASCII.

    ASCII is a part of every character set of PS3.3 C.12.1.1.2, also before any escape sequence, so it never contradicts
    the one declared; ISO_IR 13 is left out because Python's codec for it writes more than that set holds.
    """
    terms = _declared_charset(dataset)
    known = len(terms) == 1 and terms[0] in python_encoding and terms[0] != "ISO_IR 13"
    return terms[0] if known else ""


def fit(text: str, header: Dataset) -> str:
    """Our text as the source's character set can hold it: otherwise without accents, and ``?`` for what is left."""
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text.replace("\\", "/"))
    charset = own_charset(header)
    try:
        text.encode("ascii" if charset in ("", "ISO_IR 6") else python_encoding[charset])
    except UnicodeEncodeError:
        return "".join(_ascii(c) for c in text.translate(_TYPOGRAPHY))
    return text


def within(text: str, limit: int) -> str:
    """The beginning of a text that takes up at most ``limit`` bytes in any character set.

    The standard counts characters (PS3.5 6.2), but programs that read DICOM count bytes: three for a Korean syllable
    in UTF-8, and four in GB18030.
    """
    taken = 0
    for place, character in enumerate(text):
        taken += max(len(character.encode(encoding, errors="replace")) for encoding in ("utf-8", "gb18030"))
        if taken > limit:
            return text[:place]
    return text


def _ascii(character: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain.isascii() else "?"


def holds_any_text(header: Dataset) -> bool:
    """Whether the source's character set holds the texts of every language that results speak."""
    return own_charset(header) in ("ISO_IR 192", "GB18030")


def in_utf8(header: Dataset, keywords: Iterable[str]) -> Dataset | None:
    """The header with ``keywords`` (text or sequences of text) in UTF-8, which it then declares.

    None where a value is not what the declared character set says, so that nobody can tell its characters: a name that
    was declared wrongly is still read rightly by those who know the sender, and must not be made worse.
    """
    converted = Dataset()
    for tag in sorted(header.keys()):
        converted[tag] = header.get_item(tag, keep_deferred=True)
    try:
        for tag in map(tag_of, keywords):
            if tag in header and dictionary_VR(tag) == "SQ":
                converted[tag] = DataElement(tag, "SQ", _items_in_utf8(header, tag))
            elif tag in header and dictionary_VR(tag) in CUSTOMIZABLE_CHARSET_VR:
                converted[tag] = _raw(tag, _utf8(header, tag, _value_bytes(header, tag)))
    except (UnicodeError, LookupError):
        return None
    converted[tag_of("SpecificCharacterSet")] = _raw(tag_of("SpecificCharacterSet"), b"ISO_IR 192")
    return converted


def certain_text(header: Dataset, keyword: str, value: bytes | None = None) -> str:
    """The characters of a text attribute, or of ``value`` in its place; empty where they are not certain."""
    tag = tag_of(keyword)
    try:
        text = _utf8(header, tag, _value_bytes(header, tag) if value is None else value).decode("utf-8")
    except (UnicodeError, LookupError):
        return ""
    return text.strip(" \0")


def _items_in_utf8(header: Dataset, sequence: BaseTag) -> list[Dataset]:
    items = []
    for item in sequence_items(header, sequence):
        converted = Dataset()
        for tag in sorted(item.keys()):
            if dictionary_has_tag(tag) and dictionary_VR(tag) in _TEXT_VRS:
                value = _value_bytes(item, tag, _charset_terms(header))
                converted[tag] = _raw(tag, _utf8(header, tag, value))
        items.append(converted)
    return items


def _utf8(header: Dataset, tag: BaseTag, value: bytes) -> bytes:
    """A value's characters in UTF-8.

    Raises:
        UnicodeError, LookupError: the value is not what the character set declared for it says.
    """
    if value.isascii() and b"\x1b" not in value:
        return value
    terms = _declared_charset(header)
    # Nothing, too, is a declaration: of ASCII. pydicom takes it for Latin-1, which cannot fail and may be wrong.
    first = "ascii" if terms[0] in ("", "ISO_IR 6", "ISO 2022 IR 6") else python_encoding[terms[0]]
    others = {python_encoding[term] for term in terms}
    resets = b"^=\\" if dictionary_VR(tag) == "PN" else b"\t\n\f\r\\"
    fragments = re.findall(rb"^[^\x1b]+|\x1b[^\x1b]*", value)
    return "".join(_decoded(fragment, first, others, resets) for fragment in fragments).encode("utf-8")


def _decoded(fragment: bytes, first: str, others: set[str], resets: bytes) -> str:
    """A fragment that an escape sequence begins, or none (PS3.5 6.1.2.5.3); strict, unlike pydicom's decoder."""
    if not fragment.startswith(b"\x1b"):
        return fragment.decode(first)
    length = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    encoding = CODES_TO_ENCODINGS[fragment[:length]]
    if encoding != default_encoding and encoding not in others:
        raise UnicodeError("an escape sequence to a character set that is not declared")
    if encoding in handled_encodings:
        return fragment.decode(encoding)
    rest = fragment[length:]
    end = next((i for i, byte in enumerate(rest) if byte in resets), len(rest))
    return rest[:end].decode(encoding) + rest[end:].decode(first)


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


def _stand_in(uid: str) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, uid).int}"
