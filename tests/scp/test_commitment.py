"""Storage commitment, from both sides: with Orthanc, and over real sockets with all who misbehave."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.dicom.commitment import references, report
from dicom_node.index.rows import Job, NewInstance, NewReading, NewResult
from dicom_node.network.pynetdicom_setup import configure_pynetdicom, on_open
from dicom_node.node import Node
from dicom_node.storage.spool import Spool
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc, free_port, send
from tests.support.samples import make_image, reading_text
from tests.support.waiting import scaled, wait_until

StartNode = Callable[..., Node]
COMMITMENT, INSTANCE = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
STUDY, RUN = "1.2.3", "run"


def delivering(
    start_node: StartNode, folder: Path, port: int, *, count: int = 3, **node_keys: Any
) -> tuple[Node, list[str]]:
    """A node that has results of a study to bring to a PACS that is asked to commit to them."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "may_store": True}
    settings = settings_for(folder, node=node_keys, peers=[{**pacs, "destination": True, "commitment": True}])
    node = start_node(settings)
    assert node.index is not None
    node.index.add_instance(NewInstance("1.2.3.4", "1", "1", STUDY, "1.1", "CR", "", "", "", "A", "f", 1), 1.0)
    spool, results = Spool(folder), []
    for position in range(count):
        image = make_image(SOPClassUID=SecondaryCaptureImageStorage, StudyInstanceUID=STUDY)
        file = BytesIO()
        image.save_as(file, enforce_file_format=True)
        name = spool.adopt([(spool.write_parts([[file.getvalue()]])[0], image.SOPInstanceUID)])[0]
        size = len(file.getvalue())
        results.append(NewResult(image.SOPInstanceUID, image.SOPClassUID, "1.9", position, "sc", name, size, "p"))
    now = time.time()
    job = Job(1, "read", f"{STUDY}/1", STUDY, 1, "r", "m", RUN, 1, now, "t")
    with node.index.transaction():
        node.index._run("UPDATE studies SET completed = 2.0")
        node.index._run(
            """INSERT INTO jobs (kind, subject, study, revision, route, target, run_key, state, due, created, finished)
            VALUES ('read', '1.2.3/1', '1.2.3', 1, 'r', 'm', 'run', 'done', 1, 1, 2)"""
        )
        node.index.add_reading(NewReading(RUN, STUDY, "m", "1", "d", now, reading_text()), results)
        node.index.queue_sends(job, RUN, [("pacs", "p")], now, committing=["pacs"])
    return node, [result.sop_instance_uid for result in results]


def state(node: Node) -> str:
    assert node.index is not None
    return str(node.index.studies_with_state(STUDY)[0].state)


def reason(node: Node) -> str:
    assert node.index is not None
    return str(node.index.studies_with_state(STUDY)[0].reason)


@dataclass
class Archive:
    """A PACS that commits as a test tells it to: ``answer`` is given each request, and returns when and what to say."""

    port: int
    stored: list[str] = field(default_factory=list)
    requests: list[Dataset] = field(default_factory=list)
    status: int = 0x0000
    failures: Callable[[int, list[str]], dict[str, int]] = lambda _number, _uids: {}
    silent: int = 0  # requests that are not answered
    here: bool = True  # on the same association, or on another
    at_once: bool = False  # before the request itself is answered
    node_port: int = 0
    statuses: list[Any] = field(default_factory=list)

    def on_store(self, event: Any) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def on_action(self, event: Any) -> tuple[int, None]:
        self.requests.append(event.action_information)
        if self.status == 0x0000 and len(self.requests) > self.silent:
            args = (len(self.requests), event.action_information, event.assoc if self.here else None)
            thread = threading.Thread(target=self.report, args=args)
            thread.start()
            if self.at_once:
                thread.join(5)
        return self.status, None

    def report(self, number: int, request: Dataset, association: Any) -> None:
        time.sleep(0.1)
        asked = {
            str(item.ReferencedSOPInstanceUID): str(item.ReferencedSOPClassUID)
            for item in request.ReferencedSOPSequence
        }
        failed = self.failures(number, list(asked))
        held = [(sop_class, uid) for uid, sop_class in asked.items() if uid not in failed]
        lost = [(asked[uid], uid, reason) for uid, reason in failed.items()]
        kind, information = report(request.TransactionUID, held, lost)
        if association is not None:
            self.statuses.append(association.send_n_event_report(information, kind, COMMITMENT, INSTANCE)[0])
            return
        with calling(self.node_port, ae_title="PACS") as own:
            self.statuses.append(own.send_n_event_report(information, kind, COMMITMENT, INSTANCE)[0])


