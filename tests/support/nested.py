"""Sequences nested in any depth, put into files as bytes: pydicom cannot write them."""

from __future__ import annotations

import struct
from pathlib import Path

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = (struct.pack("<HHI", 0xFFFE, element, 0) for element in (0xE000, 0xE00D, 0xE0DD))


def nested(group: int, element: int, depth: int) -> bytes:
    """A sequence (explicit VR, little endian) in which each item holds the same sequence again, ``depth`` times."""
    opened = struct.pack("<HH", group, element) + b"SQ\0\0" + struct.pack("<I", _UNDEFINED)
    opened += _ITEM[:4] + struct.pack("<I", _UNDEFINED)
    return opened * depth + (_ITEM_END + _SEQUENCE_END) * depth


def put_before_pixels(path: Path, elements: bytes) -> None:
    """Put encoded elements in front of the pixels of a file in Explicit VR Little Endian."""
    data = path.read_bytes()
    at = data.rindex(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    path.write_bytes(data[:at] + elements + data[at:])
