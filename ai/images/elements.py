"""Reads elements of files that are not trusted, without harm, and without patient data in messages.

pydicom and the codecs quote element values in warnings, log lines and exceptions. While a file is read, warnings and
log lines are suppressed, and an error message names only the type of their exception.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import warnings
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset

from ai.contract import Content, ReadingError
from ai.errors import LostError
from ai.images.content import Spliced, open_content
from ai.images.element_walk import TooManyError, Walk
from ai.images.pixels import MAX_PIXELS

_MAX_FILE = 1 << 30
_MOST_SKIPPED = 5_000_000  # elements and items that nobody asks for
_PIXELS = {b"\x10\x00", b"\x08\x00", b"\x09\x00"}
_CODE_STRING = re.compile(r"[A-Z0-9_]{1,16}")


def shown(text: str) -> str:
    """A code string (VR CS) for a message. It is shown only if it is one plain word, and so no text of a patient."""
    return text if _CODE_STRING.fullmatch(text) else "an unusual value" if text else "empty"


class _Silence:
    """Suppresses pydicom's warnings and log lines, which quote element values, while files are read.

    Warning filters and logger levels belong to the whole process. The first reader sets them, the last restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._filters = warnings.catch_warnings()
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                logger = logging.getLogger("pydicom")
                self._level = logger.level
                logger.setLevel(logging.CRITICAL + 1)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                logging.getLogger("pydicom").setLevel(self._level)
                self._filters.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def guarded() -> Iterator[None]:
    """Raise every error inside as a `ReadingError`, which names only the type of an exception of a library."""
    with _silence:
        try:
            yield
        except (ReadingError, LostError):
            raise
        except FileNotFoundError:
            raise ReadingError("the file is not there") from None
        except Exception as error:
            raise ReadingError(f"the file cannot be read as a DICOM image ({type(error).__name__})") from None


def open_dataset(content: Content, keywords: list[str], *, pixels: bool) -> tuple[Dataset, bool, uid.UID]:
    """The elements of a Part 10 file, whether it has pixels, and its transfer syntax."""
    with open_content(content) as file:
        syntax = _syntax(file)
        dataset, used = _read(file, keywords, pixels=pixels)
        if pixels:
            return dataset, True, syntax
        if syntax == uid.DeflatedExplicitVRLittleEndian:  # pydicom reads out of a buffer that it keeps
            file.seek(0)
            whole = pydicom.dcmread(file, specific_tags=["PixelData"])
            return dataset, "PixelData" in whole, syntax
        # pydicom stops in front of the element, whose group and element stand in the byte order of the file.
        tag = used.read(4)
        if not syntax.is_little_endian:
            tag = tag[1::-1] + tag[:1:-1]
        return dataset, tag[:2] == b"\xe0\x7f" and tag[2:] in _PIXELS, syntax


@dataclass(frozen=True, slots=True)
class PixelValue:
    """The place in a file of the value of Pixel Data (7FE0,0010), in bytes from the start of the file.

    ``length`` is None if a delimiter marks the end (encapsulated pixels). ``size`` is the size of the whole file.
    """

    file: BinaryIO
    start: int
    length: int | None
    size: int
    vr: str


@contextmanager
def open_pixels(content: Content, keywords: list[str]) -> Iterator[tuple[Dataset, uid.UID, PixelValue]]:
    """The elements of a Part 10 file, its transfer syntax, and its pixels, which are not read.

    Raises:
        ReadingError: it has no integer pixels.
    """
    with open_content(content) as file:
        syntax = _syntax(file)
        dataset, used = _read(file, keywords, pixels=False)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            file.seek(0)
            element = pydicom.dcmread(file, specific_tags=["PixelData"]).get_item("PixelData")
            value = getattr(element, "value", None)
            if not isinstance(value, bytes):
                raise ReadingError("the file has no PixelData")
            yield dataset, syntax, PixelValue(BytesIO(value), 0, len(value), len(value), "OW")
            return
        yield dataset, syntax, _pixel_value(used, dataset)


def _pixel_value(file: BinaryIO, dataset: Dataset) -> PixelValue:
    """Read the header of the element in front of which pydicom stopped."""
    start = file.tell()
    order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
    head = file.read(12)
    group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
    if group == 0x7FE0 and element in (0x0008, 0x0009):
        raise ReadingError("the pixels are floating point; integer PixelData was expected")
    if (group, element) != (0x7FE0, 0x0010):
        raise ReadingError("the file has no PixelData")
    # Some compressed files have implicit VRs, which their transfer syntax forbids.
    explicit = head[4:6] in (b"OB", b"OW", b"UN")
    length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
    if length == 0:
        raise ReadingError("PixelData is empty")
    return PixelValue(
        file,
        start + (12 if explicit else 8),
        None if length == 0xFFFFFFFF else length,
        file.seek(0, os.SEEK_END),
        head[4:6].decode("ascii") if explicit else "OW",
    )


def _syntax(file: BinaryIO) -> uid.UID:
    """The transfer syntax of a Part 10 file that is not too large."""
    size = file.seek(0, os.SEEK_END)
    if size > _MAX_FILE:
        raise ReadingError(f"the file has {size} bytes, at most {_MAX_FILE} are read")
    file.seek(0)
    if file.read(132)[128:] != b"DICM":
        raise ReadingError("the file is no DICOM Part 10 file: the prefix DICM is missing")
    meta = file_meta(file)
    syntax = meta.get("TransferSyntaxUID")
    if not isinstance(syntax, uid.UID) or not syntax:
        raise ReadingError("the file meta information names no transfer syntax")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        _check_inflated(file, meta)
    return syntax