@contextmanager
def calling(port: int, *, ae_title: str, handlers: list[Any] | None = None) -> Iterator[Any]:
    configure_pynetdicom()
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = scaled(20)
    ae.add_requested_context(COMMITMENT, ExplicitVRLittleEndian)
    opened = [(evt.EVT_CONN_OPEN, on_open), *(handlers or [])]
    association = ae.associate("127.0.0.1", port, ae_title="AINODE", evt_handlers=opened)
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


@pytest.fixture
def start_archive() -> Iterator[Callable[..., Archive]]:
    with ExitStack() as stack:

        def start(*, offers: bool = True, **attributes: Any) -> Archive:
            configure_pynetdicom()
            ae = AE(ae_title="PACS")
            ae.add_supported_context(SecondaryCaptureImageStorage)
            if offers:
                ae.add_supported_context(COMMITMENT)
            archive = Archive(0, **attributes)
            handlers = [(evt.EVT_C_STORE, archive.on_store), (evt.EVT_N_ACTION, archive.on_action)]
            server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
            archive.port = server.server_address[1]
            stack.callback(ae.shutdown)
            return archive

        yield start


StartArchive = Callable[..., Archive]


@pytest.mark.slow
@pytest.mark.parametrize("here", [True, False], ids=["the same association", "another association"])
def test_a_delivery_is_done_when_it_is_committed(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path, here: bool
) -> None:
    archive = start_archive(here=here)
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    archive.node_port = node.port
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 20)
    (request,) = archive.requests
    assert [item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence] == uids
    assert sorted(archive.stored) == sorted(uids)
    wait_until(lambda: [status.Status for status in archive.statuses] == [0x0000], "the report to be answered", 10)


@pytest.mark.slow
def test_a_study_is_not_delivered_before_it_is_committed(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.delivery.commit_job._FIRST_WAIT", 2.0)
    archive = start_archive(silent=1)
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: len(archive.requests) == 1 and "asked to commit" in reason(node), "the first request", 20)
    assert state(node) == "delivering"
    assert reason(node) == "pacs is asked to commit to 3 objects"
    wait_until(lambda: state(node) == "delivered", "it to be asked again", 20)
    first, second = archive.requests
    assert first.TransactionUID != second.TransactionUID
    assert sorted(archive.stored) == sorted(uids), "nothing is sent again as long as nothing is missing"


@pytest.mark.slow
def test_it_is_asked_again_after_a_restart_and_a_late_answer_counts_as_well(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    """While the node was down an answer may have come, and found nobody."""
    archive = start_archive(silent=2, here=False)
    node, _ = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: "asked to commit" in reason(node), "the request", 20)
    settings = node.settings
    node.stop()
    again = start_node(settings)
    archive.node_port = again.port
    wait_until(lambda: len(archive.requests) == 2, "the second request", 10)
    assert state(again) == "delivering"
    archive.report(1, archive.requests[0], None)
    assert archive.statuses[0].Status == 0x0000
    wait_until(lambda: state(again) == "delivered", "the study to be delivered", 10)


@pytest.mark.slow
def test_an_answer_that_comes_before_that_to_the_request_counts(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(here=False, at_once=True)
    node, _ = delivering(start_node, tmp_path / "node", archive.port)
    archive.node_port = node.port
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 20)
    assert len(archive.requests) == 1


@pytest.mark.slow
def test_an_answer_that_comes_after_it_was_given_up_counts(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(silent=99, here=False)
    node, _ = delivering(start_node, tmp_path / "node", archive.port)
    archive.node_port = node.port
    wait_until(lambda: "asked to commit" in reason(node), "the request", 20)
    assert node.index is not None
    with node.index.transaction():
        node.index._run("UPDATE jobs SET state = 'failed', reason = 'given up' WHERE kind = 'commit'")
    assert state(node) == "failed"
    archive.report(1, archive.requests[0], None)
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 10)


@pytest.mark.slow
def test_what_was_superseded_is_not_sent_again(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(silent=99, here=False, failures=lambda _number, uids: dict.fromkeys(uids, 0x0112))
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    archive.node_port = node.port
    wait_until(lambda: "asked to commit" in reason(node), "the request", 20)
    assert node.index is not None
    later = Job(99, "read", f"{STUDY}/2", STUDY, 2, "r", "m", None, 1, time.time(), "t")
    with node.index.transaction():
        node.index.add_reading(NewReading("later", STUDY, "m", "1", "d", time.time(), reading_text()), [])
        node.index.supersede(later, "later", [("pacs", "p")], time.time())
    archive.report(1, archive.requests[0], None)
    assert archive.statuses[0].Status == 0x0000
    time.sleep(1.5)
    assert sorted(archive.stored) == sorted(uids), "the report on fewer images would arrive after the one on all"


@pytest.mark.slow
def test_what_is_missing_is_sent_again(start_node: StartNode, start_archive: StartArchive, tmp_path: Path) -> None:
    archive = start_archive(failures=lambda number, uids: {uids[1]: 0x0112} if number == 1 else {})
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 20)
    assert sorted(archive.stored) == sorted([*uids, uids[1]])
    asked = [[item.ReferencedSOPInstanceUID for item in request.ReferencedSOPSequence] for request in archive.requests]
    assert asked == [uids, [uids[1]]], "what is committed is not asked for again"


