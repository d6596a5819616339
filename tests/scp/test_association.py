"""Receiving, byte by byte: however a sender cuts and ends what it sends, what is answered 0000 is stored as it came.

The sender is `wire.Raw`, which obeys only the test.
"""

from __future__ import annotations

import io
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification

from dicom_node import log
from dicom_node.network import dimse, upper_layer
from dicom_node.network.pynetdicom_setup import configure_pynetdicom
from dicom_node.node import Node
from tests.support import wire
from tests.support.nodes import settings_for
from tests.support.waiting import scaled, wait_until
from tests.support.wire import (
    ECHO,
    STORE,
    Raw,
    associated,
    data_set,
    echo_rq,
    message,
    new_uid,
    pdu,
    pdv,
    store_message,
    store_rq,
)

StartNode = Callable[..., Node]
Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One that lives through every test: none of them may harm it."""
    log.configure(io.StringIO())  # it logs between the tests too, when pytest takes its own streams away
    node = Node(settings_for(tmp_path_factory.mktemp("wire") / "node"))
    node.start()
    yield node
    node.stop()


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What was logged; of the studies of earlier tests nothing."""
    stream = io.StringIO()
    log.configure(stream)
    yield lambda: [
        line for line in map(json.loads, stream.getvalue().splitlines()) if not line["event"].startswith("study.")
    ]


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def assert_stored(node: Node, uid: str, data: bytes) -> None:
    kept = wire.stored_bytes(node, uid)
    assert kept is not None, "the index does not know the instance"
    same = kept == data  # not in the assertion, which would tell how megabytes differ
    assert same, f"{len(kept)} bytes are stored, which are not the {len(data)} that were sent"


def assert_answers(raw: Raw, number: int = 99) -> None:
    raw.send(message(ECHO, echo_rq(number)))
    assert raw.status(number) == 0x0000


def assert_lives(node: Node) -> None:
    with associated(node) as raw:
        assert_answers(raw)
        raw.release()
    wire.assert_nothing_left(node)


# -- fragments, PDUs and segments


@pytest.mark.parametrize("longest", [4096, 16384, 128 * 1024, 1024 * 1024, None])
def test_pdus_of_any_length_bring_the_same_bytes(node: Node, longest: int | None) -> None:
    uid = new_uid()
    data = data_set(uid, noise(3_000_001))
    with associated(node) as raw:
        raw.send(store_message(uid, data, longest=longest or len(data) + 6))
        assert raw.status() == 0x0000
        raw.release()
    assert_stored(node, uid, data)
    wire.assert_nothing_left(node)


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_command_and_its_data_set_may_share_a_pdu(node: Node, size: int) -> None:
    uid = new_uid()
    data, command = data_set(uid, noise(20_000)), store_rq(uid)
    pieces = wire.fragments(STORE, wire.cut(command, size), command=True)
    with associated(node) as raw:
        raw.send(pdu(wire.P_DATA, b"".join([*pieces, pdv(STORE, 0, data[:5000]), pdv(STORE, 2, data[5000:])])))
        assert raw.status() == 0x0000
        raw.send(pdu(wire.P_DATA, b"".join(pieces)) + pdu(wire.P_DATA, pdv(STORE, 2, data)))
        assert raw.status() == 0x0000
        raw.release()
    assert_stored(node, uid, data)


@pytest.mark.parametrize("together", [1, 3, 700, 1_000_000])
def test_a_data_set_may_come_in_tiny_fragments(node: Node, together: int) -> None:
    uid = new_uid()
    data = data_set(uid, noise(280_000))
    pieces = wire.fragments(STORE, wire.cut(data, 17))
    with associated(node) as raw:
        raw.send(message(STORE, store_rq(uid)))
        raw.send(
            b"".join(pdu(wire.P_DATA, b"".join(pieces[at : at + together])) for at in range(0, len(pieces), together))
        )
        assert raw.status() == 0x0000
        raw.release()
    assert_stored(node, uid, data)


@pytest.mark.parametrize("together", [1, 100])
def test_fragments_may_be_empty(node: Node, together: int) -> None:
    uid = new_uid()
    data, command = data_set(uid, noise(5000)), store_rq(uid)
    pieces = wire.fragments(STORE, [b"", command[:9], b"", b"", command[9:], b""], command=True)
    pieces += wire.fragments(STORE, [b"", b"", data[:1], b"", data[1:], b"", b""])
    with associated(node) as raw:
        raw.send(*(pdu(wire.P_DATA, b"".join(pieces[at : at + together])) for at in range(0, len(pieces), together)))
        assert raw.status() == 0x0000
        raw.send(message(STORE, store_rq(uid, 2), b""))
        assert raw.status(2) == 0xC000, "an empty data set"
        raw.send(pdu(wire.P_DATA, b"") * 3)
        assert_answers(raw)
        raw.release()
    assert_stored(node, uid, data)


