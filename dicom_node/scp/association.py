"""One association of the Storage SCP, from the connection to the release: a thread that reads, stores and answers.

pynetdicom negotiates, answers C-ECHO and decodes the normalized services' messages; the bytes of images go from the
socket to the file without being held.
Statuses of a C-STORE are explained in `receive`.
"""

from __future__ import annotations

import errno
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, P_DATA
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from pynetdicom.transport import AddressInformation

from dicom_node.dicom.attributes import is_uid
from dicom_node.errors import Refused
from dicom_node.log import logger, where
from dicom_node.network import dimse, pynetdicom_setup
from dicom_node.network.upper_layer import (
    INVALID_PARAMETER,
    UNEXPECTED_PDU,
    AbortedError,
    GoneError,
    SilentError,
    UpperLayer,
    ViolationError,
)
from dicom_node.scp.access import PeerIdentity, Proposal, Rejection
from dicom_node.storage.ingest import Incoming, Store

_LONGEST_PDU = 128 * 1024  # bytes; what is announced, longer ones are taken too
_REQUEST_SECONDS = 10.0  # how long a connection may take to ask for an association
_LEAST_BYTES = 6000  # of a message that is under way, in the time in which some byte must come: 100 a second
_LONGEST_COMMAND = 64 * 1024  # bytes; a C-STORE's has about 200
_LONGEST_OTHER = 4 * 1024 * 1024  # bytes of a data set that is held in memory: of messages that bring no image
_MOST_ITEMS = 20_000  # of its sequences: pydicom makes objects of each, and a step or a request names one an image
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how one begins, in either byte order
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HANDED_ON = {
    dimse.C_ECHO_RQ,
    dimse.N_EVENT_REPORT_RQ,
    dimse.N_SET_RQ,
    dimse.N_ACTION_RQ,
    dimse.N_CREATE_RQ,
    dimse.N_EVENT_REPORT_RSP,
}
_REJECT_VERSION = (0x01, 0x02, 0x02)  # PS3.8 9.3.4: permanently, by the ACSE: protocol version not supported


#: Serves a request: (pynetdicom's event, who asks, reports of storage commitment to send here after the answer).
Service = Callable[[Any, PeerIdentity, list[tuple[int, Dataset]]], Any]


@dataclass(slots=True)
class _Storing:
    """A C-STORE request whose data set is coming: ``incoming`` takes it, unless ``failure`` says why not."""

    context: int
    command: dimse.Command
    began: float
    incoming: Incoming | None = None
    failure: Exception | None = None


