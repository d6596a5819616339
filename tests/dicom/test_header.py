"""The header of a data set: read the quick way, it says exactly what pydicom says; and what is written before it."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)
from pynetdicom.dsutils import split_dataset

from ai.images.element_walk import LONGEST_VALUE
from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicom_node.dicom.file_meta import file_head
from dicom_node.dicom.header import _HEADER_TAGS, HEAD_BYTES, _plain, _text, _thorough, read_header, read_plain_header
from dicom_node.errors import Refused
from tests.node.test_real_files import with_sop_class


def by_pydicom(data_set: bytes, syntax: str) -> dict[str, str] | None:
    """What pydicom reads, which parses all that it passes by; None where it cannot."""
    try:
        found = read_dataset(
            io.BytesIO(data_set),
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
            stop_when=lambda tag, _vr, _length: int(tag) > 0x0020000E,
            specific_tags=[*_HEADER_TAGS.values()],
        )
        return {name: _text(found, tag) for name, tag in _HEADER_TAGS.items()}
    except Exception:
        return None


def test_every_real_header_is_read_as_pydicom_reads_it(real_data: Path) -> None:
    plain = 0
    files = with_sop_class(real_data)
    for file in files:
        meta, offset = split_dataset(file)
        data_set = file.read_bytes()[offset:]
        found = _plain(data_set[:HEAD_BYTES], meta.TransferSyntaxUID)
        if found is not None:
            plain += 1
            assert found == by_pydicom(data_set, meta.TransferSyntaxUID), file
        if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
            thorough = _thorough(io.BytesIO(data_set), meta.TransferSyntaxUID)
            assert thorough == by_pydicom(data_set, meta.TransferSyntaxUID), file
    print(plain, "of", len(files))
    assert plain >= 0.9 * len(files)


# -- data sets that nobody would make, and that somebody sends

UIDS = st.sampled_from([b"1.2.3\\1.2.4", b"", b"no uid", b"1.2.3\xe4", b"1.2 .3"])
PADDING = st.sampled_from([b"", b"  ", b" \0", b"\0 ", b"\n", b"\t ", b"\0\0\0"])
CODES = st.sampled_from([b"CR", b"", b"CT\\MR", b"chest", b"SCH\xc4DEL", b"A B", b"\x1b$)C\xc8\xe4"])
CHARSETS = {  # and a description in it
    b"": b"Chest",
    b"ISO_IR 6": b"Chest",
    b"ISO_IR 100": "Schädel übersichtlich".encode("latin-1"),
    b"ISO_IR 101": "Klatka piersiową".encode("iso8859-2"),
    b"ISO_IR 144": "Грудь".encode("iso8859-5"),
    b"ISO_IR 13": b"\xd1\xc8\xcc~ 1",
    b"ISO_IR 192": "흉부 胸部 Brust ü".encode(),
    b"GB18030": "胸部 乗 \\ 正位".encode("gb18030"),
    b"GBK": "胸部".encode("gbk"),
    b"\\ISO 2022 IR 149": b"\x1b$)C" + "흉부".encode("euc_kr") + b" PA",
    b"ISO 2022 IR 6\\ISO 2022 IR 149": b"PA \x1b$)C" + "흉부".encode("euc_kr"),
    b"\\ISO 2022 IR 87": b"\x1b$B" + "胸部".encode("iso2022_jp")[3:-3] + b"\x1b(B PA",
    b"ISO 2022 IR 13\\ISO 2022 IR 87": b"\xd1\xc8 \x1b$B" + "胸部".encode("iso2022_jp")[3:-3] + b"\x1b(J~",
    b"ISO 2022 IR 100\\ISO 2022 IR 126": "Schädel".encode("latin-1") + b" \x1b-F\xe1",
    b"ISO-IR 100": "Schädel".encode("latin-1"),
    b"ISO 2022 GBK": "胸部".encode("gbk"),
    b"ISO_IR 192 ": "ü".encode(),
    b"ISO_IR 192\\ISO 2022 IR 100": "ü".encode(),
    b"NONE SUCH": "ü".encode(),
    b"\xff": b"\xff",
}
DESCRIPTIONS = st.sampled_from([*CHARSETS.values(), b"a\\b", b" a \\ b ", b"", b"a=b^c", b"\0a\0b"]) | st.binary(
    max_size=12
)
ODD = ("uids", "codes", "texts", "charset", "before", "behind", "missing", "vr", "order", "twice")
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR")


def element(tag: int, vr: bytes, value: bytes, *, explicit: bool, undefined: bool = False) -> bytes:
    size = 0xFFFFFFFF if undefined else len(value)
    group_element = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return group_element + struct.pack("<I", size) + value
    if vr in _LONG:
        return group_element + vr + b"\0\0" + struct.pack("<I", size) + value
    return group_element + vr + struct.pack("<H", size & 0xFFFF) + value


VRS = [b"UI", b"CS", b"LO", b"SH", b"PN", b"UN", b"OB", b"US", b"DS", b"IS", b"AT", b"UT", b"UR", b"SQ", b"ZZ", b"\0\0"]
OTHERS = [
    (0x00080008, b"CS"),
    (0x00080020, b"DA"),
    (0x00080070, b"LO"),
    (0x00081010, b"SH"),
    (0x00081031, b"LO"),
    (0x00090010, b"LO"),
    (0x00091001, b"UN"),
    (0x00091002, b"OB"),
    (0x00100010, b"PN"),
    (0x00104000, b"LT"),
    (0x00180010, b"LO"),
    (0x00200010, b"SH"),
    (0x0020000D + 0x10000000, b"UI"),
    (0x00280010, b"US"),
]
SEQUENCES = [0x00081032, 0x00081140, 0x00091010, 0x00101002, 0x00180012, 0x00200027 + 0x00060000]


@st.composite
def data_sets(draw: st.DrawFn, *, explicit: bool, depth: int = 0) -> bytes:
    """An encoded data set, odd in two ways at most, or the content of an item."""
    odd = draw(st.frozensets(st.sampled_from(ODD), max_size=2)) - ({"vr"} if depth else set())
    charset, description = draw(st.sampled_from(sorted(CHARSETS.items())))
    elements: list[tuple[int, bytes]] = []

    def add(tag: int, vr: bytes, value: bytes, *, undefined: bool = False) -> None:
        if "missing" in odd and not draw(st.integers(0, 2)):
            return
        if "vr" in odd and not undefined and not draw(st.integers(0, 3)):
            vr = draw(st.sampled_from(VRS))
        elements.append((tag, element(tag, vr, value, explicit=explicit, undefined=undefined)))

    def text(tag: int, vr: bytes, value: bytes) -> None:
        if "before" in odd:
            value = draw(st.sampled_from([b"", b" ", b"\t"])) + value
        padding = draw(PADDING) if "behind" in odd else (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        add(tag, vr, value + padding)

    def uid(tag: int) -> None:
        text(tag, b"UI", draw(UIDS) if "uids" in odd else b"1.2.840.%d" % (tag & 0xFF))

    if charset:
        text(0x00080005, b"CS", draw(st.sampled_from(sorted(CHARSETS))) if "charset" in odd else charset)
    uid(0x00080016)
    uid(0x00080018)
    text(0x00080060, b"CS", draw(CODES) if "codes" in odd else b"CR")
    text(0x00081030, b"LO", draw(DESCRIPTIONS) if "texts" in odd else description)
    text(0x0008103E, b"LO", draw(DESCRIPTIONS) if "texts" in odd else description + b" PA")
    text(0x00180015, b"CS", draw(CODES) if "codes" in odd else b"CHEST")
    uid(0x0020000D)
    uid(0x0020000E)
    others = draw(st.lists(st.sampled_from(OTHERS), max_size=4, unique=True))
    for tag, vr in others:
        add(tag, vr, draw(st.binary(max_size=20)))
    for tag in draw(st.lists(st.sampled_from(SEQUENCES), max_size=2, unique=True)) if depth < 3 else ():
        value = b""
        for _ in range(draw(st.integers(0, 2))):
            content = draw(data_sets(explicit=explicit, depth=depth + 1))
            if draw(st.booleans()):
                value += struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
            else:
                value += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content
                value += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        undefined = draw(st.booleans())
        if undefined:
            value += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        add(tag, b"SQ", value, undefined=undefined)
    add(0x7FE00010, b"OW", b"pixels")
    elements.sort(key=lambda one: one[0])
    if "order" in odd:
        elements = draw(st.permutations(elements))
    if "twice" in odd and elements:
        elements.insert(draw(st.integers(0, len(elements))), draw(st.sampled_from(elements)))
    return b"".join(encoded for _, encoded in elements)


def assert_same(head: bytes, data_set: bytes, syntax: str) -> bool:
    """Where the quick way says something, it is what pydicom says, as the thorough way says always; whether it does."""
    found, expected = _plain(head, syntax), by_pydicom(data_set, syntax)
    if found is not None:
        assert found == expected
    if expected is not None:
        assert _thorough(io.BytesIO(data_set), syntax) == expected
    return found is not None


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.booleans(), st.integers(0, 9))
def test_no_header_is_read_otherwise_than_pydicom_reads_it(data: st.DataObject, explicit: bool, wrong: int) -> None:
    encoded = data.draw(data_sets(explicit=explicit))
    syntax = ExplicitVRLittleEndian if explicit == (wrong > 0) else ImplicitVRLittleEndian
    event("plain" if assert_same(encoded, encoded, syntax) else "not plain")
    cut = data.draw(st.integers(0, len(encoded)))
    assert_same(encoded[:cut], encoded, syntax)
    assert_same(encoded[:cut], encoded[:cut], syntax)


@pytest.mark.parametrize("tag", [0x00080005, 0x00080018, 0x00080060, 0x00081030, 0x0020000D])
@pytest.mark.parametrize("vr", [b"UI", b"CS", b"LO", b"SH", b"UN", b"OB", b"US", b"UL", b"IS", b"UT", b"PN"])
def test_an_element_with_another_vr_is_read_as_pydicom_reads_it(tag: int, vr: bytes) -> None:
    value = b"12345678"
    encoded = element(tag, vr, value, explicit=True) + element(0x00200010, b"SH", b"", explicit=True)
    assert_same(encoded, encoded, ExplicitVRLittleEndian)


@pytest.mark.parametrize("charset", [b"ISO_IR 192", b" ISO_IR 192", b"ISO_IR 192 ", b"\\ISO_IR 192"])
@pytest.mark.parametrize("uid", [b"1.2.3\n", b"\t1.2.3", b"1.2.3 \0", b" 1.2.3", b"1.2.3\x0b\0", b"1.2.3\x1f"])
def test_white_space_is_read_as_pydicom_reads_it(charset: bytes, uid: bytes) -> None:
    encoded = b"".join(
        element(tag, vr, value, explicit=True)
        for tag, vr, value in (
            (0x00080005, b"CS", charset),
            (0x00080018, b"UI", uid),
            (0x00081030, b"LO", "흉부".encode()),
            (0x00200010, b"SH", b""),
        )
    )
    assert_same(encoded, encoded, ExplicitVRLittleEndian)


# -- headers that must be read the quick way, or it is of no use


def plain_header(*, explicit: bool, charset: bytes, description: bytes) -> bytes:
    return b"".join(
        element(tag, vr, value + b" " * (len(value) % 2), explicit=explicit)
        for tag, vr, value in (
            (0x00080005, b"CS", charset),
            (0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.1\0"),
            (0x00080018, b"UI", b"1.2.3\0"),
            (0x00080060, b"CS", b"CR"),
            (0x00081030, b"LO", description),
            (0x00181150, b"IS", b"100"),
            (0x0020000D, b"UI", b"1.2.4\0"),
            (0x0020000E, b"UI", b"1.2.5\0"),
            (0x00200010, b"SH", b""),
        )
    )


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        (b"", "Chest PA"),
        (b"ISO_IR 100", "Schädel"),
        (b"ISO_IR 192", "흉부 胸部"),
        (b"GB18030", "胸部 正位"),
        (b"\\ISO 2022 IR 149", "흉부"),
        (b"\\ISO 2022 IR 87", "胸部"),
    ],
)
def test_a_plain_header_is_read_from_its_bytes_alone(explicit: bool, charset: bytes, text: str) -> None:
    encoded = {
        b"\\ISO 2022 IR 149": b"\x1b$)C" + text.encode("euc_kr", "replace"),
        b"\\ISO 2022 IR 87": text.encode("iso2022_jp", "replace"),
        b"GB18030": text.encode("gb18030"),
        b"ISO_IR 100": text.encode("latin-1", "replace"),
    }.get(charset, text.encode())
    syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    header = read_plain_header(plain_header(explicit=explicit, charset=charset, description=encoded), syntax)
    assert header is not None, "it would be read again"
    assert (header.sop_instance_uid, header.study, header.series, header.modality, header.study_description) == (
        "1.2.3",
        "1.2.4",
        "1.2.5",
        "CR",
        text,
    )


@pytest.mark.parametrize("explicit", [True, False])
def test_a_header_longer_than_its_kept_beginning_is_read_from_the_file(explicit: bool) -> None:
    syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
    whole = plain_header(explicit=explicit, charset=b"ISO_IR 100", description=b"Chest")
    expected = read_header(io.BytesIO(whole), syntax)
    assert (expected.study, expected.series, expected.study_description) == ("1.2.4", "1.2.5", "Chest")
    for cut in range(len(whole)):
        found = read_plain_header(whole[:cut], syntax)
        assert found in (None, expected)
        assert found is None or cut > len(whole) - 9, "the last element tells that the header has ended"


# -- headers that are made to cost much

_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
_OPEN_ITEM, _ITEM_END, _SEQUENCE_END = (
    struct.pack("<HHI", 0xFFFE, number, size) for number, size in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
)
_SEQUENCE = element(0x00081140, b"SQ", b"", explicit=True, undefined=True)
_MUCH = 100_000
COSTLY = {
    "items": _SEQUENCE + _ITEM * _MUCH + _SEQUENCE_END,
    "items of no length": _SEQUENCE + (_OPEN_ITEM + _ITEM_END) * _MUCH + _SEQUENCE_END,
    "elements": element(0x00080060, b"CS", b"", explicit=True) * _MUCH,
    "character sets": element(0x00080005, b"UT", b"1\\" * _MUCH, explicit=True),
    "values": element(0x00080060, b"UT", b"1\\" * _MUCH, explicit=True),
    "a text": element(0x00081030, b"UT", b"A" * 30 * _MUCH, explicit=True),
    "bytes": element(0x00081030, b"OB", b"A" * 30 * _MUCH + _SEQUENCE_END, explicit=True, undefined=True),
    "sequences in one another": (_SEQUENCE + _OPEN_ITEM) * _MUCH + (_ITEM_END + _SEQUENCE_END) * _MUCH,
    "an end that never comes": _SEQUENCE + _OPEN_ITEM + element(0x00091001, b"OB", b"A" * _MUCH, explicit=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("costly", COSTLY.values(), ids=COSTLY.keys())
def test_no_header_takes_much_memory(costly: bytes, syntax: str) -> None:
    data = costly + plain_header(explicit=True, charset=b"", description=b"Chest")
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = packer.compress(data) + packer.flush()
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        with suppress(Refused):
            assert len(read_header(file, syntax).modality) <= LONGEST_VALUE
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16e6  # pydicom takes 70 MB for a megabyte of items


@pytest.mark.slow
def test_a_header_of_elements_without_end_is_refused() -> None:
    one = element(0x00080060, b"CS", b"CR", explicit=True)
    with pytest.raises(Refused, match="cannot be parsed"):
        read_header(
            io.BytesIO(one * 600_000 + plain_header(explicit=True, charset=b"", description=b"")),
            ExplicitVRLittleEndian,
        )


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_a_header_behind_sequences_in_one_another_is_read(depth: int) -> None:
    nest = (_SEQUENCE + _OPEN_ITEM) * depth + (_ITEM_END + _SEQUENCE_END) * depth
    data = nest + plain_header(explicit=True, charset=b"", description=b"Chest")
    assert read_header(io.BytesIO(data), ExplicitVRLittleEndian).study == "1.2.4"


def test_a_long_text_is_cut_both_ways() -> None:
    data = plain_header(explicit=False, charset=b"", description=b"A" * 9000)
    for header in (
        read_plain_header(data, ImplicitVRLittleEndian),
        read_header(io.BytesIO(data), ImplicitVRLittleEndian),
    ):
        assert header is not None
        assert header.study_description == "A" * LONGEST_VALUE


# -- what stands before a data set in its file

UID_TEXTS = st.from_regex(r"\A[0-9]{1,9}(\.[0-9]{1,9}){0,5}\Z")
SYNTAXES = st.sampled_from(
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGLSLossless,
        "1.2.276.0.7230010.99.1",
    ]
)


@pytest.mark.slow
@given(UID_TEXTS, UID_TEXTS, SYNTAXES, st.text(st.characters(max_codepoint=0x17F), max_size=16))
def test_a_file_begins_as_pydicom_would_begin_it(sop_class: str, uid: str, syntax: str, calling: str) -> None:
    calling = calling.strip(" \0")  # as an AE title is, where it comes in
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    if calling and calling.isascii() and calling.isprintable() and "\\" not in calling:
        meta.SourceApplicationEntityTitle = calling
    expected = DicomBytesIO()
    expected.write(bytes(128) + b"DICM")
    write_file_meta_info(expected, meta, enforce_standard=True)
    assert file_head(sop_class, uid, syntax, calling) == expected.getvalue()


def unknown_in_big_endian(item: bytes, end: bytes, sequence_end: bytes) -> bytes:
    """A private element of unknown VR and undefined length, whose one item holds an element and a nested sequence."""
    inner = struct.pack("<HHI2sHHI", 0x0009, 0x1002, 2, b"AB", 0x0009, 0x1003, 0xFFFFFFFF)
    inner += item + struct.pack("<HHI2s", 0x0009, 0x1004, 2, b"CD") + end + sequence_end
    return struct.pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + item + inner + end + sequence_end


def test_what_is_unknown_in_big_endian_is_implicit_little_endian() -> None:
    """PS3.5 6.2.2."""
    heads = (
        struct.pack("<HHI", 0xFFFE, element, length)
        for element, length in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
    )
    data_set = b"".join(
        value if isinstance(value, bytes) else struct.pack(">HH2sH", *value[:2], value[2], len(value[3])) + value[3]
        for value in (
            (0x0008, 0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0"),
            (0x0008, 0x0018, b"UI", b"1.2.34"),
            (0x0009, 0x0010, b"LO", b"SOMEBODY"),
            unknown_in_big_endian(*heads),
            (0x0020, 0x000D, b"UI", b"1.2.44"),
            (0x0020, 0x000E, b"UI", b"1.2.54"),
        )
    )
    header = read_header(io.BytesIO(data_set), ExplicitVRBigEndian)
    assert (header.sop_instance_uid, header.study, header.series) == ("1.2.34", "1.2.44", "1.2.54")
