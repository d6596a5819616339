"""Requesting associations: how each kind of attempt ends, as data and in words. Every peer is behind a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.config.settings import Peer
from dicom_node.errors import Retryable
from dicom_node.network.attempt import Attempt, Outcome
from dicom_node.network.requestor import (
    AssociationError,
    NoContextError,
    Requestor,
    Timeouts,
    uncompressed,
)
from dicom_node.network.verification_scu import VERIFICATION, echo
from tests.support.peers import Pacs, free_port

StartPacs = Callable[..., Pacs]
QUICK = Timeouts(connect=0.5, answer=5.0)


def requestor(port: int, *sop_classes: str, host: str = "127.0.0.1", timeouts: Timeouts = QUICK) -> Requestor:
    peer = Peer(name="pacs", ae_title="PACS", host=host, port=port)
    return Requestor("AINODE", peer, uncompressed(sop_classes or (SecondaryCaptureImageStorage,)), timeouts=timeouts)


def failed(calling: Requestor) -> AssociationError:
    """The error of an attempt, which the requestor keeps too."""
    with pytest.raises(AssociationError) as caught:
        calling.open()
    assert isinstance(caught.value, Retryable)
    assert calling.attempt is caught.value.attempt
    assert str(caught.value) == f"{calling.name}: {caught.value.why}"
    assert not calling.is_open
    calling.drop()
    return caught.value


@contextmanager
def answering(answer: bytes | None, *, hang_up: bool = True) -> Iterator[int]:
    """A TCP server that answers whatever it gets first with ``answer``; None: it hangs up without reading."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    if answer is not None:
                        connection.recv(65536)
                        connection.sendall(answer)
                    if not hang_up:
                        connection.settimeout(10.0)
                        while connection.recv(4096):
                            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_an_association_is_kept_until_it_is_released(start_pacs: StartPacs) -> None:
    pacs = start_pacs()
    calling = requestor(pacs.port)
    assert calling.attempt is None
    assert calling.accepted(SecondaryCaptureImageStorage) == frozenset()
    association = calling.open()
    assert calling.open() is association is calling.association
    assert calling.attempt is not None
    assert calling.attempt.outcome is Outcome.ESTABLISHED
    assert calling.attempt.connected
    assert calling.attempt.implementation
    assert calling.accepted(SecondaryCaptureImageStorage) == {ExplicitVRLittleEndian, ImplicitVRLittleEndian}
    assert [one.accepted for one in calling.contexts] == [True, True]
    calling.release()
    assert association.is_released
    calling.open()
    assert pacs.associations == 2
    calling.release()


@pytest.mark.slow
@pytest.mark.parametrize("end", [Requestor.abort, Requestor.drop])
def test_an_association_that_is_given_up_is_requested_again(
    start_pacs: StartPacs, end: Callable[[Requestor], None]
) -> None:
    calling = requestor(start_pacs().port)
    association = calling.open()
    end(calling)
    association.join(10.0)
    assert not calling.is_open
    assert calling.open() is not association
    calling.release()


def test_a_host_name_that_is_unknown() -> None:
    error = failed(requestor(104, host="pacs.invalid"))
    assert (error.attempt.outcome, error.attempt.connected) == (Outcome.UNKNOWN_HOST, False)
    assert error.why == "its host name cannot be resolved"


def test_a_closed_port() -> None:
    error = failed(requestor(free_port()))
    assert error.attempt.outcome is Outcome.NO_CONNECTION
    assert isinstance(error.attempt.failure, ConnectionRefusedError)
    assert error.why == "no connection: it was refused, so nothing listens there or a firewall is in between"


