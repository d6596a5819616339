"""Data sets that pydicom cannot read, or only in part."""

from __future__ import annotations

import struct
import time
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian

from ai.contract import InstanceRef, ReadingError
from ai.images.content import Spliced
from ai.images.frames import load_display
from ai.images.radiograph import load_radiograph, read_header
from dicom_node.results import identified
from dicom_node.results.images import StoredImages
from tests.support.nested import nested, put_before_pixels
from tests.support.samples import make_image

DEEP = 5000  # Python ends a recursion at about 1000


@pytest.fixture
def ref(tmp_path: Path) -> InstanceRef:
    image = make_image()
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    return InstanceRef(image.SOPInstanceUID, image.SOPClassUID, tmp_path / "image.dcm")


@pytest.mark.parametrize("depth", [10, DEEP])
def test_a_private_sequence_of_any_depth_disturbs_no_reader(ref: InstanceRef, depth: int) -> None:
    before = load_radiograph(ref.content).display
    put_before_pixels(Path(str(ref.content)), nested(0x0029, 0x1001, depth))
    assert np.array_equal(load_radiograph(ref.content).display, before)
    assert load_display(ref.content, 1).shape == (64, 64)
    assert read_header(ref.content).has_pixels
    header = StoredImages().header(ref)
    assert (header.PatientID, header.Rows) == ("TEST-1", 64)


def test_an_image_whose_lut_is_nested_too_deep_cannot_be_read_and_still_says_whose_it_is(ref: InstanceRef) -> None:
    put_before_pixels(Path(str(ref.content)), nested(0x0028, 0x3010, DEEP))
    with pytest.raises(ReadingError, match=r"cannot be read as a DICOM image \(RecursionError\)"):
        load_radiograph(ref.content)
    header = StoredImages().header(ref)
    assert (header.PatientID, header.SOPInstanceUID) == ("TEST-1", ref.sop_instance_uid)


def test_a_file_that_ends_before_its_study_says_nothing_of_a_patient(ref: InstanceRef) -> None:
    path = Path(str(ref.content))
    data, study = path.read_bytes(), str(StoredImages().header(ref).StudyInstanceUID)
    for whole in range(data.index(b"TEST-1") - 8, data.index(study.encode()) + len(study), 7):
        path.write_bytes(data[:whole])
        assert identified([ref], study, StoredImages()) == ()
    path.write_bytes(data)
    assert identified([ref], study, StoredImages()) == (ref,)


def test_what_is_no_dicom_file_says_nothing(ref: InstanceRef) -> None:
    Path(str(ref.content)).write_bytes(b"no DICOM" * 1000)
    with pytest.raises(ReadingError, match="cannot be parsed"):
        StoredImages().header(ref)


def test_parts_of_a_file_are_read_as_one_however_many_they_are() -> None:
    data = bytes(range(256)) * 8000
    spans = [(start, start + start // 16 % 9) for start in range(0, len(data), 16)]  # some of them empty
    whole = b"".join(data[begin:end] for begin, end in spans)
    began = time.perf_counter()
    file = BufferedReader(Spliced(BytesIO(data), spans))
    assert file.read() == whole
    assert file.seek(-5, 2) == len(whole) - 5
    assert file.read(9) == whole[-5:]
    assert file.seek(1000) == 1000 and file.read(100) == whole[1000:1100]
    assert time.perf_counter() - began < 20.0  # looking for each part from the first one took minutes


@pytest.mark.parametrize("value", ["as the standard says", "as some write it"])
def test_a_private_element_of_unknown_vr_in_big_endian_disturbs_no_reader(tmp_path: Path, value: str) -> None:
    image = make_image()
    pixels = image.pixel_array
    image.PixelData = pixels.astype(">u2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image.set_original_encoding(False, False)
    path = tmp_path / "big.dcm"
    image.save_as(path, implicit_vr=False, little_endian=False)
    before = load_radiograph(path).display
    order = "<" if value == "as the standard says" else ">"
    item, item_end, end = (
        struct.pack(f"{order}HHI", 0xFFFE, e, n) for e, n in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
    )
    inside = (
        struct.pack("<HHI2s", 0x0029, 0x1002, 2, b"AB")
        if order == "<"
        else struct.pack(">HH2sH2s", 0x0029, 0x1002, b"LO", 2, b"AB")
    )
    unknown = struct.pack(">HH2sHI", 0x0029, 0x1001, b"UN", 0, 0xFFFFFFFF) + item + inside + item_end + end
    data = path.read_bytes()
    at = data.rindex(struct.pack(">HH2s", 0x7FE0, 0x0010, b"OW"))
    path.write_bytes(data[:at] + unknown + data[at:])
    assert np.array_equal(load_radiograph(path).display, before)
    header = StoredImages().header(InstanceRef(image.SOPInstanceUID, image.SOPClassUID, path))
    assert (header.PatientID, header.Rows) == ("TEST-1", 64)
