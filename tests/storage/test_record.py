"""The record in a stored file, and the digest of its data set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from pathlib import Path
from uuid import uuid4

import pytest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.dicom.file_meta import file_head
from dicom_node.node import Node
from dicom_node.storage.part import Part
from dicom_node.storage.record import PREAMBLE_BYTES, Record, record_in
from tests.support.nodes import settings_for
from tests.support.wire import associated, data_set, new_uid, store_message

RECORD = Record(str(uuid4()), 1796083200.25, 3, "CT1 NORTH", 524_544, hashlib.sha256(b"pixels").digest())


def test_a_record_comes_back_from_its_preamble() -> None:
    preamble = RECORD.preamble()
    assert len(preamble) == PREAMBLE_BYTES
    assert record_in(preamble) == RECORD


@pytest.mark.parametrize("at", [0, 5, 25, 30, 60, 90, 127])
def test_a_damaged_record_is_none(at: int) -> None:
    preamble = bytearray(RECORD.preamble())
    preamble[at] ^= 1
    assert record_in(bytes(preamble)) is None


def test_other_preambles_hold_no_record() -> None:
    assert record_in(bytes(128)) is None
    assert record_in(b"II*\0" + bytes(124)) is None
    assert record_in(RECORD.preamble()[:-1]) is None


def test_the_longest_title_has_room() -> None:
    record = dataclasses.replace(RECORD, calling_ae="SIXTEEN LETTERS!")
    assert record_in(record.preamble()) == record


@pytest.mark.parametrize("sizes", [(), (10,), (100_000, 3, 700_000, 1), (256 * 1024,) * 5], ids=str)
def test_the_digest_is_that_of_what_was_written_behind_the_head(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    part = Part(str(tmp_path / "one.part"))
    try:
        head, pieces = b"head", [os.urandom(size) for size in sizes]
        part.begin_digest(len(head))
        for piece in (head, *pieces):
            part.write([memoryview(piece)])
        assert part.digest() == hashlib.sha256(b"".join(pieces)).digest()
    finally:
        part.discard()


@pytest.mark.parametrize("pixels", [100, 3_000_000])
def test_a_stored_file_says_who_sent_it_when_and_its_digest(tmp_path: Path, pixels: int) -> None:
    node = Node(settings_for(tmp_path / "node"))
    node.start()
    try:
        uid = new_uid()
        began = time.time()
        sent = data_set(uid, bytes(pixels))
        with associated(node) as raw:
            raw.send(store_message(uid, sent))
            assert raw.status() == 0x0000
        stored = node.received(uid)
        assert stored is not None
        data = stored[0].read_bytes()
        record = record_in(data[:PREAMBLE_BYTES])
        assert record is not None
        assert node.index is not None
        assert record.node == node.index.node_id()
        assert (record.edition, record.data_set_bytes) == (1, len(sent))
        assert began - 1 <= record.received <= time.time() + 1
        assert record.digest == hashlib.sha256(sent).digest()
        head = file_head(ComputedRadiographyImageStorage, uid, ExplicitVRLittleEndian, record.calling_ae)
        assert data[PREAMBLE_BYTES : len(head)] == head[PREAMBLE_BYTES:], "nothing else of the head has changed"
        assert data[len(head) :] == sent
    finally:
        node.stop()