@pytest.mark.slow
def test_a_connection_that_is_not_answered() -> None:
    """The queue of a listener that accepts nobody is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        error = failed(requestor(address[1]))
        for one in waiting:
            one.close()
    assert error.attempt.outcome is Outcome.NO_CONNECTION
    assert isinstance(error.attempt.failure, TimeoutError)
    assert error.attempt.seconds >= 0.5
    assert error.why == "no connection: no answer within 0.5 s, so the machine is off or a firewall is in between"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pacs", "diagnostic", "why"),
    [
        ({"require_calling": ("SOMEBODY",)}, 3, "it does not know our AE title 'AINODE': add it to the PACS"),
        ({"ae_title": "OTHER"}, 7, "it does not answer to AE title 'PACS': correct ae_title of peer pacs"),
    ],
)
def test_a_rejection(start_pacs: StartPacs, pacs: dict[str, Any], diagnostic: int, why: str) -> None:
    error = failed(requestor(start_pacs(**pacs).port))
    assert error.attempt.outcome is Outcome.REJECTED
    assert error.attempt.rejection == (1, diagnostic)
    assert error.why == f"it rejected the association: {why}"


@pytest.mark.slow
def test_a_peer_that_accepts_none_of_the_contexts(start_pacs: StartPacs) -> None:
    error = failed(requestor(start_pacs().port, "1.2.840.10008.5.1.1.9"))  # Basic Grayscale Print Management
    assert isinstance(error, NoContextError)
    assert error.attempt.outcome is Outcome.NO_CONTEXT
    assert [(one.transfer_syntax, one.result) for one in error.attempt.contexts] == [
        (ExplicitVRLittleEndian, 3),
        (ImplicitVRLittleEndian, 3),
    ]
    assert error.why == "it accepts none of our SOP classes"


REJECTION = bytes.fromhex("0300 00000004 00 02 03 02")
ABORT = bytes.fromhex("0700 00000004 0000 0201")
GARBAGE = b"SSH-2.0-Open\r\n"


@pytest.mark.parametrize(
    ("answer", "outcome", "why"),
    [
        (REJECTION, Outcome.REJECTED, "it rejected the association: it has reached its limit of associations"),
        (
            ABORT,
            Outcome.ABORTED,
            "it aborted the association request: its DICOM layer aborted: it did not recognise what we sent",
        ),
        (None, Outcome.CLOSED, "it closed the connection and did not answer the association request"),
    ],
)
def test_a_peer_that_answers_otherwise_and_hangs_up(answer: bytes | None, outcome: Outcome, why: str) -> None:
    with answering(answer) as port:
        error = failed(requestor(port, timeouts=Timeouts(connect=10.0)))
    assert (error.attempt.outcome, error.attempt.connected) == (outcome, True)
    assert error.why == why
    assert error.attempt.seconds < error.attempt.patience


def test_a_malformed_answer() -> None:
    """An A-ASSOCIATE-AC whose items are none."""
    with answering(bytes.fromhex("0200 0000006c") + b"\xff" * 108, hang_up=False) as port:
        error = failed(requestor(port))
    assert error.attempt.outcome is Outcome.MALFORMED
    assert error.why == "it answered the association request with something that is no answer to it"


@pytest.mark.slow
def test_a_peer_that_says_nothing() -> None:
    with answering(b"", hang_up=False) as port:
        error = failed(requestor(port))
    assert error.attempt.outcome is Outcome.NO_ANSWER
    assert error.attempt.seconds >= 0.5
    assert error.why == "it took the connection but did not answer the association request within 0.5 s"


@pytest.mark.slow
def test_an_error_of_ours_is_not_told_as_one_of_the_peer(start_pacs: StartPacs) -> None:
    peer = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=start_pacs().port)
    with pytest.raises(RuntimeError, match="presentation context"):
        Requestor("AINODE", peer, ()).open()


@pytest.mark.slow
def test_every_attempt_passes_one_place(start_pacs: StartPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the audit message of an association will be written."""
    seen: list[Outcome] = []
    record = Requestor._record

    def recorded(calling: Requestor, attempt: Attempt) -> None:
        seen.append(attempt.outcome)
        record(calling, attempt)

    monkeypatch.setattr(Requestor, "_record", recorded)
    calling = requestor(start_pacs().port)
    calling.open()
    calling.open()
    calling.release()
    failed(requestor(free_port()))
    assert seen == [Outcome.ESTABLISHED, Outcome.NO_CONNECTION]


@pytest.mark.slow
def test_c_echo() -> None:
    assert Verification == VERIFICATION
    ae = AE("PACS")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        calling = requestor(server.server_address[1], VERIFICATION)
        assert echo(calling) == 0x0000
        calling.release()
    finally:
        ae.shutdown()
    with pytest.raises(AssociationError):
        echo(requestor(free_port(), VERIFICATION))
