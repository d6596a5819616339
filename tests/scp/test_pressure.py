"""Many connections at a time, slow ones and silent ones: what they may take is bounded, and C-ECHO is answered."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification

from dicom_node import log
from dicom_node.config.holder import SettingsHolder
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance
from dicom_node.node import Node
from dicom_node.studies.completion import Completer
from tests.support import wire
from tests.support.nodes import settings_for
from tests.support.peers import send
from tests.support.programs import ROOT
from tests.support.samples import make_image
from tests.support.waiting import scaled, wait_until
from tests.support.wire import ECHO, Raw, associated, data_set, echo_rq, message, new_uid, store_message

StartNode = Callable[..., Node]
Logged = Callable[[], list[dict[str, Any]]]
ECHO_ALONE = wire.associate_rq({ECHO: (Verification, ImplicitVRLittleEndian)})


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path) -> Node:
    return start_node(settings_for(tmp_path / "node"))


@pytest.fixture
def logged() -> Iterator[Logged]:
    stream = io.StringIO()
    log.configure(stream)
    yield lambda: list(map(json.loads, stream.getvalue().splitlines()))


def assert_answers(raw: Raw, number: int = 99) -> None:
    raw.send(message(ECHO, echo_rq(number)))
    assert raw.status(number) == 0x0000


@pytest.mark.slow
def test_two_hundred_associations_at_a_time_are_served_and_leave_nothing(node: Node) -> None:
    uids = [new_uid() for _ in range(200)]
    send(node.port, make_image())  # what the first one opens stays open
    wire.assert_nothing_left(node)
    files = wire.open_files()
    with ExitStack() as stack:
        raws = [stack.enter_context(associated(node)) for _ in uids]
        assert wire.associations() == 200
        for raw, uid in zip(raws, uids, strict=True):
            raw.send(store_message(uid, data_set(uid, bytes(2000)))[:-1])  # all are amid an image
        with associated(node, ECHO_ALONE) as alive:
            assert_answers(alive)
            alive.release()
        for raw in raws:
            raw.send(b"\0")
        assert [raw.status() for raw in raws] == [0x0000] * 200
        assert all(node.received(uid) is not None for uid in uids)
        for raw in raws:
            raw.release()
    wire.assert_nothing_left(node)
    wait_until(lambda: wire.open_files() <= files, "every file and socket to be closed", 20)


def test_echo_has_places_of_its_own(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.scp.access.MAX_ASSOCIATIONS", 3)
    monkeypatch.setattr("dicom_node.scp.access.MAX_ECHOES", 2)
    with ExitStack() as stack:
        full = [stack.enter_context(associated(node)) for _ in range(3)]
        with Raw(node.port) as one_more:
            one_more.send(wire.associate_rq())
            assert one_more.pdu() == (wire.ASSOCIATE_RJ, b"\0\x02\x03\x02")
        echoes = [stack.enter_context(associated(node, ECHO_ALONE)) for _ in range(2)]
        for raw in (*full, *echoes):
            assert_answers(raw)
        with Raw(node.port) as one_more:
            one_more.send(ECHO_ALONE)
            assert one_more.pdu() == (wire.ASSOCIATE_RJ, b"\0\x02\x03\x02")
        echoes[0].release()
        full[0].release()
        wait_until(lambda: wire.associations() == 3, "the two to end")
        for request in (ECHO_ALONE, wire.associate_rq()):
            assert_answers(stack.enter_context(associated(node, request)))
    wire.assert_nothing_left(node)


def test_connections_that_ask_for_nothing_keep_nobody_out_and_are_bounded(
    node: Node, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr("dicom_node.scp.server._MAX_UNASKED", 20)
    monkeypatch.setattr("dicom_node.scp.access.MAX_ASSOCIATIONS", 5)
    with ExitStack() as stack:
        first = stack.enter_context(associated(node))
        silent = [stack.enter_context(Raw(node.port)) for _ in range(100)]
        raws = [stack.enter_context(associated(node)) for _ in range(4)]
        for raw in (first, *raws):
            assert_answers(raw)
        assert silent[0].pdu()[0] in (wire.ABORT, 0)
        wait_until(lambda: wire.associations() <= 25, "the oldest to be cut")
        silent[-1].send(wire.associate_rq())
        assert silent[-1].pdu() == (wire.ASSOCIATE_RJ, b"\0\x02\x03\x02"), "it is heard: five associations are open"
        (told,) = [line for line in logged() if line["event"] == "connections.cut"]
        assert "20 connections are open that ask for no association" in told["reason"]
    wire.assert_nothing_left(node)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second and a half counts as a minute, and 60 bytes as 6,000."""
    monkeypatch.setattr("dicom_node.network.pynetdicom_setup.SILENT_SECONDS", 1.5)
    monkeypatch.setattr("dicom_node.scp.association._LEAST_BYTES", 60)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_a_sender_that_trickles_is_aborted_and_holds_no_study_up(node: Node, tmp_path: Path, logged: Logged) -> None:
    uid, late = new_uid(), new_uid()
    stream = store_message(late, data_set(late, bytes(2000)))
    index = node.index
    assert index is not None
    with associated(node) as raw:
        raw.send(store_message(uid, data_set(uid)))
        assert raw.status() == 0x0000
        raw.send(stream[:500])
        wait_until(lambda: any((tmp_path / "node/incoming").iterdir()), "the image to be begun")
        with pytest.raises(OSError, match=r"."):
            for at in range(500, 700):
                raw.send(stream[at : at + 1])
                time.sleep(0.1)
    wire.assert_nothing_left(node)
    wait_until(lambda: index.studies_with_state()[0].state == "no route", "the study to be completed")
    (told,) = [line for line in logged() if line["event"] == "association.aborted"]
    assert told["reason"] == "fewer than 60 bytes of a message came in 1.5 s"


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("what", ["echoes", "image"])
def test_a_sender_that_is_slow_and_gets_something_done_lives(
    node: Node, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = new_uid()
    if what == "echoes":
        monkeypatch.setattr("dicom_node.scp.association._LEAST_BYTES", 6000)
    with associated(node) as raw:
        if what == "echoes":  # each is through, however short
            for number in range(1, 7):
                raw.send(message(ECHO, echo_rq(number))[:40])
                time.sleep(0.4)
                raw.send(message(ECHO, echo_rq(number))[40:])
                assert raw.status(number) == 0x0000
        else:
            stream = store_message(uid, data_set(uid, bytes(400)))
            for piece in wire.cut(stream, 30):  # 300 bytes a second
                raw.send(piece)
                time.sleep(0.1)
            assert raw.status() == 0x0000
        raw.release()
    assert (node.received(uid) is not None) == (what == "image")


def test_an_association_that_never_falls_quiet_holds_its_studies_up_for_an_hour_at_most(tmp_path: Path) -> None:
    index = Index(tmp_path / INDEX_FILE, create=True)
    index.add_instance(NewInstance("1.1", "1", "1", "1", "1.0", "CR", "", "", "", "A", "f", 1), 1000.0)
    now = [1000.0]
    completer = Completer(SettingsHolder(settings_for(tmp_path)), index, last_byte=lambda _study: now[0])
    for seconds, state in ((60.0, "receiving"), (3599.0, "receiving"), (3601.0, "no route")):
        now[0] = 1000.0 + seconds
        completer.tick(now[0])
        assert index.studies_with_state()[0].state == state
    index.close()


# -- files


@pytest.fixture
def many_files() -> Iterator[None]:
    """Every file number below 1,100 is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2000:
        if hard != resource.RLIM_INFINITY and hard < 2000:
            pytest.skip("this process may not open so many files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] < 1100:
        taken.append(os.dup(taken[0]))
    yield
    for each in taken:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_it_receives_and_sends_beside_a_thousand_open_files(start_node: StartNode, tmp_path: Path) -> None:
    # The sender is pynetdicom, as it is for every delivery.
    node = start_node(settings_for(tmp_path / "node"))
    assert send(node.port, make_image(), make_image()) == [0x0000, 0x0000]


LIMITED = """
import resource, sys
from pathlib import Path
from tests.support.nodes import settings_for
from dicom_node import log
from dicom_node.node import Node
soft, hard, folder = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
log.configure(sys.stdout)
node = Node(settings_for(Path(folder)))
node.start()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
node.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("hard", "allowed"), [(4096, None), (600, 600)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(tmp_path: Path, hard: int, allowed: int | None) -> None:
    from dicom_node.scp.server import _FILES  # noqa: PLC0415 - it is what is asked for

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "400", str(hard), str(tmp_path / "node")],
        env=environment,
        check=True,
        timeout=scaled(60),
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert str(allowed or _FILES) in lines
    told = [json.loads(line) for line in lines if "files.limited" in line]
    assert bool(told) == (allowed is not None)
    for line in told:
        assert f"may open {allowed} files and sockets" in line["reason"]
        assert f"LimitNOFILE={_FILES}" in line["fix"]
