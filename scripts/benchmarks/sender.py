"""A fast Storage SCU: it replaces the UIDs in prepared bytes. Any answer but success is an error."""

from __future__ import annotations

import socket
import struct

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from scripts.benchmarks.ingest import LostError
from scripts.benchmarks.servers import AE_TITLE, PDU

_CONTEXT = 1
_SECONDS = 60.0  # for an answer
_ACCEPTED, _DATA, _RELEASED = 0x02, 0x04, 0x06
_RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_SUCCESS = struct.pack("<HHIH", 0x0000, 0x0900, 2, 0x0000)


class Sender:
    """Sends CT images of ``rows`` x ``rows`` pixels of 16 bit; every association brings a study of its own."""

    def __init__(self, port: int, rows: int = 64) -> None:
        self._port = port
        self._request = _request()
        self._uids = _uid(0, 0), _uid(0, 1), _uid(0, 2)  # of the study, the series and the instance, to be replaced
        self._message = _store(*self._uids, rows)

    def open(self) -> socket.socket:
        """An open association.

        Raises:
            LostError: it is not accepted.
        """
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(self._request)
        _answer(connection, _ACCEPTED)
        return connection

    def message(self, number: int) -> bytes:
        """The C-STORE request for one image of a study of its own."""
        message = self._message
        for kind, uid in enumerate(self._uids):
            message = message.replace(uid, _uid(number, kind))
        return message

    def associate(self, number: int, images: int) -> None:
        """Open an association, send so many images, release it; every ``number`` is another study.

        Raises:
            LostError: an answer is none, or no success.
        """
        study, series = _uid(number, 0), _uid(number, 1)
        message = self._message.replace(self._uids[0], study).replace(self._uids[1], series)
        with self.open() as connection:
            for image in range(images):
                connection.sendall(message.replace(self._uids[2], _uid(number, 3 + image)))
                if _SUCCESS not in _answer(connection, _DATA):
                    raise LostError("the node refused an image")
            connection.sendall(_RELEASE)
            _answer(connection, _RELEASED)


def _uid(number: int, kind: int) -> bytes:
    """A UID of 64 characters. All have the same length, so that one can replace another in the bytes."""
    return f"1.2.826.0.1.3680043.8.498.1{number:018d}1{kind:018d}".encode()


def _request() -> bytes:
    context = build_context(CTImageStorage, ExplicitVRLittleEndian)
    context.context_id = _CONTEXT
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = PDU
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.8.498.1"
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.calling_ae_title, asked.called_ae_title = "STORESCU", AE_TITLE
    asked.presentation_context_definition_list = [context]
    asked.user_information = [length, implementation]
    return bytes(A_ASSOCIATE_RQ(asked).encode())


def _store(study: bytes, series: bytes, instance: bytes, rows: int) -> bytes:
    """The PDUs of a C-STORE request (PS3.7 9.3.1.1): the command and the data set."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, instance.decode()
    image.StudyInstanceUID, image.SeriesInstanceUID = study.decode(), series.decode()
    image.Modality, image.BodyPartExamined, image.StudyDescription = "CT", "CHEST", "Benchmark"
    image.PatientName, image.PatientID = "BENCH", "BENCH"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.Rows, image.Columns, image.BitsAllocated, image.BitsStored, image.HighBit = rows, rows, 16, 16, 15
    image.PixelData = bytes(2 * rows * rows)
    image["PixelData"].VR = "OW"
    command = Dataset()
    command.AffectedSOPClassUID, command.AffectedSOPInstanceUID = CTImageStorage, instance.decode()
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0001, 1, 0, 0x0000
    group = _encoded(command, implicit=True)
    group = struct.pack("<HHII", 0x0000, 0x0000, 4, len(group)) + group
    return _pdu(group, 0x03) + _pdu(_encoded(image, implicit=False), 0x02)


def _encoded(data_set: Dataset, *, implicit: bool) -> bytes:
    encoded: bytes | None = encode(data_set, implicit, True)
    if encoded is None:
        raise ValueError("the data set cannot be encoded")
    return encoded


def _pdu(piece: bytes, control: int) -> bytes:
    return struct.pack(">BxIIBB", _DATA, len(piece) + 6, len(piece) + 2, _CONTEXT, control) + piece


def _answer(connection: socket.socket, kind: int) -> bytes:
    """The content of the next PDU, which must be of the given type."""
    head = _read(connection, 6)
    content = _read(connection, int(struct.unpack(">I", head[2:])[0]))
    if head[0] != kind:
        raise LostError(f"the node answered with a PDU of type {head[0]:02X}H where {kind:02X}H was expected")
    return content


def _read(connection: socket.socket, count: int) -> bytes:
    taken = bytearray()
    while len(taken) < count:
        piece = connection.recv(count - len(taken))
        if not piece:
            raise LostError("the node closed the connection")
        taken += piece
    return bytes(taken)