def file_meta(file: BinaryIO) -> FileMetaDataset:
    """The File Meta Information (PS3.10 section 7.1) of an open file, which then stands behind it."""
    file.seek(0)
    pydicom.filereader.read_preamble(file, force=False)
    return pydicom.filereader._read_file_meta_info(file)  # pydicom's public function takes a path alone


def refuse_bomb(file: BinaryIO) -> None:
    """Refuse a deflated file that inflates to more than an image can need, before pydicom inflates all of it.

    Raises:
        ReadingError: the file inflates to more.
    """
    with guarded():
        meta = file_meta(file)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            _check_inflated(file, meta)


def read_part10(file: BinaryIO, keep: Container[int], **how: Any) -> tuple[Dataset, BinaryIO]:
    """`pydicom.dcmread` from the start of a file, without the sequences of undefined length that nobody asks for.

    pydicom makes an object of each of their items, though it is not asked for them: 500,000 empty items in 4 MB take
    it 10 s at each reading. It reads nested ones by recursion, which Python ends at a depth of some hundreds. ``keep``
    holds the tags of the sequences that are needed; what is in them is counted first.

    So pydicom does not meet what it reads wrongly in a data set in big endian: what is in an element with VR UN is in
    Implicit VR Little Endian (PS3.5 6.2.2).

    Returns:
        The data set, and the file that it was read from: ``file``, or one that lacks those sequences. It stands where
        pydicom stopped.

    Raises:
        ReadingError: there are more elements than an image can need.
        Exception: whatever pydicom raises on hostile bytes.
    """
    try:
        used = _without_sequences(file, keep)
    except TooManyError as error:
        raise ReadingError(str(error)) from None
    except ReadingError:
        raise
    except Exception:  # pydicom reads some files that the walk does not, such as those without a prefix
        used = file
    used.seek(0)
    return pydicom.dcmread(used, **how), used


def _without_sequences(file: BinaryIO, keep: Container[int]) -> BinaryIO:
    meta = file_meta(file)
    start, syntax = file.tell(), meta.get("TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        inflated = BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), 4 * MAX_PIXELS))
        for _ in Walk(inflated, implicit=False, little=True, most=_MOST_SKIPPED).spans(keep):
            pass
        return file
    walk = Walk(
        file,
        implicit=syntax == uid.ImplicitVRLittleEndian,
        little=syntax != uid.ExplicitVRBigEndian,
        most=_MOST_SKIPPED,
    )
    spans = list(walk.spans(keep))
    return file if len(spans) == 1 else io.BufferedReader(Spliced(file, [(0, start), *spans]))


def _read(file: BinaryIO, keywords: list[str], *, pixels: bool) -> tuple[Dataset, BinaryIO]:
    wanted = frozenset(tag for tag in map(tag_for_keyword, keywords) if tag is not None)
    dataset, used = read_part10(file, wanted, stop_before_pixels=not pixels, specific_tags=list(keywords))
    if len(dataset) == 0:  # the file is empty, or ends before its pixels
        raise ReadingError("the data set is empty or cut off")
    return dataset, used


def _check_inflated(file: BinaryIO, meta: Dataset) -> None:
    """Refuse a deflated data set (PS3.5 section A.5) that inflates to more than an image can need."""
    start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    total, limit = 0, 4 * MAX_PIXELS
    file.seek(start)
    while not inflate.eof and (piece := inflate.unconsumed_tail or file.read(1 << 16)):
        total += len(inflate.decompress(piece, 1 << 20))
        if total > limit:
            raise ReadingError(f"the deflated data set grows beyond {limit} bytes")


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008). 1 if it is missing or 0."""
    frames = whole_of(dataset, "NumberOfFrames")
    return 1 if frames in (None, 0) else int(frames or 1)


def _first(dataset: Dataset, keyword: str) -> Any:
    value = dataset.get(keyword)
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return value
    return value[0] if len(value) else None


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element. None if there is none."""
    try:
        value = _first(dataset, keyword)
        number = None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ReadingError(f"{keyword} is no number") from None
    if number is not None and not isfinite(number):
        raise ReadingError(f"{keyword} is not finite; a number was expected")
    return number


def whole_of(dataset: Dataset, keyword: str, *, lenient: bool = False) -> int | None:
    """The first value of an integer element. None if there is none, or if ``lenient`` and it is no integer."""
    try:
        number = number_of(dataset, keyword)
    except ReadingError:
        if lenient:
            return None
        raise
    if number is not None and number != int(number):
        if lenient:
            return None
        raise ReadingError(f"{keyword} is {number:g}; a whole number was expected")
    return None if number is None else int(number)


def or_missing(value: int | None) -> str:
    """A number for a message."""
    return "missing" if value is None else str(value)


def texts_of(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of a text element, stripped. Empty if it is missing or cannot be read."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError):
        return ()
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return tuple(str(part).strip() for part in values)


def text_of(dataset: Dataset, keyword: str) -> str:
    """The first value of a text element, stripped. Empty if there is none."""
    texts = texts_of(dataset, keyword)
    return texts[0] if texts else ""
