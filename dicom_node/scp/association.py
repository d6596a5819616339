"""One association, from the connection to its end: a thread that negotiates, assembles messages and dispatches them.

It knows no service: `service` is the interface of those that it is given. pynetdicom negotiates, and codes the command
sets of all messages but C-STORE's. The bytes of images go from the socket to their service without being held.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from typing import Any

import structlog
from pynetdicom import AE
from pynetdicom.association import Association as PynetdicomAssociation
from pynetdicom.transport import AddressInformation

from dicom_node.log import logger, where
from dicom_node.network import dimse, pynetdicom_setup
from dicom_node.network.association_request import Caller
from dicom_node.network.upper_layer import (
    INVALID_PARAMETER,
    UNEXPECTED_PDU,
    AbortedError,
    GoneError,
    PynetdicomProvider,
    SilentError,
    UpperLayer,
    ViolationError,
)
from dicom_node.scp.access import PeerIdentity, Proposal, Rejection
from dicom_node.scp.collecting import RESOURCE_LIMITATION, Collected, Streaming
from dicom_node.scp.service import AcceptedContext, CollectingService, Request, Services, StreamingService

_LONGEST_PDU = 128 * 1024  # bytes; announced to the caller, but longer PDUs are taken too
_REQUEST_SECONDS = 10.0  # the A-ASSOCIATE-RQ must come within this time
_LEAST_BYTES = 6000  # of a message, within the time that an association may be silent: 100 bytes a second
_LONGEST_COMMAND = 64 * 1024  # bytes; the command set of a C-STORE has about 200
_OVERDRAWN_SECONDS = 1.0  # how long a caller waits for its next message when it has cost more than it may
_PENDING = (0xFF00, 0xFF01)  # statuses of a response that is not the last one (PS3.7 C.1.3)
_REJECT_VERSION = (0x01, 0x02, 0x02)  # PS3.8 9.3.4: permanently, by the ACSE: protocol version not supported


class Association:
    """A connection, and the thread that serves it.

    Args:
        sock: the accepted connection.
        address: IP address and port of the caller.
        ae: our AE title, implementation and supported presentation contexts.
        clock: seconds, which no step of the machine's clock moves.
        judge: knows the caller by AE titles and address, before more is parsed; a rejection that it returns is sent.
        admit: decides whether a caller that is known may associate; likewise.
        charge: notes how many seconds a caller cost (None: one that is rejected); false if it has to wait.
        services: serve the messages.
        on_end: called by the thread at its end, also if no association was established.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: tuple[str, int],
        ae: AE,
        clock: Callable[[], float],
        *,
        judge: Callable[[Proposal], PeerIdentity | Rejection],
        charge: Callable[[PeerIdentity | None, str, float], bool],
        admit: Callable[[Association, PeerIdentity, Proposal], Rejection | None],
        services: Services,
        on_end: Callable[[Association], None],
    ) -> None:
        self.last_byte = 0.0  # seconds of the clock
        self.released = False
        self.address = address[0]
        self._address = address
        self._ae = ae
        self._clock = clock
        self._judge = judge
        self._charge = charge
        self._admit = admit
        self._services = services
        self._on_end = on_end
        self._upper = UpperLayer(sock, request_seconds=_REQUEST_SECONDS, on_bytes=self._note_bytes)
        self._caller: PeerIdentity | None = None  # who asks for an association
        self._peer: PeerIdentity | None = None  # who has one
        self._share: Any = None  # of the memory for messages
        self._association: Any = None
        self._accepted: dict[int, AcceptedContext] = {}
        self._longest_answer = 0  # bytes of the longest PDU that the caller takes; 0: any
        self._stopping = False
        self._command = bytearray()
        self._streaming: Streaming | None = None
        self._pieces: list[memoryview] = []  # of the data set, not yet written
        self._collecting: Collected | None = None
        self._fragments: Iterator[tuple[int, int, memoryview, bool]] = iter(())
        self._serving: Any = None  # the message that a service serves
        self._cancelled = False  # whether the caller has cancelled it
        self._asked: AcceptedContext | None = None  # on which a service waits for the response to its own request
        self._response: Any = None
        self.thread = threading.Thread(target=self._run, name="association", daemon=True)

    def stop(self) -> None:
        """Abort, at any time and from any thread. What was acknowledged is stored already."""
        self._stopping = True
        self._upper.abort()
        self._upper.cut()

    def _note_bytes(self) -> None:
        self.last_byte = self._clock()

    def _run(self) -> None:
        structlog.contextvars.clear_contextvars()
        try:
            self._serve_peer()
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
            if self._streaming is not None:
                self._streaming.receipt.discard()
            if self._collecting is not None:
                self._collecting.release()
            self._pieces.clear()
            self._upper.close()
            self._on_end(self)

    def _tell_aborted(self, reason: str) -> None:
        if (
            self._peer is not None and not self._stopping
        ):  # a connection that asks for no association, such as a TCP check, is not logged
            logger().warning("association.aborted", address=self._address[0], reason=reason)

    def _serve_peer(self) -> None:
        if not self._negotiated():
            return
        self._upper.wait_at_most(pynetdicom_setup.SILENT_SECONDS)
        self._upper.hurry_at_least(_LEAST_BYTES, pynetdicom_setup.SILENT_SECONDS)
        self._fragments = self._upper.fragments(self._write)
        for context, control, piece, ends in self._fragments:
            self._take(context, control, piece, ends)
        self.released = True
        self._upper.released()

    # -- negotiation (PS3.8 7.1)

    def _negotiated(self) -> bool:
        """Accept or reject the association; pynetdicom negotiates. Returns whether the association is open."""
        caller, rest = self._upper.request_begins()
        began = time.thread_time()
        try:
            return self._decided(caller, rest)
        finally:
            self._charge(self._caller, self.address, time.thread_time() - began)

    def _decided(self, caller: Caller, rest: Callable[[], Any]) -> bool:
        association = self._association = PynetdicomAssociation(self._ae, "acceptor")
        association.dul = PynetdicomProvider(self._upper)
        acceptor, host = association.acceptor, self._address[0]
        acceptor.ae_title = self._ae.ae_title
        acceptor.address_info = association.requestor.address_info = AddressInformation(*self._address)
        acceptor.maximum_length = _LONGEST_PDU
        acceptor.implementation_class_uid = self._ae.implementation_class_uid
        acceptor.implementation_version_name = self._ae.implementation_version_name
        acceptor.supported_contexts = deepcopy(self._ae.supported_contexts)
        if not caller.version & 0x0001:
            association.acse.send_reject(*_REJECT_VERSION)
            return False
        proposal = Proposal(caller.called, caller.calling, host)
        peer = self._judge(proposal)
        if isinstance(peer, Rejection):
            association.acse.send_reject(*peer.answer)
            return False
        self._caller = peer
        request = rest()
        try:
            association.requestor.primitive = request.to_primitive()
        except Exception as error:  # as in `UpperLayer.request`
            raise ViolationError(INVALID_PARAMETER, "a request for an association that makes no sense") from error
        primitive = association.requestor.primitive
        asked = primitive.presentation_context_definition_list
        if not all(context.abstract_syntax and context.transfer_syntax for context in asked):
            raise ViolationError(INVALID_PARAMETER, "a presentation context that names no SOP class or transfer syntax")
        proposal = replace(proposal, sop_classes=frozenset(context.abstract_syntax for context in asked))
        if (rejection := self._admit(self, peer, proposal)) is not None:
            association.acse.send_reject(*rejection.answer)
            return False
        association.acse.negotiate_association()
        if not association.is_established:
            return False
        self._peer, self._share = peer, self._services.collection.share(peer.shares(self.address))
        self._longest_answer = association.requestor.maximum_length
        self._accepted = {
            each.context_id: AcceptedContext(each.context_id, str(each.abstract_syntax), str(each.transfer_syntax[0]))
            for each in association.accepted_contexts
        }
        return True

    # -- messages (PS3.7 6.3, PS3.8 E.2)

    def _take(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """Take a fragment; a message is served when its last one has come."""
        last = ends and bool(control & 0x02)
        if control & 0x01:
            self._on_command(context_id, piece, last=last)
        elif self._streaming is not None and self._streaming.context.id == context_id:
            self._pieces.append(piece)
            if last:
                self._end_stream(self._streaming)
        elif self._collecting is not None and self._collecting.context.id == context_id:
            self._collect(self._collecting, piece, last=last)
        else:
            raise ViolationError(UNEXPECTED_PDU, "a data set without a command")

    def _on_command(self, context_id: int, piece: memoryview, *, last: bool) -> None:
        if self._streaming is not None or self._collecting is not None:
            raise ViolationError(UNEXPECTED_PDU, "a command where the data set of the one before it was to go on")
        self._command += piece
        if len(self._command) > _LONGEST_COMMAND:
            raise ViolationError(INVALID_PARAMETER, f"a command set of more than {_LONGEST_COMMAND} bytes")
        if not last:
            return
        context = self._accepted.get(context_id)
        if context is None:
            raise ViolationError(INVALID_PARAMETER, "a command on a presentation context that was not accepted")
        command_set, self._command = self._command, bytearray()  # others can come while this one is served
        try:
            command = dimse.decode(command_set)
        except ValueError as error:
            raise ViolationError(INVALID_PARAMETER, "a command set that cannot be parsed") from error
        service = self._services.find(command.field, context.sop_class)
        if isinstance(service, StreamingService):
            self._expect_request()
            self._streaming = Streaming(context, command, service.begin(command, context, self))
            if not command.has_data_set:
                self._end_stream(self._streaming)
        elif isinstance(service, CollectingService):
            self._begin_collecting(Collected(self._share, context, command, service), command_set)
        elif context is self._asked and command.field & dimse.RESPONSE:
            self._begin_collecting(Collected(self._share, context, command), command_set)
        else:
            raise ViolationError(INVALID_PARAMETER, f"a message {command.field:04X}H, which no service here knows")

    def _begin_collecting(self, collecting: Collected, command_set: bytearray) -> None:
        command = collecting.command
        if command.field == dimse.C_CANCEL_RQ:  # one that comes too late is ignored (PS3.7 9.3.2.3)
            self._cancelled |= self._serving is not None and command.responds_to == self._serving.MessageID
            return
        try:
            message = collecting.message = dimse.primitive(command_set)
        except ValueError as error:
            raise ViolationError(INVALID_PARAMETER, "a message that cannot be parsed") from error
        is_response = bool(command.field & dimse.RESPONSE)
        if not is_response:
            self._expect_request()
        if not (message.is_valid_response if is_response else message.is_valid_request):
            raise ViolationError(INVALID_PARAMETER, "a message that lacks what it must have")
        self._collecting = collecting
        if not command.has_data_set:
            self._serve_collected(collecting)

    def _expect_request(self) -> None:
        if self._serving is not None:  # several at a time are not negotiated (PS3.7 D.3.3.3)
            raise ViolationError(UNEXPECTED_PDU, "a request before the response to the one before it")

    # -- requests whose data sets stream

    def _write(self) -> None:
        """Give what has come of the data set to its service, before the buffer is overwritten."""
        if self._pieces:
            if self._streaming is not None:
                self._streaming.receipt.write(self._pieces)
            self._pieces.clear()

    def _end_stream(self, streaming: Streaming) -> None:
        """Answer a request whose data set has come."""
        self._write()
        answer = streaming.receipt.end()
        try:
            self._upper.send(dimse.response(streaming.context.id, streaming.command, answer, self._longest_answer))
        finally:
            self._streaming = None
            streaming.receipt.discard()
        self._upper.got_done()

    # -- messages whose data sets are collected

    def _collect(self, collecting: Collected, piece: memoryview, *, last: bool) -> None:
        collecting.add(piece)
        if last:
            try:
                self._serve_collected(collecting)
            finally:
                collecting.release()

    def _serve_collected(self, collected: Collected) -> None:
        """Have a whole message served; a response is kept for a service that waits for it, or dropped."""
        self._collecting = None
        collected.check()
        message, context = collected.message, collected.context
        if collected.service is None or collected.command.field & dimse.RESPONSE:
            if collected.refused:
                raise ViolationError(INVALID_PARAMETER, "a response for which there is no room")
            self._response = message
            return
        sop_class = getattr(message, "RequestedSOPClassUID", None) or message.AffectedSOPClassUID
        if not collected.service.on_any_context and sop_class != context.sop_class:
            raise ViolationError(INVALID_PARAMETER, "a message of another SOP class than its presentation context")
        self._serving, self._cancelled = message, False
        request = Request(message, BytesIO(collected.data_set), context, self)
        try:
            if collected.refused:
                logger().warning("request.refused", reason="too many bytes of messages wait in memory")
                self._send(request.answer(RESOURCE_LIMITATION), context)
            else:
                self._serve(collected.service, request)
        finally:
            self._serving = None

    def _serve(self, service: CollectingService, request: Request) -> None:
        """Send what the service gives, as soon as it gives it; its failure is answered."""
        answered = False
        began = time.thread_time()
        try:
            with self._services.collection.turn:  # the messages of most services are made here, before one is sent
                messages = service.serve(request)
            for message in messages:
                self._send(message, request.context)
                answered |= message.MessageIDBeingRespondedTo is not None and message.Status not in _PENDING
            if not answered:
                raise RuntimeError("the service gave no final response")  # noqa: TRY301 - answered as its other errors
        except (GoneError, AbortedError, ViolationError):
            raise
        except Exception as error:
            logger().error("request.failed", error=where(error))
            if not answered:
                self._send(request.answer(0x0110), request.context)
        if not self._charge(self._peer, self.address, time.thread_time() - began):
            time.sleep(_OVERDRAWN_SECONDS)

    def _send(self, message: Any, context: AcceptedContext) -> None:
        try:
            self._association.dimse.send_msg(message, context.id)
        except GoneError:
            raise
        except Exception as error:  # a value that cannot be encoded, or a caller that takes no PDU long enough
            raise ViolationError(INVALID_PARAMETER, "a message that could not be answered") from error
        self._upper.got_done()

    # -- what a service may know and do (`service.OpenAssociation`)

    @property
    def peer(self) -> PeerIdentity:
        """Who opened the association.

        Raises:
            RuntimeError: nobody was accepted.
        """
        if self._peer is None:
            raise RuntimeError("no association was accepted")
        return self._peer

    @property
    def contexts(self) -> list[AcceptedContext]:
        """What was accepted."""
        return list(self._accepted.values())

    def is_cancelled(self) -> bool:
        """As `Request.is_cancelled`."""
        while not self._cancelled and self._upper.has_more():
            self._take_next()
        return self._cancelled

    def ask(self, message: Any, context: AcceptedContext) -> Any:
        """As `Request.ask`."""
        self._asked, self._response = context, None
        try:
            self._send(message, context)
            while self._response is None:
                self._take_next()
        finally:
            self._asked = None
        if self._response.MessageIDBeingRespondedTo != message.MessageID:
            raise ViolationError(INVALID_PARAMETER, "a response to another request than ours")
        return self._response

    def _take_next(self) -> None:
        """Take the next fragment while a service is at work."""
        fragment = next(self._fragments, None)
        if fragment is None:
            raise ViolationError(UNEXPECTED_PDU, "a release while its request was served")
        self._take(*fragment)
