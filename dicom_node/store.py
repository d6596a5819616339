"""One received data set on its way to disk and index: checked, written, fsynced, recorded.

The one way in for every image. It knows nothing of associations, so another way of receiving can feed it.
"""

from __future__ import annotations

import io
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from dicom_node.db import Index
from dicom_node.log import logger, where
from dicom_node.schema import NewInstance, Received
from dicom_node.spool import Spool, discard

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DEFLATED_HEAD_LIMIT = 16 * 1024 * 1024  # a header larger than this is no header; it bounds what a bomb can inflate to


class Refused(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """A C-STORE that is answered with another status than success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Header:
    """What the index needs of a data set; texts are empty where the data set has none."""

    sop_class_uid: str
    sop_instance_uid: str
    study: str
    series: str
    modality: str
    body_part: str
    study_description: str
    series_description: str


_HEADER_TAGS: dict[str, int] = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "modality": 0x00080060,
    "study_description": 0x00081030,
    "series_description": 0x0008103E,
    "body_part": 0x00180015,
    "study": 0x0020000D,
    "series": 0x0020000E,
}
_LAST_HEADER_TAG = max(_HEADER_TAGS.values())
_SPECIFIC_CHARACTER_SET = 0x00080005


def is_uid(text: str) -> bool:
    """PS3.5 9.1: digits in components between dots, 64 characters at most.

    Leading zeros of a component, which the standard forbids and some devices send, are let through: they do no harm, a
    refused image does.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def scan(data_set: BinaryIO, transfer_syntax_uid: str) -> Header:
    """Read what the index needs from an encoded data set, from its start, stopping long before the pixels.

    Raises:
        Refused: C000, if it cannot be parsed or names no study and series.
    """
    syntax = UID(transfer_syntax_uid)
    try:
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set.read(), _DEFLATED_HEAD_LIMIT)
            data_set = io.BytesIO(inflated)
        found = read_dataset(
            data_set,
            # Encapsulated and private syntaxes are Explicit VR Little Endian (PS3.5 A.4); pydicom notices where not.
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
            stop_when=_past_header,
            specific_tags=[BaseTag(t) for t in (_SPECIFIC_CHARACTER_SET, *_HEADER_TAGS.values())],
        )
        texts = {name: _text(found, tag) for name, tag in _HEADER_TAGS.items()}
    except Exception as error:  # whatever a parser raises on hostile bytes means the same: it cannot be parsed
        raise Refused(0xC000, f"the data set cannot be parsed as {transfer_syntax_uid} ({where(error)})") from error
    header = Header(**texts)
    missing = [
        name
        for name, uid in (
            ("SOP Class UID (0008,0016)", header.sop_class_uid),
            ("SOP Instance UID (0008,0018)", header.sop_instance_uid),
            ("Study Instance UID (0020,000D)", header.study),
            ("Series Instance UID (0020,000E)", header.series),
        )
        if not is_uid(uid)
    ]
    if missing:
        raise Refused(0xC000, f"the data set has no valid {', '.join(missing)}")
    return header


def _past_header(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > _LAST_HEADER_TAG


def _text(found: Dataset, tag: int) -> str:
    if tag not in found:
        return ""
    value = found[tag].value
    return "" if value is None else str(value).strip(" \0")


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str) -> bytes:
    """The preamble, prefix and file meta information (PS3.10 7.1) that stand before the data set's own bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    if calling_ae and calling_ae.isascii() and calling_ae.isprintable() and "\\" not in calling_ae:
        meta.SourceApplicationEntityTitle = calling_ae
    buffer = DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue()


class Store:
    """Takes one data set at a time, from any number of threads, to disk and index."""

    def __init__(self, index: Index, spool: Spool, clock: Callable[[], float] = time.time) -> None:
        self._index = index
        self._spool = spool
        self.clock = clock
        # The same instance may arrive on two associations at once: one of the two stores it, the other finds it stored.
        self._locks = [threading.Lock() for _ in range(64)]

    def put(self, header: Header, transfer_syntax_uid: str, calling_ae: str, data_set: bytes | memoryview) -> bool:
        """Make an instance durable and known.

        Returns:
            False where we had it already; nothing is changed then.

        Raises:
            OSError, sqlite3.Error: nothing of it is kept.
        """
        uid = header.sop_instance_uid
        if (known := self._index.received(uid)) is not None and self._is_kept(known, header, data_set):
            return False
        head = file_head(header.sop_class_uid, uid, transfer_syntax_uid, calling_ae)
        part = self._spool.write_part(head, data_set)
        try:
            with self._locks[hash(uid) % len(self._locks)]:
                if (known := self._index.received(uid)) is not None:
                    if self._is_kept(known, header, data_set):
                        return False
                    file = self._spool.adopt(part, "spool", uid)
                    self._index.replace_file(uid, file, len(head) + len(data_set), transfer_syntax_uid)
                    logger().warning(
                        "instance.restored",
                        study=header.study,
                        instance=uid,
                        reason="its file was gone or damaged; the one that came again took its place",
                    )
                    return True
                new = NewInstance(
                    sop_instance_uid=uid,
                    sop_class_uid=header.sop_class_uid,
                    transfer_syntax_uid=transfer_syntax_uid,
                    study=header.study,
                    series=header.series,
                    modality=header.modality,
                    body_part=header.body_part,
                    study_description=header.study_description,
                    series_description=header.series_description,
                    calling_ae=calling_ae,
                    file=self._spool.adopt(part, "spool", uid),
                    bytes=len(head) + len(data_set),
                )
                try:
                    self._index.add_instance(new, self.clock())
                except BaseException:
                    discard(self._spool.path(new.file))
                    raise
        finally:
            discard(part)
        return True

    def _is_kept(self, known: Received, header: Header, data_set: bytes | memoryview) -> bool:
        """Whether a repeated instance is stored already; not so where its file is gone or damaged since.

        Raises:
            Refused: it is stored as an instance of another study, and would be lost here.
        """
        log = logger().bind(study=header.study, instance=header.sop_instance_uid)
        if known.study != header.study:
            raise Refused(0xC001, f"this SOP Instance UID is stored already, as an instance of study {known.study}")
        path = self._spool.path(known.file)
        if not path.is_file() or path.stat().st_size != known.bytes:
            return False
        if _ends_with(path, data_set):
            log.debug("instance.repeated")
        else:
            log.warning("instance.repeated", reason="it came again with other content; the first one is kept")
        return True


def _ends_with(path: Path, data_set: bytes | memoryview) -> bool:
    """Whether a stored file's data set is exactly ``data_set``: its last bytes, the meta information left out."""
    size = path.stat().st_size - len(data_set)
    if size < 132:
        return False
    with path.open("rb") as file:
        file.seek(size)
        return file.read() == data_set