def test_tcp_may_deliver_one_byte_at_a_time(node: Node) -> None:
    uid = new_uid()
    data = data_set(uid, noise(100))
    stream = wire.associate_rq() + message(ECHO, echo_rq()) + store_message(uid, data, 2) + wire.RELEASE
    with Raw(node.port) as raw:
        for byte in stream:
            raw.send(bytes((byte,)))
        assert raw.pdu()[0] == wire.ASSOCIATE_AC
        assert (raw.status(), raw.status(2)) == (0x0000, 0x0000)
        assert raw.pdu()[0] == wire.RELEASE_RP
    assert_stored(node, uid, data)


def test_requests_that_do_not_wait_are_answered_in_their_order(node: Node) -> None:
    instances = [(uid, data_set(uid, noise(n * 3000))) for n, uid in enumerate(new_uid() for _ in range(12))]
    stream = b""
    for number, (uid, data) in enumerate(instances):
        stream += store_message(uid, data, 2 * number) + message(ECHO, echo_rq(2 * number + 1))
    with associated(node) as raw:
        raw.send(stream + wire.RELEASE)
        assert [raw.status(number) for number in range(24)] == [0x0000] * 24
        assert raw.pdu()[0] == wire.RELEASE_RP
    for uid, data in instances:
        assert_stored(node, uid, data)


def test_an_echo_between_two_images_disturbs_neither(node: Node) -> None:
    with associated(node) as raw:
        for number in (1, 3, 5):
            uid = new_uid()
            data = data_set(uid, noise(40_000))
            raw.send(store_message(uid, data, number))
            assert raw.status(number) == 0x0000
            assert_answers(raw, number + 1)
            assert_stored(node, uid, data)
        raw.release()


def test_only_two_bits_of_the_control_header_count(node: Node) -> None:
    uid = new_uid()
    data = data_set(uid, noise(1000))
    parts = [pdv(STORE, 0xFF, store_rq(uid)), pdv(STORE, 0xFC, data[:500]), pdv(STORE, 0x42, data[500:])]
    with associated(node) as raw:
        raw.send(*(pdu(wire.P_DATA, part) for part in parts))
        assert raw.status() == 0x0000
        raw.release()
    assert_stored(node, uid, data)


def test_a_context_has_the_transfer_syntax_that_was_agreed_for_it(node: Node) -> None:
    with associated(node) as raw:
        for context, (_, syntax) in wire.CONTEXTS.items():
            if context != ECHO:
                uid = new_uid()
                raw.send(message(context, store_rq(uid), data_set(uid, noise(50))))
                assert raw.response()[0] == context
                kept = node.received(uid)
                assert kept is not None
                assert split_dataset(kept[0])[0].TransferSyntaxUID == syntax
        raw.release()


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes cut at some places, of which one that is named twice makes an empty piece."""
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(at)]


def grouped(fragments: Sequence[bytes], ends: Sequence[bool]) -> bytes:
    """Fragments in PDUs, of which one ends where ``ends`` (over and over) says so."""
    stream, body = b"", b""
    for number, fragment in enumerate(fragments):
        body += fragment
        if ends[number % len(ends)] or number == len(fragments) - 1:
            stream += pdu(wire.P_DATA, body)
            body = b""
    return stream


CUTS = st.lists(st.integers(0, 4000), max_size=12)
ENDS = st.lists(st.booleans(), min_size=1, max_size=7)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 3500), command_cuts=CUTS, data_cuts=CUTS, ends=ENDS, segments=CUTS)
def test_no_cut_changes_what_is_stored(
    node: Node, *, size: int, command_cuts: list[int], data_cuts: list[int], ends: list[bool], segments: list[int]
) -> None:
    uid = new_uid()
    data = data_set(uid, noise(size))
    fragments = wire.fragments(STORE, pieces_of(store_rq(uid), command_cuts), command=True)
    fragments += wire.fragments(STORE, pieces_of(data, data_cuts))
    with associated(node) as raw:
        for segment in pieces_of(grouped(fragments, ends) + message(ECHO, echo_rq(2)), segments):
            raw.send(segment)
            time.sleep(0)  # whoever reads may do so now
        assert (raw.status(), raw.status(2)) == (0x0000, 0x0000)
        raw.release()
    assert_stored(node, uid, data)


class Scripted:
    """A socket that is read in pieces of given sizes (over and over)."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self._data = memoryview(data)
        self._sizes = sizes
        self._reads = 0

    def recv_into(self, buffer: memoryview) -> int:
        assert len(buffer), "there is no room to read into"
        count = min(self._sizes[self._reads % len(self._sizes)], len(buffer), len(self._data))
        self._reads += 1
        buffer[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def setsockopt(self, *_args: object) -> None:
        pass

    settimeout = setsockopt


Fragment = tuple[int, int, bytes]
FRAGMENTS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=90)), max_size=20)


