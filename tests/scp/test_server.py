"""Receiving: who may associate, what is stored and how it is answered. Senders are pynetdicom and DCMTK, over TCP."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import Verification

from dicom_node import log
from dicom_node.dicom.attributes import is_uid
from dicom_node.dicom.header import read_header
from dicom_node.errors import Refused
from dicom_node.node import Node
from tests.support.nodes import settings_for
from tests.support.peers import associate, send
from tests.support.programs import run_tool, tool
from tests.support.samples import make_image
from tests.support.waiting import scaled, wait_until

StartNode = Callable[..., Node]


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path) -> Node:
    return start_node(settings_for(tmp_path / "node"))


@pytest.fixture
def logged() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    stream = io.StringIO()
    log.configure(stream)
    yield lambda event: [e for e in map(json.loads, stream.getvalue().splitlines()) if e["event"] == event]


def stored_bytes(node: Node, uid: str) -> bytes:
    kept = node.received(uid)
    assert kept is not None, "the index does not know the instance"
    _, offset = split_dataset(kept[0])
    return kept[0].read_bytes()[offset:]


def send_raw(port: int, data_set: bytes, *, sop_class: str, uid: str, syntax: str = ExplicitVRLittleEndian) -> int:
    """C-STORE with a command and a data set that need not fit each other, or be anything at all."""
    association = associate(port, (sop_class or CTImageStorage, syntax))
    assert association.is_established
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
    request.DataSet = io.BytesIO(data_set)
    try:
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        assert answer is not None, "no answer: the association died"
        association._reactor_checkpoint.set()
        return int(answer.Status)
    finally:
        association.release()


def encoded(image: Any, syntax: str = ExplicitVRLittleEndian) -> bytes:
    image.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dcmwrite(buffer, image, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True)
    buffer.seek(0)
    whole = buffer.getvalue()
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")
    return whole[start:]


def test_echo(node: Node) -> None:
    association = associate(node.port, (Verification, ImplicitVRLittleEndian))
    assert association.send_c_echo().Status == 0x0000
    association.release()


@pytest.mark.programs
def test_dcmtk_echo_and_store(node: Node, tmp_path: Path) -> None:
    image = make_image()
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    run_tool("echoscu", "-aet", "TESTER", "-aec", "AINODE", "127.0.0.1", node.port)
    run_tool("storescu", "-aec", "AINODE", "127.0.0.1", node.port, tmp_path / "a.dcm")
    assert stored_bytes(node, image.SOPInstanceUID) == encoded(image)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless])
def test_bytes_on_disk_are_the_bytes_on_the_wire(node: Node, syntax: str) -> None:
    image = make_image()
    data_set = encoded(image, ImplicitVRLittleEndian if syntax == ImplicitVRLittleEndian else ExplicitVRLittleEndian)
    uid = image.SOPInstanceUID
    assert send_raw(node.port, data_set, sop_class=image.SOPClassUID, uid=uid, syntax=syntax) == 0x0000
    assert stored_bytes(node, uid) == data_set
    kept = node.received(uid)
    assert kept is not None
    meta = dcmread(kept[0], stop_before_pixels=True).file_meta
    assert (meta.TransferSyntaxUID, meta.SourceApplicationEntityTitle) == (syntax, "TESTER")


def test_big_endian_is_stored_as_sent(node: Node, real_data: Path) -> None:
    file = real_data / "dicom/pydicom/test_files/MR_small_bigendian.dcm"
    meta, offset = split_dataset(file)
    data_set = file.read_bytes()[offset:]
    uid = meta.MediaStorageSOPInstanceUID
    status = send_raw(node.port, data_set, sop_class=meta.MediaStorageSOPClassUID, uid=uid, syntax=ExplicitVRBigEndian)
    assert status == 0x0000
    assert stored_bytes(node, uid) == data_set


def test_deflated_is_stored_as_sent_and_indexed(node: Node) -> None:
    image = make_image()
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data_set = squeeze.compress(encoded(image)) + squeeze.flush()
    uid, syntax = image.SOPInstanceUID, DeflatedExplicitVRLittleEndian
    assert send_raw(node.port, data_set, sop_class=image.SOPClassUID, uid=uid, syntax=syntax) == 0x0000
    assert stored_bytes(node, uid) == data_set
    assert node.index is not None
    assert [one.modality for one in node.index.series_of(image.StudyInstanceUID)] == ["CR"]


def test_private_storage_class_and_private_transfer_syntax(node: Node) -> None:
    image = make_image(SOPClassUID="1.2.3.4.5.6.7")
    data_set = encoded(image)
    status = send_raw(
        node.port, data_set, sop_class="1.2.3.4.5.6.7", uid=image.SOPInstanceUID, syntax="1.2.276.0.7230010.99.1"
    )
    assert status == 0x0000
    assert stored_bytes(node, image.SOPInstanceUID) == data_set


def test_a_service_that_is_no_storage_is_not_accepted(node: Node) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    association = associate(node.port, (find, ImplicitVRLittleEndian), (Verification, ImplicitVRLittleEndian))
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    association.release()


def test_a_repeated_instance_changes_nothing(node: Node, logged: Callable[[str], list[dict[str, Any]]]) -> None:
    image = make_image()
    assert send(node.port, image) == [0x0000]
    kept = node.received(image.SOPInstanceUID)
    assert kept is not None
    before = (kept[0].read_bytes(), kept[0].stat().st_mtime_ns, kept[1])
    image.PatientComments = "Something else"
    assert send(node.port, image, image) == [0x0000, 0x0000]
    assert (kept[0].read_bytes(), kept[0].stat().st_mtime_ns) == before[:2]
    assert node.received(image.SOPInstanceUID) == kept
    assert node.index is not None
    assert node.index.studies_with_state()[0].revision == 1
    assert "differs only in attributes that no reading uses" in logged("instance.repeated")[0]["reason"]


def test_the_same_instance_on_many_associations_at_once(node: Node) -> None:
    image = make_image(PixelData=os.urandom(64 * 64 * 2))
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.extend(send(node.port, image))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0x0000] * 8
    assert stored_bytes(node, image.SOPInstanceUID) == encoded(image)
    assert not list((node.settings.node.data_dir / "incoming").iterdir())


@pytest.mark.parametrize(
    "uid",
    ["../../../tmp/evil", "1.2.3\0.4", "1..2", "1.2.a", ".1.2", "1.2.", "1" * 65, "1.2/3", "1.2 3", "' OR 1=1 --"],
)
def test_a_malformed_uid_is_refused_and_the_association_lives(node: Node, uid: str) -> None:
    image = make_image()
    assert send_raw(node.port, encoded(image), sop_class=image.SOPClassUID, uid=uid) == 0x0117
    assert not list((node.settings.node.data_dir / "spool").rglob("*.dcm"))
    assert send(node.port, image) == [0x0000]


def test_a_command_without_a_uid_or_a_data_set_is_answered(node: Node) -> None:
    image = make_image()
    association = associate(node.port, (image.SOPClassUID, ExplicitVRLittleEndian))
    context = association.accepted_contexts[0].context_id
    for uid, data_set, status in ((None, encoded(image), 0x0117), (image.SOPInstanceUID, None, 0xC000)):
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, uid
        request.DataSet = io.BytesIO(data_set) if data_set is not None else None
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context)
        _, answer = association.dimse.get_msg(block=True)
        assert answer is not None
        assert answer.Status == status
        association._reactor_checkpoint.set()
    association.release()


def test_a_malformed_sop_class_is_refused(node: Node) -> None:
    image = make_image()
    assert send_raw(node.port, encoded(image), sop_class="1.2.x", uid=image.SOPInstanceUID) == 0x0122


def test_uids_that_contradict_the_command_are_refused(node: Node) -> None:
    image = make_image()
    data_set = encoded(image)
    assert send_raw(node.port, data_set, sop_class=image.SOPClassUID, uid=generate_uid(None)) == 0xA900
    assert send_raw(node.port, data_set, sop_class=CTImageStorage, uid=image.SOPInstanceUID) == 0xA900
    assert node.received(image.SOPInstanceUID) is None


@pytest.mark.parametrize(
    "data_set",
    [
        b"\x00",
        b"not a data set at all, only text that somebody sent",
        b"\xff" * 4096,
        os.urandom(2048),
        b"\x08\x00\x16\x00UI\xff\xff1.2.3",
    ],
)
def test_an_unparsable_data_set_is_refused(node: Node, data_set: bytes) -> None:
    image = make_image()
    assert send_raw(node.port, data_set, sop_class=image.SOPClassUID, uid=image.SOPInstanceUID) == 0xC000
    assert node.received(image.SOPInstanceUID) is None
    assert send(node.port, image) == [0x0000]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"])
def test_a_data_set_without_its_uids_is_refused(node: Node, keyword: str) -> None:
    image = make_image()
    sop_class, uid = image.SOPClassUID, image.SOPInstanceUID
    del image[keyword]
    buffer = io.BytesIO()
    dcmwrite(buffer, image, implicit_vr=False, little_endian=True)
    whole = buffer.getvalue()
    start = whole.index(b"\x08\x00\x05\x00CS")  # the data set begins with its character set
    assert send_raw(node.port, whole[start:], sop_class=sop_class, uid=uid) == 0xC000


@given(st.binary(max_size=300), st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]))
def test_scanning_any_bytes_answers_or_refuses(data: bytes, syntax: str) -> None:
    try:
        read_header(io.BytesIO(data), syntax)
    except Refused as refused:
        assert refused.status == 0xC000


@pytest.mark.slow
def test_a_deflate_bomb_is_bounded() -> None:
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = squeeze.compress(b"\0" * 200_000_000) + squeeze.flush()
    with pytest.raises(Refused):
        read_header(io.BytesIO(bomb), DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("uid", "good"), [("1.2.840.10008.1.1", True), ("1.2.03", True), ("", False), ("1.2\n", False)]
)
def test_uid_rules(uid: str, good: bool) -> None:
    assert is_uid(uid) is good


@pytest.mark.programs
def test_a_stranger_is_rejected_and_the_log_says_what_to_add(
    node: Node, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    done = run_tool("echoscu", "-aet", "STRANGER", "-aec", "AINODE", "127.0.0.1", node.port, check=False)
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr
    (event,) = wait_until(lambda: logged("association.rejected"), "the rejection in the log")
    assert event["calling_ae"] == "STRANGER"
    assert event["address"] == "127.0.0.1"
    assert 'ae_title = "STRANGER", host = "127.0.0.1", may_store = true' in event["fix"]


@pytest.mark.programs
def test_a_wrong_called_ae_title_is_rejected(node: Node, logged: Callable[[str], list[dict[str, Any]]]) -> None:
    done = run_tool("echoscu", "-aet", "TESTER", "-aec", "OTHER", "127.0.0.1", node.port, check=False)
    assert "Called AE Title Not Recognized" in done.stderr
    assert "'OTHER'" in wait_until(lambda: logged("association.rejected"), "the rejection in the log")[0]["reason"]


def test_a_known_title_from_another_address_is_rejected(
    start_node: StartNode, tmp_path: Path, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    peers = [{"name": "ct1", "ae_title": "CT1", "host": "192.0.2.10", "may_store": True}]
    node = start_node(settings_for(tmp_path / "node", peers=peers))
    association = associate(node.port, (Verification, ImplicitVRLittleEndian), calling="CT1")
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 3
    assert "192.0.2.10" in wait_until(lambda: logged("association.rejected"), "the rejection in the log")[0]["reason"]


def test_control_characters_in_an_ae_title_do_not_reach_the_log(
    node: Node, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    title = b"A\x1b[2J\nB".ljust(16)
    item = b"\x10\x00\x00\x15" + b"1.2.840.10008.3.1.1.1"
    body = b"\x00\x01\x00\x00" + b"AINODE".ljust(16) + title + b"\0" * 32 + item
    with socket.create_connection(("127.0.0.1", node.port), timeout=scaled(10)) as peer:
        peer.sendall(b"\x01\x00" + len(body).to_bytes(4, "big") + body)
        peer.settimeout(scaled(10))
        answer = peer.recv(64)
    assert answer[:1] == b"\x03", "an A-ASSOCIATE-RJ"
    (event,) = wait_until(lambda: logged("association.rejected"), "the rejection in the log")
    assert "\\x1b[2J\\nB" in event["reason"]
    assert "\x1b" not in json.dumps(event, ensure_ascii=False)
    assert send(node.port, make_image()) == [0x0000]


def test_images_are_refused_before_the_disk_is_full_and_taken_when_there_is_room_again(
    start_node: StartNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[str], list[dict[str, Any]]],
) -> None:
    free = [2_000_000_000]
    monkeypatch.setattr("dicom_node.storage.spool._ASKED_SECONDS", -1.0)
    monkeypatch.setattr("dicom_node.storage.spool.shutil.disk_usage", lambda _path: SimpleNamespace(free=free[0]))
    node = start_node(settings_for(tmp_path / "node", node={"keep_free_gb": 2.0}))
    images = [make_image() for _ in range(3)]
    contexts = [(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID), (Verification, ImplicitVRLittleEndian)]
    open_ = associate(node.port, *contexts)
    assert open_.send_c_store(images[0]).Status == 0x0000
    free[0] -= 1
    assert open_.send_c_store(images[1]).Status == 0xA700
    assert "node.keep_free_gb keeps 2" in logged("instance.refused")[0]["reason"]
    wait_until(lambda: not list((tmp_path / "node/incoming").iterdir()), "nothing to be left")
    assert open_.send_c_echo().Status == 0x0000
    late = associate(node.port, *contexts)
    assert late.is_rejected
    answer = late.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)  # for now: temporary congestion
    assert "are free where data_dir lies" in wait_until(lambda: logged("association.rejected"), "the log")[0]["reason"]
    alive = associate(node.port, contexts[1])
    assert alive.send_c_echo().Status == 0x0000
    alive.release()
    free[0] += 1
    assert open_.send_c_store(images[1]).Status == 0x0000
    open_.release()
    assert send(node.port, images[2]) == [0x0000]


def test_further_studies_are_refused_while_too_many_wait_to_be_read_and_none_is_cut_in_half(
    start_node: StartNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[str], list[dict[str, Any]]],
) -> None:
    monkeypatch.setattr("dicom_node.storage.ingest._ASKED_SECONDS", -1.0)
    node = start_node(settings_for(tmp_path / "node", node={"max_waiting_studies": 2, "quiet_seconds": 3600.0}))
    index = node.index
    assert index is not None
    began, stranger, waiting = make_image(), make_image(), [make_image() for _ in range(2)]
    rest = make_image(StudyInstanceUID=began.StudyInstanceUID)
    contexts = [(began.SOPClassUID, ExplicitVRLittleEndian), (Verification, ImplicitVRLittleEndian)]
    open_ = associate(node.port, *contexts)
    assert [open_.send_c_store(image).Status for image in (began, *waiting)] == [0x0000] * 3

    def complete(image: Any, *models: str) -> None:
        (row,) = index.studies_with_state(image.StudyInstanceUID)
        routes = [("all", model) for model in models]
        assert index.complete(row.study, row.revision, row.last_received, routes, time.time())

    complete(waiting[0], "m", "n")  # two readings, one study
    assert open_.send_c_store(make_image()).Status == 0x0000
    complete(waiting[1], "m")
    assert open_.send_c_store(stranger).Status == 0xA700
    assert "2 studies wait to be read" in logged("instance.refused")[0]["reason"]
    assert open_.send_c_store(rest).Status == 0x0000
    assert open_.send_c_store(waiting[0]).Status == 0x0000, "it is there already"
    late = associate(node.port, *contexts)
    assert late.is_rejected
    answer = late.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)  # for now: temporary congestion
    assert "2 studies wait" in wait_until(lambda: logged("association.rejected"), "the log")[0]["reason"]
    alive = associate(node.port, contexts[1])
    assert alive.send_c_echo().Status == 0x0000
    alive.release()
    assert index.claim("read", None, time.time(), 60.0) is not None
    assert open_.send_c_store(stranger).Status == 0xA700, "the first study has another reading to wait for"
    index.fail_unknown("read", ["m"], "gone", time.time())
    assert open_.send_c_store(stranger).Status == 0x0000
    open_.release()
    assert send(node.port, make_image()) == [0x0000]
    assert node.received(rest.SOPInstanceUID) is not None


def test_a_peer_that_may_not_store_is_told_so(start_node: StartNode, tmp_path: Path) -> None:
    peers = [{"name": "reader", "ae_title": "READER", "host": "127.0.0.1"}]
    node = start_node(settings_for(tmp_path / "node", peers=peers))
    assert send(node.port, make_image(), calling="READER") == [0x0124]


def test_unknown_callers_may_be_accepted(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"accept_unknown_callers": True}))
    assert send(node.port, make_image(), calling="ANYBODY") == [0x0000]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        [tool("mount"), "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run([tool("umount"), "-l", str(folder)], check=True)


@pytest.mark.programs
def test_a_full_disk_is_answered_a700_and_the_node_lives_on(start_node: StartNode, small_disk: Path) -> None:
    node = start_node(settings_for(small_disk / "node", node={"keep_free_gb": 0.0}))
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 1_200_000)
    big = [make_image(Rows=500, Columns=500, PixelData=os.urandom(500_000)) for _ in range(6)]
    statuses = send(node.port, *big)
    assert set(statuses) == {0x0000, 0xA700}
    assert not list((small_disk / "node/incoming").iterdir()), "a refused instance left a partial file"
    for image, status in zip(big, statuses, strict=True):
        assert (node.received(image.SOPInstanceUID) is not None) == (status == 0x0000)
    filler.unlink()
    again = [image for image, status in zip(big, statuses, strict=True) if status == 0xA700][:1]
    assert send(node.port, *again) == [0x0000]


@pytest.mark.programs
def test_so_much_as_is_to_be_kept_free_stays_free(
    start_node: StartNode, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.storage.spool._ASKED_SECONDS", -1.0)
    node = start_node(settings_for(small_disk / "node", node={"keep_free_gb": 0.001}))
    images = [make_image(Rows=300, Columns=500, PixelData=os.urandom(150_000)) for _ in range(30)]
    statuses = send(node.port, *images)
    assert statuses[0] == 0x0000
    assert statuses == sorted(statuses), "once there is too little room no image is taken any more"
    assert statuses[-1] == 0xA700
    assert shutil.disk_usage(small_disk).free > 600_000


def half_an_image(port: int) -> socket.socket:
    """A sender that falls silent in the middle of a P-DATA message."""
    image = make_image()
    association = associate(port, (image.SOPClassUID, ExplicitVRLittleEndian))
    assert association.is_established
    sock: socket.socket = association.dul.socket.socket
    sock.sendall(b"\x04\x00" + (5000).to_bytes(4, "big") + b"\x00\x00\x01\x00\x01\x01half")
    return sock


@pytest.mark.slow
def test_a_sender_that_falls_silent_gives_its_place_back(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.network.pynetdicom_setup.SILENT_SECONDS", 0.5)
    node = start_node(settings_for(tmp_path / "node"))
    held = [half_an_image(node.port) for _ in range(3)]

    def acceptors() -> int:
        return sum(thread.name == "association" for thread in threading.enumerate())

    assert acceptors() >= 3
    wait_until(lambda: acceptors() == 0, "the silent associations to end", 20)
    assert send(node.port, make_image()) == [0x0000]
    for sock in held:
        sock.close()


def test_a_node_stops_while_senders_are_silent(tmp_path: Path) -> None:
    node = Node(settings_for(tmp_path / "node"))
    node.start()
    held = [half_an_image(node.port) for _ in range(3)]
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < scaled(20)
    for sock in held:
        sock.close()


@pytest.mark.slow
def test_an_image_that_is_slow_on_the_wire_does_not_complete_its_study(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", node={"quiet_seconds": 0.5}))
    first = make_image()
    second = make_image(StudyInstanceUID=first.StudyInstanceUID)
    association = associate(node.port, (first.SOPClassUID, ExplicitVRLittleEndian))
    assert association.send_c_store(first).Status == 0x0000
    data_set, context = encoded(second), association.accepted_contexts[0].context_id
    request = C_STORE()
    request.MessageID, request.Priority = 2, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = second.SOPClassUID, second.SOPInstanceUID
    request.DataSet = io.BytesIO(data_set)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    association._reactor_checkpoint.clear()
    assert node.index is not None
    parts = list(message.encode_msg(context, 1000))
    for part in parts:
        time.sleep(2.0 / len(parts))
        association.dul.send_pdu(part)
        assert node.index.studies_with_state()[0].state == "receiving"
    _, answer = association.dimse.get_msg(block=True)
    assert answer is not None
    assert answer.Status == 0x0000
    association._reactor_checkpoint.set()
    row = node.index.studies_with_state()[0]
    assert (row.instances, row.revision) == (2, 1)
    association.release()


def test_a_caller_is_rejected_where_judging_it_fails(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_peer: object, _address: str) -> bool:
        raise RuntimeError("an error of ours")

    monkeypatch.setattr("dicom_node.scp.access._calls_from", broken)
    node = start_node(settings_for(tmp_path / "node"))
    association = associate(node.port, (Verification, ImplicitVRLittleEndian))
    assert association.is_rejected


def test_a_log_that_cannot_be_written_changes_nothing(start_node: StartNode, tmp_path: Path) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, as everything else on it
    log.configure(full)
    node = start_node(settings_for(tmp_path / "node"))
    assert associate(node.port, (Verification, ImplicitVRLittleEndian), calling="STRANGER").is_rejected
    assert send(node.port, make_image()) == [0x0000]
    assert node.index is not None
    index = node.index
    wait_until(lambda: index.studies_with_state()[0].state == "no route", "the study to be completed")
    assert node.stuck == ""
    with suppress(OSError):
        full.close()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"cut")])
def test_an_instance_whose_file_was_lost_is_stored_again(node: Node, damage: Callable[[Path], object]) -> None:
    image = make_image()
    assert send(node.port, image) == [0x0000]
    kept = node.received(image.SOPInstanceUID)
    assert kept is not None
    damage(kept[0])
    assert send(node.port, image) == [0x0000]
    assert stored_bytes(node, image.SOPInstanceUID) == encoded(image)


def test_a_title_padded_with_nul_is_known(node: Node) -> None:
    title, called = b"TESTER".ljust(16, b"\0"), b"AINODE".ljust(16, b"\0")
    context = b"\x30\x00\x00\x11" + b"1.2.840.10008.1.1" + b"\x40\x00\x00\x11" + b"1.2.840.10008.1.2"
    items = b"\x10\x00\x00\x15" + b"1.2.840.10008.3.1.1.1"
    items += b"\x20\x00" + (4 + len(context)).to_bytes(2, "big") + b"\x01\x00\x00\x00" + context
    user = b"\x51\x00\x00\x04\x00\x00\x40\x00" + b"\x52\x00\x00\x05" + b"1.2.3"
    items += b"\x50\x00" + len(user).to_bytes(2, "big") + user
    body = b"\x00\x01\x00\x00" + called + title + b"\0" * 32 + items
    with socket.create_connection(("127.0.0.1", node.port), timeout=scaled(10)) as peer:
        peer.sendall(b"\x01\x00" + len(body).to_bytes(4, "big") + body)
        peer.settimeout(scaled(10))
        assert peer.recv(1) == b"\x02", "an A-ASSOCIATE-AC"
