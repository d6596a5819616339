"""A request for an association is counted before it is parsed: in linear time, and no further than a bound."""

from __future__ import annotations

import struct
import time

import pytest
from pydicom.uid import AllTransferSyntaxes
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicom_node.network import association_request
from tests.support import wire
from tests.support.wire import item

UID_OF_64 = b"1." + b"2" * 62


def rest(body: bytes) -> bytes:
    return item(0x10, b"1.2.840.10008.3.1.1.1") + body


def contexts(count: int, syntaxes: int) -> bytes:
    names = item(0x30, UID_OF_64) + item(0x40, UID_OF_64) * syntaxes
    return b"".join(item(0x20, struct.pack("Bxxx", 2 * number + 1) + names) for number in range(count))


def test_the_fixed_fields_say_who_calls() -> None:
    encoded = wire.associate_rq(calling="MODALITY", called="AINODE")[6:]
    caller = association_request.caller(encoded[: association_request.FIXED_BYTES])
    assert (caller.calling, caller.called, caller.version) == ("MODALITY", "AINODE", 1)


def test_the_most_that_a_caller_can_need_is_taken() -> None:
    user = item(0x50, item(0x51, bytes(4)) + item(0x54, bytes(8)) * 128)
    most = rest(contexts(128, 24) + user)
    association_request.check(most)
    assert len(most) + association_request.FIXED_BYTES < association_request.LONGEST
    association_request.check(rest(contexts(20, len(AllTransferSyntaxes)) + user))


@pytest.mark.parametrize(
    "body",
    [
        b"\x20\0\0\4\1\0\0\0" * 25_000,
        b"\x10\0\0\0" * 50_000,
        item(0x50, b"\x51\0\0\0" * 16_000),
        item(0x20, bytes(4) + b"\x40\0\0\0" * 16_000),
        item(0x20, bytes(4) + b"\x30\0\0\0" * 16_000),
        contexts(128, 25),
        b"\x20\0\xff\xff",
        item(0x20, bytes(4) + b"\x40\0\0\xff"),
        b"\x20\0",
        item(0x20, b"\1"),
    ],
    ids=["contexts", "items", "user", "syntaxes", "classes", "too many syntaxes", "long", "long inside", "end", "id"],
)
def test_tiny_items_and_broken_ones_end_at_once(body: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(ValueError, match=r"more than|longer than|behind the last|shorter than"):
        association_request.check(rest(body))
    assert time.thread_time() - began < 0.05  # pynetdicom takes up to 0.5 s of 200 KB


def test_the_bound_leaves_little_to_parse() -> None:
    fixed = wire.associate_rq()[6 : 6 + association_request.FIXED_BYTES]
    body = fixed + rest(contexts(128, 24))
    began = time.thread_time()
    A_ASSOCIATE_RQ().decode(struct.pack(">BxI", 1, len(body)) + body)
    assert time.thread_time() - began < 0.5