@given(FRAGMENTS, ENDS, st.lists(st.integers(1, 100), min_size=1, max_size=9), st.integers(6, 200))
def test_fragments_come_out_of_the_upper_layer_as_they_went_in(
    sent: list[Fragment], ends: list[bool], sizes: list[int], buffer: int
) -> None:
    request = wire.associate_rq()
    stream = request + grouped([pdv(*fragment) for fragment in sent], ends) + wire.RELEASE
    came: list[Fragment] = []
    whole: list[bytes] = []
    held: list[tuple[int, int, memoryview, bool]] = []
    read = 0

    def keep() -> None:
        """Only now may the bytes that were handed out change."""
        for context, control, piece, last in held:
            whole.append(bytes(piece))
            if last:
                came.append((context, control, b"".join(whole)))
                whole.clear()
        held.clear()

    def note() -> None:
        nonlocal read
        read += 1

    with mock.patch.object(upper_layer, "BUFFER_BYTES", buffer):
        upper = upper_layer.UpperLayer(
            Scripted(stream, sizes),  # type: ignore[arg-type]
            request_seconds=60,
            on_bytes=note,
        )
    assert upper.request_begins()[1]().calling_ae_title == "TESTER"
    assert read >= len(request) // max(sizes)
    held.extend(upper.fragments(keep))  # which calls `keep` in between
    keep()
    assert came == sent
    with pytest.raises(upper_layer.GoneError):
        next(upper.fragments(keep))


# -- what the requestor can take


@pytest.mark.parametrize("longest", [7, 8, 32, 100, 16384, 0, 0xFFFFFFFF])
def test_responses_are_no_longer_than_the_requestor_takes(node: Node, longest: int) -> None:
    uid = new_uid()
    with associated(node, wire.associate_rq(longest=longest)) as raw:
        raw.send(store_message(uid, data_set(uid), 258))
        context, response = raw.response()
        assert context == STORE
        assert response == {
            0x0000: response[0x0000],
            0x0002: ComputedRadiographyImageStorage.encode() + b"\0",
            0x0100: b"\x01\x80",
            0x0120: b"\x02\x01",
            0x0800: b"\x01\x01",
            0x0900: b"\0\0",
            0x1000: uid.encode() + b"\0" * (len(uid) % 2),
        }
        assert_answers(raw)
        assert raw.longest <= (longest or 1000)
        assert raw.longest > min(longest or 1000, 100) // 2, "needless PDUs"
        raw.release()


@pytest.mark.parametrize("longest", [None, 1, 6])
def test_a_requestor_that_can_take_no_pdu_is_told_what_can_be_told(node: Node, longest: int | None) -> None:
    uid = new_uid()
    with associated(node, wire.associate_rq(longest=longest)) as raw:
        raw.send(store_message(uid, data_set(uid)))
        assert raw.status() == 0x0000
        raw.send(message(ECHO, echo_rq()))
        assert raw.pdu() == (wire.ABORT, b"\0\0\x02\x06")
    assert_lives(node)


def test_every_item_of_user_information_is_understood(node: Node) -> None:
    role = struct.pack(">H", 25) + b"1.2.840.10008.5.1.4.1.1.1" + b"\x01\x01"
    user = b"\x02\x00" + struct.pack(">H4sH6s", 4, b"name", 6, b"secret")
    extended = struct.pack(">H", 25) + b"1.2.840.10008.5.1.4.1.1.1" + b"\x02\0\x01\0\x01\0"
    common = struct.pack(">H", 25) + b"1.2.840.10008.5.1.4.1.1.1" + struct.pack(">H", 17) + b"1.2.840.10008.4.2"
    more = wire.item(0x55, b"VERSION") + wire.item(0x53, b"\0\x05\0\x05") + wire.item(0x54, role)
    more += wire.item(0x56, extended) + wire.item(0x57, common + b"\0\0") + wire.item(0x58, user)
    with associated(node, wire.associate_rq(more=more)) as raw:
        assert_answers(raw)
        raw.release()


@pytest.mark.parametrize(
    "syntax", ["1.2.3é", "1.2/../..", "1" * 60_000, "", "\0"], ids=["latin", "path", "long", "", "0"]
)
def test_a_transfer_syntax_that_is_none_harms_nobody(node: Node, syntax: str) -> None:
    uid = new_uid()
    with Raw(node.port) as raw:
        raw.send(wire.associate_rq({ECHO: wire.CONTEXTS[ECHO], STORE: (ComputedRadiographyImageStorage, syntax)}))
        if raw.pdu()[0] == wire.ASSOCIATE_AC:
            raw.send(store_message(uid, data_set(uid)))
            if (came := raw.pdu())[0] == wire.P_DATA and wire.parsed(came[1][6:])[0x0900] == b"\0\0":
                assert_stored(node, uid, data_set(uid))
    assert_lives(node)


