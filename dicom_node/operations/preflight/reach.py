"""From a host name to an association, step by step, so that a failure names its own cause."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dicom_node.config.settings import Peer
from dicom_node.log import printable
from dicom_node.network.attempt import Attempt, ContextAnswer, Outcome
from dicom_node.network.requestor import AssociationError, Context, Requestor, Timeouts
from dicom_node.network.status import abort, rejection

_PROBE_SECONDS = 3.0
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds.

    ``connect``: for a TCP connection, and for the answer to an association request; ``answer``: for an answer to a
    command, or for the rest of a message; ``found``: until an object that was stored can be found (archives index
    later); ``hidden``: until a rejection note hides what it rejects; ``pause``: between two queries; ``whole``: for
    everything.
    """

    connect: float = 10.0
    answer: float = 30.0
    found: float = 20.0
    hidden: float = 10.0
    pause: float = 1.0
    whole: float = 300.0


class NoAnswerError(Exception):
    """The PACS could not be reached, rejected us, or broke off: the message says which, and what to do."""


class NoAssociationError(NoAnswerError):
    """There is no association; ``contexts`` are the answers to the presentation contexts if the PACS refused them."""

    def __init__(self, text: str, contexts: Sequence[ContextAnswer] = ()) -> None:
        super().__init__(text)
        self.contexts = tuple(contexts)


