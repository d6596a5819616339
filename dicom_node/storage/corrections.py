"""Decides whether a repeated instance is a correction: the same SOP Instance UID with other content that matters.

A PACS that forwards an image often adds or changes attributes that no reading uses (who retrieves it, its own dates).
Such a copy is a repetition. Everything that a reading or its results depend on (`compared`) is compared by what it
means, and the pixels by their encoded bytes. What cannot be compared here counts as changed.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.dicom.meaning import Meaning
from dicom_node.index.rows import Change
from dicom_node.storage.compared import COMPARED, SAFETY

# An image is compared while its sender waits. What is larger is compared before it is read.
_MOST_ELEMENTS = 40_000  # about 0.2 s of a processor
_MOST_BYTES = 8 * 1024 * 1024
_AT_ONCE = 1024 * 1024
_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}  # one byte order: equal pixels are equal bytes


def correction(kept: Path, came: Path, syntaxes: tuple[str, str]) -> Change | None:
    """What two files of one instance differ in that a reading or its results use: attributes, or the pixels.

    Args:
        kept: the file that is stored.
        came: the file that was received now.
        syntaxes: the transfer syntax of each.

    Returns:
        None if the second one says what the first one says, in the same transfer syntax. "none" if it does in another
        one. "unknown" if that cannot be told: a deflated data set, one that cannot be parsed or is too large, and
        pixels in another transfer syntax. Otherwise "safety" or "quality".

    Raises:
        OSError: a file cannot be read.
    """
    same = syntaxes[0] == syntaxes[1]
    if DeflatedExplicitVRLittleEndian in syntaxes or not (same or _one_order(syntaxes)):
        return "unknown"
    try:
        with kept.open("rb") as one, came.open("rb") as other:
            meanings = []
            for file, path, syntax in ((one, kept, syntaxes[0]), (other, came, syntaxes[1])):
                file.seek(head_bytes(path))
                meanings.append(Meaning(file, syntax, COMPARED, most_elements=_MOST_ELEMENTS, most_bytes=_MOST_BYTES))
            differing = differing_tags(*meanings)
            if differing & SAFETY:
                return "safety"
            if not same and not _NATIVE.issuperset(syntaxes):
                return "unknown"
            if meanings[0].pixels() != meanings[1].pixels():
                return "safety"
    except (ValueError, struct.error):
        return "unknown"
    return "quality" if differing else None if same else "none"


def differing_tags(one: Meaning, other: Meaning) -> set[int]:
    """The tags of the attributes in which two data sets differ."""
    return {tag for tag in one.values.keys() | other.values.keys() if one.values.get(tag) != other.values.get(tag)}


def end_alike(first: Path, second: Path, count: int) -> bool:
    """Whether two files end with the same ``count`` bytes, and the first is long enough for a file head before them."""
    with first.open("rb") as one, second.open("rb") as other:
        start = os.fstat(one.fileno()).st_size - count
        if start < 132:
            return False
        one.seek(start)
        other.seek(-count, os.SEEK_END)
        while piece := one.read(_AT_ONCE):
            if other.read(len(piece)) != piece:
                return False
    return True


def head_bytes(path: Path) -> int:
    """The length of preamble, prefix and file meta information in a file that we wrote (PS3.10 7.1).

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(140)  # behind the prefix, and the tag, VR and length of the group's length
        return 144 + int.from_bytes(file.read(4), "little")


def _one_order(syntaxes: tuple[str, str]) -> bool:
    """Whether attributes can be compared: a private transfer syntax may be anything."""
    return all(UID(syntax).is_transfer_syntax and not UID(syntax).is_private for syntax in syntaxes)