# -- connections that end


@pytest.mark.slow
def test_a_connection_that_ends_after_any_byte_leaves_nothing(node: Node) -> None:
    contexts = {context: wire.CONTEXTS[context] for context in (ECHO, STORE)}
    request, echo = wire.associate_rq(contexts), message(ECHO, echo_rq())
    uids: dict[str, bytes] = {}

    def stream() -> tuple[str, bytes]:
        uid = new_uid()
        uids[uid] = data_set(uid, noise(30))
        return uid, request + echo + store_message(uid, uids[uid], 2) + wire.RELEASE

    length = len(stream()[1])
    steps = (len(request), len(request + echo), length - len(wire.RELEASE), length)
    answers = (wire.ASSOCIATE_AC, wire.P_DATA, wire.P_DATA, wire.RELEASE_RP)

    def end_after(count: int, *, abruptly: bool) -> str | None:
        """The UID where it was answered 0000."""
        uid, sent = stream()
        came = []
        with Raw(node.port) as raw:
            raw.send(sent[:count])
            if abruptly:
                raw.reset()
                return None
            raw.socket.shutdown(socket.SHUT_WR)
            while (one := raw.pdu())[0]:
                came.append(one)
        assert [kind for kind, _ in came] == [a for a, s in zip(answers, steps, strict=True) if s <= count], count
        if count < steps[2]:
            return None
        assert wire.parsed(came[2][1][6:])[0x0900] == b"\0\0"
        return uid

    assert_lives(node)
    open_files = wire.open_files()
    with ThreadPoolExecutor(6) as pool:
        politely = list(pool.map(lambda count: end_after(count, abruptly=False), range(length + 1)))
        list(pool.map(lambda count: end_after(count, abruptly=True), range(length + 1)))
    wire.assert_nothing_left(node)
    stored = [uid for uid in politely if uid]
    assert len(stored) == len(wire.RELEASE) + 1
    for uid, data in uids.items():
        if uid in stored or node.received(uid):
            assert_stored(node, uid, data)
    assert len(list((node.settings.node.data_dir / "spool").rglob("*.dcm"))) == instances(node), "unknown files"
    wait_until(lambda: wire.open_files() <= open_files, "every file and socket to be closed", 10)
    assert_lives(node)


def instances(node: Node) -> int:
    assert node.index is not None
    return sum(int(row.instances) for row in node.index.studies_with_state())


@pytest.mark.parametrize("size", [100, 100_000, 600_000])
def test_an_abort_amid_a_data_set_leaves_nothing(node: Node, size: int, logged: Logged) -> None:
    uid = new_uid()
    with associated(node) as raw:
        raw.send(message(STORE, store_rq(uid)))
        raw.send(pdu(wire.P_DATA, pdv(STORE, 0, data_set(uid, noise(size)))), pdu(wire.ABORT, bytes(4)))
        assert raw.pdu()[0] == 0, "an abort is not answered"
    assert_lives(node)
    assert node.received(uid) is None
    assert [line["reason"] for line in logged()] == ["the caller aborted it"]


def test_a_release_amid_a_data_set_stores_nothing(node: Node) -> None:
    uid = new_uid()
    with associated(node) as raw:
        raw.send(message(STORE, store_rq(uid)), pdu(wire.P_DATA, pdv(STORE, 0, data_set(uid, noise(100_000)))))
        raw.release()
    assert_lives(node)
    assert node.received(uid) is None


# -- violations of the protocol


def test_an_association_that_nobody_asked_for_is_aborted(node: Node) -> None:
    first = {
        "unknown type": pdu(0x47, bytes(4)),
        "no type at all": pdu(0x00, bytes(4)),
        "another protocol": b"GET / HTTP/1.1\r\nHost: ainode\r\n\r\n",
        "data": message(ECHO, echo_rq()),
        "release": wire.RELEASE,
        "an acceptor's word": pdu(wire.ASSOCIATE_AC, bytes(68)),
        "4 GB": struct.pack(">BxI", wire.ASSOCIATE_RQ, 0xFFFFFFFF),
        "more than anybody asks for": struct.pack(">BxI", wire.ASSOCIATE_RQ, 300 * 1024),
        "no request inside": pdu(wire.ASSOCIATE_RQ, bytes(4)),
        "noise inside": pdu(wire.ASSOCIATE_RQ, wire.associate_rq()[6:74] + noise(500)),
        "a request cut short": pdu(wire.ASSOCIATE_RQ, wire.associate_rq()[6:-30]),
        "a longer item than its request": pdu(wire.ASSOCIATE_RQ, wire.associate_rq()[6:] + b"\x50\0\xff\xff"),
    }
    for what, sent in first.items():
        with Raw(node.port) as raw:
            raw.send(sent)
            kind, body = raw.pdu()
            assert (kind, body[:3]) == (wire.ABORT, b"\0\0\x02"), what
            assert raw.pdu()[0] == 0, what
    assert_lives(node)