@pytest.mark.slow
@pytest.mark.parametrize("failure", [0x0110, 0x0213])
def test_what_could_not_be_told_is_asked_again(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path, failure: int
) -> None:
    archive = start_archive(failures=lambda number, uids: dict.fromkeys(uids, failure) if number == 1 else {})
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 20)
    assert len(archive.requests) == 2
    assert sorted(archive.stored) == sorted(uids)


@pytest.mark.slow
def test_a_kind_that_is_never_committed_to_fails_visibly_and_can_be_revived(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(failures=lambda number, uids: {uids[0]: 0x0122} if number == 1 else {})
    node, _ = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: state(node) == "failed", "the commitment to fail", 20)
    assert reason(node).endswith("does not commit: 0122, it commits to no objects of this class")
    assert node.index is not None
    assert node.index.revive(STUDY, time.time()) == 1
    wait_until(lambda: state(node) == "delivered", "the study to be delivered", 20)


@pytest.mark.slow
def test_a_pacs_without_commitment_says_what_to_do(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(offers=False)
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: state(node) == "failed", "the commitment to fail", 20)
    assert sorted(archive.stored) == sorted(uids)
    assert reason(node).endswith(
        "offers no storage commitment: have it switched on there for our AE title, or set "
        "commitment = false on peer pacs"
    )


@pytest.mark.slow
def test_commitment_that_is_switched_off_is_not_waited_for(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(silent=99)
    node, _ = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: "asked to commit" in reason(node), "the request", 20)
    node.stop()
    pacs = node.settings.peer("pacs").model_copy(update={"commitment": False})
    others = tuple(peer for peer in node.settings.peers if peer.name != "pacs")
    again = start_node(node.settings.model_copy(update={"peers": (*others, pacs)}))
    wait_until(lambda: state(again) == "delivered", "the study to be delivered", 10)


@pytest.mark.slow
def test_a_report_of_a_stranger_changes_nothing(
    start_node: StartNode, start_archive: StartArchive, tmp_path: Path
) -> None:
    archive = start_archive(silent=99)
    node, uids = delivering(start_node, tmp_path / "node", archive.port)
    wait_until(lambda: "asked to commit" in reason(node), "the request", 20)
    everything = [(SecondaryCaptureImageStorage, uid) for uid in uids]
    with calling(node.port, ae_title="TESTER") as association:
        for transaction, event_type, expected in (
            (generate_uid(None), 1, 0x0112),
            (str(archive.requests[0].TransactionUID), 3, 0x0113),
            ("../../etc", 1, 0x0115),
        ):
            _, information = report(transaction, everything, [])
            status, _ = association.send_n_event_report(information, event_type, COMMITMENT, INSTANCE)
            assert status.Status == expected
        # Under the right transaction only what was asked counts.
        _, information = report(str(archive.requests[0].TransactionUID), [("1.2", "1.2.3.4")], [])
        assert association.send_n_event_report(information, 1, COMMITMENT, INSTANCE)[0].Status == 0x0000
    assert state(node) == "delivering"


@pytest.mark.programs
def test_orthanc_commits_and_names_what_it_lacks(
    start_node: StartNode, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dicom_node.delivery.commit_job._LINGER_SECONDS", 0.5
    )  # Orthanc ends only when nobody is connected
    node, uids = delivering(start_node, tmp_path / "node", orthanc.dicom)
    orthanc.know(node.port)
    assert node.index is not None
    for lost in ([], uids[:1]):  # it forgets an object, and is asked once more
        for one in orthanc.get("/instances"):
            if orthanc.get(f"/instances/{one}")["MainDicomTags"]["SOPInstanceUID"] in lost:
                gone = urllib.request.Request(f"http://127.0.0.1:{orthanc.http}/instances/{one}", method="DELETE")
                urllib.request.urlopen(gone, timeout=scaled(10)).close()
        with node.index.transaction():
            node.index._run("DELETE FROM committed")
            node.index._run("DELETE FROM asks")
            node.index._run("UPDATE jobs SET state = 'queued', due = 1, finished = NULL WHERE kind = 'commit'")
        wait_until(lambda: state(node) == "delivered", "Orthanc to commit", 30)
        assert len(orthanc.get("/instances")) == len(uids)
    rows = node.index._rows("SELECT missing FROM asks ORDER BY asked")
    assert [row[0] for row in rows] == [1, 0], "what Orthanc named as missing was sent again"


