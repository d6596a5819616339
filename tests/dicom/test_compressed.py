"""Compressed pixels: what other decoders see in them, and what an AE gets that takes none."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dicom_node.dicom import compressed
from tests.support.programs import run_tool
from tests.support.samples import make_image


def grey(rows: int, columns: int, values: list[int]) -> NDArray[np.uint8]:
    return np.resize(np.array(values or [0], np.uint8), (rows, columns))


@given(
    st.integers(1, 9),
    st.integers(1, 400),
    st.lists(st.one_of(st.just(0), st.integers(0, 2), st.integers(0, 255)), max_size=900),
)
def test_rle_is_what_pydicoms_decoder_reads(rows: int, columns: int, values: list[int]) -> None:
    frame = grey(rows, columns, values)
    coded = compressed.rle(frame)
    assert len(coded) % 2 == 0
    image = Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    compressed.set_pixels(image, [coded], RLELossless)
    decoded, _ = get_decoder(RLELossless).as_array(image, decoding_plugin="pydicom")
    assert np.array_equal(decoded, frame)


def test_runs_of_every_length_stay_within_their_row() -> None:
    """PS3.5 G.3.1: 128 bytes at most, each row by itself."""
    for columns in (1, 3, 127, 128, 129, 130, 256, 257, 383, 385):
        frame = np.zeros((2, columns), np.uint8)
        body = compressed.rle(frame)[64:]
        packets = -(-columns // 128)
        last = columns - 128 * (packets - 1)
        row = b"\x81\0" * (packets - 1) + (bytes((257 - last, 0)) if last > 1 else b"\0\0")
        assert body == row * 2


def test_mostly_empty_probabilities_become_small() -> None:
    frame = np.zeros((512, 512), np.uint8)
    frame[100:140, 200:260] = np.random.default_rng(1).integers(0, 256, (40, 60))
    assert len(compressed.rle(frame)) < 9000


def colour(syntax: str, folder: Path) -> tuple[Path, NDArray[np.uint8]]:
    rows, columns = np.mgrid[:211, :133]
    rgb = np.stack([rows, columns, (rows + columns) // 2], axis=2).astype(np.uint8)
    rgb[50:60, 20:100] = (86, 180, 233)
    image = make_image()
    image.Rows, image.Columns, image.SamplesPerPixel, image.PlanarConfiguration = 211, 133, 3, 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PhotometricInterpretation = "YBR_FULL_422" if syntax == JPEGBaseline8Bit else "RGB"
    coded = compressed.jpeg(rgb) if syntax == JPEGBaseline8Bit else compressed.jpeg_ls(rgb)
    compressed.set_pixels(image, [coded], pydicom.uid.UID(syntax))
    image["PixelData"].is_undefined_length = True
    path = folder / "image.dcm"
    image.save_as(path, enforce_file_format=True)
    return path, rgb


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless])
def test_decompressed_is_what_a_reader_sees(syntax: str, tmp_path: Path) -> None:
    path, rgb = colour(syntax, tmp_path)
    plain = compressed.decompressed(path)
    assert plain is not None
    assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (plain.PhotometricInterpretation, plain.PlanarConfiguration) == ("RGB", 0)
    assert plain["PixelData"].VR == "OB"
    assert len(plain.PixelData) % 2 == 0  # of an odd number of pixels
    seen = pydicom.dcmread(path).pixel_array  # GDCM's decoder, or CharLS
    assert np.array_equal(plain.pixel_array, seen)
    assert np.abs(seen.astype(int) - rgb).mean() < (3 if syntax == JPEGBaseline8Bit else 0.0001)


@pytest.mark.programs
@pytest.mark.parametrize(("syntax", "tool"), [(JPEGBaseline8Bit, "dcmdjpeg"), (JPEGLSLossless, "dcmdjpls")])
def test_dcmtk_decompresses_to_the_same_pixels(syntax: str, tool: str, tmp_path: Path) -> None:
    path, _ = colour(syntax, tmp_path)
    run_tool(tool, path, tmp_path / "plain.dcm")
    theirs, ours = pydicom.dcmread(tmp_path / "plain.dcm"), compressed.decompressed(path)
    assert ours is not None
    apart = np.abs(theirs.pixel_array.astype(int) - ours.pixel_array)
    assert apart.max() <= (1 if syntax == JPEGBaseline8Bit else 0)  # T.81 leaves a decoder the last bit


def test_a_dark_picture_has_8_bits_all_the_same() -> None:
    """A reader of fewer bits than Bits Stored says would show it too bright."""
    import jpeg_ls  # noqa: PLC0415

    dark = np.full((20, 30, 3), 3, np.uint8)
    coded = compressed.jpeg_ls(dark)
    at = coded.index(b"\xff\xf7")  # SOF55: the precision stands behind its length
    assert coded[at + 4] == 8
    assert np.array_equal(jpeg_ls.decode(np.frombuffer(coded, np.uint8)), dark)


def test_what_is_not_compressed_as_results_are_is_left_alone(tmp_path: Path) -> None:
    path, _ = colour(JPEGBaseline8Bit, tmp_path)
    image = pydicom.dcmread(path)
    for keyword, value in (("PhotometricInterpretation", "RGB"), ("SamplesPerPixel", 1), ("BitsAllocated", 16)):
        other = pydicom.dcmread(path)
        setattr(other, keyword, value)
        other.save_as(tmp_path / "other.dcm")
        assert compressed.decompressed(tmp_path / "other.dcm") is None
    image.decompress()
    out = BytesIO()
    image.save_as(out)
    (tmp_path / "plain.dcm").write_bytes(out.getvalue())
    assert compressed.decompressed(tmp_path / "plain.dcm") is None
