"""The requestor of associations: everything of the node that calls another AE calls through it (PS3.8 7.1).

Two things that all callers need have their one place here: TLS (PS3.15 annex B) is an argument of the one call of
``associate`` in `Requestor._request`, and the audit message of an association (PS3.15 A.5) belongs into
`Requestor._record`, which sees how every attempt ended. Neither is built yet.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ

from dicom_node.config.settings import Peer
from dicom_node.errors import Retryable
from dicom_node.network.addresses import addresses_of
from dicom_node.network.attempt import Attempt, ContextAnswer, Outcome
from dicom_node.network.pynetdicom_setup import application_entity, on_open

#: What a `Requestor` proposes as one presentation context: the SOP class, and the only transfer syntax for it.
Context = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    ``connect``: for the TCP connection, and then for the answer to the association request; ``answer``: for the
    response to a command; ``stalled``: for the next bytes within a message, None if there is no limit.
    """

    connect: float = 10.0
    answer: float = 60.0
    stalled: float | None = None


class AssociationError(Retryable):
    """There is no association; ``attempt`` tells how the request ended, and ``why`` says it without the peer's name."""

    def __init__(self, name: str, why: str, attempt: Attempt) -> None:
        super().__init__(f"{name}: {why}")
        self.why = why
        self.attempt = attempt


class NoContextError(AssociationError):
    """The peer accepts the association, and none of its presentation contexts."""


def uncompressed(sop_classes: Iterable[str]) -> list[Context]:
    """Two presentation contexts for each SOP class: one in Explicit and one in Implicit VR Little Endian.

    With one context for both, the peer would choose. So a file is sent as it is wherever the peer accepts Explicit VR.
    """
    syntaxes = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
    return [(str(sop_class), syntax) for sop_class in sop_classes for syntax in syntaxes]