@pytest.mark.parametrize(
    "context",
    [
        b"",
        wire.item(0x30, b"1.2.3"),
        wire.item(0x40, b"1.2.840.10008.1.2"),
        wire.item(0x30, b"") + wire.item(0x40, b"1.2"),
        wire.item(0x30, b"1.2.3") + 2 * wire.item(0x40, b""),
    ],
    ids=["nothing", "no syntax", "no class", "an empty class", "empty syntaxes"],
)
def test_a_context_that_names_too_little_is_a_violation(node: Node, context: bytes, logged: Logged) -> None:
    whole = wire.associate_rq()[6:]
    at = whole.index(wire.item(0x50, b"")[:2], 74)
    with Raw(node.port) as raw:
        raw.send(pdu(wire.ASSOCIATE_RQ, whole[:at] + wire.item(0x20, b"\x09\0\0\0" + context) + whole[at:]))
        assert raw.pdu() == (wire.ABORT, b"\0\0\x02\x06")
    assert_lives(node)
    assert not [line for line in logged() if "error" in line]


def test_all_contexts_that_there_can_be_are_asked_for_at_once(node: Node) -> None:
    uid = b"1.2.840.10008.1.2.4.%061d"
    contexts = b"".join(
        wire.item(
            0x20,
            struct.pack("Bxxx", 2 * number + 1)
            + wire.item(0x30, ComputedRadiographyImageStorage.encode())
            + b"".join(wire.item(0x40, (uid % each)[-64:]) for each in range(20)),
        )
        for number in range(128)
    )
    whole = wire.associate_rq()[6:]
    begin, end = whole.index(b"\x20\0", 74), whole.index(wire.item(0x50, b"")[:2], 74)
    with Raw(node.port) as raw:
        raw.send(pdu(wire.ASSOCIATE_RQ, whole[:begin] + contexts + whole[end:]))
        assert raw.pdu()[0] == wire.ASSOCIATE_AC
        raw.release()


def test_a_protocol_without_version_1_is_rejected(node: Node) -> None:
    with Raw(node.port) as raw:
        raw.send(wire.associate_rq(version=0xFFFE))
        assert raw.pdu() == (wire.ASSOCIATE_RJ, b"\0\x01\x02\x02")
    with associated(node, wire.associate_rq(version=0xFFFF)) as raw:
        raw.release()
    assert_lives(node)


def test_an_abort_before_the_association_is_no_event(node: Node, logged: Logged) -> None:
    with Raw(node.port) as raw:
        raw.send(pdu(wire.ABORT, bytes(4)))
        assert raw.pdu()[0] == 0
    assert_lives(node)
    assert logged() == []


def lengths(*of_pdvs: int, body: bytes) -> bytes:
    """A P-DATA-TF with PDVs of C-ECHO's command that lie about their lengths."""
    return pdu(wire.P_DATA, b"".join(struct.pack(">IBB", length, ECHO, 3) for length in of_pdvs) + body)


def command(elements: dict[int, bytes | int]) -> bytes:
    return message(ECHO, wire.command_set(elements))


