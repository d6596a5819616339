"""Each attribute that a reading or its results depend on, changed, in each pair of transfer syntaxes.

The expectation is written down apart from the code: what may be said of a change, and that no change is ever taken for
a repetition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import Change
from dicom_node.reading import editions
from dicom_node.storage.compared import COMPARED, SAFETY
from dicom_node.storage.corrections import correction
from dicom_node.storage.ingest import Store
from dicom_node.storage.sender import Submitter
from dicom_node.storage.spool import Spool
from tests.support.samples import make_image

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
PAIRS = [(one, other) for one in SYNTAXES for other in SYNTAXES]
LITTLE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
PIXELS = 0x7FE00010
# Two values for each value representation: another patient, date, number ...
VALUES: dict[str, tuple[Any, Any]] = {
    "AS": ("030Y", "031Y"),
    "CS": ("ONE", "TWO"),
    "DA": ("20260101", "20260102"),
    "DS": ("1.5", "2.5"),
    "DT": ("20260101120000", "20260101120001"),
    "FD": (1.0, 2.0),
    "IS": ("1", "2"),
    "LO": ("one", "two"),
    "OW": (b"\1\0\2\0", b"\1\0\3\0"),
    "PN": ("Doe^John", "Doe^Jane"),
    "SH": ("A1", "A2"),
    "TM": ("120000", "120001"),
    "UI": ("1.2.3", "1.2.4"),
    "US": (1, 2),
}


def value_of(tag: int, which: int) -> Any:
    vr = {"US or SS": "US", "US or OW": "OW"}.get(dictionary_VR(tag), dictionary_VR(tag))
    if vr == "SQ":
        inner, item = Dataset(), Dataset()
        inner.CodeMeaning = ("one", "two")[which]
        item.CodeValue, item.ConceptCodeSequence = "1", Sequence([inner])
        return Sequence([item])
    value = VALUES[vr][which]
    many = dictionary_VM(tag)
    count = int(many) if many.isdecimal() else 2 if many.startswith(("2", "1-")) and vr in ("DS", "CS") else 1
    return [VALUES[vr][0]] * (count - 1) + [value] if count > 1 else value


def vr_of(tag: int) -> str:
    return {"US or SS": "US", "US or OW": "OW"}.get(dictionary_VR(tag), dictionary_VR(tag))


@cache
def written(syntax: UID, changed: int | None) -> bytes:
    """A file with a value in every attribute that is compared, one of which may be changed, or the pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = syntax, "1.2.3.4"
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    image.SpecificCharacterSet, image.SOPInstanceUID, image.StudyInstanceUID = "ISO_IR 192", "1.2.3.4", "1.2.3"
    for tag in COMPARED:
        value = value_of(tag, int(tag == changed))
        if vr_of(tag) == "OW" and syntax == ExplicitVRBigEndian:
            value = np.frombuffer(value, dtype="<u2").astype(">u2").tobytes()
        image.add_new(tag, vr_of(tag), value)
    words = np.arange(16, dtype=">u2" if syntax == ExplicitVRBigEndian else "<u2") + (changed == PIXELS)
    image.PixelData = encapsulate([words.tobytes()]) if syntax.is_encapsulated else words.tobytes()
    image["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    image["PixelData"].is_undefined_length = syntax.is_encapsulated
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def expected(one: UID, other: UID, changed: int | None) -> set[Change | None]:
    """What may be said of a change at once, by the receiver; what it leaves unknown, the reading process tells."""
    if DeflatedExplicitVRLittleEndian in (one, other):
        return {None, "unknown"} if changed is None and one == other else {"unknown"}
    safety = changed == PIXELS or changed in SAFETY
    if one == other or {one, other} <= LITTLE:
        nothing: Change | None = None if one == other else "none"
        return {nothing} if changed is None else {"safety"} if safety else {"quality"}
    return {"safety"} if safety and changed != PIXELS else {"unknown"}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_no_change_is_taken_for_a_repetition(tmp_path: Path, first: str, second: str) -> None:
    one, other = SYNTAXES[first], SYNTAXES[second]
    files = (tmp_path / "kept", tmp_path / "came")
    files[0].write_bytes(written(one, None))
    wrong = {}
    for changed in (None, PIXELS, *COMPARED):
        files[1].write_bytes(written(other, changed))
        found = correction(*files, (one, other))
        if found not in expected(one, other, changed):
            wrong[keyword_for_tag(changed or 0)] = found
    assert not wrong


# -- through the store


class Place:
    """A store with its index and its folder."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / INDEX_FILE, create=True)
        self.store = Store(self.index, self.spool)

    def put(self, image: FileDataset) -> bool:
        syntax = image.file_meta.TransferSyntaxUID
        incoming = self.store.begin(image.SOPClassUID, image.SOPInstanceUID, syntax, "MODALITY")
        try:
            incoming.write([memoryview(data_set(image))])
            return self.store.put(incoming, incoming.header(), Submitter("MODALITY", ("modality",)))
        finally:
            incoming.discard()

    def close(self) -> None:
        self.index.close()
        self.spool.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "node")
    yield place
    place.close()


def data_set(image: FileDataset) -> bytes:
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    begin = 144 + int.from_bytes(file.getvalue()[140:144], "little")
    return file.getvalue()[begin:]


def in_syntax(syntax: UID, uid: str, study: str, **attributes: Any) -> FileDataset:
    image = make_image(SOPInstanceUID=uid, StudyInstanceUID=study, SeriesInstanceUID="1.2.8", **attributes)
    if syntax.is_encapsulated:
        image.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, dtype="<u2").astype(">u2").tobytes()
        image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = syntax
    if syntax != ExplicitVRBigEndian:
        return image
    other = FileDataset(
        "", {}, file_meta=image.file_meta, preamble=bytes(128), is_implicit_VR=False, is_little_endian=False
    )
    for element in image:
        other.add(element)
    return other


CHANGES: dict[str, tuple[dict[str, Any], Change]] = {
    "nothing": ({}, "none"),
    "a name": ({"PatientName": "Doe^Jane"}, "safety"),
    "the side": ({"PatientOrientation": ["R", "F"]}, "safety"),
    "a window": ({"WindowCenter": 40}, "quality"),
    "the VOI LUT function": ({"VOILUTFunction": "SIGMOID"}, "quality"),
    "padding of pixels": ({"PixelPaddingValue": 5}, "quality"),
    "the pixels": ({"PixelData": np.arange(64 * 64, dtype=np.uint16)[::-1].tobytes()}, "safety"),
}
_CASES = [(*pair, what) for pair in PAIRS for what in ("nothing", "the pixels")] + [
    (first, second, what)
    for first, second in (("explicit", "explicit"), ("explicit", "deflated"), ("implicit", "JPEG-LS"))
    for what in CHANGES
    if what not in ("nothing", "the pixels")
]


@pytest.mark.parametrize(("first", "second", "what"), _CASES)
def test_what_is_kept_is_compared_by_the_reading_process_at_the_latest(
    place: Place, first: str, second: str, what: str
) -> None:
    uid, study = generate_uid(None), generate_uid(None)
    one, other = SYNTAXES[first], SYNTAXES[second]
    attributes, change = CHANGES[what]
    assert place.put(in_syntax(one, uid, study))
    assert place.put(in_syntax(other, uid, study, **attributes)) == (bool(attributes) or first != second)
    rows = place.index._rows("SELECT file, edition FROM instances WHERE study = ? ORDER BY edition", study)
    if not attributes and first == second:
        assert len(rows) == 1
        return
    assert [row["edition"] for row in rows] == [1, 2], "both are kept"
    said = place.index._rows("SELECT change FROM corrections WHERE study = ?", study)[0][0]
    assert said in (change, "unknown")
    paths = [str(place.spool.path(row["file"])) for row in rows]
    assert editions.change(paths[0], paths[1]) == change


def test_a_character_set_that_alters_a_name_is_a_correction(place: Place) -> None:
    """The bytes of the name are the same, and so are all others but those of Specific Character Set."""
    image = make_image(PatientName="Mxller^J")
    contents = []
    for charset in ("ISO_IR 100", "ISO_IR 101"):
        image.SpecificCharacterSet = charset
        contents.append(data_set(image).replace(b"Mxller", b"M\xb9ller"))
    assert len({content.replace(b"ISO_IR 101", b"ISO_IR 100") for content in contents}) == 1
    for content, kept in zip((*contents, contents[1]), (True, True, False), strict=True):
        incoming = place.store.begin(image.SOPClassUID, image.SOPInstanceUID, ExplicitVRLittleEndian, "MODALITY")
        incoming.write([memoryview(content)])
        assert place.store.put(incoming, incoming.header(), Submitter("MODALITY", ("modality",))) == kept
        incoming.discard()
    assert place.index._rows("SELECT change FROM corrections")[0][0] == "safety"


def test_sequences_are_compared_wholly_however_they_are_encoded(place: Place) -> None:
    def image(value: str, *, undefined: bool) -> FileDataset:
        made = make_image(SOPInstanceUID="1.2.3", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")
        deep, item = Dataset(), Dataset()
        deep.CodeMeaning = value
        item.FrameVOILUTSequence = [deep]
        made.PerFrameFunctionalGroupsSequence = [item]
        for sequence in (made["PerFrameFunctionalGroupsSequence"], item["FrameVOILUTSequence"]):
            sequence.is_undefined_length = undefined
        item.is_undefined_length_sequence_item = deep.is_undefined_length_sequence_item = undefined
        return made

    assert place.put(image("one", undefined=False))
    assert not place.put(image("one", undefined=True)), "another encoding says the same"
    assert place.put(image("two", undefined=True))
    assert place.index._rows("SELECT change FROM corrections")[0][0] == "safety"


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_what_cannot_be_compared_is_kept(place: Place, syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is cut, one with too many elements, one that is hostile: a further edition, never nothing."""
    uid, study = generate_uid(None), generate_uid(None)
    image = in_syntax(SYNTAXES[syntax], uid, study)
    assert place.put(image)
    whole = data_set(image)
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    head = b"\x00\x52\x30\x92" + (b"" if syntax == "implicit" else b"SQ\0\0")
    many = head + (8 * 100_000).to_bytes(4, "little") + item * 100_000
    at = whole.find(b"\xe0\x7f\x10\x00")
    for edition, content in enumerate((whole[:-100], whole[:at] + many + whole[at:]), start=2):
        incoming = place.store.begin(image.SOPClassUID, uid, SYNTAXES[syntax], "MODALITY")
        incoming.write([memoryview(content)])
        assert place.store.put(incoming, incoming.header(), Submitter("MODALITY", ("modality",)))
        incoming.discard()
        known = place.index.received(uid, study)
        assert known is not None
        assert known.edition == edition
        assert place.spool.path(known.file).read_bytes().endswith(content)
    assert {row[0] for row in place.index._rows("SELECT change FROM corrections")} == {"unknown"}
