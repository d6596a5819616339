"""Radiographs as they are really stored come out as a radiologist sees them; what is no radiograph is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import shutil
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from ai.contract import InstanceRef, ReadingError
from ai.images import helpers, pixels
from ai.images.radiograph import Radiograph, display_uint8, load_display, load_radiograph, read_header
from dicom_node.results.images import StoredImages
from tests.support.samples import DATA

SECRET = "SECRET^PATIENT"
DX = "1.2.840.10008.5.1.4.1.1.1.1"

HEADER = b"\0" * 128 + b"DICM"


def write(path: Path, words: np.ndarray, **changes: Any) -> Path:
    """A DX file around ``words``; a keyword of None is deleted, and what starts with ``meta_`` is about the file."""
    syntax = changes.pop("meta_syntax", uid.ExplicitVRLittleEndian)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DX
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.PatientName = data.PatientID = SECRET
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = words.shape
    bits = words.dtype.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(words.dtype.kind == "i")
    data.PixelData = words.astype(words.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    data["PixelData"].VR = "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values are wrong on purpose
        for keyword, value in changes.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.save_as(path, enforce_file_format=True)
    return path


def lut(first: int, entries: list[int], bits: int, *, as_bytes: bool = False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    if as_bytes:
        item.add_new("LUTData", "OW", np.array(entries, dtype="<u2").tobytes())
    else:
        item.add_new("LUTData", "US", entries)
    return item


def row(*values: int, dtype: type[Any] = np.uint16) -> np.ndarray:
    return np.array([values], dtype=dtype)


@pytest.fixture
def shows(tmp_path: Path) -> Callable[..., list[float]]:
    """The greys that a file of these words shows, in percent of white."""

    def show(words: np.ndarray, **changes: Any) -> list[float]:
        image = load_radiograph(write(tmp_path / "image.dcm", words, **changes))
        assert image.display.dtype == np.float32
        assert image.display.shape == words.shape
        return [round(float(grey) * 100, 4) for grey in image.display.ravel()]

    return show


# --- the greyscale pipeline, worked out by hand


def test_a_linear_window_is_that_of_the_standard(shows: Callable[..., list[float]]) -> None:
    # PS3.3 C.11.2.1.2.1 note: with center 2048 and width 4096 black is at 0 and white at 4095, and center 128 and
    # width 1 make everything up to 127 black and all from 128 on white.
    words = row(0, 819, 4095, 60000)
    assert shows(words, WindowCenter=2048, WindowWidth=4096) == [0, 20, 100, 100]
    assert shows(row(126, 127, 128), WindowCenter=128, WindowWidth=1) == [0, 0, 100]
    assert shows(row(126, 127, 128), WindowCenter=127.5, WindowWidth=1) == [0, 0, 100]
    assert shows(row(0, 255), WindowCenter=127.5, WindowWidth=2, VOILUTFunction="LINEAR") == [0, 100]


def test_the_other_window_functions_are_those_of_the_standard(shows: Callable[..., list[float]]) -> None:
    exact = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    assert shows(row(0, 50, 100, 150, 200, 300), **exact) == [0, 25, 50, 75, 100, 100]
    half = {"WindowCenter": 0, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"}
    assert shows(row(0, 1), **half) == [50, 100]
    sigmoid = {"WindowCenter": 100, "WindowWidth": 40, "VOILUTFunction": "SIGMOID"}
    expected = [100 / (1 + math.exp(-4 * (value - 100) / 40)) for value in (80, 100, 120)]
    assert shows(row(80, 100, 120), **sigmoid) == pytest.approx(expected, abs=1e-4)


def test_the_first_of_several_windows_counts(shows: Callable[..., list[float]]) -> None:
    several = {"WindowCenter": [100, 5000], "WindowWidth": [200, 10], "VOILUTFunction": "LINEAR_EXACT"}
    assert shows(row(50, 150), **several) == [25, 75]


def test_the_window_is_in_rescaled_values(shows: Callable[..., list[float]]) -> None:
    window = {"WindowCenter": 0, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    assert shows(row(0, 50, 100), RescaleSlope=2, RescaleIntercept=-100, **window) == [0, 50, 100]
    assert shows(row(0, 50, 100), RescaleSlope=-2, RescaleIntercept=100, **window) == [100, 50, 0]


def test_a_modality_lut_comes_before_the_window(shows: Callable[..., list[float]]) -> None:
    window = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    table = lut(10, [0, 1000, 250, 750], 16)
    # Below the first entry its value holds, above the last one the last.
    assert shows(row(3, 10, 11, 12, 13, 99), ModalityLUTSequence=[table], **window) == [0, 0, 100, 25, 75, 75]
    signed = {"ModalityLUTSequence": [lut(-2, [0, 250, 500, 1000], 16)], **window}
    assert shows(row(-9, -2, -1, 0, 1, 2, dtype=np.int16), **signed) == [0, 0, 25, 50, 100, 100]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_first_voi_lut_comes_before_a_window(shows: Callable[..., list[float]], as_bytes: bool) -> None:
    tables = [lut(10, [0, 1023, 102, 511], 10, as_bytes=as_bytes), lut(0, [0, 0, 0], 10)]
    greys = shows(row(0, 10, 11, 12, 13, 50), VOILUTSequence=tables, WindowCenter=5, WindowWidth=10)
    assert greys == pytest.approx([0, 0, 100, 100 * 102 / 1023, 100 * 511 / 1023, 100 * 511 / 1023], abs=1e-4)


def test_lut_entries_of_eight_bits_may_lie_one_to_a_byte(shows: Callable[..., list[float]]) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 0, 8])
    item.add_new("LUTData", "OW", bytes([0, 51, 102, 255]))
    assert shows(row(0, 1, 2, 3), VOILUTSequence=[item]) == [0, 20, 40, 100]


def test_a_voi_lut_may_begin_below_zero(shows: Callable[..., list[float]]) -> None:
    # Written as US, 65534 is -2, for after the rescale there are negative values.
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 65534, 16])
    item.add_new("LUTData", "OW", np.array([0, 13107, 65535], dtype="<u2").tobytes())
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -10}
    assert shows(row(8, 9, 10), VOILUTSequence=[item], **rescale) == [0, 20, 100]


def test_the_full_lut_of_65536_entries_has_a_count_of_zero(shows: Callable[..., list[float]]) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", np.arange(65536, dtype="<u2").tobytes())
    assert shows(row(0, 13107, 65535), VOILUTSequence=[item]) == [0, 20, 100]


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", True),  # once, not twice
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", False),
        ("MONOCHROME1", "", True),
        ("MONOCHROME1", "LIN OD", True),  # for printers only: says nothing here
    ],
)
def test_white_is_inverted_once(
    shows: Callable[..., list[float]], photometric: str, shape: str | None, inverted: bool
) -> None:
    changes = {"PhotometricInterpretation": photometric} | ({} if shape is None else {"PresentationLUTShape": shape})
    window = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    greys = shows(row(0, 20, 100), **changes, **window)
    assert greys == ([100, 80, 0] if inverted else [0, 20, 100])
    table = {"VOILUTSequence": [lut(0, [0, 51, 255], 8)]}
    assert shows(row(0, 1, 2), **changes, **table) == ([100, 80, 0] if inverted else [0, 20, 100])


def test_without_a_window_the_image_makes_its_own(tmp_path: Path) -> None:
    # 1000 pixels from 1000 to 1999 and one dead pixel at either end, which the percentiles leave out.
    words = np.concatenate([[0], np.arange(1000, 2000), [65535], np.full(6, 1500)]).astype(np.uint16).reshape(16, 63)
    image = load_radiograph(write(tmp_path / "image.dcm", words))
    assert image.voi == "automatic"
    low, high = np.quantile(words, [0.005, 0.995], method="inverted_cdf")
    assert (low, high) == (1004, 1995)
    assert image.display.ravel() == pytest.approx(np.clip((words.ravel() - 1004.0) / 991.0, 0, 1), abs=1e-6)


def test_a_few_bright_pixels_on_an_even_ground_are_seen(shows: Callable[..., list[float]]) -> None:
    words = np.zeros((100, 100), dtype=np.uint8)
    words[5, 5] = 9
    greys = shows(words)
    assert (greys.count(0.0), greys.count(100.0)) == (9999, 1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_make_the_window(shows: Callable[..., list[float]], photometric: str) -> None:
    words = np.array([[60000] * 50 + [100, 200]], dtype=np.uint16)
    greys = shows(words, PixelPaddingValue=60000, PhotometricInterpretation=photometric)
    assert greys == [0] * 50 + ([100, 0] if photometric == "MONOCHROME1" else [0, 100])
    between = np.array([[60000] * 25 + [60005] * 25 + [100, 200]], dtype=np.uint16)
    both_ends = {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60010}
    assert shows(between, PhotometricInterpretation=photometric, **both_ends) == greys


def test_padding_may_have_the_wrong_sign_or_more_bits_than_stored(shows: Callable[..., list[float]]) -> None:
    signed = row(*[-2000] * 9, 5, 7, dtype=np.int16)
    assert shows(signed, PixelPaddingValue=-2000) == [0] * 10 + [100]
    beyond = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 61440}
    assert shows(row(*[61440] * 9, 5, 7), **beyond) == [0] * 10 + [100]


# --- stored words


def test_bits_outside_of_the_stored_ones_are_ignored(shows: Callable[..., list[float]]) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    overlay = row(0xF000, 0x1333, 0x8FFF)  # an old overlay in the upper bits
    assert shows(overlay, BitsStored=12, HighBit=11, **window) == [0, 20, 100]
    left = row(0x000F, 0x3331, 0xFFF0)  # the pixel to the left of its word
    assert shows(left, BitsStored=12, HighBit=15, **window) == [0, 20, 100]
    signed = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "WindowCenter": 0, "WindowWidth": 4096}
    assert shows(row(0x0800, 0x0B33, 0x07FF), **signed) == [0, 20, 100]  # -2048, -1229, 2047


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_every_word_and_byte_order_is_read(
    shows: Callable[..., list[float]], tmp_path: Path, dtype: type[Any], syntax: uid.UID
) -> None:
    info = np.iinfo(dtype)
    size = float(info.max) - float(info.min)
    window = {"WindowCenter": info.min + size / 2, "WindowWidth": size, "VOILUTFunction": "LINEAR_EXACT"}
    words = row(info.min, info.max, int(info.min + size / 5), dtype=dtype)
    if syntax == uid.ExplicitVRBigEndian and words.dtype.itemsize == 1:
        stored = np.append(words.ravel(), dtype(0)).view(np.uint16).byteswap().tobytes()  # 8-bit pixels in OW
        window["PixelData"] = stored
    assert shows(words, meta_syntax=syntax, **window) == pytest.approx([0, 100, 20], abs=1e-3)


def test_single_bits_are_read(tmp_path: Path) -> None:
    bits = (np.arange(15).reshape(3, 5) % 3 == 0).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    path = write(tmp_path / "image.dcm", bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    assert (load_radiograph(path).display == bits).all()


def from_the_standard(value: int, form: dict[str, Any]) -> float:
    """PS3.3 C.11.1 and C.11.2.1.2 for one stored value, word by word."""
    x = value * form["slope"] + form["intercept"]
    c, w = form["center"], form["width"]
    if form["function"] == "SIGMOID":
        y = 1 / (1 + math.exp(min(700, max(-700, -4 * (x - c) / w))))
    elif form["function"] == "LINEAR_EXACT":
        y = 0 if x <= c - w / 2 else 1 if x > c + w / 2 else (x - c) / w + 0.5
    elif x <= c - 0.5 - (w - 1) / 2:
        y = 0
    elif x > c - 0.5 + (w - 1) / 2:
        y = 1
    else:
        y = (x - (c - 0.5)) / (w - 1) + 0.5
    return 1 - y if form["photometric"] == "MONOCHROME1" else y


FORMS = st.fixed_dictionaries(
    {
        "allocated": st.sampled_from([8, 16, 32]),
        "unused": st.integers(0, 7),
        "signed": st.booleans(),
        "slope": st.sampled_from([1.0, -1.0, 0.684, 2.5]),
        "intercept": st.sampled_from([0.0, -1024.0, 200.5]),
        "center": st.floats(-3000, 3000),
        "width": st.floats(1, 5000),
        "function": st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
        "photometric": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    }
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=FORMS, seed=st.integers(0, 2**32 - 1))
def test_any_pipeline_is_that_of_the_standard(tmp_path: Path, form: dict[str, Any], seed: int) -> None:
    random = np.random.default_rng(seed)
    allocated, stored = form["allocated"], form["allocated"] - form["unused"]
    low = -(1 << (stored - 1)) if form["signed"] else 0
    values = random.integers(max(low, -5000), min(low + (1 << stored), 5000), (3, 4))
    junk = random.integers(0, 1 << form["unused"], (3, 4)) << stored
    words = ((values & ((1 << stored) - 1)) | junk).astype(f"u{allocated // 8}")
    center, width = (float(f"{form[key]:.6g}") for key in ("center", "width"))
    expected = np.array(
        [from_the_standard(int(value), form | {"center": center, "width": width}) for value in values.ravel()]
    ).reshape(3, 4)
    path = write(
        tmp_path / "image.dcm",
        words,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=int(form["signed"]),
        RescaleSlope=form["slope"],
        RescaleIntercept=form["intercept"],
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=form["function"],
        PhotometricInterpretation=form["photometric"],
    )
    if np.ptp(expected.astype(np.float32)) == 0:
        with pytest.raises(ReadingError, match="the same grey"):
            load_radiograph(path)
    else:
        assert load_radiograph(path).display == pytest.approx(expected, abs=2e-6)


# --- what stands beside the pixels


def test_spacing_says_where_it_comes_from(tmp_path: Path) -> None:
    def spacing(**changes: Any) -> tuple[Any, ...]:
        image = load_radiograph(write(tmp_path / "image.dcm", row(0, 1), **changes))
        return image.row_spacing_mm, image.column_spacing_mm, image.spacing_source, image.spacing_calibrated

    assert spacing() == (None, None, None, False)
    assert spacing(ImagerPixelSpacing=[0.1, 0.2]) == (0.1, 0.2, "ImagerPixelSpacing", False)
    both = {"PixelSpacing": [0.1, 0.2], "ImagerPixelSpacing": [0.1, 0.2]}
    assert spacing(**both) == (0.1, 0.2, "PixelSpacing", False)
    assert spacing(**both, PixelSpacingCalibrationType="FIDUCIAL") == (0.1, 0.2, "PixelSpacing", True)
    assert spacing(**both | {"PixelSpacing": [0.09, 0.18]}) == (0.09, 0.18, "PixelSpacing", True)
    assert spacing(PixelSpacing=[0, 0], ImagerPixelSpacing=[0.1, 0.1])[2] == "ImagerPixelSpacing"


@pytest.mark.parametrize(
    ("orientation", "left_is_right"),
    [
        (["L", "F"], True),
        (["LF", "F"], True),
        (["R", "F"], False),
        (["A", "F"], None),
        (["PL", "F"], None),
        ("", None),
        (["L", "H"], None),
        ("L", True),
    ],
)
def test_the_sides_come_from_the_direction_of_the_rows(
    tmp_path: Path, orientation: Any, left_is_right: bool | None
) -> None:
    image = load_radiograph(write(tmp_path / "image.dcm", row(*range(100)), PatientOrientation=orientation))
    assert image.patient_left_is_right_of_image is left_is_right


def test_both_lateralities_are_kept_apart(tmp_path: Path) -> None:
    image = load_radiograph(write(tmp_path / "image.dcm", row(0, 1), ImageLaterality="L", Laterality="R"))
    assert (image.image_laterality, image.series_laterality) == ("L", "R")


@pytest.mark.parametrize(
    ("told", "age"),
    [
        ({"PatientAge": "017Y"}, 17.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "062"}, 62.0),
        ({"PatientAge": "010"}, None),  # days, weeks, months or years
        ({"PatientBirthDate": "20080602", "StudyDate": "20260601"}, 17.0),
        ({"PatientBirthDate": "20080601", "StudyDate": "20260601"}, 18.0),
        ({"PatientBirthDate": "20300101", "StudyDate": "20260601"}, None),
        ({"PatientAge": "045Y", "PatientBirthDate": "20200101", "StudyDate": "20260601"}, 45.0),
        ({"PatientBirthDate": "19800101"}, None),
        ({"PatientAge": "000Y", "PatientBirthDate": "19600101", "StudyDate": "20260101"}, 66.0),
        ({"PatientAge": "000Y", "PatientBirthDate": "20260101", "StudyDate": "20260601"}, 0.0),
        ({"PatientAge": "000Y"}, 0.0),
        ({}, None),
    ],
)
def test_the_age_is_the_one_at_the_study(tmp_path: Path, told: dict[str, str], age: float | None) -> None:
    changes = {"PatientBirthDate": "", "StudyDate": ""} | told
    assert read_header(write(tmp_path / "image.dcm", row(0, 1), **changes)).age == age


def test_display_uint8_is_the_display(tmp_path: Path) -> None:
    image = load_radiograph(
        write(tmp_path / "image.dcm", row(0, 51, 255, dtype=np.uint8), WindowCenter=128, WindowWidth=256)
    )
    assert display_uint8(image).tolist() == [[0, 51, 255]]
    assert display_uint8(image).dtype == np.uint8


def test_a_header_is_read_without_the_pixels(tmp_path: Path) -> None:
    path = write(
        tmp_path / "image.dcm",
        row(1, 2),
        ImageType=["DERIVED", "PRIMARY"],
        InstanceNumber=7,
        BodyPartExamined=" CHEST",
        PresentationIntentType="FOR PRESENTATION",
    )
    cut = path.read_bytes()[:-4]  # only the pixels are missing
    path.write_bytes(cut)
    header = read_header(path)
    assert (header.sop_instance_uid, header.sop_class_uid, header.modality) == ("1.2.3", DX, "DX")
    assert (header.body_part, header.view, header.image_type) == ("CHEST", "PA", ("DERIVED", "PRIMARY"))
    assert (header.instance_number, header.series_number, header.frames) == (7, None, 1)
    assert (header.rows, header.columns, header.samples_per_pixel, header.photometric) == (1, 2, 1, "MONOCHROME2")
    assert header.has_pixels
    assert header.presentation_intent == "FOR PRESENTATION"
    assert header.burned_in_annotation == ""


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_a_header_knows_whether_there_are_pixels(tmp_path: Path, syntax: uid.UID) -> None:
    assert read_header(write(tmp_path / "image.dcm", row(1, 2), meta_syntax=syntax)).has_pixels
    assert not read_header(write(tmp_path / "image.dcm", row(1, 2), meta_syntax=syntax, PixelData=None)).has_pixels


def test_a_header_with_odd_texts_is_still_read(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", row(1, 2), Modality=["DX", "CR"], ViewPosition="", ImageType="")
    header = read_header(path)
    assert (header.modality, header.view, header.image_type) == ("DX", "", ())


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PixelData": None}, "the file has no PixelData"),
        ({"PixelData": b""}, "PixelData is empty"),
        ({"PixelData": b"\0" * 14}, "PixelData is truncated: it holds 14 bytes, 16 were expected"),
        ({"PixelData": bytes(range(34))}, "PixelData holds 34 bytes, 16 were expected for one frame"),
        ({"PixelData": b"\7" * 16}, "every pixel has the same value, an image was expected"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9}, "every pixel is padding, an image was expected"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB; MONOCHROME1 or MONOCHROME2"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PhotometricInterpretation is PALETTE COLOR; "),
        ({"PhotometricInterpretation": SECRET}, "PhotometricInterpretation is an unusual value; "),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation is empty; "),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3; 1 was expected"),
        ({"NumberOfFrames": 2}, "NumberOfFrames is 2; a single-frame image was expected"),
        ({"Rows": None}, "Rows x Columns is 0 x 8; "),
        ({"Rows": 65535, "Columns": 65535}, "Rows x Columns is 65535 x 65535; 1 to 100000000 pixels were expected"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12; 1, 8, 16 or 32 was expected"),
        ({"BitsAllocated": 64}, "BitsAllocated is 64; 1, 8, 16 or 32 was expected"),
        ({"BitsStored": 17}, "BitsStored is 17; 1 to 16 was expected"),
        ({"BitsStored": None}, "BitsStored is missing; 1 to 16 was expected"),
        ({"BitsStored": 12, "HighBit": 3}, "HighBit is 3; 11 was expected for 12 bits stored"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is 7; 0 or 1 was expected"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0; another number was expected"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": 0}, "give values that are not finite"),
        ({"RescaleSlope": "nan", "RescaleIntercept": 0}, "RescaleSlope is not finite"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "WindowWidth is 0; at least 1 was expected"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "WindowWidth is 0.5; at least 1 was expected"),
        ({"WindowCenter": 5, "WindowWidth": -3, "VOILUTFunction": "SIGMOID"}, "WindowWidth is -3; more than 0"),
        ({"WindowCenter": 5, "WindowWidth": "inf"}, "WindowWidth is not finite"),
        ({"WindowCenter": "nan", "WindowWidth": 5}, "WindowCenter is not finite"),
        ({"WindowCenter": 9000, "WindowWidth": 10}, "its window misses its values"),
        ({"WindowCenter": 5, "WindowWidth": 5, "VOILUTFunction": SECRET}, "VOILUTFunction is an unusual value; LINEAR"),
        ({"VOILUTSequence": [lut(0, [1, 2], 17)]}, "VOILUTSequence: LUTDescriptor says 17 bits an entry"),
    ],
)
def test_what_is_no_radiograph_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    words = np.arange(8, dtype=np.uint16).reshape(1, 8)
    with pytest.raises(ReadingError) as caught:
        load_radiograph(write(tmp_path / "image.dcm", words, **changes))
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_lut_with_too_few_entries_is_refused(tmp_path: Path) -> None:
    item = lut(0, [1, 2, 3], 16)
    item.LUTDescriptor = [300, 0, 16]
    with pytest.raises(ReadingError, match="VOILUTSequence: LUTData has too few entries, 300 were expected"):
        load_radiograph(write(tmp_path / "image.dcm", row(1, 2), VOILUTSequence=[item]))


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", row(1, 2), PixelData=None, FloatPixelData=np.zeros(2, "<f4").tobytes())
    with pytest.raises(ReadingError, match="the pixels are floating point"):
        load_radiograph(path)


@pytest.mark.parametrize("read", [load_radiograph, read_header])
def test_what_is_no_dicom_file_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ReadingError, match="the file is not there"):
        read(tmp_path / "nowhere")
    with pytest.raises(ReadingError, match="IsADirectoryError"):
        read(tmp_path)
    (tmp_path / "text").write_text(SECRET * 50)
    with pytest.raises(ReadingError, match="no DICOM Part 10 file: the prefix DICM is missing"):
        read(tmp_path / "text")
    (tmp_path / "short").write_bytes(HEADER)
    with pytest.raises(ReadingError, match="names no transfer syntax"):
        read(tmp_path / "short")


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def test_patient_text_reaches_neither_messages_nor_logs_nor_warnings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "image.dcm", row(1, 2), WindowCenter="12345678", WindowWidth="87654321", InstanceNumber=1)
    replaced(path, b"12345678", b"SECRET^1")
    with caplog.at_level(logging.DEBUG), pytest.raises(ReadingError) as caught:
        load_radiograph(path)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with caplog.at_level(logging.DEBUG):
        # An invalid UID and an invalid code string: pydicom would warn with the value.
        replaced(path, b"\x08\x00\x60\x00CS\x02\x00DX", b"\x08\x00\x60\x00CS\x02\x00s^")
        read_header(path)
    out = capfd.readouterr()
    assert "SECRET" not in caplog.text + out.out + out.err
    assert caplog.text == ""


def test_silence_ends_with_the_last_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", np.arange(10000, dtype=np.uint16).reshape(100, 100))
    before = (list(warnings.filters), logging.getLogger("pydicom").level)
    readers = [threading.Thread(target=lambda: [load_radiograph(path) for _ in range(20)]) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert (list(warnings.filters), logging.getLogger("pydicom").level) == before


def test_a_compressed_image_of_another_size_is_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "decode", lambda *_: pytest.fail("it was decoded"))
    sides = (60000).to_bytes(4, "big") * 2
    j2k = b"\xff\x4f\xff\x51\0\x29\0\0" + sides + bytes(8) + sides + bytes(8) + b"\0\1" + bytes(60)
    jpeg = b"\xff\xd8\xff\xe0\0\4\0\0\xff\xc3\0\x0b\x10" + b"\xea\x60\xea\x60" + b"\1\1\x11\0" + bytes(60)
    for stream, syntax in ((j2k, uid.JPEG2000Lossless), (jpeg, uid.JPEGLosslessSV1), (jpeg, uid.JPEGLSLossless)):
        path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=syntax, PixelData=encapsulate([stream]))
        with pytest.raises(ReadingError, match="the compressed image is 60000 x 60000, but Rows x Columns say 1 x 2"):
            load_radiograph(path)
    colour = jpeg.replace(b"\xea\x60\xea\x60\1", b"\0\1\0\2\3")
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=uid.JPEGLosslessSV1, PixelData=encapsulate([colour]))
    with pytest.raises(ReadingError, match="has 3 components, 1 was expected"):
        load_radiograph(path)
    deep = jpeg.replace(b"\x10\xea\x60\xea\x60", b"\x11\0\1\0\2")
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=uid.JPEGLosslessSV1, PixelData=encapsulate([deep]))
    with pytest.raises(ReadingError, match="has 17 bits a pixel, but BitsAllocated is 16"):
        load_radiograph(path)
    long_run = b"\1" + bytes(63) + b"\x81\0" * 5000
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=uid.RLELossless, PixelData=encapsulate([long_run]))
    with pytest.raises(ReadingError, match="an RLE frame of 10064 bytes is longer than its 4 bytes of pixels"):
        load_radiograph(path)


@pytest.mark.parametrize("load", [load_radiograph, load_display])
def test_a_fragment_that_lost_its_last_byte_is_refused(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    # Padded to an even length, as a new item would be, the zero would stand for the pixel that is gone.
    segment = bytes([2, 10, 20, 30, 2, 40, 50, 61])
    rle = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + segment
    cut = b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0" + (len(rle) - 1).to_bytes(4, "little") + rle[:-1]
    whole, damaged = (
        write(tmp_path / name, row(10, 20, 30, 40, 50, 61, dtype=np.uint8), meta_syntax=uid.RLELossless, PixelData=data)
        for name, data in (("whole.dcm", encapsulate([rle])), ("cut.dcm", cut + b"\xfe\xff\xdd\xe0\0\0\0\0"))
    )
    load(whole)
    with pytest.raises(ReadingError, match="is damaged"):
        load(damaged)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.RLELossless])
def test_compressed_rubbish_is_refused(tmp_path: Path, syntax: uid.UID, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=syntax, PixelData=encapsulate([SECRET.encode() * 9]))
    rubbish = path.read_bytes()
    for content in (rubbish, rubbish.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x01\xe0")):  # frames, then no frames
        path.write_bytes(content)
        with pytest.raises(ReadingError) as caught:
            load_radiograph(path)
        assert "SECRET" not in str(caught.value)
    assert caplog.text == ""


def test_what_a_lossy_codec_overshoots_stays_white(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(np.repeat(row(0, 60, 250, dtype=np.uint8), 8, axis=0).repeat(8, axis=1)).save(jpeg, "JPEG")
    frame = encapsulate([jpeg.getvalue()])
    window = {"WindowCenter": 64, "WindowWidth": 128, "BitsStored": 7, "HighBit": 6}
    words = np.zeros((8, 24), dtype=np.uint8)
    path = write(tmp_path / "image.dcm", words, meta_syntax=uid.JPEGBaseline8Bit, PixelData=frame, **window)
    assert load_radiograph(path).display[4, [2, 12, 22]] == pytest.approx([0, 60 / 127, 1], abs=0.03)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLosslessSV1])
@pytest.mark.parametrize(("allocated", "stored"), [(8, 1), (8, 7), (16, 8), (16, 12), (32, 16)])
def test_a_header_that_contradicts_its_jpeg_does_not_end_the_process(
    tmp_path: Path, syntax: uid.UID, allocated: int, stored: int
) -> None:
    # GDCM aborts, without an exception, where it is told another depth than that of the code stream.
    jpeg = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(jpeg, "JPEG")
    form = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1}
    words = np.zeros((8, 8), dtype=np.uint8)
    path = write(tmp_path / "image.dcm", words, meta_syntax=syntax, PixelData=encapsulate([jpeg.getvalue()]), **form)
    with contextlib.suppress(ReadingError):
        load_radiograph(path)


def test_a_video_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=uid.MPEG2MPML, PixelData=encapsulate([b"x" * 20]))
    with pytest.raises(ReadingError, match=r"the transfer syntax 1\.2\.840\.10008\.1\.2\.4\.100 holds no single grey"):
        load_radiograph(path)


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MAX_PIXELS", 1 << 18)
    monkeypatch.setattr("ai.images.elements.MAX_PIXELS", 1 << 18)
    syntax = uid.DeflatedExplicitVRLittleEndian
    path = write(tmp_path / "image.dcm", row(1, 2), meta_syntax=syntax)
    ref = InstanceRef("1.2.3", "1.2", str(path))
    plain = load_radiograph(path)
    assert plain.display.tolist() == [[0.0, 1.0]]
    assert StoredImages().header(ref).Rows == 1
    content = path.read_bytes()
    start = 132 + 12 + int(pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength)
    inflated = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + deflate.compress(inflated + bytes(1 << 24)) + deflate.flush())
    with pytest.raises(ReadingError, match="the deflated data set grows beyond 1048576 bytes"):
        load_radiograph(path)
    with pytest.raises(ReadingError, match="cannot be parsed"):  # nor is it for a report that says so
        StoredImages().header(ref)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(132, 700), what=st.binary(min_size=1, max_size=6), cut=st.integers(0, 300))
def test_damaged_files_end_in_a_picture_or_a_reading_error(tmp_path: Path, where: int, what: bytes, cut: int) -> None:
    tables = {"ModalityLUTSequence": [lut(0, [0, 9, 5], 8)], "VOILUTSequence": [lut(0, [1, 2, 3, 4], 8)]}
    path = write(tmp_path / "image.dcm", np.arange(64, dtype=np.uint16).reshape(8, 8), **tables, WindowCenter=4)
    content = bytearray(path.read_bytes())
    content[where : where + len(what)] = what
    path.write_bytes(bytes(content[: len(content) - cut]))
    for read in (load_radiograph, read_header):
        try:
            image = read(path)
        except ReadingError as error:
            assert "SECRET" not in str(error)
        else:
            assert not isinstance(image, Radiograph) or np.isfinite(image.display).all()


def test_images_are_read_without_torch() -> None:
    code = "import sys, ai.images.radiograph; assert not {'torch', 'monai', 'scipy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- real files


def real_files() -> list[Path]:
    """Every tenth slice of the CT, and all else of which the manifest says that it is grey and decodes."""
    manifest = DATA / "MANIFEST.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(encoding="utf-8") as file:
        rows = [one for one in csv.DictReader(file, delimiter="\t") if one["file"].startswith("dicom/")]
    grey = [one for one in rows if "MONOCHROME" in one["label_notes"] and "DECODE ok" in one["label_notes"]]
    slices = [one for one in grey if "chest-ct" in one["file"]][::10]
    return [DATA / one["file"] for one in grey if "chest-ct" not in one["file"]] + [
        DATA / one["file"] for one in slices
    ]


needs_real_files = pytest.mark.skipif(
    not real_files(), reason="no real files at ../shared/data (or DICOM_NODE_REAL_DATA), with a MANIFEST.tsv"
)


def by_pydicom(data: Dataset) -> np.ndarray:
    """The display by pydicom's own decoding and look-up."""
    modality = apply_modality_lut(data.pixel_array, data)
    if "WindowWidth" in data or "VOILUTSequence" in data:
        out = apply_voi_lut(modality, data, index=0).astype(np.float64)
        # pydicom keeps the range of the stored bits, rescaled.
        bits, slope, intercept = (
            int(data.BitsStored),
            float(data.get("RescaleSlope", 1)),
            data.get("RescaleIntercept", 0),
        )
        low = -(2 ** (bits - 1)) if data.PixelRepresentation else 0
        ends = (low * slope + intercept, (low + 2**bits - 1) * slope + intercept)
        out = (out - float(ends[0])) / float(ends[1] - ends[0])
    else:
        seen = modality
        if "PixelPaddingValue" in data:
            seen = modality[data.pixel_array != data.PixelPaddingValue]
        low, high = np.quantile(seen, [0.005, 0.995], method="inverted_cdf")
        if low == high:
            low, high = seen.min(), seen.max()
        out = np.clip((modality.astype(np.float64) - low) / max(float(high) - float(low), 1e-9), 0, 1)
    if data.get("PresentationLUTShape", "") == "INVERSE" or data.PhotometricInterpretation == "MONOCHROME1":
        out = 1 - out
    if "PixelPaddingValue" in data:
        out[data.pixel_array == data.PixelPaddingValue] = 0
    return np.asarray(out)


