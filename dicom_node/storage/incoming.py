"""A data set that is being received."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicom_node.dicom.file_meta import file_head
from dicom_node.dicom.header import HEAD_BYTES, Header, read_header, read_plain_header
from dicom_node.errors import Refused
from dicom_node.storage.record import Record
from dicom_node.storage.spool import Spool


class Incoming:
    """A data set that is being received.

    Its bytes are appended to a partial file, and the first ones are kept in memory to read the header. The file meta
    information is made of the command's UIDs, which the caller has checked to be valid UIDs.
    """

    def __init__(
        self, spool: Spool, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str
    ) -> None:
        """Create the partial file.

        Raises:
            OSError: it cannot be created.
        """
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae = calling_ae
        self._head = bytearray()
        self._header: Header | None = None
        self._meta = file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae)
        self._unwritten = [memoryview(self._meta)]  # written with the first bytes of the data set
        self.part = spool.part_for(sop_instance_uid)
        self.part.begin_digest(len(self._meta))

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Append bytes of the data set.

        Raises:
            OSError: the file system refused them (ENOSPC: the disk is full).
        """
        if len(self._head) < HEAD_BYTES:
            for piece in pieces:
                self._head += piece[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:  # now, while the rest is being received
                self._header = read_plain_header(self._head, self.transfer_syntax_uid)
        if self._unwritten:
            pieces = [*self._unwritten, *pieces]
            self._unwritten.clear()
        self.part.write(pieces)

    @property
    def data_set_bytes(self) -> int:
        """How many bytes of the data set have been received."""
        return self.part.size - len(self._meta)

    def record(self, node: str, now: float, edition: int, peer: str) -> bytes:
        """The preamble that says what the data set does not (`storage.record`); ``peer`` is the sender's name."""
        return Record(node, now, edition, self.calling_ae, self.data_set_bytes, self.part.digest(), peer).preamble()

    def header(self) -> Header:
        """Read the header of the complete data set, and compare its UIDs with the command's.

        Raises:
            Refused: C000, the data set cannot be parsed; A900, its UIDs differ from the command's.
            OSError: the file cannot be read.
        """
        header = self._header
        if header is None and len(self._head) < HEAD_BYTES:  # a longer one was tried while it came in
            header = read_plain_header(self._head, self.transfer_syntax_uid)
        if header is None:
            with Path(self.part.path).open("rb") as file:
                file.seek(len(self._meta))
                header = read_header(file, self.transfer_syntax_uid)
        for name, found, announced in (
            ("Class", header.sop_class_uid, self.sop_class_uid),
            ("Instance", header.sop_instance_uid, self.sop_instance_uid),
        ):
            if found != announced:
                raise Refused(0xA900, f"the data set's SOP {name} UID {found} is not the command's")
        return header

    def discard(self) -> None:
        """Close and delete the partial file. A stored instance stays stored."""
        self.part.discard()