class Requestor:
    """Calls one peer, and keeps the association until it is released, aborted or dropped; for one thread."""

    def __init__(
        self,
        ae_title: str,
        peer: Peer,
        contexts: Sequence[Context],
        *,
        timeouts: Timeouts | None = None,
        roles: Sequence[Any] = (),
        handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
        max_pdu: int = 0,
    ) -> None:
        """Connect to nothing yet.

        Args:
            ae_title: ours.
            peer: whom to call; it needs a host and a port.
            contexts: the presentation contexts to propose, at most 128 (PS3.8 9.3.2.2).
            timeouts: how long to wait.
            roles: role selection items to propose (PS3.7 D.3.3.4).
            handlers: serve what the peer asks on the association, by pynetdicom's event.
            max_pdu: the longest P-DATA-TF PDU that we take, in bytes (PS3.8 D.1); 0 for no limit.
        """
        self._ae_title = ae_title
        self._peer = peer
        self._contexts = contexts
        self._timeouts = timeouts or Timeouts()
        self._roles = roles
        self._handlers = handlers
        self._max_pdu = max_pdu
        self._association: Any = None
        self._heard = _Heard()
        self._attempt: Attempt | None = None

    @property
    def name(self) -> str:
        """The peer as a person knows it: its name in the configuration, AE title, host and port."""
        peer = self._peer
        return f"{peer.name} ({peer.ae_title} at {peer.host}:{peer.port})"

    @property
    def is_open(self) -> bool:
        """Whether there is an association now."""
        return self._association is not None and bool(self._association.is_established)

    @property
    def attempt(self) -> Attempt | None:
        """How the last request for an association ended; None if there was none yet."""
        return self._attempt

    @property
    def association(self) -> Any:
        """The association (pynetdicom's), which may have ended; None if none was established, or it was given up."""
        return self._association

    @property
    def contexts(self) -> tuple[ContextAnswer, ...]:
        """The answer to each presentation context, when the peer was last asked."""
        return self._attempt.contexts if self._attempt is not None else ()

    def open(self) -> Any:
        """The association (pynetdicom's); it is requested if there is none.

        Raises:
            AssociationError: there is none now; `NoContextError` if the peer accepts none of the contexts.
        """
        if self.is_open:
            return self._association
        attempt, self._association = self._request()
        self._record(attempt)
        if attempt.outcome is Outcome.ESTABLISHED:
            return self._association
        why = attempt.why(ours=self._ae_title, theirs=self._peer.ae_title, peer=self._peer.name)
        kind = NoContextError if attempt.outcome is Outcome.NO_CONTEXT else AssociationError
        raise kind(self.name, why, attempt) from attempt.failure

    def accepted(self, sop_class: str) -> frozenset[str]:
        """The transfer syntaxes in which the peer accepted a SOP class, when it was last asked."""
        return self._attempt.accepted(sop_class) if self._attempt is not None else frozenset()

    def release(self) -> None:
        """Release the association, if there is one."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def abort(self) -> None:
        """Abort the association, if there is one."""
        association, self._association = self._association, None
        if association is not None and not association.is_released and not association.is_aborted:
            association.abort()

    def drop(self) -> None:
        """Shut the connection without a word to the peer; any thread may call this, and it waits for nothing."""
        if self._heard.sock is not None:
            self._heard.sock.shutdown(socket.SHUT_RDWR)

    def lost(self) -> Retryable:
        """Abort the association, and return the error for a request without a response."""
        self.abort()
        return Retryable(f"{self.name}: no answer within {self._timeouts.answer:g} s, or the connection was lost")

    def broken(self, doing: str) -> Retryable:
        """Abort the association, and return the error for one that broke while ``doing`` something."""
        self.abort()
        return Retryable(f"{self.name}: the association broke while {doing}")

    def _request(self) -> tuple[Attempt, Any]:
        """Request an association at each address of the peer, until one takes the connection."""
        try:
            addresses = addresses_of(str(self._peer.host))
        except (OSError, UnicodeError):  # the request itself says so
            addresses = (str(self._peer.host),)
        for address in addresses[:-1]:
            attempt, association = self._request_at(address)
            if self._heard.sock is not None:
                return attempt, association
        return self._request_at(addresses[-1])

    def _request_at(self, address: str) -> tuple[Attempt, Any]:
        """Request an association. The only call of ``associate`` in the node; TLS will be an argument of it."""
        heard = self._heard = _Heard()
        ae = application_entity(self._ae_title, _CallingEntity)
        ae.connection_timeout = ae.acse_timeout = self._timeouts.connect
        ae.dimse_timeout = ae.network_timeout = self._timeouts.answer
        for sop_class, syntax in self._contexts:
            ae.add_requested_context(sop_class, syntax)
        association, failure = None, None
        began = time.monotonic()
        try:
            association = ae.associate(
                address,
                self._peer.port,
                ae_title=self._peer.ae_title,
                max_pdu=self._max_pdu,
                ext_neg=list(self._roles),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open, [heard]),
                    (evt.EVT_DATA_RECV, _on_data, [heard]),
                    (evt.EVT_PDU_RECV, _on_pdu, [heard]),
                    *self._handlers,
                ],
            )
        except Exception as error:
            # The host is looked up first. Then pynetdicom raises nearly anything on an answer that breaks the standard.
            if not isinstance(error, OSError | UnicodeError) and not heard.anything:
                raise
            failure = error
        seconds = time.monotonic() - began
        if association is not None and association.is_established:
            return self._attempted(Outcome.ESTABLISHED, seconds, association), association
        return self._attempted(
            self._outcome(association, failure, seconds), seconds, association, failure or ae.failure
        ), None

    def _outcome(self, association: Any, failure: Exception | None, seconds: float) -> Outcome:
        """Why there is no association."""
        heard = self._heard
        if heard.rejection is not None:
            return Outcome.REJECTED
        if association is not None and association.rejected_contexts and not association.accepted_contexts:
            return Outcome.NO_CONTEXT
        if heard.sock is None:
            unknown = isinstance(failure, socket.gaierror | UnicodeError)
            return Outcome.UNKNOWN_HOST if unknown else Outcome.NO_CONNECTION
        if heard.abort is not None:
            return Outcome.ABORTED
        if heard.anything:
            return Outcome.MALFORMED
        return Outcome.NO_ANSWER if seconds >= self._timeouts.connect else Outcome.CLOSED

    def _attempted(
        self, outcome: Outcome, seconds: float, association: Any, failure: Exception | None = None
    ) -> Attempt:
        contexts: list[ContextAnswer] = []
        implementation = ""
        if association is not None:
            for one in (*association.accepted_contexts, *association.rejected_contexts):
                syntax = one.transfer_syntax[0] if one.transfer_syntax else ""
                contexts.append(ContextAnswer(str(one.abstract_syntax), str(syntax), int(one.result or 0)))
            acceptor = association.acceptor
            implementation = str(acceptor.implementation_version_name or acceptor.implementation_class_uid or "")
        heard = self._heard
        return Attempt(
            outcome,
            seconds,
            self._timeouts.connect,
            heard.sock is not None,
            failure,
            heard.rejection,
            heard.abort,
            tuple(contexts),
            implementation,
        )

    def _record(self, attempt: Attempt) -> None:
        """Every attempt passes here, whatever its outcome: the place for an audit message."""
        self._attempt = attempt

    def _on_open(self, event: Any, heard: _Heard) -> None:
        on_open(event)
        heard.sock = event.assoc.dul.socket.socket
        if self._timeouts.stalled is not None and heard.sock is not None:
            # Otherwise a message that stops in the middle blocks pynetdicom's thread, and with it the program.
            heard.sock.settimeout(self._timeouts.stalled)


@dataclass(slots=True)
class _Heard:
    """What pynetdicom's threads tell of one attempt, as far as pynetdicom does not keep it."""

    sock: Any = None
    anything: bool = False
    rejection: tuple[int, int] | None = None
    abort: tuple[int, int] | None = None


def _on_data(_event: Any, heard: _Heard) -> None:
    heard.anything = True


def _on_pdu(event: Any, heard: _Heard) -> None:
    if isinstance(event.pdu, A_ASSOCIATE_RJ):
        heard.rejection = (event.pdu.source or 0, event.pdu.reason_diagnostic or 0)
    elif isinstance(event.pdu, A_ABORT_RQ):
        heard.abort = (event.pdu.source or 0, event.pdu.reason_diagnostic or 0)


class _CallingEntity(AE):  # type: ignore[misc]  # pynetdicom ships no types
    """An AE that keeps why its last connection failed, which pynetdicom logs and forgets."""

    _sock: _Socket | None = None

    @property
    def failure(self) -> OSError | None:
        """The error of the last connection; None if it did not fail."""
        return self._sock.failure if self._sock is not None else None

    def _create_socket(self, *args: Any) -> Any:
        made = super()._create_socket(*args)
        made.socket = self._sock = _Socket(fileno=made.socket.detach())
        return made


class _Socket(socket.socket):
    """A socket that keeps why it could not be connected (one for TLS does it by ``SSLContext.sslsocket_class``)."""

    failure: OSError | None = None

    def connect(self, address: Any) -> None:
        """As ``socket.connect``."""
        try:
            super().connect(address)
        except OSError as error:
            self.failure = error
            raise

    def shutdown(self, how: int) -> None:
        """As ``socket.shutdown``, without an error: pynetdicom would then not close the socket."""
        with contextlib.suppress(OSError):
            super().shutdown(how)