@pytest.mark.slow
@needs_real_files
@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
def test_a_real_file_comes_out_as_pydicom_has_it(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, force=True)
        if int(data.get("NumberOfFrames") or 1) > 1:
            with pytest.raises(ReadingError, match=r"NumberOfFrames is \d+; a single-frame image was expected"):
                load_radiograph(path)
            return
        try:
            expected = by_pydicom(data)
        except RuntimeError:  # it has no decoder for 12-bit JPEG; DCMTK is the reference for that one below
            assert data.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit
            assert load_radiograph(path).display.shape == (data.Rows, data.Columns)
            return
    if np.ptp(expected) < 1e-9:
        with pytest.raises(ReadingError, match=r"same grey|same value"):
            load_radiograph(path)
        return
    image = load_radiograph(path)
    header = read_header(path)
    assert (header.rows, header.columns, header.has_pixels) == (*image.display.shape, True)
    # The percentiles of a very large image are those of a sample.
    sampled = image.voi == "automatic" and expected.size >= 4_000_000
    assert np.abs(image.display - expected).max() < (0.02 if sampled else 1e-5)


def by_dcmtk(path: Path, folder: Path) -> np.ndarray:
    """The 8-bit picture that DCMTK draws with the image's first window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
    program = "dcml2pnm" if syntax in uid.JPEGLSTransferSyntaxes else "dcmj2pnm"
    if shutil.which(program) is None:
        pytest.skip(f"{program} of DCMTK is not installed")
    picture = folder / "picture.pgm"
    subprocess.run([program, "+Wi", "1", "-O", "+op", path, picture], check=True, capture_output=True)
    content = picture.read_bytes()
    magic, size, top = [line for line in content.split(b"\n")[:5] if not line.startswith(b"#")][:3]
    assert (magic, top) == (b"P5", b"255")
    columns, rows = (int(side) for side in size.split())
    return np.frombuffer(content[-rows * columns :], np.uint8).reshape(rows, columns)


@pytest.mark.programs
@needs_real_files
@pytest.mark.parametrize(
    "name",
    [
        "dicom/nema-wg04/WG04/JLSN/RG1_JLSN",
        "dicom/nema-wg04/WG04/JLSN/RG3_JLSN",
        "dicom/nema-wg04/WG04/JPLY/RG2_JPLY",
        "dicom/nema-wg04/WG04/JPLY/RG3_JPLY",
        "dicom/nema-wg04/WG04/JPLY/MR2_JPLY",
        "dicom/nema-wg04/WG04/JPLL/CT2_JPLL",
        "dicom/nema-wg04/WG04/RLE/MR4_RLE",
        "dicom/highdicom/test_files/dx_image.dcm",
        "dicom/pydicom/test_files/MR_small_bigendian.dcm",
        "dicom/pydicom/test_files/examples_overlay.dcm",
        "dicom/pydicom/test_files/dicomdirtests/98892003/MR1/4919",
    ],
)
def test_a_real_file_looks_as_dcmtk_draws_it(tmp_path: Path, name: str) -> None:
    drawn = by_dcmtk(DATA / name, tmp_path)
    ours = display_uint8(load_radiograph(DATA / name))
    # RG3_JPLY overshoots its 10 bits in eight pixels; DCMTK cuts the eleventh bit off, so that black becomes white.
    assert (np.abs(ours.astype(int) - drawn.astype(int)) > 1).sum() <= (8 if name.endswith("RG3_JPLY") else 0)


@pytest.mark.slow
@needs_real_files
@pytest.mark.parametrize(
    ("name", "one", "other"), [("RG1", "J2KI", "JLSN"), ("RG3", "J2KR", "JPLY"), ("RG2", "J2KI", "JPLY")]
)
def test_one_radiograph_in_two_compressions_is_one_picture(name: str, one: str, other: str) -> None:
    folder = DATA / "dicom" / "nema-wg04" / "WG04"
    first, second = (load_radiograph(folder / codec / f"{name}_{codec}").display for codec in (one, other))
    # All but one of these are lossy, up to 10:1.
    assert float(np.abs(first - second).mean()) < 0.005
    assert float(np.corrcoef(first.ravel(), second.ravel())[0, 1]) > 0.999


@pytest.mark.slow
@needs_real_files
@pytest.mark.parametrize(
    "name",
    [
        "dicom/pydicom/test_files/MR_small_jp2klossless.dcm",
        "dicom/pydicom/test_files/MR_small_jpeg_ls_lossless.dcm",
        "dicom/pydicom/test_files/MR_small_RLE.dcm",
        "dicom/nema-wg04/WG04/JPLL/NM1_JPLL",
        "dicom/nema-wg04/WG04/JPLY/NM1_JPLY",
        "dicom/torchxrayvision/tests/Fake_MONOHR1.dcm",
    ],
)
def test_a_compressed_image_that_is_cut_off_is_no_image(tmp_path: Path, name: str) -> None:
    content = (DATA / name).read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ReadingError, match="the data set is empty or cut off"):
        load_radiograph(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(DATA / name)
        frame = get_frame(data.PixelData, 0, number_of_frames=1)
        for share in (0.5, 0.95):
            data.PixelData = encapsulate([frame[: int(len(frame) * share)]])
            data.save_as(path)
            with pytest.raises(ReadingError, match=r"PixelData is damaged .* cannot be decoded"):
                load_radiograph(path)


@needs_real_files
def test_the_bones_of_a_real_chest_are_white() -> None:
    image = load_radiograph(DATA / "dicom" / "nema-wg04" / "WG04" / "J2KI" / "RG1_J2KI")
    assert (image.photometric, image.voi, image.view) == ("MONOCHROME1", "window LINEAR", "PA")
    assert image.patient_left_is_right_of_image
    third_row, third_column = image.rows // 3, image.columns // 3
    spine = image.display[third_row:-third_row, image.columns * 9 // 20 : image.columns * 11 // 20]
    lungs = image.display[third_row // 2 : third_row, third_column // 2 : third_column]
    assert spine.mean() > lungs.mean() + 0.2
