"""Any frame of any stored image comes out as a viewer shows it, and only that frame is read."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import subprocess
import tracemalloc
import warnings
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
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders.base import get_encoder

from ai.contract import InstanceRef, ReadingError
from ai.images.radiograph import display_uint8, load_display, load_radiograph
from dicom_node.results.images import StoredImages
from tests.ai.images.test_radiograph import DATA, SECRET, lut, write
from tests.support.waiting import scaled

# --- what DCMTK draws


def real_images() -> list[Path]:
    """Every tenth slice of the CT, and every other file with pixels."""
    manifest = DATA / "MANIFEST.tsv"
    if not manifest.is_file():
        return []
    with manifest.open(encoding="utf-8") as file:
        rows = [one for one in csv.DictReader(file, delimiter="\t") if one["file"].startswith("dicom/")]
    images = [one["file"] for one in rows if "DECODE" in one["label_notes"]]
    slices = [name for name in images if "chest-ct" in name]
    return [DATA / name for name in (*(name for name in images if "chest-ct" not in name), *slices[::10])]


needs_real_images = pytest.mark.skipif(
    not real_images(), reason="no real files at ../shared/data (or DICOM_NODE_REAL_DATA), with a MANIFEST.tsv"
)

REFUSED = {
    # its code stream holds the bytes of a delimiter in the place of its width
    "JPEG2000-embedded-sequence-delimiter.dcm": "the compressed image is 1024 x 3722445056",
    "MR_truncated.dcm": "PixelData is truncated: it holds 8130 bytes, 8192 were expected",
    "badVR.dcm": "NumberOfFrames is no number",
    "meta_missing_tsyntax.dcm": "names no transfer syntax",
    "nested_priv_SQ.dcm": "the data set is empty or cut off",
}


UNREAD_BY_DCMTK = {
    "SC_rgb_jpeg.dcm",  # implicit VRs in a compressed file
    "rtdose_expb.dcm",  # 32-bit big endian words, of which it swaps the halves only; they are rtdose.dcm's
    "rtdose_expb_1frame.dcm",
}


def window_of(data: Dataset, stored: np.ndarray) -> tuple[float, float]:
    """The window that DCMTK is told: that of the file, or the percentiles of the frame's pixels as a linear one."""
    if "WindowWidth" in data:
        center, width = (
            value[0] if isinstance(value, pydicom.multival.MultiValue) else value
            for value in (data.WindowCenter, data.WindowWidth)
        )
        return float(center), float(width)
    values = stored.astype(np.float64) * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    if "PixelPaddingValue" in data:
        values = values[stored != data.PixelPaddingValue]
    else:
        step = max(1, int((values.size // 1_000_000) ** 0.5))  # the percentiles of a very large image are of a sample
        values = values[::step, ::step]
    low, high = np.quantile(values, [0.005, 0.995], method="inverted_cdf")
    if low == high:
        low, high = values.min(), values.max()
    return float(low + high) / 2 + 0.5, float(high - low) + 1


def pnm(program: str, *options: object) -> np.ndarray:
    done = run_tool(program, *options, text=False)
    magic, size, top = [line for line in done.split(b"\n")[:5] if not line.startswith(b"#")][:3]
    assert top == b"255"
    columns, rows = (int(side) for side in size.split())
    shape = {b"P5": (rows, columns), b"P6": (rows, columns, 3)}[magic]
    return np.frombuffer(done[-int(np.prod(shape)) :], np.uint8).reshape(shape)


def run_tool(name: str, *options: object, text: bool = True) -> Any:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (scripts/test installs it by apt-get)")
    return subprocess.run(
        [name, *map(str, options)], check=True, capture_output=True, text=text, timeout=scaled(60)
    ).stdout


def uncompressed(path: Path, folder: Path) -> Path:
    """What DCMTK (JPEG, JPEG-LS, RLE) or GDCM (JPEG 2000, which DCMTK cannot) makes of a compressed image."""
    syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
    if not syntax.is_encapsulated:
        return path
    plain = folder / "plain.dcm"
    if syntax in uid.JPEG2000TransferSyntaxes:
        run_tool("gdcmconv", "--raw", path, plain)
    else:
        name = "dcmdjpls" if syntax in uid.JPEGLSTransferSyntaxes else "dcmdrle" if "1.2.5" in syntax else "dcmdjpeg"
        run_tool(name, path, plain)
    return plain


@pytest.mark.programs
@needs_real_images
@pytest.mark.parametrize(
    "path", [path for path in real_images() if path.name not in UNREAD_BY_DCMTK], ids=lambda path: path.name
)
def test_a_real_image_looks_as_dcmtk_draws_it(path: Path, tmp_path: Path) -> None:
    if path.name in REFUSED:
        with pytest.raises(ReadingError, match=REFUSED[path.name]):
            load_display(path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = uncompressed(path, tmp_path)
        data = pydicom.dcmread(plain, force=True)
        frames = int(data.get("NumberOfFrames") or 1)
        for frame in sorted({1, (frames + 1) // 2, frames}):
            ours = load_display(path, frame)
            options: list[object] = ["+op", "-O", "+F", frame]
            padding: Any = False
            if data.PhotometricInterpretation.startswith("MONO"):
                stored = pydicom.pixel_array(data, index=frame - 1)
                padding = stored == data.get("PixelPaddingValue")
                options += ["+Wl", 1] if "VOILUTSequence" in data else ["+Ww", *window_of(data, stored)]
                options += ["+Wfs"] if data.get("VOILUTFunction") == "SIGMOID" else []
            drawn = pnm("dcm2pnm", *options, plain)
            assert ours.shape == drawn.shape
            off = np.abs(ours.astype(int) - drawn.astype(int))
            off[padding] = ours[padding]  # ours is black, DCMTK takes it for a value
            # RG3_JPLY overshoots its 10 bits in eight pixels; DCMTK cuts the eleventh bit off: black becomes white.
            assert (off > 2).sum() <= (8 if path.name == "RG3_JPLY" else 0), (off.max(), off.mean())


@needs_real_images
@pytest.mark.parametrize("path", real_images(), ids=lambda path: path.name)
def test_a_radiograph_is_displayed_as_a_model_reads_it(path: Path) -> None:
    try:
        expected = display_uint8(load_radiograph(path))
    except ReadingError:
        return
    assert (load_display(path) == expected).all()


@needs_real_images
def test_what_dcmtk_does_not_read_is_displayed_all_the_same() -> None:
    folder = DATA / "dicom" / "pydicom" / "test_files"
    for frame in (1, 15):
        big, little = (load_display(folder / name, frame) for name in ("rtdose_expb.dcm", "rtdose.dcm"))
        assert (big == little).all()
        assert np.ptp(big) == 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pydicom.dcmread(folder / "SC_rgb_jpeg.dcm").pixel_array
    assert np.abs(load_display(folder / "SC_rgb_jpeg.dcm").astype(int) - expected).max() <= 2


# --- frames of grey


def frames_of(count: int, rows: int = 5, columns: int = 3, dtype: type[Any] = np.uint8) -> np.ndarray:
    return (
        np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (count, rows, columns), endpoint=True).astype(dtype)
    )


WHOLE = {"VOILUTFunction": "LINEAR_EXACT"}


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_each_native_frame_is_itself(tmp_path: Path, dtype: type[Any], syntax: uid.UID) -> None:
    words = frames_of(4, dtype=dtype)
    top = float(np.iinfo(dtype).max)
    data = words.astype(words.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    if syntax == uid.ExplicitVRBigEndian and dtype is np.uint8:  # 8-bit pixels in OW: words, swapped
        data = np.frombuffer(data, np.uint16).byteswap().tobytes()
    window = {"WindowCenter": top / 2, "WindowWidth": top, **WHOLE}
    path = write(tmp_path / "a.dcm", words[0], meta_syntax=syntax, NumberOfFrames=4, PixelData=data, **window)
    for number in range(4):
        assert (load_display(path, number + 1) == np.rint(words[number] / top * 255)).all()


def test_each_frame_of_single_bits_is_itself(tmp_path: Path) -> None:
    bits = frames_of(5) & 1
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()  # 15 bits a frame
    form = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 5, "PixelData": packed + b"\0"}
    path = write(tmp_path / "a.dcm", bits[0], **form)
    for number in range(5):
        assert (load_display(path, number + 1) == bits[number] * 255).all()


def test_a_deflated_frame_is_itself(tmp_path: Path) -> None:
    words = frames_of(3)
    window = {"WindowCenter": 127.5, "WindowWidth": 255, **WHOLE}
    syntax = uid.DeflatedExplicitVRLittleEndian
    path = write(
        tmp_path / "a.dcm", words[0], meta_syntax=syntax, NumberOfFrames=3, PixelData=words.tobytes() + b"\0", **window
    )
    assert (load_display(path, 3) == words[2]).all()


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def groups(window: tuple[float, float] | None = None, rescale: tuple[float, float] | None = None) -> Dataset:
    made = Dataset()
    if window is not None:
        made.FrameVOILUTSequence = [item(WindowCenter=window[0], WindowWidth=window[1], **WHOLE)]
    if rescale is not None:
        made.PixelValueTransformationSequence = [
            item(RescaleSlope=rescale[0], RescaleIntercept=rescale[1], RescaleType="HU")
        ]
    return made


def test_each_frame_has_its_own_rescale_and_window(tmp_path: Path) -> None:
    words = np.array([[[0, 51, 102]]] * 3, dtype=np.uint8)
    enhanced = {
        "NumberOfFrames": 3,
        "PixelData": words.tobytes() + b"\0",
        "WindowCenter": 7,  # of the image: the frames' own come first
        "WindowWidth": 2,
        "SharedFunctionalGroupsSequence": [groups(rescale=(1, 0))],
        "PerFrameFunctionalGroupsSequence": [
            groups((51, 102)),
            groups((-51, 102), (1, -102)),
            groups((51, 204), (2, 0)),
        ],
    }
    path = write(tmp_path / "a.dcm", words[0], **enhanced)
    shown = [load_display(path, number).tolist() for number in (1, 2, 3)]
    assert shown == [[[0, 128, 255]], [[0, 128, 255]], [[64, 191, 255]]]
    inverse = write(tmp_path / "b.dcm", words[0], PhotometricInterpretation="MONOCHROME1", **enhanced)
    assert load_display(inverse, 1).tolist() == [[255, 128, 0]]
    few = enhanced | {"PerFrameFunctionalGroupsSequence": [groups((51, 102))]}  # what is missing is the image's
    assert load_display(write(tmp_path / "c.dcm", words[0], **few), 3).tolist() == [[0, 255, 255]]
    alone = {**enhanced, "NumberOfFrames": 1, "PixelData": words[0].tobytes() + b"\0"}
    assert load_display(write(tmp_path / "d.dcm", words[0], **alone)).tolist() == [[0, 128, 255]]


def test_shared_windows_hold_for_every_frame(tmp_path: Path) -> None:
    words = np.array([[[0, 51, 102]]] * 2, dtype=np.uint8)
    shared = {"SharedFunctionalGroupsSequence": [groups((51, 102), (1, 0))], "NumberOfFrames": 2}
    path = write(tmp_path / "a.dcm", words[0], PixelData=words.tobytes(), **shared)
    assert [load_display(path, number).tolist() for number in (1, 2)] == [[[0, 128, 255]]] * 2


@pytest.mark.parametrize(
    "broken",
    [
        {"WindowCenter": 5, "WindowWidth": -5},
        {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "SINE"},
        {"VOILUTSequence": [lut(0, [0, 9], 99)], "WindowCenter": 5, "WindowWidth": 9},
    ],
)
def test_a_window_that_is_none_gives_way_to_one_from_the_pixels(tmp_path: Path, broken: dict[str, Any]) -> None:
    words = np.arange(100, dtype=np.uint8).reshape(10, 10)
    expected = load_display(write(tmp_path / "a.dcm", words))
    assert (load_display(write(tmp_path / "b.dcm", words, **broken)) == expected).all()
    path = write(tmp_path / "c.dcm", words, WindowCenter="7531", WindowWidth=9)
    path.write_bytes(path.read_bytes().replace(b"7531", b"AUTO"))
    assert (load_display(path) == expected).all()
    with pytest.raises(ReadingError, match="RescaleSlope is 0"):
        load_display(write(tmp_path / "d.dcm", words, RescaleSlope=0, **broken))


@pytest.mark.parametrize(("photometric", "grey"), [("MONOCHROME2", 255), ("MONOCHROME1", 0)])
def test_a_blank_image_is_drawn_blank(tmp_path: Path, photometric: str, grey: int) -> None:
    even = np.full((4, 4), 9, dtype=np.uint8)
    above = {"WindowCenter": 2, "WindowWidth": 2, "PhotometricInterpretation": photometric}
    assert (load_display(write(tmp_path / "a.dcm", even, **above)) == grey).all()
    assert load_display(write(tmp_path / "b.dcm", even)).tolist() == [[0] * 4] * 4
    assert load_display(write(tmp_path / "c.dcm", even, PixelPaddingValue=9)).tolist() == [[0] * 4] * 4


# --- compressed frames


def jpeg(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=100, subsampling=0)
    return out.getvalue()


def encoded(picture: np.ndarray, syntax: uid.UID) -> bytes:
    """One frame as a code stream."""
    if syntax == uid.JPEGBaseline8Bit:
        return jpeg(picture)
    colours = picture.ndim == 3
    lossless_colours = "YBR_RCT" if syntax == uid.JPEG2000Lossless else "RGB"
    return get_encoder(syntax).encode(
        picture,
        rows=picture.shape[0],
        columns=picture.shape[1],
        samples_per_pixel=3 if colours else 1,
        photometric_interpretation=lossless_colours if colours else "MONOCHROME2",
        bits_allocated=picture.dtype.itemsize * 8,
        bits_stored=picture.dtype.itemsize * 8,
        pixel_representation=0,
        number_of_frames=1,
        planar_configuration=0,
    )


CODECS = [uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000Lossless]


@pytest.mark.parametrize(
    ("table", "fragments"),  # an Extended Offset Table is for frames of one fragment (PS3.3 C.7.6.3.1.8)
    [("basic", 1), ("basic", 2), ("extended", 1), ("none", 1), ("none", 2), ("wrong", 1), ("wrong", 2)],
)
@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.keyword)
def test_each_compressed_frame_is_itself(tmp_path: Path, syntax: uid.UID, fragments: int, table: str) -> None:
    base = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    words = [base, base + 60, base + 120]
    streams = [encoded(picture, syntax) for picture in words]
    extra: dict[str, Any] = {}
    if table == "extended":
        data, extra["ExtendedOffsetTable"], extra["ExtendedOffsetTableLengths"] = encapsulate_extended(streams)
    else:
        data = encapsulate(streams, fragments_per_frame=fragments, has_bot=table != "none")
    if table == "wrong":
        data = data[:8] + b"\x02" + data[9:]
    window = {"WindowCenter": 127.5, "WindowWidth": 255, **WHOLE}
    path = write(tmp_path / "a.dcm", base, meta_syntax=syntax, NumberOfFrames=3, PixelData=data, **extra, **window)
    if syntax == uid.RLELossless and fragments == 2 and table in ("none", "wrong"):
        with pytest.raises(ReadingError, match="has 6 fragments and no offset table that tells its 3 frames apart"):
            load_display(path, 2)
        return
    for number in range(3):
        off = np.abs(load_display(path, number + 1).astype(int) - words[number])
        assert off.max() <= (2 if syntax == uid.JPEGBaseline8Bit else 0)


def test_only_the_frame_that_is_asked_for_is_read(tmp_path: Path) -> None:
    words = frames_of(64, 256, 256)
    native = write(tmp_path / "a.dcm", words[0], NumberOfFrames=64, PixelData=words.tobytes())
    streams = [encoded(picture & 63, uid.JPEGLSLossless) for picture in words]
    syntax = {"meta_syntax": uid.JPEGLSLossless}
    packed = write(tmp_path / "b.dcm", words[0], NumberOfFrames=64, PixelData=encapsulate(streams), **syntax)
    for path in (native, packed):
        load_display(path, 64)  # what is imported on the way is not counted
        tracemalloc.start()
        load_display(path, 64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < words.nbytes / 2


# --- colours

PICTURE = np.stack(np.meshgrid(np.arange(0, 256, 16), np.arange(0, 256, 16)), -1).astype(np.uint8)
PICTURE = np.concatenate([PICTURE, 255 - PICTURE[..., :1]], axis=-1)


def colour_file(path: Path, data: bytes, photometric: str, **changes: Any) -> Path:
    rows, columns = PICTURE.shape[:2]
    form = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "PlanarConfiguration": 0}
    return write(path, np.zeros((rows, columns), np.uint8), PixelData=data, **{**form, **changes})


def ybr_of(picture: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, YBR_FULL, as it stands there."""
    r, g, b = (picture[..., i].astype(float) for i in range(3))
    y = 0.2990 * r + 0.5870 * g + 0.1140 * b
    cb = -0.1687 * r - 0.3313 * g + 0.5000 * b + 128
    cr = 0.5000 * r - 0.4187 * g - 0.0813 * b + 128
    return np.rint(np.stack([y, cb, cr], -1)).clip(0, 255).astype(np.uint8)


def off_by(path: Path, frame: int = 1, expected: np.ndarray = PICTURE) -> int:
    shown = load_display(path, frame)
    assert (shown.dtype, shown.shape) == (np.uint8, PICTURE.shape)
    return int(np.abs(shown.astype(int) - expected).max())


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_colours_by_pixel_and_by_plane(tmp_path: Path, planar: int, syntax: uid.UID) -> None:
    def stored(picture: np.ndarray) -> np.ndarray:
        return picture.transpose(2, 0, 1) if planar else picture

    form = {"meta_syntax": syntax, "PlanarConfiguration": planar, "NumberOfFrames": 2}
    two = np.stack([stored(255 - PICTURE), stored(PICTURE)])
    eight = two.tobytes() if syntax.is_little_endian else np.frombuffer(two.tobytes(), np.uint16).byteswap().tobytes()
    assert off_by(colour_file(tmp_path / "a.dcm", eight, "RGB", **form), 2) == 0
    assert off_by(colour_file(tmp_path / "a.dcm", eight, "RGB", **form), 1, 255 - PICTURE) == 0
    wide = (two.astype(np.uint16) * 257).astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
    sixteen = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    assert off_by(colour_file(tmp_path / "b.dcm", wide, "RGB", **form, **sixteen), 2) == 0
    twelve = (two.astype(np.uint16) * 16).astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
    of_twelve = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    assert off_by(colour_file(tmp_path / "c.dcm", twelve, "RGB", **form, **of_twelve), 2) <= 1


def test_luminance_and_chrominance_become_colours(tmp_path: Path) -> None:
    ybr = ybr_of(PICTURE)
    assert off_by(colour_file(tmp_path / "a.dcm", ybr.tobytes(), "YBR_FULL")) <= 2
    planes = ybr.transpose(2, 0, 1).tobytes()
    assert off_by(colour_file(tmp_path / "b.dcm", planes, "YBR_FULL", PlanarConfiguration=1)) <= 2
    pairs = np.repeat(PICTURE[:, ::2], 2, axis=1)  # both of a pair have one colour, as they have one chrominance
    y, c = ybr_of(pairs)[..., 0], ybr_of(pairs)[:, ::2, 1:]
    halved = np.stack([y[:, ::2], y[:, 1::2], c[..., 0], c[..., 1]], -1)
    two = {"NumberOfFrames": 2}
    path = colour_file(tmp_path / "c.dcm", bytes(halved.nbytes) + halved.tobytes(), "YBR_FULL_422", **two)
    assert off_by(path, 2, pairs) <= 2


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        (uid.RLELossless, "RGB"),
        (uid.JPEGLSLossless, "RGB"),
        (uid.JPEG2000Lossless, "YBR_RCT"),
        (uid.JPEG2000Lossless, "RGB"),
        (uid.JPEGBaseline8Bit, "YBR_FULL"),
        (uid.JPEGBaseline8Bit, "YBR_FULL_422"),
    ],
)
def test_compressed_colours(tmp_path: Path, syntax: uid.UID, photometric: str) -> None:
    picture = PICTURE.repeat(8, axis=0).repeat(8, axis=1)  # as JPEG has it, in blocks
    streams = [encoded(255 - picture, syntax), encoded(picture, syntax)]
    size = {"Rows": picture.shape[0], "Columns": picture.shape[1], "NumberOfFrames": 2}
    path = colour_file(tmp_path / "a.dcm", encapsulate(streams), photometric, meta_syntax=syntax, **size)
    shown = load_display(path, 2)
    assert np.abs(shown.astype(int) - picture).max() <= (4 if syntax == uid.JPEGBaseline8Bit else 0)


def palette(bits: int, scale: int, first: int = 10) -> dict[str, Any]:
    tables: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, entries in (("Red", [0, 200, 255]), ("Green", [9, 0, 40]), ("Blue", [255, 1, 0])):
        tables[f"{channel}PaletteColorLookupTableDescriptor"] = [3, first, bits]
        words = np.array(entries, dtype=f"<u{bits // 8}" if scale else "u1") * (scale or 1)
        tables[f"{channel}PaletteColorLookupTableData"] = words.tobytes() + b"\0" * (words.nbytes % 2)
    return tables


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257), (16, 256), (16, 1)])
def test_palettes_are_looked_up(tmp_path: Path, bits: int, scale: int) -> None:
    words = np.array([[3, 10, 11, 12, 200]], dtype=np.uint8)
    low, middle, high = [0, 9, 255], [200, 0, 1], [255, 40, 0]
    path = write(tmp_path / "a.dcm", words, **palette(bits, scale), PixelData=words.tobytes() + b"\0")
    assert load_display(path).tolist() == [[low, low, middle, high, high]]


def test_palettes_of_segments_are_looked_up(tmp_path: Path) -> None:
    # discrete 0, 10; linear to 40 in 3 steps; and once more both segments
    segments = [0, 2, 0, 10 << 8, 1, 3, 40 << 8, 2, 2, 0, 0]
    tables: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel in ("Red", "Green", "Blue"):
        tables[f"{channel}PaletteColorLookupTableDescriptor"] = [10, 0, 16]
        tables[f"Segmented{channel}PaletteColorLookupTableData"] = np.array(segments, dtype="<u2").tobytes()
    words = np.arange(10, dtype=np.uint8)[np.newaxis]
    path = write(tmp_path / "a.dcm", words, **tables)
    assert load_display(path)[0, :, 1].tolist() == [0, 10, 20, 30, 40] * 2
    tables["SegmentedRedPaletteColorLookupTableData"] = np.array([1, 2, 3, 4], dtype="<u2").tobytes()
    with pytest.raises(ReadingError, match="SegmentedRedPaletteColorLookupTableData is damaged at word 0"):
        load_display(write(tmp_path / "b.dcm", words, **tables))


def test_results_are_drawn_on_the_frame_they_are_of(tmp_path: Path) -> None:
    words = frames_of(3)
    window = {"WindowCenter": 127.5, "WindowWidth": 255, **WHOLE}
    path = write(tmp_path / "a.dcm", words[0], NumberOfFrames=3, PixelData=words.tobytes() + b"\0", **window)
    assert (StoredImages().pixels(InstanceRef("1.2.3", "1.2", str(path)), 2) == words[1]).all()


# --- what cannot be shown


def test_a_frame_that_is_not_there_is_refused(tmp_path: Path) -> None:
    words = frames_of(2)
    path = write(tmp_path / "a.dcm", words[0], NumberOfFrames=2, PixelData=words.tobytes())
    for frame in (0, 3, -1):
        with pytest.raises(ReadingError, match=rf"frame {frame} was asked for; the image has frames 1 to 2"):
            load_display(path, frame)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"PhotometricInterpretation": "HSV"},
            "PhotometricInterpretation is HSV; one of MONOCHROME1, ",
        ),
        ({"PhotometricInterpretation": SECRET}, "PhotometricInterpretation is an unusual value; one of"),
        ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel is 1; 3 was expected for RGB"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3; 1 was expected for MONOCHROME2"),
        ({"NumberOfFrames": 4}, "PixelData is truncated: it holds 64 bytes, 256 were expected"),
        ({"NumberOfFrames": -1}, "frame 1 was asked for; the image has frames 1 to -1"),
        ({"PixelData": None}, "the file has no PixelData"),
        ({"PixelData": b""}, "PixelData is empty"),
        ({"Rows": 0}, "Rows x Columns is 0 x 8"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "RedPaletteColorLookupTableDescriptor has 0 values"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0; another number was expected"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReadingError, match=message) as caught:
        load_display(write(tmp_path / "a.dcm", np.arange(64, dtype=np.uint8).reshape(8, 8), **changes))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PixelRepresentation": 1}, "colours of 8 bits with a sign are none of the standard"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "YBR_RCT, which only JPEG 2000 images can have"),
        ({"PhotometricInterpretation": "YBR_FULL_422", "Columns": 15}, "an odd number of columns"),
        ({"Rows": 60000, "Columns": 60000}, "Rows x Columns is 60000 x 60000; 1 to 33333333 pixels were expected"),
        ({"Rows": 17}, "PixelData is truncated: it holds 768 bytes, 816 were expected"),
    ],
)
def test_colours_that_contradict_themselves_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReadingError, match=message):
        load_display(colour_file(tmp_path / "a.dcm", PICTURE.tobytes(), "RGB", **changes))


def test_a_palette_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    words = np.zeros((1, 2), dtype=np.uint8)
    for changes, message in (
        ({"RedPaletteColorLookupTableDescriptor": [3, 0, 12]}, "says 12 bits an entry; 8 or 16 were expected"),
        ({"GreenPaletteColorLookupTableDescriptor": [9, 0, 16]}, "GreenPaletteColorLookupTableData has 3 entries"),
    ):
        with pytest.raises(ReadingError, match=message):
            load_display(write(tmp_path / "a.dcm", words, **{**palette(16, 256), **changes}))
    tables = palette(16, 256)
    del tables["BluePaletteColorLookupTableData"]
    with pytest.raises(ReadingError, match="BluePaletteColorLookupTableData is missing"):
        load_display(write(tmp_path / "a.dcm", words, **tables))


@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.keyword)
def test_compressed_frames_that_are_cut_off_or_damaged_are_refused(tmp_path: Path, syntax: uid.UID) -> None:
    words = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8)
    data = encapsulate([encoded(words, syntax)] * 2)
    path = write(tmp_path / "a.dcm", words, meta_syntax=syntax, NumberOfFrames=2, PixelData=data)
    whole = path.read_bytes()
    at = whole.index(b"\xfe\xff\x00\xe0")
    for content, message in (
        (whole[:-12], "PixelData is cut off: the file ends before its last fragment"),
        (whole[: at + 30], "PixelData is cut off"),
        (whole[:at] + SECRET.encode() * 20, "PixelData is damaged: no item stands at byte"),
        (whole.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", 1), "PixelData is damaged: it has no offset table"),
    ):
        path.write_bytes(content)
        with pytest.raises(ReadingError, match=message) as caught:
            load_display(path, 2)
        assert "SECRET" not in str(caught.value)
    rubbish = encapsulate([SECRET.encode() * 9] * 2)
    write(path, words, meta_syntax=syntax, NumberOfFrames=2, PixelData=rubbish)
    with pytest.raises(ReadingError, match="PixelData") as caught:
        load_display(path, 2)
    assert "SECRET" not in str(caught.value)
    write(path, words, meta_syntax=syntax, NumberOfFrames=3, PixelData=data)
    with pytest.raises(ReadingError, match="has 2 fragments and no offset table that tells its 3 frames apart"):
        load_display(path, 2)


@pytest.mark.slow
@needs_real_images
@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm"])
def test_a_damaged_header_of_a_colour_jpeg_does_not_end_the_process(tmp_path: Path, name: str) -> None:
    # GDCM aborts, without an exception, where it cannot make out the colour space.
    whole = (DATA / "dicom" / "pydicom" / "test_files" / name).read_bytes()
    start = whole.index(b"\xff\xd8\xff")
    path, shown = tmp_path / "a.dcm", 0
    for at in range(start + 2, whole.index(b"\xff\xda", start) + 14):
        for byte in (whole[at] ^ 1, 0xFF):
            path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            with contextlib.suppress(ReadingError):
                load_display(path)
                shown += 1
    assert shown > 10


def small_files() -> dict[str, Callable[[Path], Path]]:
    words = frames_of(3, 8, 8)
    enhanced = {"SharedFunctionalGroupsSequence": [groups((51, 102), (1, 0))], "NumberOfFrames": 3}
    streams = encapsulate([encoded(picture // 64, uid.JPEGLSLossless) for picture in words])
    return {
        "enhanced": lambda path: write(path, words[0], PixelData=words.tobytes(), **enhanced),
        "compressed": lambda path: write(
            path, words[0], meta_syntax=uid.JPEGLSLossless, NumberOfFrames=3, PixelData=streams
        ),
        "palette": lambda path: write(path, words[0], **palette(16, 256)),
        "colour": lambda path: colour_file(path, PICTURE.tobytes(), "YBR_FULL"),
        "tables": lambda path: write(path, words[0], VOILUTSequence=[lut(0, [1, 2, 3, 4], 8)]),
    }


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(small_files())),
    where=st.integers(132, 1400),
    what=st.binary(min_size=1, max_size=6),
    cut=st.integers(0, 300),
)
def test_damaged_files_end_in_a_picture_or_a_reading_error(
    tmp_path: Path, name: str, where: int, what: bytes, cut: int
) -> None:
    path = small_files()[name](tmp_path / "image.dcm")
    content = bytearray(path.read_bytes())
    content[where : where + len(what)] = what
    path.write_bytes(bytes(content[: len(content) - cut]))
    try:
        shown = load_display(path)
    except ReadingError as error:
        assert "SECRET" not in str(error)
    else:
        assert shown.dtype == np.uint8