# -- as the provider


@dataclass
class Modality:
    """A modality that asks us to commit, and listens for the answer."""

    port: int
    reports: list[tuple[int, Dataset]] = field(default_factory=list)

    def on_report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return 0x0000, None

    @contextmanager
    def listening(self) -> Iterator[None]:
        configure_pynetdicom()
        ae = AE(ae_title="CT1")
        ae.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)])
        try:
            yield
        finally:
            ae.shutdown()

    def ask(self, port: int, images: list[Any], **changes: Any) -> int:
        request = references(
            changes.get("transaction", generate_uid(None)), [(i.SOPClassUID, i.SOPInstanceUID) for i in images]
        )
        handlers = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        with calling(port, ae_title="CT1", handlers=handlers) as association:
            status, _ = association.send_n_action(request, changes.get("action", 1), COMMITMENT, INSTANCE)
            time.sleep(changes.get("stays", 0.0))
        return int(status.Status)


def ct1(port: int | None) -> dict[str, Any]:
    there = {} if port is None else {"port": port}
    return {"name": "ct1", "ae_title": "CT1", "host": "127.0.0.1", "may_store": True, **there}


def told(modality: Modality) -> tuple[int, set[str], dict[str, int]]:
    ((kind, information),) = modality.reports
    return (
        kind,
        {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", [])},
        {str(item.ReferencedSOPInstanceUID): item.FailureReason for item in information.get("FailedSOPSequence", [])},
    )


@pytest.mark.slow
@pytest.mark.parametrize("calls_back", [True, False], ids=["at its own address", "on the association that asked"])
def test_a_modality_is_told_what_we_have(start_node: StartNode, tmp_path: Path, calls_back: bool) -> None:
    modality = Modality(free_port())
    node = start_node(settings_for(tmp_path / "node", peers=[ct1(modality.port if calls_back else None)]))
    here, gone, changed, other, never = (make_image() for _ in range(5))
    assert send(node.port, here, gone, changed, other, calling="CT1") == [0x0000] * 4
    found, damaged = node.received(gone.SOPInstanceUID), node.received(changed.SOPInstanceUID)
    assert found is not None
    assert damaged is not None
    found[0].unlink()
    data = damaged[0].read_bytes()
    damaged[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # one bit, and as long as it was
    other.SOPClassUID = SecondaryCaptureImageStorage  # what it says now is not what it sent
    with modality.listening():
        assert modality.ask(node.port, [here, gone, changed, other, never], stays=0.0 if calls_back else 1.0) == 0x0000
        wait_until(lambda: modality.reports, "the answer", 10)
    missing = {each.SOPInstanceUID: 0x0112 for each in (gone, changed, never)}
    assert told(modality) == (2, {here.SOPInstanceUID}, {**missing, other.SOPInstanceUID: 0x0119})


@pytest.mark.slow
def test_a_modality_that_is_off_is_told_later_and_once(start_node: StartNode, tmp_path: Path) -> None:
    modality = Modality(free_port())
    settings = settings_for(tmp_path / "node", peers=[ct1(modality.port)])
    node = start_node(settings)
    image = make_image()
    send(node.port, image, calling="CT1")
    assert modality.ask(node.port, [image]) == 0x0000
    node.stop()
    with modality.listening():
        start_node(settings)
        wait_until(lambda: modality.reports, "the answer", 20)
        time.sleep(1.5)
    assert told(modality) == (1, {image.SOPInstanceUID}, {})


def test_who_may_not_store_is_promised_nothing(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", peers=[{**ct1(None), "may_store": False}]))
    assert Modality(0).ask(node.port, [make_image()]) == 0x0124


def test_a_request_of_very_many_items_is_not_decoded(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", peers=[ct1(None)]))
    request = references(generate_uid(None), [])
    request.ReferencedSOPSequence = [Dataset() for _ in range(61_000)]
    with calling(node.port, ae_title="CT1") as association:
        assert "Status" not in association.send_n_action(request, 1, COMMITMENT, INSTANCE)[0]
        wait_until(lambda: association.is_aborted, "the association to be aborted", 10)
    assert send(node.port, make_image(), calling="CT1") == [0x0000]


def test_a_request_that_makes_no_sense_is_answered_so(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(settings_for(tmp_path / "node", peers=[ct1(None)]))
    modality, image = Modality(0), make_image()
    assert modality.ask(node.port, [image], action=7) == 0x0123
    assert modality.ask(node.port, []) == 0x0115
    assert modality.ask(node.port, [image], transaction="../1") == 0x0115
    assert send(node.port, image, calling="CT1") == [0x0000], "and the node lives"
