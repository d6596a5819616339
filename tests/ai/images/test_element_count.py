"""Elements and items are counted before pydicom makes objects of them, in every encoding that a message may have."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ai.contract import ReadingError
from ai.images import element_walk
from ai.images.elements import read_part10
from tests.support.samples import make_image

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def has_at_most(encoded: bytes, syntax: str, most: int) -> bool:
    return element_walk.has_at_most(
        encoded, most, implicit=syntax == ImplicitVRLittleEndian, little=syntax != ExplicitVRBigEndian
    )


def step(images: int, syntax: str, *, undefined: bool) -> bytes:
    def image(number: int) -> Dataset:
        one = Dataset()
        one.ReferencedSOPClassUID = "1.2"
        one.ReferencedSOPInstanceUID = f"1.2.{number}"
        return one

    series = Dataset()
    series.ReferencedImageSequence = Sequence([image(number) for number in range(images)])
    whole = Dataset()
    whole.PatientName = "x"
    whole.PerformedSeriesSequence = Sequence([series])
    for sequence in (series["ReferencedImageSequence"], whole["PerformedSeriesSequence"]):
        sequence.is_undefined_length = undefined
        for one in sequence.value:
            one.is_undefined_length_sequence_item = undefined
    file = DicomBytesIO()
    file.is_little_endian = syntax != ExplicitVRBigEndian
    file.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(file, whole)
    return bytes(file.getvalue())


@pytest.mark.parametrize("syntax", SYNTAXES, ids=["implicit", "explicit", "big endian"])
def test_what_is_in_sequences_counts(syntax: str) -> None:
    encoded = step(100, syntax, undefined=False)
    counted = 1 + 1 + 1 + 1 + 100 * 3  # name, series, its item, images, an item and two UIDs for each
    assert has_at_most(encoded, syntax, counted)
    assert not has_at_most(encoded, syntax, counted - 1)
    delimited = step(100, syntax, undefined=True)
    assert has_at_most(delimited, syntax, counted + 103)  # and a delimiter for each item and sequence
    assert not has_at_most(delimited, syntax, counted + 102)


@pytest.mark.parametrize("tag", [b"\x40\0\x40\x03", b"\x09\0\x10\x10"], ids=["standard", "private"])
@pytest.mark.parametrize("syntax", SYNTAXES[:2], ids=["implicit", "explicit"])
def test_half_a_million_empty_items_end_at_the_bound(tag: bytes, syntax: str) -> None:
    vr = b"" if syntax == ImplicitVRLittleEndian else b"SQ\0\0"
    bomb = tag + vr + b"\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 500_000
    began = time.thread_time()
    assert not has_at_most(bomb, syntax, 61_000)
    assert time.thread_time() - began < 1.0


def test_bytes_that_break_off_are_counted_to_there() -> None:
    encoded = step(10, ExplicitVRLittleEndian, undefined=False)
    assert all(has_at_most(encoded[:end], ExplicitVRLittleEndian, 100) for end in range(len(encoded)))


@pytest.mark.parametrize(
    ("tag", "items", "most"),
    [(b"\x20\0\x11\x91", 500_000, 5.0), (b"\x00\x52\x30\x92", 1000, 5.0)],
    ids=["not needed", "needed"],
)
def test_items_that_nobody_needs_are_skipped_unparsed(tmp_path: Path, tag: bytes, items: int, most: float) -> None:
    path = _with_items(tmp_path / "image.dcm", tag, items)
    began = time.thread_time()
    with path.open("rb") as file:
        read_part10(file, {0x52009230}, stop_before_pixels=True)
    assert time.thread_time() - began < most  # pydicom takes 8.5 s of 500,000 items


def test_too_many_items_in_what_is_needed_are_refused_in_words(tmp_path: Path) -> None:
    path = _with_items(tmp_path / "image.dcm", b"\x00\x52\x30\x92", 500_000)
    with path.open("rb") as file, pytest.raises(ReadingError, match="a sequence has more than 200000 elements"):
        read_part10(file, {0x52009230}, stop_before_pixels=True)


def _with_items(path: Path, tag: bytes, count: int) -> Path:
    make_image().save_as(path, enforce_file_format=True)
    raw = path.read_bytes()
    at = raw.index(b"\xe0\x7f\x10\0OW")
    items = tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * count + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(raw[:at] + items + raw[at:])
    return path
