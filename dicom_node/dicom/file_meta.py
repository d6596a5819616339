"""The preamble, prefix and file meta information of a DICOM file (PS3.10 7.1)."""

from __future__ import annotations

import struct
from functools import lru_cache

from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

_PREAMBLE_AND_PREFIX = b"\0" * 128 + b"DICM"


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str) -> bytes:
    """The preamble, prefix and file meta information (PS3.10 7.1) that precede the data set in a file.

    The UIDs must be valid. A ``calling_ae`` that is not a valid AE title (PS3.5 6.2) is left out.
    """
    before, after = _around_instance(sop_class_uid, transfer_syntax_uid, calling_ae)
    instance = _meta(0x0003, b"UI", _even(sop_instance_uid, b"\0"))
    length = struct.pack("<I", len(before) + len(instance) + len(after))
    return b"".join((_PREAMBLE_AND_PREFIX, _meta(0x0000, b"UL", length), before, instance, after))


@lru_cache(maxsize=256)
def _around_instance(sop_class_uid: str, transfer_syntax_uid: str, calling_ae: str) -> tuple[bytes, bytes]:
    """The elements before and after Media Storage SOP Instance UID, which alone differs within a series."""
    before = struct.pack("<HH2sxxI2s", 0x0002, 0x0001, b"OB", 2, b"\0\1")
    before += _meta(0x0002, b"UI", _even(sop_class_uid, b"\0"))
    after = _meta(0x0010, b"UI", _even(transfer_syntax_uid, b"\0"))
    after += _meta(0x0012, b"UI", _even(IMPLEMENTATION_CLASS_UID, b"\0"))
    after += _meta(0x0013, b"SH", _even(IMPLEMENTATION_VERSION, b" "))
    if calling_ae and calling_ae.isascii() and calling_ae.isprintable() and "\\" not in calling_ae:
        after += _meta(0x0016, b"AE", _even(calling_ae, b" "))
    return before, after


def _even(text: str, padding: bytes) -> bytes:
    """The text padded to an even length (PS3.5 6.2)."""
    value = text.encode("ascii")
    return value + padding * (len(value) % 2)


def _meta(element: int, vr: bytes, value: bytes) -> bytes:
    """An element of group 0002 in Explicit VR Little Endian, with a length of 16 bits (PS3.5 7.1.2)."""
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
