"""The decoders of compressed pixels: one for each transfer syntax, whatever else is installed.

They run in helper processes (`ai.images.decode_process`), because they are large C and C++ libraries and their input
comes from the network. Whoever wants pixels asks `ai.images.helpers`.

| transfer syntax | decoder |
|---|---|
| JPEG, 8 bits, with loss (1.2.840.10008.1.2.4.50, .51) | libjpeg-turbo, of Pillow |
| JPEG, 12 bits, with loss (.51) | GDCM |
| JPEG without loss (.57, .70) | GDCM |
| JPEG-LS (.80, .81) | CharLS, of pyjpegls |
| JPEG 2000 and HTJ2K (.90, .91, .201 to .203) | OpenJPEG, of pylibjpeg-openjpeg |
| RLE (1.2.840.10008.1.2.5) | pydicom |
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DCT: Final = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_TURBO, _GDCM, _CHARLS, _OPENJPEG, _RLE = "libjpeg-turbo", "GDCM", "CharLS", "OpenJPEG", "pydicom's RLE decoder"
_PLUGINS: Final = {_TURBO: "pillow", _GDCM: "gdcm", _CHARLS: "pyjpegls", _OPENJPEG: "pylibjpeg", _RLE: "pydicom"}
DECODERS: Final = {
    **dict.fromkeys(_DCT, _TURBO),
    "1.2.840.10008.1.2.4.57": _GDCM,
    "1.2.840.10008.1.2.4.70": _GDCM,
    "1.2.840.10008.1.2.4.80": _CHARLS,
    "1.2.840.10008.1.2.4.81": _CHARLS,
    **{f"1.2.840.10008.1.2.4.{number}": _OPENJPEG for number in (90, 91, 201, 202, 203)},
    "1.2.840.10008.1.2.5": _RLE,
}
"""Transfer syntax UID -> the decoder of its images; of JPEG with 12 bits see `decoder_of`."""


@dataclass(frozen=True, slots=True)
class Form:
    """The checked Image Pixel attributes (PS3.3 section C.7.6.3) of one frame."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    samples: int = 1
    planar: bool = False


def decoder_of(syntax: str, bits: int) -> str:
    """The name of the decoder of a code stream with ``bits`` of precision."""
    return _GDCM if syntax in _DCT and bits > 8 else DECODERS[syntax]


def load_all() -> None:
    """Import every decoder, and have each ready to decode."""
    import gdcm  # noqa: PLC0415  (large, and for helper processes alone)
    import jpeg_ls  # noqa: PLC0415
    import openjpeg  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    Image.init()
    _ = (jpeg_ls, openjpeg, [get_decoder(UID(each)) for each in DECODERS])
    for quiet in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        quiet()


def missing() -> dict[str, str]:
    """The transfer syntaxes whose decoder is not installed -> what is missing."""
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415  (as above)
    from pydicom.uid import UID  # noqa: PLC0415

    found = {}
    for syntax, name in DECODERS.items():
        decoder = get_decoder(UID(syntax))
        if _PLUGINS[name] not in decoder.available_plugins:
            found[syntax] = name
    return found


def decode(frame: bytes, form: Form, syntax: str, bits: int, *, rgb: bool = False) -> tuple[NDArray[Any], str]:
    """Decode the code stream of one frame to stored words, with their Photometric Interpretation.

    Args:
        frame: the code stream.
        form: what the header says.
        syntax: the transfer syntax UID.
        bits: the precision that the code stream declares; of RLE, which declares none, Bits Stored.

        rgb: for JPEG in colours with 8 bits alone: whether they become RGB, by libjpeg-turbo itself.

    Raises:
        Exception: of any type, whatever the decoder raises. It may also end this process.
    """
    import numpy as np  # noqa: PLC0415  (as above)
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    name = decoder_of(syntax, bits)
    if rgb:
        from PIL import Image  # noqa: PLC0415

        with Image.open(BytesIO(frame), formats=["JPEG"]) as image:  # most viewers decode by the same arithmetic
            return np.asarray(image.convert("RGB")), "RGB"
    if syntax in _DCT and name == _GDCM:
        return _twelve_bits(frame, form), form.photometric
    options: dict[str, Any] = {
        "correct_unused_bits": False,  # the look-up of `ai.images.voi` does it
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": 1,
        "samples_per_pixel": form.samples,
        "photometric_interpretation": form.photometric,
        "bits_allocated": form.bits_allocated,
        "bits_stored": bits,  # with another than that of the code stream, GDCM aborts
        "pixel_representation": int(form.signed),
        "pixel_keyword": "PixelData",
    }
    if form.samples > 1:
        options["planar_configuration"] = int(form.planar)
    decoder, plugin = get_decoder(UID(syntax)), _PLUGINS[name]
    try:
        decoded, properties = decoder.as_array(
            item(frame), index=0, raw=True, decoding_plugin=_PLUGINS[name], **options
        )
    except RuntimeError:
        if name != _CHARLS or _unfilled(frame) == frame:
            raise
        frame = _unfilled(frame)
        decoded, properties = decoder.as_array(item(frame), index=0, raw=True, decoding_plugin=plugin, **options)
    return np.asarray(decoded), str(properties["photometric_interpretation"])


def item(frame: bytes) -> bytes:
    """Wrap the code stream of one frame as a value of Pixel Data (7FE0,0010), unchanged (PS3.5 section A.4).

    pydicom would pad an odd length, and a decoder could misread the padding.
    """
    return b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(frame).to_bytes(4, "little") + frame


def _unfilled(frame: bytes) -> bytes:
    """A JPEG-LS stream without the zero bytes before EOI that some devices write and CharLS refuses."""
    end = frame.rfind(b"\xff\xd9")
    return frame[:end].rstrip(b"\0") + b"\xff\xd9" if end > 0 else frame


def _twelve_bits(frame: bytes, form: Form) -> NDArray[np.uint16]:
    """Decode JPEG Process 4 with 12 bits by GDCM, because pydicom's plug-in refuses it."""
    import gdcm  # noqa: PLC0415  (as above)
    import numpy as np  # noqa: PLC0415

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((form.columns, form.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM returns bytes as text.
    plain = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(plain, dtype="<u2").reshape(form.rows, form.columns).astype(np.uint16, copy=False)