_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_HALF = pdu(wire.P_DATA, pdv(STORE, 0, b"half"))
_UID = "2.25.1"
VIOLATIONS: dict[str, bytes] = {
    "unknown PDU type": pdu(0x08, bytes(4)),
    "PDU type 0": pdu(0x00, bytes(4)),
    "unknown PDU type of 4 GB": struct.pack(">BxI", 0xFF, 0xFFFFFFFF),
    "release of 4 GB": struct.pack(">BxI", wire.RELEASE_RQ, 0xFFFFFFFF),
    "another request": wire.associate_rq({ECHO: wire.CONTEXTS[ECHO]}),
    "another long request": wire.associate_rq(more=wire.item(0x57, bytes(2000))),
    "an acceptor's word": pdu(wire.ASSOCIATE_AC, bytes(68)),
    "a rejection": pdu(wire.ASSOCIATE_RJ, bytes(4)),
    "a release response": pdu(wire.RELEASE_RP, bytes(4)),
    "PDV length 0": pdu(wire.P_DATA, bytes(4) + pdv(ECHO, 3, echo_rq())),
    "PDV length 1": message(STORE, store_rq(_UID))
    + pdu(wire.P_DATA, struct.pack(">IB", 1, STORE) + pdv(STORE, 2, b"data")),
    "PDV longer than its PDU": lengths(100, body=echo_rq()[:20]),
    "PDV longer than its PDU by one": lengths(len(echo_rq()) + 3, body=echo_rq()),
    "PDV of 4 GB": lengths(0xFFFFFFFF, body=echo_rq()),
    **{
        f"{left} bytes behind the last PDV": pdu(wire.P_DATA, pdv(ECHO, 1, echo_rq()) + bytes(left))
        for left in range(1, 6)
    },
    "a PDU of less than a PDV": pdu(wire.P_DATA, bytes(3)),
    "data without a command": _HALF,
    "data amid a command": pdu(wire.P_DATA, pdv(STORE, 1, store_rq(_UID)[:20])) + _HALF,
    "data behind its command's end": message(STORE, store_rq(_UID, data_set=0x0101)) + _HALF,
    "data in another context": message(STORE, store_rq(_UID)) + pdu(wire.P_DATA, pdv(ECHO, 2, b"data")),
    "data of an echo in another context": command({0x0002: Verification.encode(), 0x0100: 0x0030, 0x0110: 1, 0x0800: 1})
    + pdu(wire.P_DATA, pdv(STORE, 2, b"data")),
    "command amid a data set": message(STORE, store_rq(_UID)) + _HALF + message(ECHO, echo_rq()),
    "command before a data set": message(STORE, store_rq(_UID)) + message(ECHO, echo_rq()),
    "command amid the data of an echo": command({0x0002: Verification.encode(), 0x0100: 0x0030, 0x0110: 1, 0x0800: 1})
    + message(ECHO, echo_rq()),
    "unknown context": message(9, store_rq(_UID), data_set(_UID)),
    "context 0": message(0, echo_rq()),
    "garbage as a command": message(ECHO, noise(100)),
    "no command at all": message(ECHO, b""),
    "a command that ends within an element": message(ECHO, echo_rq()[:-1]),
    "a command that ends within a UID": message(STORE, store_rq(_UID)[:-2]),
    "a command with an element of a data set": message(ECHO, echo_rq() + data_set(_UID)),
    "a command without a field": command({0x0110: 1, 0x0800: 0x0101}),
    "a command without a data set type": command({0x0100: 0x0001, 0x0110: 1}),
    "a field of three bytes": command({0x0100: b"\x01\0\0", 0x0110: 1, 0x0800: 0x0101}),
    "a command of 65 KiB": message(STORE, store_rq("1" * 66_000), longest=20_000),
    "endless commands": b"".join(pdu(wire.P_DATA, pdv(STORE, 1, bytes(10_000))) for _ in range(7)),
    "C-STORE-RSP": command({0x0100: 0x8001, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0, 0x1000: _UID.encode()}),
    "C-STORE-RSP with an id": command({0x0100: 0x8001, 0x0110: 1, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0}),
    "C-ECHO-RSP": command({0x0002: Verification.encode(), 0x0100: 0x8030, 0x0120: 1, 0x0800: 0x0101, 0x0900: 0}),
    "unknown command field": command({0x0100: 0x0077, 0x0110: 1, 0x0800: 0x0101}),
    "C-FIND": message(
        ECHO,
        wire.command_set({0x0002: _FIND.encode(), 0x0100: 0x0020, 0x0110: 1, 0x0700: 2, 0x0800: 1}),
        b"\x08\0\x52\0\x06\0\0\0STUDY ",
    ),
    "C-FIND of the verification class": command(
        {0x0002: Verification.encode(), 0x0100: 0x0020, 0x0110: 1, 0x0700: 2, 0x0800: 0x0101}
    ),
    "N-EVENT-REPORT": command(
        {0x0002: b"1.2.840.10008.1.20.1", 0x0100: 0x0100, 0x0110: 1, 0x0800: 0x0101, 0x1000: b"1.2", 0x1002: 1}
    ),
    "C-CANCEL": command({0x0100: 0x0FFF, 0x0120: 1, 0x0800: 0x0101}),
    "C-ECHO without a class": command({0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}),
    "C-ECHO without an id": command({0x0002: Verification.encode(), 0x0100: 0x0030, 0x0800: 0x0101}),
    "C-ECHO of a storage class": command(
        {0x0002: ComputedRadiographyImageStorage.encode(), 0x0100: 0x0030, 0x0110: 1, 0x0800: 0x0101}
    ),
}