@dataclass(slots=True)
class Target:
    """The peer that is tested, called as the node calls it; ``end`` (``time.monotonic``) is when the test ends."""

    ours: str
    peer: Peer
    limits: Limits
    end: float
    address: str = ""
    own_address: str = field(default="", init=False)

    @property
    def where(self) -> str:
        """The peer's host and port."""
        return f"{self.peer.host}:{self.peer.port}"

    def left(self, most: float = float("inf")) -> float:
        """The seconds that are left for something, at most ``most``."""
        return max(0.0, min(most, self.end - time.monotonic()))

    def resolve(self) -> str:
        """Resolve the host name, and tell which address is called.

        Raises:
            NoAnswerError: the name cannot be resolved.
        """
        host = str(self.peer.host)
        try:
            found = socket.getaddrinfo(host, self.peer.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoAnswerError(
                f"{host!r} cannot be resolved ({getattr(error, 'strerror', None) or 'no valid name'}): correct host of "
                f"peer {self.peer.name}, or have the name entered in the DNS that this machine asks"
            ) from error
        # pynetdicom, and so the node, calls the first IPv4 address, and an IPv6 address only if there is no other.
        addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
        self.address, *others = dict.fromkeys(addresses)
        if self.address == host:
            return f"{host} is an address"
        return f"{host} is {self.address}" + (f" (and {', '.join(others)}, not tried)" if others else "")

    def connect(self) -> str:
        """Open a TCP connection and close it.

        Raises:
            NoAnswerError: it is refused, not answered, or there is no route to the host.
        """
        began = time.perf_counter()
        try:
            with self._socket(self.left(self.limits.connect)) as sock:
                self.own_address = str(sock.getsockname()[0])
        except ConnectionRefusedError as error:
            raise NoAnswerError(
                f"{self.where} refused it: the machine is there, but nothing listens on port {self.peer.port}. Is "
                f"{self.peer.port} the PACS's DICOM port, and is its DICOM service running?"
            ) from error
        except TimeoutError as error:
            raise NoAnswerError(
                f"{self.where} did not answer within {self.limits.connect:g} s: the machine is off, the address is "
                f"another, or a firewall drops packets from here to TCP port {self.peer.port}"
            ) from error
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in _UNREACHABLE:
                why = f"no way there ({why}): look at routes and gateways between this machine and {self.peer.host}"
            raise NoAnswerError(f"{self.where}: {why}") from error
        took = 1000 * (time.perf_counter() - began)
        return f"{self.where} takes TCP connections ({took:.0f} ms; this machine calls from {self.own_address})"

    def _socket(self, seconds: float) -> socket.socket:
        return socket.create_connection((self.address or str(self.peer.host), int(self.peer.port or 0)), seconds)

    @contextmanager
    def call(
        self,
        contexts: Sequence[Context],
        *,
        roles: Sequence[Any] = (),
        handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
    ) -> Iterator[Requestor]:
        """A requestor with an established association, which is released at the end.

        Whatever the PACS does, the connection is shut when the time of the whole test is over.

        Raises:
            NoAssociationError: there is no association.
        """
        if not self.left():
            raise NoAssociationError(f"broken off: the whole check may take {self.limits.whole:g} s")
        timeouts = Timeouts(max(0.1, self.left(self.limits.connect)), self.limits.answer, self.limits.answer)
        requestor = Requestor(self.ours, self.peer, contexts, timeouts=timeouts, roles=roles, handlers=handlers)
        watch = threading.Timer(self.left(), requestor.drop)
        watch.daemon = True
        watch.start()
        try:
            try:
                requestor.open()
            except AssociationError as error:
                raise self._why_not(error.attempt) from error
            _check_syntaxes(requestor, contexts)
            yield requestor
        finally:
            try:
                requestor.release()
            finally:
                watch.cancel()
                requestor.drop()

    def _why_not(self, attempt: Attempt) -> NoAssociationError:
        match attempt.outcome:
            case Outcome.NO_CONTEXT:
                return NoAssociationError("it accepts none of our SOP classes", attempt.contexts)
            case Outcome.REJECTED:
                text = f"rejected: {self._rejection(*(attempt.rejection or (0, 0)))}"
            case Outcome.UNKNOWN_HOST:
                text = f"{self.peer.host!r} cannot be resolved any more"
            case Outcome.NO_CONNECTION:  # a step before this one was connected
                text = f"{self.where} took no second connection: it may allow one at a time only"
            case Outcome.ABORTED:
                told = abort(*(attempt.abort or (0, 0)))
                text = f"aborted: {told}. Some PACS do this to callers that they do not know: {self._add_us()}"
            case Outcome.MALFORMED:
                what = "malformed" if attempt.failure is not None else "that is none of its answers"
                text = f"it answered the association request with something {what}"
            case _:
                text = self._what_listens() or self._silence(attempt)
        return NoAssociationError(text)

    def _silence(self, attempt: Attempt) -> str:
        port = self.peer.port
        if attempt.outcome is Outcome.NO_ANSWER:
            within = f"within {attempt.patience:g} s"
            text = f"{self.where} took the connection but did not answer the association request {within}"
            return f"{text}: is {port} its DICOM port, and is its DICOM service well?"
        text = f"{self.where} closed the connection without an answer"
        return f"{text}: {port} is not its DICOM port, or it allows only some addresses. If so, {self._add_us()}"

    def _rejection(self, source: int, diagnostic: int) -> str:
        theirs = self.peer.ae_title
        why, fix = rejection(source, diagnostic, ours=self.ours, theirs=theirs, peer=self.peer.name)
        if (source, diagnostic) == (1, 7):
            fix += " in the configuration to the PACS's own AE title"
        elif (source, diagnostic) in {(1, 1), (1, 3)}:
            fix = f"{self._add_us()}. If we stand there, {theirs!r} may not be its own AE title"
        elif source == 3:
            fix = f"try again later, or let it allow more associations from {self.ours}"
        return f"{why}: {fix}" if fix else why

    def _add_us(self) -> str:
        """What the administrator of the PACS enters."""
        at = f", address {self.own_address}" if self.own_address else ""
        return (
            f"in the PACS's list of DICOM nodes, add AE title {self.ours} (capitals count){at}, with the right to store"
        )

    def _what_listens(self) -> str:
        """Which other protocol is on that port: an HTTP request and a TLS handshake are tried. Empty if not known."""
        seconds = self.left(min(_PROBE_SECONDS, self.limits.connect))
        if not seconds:
            return ""
        greeting = b""
        with contextlib.suppress(OSError), self._socket(seconds) as sock:
            sock.settimeout(seconds)
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            greeting = sock.recv(64)
        if greeting.startswith(b"HTTP/"):
            return f"{self.where} is a web server (HTTP), not DICOM: correct port of peer {self.peer.name}"
        if len(greeting) > 1 and 2 <= greeting[0] <= 7 and not greeting[1]:  # a PDU (PS3.8 9.3), most likely an A-ABORT
            text = f"{self.where} speaks DICOM, but does not answer our association request"
            return f"{text}. If it does not know us, {self._add_us()}"
        if self._speaks_tls(seconds):
            return (
                f"{self.where} speaks TLS (DICOM over TLS, or HTTPS): this node calls without TLS, so use the PACS's "
                f"port without it, or correct port of peer {self.peer.name}"
            )
        if greeting:
            begins = printable(greeting.decode("latin-1"), 32)
            return f"{self.where} speaks something else than DICOM (it begins {begins!r}): correct the port"
        return ""

    def _speaks_tls(self, seconds: float) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is does not matter here
        try:
            with self._socket(seconds) as sock:
                sock.settimeout(seconds)
                context.wrap_socket(sock).close()
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")  # to refuse a handshake is to speak TLS
        except OSError:
            return False
        return True


def _check_syntaxes(requestor: Requestor, proposed: Sequence[Context]) -> None:
    for context in requestor.contexts:
        if context.accepted and (context.sop_class, context.transfer_syntax) not in proposed:
            raise NoAssociationError(
                "it accepted a transfer syntax that was not proposed: its DICOM software is faulty"
            )
