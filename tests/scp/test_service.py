"""What a service may do on an association: several responses, C-CANCEL, sub-operations, a message after the answer.

The services here stand for a C-FIND and a C-GET SCP: no edit of the association serves them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from dicom_node import log
from dicom_node.config.holder import SettingsHolder
from dicom_node.network import dimse
from dicom_node.scp.server import Server
from dicom_node.scp.service import CollectingService, Request, Service, Services, Supported
from dicom_node.scp.verification import VerificationSCP
from tests.support import wire
from tests.support.nodes import settings_for
from tests.support.waiting import wait_until
from tests.support.wire import ECHO, Raw, echo_rq, message

FIND, GET = StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet
QUERY = 7  # presentation context id
C_FIND_RQ, C_GET_RQ = 0x0020, 0x0010
Logged = Callable[[], list[dict[str, Any]]]


class Find(CollectingService):
    """Answers with as many matches as the Patient ID of the identifier says, or with what ``serve_as`` gives."""

    supported = (Supported(FIND),)
    commands = frozenset({C_FIND_RQ, dimse.C_CANCEL_RQ})

    def __init__(self, serve_as: Callable[[Request], Iterable[Any]] | None = None) -> None:
        self._serve_as = serve_as
        self.peers: list[str] = []
        self.ended_count = 0

    def serve(self, request: Request) -> Iterable[Any]:
        self.peers.append(request.peer.ae_title)
        return self._matches(request) if self._serve_as is None else self._serve_as(request)

    def ended(self, association: object) -> None:
        self.ended_count += 1

    @staticmethod
    def _matches(request: Request) -> Iterator[Any]:
        for number in range(int(request.data_set().PatientID)):
            if request.is_cancelled():
                yield request.answer(0xFE00)
                return
            yield request.answer(0xFF00, identifier(number))
        yield request.answer(0x0000)


class Get(CollectingService):
    """Sends one object as a sub-operation, and answers how that went."""

    supported = (Supported(GET),)
    commands = frozenset({C_GET_RQ})

    def serve(self, request: Request) -> Iterator[Any]:
        (context,) = (each for each in request.association.contexts if each.sop_class != GET)
        yield request.answer(0xFF00, NumberOfRemainingSuboperations=1)
        store = C_STORE()
        store.MessageID, store.Priority = 7, 2
        store.AffectedSOPClassUID, store.AffectedSOPInstanceUID = context.sop_class, "1.2.3"
        store.DataSet = context.encode(identifier(5))
        went = request.ask(store, context)
        done = {"NumberOfCompletedSuboperations": 1, "NumberOfFailedSuboperations": int(went.Status != 0x0000)}
        yield request.answer(went.Status, **done)


def identifier(number: int) -> Dataset:
    data_set = Dataset()
    data_set.PatientID = str(number)
    return data_set


def find_rq(number: int = 1) -> bytes:
    return wire.command_set({0x0002: FIND.encode(), 0x0100: C_FIND_RQ, 0x0110: number, 0x0700: 2, 0x0800: 1})


def cancel_rq(number: int) -> bytes:
    return wire.command_set({0x0100: dimse.C_CANCEL_RQ, 0x0120: number, 0x0800: 0x0101})


def query(matches: int) -> bytes:
    value = str(matches).encode()
    return b"\x10\0\x20\0LO" + (len(value) + len(value) % 2).to_bytes(2, "little") + value + b" " * (len(value) % 2)


@contextmanager
def serving(folder: Path, *services: Service) -> Iterator[Server]:
    server = Server(SettingsHolder(settings_for(folder)), Services([VerificationSCP(), *services]))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def asking(server: Server) -> Iterator[Raw]:
    contexts = {ECHO: wire.CONTEXTS[ECHO], QUERY: (FIND, ExplicitVRLittleEndian)}
    with Raw(server.port) as raw:
        raw.send(wire.associate_rq(contexts))
        assert raw.pdu()[0] == wire.ASSOCIATE_AC
        yield raw


def statuses(raw: Raw) -> list[int]:
    """Of the responses until the final one; data sets are passed over."""
    found: list[int] = []
    while not found or found[-1] == 0xFF00:
        kind, body = raw.pdu()
        assert kind == wire.P_DATA
        if body[5] & 1:
            found.append(int.from_bytes(wire.parsed(body[6:])[0x0900], "little"))
    return found


@pytest.fixture
def logged() -> Iterator[Logged]:
    stream = io.StringIO()
    log.configure(stream)
    yield lambda: list(map(json.loads, stream.getvalue().splitlines()))


def test_a_service_answers_with_several_responses_and_is_told_who_asks_and_when_it_ends(tmp_path: Path) -> None:
    find = Find()
    with serving(tmp_path, find) as server:
        ae = AE(ae_title="TESTER")
        ae.add_requested_context(FIND)
        association = ae.associate("127.0.0.1", server.port, ae_title="AINODE")
        came = [
            (status.Status, match and match.PatientID) for status, match in association.send_c_find(identifier(3), FIND)
        ]
        assert came == [(0xFF00, "0"), (0xFF00, "1"), (0xFF00, "2"), (0x0000, None)]
        assert next(association.send_c_find(identifier(0), FIND))[0].Status == 0x0000
        assert find.ended_count == 0
        association.release()
        wait_until(lambda: find.ended_count == 1, "the service to be told")
    assert find.peers == ["TESTER", "TESTER"]


def test_a_request_is_cancelled_between_two_responses(tmp_path: Path) -> None:
    with serving(tmp_path, Find()) as server, asking(server) as raw:
        raw.send(message(QUERY, find_rq(3), query(100_000)))
        raw.send(message(QUERY, cancel_rq(2)), message(QUERY, cancel_rq(3)))  # the first is of another request
        found = statuses(raw)
        assert found[-1] == 0xFE00
        assert len(found) < 100_000
        raw.send(message(QUERY, cancel_rq(3)), message(QUERY, find_rq(4), query(2)))  # the first comes too late
        assert statuses(raw) == [0xFF00, 0xFF00, 0x0000]
        raw.release()


@pytest.mark.parametrize(
    "sent",
    [message(ECHO, echo_rq()), message(QUERY, find_rq(), query(1)), wire.RELEASE],
    ids=["an echo", "a query", "a release"],
)
def test_what_may_not_come_before_the_answer_ends_the_association(tmp_path: Path, sent: bytes) -> None:
    def waits(request: Request) -> Iterator[Any]:
        while not request.is_cancelled():
            pass
        yield request.answer(0xFE00)

    with serving(tmp_path, Find(waits)) as server, asking(server) as raw:
        raw.send(message(QUERY, find_rq(), query(1)), sent)
        assert raw.pdu() == (wire.ABORT, b"\0\0\x02\x02")


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
def test_a_service_that_fails_is_told_of_and_the_association_lives(
    tmp_path: Path, answered: bool, logged: Logged
) -> None:
    def fails(request: Request) -> Iterator[Any]:
        yield request.answer(0xFF00, identifier(1))
        if answered:
            yield request.answer(0x0000)
        raise RuntimeError("an error of ours")

    with serving(tmp_path, Find(fails)) as server, asking(server) as raw:
        raw.send(message(QUERY, find_rq(), query(1)))
        assert statuses(raw) == [0xFF00, 0x0000 if answered else 0x0110]
        raw.send(message(ECHO, echo_rq(9)))
        assert raw.status(9) == 0x0000
        raw.release()
    assert [line["event"] for line in logged()] == ["request.failed"]


def test_a_service_that_gives_no_answer_has_failed(tmp_path: Path, logged: Logged) -> None:
    with serving(tmp_path, Find(lambda _request: [])) as server, asking(server) as raw:
        raw.send(message(QUERY, find_rq(), query(1)))
        assert statuses(raw) == [0x0110]
        raw.release()
    assert [line["event"] for line in logged()] == ["request.failed"]


def test_a_service_sends_requests_of_its_own_on_the_same_association(tmp_path: Path) -> None:
    came: list[str] = []

    def on_store(event: Any) -> int:
        came.append(event.dataset.PatientID)
        return 0xB000

    with serving(tmp_path, Get()) as server:
        ae = AE(ae_title="TESTER")
        ae.add_requested_context(GET)
        ae.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
        role = build_role(ComputedRadiographyImageStorage, scp_role=True)
        association = ae.associate(
            "127.0.0.1", server.port, ae_title="AINODE", ext_neg=[role], evt_handlers=[(evt.EVT_C_STORE, on_store)]
        )
        found = [status for status, _ in association.send_c_get(identifier(1), GET)]
        association.release()
    assert came == ["5"]
    assert [status.Status for status in found] == [0xFF00, 0xB000]
    assert found[-1].NumberOfCompletedSuboperations == 1


def test_two_services_for_the_same_message_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"two services serve message 0020H of SOP class 1\.2\.840\.10008\.5\.1\.4\.1\.2\.2\.1"
    ):
        Services([Find(), Find()])
