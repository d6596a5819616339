"""The interface between an association and the services that it is given: C-ECHO, MPPS, storage commitment and others.

`association.Association` knows no service. It negotiates what the services support, assembles fragments to messages,
keeps the limits, and finds the service of each message by Command Field and SOP class. To add a service is to write a
module beside this one, and to name it where `node.Node` makes the services.

A `StreamingService` (C-STORE: `storage.StorageSCP`) is given the data set of a request while it comes, piece by piece,
and answers with a status. Nothing of it is held in memory, and the pieces are not copied.

A `CollectingService` is given a request with its whole data set (at most 4 MiB) and gives messages. The association
sends each as soon as it is given, on the presentation context of the request, so that the order is the service's:

* one response: ``return [request.answer(0x0000)]``.
* one response and then a message of our own, such as an N-EVENT-REPORT: ``return [request.answer(0x0000), report]``.
  `mpps.MPPS` and `commitment.StorageCommitmentSCP` are examples of the two.
* several responses: ``serve`` is a generator. A C-FIND SCP gives ``request.answer(0xFF00, identifier)`` for each match
  and ``request.answer(0x0000)`` at the end. A C-MOVE or C-GET SCP adds the counts as elements:
  ``request.answer(0xFF00, NumberOfRemainingSuboperations=3, ...)``.
* C-CANCEL: a service that can be cancelled names C-CANCEL-RQ in ``commands``, asks ``request.is_cancelled()`` between
  two responses, and then answers FE00. The association reads what has come in the meantime, and waits for nothing.
* sub-operations on the same association (C-GET): ``request.ask(message, context)`` sends a request of ours on one of
  ``request.association.contexts``, and returns its response. Sub-operations of a C-MOVE run on an association of their
  own (`network.requestor`).

An exception before the final response is logged and answered 0110 (processing failure); one behind it is logged. A
service raises `ViolationError` if the message itself breaks the protocol: the association is aborted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

from dicom_node.network import dimse
from dicom_node.scp.access import PeerIdentity
from dicom_node.scp.fairness import Collection

# How the data set of a response is called, by service (PS3.7 9.1 and 10.1).
_REPLIES = ("Identifier", "ActionReply", "EventReply", "AttributeList")


@dataclass(frozen=True, slots=True)
class Supported:
    """A SOP class that a service supports, and the roles that the peer may take for it (PS3.7 D.3.3.4)."""

    sop_class: str
    transfer_syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    peer_is_scp: bool = False  # beside SCU, which every requestor is

    @property
    def peer_roles(self) -> tuple[bool | None, bool | None]:
        """Whether the peer may be SCU and SCP; both None: roles are not negotiated."""
        return (True, True) if self.peer_is_scp else (None, None)


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context of an open association (PS3.8 7.1.1.13)."""

    id: int
    sop_class: str
    transfer_syntax: str

    def encode(self, data_set: Dataset) -> BytesIO:
        """Encode a data set in the context's transfer syntax.

        Raises:
            ValueError: it cannot be encoded.
        """
        syntax = UID(self.transfer_syntax)
        encoded = encode(data_set, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if encoded is None:
            raise ValueError("a data set that cannot be encoded")
        return BytesIO(encoded)


class OpenAssociation(Protocol):
    """What a service may know of the association that a request came on, and do there."""

    @property
    def peer(self) -> PeerIdentity:
        """Who opened it."""

    @property
    def last_byte(self) -> float:
        """When the last byte came, in seconds of the server's clock."""

    @property
    def released(self) -> bool:
        """Whether the peer has released it."""

    @property
    def contexts(self) -> Sequence[AcceptedContext]:
        """What was accepted."""

    def is_cancelled(self) -> bool:
        """Whether the peer has cancelled the request in work; see `Request.is_cancelled`."""

    def ask(self, message: Any, context: AcceptedContext) -> Any:
        """Send a request of ours and wait for its response; see `Request.ask`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its data set, of the SOP class of its presentation context.

    ``message`` is pynetdicom's DIMSE primitive with every element that the request must have; its values are as they
    came. ``encoded`` is the data set, empty if there is none.
    """

    message: Any
    encoded: BytesIO
    context: AcceptedContext
    association: OpenAssociation

    @property
    def peer(self) -> PeerIdentity:
        """Who asks."""
        return self.association.peer

    def data_set(self) -> Dataset:
        """Decode the data set. pydicom parses most elements when they are read, and raises then too.

        Raises:
            Exception: whatever pydicom raises on hostile bytes.
        """
        if not self.encoded.getbuffer():
            return Dataset()
        syntax = UID(self.context.transfer_syntax)
        data_set: Dataset = decode(self.encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        return data_set

    def answer(self, status: int, data_set: Dataset | None = None, **elements: Any) -> Any:
        """A response to this request, for the association to send.

        Args:
            status: DIMSE status (PS3.7 annex C, and PS3.4 for each service).
            data_set: its Identifier, Action Reply, Event Reply or Attribute List.
            elements: other elements of its command set, by keyword.

        Raises:
            ValueError: the data set cannot be encoded.
        """
        asked = self.message
        response = type(asked)()
        response.MessageIDBeingRespondedTo = asked.MessageID
        response.AffectedSOPClassUID = getattr(asked, "RequestedSOPClassUID", None) or asked.AffectedSOPClassUID
        for keyword in ("AffectedSOPInstanceUID", "ActionTypeID", "EventTypeID"):
            if hasattr(response, keyword):
                setattr(response, keyword, getattr(asked, keyword))
        if (instance := getattr(asked, "RequestedSOPInstanceUID", None)) is not None:
            response.AffectedSOPInstanceUID = instance
        response.Status = status
        for keyword, value in elements.items():
            setattr(response, keyword, value)
        if data_set is not None:
            setattr(response, next(name for name in _REPLIES if hasattr(response, name)), self.context.encode(data_set))
        return response

    def is_cancelled(self) -> bool:
        """Whether the peer has sent a C-CANCEL for this request by now (PS3.7 9.3.2.3).

        Raises:
            GoneError, AbortedError, ViolationError: the association has ended, or ends.
        """
        return self.association.is_cancelled()

    def ask(self, message: Any, context: AcceptedContext) -> Any:
        """Send a request of ours on the same association, and wait for its response, which is returned.

        Args:
            message: pynetdicom's DIMSE primitive, with a Message ID.
            context: one of the association's, for which the peer has the role of SCP.

        Raises:
            GoneError, AbortedError, ViolationError: the association has ended, or ends.
        """
        return self.association.ask(message, context)


class Service:
    """What every service says of itself.

    Attributes:
        supported: the SOP classes to accept, on whose presentation contexts the service is asked.
        commands: Command Fields (PS3.7 E.1) of the requests that it serves; C-CANCEL-RQ if it can be cancelled; and
            those of responses that come outside of `Request.ask`, to messages that it gave: they are dropped.
        on_any_context: whether it is asked on the presentation contexts of all SOP classes.
    """

    supported: tuple[Supported, ...] = ()
    commands: frozenset[int] = frozenset()
    on_any_context = False

    def ended(self, association: OpenAssociation) -> None:
        """Called once when an association has ended, also if this service was never asked on it."""


class Receipt(Protocol):
    """Takes the data set of one request. Its errors are its own: it answers them by the status that `end` returns."""

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Take the next bytes; ``pieces`` are only valid during the call."""

    def end(self) -> dimse.Answer:
        """All bytes have come: what the response says (PS3.7 annex C, and PS3.4 for each service)."""

    def discard(self) -> None:
        """Release what is held; called once, after the response is sent or when the association has ended."""


class StreamingService(Service):
    """A service that is given the data sets of requests while they come."""

    def begin(self, command: dimse.Command, context: AcceptedContext, association: OpenAssociation) -> Receipt:
        """Begin to serve a request.

        ``command`` is as it came: its UIDs are not checked. If it has no data set, `Receipt.end` is called next.
        """
        raise NotImplementedError


class CollectingService(Service):
    """A service that is given requests with their whole data sets."""

    def serve(self, request: Request) -> Iterable[Any]:
        """Serve a request.

        Returns:
            pynetdicom's DIMSE primitives to send, among them the final response to the request.

        Raises:
            ViolationError: the message breaks the protocol.
            Exception: anything else is answered 0110, unless the final response is sent.
        """
        raise NotImplementedError


class Services:
    """Every service of this AE: what is negotiated for them, and which one a message is for."""

    def __init__(self, services: Sequence[Service]) -> None:
        """Note who serves what.

        Raises:
            ValueError: two services serve the same message.
        """
        self.collection = Collection()
        self._services = tuple(services)
        self._table: dict[tuple[int, str | None], Service] = {}
        for service in services:
            sop_classes = [None] if service.on_any_context else [each.sop_class for each in service.supported]
            for key in ((field, sop_class) for field in service.commands for sop_class in sop_classes):
                if key in self._table:
                    raise ValueError(f"two services serve message {key[0]:04X}H of SOP class {key[1] or 'any'}")
                self._table[key] = service
        supported: dict[str, Supported] = {}
        for each in (each for service in services for each in service.supported):
            known = supported.get(each.sop_class, each)
            syntaxes = dict.fromkeys((*known.transfer_syntaxes, *each.transfer_syntaxes))
            peer_is_scp = known.peer_is_scp or each.peer_is_scp
            supported[each.sop_class] = Supported(each.sop_class, tuple(syntaxes), peer_is_scp)
        self.supported = tuple(supported.values())

    def ended(self, association: OpenAssociation) -> None:
        """Tell every service that an association has ended."""
        for service in self._services:
            service.ended(association)

    def find(self, field: int, sop_class: str) -> Service | None:
        """The service for a message by its Command Field and the abstract syntax of its presentation context."""
        return self._table.get((field, sop_class)) or self._table.get((field, None))