@pytest.mark.parametrize("sent", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_is_answered_by_an_abort(node: Node, sent: bytes, logged: Logged) -> None:
    with associated(node) as raw:
        assert_answers(raw)
        raw.send(sent)
        while (came := raw.pdu())[0] == wire.P_DATA:
            pass  # the answer to what was right before it
        assert (came[0], came[1][:3]) == (wire.ABORT, b"\0\0\x02"), "by the upper layer (PS3.8 9.3.8)"
        assert came[1][3] in (0x01, 0x02, 0x06)
        assert raw.pdu()[0] == 0, "and the connection is closed"
    assert_lives(node)
    assert node.received(_UID) is None
    (line,) = (line for line in logged() if line["event"] != "instance.refused")
    assert line["event"] == "association.aborted"
    assert line["reason"].startswith("the caller sent ")


@pytest.mark.parametrize(
    ("kind", "length", "reason"),
    [(0x08, 4, 0x01), (0x00, 4, 0x01), (wire.ASSOCIATE_RQ, 4, 0x02), (wire.RELEASE_RP, 4, 0x02), (0x05, 5000, 0x06)],
)
def test_an_abort_says_why(node: Node, kind: int, length: int, reason: int) -> None:
    with associated(node) as raw:
        raw.send(pdu(kind, bytes(length)))
        assert raw.pdu() == (wire.ABORT, bytes((0, 0, 2, reason)))


def test_a_store_request_without_a_data_set_is_answered(node: Node) -> None:
    with associated(node) as raw:
        raw.send(message(STORE, store_rq(new_uid(), data_set=0x0101)))
        assert raw.status() == 0xC000
        assert_answers(raw)
        raw.release()


def test_the_data_set_of_an_echo_is_taken_and_let_go(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scp.collecting._LONGEST", 20_000)
    odd = wire.command_set({0x0002: Verification.encode(), 0x0100: 0x0030, 0x0110: 7, 0x0800: 1})
    with associated(node) as raw:
        raw.send(message(ECHO, odd, noise(20_000)))
        assert raw.status(7) == 0x0000
        assert_answers(raw)
        raw.send(message(ECHO, odd, noise(20_001)))
        assert raw.pdu() == (wire.ABORT, b"\0\0\x02\x06")
    assert_lives(node)


def test_a_refused_image_is_read_to_its_end(node: Node) -> None:
    good, bad = new_uid(), "1..2"
    data = data_set(good, noise(700_000))
    with associated(node) as raw:
        raw.send(store_message(bad, data_set(bad, noise(700_000)), 1) + store_message(good, data, 2))
        assert (raw.status(1), raw.status(2)) == (0x0117, 0x0000)
        raw.release()
    assert_stored(node, good, data)
    wire.assert_nothing_left(node)


# -- connections that are no associations, or too many


def test_a_tcp_check_is_no_event(node: Node, logged: Logged) -> None:
    assert_lives(node)
    open_files = wire.open_files()
    for number in range(20):
        raw = Raw(node.port)
        raw.reset() if number % 2 else raw.socket.close()
    assert_lives(node)
    assert logged() == []
    wait_until(lambda: wire.open_files() <= open_files, "every socket to be closed", 10)


def test_one_association_too_many_is_rejected_for_now(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scp.access.MAX_ASSOCIATIONS", 2)
    wire.assert_nothing_left(node)
    with associated(node) as first, associated(node) as second:
        for _ in range(2):
            with Raw(node.port) as third:
                third.send(wire.associate_rq())
                assert third.pdu() == (wire.ASSOCIATE_RJ, b"\0\x02\x03\x02")
                assert third.pdu()[0] == 0
            wait_until(lambda: wire.associations() == 2, "the rejected one to end")
        first.release()
        wait_until(lambda: wire.associations() == 1, "the first one to end")
        with associated(node) as third:
            assert_answers(second)
            assert_answers(third)
            third.release()
        second.release()
    wire.assert_nothing_left(node)


@pytest.mark.parametrize("begin", [b"", b"\x01", wire.associate_rq()[:100]], ids=len)
def test_a_connection_that_asks_for_nothing_is_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch, begin: bytes, logged: Logged
) -> None:
    monkeypatch.setattr("dicom_node.scp.association._REQUEST_SECONDS", 0.2)
    with Raw(node.port) as raw:
        raw.send(begin)
        began = time.monotonic()
        assert raw.pdu() == (wire.ABORT, bytes(4))
        assert time.monotonic() - began < scaled(5)
    wire.assert_nothing_left(node)
    assert logged() == []


@pytest.mark.slow
def test_a_connection_that_asks_too_slowly_is_ended(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scp.association._REQUEST_SECONDS", 0.5)
    with Raw(node.port) as raw:
        raw.socket.settimeout(0.1)
        for byte in wire.associate_rq():
            raw.send(bytes((byte,)))
            try:
                came = raw.pdu()
                break
            except TimeoutError:
                pass
        else:
            pytest.fail("the association was not ended")
        assert came == (wire.ABORT, bytes(4))
    wire.assert_nothing_left(node)


@pytest.mark.slow
def test_a_node_stops_while_a_sender_takes_no_answers(start_node: StartNode, tmp_path_factory: Any) -> None:
    node = start_node(settings_for(tmp_path_factory.mktemp("deaf") / "node"))
    long = "1" * 60_000  # which the answer repeats
    with associated(node) as raw:
        raw.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            for number in range(2000):
                raw.send(store_message(long, b"", number % 65536, longest=70_000))
        began = time.monotonic()
        node.stop()
        assert time.monotonic() - began < scaled(10)
    wire.assert_nothing_left(node)


# -- commands


UIDS = st.from_regex(r"\A[1-9][0-9]{0,5}(\.[1-9][0-9]{0,8}){0,5}\Z")


@pytest.mark.slow
@given(UIDS, UIDS, st.integers(0, 0xFFFF), st.booleans(), st.integers(20, 200))
def test_a_command_of_pynetdicom_is_decoded(sop_class: str, uid: str, number: int, moved: bool, longest: int) -> None:
    configure_pynetdicom()
    request = C_STORE()
    request.MessageID, request.Priority = number, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    if moved:
        request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID = "MOVER", 7
    request.DataSet = io.BytesIO(b"data")
    store = C_STORE_RQ()
    store.primitive_to_message(request)
    came = b""
    for primitive in store.encode_msg(3, longest):
        ((context, piece),) = primitive.presentation_data_value_list
        assert context == 3
        if piece[0] & 1:
            came += piece[1:]
    found = dimse.decode(came)
    assert (found.field, found.message_id, found.has_data_set) == (dimse.C_STORE_RQ, number, True)
    assert (found.sop_class_uid, found.sop_instance_uid) == (sop_class, uid)


@given(
    sop_class=UIDS | st.just(""),
    uid=UIDS | st.just(""),
    number=st.integers(0, 0xFFFF),
    status=st.sampled_from([0x0000, 0x0110, 0x0117, 0x0122, 0x0124, 0xA700, 0xA900, 0xC000, 0xC001]),
    longest=st.integers(0, 200),
    context=st.integers(0, 127).map(lambda half: 2 * half + 1),
)
def test_a_response_is_understood_by_pynetdicom(
    *, sop_class: str, uid: str, number: int, status: int, longest: int, context: int
) -> None:
    configure_pynetdicom()
    asked = dimse.Command(dimse.C_STORE_RQ, number, True, sop_class.encode(), uid.encode())
    left = dimse.response(context, asked, dimse.Answer(status), longest)
    answer = DIMSEMessage()
    whole, command_set = False, b""
    while left:
        assert not whole, "a PDU behind the last one"
        length = 6 + int.from_bytes(left[2:6], "big")
        assert length - 6 <= max(longest, 7) or not longest
        part = P_DATA_TF()
        part.decode(left[:length])
        assert part.encode() == left[:length]
        command_set += left[12:length]
        whole = answer.decode_msg(part.to_primitive())
        left = left[length:]
    assert whole
    elements = wire.parsed(command_set)
    assert list(elements) == sorted(elements)
    assert all(len(value) % 2 == 0 for value in elements.values())
    assert isinstance(answer, C_STORE_RSP)
    assert answer.context_id == context
    response = answer.message_to_primitive()
    assert (response.Status, response.MessageIDBeingRespondedTo) == (status, number)
    assert (response.AffectedSOPClassUID or "", response.AffectedSOPInstanceUID or "") == (sop_class, uid)


@pytest.mark.slow
@given(UIDS, UIDS, st.integers(0, 0xFFFF), st.booleans())
def test_padding_and_order_of_a_command_do_not_matter(sop_class: str, uid: str, number: int, nul: bool) -> None:
    padding = b"\0\0" if nul else b"  "
    found = dimse.decode(
        wire.command_set(
            {
                0x1000: uid.encode() + padding,
                0x0800: 0x0101,
                0x0110: number,
                0x0100: 0x0001,
                0x0002: b" " + sop_class.encode() + padding,
            }
        )
    )
    assert (found.sop_class_uid, found.sop_instance_uid) == (sop_class, uid)
    assert (found.message_id, found.has_data_set) == (number, False)


@given(st.binary(max_size=80) | st.tuples(st.integers(0, 120), st.binary(max_size=8), st.integers(0, 200)))
def test_any_bytes_are_a_command_or_an_error(data: bytes | tuple[int, bytes, int]) -> None:
    if isinstance(data, tuple):  # a command with some bytes written over, cut
        at, over, end = data
        good = store_rq("2.25.1")
        data = (good[:at] + over + good[at + len(over) :])[:end]
    try:
        found = dimse.decode(data)
    except ValueError:
        return
    assert isinstance(found, dimse.Command)
    assert 0 <= found.field <= 0xFFFF
    assert 0 <= found.message_id <= 0xFFFF
    assert len(found.sop_class_uid) + len(found.sop_instance_uid) <= len(data)