class Conversation:
    """A connection and the thread that serves it.

    ``admit`` decides whether an association that is asked for is accepted: it gives who asks, or the rejection.
    ``services`` serve what is no C-STORE, by pynetdicom's event.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: tuple[str, int],
        ae: AE,
        store: Store,
        *,
        admit: Callable[[Conversation, Proposal], PeerIdentity | Rejection],
        services: Sequence[tuple[Any, Service]] = (),
        on_end: Callable[[Conversation], None],
    ) -> None:
        self.studies: set[str] = set()  # of which it brought instances
        self.last_byte = 0.0  # epoch seconds
        self.released = False
        self.refused = False  # whether an image was not stored, which the caller will send again
        self._address = address
        self._ae = ae
        self._store = store
        self._admit = admit
        self._services = services
        self._reports: list[tuple[int, Dataset]] = []
        self._on_end = on_end
        self._upper = UpperLayer(sock, request_seconds=_REQUEST_SECONDS, on_bytes=self._note_bytes)
        self.peer: PeerIdentity | None = None
        self._association: Any = None
        self._log = logger()
        self._syntaxes: dict[int, str] = {}  # of the accepted presentation contexts
        self._longest_answer = 0  # bytes of a PDU that the caller takes; 0: any
        self._stopping = False
        self._command = bytearray()
        self._storing: _Storing | None = None
        self._pieces: list[memoryview] = []  # of the data set, not yet written
        self._message = DIMSEMessage()  # that is neither an image nor served here
        self._other: tuple[int, bytearray] | None = None  # another message's context, and its data set so far
        self.thread = threading.Thread(target=self._run, name="association", daemon=True)

    def stop(self) -> None:
        """Abort it, whatever it does; what was acknowledged is stored already."""
        self._stopping = True
        self._upper.abort()
        self._upper.cut()

    def _note_bytes(self) -> None:
        self.last_byte = self._store.clock()

    def _run(self) -> None:
        structlog.contextvars.clear_contextvars()
        self._log = logger().bind()  # once: a logger is not made anew for each image
        try:
            self._converse()
        except AbortedError:
            self._tell_aborted("the caller aborted it")
        except SilentError as error:
            self._tell_aborted(str(error) or "nothing came for too long")
            self._upper.abort()
        except GoneError:
            self._tell_aborted("the connection was closed")
        except ViolationError as violation:
            logger().warning("association.aborted", address=self._address[0], reason=f"the caller sent {violation}")
            self._upper.abort(violation.reason)
        except Exception as error:  # one association ends, the others and the node live on
            logger().error("association.aborted", address=self._address[0], error=where(error))
            self._upper.abort()
        finally:
            if self._storing is not None and self._storing.incoming is not None:
                self._storing.incoming.discard()
            self._pieces.clear()
            self._upper.close()
            self._on_end(self)

    def _tell_aborted(self, reason: str) -> None:
        if self.peer is not None and not self._stopping:  # a mere TCP check is no association
            logger().warning("association.aborted", address=self._address[0], reason=reason)

    def _converse(self) -> None:
        if not self._negotiated():
            return
        self._upper.wait_at_most(pynetdicom_setup.SILENT_SECONDS)
        self._upper.hurry_at_least(_LEAST_BYTES, pynetdicom_setup.SILENT_SECONDS)
        for context, control, piece, ends in self._upper.fragments(self._write):
            last = ends and bool(control & 0x02)
            if not control & 0x01:
                self._on_data(context, piece, last=last)
            else:
                self._on_command(context, piece, last=last)
        self.released = True
        self._upper.released()

    # -- the association

    def _negotiated(self) -> bool:
        """Let the caller be judged, and pynetdicom accept what may be accepted."""
        request = self._upper.request()
        association = self._association = Association(self._ae, "acceptor")
        association.dul = _Provider(self._upper)
        acceptor, host = association.acceptor, self._address[0]
        acceptor.ae_title = self._ae.ae_title
        acceptor.address_info = association.requestor.address_info = AddressInformation(*self._address)
        acceptor.maximum_length = _LONGEST_PDU
        acceptor.implementation_class_uid = self._ae.implementation_class_uid
        acceptor.implementation_version_name = self._ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(self._ae.supported_contexts)
        try:
            association.requestor.primitive = request.to_primitive()
        except Exception as error:  # as in `UpperLayer.request`
            raise ViolationError(INVALID_PARAMETER, "a request for an association that makes no sense") from error
        asked = association.requestor.primitive.presentation_context_definition_list
        if not all(context.abstract_syntax and context.transfer_syntax for context in asked):
            raise ViolationError(INVALID_PARAMETER, "a presentation context that names no SOP class or transfer syntax")
        if not request.protocol_version & 0x0001:
            association.acse.send_reject(*_REJECT_VERSION)
            return False
        primitive = association.requestor.primitive
        proposal = Proposal(
            called=primitive.called_ae_title.strip(" \0"),
            calling=primitive.calling_ae_title.strip(" \0"),
            address=host,
            sop_classes=frozenset(context.abstract_syntax for context in asked),
        )
        admitted = self._admit(self, proposal)
        if isinstance(admitted, Rejection):
            association.acse.send_reject(*admitted.answer)
            return False
        association.acse.negotiate_association()
        if not association.is_established:
            return False
        self.peer = admitted
        for event, service in self._services:
            association.bind(event, service, [admitted, self._reports])
        self._longest_answer = association.requestor.maximum_length
        self._syntaxes = {each.context_id: str(each.transfer_syntax[0]) for each in association.accepted_contexts}
        return True

    # -- messages (PS3.7 6.3, PS3.8 E.2)

    def _on_command(self, context: int, piece: memoryview, *, last: bool) -> None:
        if self._storing is not None or self._other is not None:
            raise ViolationError(UNEXPECTED_PDU, "a command where the data set of the one before it was to go on")
        self._command += piece
        if len(self._command) > _LONGEST_COMMAND:
            raise ViolationError(INVALID_PARAMETER, f"a command set of more than {_LONGEST_COMMAND} bytes")
        if not last:
            return
        if context not in self._syntaxes:
            raise ViolationError(INVALID_PARAMETER, "a command on a presentation context that was not accepted")
        try:
            command = dimse.decode(self._command)
        except ValueError as error:
            raise ViolationError(INVALID_PARAMETER, "a command set that cannot be parsed") from error
        if command.field in _HANDED_ON:
            self._hand_over(context, 0x03, bytes(self._command))
            self._other = (context, bytearray()) if command.has_data_set else None
        elif command.field == dimse.C_STORE_RQ:
            self._storing = _Storing(context, command, time.perf_counter())
            if command.has_data_set:
                self._begin(self._storing)
            else:
                self._storing.failure = Refused(0xC000, "the request has no data set")
                self._finish()
        else:
            raise ViolationError(INVALID_PARAMETER, f"a message {command.field:04X}H, which no service here knows")
        self._command.clear()

    def _on_data(self, context: int, piece: memoryview, *, last: bool) -> None:
        storing = self._storing
        if storing is not None and storing.context == context:
            if storing.incoming is not None:
                self._pieces.append(piece)
            if last:
                self._finish()
        elif self._other is not None and self._other[0] == context:
            data_set = self._other[1]
            data_set += piece
            if len(data_set) > _LONGEST_OTHER:
                raise ViolationError(
                    INVALID_PARAMETER, f"a data set of more than {_LONGEST_OTHER} bytes that is no image"
                )
            if last:
                if max(map(data_set.count, _ITEMS)) > _MOST_ITEMS:
                    raise ViolationError(INVALID_PARAMETER, f"a data set of more than {_MOST_ITEMS} items")
                self._other = None
                self._hand_over(context, 0x02, bytes(data_set))
        else:
            raise ViolationError(UNEXPECTED_PDU, "a data set without a command")

    def _hand_over(self, context: int, control: int, data: bytes) -> None:
        """Give pynetdicom a part of a message that is not ours to serve, which it serves when it has all of it.

        Its own provider is left out: it would serve some messages in a thread of their own.
        """
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[context, bytes((control,)) + data]]
        try:
            if not self._message.decode_msg(primitive, self._association):
                return
            message, self._message = self._message.message_to_primitive(), DIMSEMessage()
        except Exception as error:  # whatever it raises on hostile values
            raise ViolationError(INVALID_PARAMETER, "a message that cannot be parsed") from error
        self._serve(context, message)

    def _serve(self, context: int, message: Any) -> None:
        if isinstance(message, N_EVENT_REPORT) and message.is_valid_response:
            return  # to a report of ours, which is not repeated: who lost it asks again
        if not message.is_valid_request:  # pynetdicom would let the caller wait for an answer
            raise ViolationError(INVALID_PARAMETER, "a message that lacks what it must have")
        sop_class = getattr(message, "RequestedSOPClassUID", None) or message.AffectedSOPClassUID
        if not isinstance(message, C_ECHO) and sop_class != self._association._accepted_cx[context].abstract_syntax:
            raise ViolationError(INVALID_PARAMETER, "a message of another SOP class than its presentation context")
        self._association._serve_request(message, context)
        self._still_there()
        for event_type, information in self._reports:
            self._association.dimse.send_msg(_report(event_type, information, self._syntaxes[context]), context)
            self._still_there()
        self._reports.clear()

    def _still_there(self) -> None:
        if self._association.dul.gone is not None:
            raise self._association.dul.gone
        if self._association.is_aborted:
            raise ViolationError(INVALID_PARAMETER, "a message that could not be answered")
        self._upper.got_done()

    # -- C-STORE

    def _begin(self, storing: _Storing) -> None:
        """Open the file that the data set is to go to."""
        command = storing.command
        try:
            caller = self._may_store()
            if not is_uid(command.sop_instance_uid):
                raise Refused(0x0117, "the command's Affected SOP Instance UID breaks the rules for UIDs")  # noqa: TRY301
            if not is_uid(command.sop_class_uid):
                raise Refused(0x0122, "the command's Affected SOP Class UID breaks the rules for UIDs")  # noqa: TRY301
            storing.incoming = self._store.begin(
                command.sop_class_uid, command.sop_instance_uid, self._syntaxes[storing.context], caller.ae_title
            )
        except Exception as error:  # it is answered when the data set is through
            storing.failure = error

    def _may_store(self) -> PeerIdentity:
        peer = self.peer
        if peer is None:
            raise Refused(0x0124, "the caller of this association was never judged")
        if not peer.may_store:
            raise Refused(0x0124, f"peer {peer.peers[0].name} may not store: set may_store = true to let it")
        return peer

    def _write(self) -> None:
        """Write what has come of the data set; an image that cannot be written is let pass, and answered so."""
        if not self._pieces:
            return
        storing = self._storing
        if storing is not None and storing.incoming is not None:
            try:
                storing.incoming.write(self._pieces)
            except Exception as error:
                storing.failure = error
                storing.incoming.discard()  # gives the disk its room back now
                storing.incoming = None
        self._pieces.clear()

    def _finish(self) -> None:
        """Store what has come, and answer; nothing is raised but what ends the association."""
        self._write()
        storing = self._storing
        if storing is None:
            raise RuntimeError("no request is being served")
        status = self._stored(storing)
        self.refused = self.refused or status != 0x0000
        try:
            self._upper.send(dimse.store_response(storing.context, storing.command, status, self._longest_answer))
        finally:
            self._storing = None
            if storing.incoming is not None:
                storing.incoming.discard()
        self._upper.got_done()

    def _stored(self, storing: _Storing) -> int:
        """The status of a C-STORE whose data set is through."""
        incoming, study = storing.incoming, None
        try:
            if storing.failure is not None:
                raise storing.failure  # noqa: TRY301 - answered as what goes wrong here
            if incoming is None:
                raise RuntimeError("nothing took the data set")  # noqa: TRY301
            header = incoming.header()
            study = header.study
            self.studies.add(study)  # before the index knows it: its quiet time must not begin without this association
            new = self._store.put(incoming, header)
        except Exception as error:
            return _refused(error, storing.command, study)
        if new:
            self._log.debug(
                "instance.stored",
                study=study,
                instance=header.sop_instance_uid,
                bytes=incoming.data_set_bytes,
                seconds=round(time.perf_counter() - storing.began, 4),
            )
        return 0x0000


def _refused(error: Exception, command: dimse.Command, study: str | None) -> int:
    """The status that the sender can act on, with its reason in the log."""
    log = logger().bind(instance=command.sop_instance_uid, sop_class=command.sop_class_uid)
    if study is not None:
        log = log.bind(study=study)
    if isinstance(error, Refused):
        log.warning("instance.refused", status=f"{error.status:04X}", reason=error.reason)
        return error.status
    full = False
    if isinstance(error, OSError):
        full = error.errno in _FULL
        reason = "no room left on the disk" if full else f"the disk gave an error: {error.strerror}"
    elif isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        reason = "no room left on the disk for the index" if full else "the index gave an error"
    else:  # the sender gets a status, not a broken association; the log says where
        reason = "an unexpected error"
    status = 0xA700 if full else 0x0110
    log.error("instance.refused", status=f"{status:04X}", reason=reason, error=where(error))
    return status


def _report(event_type: int, information: Dataset, syntax: str) -> N_EVENT_REPORT:
    """A report of storage commitment (PS3.4 J.3.3) as a message of its own on the association that asked."""
    message = N_EVENT_REPORT()
    message.MessageID, message.EventTypeID = 1, event_type
    message.AffectedSOPClassUID = StorageCommitmentPushModel
    message.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    transfer_syntax = UID(syntax)
    encoded = encode(information, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    message.EventInformation = BytesIO(encoded)
    return message


class _Provider:
    """What pynetdicom's services have for an upper layer: what they send goes out at once, nothing comes in by it."""

    socket = None

    def __init__(self, upper: UpperLayer) -> None:
        self._upper = upper
        self.gone: GoneError | None = None  # pynetdicom swallows it

    def send_pdu(self, primitive: Any) -> None:
        if isinstance(primitive, A_ASSOCIATE):
            pdu = A_ASSOCIATE_AC(primitive) if primitive.result == 0x00 else A_ASSOCIATE_RJ(primitive)
        elif isinstance(primitive, P_DATA):
            pdu = P_DATA_TF(primitive)
        elif isinstance(primitive, A_ABORT | A_P_ABORT):
            return  # `_serve` sees that it aborts, tells the other side and the log
        else:
            raise TypeError(f"no acceptor sends {type(primitive).__name__}")
        try:
            self._upper.send(pdu.encode())
        except GoneError as error:
            self.gone = error
            raise

    @staticmethod
    def is_alive() -> bool:
        """There is no thread that could be."""
        return False
