"""``dicom-node check --peer``: what each kind of PACS answers, told in the right words. Every peer here is real."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from ai.phantom import draw
from dicom_node.index.index import Index
from dicom_node.network.pynetdicom_setup import configure_pynetdicom
from dicom_node.operations.check import Point
from dicom_node.operations.preflight import Limits, compare, points
from dicom_node.operations.preflight.asking import KEYS
from tests.support.peers import free_port, listens
from tests.support.programs import ROOT, run_tool, running, tool
from tests.support.waiting import scaled, wait_until

_DRAW = cache(draw.draw_phantom)
QUICK = Limits(connect=2.0, answer=scaled(3.0), found=0.5, hidden=0.5, pause=0.05, whole=scaled(60.0))
EVERY = (
    Verification,
    DigitalXRayImageStorageForPresentation,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    KeyObjectSelectionDocumentStorage,
)
QUERIES = (StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelGet)


def configured(
    folder: Path, port: int, *, host: str = "127.0.0.1", outputs: str = '["sr", "sc"]', more: str = ""
) -> Path:
    file = folder / "node.toml"
    file.write_text(
        f'[node]\ndata_dir = "state"\n[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "{host}"\nport = {port}\n'
        f'destination = true\n{more}\n[[routes]]\nname = "chest"\nmodels = ["phantom_cxr"]\nto = ["pacs"]\n'
        f"outputs = {outputs}\n",
        encoding="utf-8",
    )
    return file


def flown(file: Path, *, reject: bool = False, limits: Limits = QUICK) -> list[Point]:
    """A whole pre-flight, which leaves neither a thread nor a folder of state behind."""
    before = set(threading.enumerate())
    told = list(points(file, "pacs", reject=reject, limits=limits))
    wait_until(
        lambda: not {t for t in threading.enumerate() if not t.daemon} - before, "pynetdicom's threads to end", 5
    )
    assert not (file.parent / "state").exists()
    return told


def lines(told: list[Point], what: str) -> list[str]:
    """The points about something, as they are printed."""
    return [f"{point.verdict} {point.text}" for point in told if point.what == what]


def line(told: list[Point], what: str) -> str:
    (one,) = lines(told, what)
    return one


def bad(told: list[Point]) -> list[str]:
    return [point.what for point in told if point.verdict != "ok"]


@dataclass
class Archive:
    """A PACS that does to what it is sent what a test tells it to."""

    port: int = 0
    answer: Callable[[Dataset], int | None] = lambda _: 0x0000
    change: Callable[[Dataset], None] = lambda _: None
    drops: str = ""  # a SOP class that it confirms and forgets
    iocm: bool = False
    series_only: bool = False
    late_seconds: float = 0.0
    held: dict[str, Dataset] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def on_store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        kept = pydicom.dcmread(BytesIO(event.encoded_dataset()))
        status = self.answer(dataset)
        if status is None:
            event.assoc.abort()
            return 0x0110
        if (status == 0 or status & 0xF000 == 0xB000) and dataset.SOPClassUID != self.drops:
            self.change(kept)
            self.held[str(dataset.SOPInstanceUID)] = kept
        if self.iocm and dataset.SOPClassUID == KeyObjectSelectionDocumentStorage:
            assert dataset.ConceptNameCodeSequence[0].CodeValue == "113001"
            for study in dataset.CurrentRequestedProcedureEvidenceSequence:
                for series in study.ReferencedSeriesSequence:
                    self.hidden |= {str(one.ReferencedSOPInstanceUID) for one in series.ReferencedSOPSequence}
        return status

    def matches(self, query: Dataset) -> dict[str, Dataset]:
        unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID"}.get(
            query.QueryRetrieveLevel, "SOPInstanceUID"
        )
        found = {}
        for uid, one in self.held.items():
            wanted = [(word, query.get(word)) for word in ("StudyInstanceUID", "SeriesInstanceUID")]
            if uid not in self.hidden and all(not uid or one[word].value == uid for word, uid in wanted):
                found[one[unique].value] = one
        return found

    def on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        if self.late_seconds > 0:
            self.late_seconds -= 0.2
            return
        if self.series_only and query.QueryRetrieveLevel == "IMAGE":
            return
        for one in self.matches(query).values():
            answer = Dataset()
            answer.SpecificCharacterSet = "ISO_IR 192"
            for element in query:
                answer[element.tag] = deepcopy(one[element.tag]) if element.tag in one else element
            yield 0xFF00, answer

    def on_get(self, event: Any) -> Iterator[Any]:
        study = event.identifier.StudyInstanceUID
        found = [one for one in self.held.values() if one["StudyInstanceUID"].value == study]
        yield len(found)
        for one in found:
            yield 0xFF00, one


@pytest.fixture
def start() -> Iterator[Callable[..., Archive]]:
    servers: list[AE] = []

    def start(
        archive: Archive | None = None,
        *,
        classes: tuple[str, ...] = (*EVERY, *QUERIES),
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        calling: str = "",
        called: str = "PACS",
    ) -> Archive:
        archive = archive or Archive()
        ae = AE(ae_title=called)
        ae.require_called_aet = True
        ae.require_calling_aet = [calling] if calling else []
        for one in classes:
            roles = {} if one in QUERIES else {"scu_role": True, "scp_role": True}
            ae.add_supported_context(one, list(syntaxes), **roles)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, archive.on_store),
            (evt.EVT_C_FIND, archive.on_find),
            (evt.EVT_C_GET, archive.on_get),
        ]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        archive.port = server.server_address[1]
        servers.append(ae)
        return archive

    yield start
    for ae in servers:
        ae.shutdown()


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same drawing each time: only its identity has to be new."""
    monkeypatch.setattr("dicom_node.operations.preflight.study.draw.draw_phantom", _DRAW)


@pytest.fixture(autouse=True)
def _only_named_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PACS, unlike the node, refuses the storage classes that it does not know."""
    configure_pynetdicom()
    monkeypatch.setattr("pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE", False)
    monkeypatch.setattr("dicom_node.network.pynetdicom_setup.configure_pynetdicom", lambda: None)


# --- getting there ---------------------------------------------------------------------------------------------------


def test_a_wrong_configuration_is_told_line_by_line(tmp_path: Path) -> None:
    file = configured(tmp_path, 0)
    assert [(point.verdict, point.what) for point in points(file, "pacs")] == [("FAIL", "configuration")]


@pytest.mark.parametrize(("name", "told"), [("nobody", "'nobody' is no peer"), ("ct", "'ct' is no destination")])
def test_a_name_that_is_no_destination_is_told_with_those_that_are(tmp_path: Path, name: str, told: str) -> None:
    file = configured(tmp_path, 104)
    file.write_text(file.read_text() + '[[peers]]\nname = "ct"\nae_title = "CT"\nhost = "127.0.0.1"\n')
    (point,) = points(file, name)
    assert point.verdict == "FAIL"
    assert point.text.endswith(f"{told}; peers with destination = true: pacs")


def test_a_host_name_that_is_unknown(tmp_path: Path) -> None:
    told = flown(configured(tmp_path, 104, host="pacs.invalid"))
    assert line(told, "host name").startswith("FAIL 'pacs.invalid' cannot be resolved (")
    assert len(told) == 2


def test_a_closed_port(tmp_path: Path) -> None:
    port = free_port()
    told = flown(configured(tmp_path, port))
    assert line(told, "host name") == "ok 127.0.0.1 is an address"
    assert line(told, "connection").startswith(f"FAIL 127.0.0.1:{port} refused it: the machine is there, but nothing")
    assert len(told) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            TimeoutError("timed out"),
            "did not answer within 2 s: the machine is off, the address is another, or a firewall",
        ),
        (OSError(113, "No route to host"), "no way there (No route to host): look at routes and gateways between"),
        (OSError(1, "Operation not permitted"), ":104: Operation not permitted"),
    ],
)
def test_a_connection_that_fails_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)  # a network that does this is not at hand
    told = flown(configured(tmp_path, 104))
    assert expected in line(told, "connection")
    assert len(told) == 3


@contextmanager
def listening(speak: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that treats each connection as it likes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(scaled(20))
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                speak(connection)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()


def silent(connection: socket.socket) -> None:
    connection.settimeout(scaled(20))
    while connection.recv(4096):
        pass


@pytest.mark.slow
def test_a_port_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with listening(silent) as port:
        told = flown(configured(tmp_path, port), limits=Limits(connect=0.5, answer=1.0))
    assert re.match(
        rf"FAIL 127\.0\.0\.1:{port} took the connection but did not answer the association request within 0\.5 s: "
        rf"is {port} its DICOM port",
        line(told, "association"),
    )
    assert time.monotonic() - began < scaled(15)


def test_a_port_that_hangs_up(tmp_path: Path) -> None:
    with listening(lambda connection: connection.close()) as port:
        told = flown(configured(tmp_path, port))
    assert "closed the connection without an answer" in line(told, "association")
    assert "add AE title AINODE (capitals count), address 127.0.0.1" in line(told, "association")


@pytest.mark.slow
def test_a_web_server(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        told = flown(configured(tmp_path, server.server_port), limits=Limits(connect=0.5))
    finally:
        server.shutdown()
        server.server_close()
    assert line(told, "association") == (
        f"FAIL 127.0.0.1:{server.server_port} is a web server (HTTP), not DICOM: correct port of peer pacs"
    )


@pytest.mark.programs
@pytest.mark.parametrize("client_certificate", [False, True])
def test_a_port_with_tls_only(tmp_path: Path, client_certificate: bool) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run_tool("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pacs", "-days", "1",
             "-keyout", key, "-out", certificate)  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_certificate:
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # so that the client learns of it within the handshake
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)

    def speak(connection: socket.socket) -> None:
        connection.settimeout(5)
        context.wrap_socket(connection, server_side=True).recv(10)

    with listening(speak) as port:
        told = flown(configured(tmp_path, port))
    assert f"FAIL 127.0.0.1:{port} speaks TLS" in line(told, "association")


def test_a_port_that_speaks_something_else(tmp_path: Path) -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-Open\x1bSSH\r\n")
        silent(connection)

    with listening(speak) as port:
        told = flown(configured(tmp_path, port))
    assert "speaks something else than DICOM (it begins 'SSH-2.0-Open\\\\x1bSSH" in line(told, "association")


ACCEPTANCE_CUT_SHORT = bytes.fromhex("0200 000000b8 0001 0000")
MALFORMED = bytes.fromhex("0200 0000006c") + b"\xff" * 108
ABORT = bytes.fromhex("0700 00000004 0000 0201")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ABORT, "aborted: its DICOM layer aborted: it did not recognise what we sent. Some PACS do this to callers"),
        (MALFORMED, "it answered the association request with something"),
        (ACCEPTANCE_CUT_SHORT, "FAIL"),
    ],
)
def test_an_answer_that_is_no_acceptance(tmp_path: Path, answer: bytes, expected: str) -> None:
    def speak(connection: socket.socket) -> None:
        connection.settimeout(scaled(20))
        if connection.recv(4096):
            connection.sendall(answer)
            silent(connection)

    with listening(speak) as port:
        told = flown(configured(tmp_path, port), limits=Limits(connect=0.5, answer=0.5))
    assert expected in line(told, "association")


def item(kind: int, *parts: bytes) -> bytes:
    """An item of an association PDU (PS3.8 9.3)."""
    body = b"".join(parts)
    return bytes([kind, 0]) + len(body).to_bytes(2, "big") + body


@pytest.mark.slow
def test_a_transfer_syntax_that_was_not_proposed(tmp_path: Path) -> None:
    body = b"\0\1\0\0" + b"PACS".ljust(16) + b"AINODE".ljust(16) + bytes(32) + b"".join(
        [
            item(0x10, b"1.2.840.10008.3.1.1.1"),
            item(0x21, bytes([1, 0, 0, 0]), item(0x40, b"1.2.3")),
            item(0x50, item(0x51, bytes([0, 0, 64, 0])), item(0x52, b"1.2.3.4")),
        ]
    )  # fmt: skip
    acceptance = b"\2\0" + len(body).to_bytes(4, "big") + body

    def speak(connection: socket.socket) -> None:
        connection.settimeout(scaled(20))
        if connection.recv(4096):
            connection.sendall(acceptance)
            silent(connection)

    with listening(speak) as port:
        told = flown(configured(tmp_path, port), limits=Limits(connect=0.5, answer=0.5))
    assert "it accepted a transfer syntax that was not proposed" in line(told, "association")


@pytest.mark.slow
def test_whatever_it_does_the_whole_ends_in_time(tmp_path: Path) -> None:
    """A message that comes a byte at a time meets every other limit."""

    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        for byte in ACCEPTANCE_CUT_SHORT + bytes(100):
            connection.sendall(bytes([byte]))
            time.sleep(0.2)

    began = time.monotonic()
    with listening(speak) as port:
        told = flown(configured(tmp_path, port), limits=Limits(connect=0.5, answer=0.5, whole=3.0))
    assert line(told, "association").startswith("FAIL ")
    assert time.monotonic() - began < scaled(8)


# --- the association --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pacs_that_does_not_know_us_says_what_to_add(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(calling="SOMEBODY").port))
    assert line(told, "association") == (
        "FAIL rejected: it does not know our AE title 'AINODE': in the PACS's list of DICOM nodes, add AE title AINODE "
        "(capitals count), address 127.0.0.1, with the right to store. If we stand there, 'PACS' may not be its own AE "
        "title"
    )


@pytest.mark.slow
def test_a_pacs_of_another_name_says_what_to_correct(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(called="OTHER").port))
    assert line(told, "association") == (
        "FAIL rejected: it does not answer to AE title 'PACS': correct ae_title of peer pacs in the configuration to "
        "the PACS's own AE title"
    )


# --- a PACS that is ready --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("offered", [True, False])
def test_storage_commitment_is_asked_for_where_it_is_configured(
    tmp_path: Path, start: Callable[..., Archive], offered: bool
) -> None:
    more = (StorageCommitmentPushModel,) if offered else ()
    file = configured(tmp_path, start(classes=(*EVERY, *QUERIES, *more)).port)
    file.write_text(file.read_text().replace("destination = true", "destination = true\ncommitment = true"))
    (point,) = (point for point in points(file, "pacs") if point.what == "commitment")
    assert point.verdict == ("ok" if offered else "FAIL")
    assert ("set commitment = false on peer pacs" in point.text) is not offered


@pytest.mark.slow
def test_everything_comes_back_as_sent(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start()
    told = flown(configured(tmp_path, archive.port))
    assert bad(told) == []
    uid = re.search(r"StudyInstanceUID (2\.25\.\d+)", line(told, "clean up"))
    assert uid is not None
    assert f"PatientID TEST-DICOM-NODE, StudyInstanceUID {uid[1]}" in line(told, "test study")
    assert {str(one.StudyInstanceUID) for one in archive.held.values()} == {uid[1]}
    assert {str(one.PatientName) for one in archive.held.values()} == {"TEST^DICOM-NODE"}
    image = next(one for one in archive.held.values() if one.Modality == "DX")
    assert (image.QualityControlImage, image.QualityControlSubject) == ("YES", "YES")
    assert "TEST" in image.StudyDescription
    assert all(one.StudyDescription == image.StudyDescription for one in archive.held.values())
    for name in ("source image", "sr", "sc"):
        assert line(told, f"C-STORE {name}").startswith("ok answered 0000, success (")
        assert line(told, f"kept {name}") == "ok found, attributes of series and object as sent"
        assert re.fullmatch(r"ok came back, all \d+ elements as sent", line(told, f"C-GET {name}"))
    assert line(told, "kept study") == "ok found, attributes of patient and study as sent"
    assert line(told, "in all") == "ok PACS took 3 of 3 objects, kept 3, changed 0"


@pytest.mark.slow
def test_a_second_run_is_another_study(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(classes=EVERY)
    file = configured(tmp_path, archive.port)
    flown(file)
    flown(file)
    assert len(archive.held) == 6
    assert len({str(one.StudyInstanceUID) for one in archive.held.values()}) == 2


@pytest.mark.slow
def test_objects_are_made_for_each_profile_of_the_destination(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(classes=EVERY)
    file = configured(tmp_path, archive.port)
    same = '[[routes]]\nname = "same"\nmodels = ["phantom_cxr"]\nto = ["pacs"]\noutputs = ["sc", "sr"]\n'
    korean = '[[routes]]\nname = "korean"\nmodels = ["phantom_cxr"]\nto = ["pacs"]\noutputs = ["sr"]\nlanguage = "ko"\n'
    file.write_text(file.read_text() + same + korean)
    told = flown(file)
    assert "it gets sr, sc (routes chest, same); sr (route korean)" in line(told, "configuration")
    stored = [point.what for point in told if point.what.startswith("C-STORE")]
    assert stored == [
        "C-STORE source image",
        "C-STORE sr (routes chest, same)",
        "C-STORE sc (routes chest, same)",
        "C-STORE sr (route korean)",
    ]


@pytest.mark.slow
def test_a_destination_without_a_route_is_tried_with_its_own_wishes(
    tmp_path: Path, start: Callable[..., Archive]
) -> None:
    archive = start(classes=EVERY)
    file = configured(tmp_path, archive.port, more='outputs = ["sc"]')
    file.write_text(file.read_text().partition("[[routes]]")[0])
    told = flown(file)
    assert line(told, "configuration").startswith("warn ")
    assert "it gets sc (by default: no route sends to it)" in line(told, "configuration")
    assert "C-STORE sc" in [point.what for point in told]


@pytest.mark.slow
def test_outputs_that_the_test_study_cannot_show_are_named(tmp_path: Path, start: Callable[..., Archive]) -> None:
    """Every output is either sent or said not to be."""
    outputs = ("sr", "sc", "gsps", "seg", "pdf", "kos")
    told = flown(configured(tmp_path, start(classes=EVERY).port, outputs=json.dumps(outputs)))
    for role in outputs:
        unmade = any(f"holds no {role}:" in text for text in lines(told, "test study"))
        refused = any(f"leave {role} out of outputs" in text for text in lines(told, "SOP class"))
        sent = any(re.match(f"C-STORE {role}( |$)", point.what) for point in told)
        assert [unmade, refused, sent].count(True) == 1, role


# --- negotiation ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told", "taken"),
    [
        ((), "pictures uncompressed", ""),
        ((JPEGBaseline8Bit,), "pictures in JPEG Baseline (Process 1)", ", JPEG Baseline (Process 1)"),
    ],
)
def test_the_transfer_syntaxes_of_pictures_are_told_and_recorded_for_the_node(
    tmp_path: Path, start: Callable[..., Archive], more: tuple[str, ...], told: str, taken: str
) -> None:
    """Whichever they are, pictures come back as they were sent: their pixels are the same in every one."""
    archive = start(syntaxes=(ExplicitVRLittleEndian, ImplicitVRLittleEndian, *more))
    file = configured(tmp_path, archive.port)
    flight = flown(file)
    assert bad(flight) == []
    assert line(flight, "pictures") == f"ok the PACS gets {told}"  # no node has run here: there is nothing to record in
    assert lines(flight, "SOP class")[-1].endswith(f"is taken, in Explicit VR Little Endian{taken}")
    assert line(flight, "C-GET sc").startswith("ok came back, all ")

    (tmp_path / "state").mkdir()
    node = Index(tmp_path / "state" / "index.sqlite", create=True)  # one that runs
    again = list(points(file, "pacs", limits=QUICK))
    assert line(again, "pictures") == f"ok the PACS gets {told}; recorded for the node"
    accepted = node.accepted_by("pacs")[SecondaryCaptureImageStorage]
    node.close()
    assert accepted == {ExplicitVRLittleEndian, ImplicitVRLittleEndian, *more}


@pytest.mark.slow
def test_a_class_that_is_refused_is_named(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(classes=(Verification, SecondaryCaptureImageStorage, *QUERIES))
    told = flown(configured(tmp_path, archive.port))
    image, report, picture = lines(told, "SOP class")
    assert image == (
        "warn Digital X-Ray Image Storage - For Presentation (1.2.840.10008.5.1.4.1.1.1.1) is refused: "
        "abstract-syntax-not-supported. It is no result: these are sent without their image"
    )
    assert report == (
        "warn Comprehensive SR Storage (1.2.840.10008.5.1.4.1.1.88.33) is refused: abstract-syntax-not-supported; the "
        "node leaves such results out and says so with the study: have it switched on in the PACS for AINODE, or leave "
        "sr out of outputs for this destination"
    )
    assert picture == (
        "ok Secondary Capture Image Storage (1.2.840.10008.5.1.4.1.1.7) is taken, in Explicit VR Little Endian"
    )
    assert line(told, "kept sc").startswith("ok ")
    assert line(told, "in all") == (
        "warn PACS took 1 of 3 objects (2 are of SOP classes that it refuses), kept 1, changed 0"
    )


@pytest.mark.slow
def test_a_pacs_that_takes_the_image_and_no_result_fails(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(classes=(Verification, DigitalXRayImageStorageForPresentation, *QUERIES))
    told = flown(configured(tmp_path, archive.port))
    assert all(
        text.startswith("FAIL ") and "; no result can be sent: have it" in text for text in lines(told, "SOP class")[1:]
    )
    assert line(told, "in all") == (
        "FAIL PACS took 1 of 3 objects (2 are of SOP classes that it refuses), kept 1, changed 0"
    )


@pytest.mark.slow
def test_transfer_syntaxes_that_are_refused_are_told_apart(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(syntaxes=(ExplicitVRBigEndian,)).port))
    assert line(told, "C-ECHO") == "warn it takes our call, but does not offer the Verification service"
    assert (
        "is refused: transfer-syntaxes-not-supported; no result can be sent: the PACS must take Explicit VR Little "
        "Endian or Implicit VR Little Endian for it"
    ) in lines(told, "SOP class")[1]
    assert line(told, "in all") == "FAIL PACS took 0 of 3 objects (3 are of SOP classes that it refuses)"


@pytest.mark.slow
def test_implicit_only_is_converted(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(syntaxes=(ImplicitVRLittleEndian,)).port))
    assert [text.rpartition(" is ")[2] for text in lines(told, "SOP class")] == [
        "taken in Implicit VR Little Endian only: the node converts what it sends"
    ] * 3
    assert bad(told) == ["SOP class"] * 3
    assert line(told, "C-GET sr").startswith("ok came back, all ")


# --- storing ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0xA700, "answered A700, out of resources; the node would try again for 72 hours: look at the PACS's disk"),
        (0xA900, "answered A900, the data set does not match its SOP class; the PACS refuses it for good"),
        (0xC123, "answered C123, it cannot understand or process it; the PACS refuses it for good"),
        (0x0122, "answered 0122, SOP class not supported; the PACS refuses it for good, and the node would"),
        (0x0124, "answered 0124, not authorized; the PACS refuses it for good, and the node would call the study "
                 "failed: our AE title may call but not store: give AINODE that right on the PACS"),
        (0x0110, "answered 0110, processing failure: an error inside it; the node would try again for 72 hours"),
        (0x1234, "answered 1234, a status outside the standard; the node would try again"),
    ],
)  # fmt: skip
def test_a_status_is_explained(tmp_path: Path, start: Callable[..., Archive], status: int, expected: str) -> None:
    archive = start()
    archive.answer = lambda one: status if one.Modality == "SR" else 0x0000
    told = flown(configured(tmp_path, archive.port))
    assert line(told, "C-STORE sr").startswith(f"FAIL {expected}")
    assert line(told, "kept sc").startswith("ok ")
    assert lines(told, "kept sr") == []
    assert line(told, "in all") == "FAIL PACS took 2 of 3 objects, kept 2, changed 0"


@pytest.mark.slow
def test_stored_with_a_warning_and_changed_names_what_was_changed(
    tmp_path: Path, start: Callable[..., Archive]
) -> None:
    archive = start()
    archive.answer = lambda _: 0xB000

    def change(one: Dataset) -> None:
        one.PatientName = "SOMEBODY^ELSE"
        if one.Modality == "SR":
            one.SeriesNumber = 7
            one.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = "Other"
            del one.DeviceSerialNumber
            one.InstitutionalDepartmentName = "HOSPITAL"

    archive.change = change
    told = flown(configured(tmp_path, archive.port))
    assert line(told, "C-STORE sr").startswith(
        "warn answered B000, it changed attributes (coercion of data elements). It"
    )
    assert line(told, "kept study") == (
        "warn found, but changed by the PACS: PatientName (0010,0010) was sent as 'TEST^DICOM-NODE' and came back as "
        "'SOMEBODY^ELSE'"
    )
    assert line(told, "kept sr") == (
        "warn found, but changed by the PACS: SeriesNumber (0020,0011) was sent as '9001' and came back as '7'"
    )
    got = line(told, "C-GET sr")
    assert got.startswith("warn came back changed: ")
    for expected in (
        "InstitutionalDepartmentName (0008,1040) was added: 'HOSPITAL'",
        "PatientName (0010,0010) was sent as 'TEST^DICOM-NODE' and came back as 'SOMEBODY^ELSE'",
        "DeviceSerialNumber (0018,1000) was sent as '0000000000",
        "ContentSequence[1].ConceptNameCodeSequence[1].CodeMeaning (0008,0104) was sent as 'Language of Content",
    ):
        assert expected in got
    assert line(told, "kept sc").startswith("ok ")
    assert line(told, "in all") == "warn PACS took 3 of 3 objects, kept 3, changed 3"


@pytest.mark.slow
def test_an_object_that_was_confirmed_and_dropped(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(Archive(drops=SecondaryCaptureImageStorage))
    told = flown(configured(tmp_path, archive.port))
    assert line(told, "C-STORE sc").startswith("ok ")
    assert "2 of 3 objects found after 0." in line(told, "C-FIND")
    assert line(told, "kept sc").startswith(
        "FAIL answered as stored, but not found within 0.5 s: it may wait in the PACS"
    )
    assert lines(told, "C-GET sc") == []
    assert line(told, "in all") == "FAIL PACS took 3 of 3 objects, kept 2, changed 0"


@pytest.mark.slow
def test_an_archive_that_indexes_late_is_waited_for(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(Archive(late_seconds=1.0))
    told = flown(configured(tmp_path, archive.port), limits=Limits(found=20.0, pause=0.05))
    assert line(told, "in all") == "ok PACS took 3 of 3 objects, kept 3, changed 0"


@pytest.mark.slow
def test_a_pacs_without_queries_on_image_level(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(Archive(series_only=True)).port))
    assert line(told, "kept sr") == "warn its series is found, but the PACS answers no queries on IMAGE level"
    assert line(told, "in all") == "ok PACS took 3 of 3 objects, kept 3, changed 0"


@pytest.mark.slow
def test_a_pacs_that_aborts_at_one_object_is_called_again_for_the_rest(
    tmp_path: Path, start: Callable[..., Archive]
) -> None:
    archive = start()
    archive.answer = lambda one: None if one.Modality == "SR" else 0x0000
    told = flown(configured(tmp_path, archive.port))
    assert line(told, "C-STORE sr").startswith(
        "FAIL the PACS ended the association without an answer: it does not get on with this object, or does"
    )
    assert line(told, "C-STORE sc").startswith("ok ")


@pytest.mark.slow
def test_a_pacs_that_never_answers_is_left_after_two_objects(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start()
    release = threading.Event()

    def wait(_: Dataset) -> int:
        release.wait(scaled(20))
        return 0x0000

    archive.answer = wait
    told = flown(configured(tmp_path, archive.port), limits=Limits(answer=0.3))
    release.set()
    assert line(told, "C-STORE sr").startswith(
        "FAIL no answer within 0.3 s: it may be busy, or hang; the node would try"
    )
    assert line(told, "C-STORE") == "FAIL broken off after 2 objects without an answer; not sent: sc"
    assert line(told, "in all") == "FAIL PACS took 0 of 3 objects"


# --- asking back ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pacs_that_cannot_be_asked_back(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(classes=EVERY).port))
    assert line(told, "C-FIND").startswith("warn it does not offer Study Root C-FIND: it cannot be asked what it kept.")
    assert line(told, "C-GET") == "ok it does not offer C-GET; nothing compared"
    assert line(told, "in all") == "warn PACS took 3 of 3 objects, what it kept is not known"


@pytest.mark.slow
def test_a_pacs_without_c_get_says_that_less_was_compared(tmp_path: Path, start: Callable[..., Archive]) -> None:
    told = flown(configured(tmp_path, start(classes=(*EVERY, StudyRootQueryRetrieveInformationModelFind)).port))
    assert bad(told) == []
    assert line(told, "C-GET") == ("ok it does not offer C-GET; only the attributes that C-FIND returns were compared")


@pytest.mark.slow
def test_a_query_that_fails_and_one_that_never_ends(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = Archive()
    archive.on_find = lambda _event: iter([(0xC001, None)])  # type: ignore[method-assign]
    told = flown(configured(tmp_path, start(archive).port))
    assert line(told, "C-FIND").startswith(
        "warn it answered the query C001, it cannot understand or process it: it cannot"
    )

    def endless(_event: Any) -> Iterator[tuple[int, Dataset]]:
        for number in range(5000):
            answer = Dataset()
            answer.SOPInstanceUID = f"1.2.{number}"
            yield 0xFF00, answer

    archive.on_find = endless  # type: ignore[method-assign]
    told = flown(configured(tmp_path, start(archive).port))
    assert line(told, "C-FIND").startswith("warn more than 500 responses to a query for one study: broken off")


@pytest.mark.slow
def test_responses_that_break_the_standard_stop_nothing(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = Archive()
    true_find = archive.on_find

    def broken(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for status, answer in true_find(event):
            assert answer is not None
            for keyword, value in (
                ("SpecificCharacterSet", b"UTF-9000"),
                ("StudyDate", b"\xff\xfe\x1b[2J"),
                ("InstanceNumber", b"one "),
                ("Rows", b"\1\2\3\4\5\6"),
                ("PatientName", b"\x1b$B\xff" * 30),
            ):
                if keyword in answer:
                    tag = pydicom.tag.Tag(keyword)
                    answer[tag] = pydicom.dataelem.RawDataElement(tag, None, len(value), value, 0, True, True)
            yield status, answer

    archive.on_find = broken  # type: ignore[method-assign]
    told = flown(configured(tmp_path, start(archive, syntaxes=(ImplicitVRLittleEndian,)).port))
    assert line(told, "kept study").startswith(
        "warn found, but changed by the PACS: PatientName (0010,0010) was sent as"
    )
    assert "\x1b" not in "".join(point.text for point in told)
    assert len(line(told, "kept study")) < 600


# --- rejection (IHE IOCM) --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_archive_that_supports_iocm_hides_the_test_objects(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start(Archive(iocm=True))
    told = flown(configured(tmp_path, archive.port), reject=True)
    assert bad(told) == []
    assert line(told, "rejection note") == "ok answered 0000, success"
    assert line(told, "clean up") == "ok the rejected objects are found no more: the archive supports IHE IOCM"
    assert len(archive.hidden) == 3


@pytest.mark.slow
def test_an_archive_that_does_not_is_told_with_what_to_delete_by_hand(
    tmp_path: Path, start: Callable[..., Archive]
) -> None:
    told = flown(configured(tmp_path, start().port), reject=True)
    assert bad(told) == ["clean up"]
    assert line(told, "clean up").startswith(
        "warn 3 of 3 rejected objects are still found: it does not act on rejection"
    )
    assert "PatientID TEST-DICOM-NODE, StudyInstanceUID 2.25." in line(told, "clean up")


@pytest.mark.slow
def test_a_pacs_that_takes_no_rejection_notes(tmp_path: Path, start: Callable[..., Archive]) -> None:
    classes = tuple(one for one in EVERY if one != KeyObjectSelectionDocumentStorage)
    told = flown(configured(tmp_path, start(classes=classes).port), reject=True)
    assert line(told, "rejection note").startswith(
        "warn it does not take Key Object Selection Document Storage (1.2.840.10008.5.1.4.1.1.88.59); the test study"
    )


@pytest.mark.programs
def test_every_object_sent_is_valid(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start()
    flown(configured(tmp_path, archive.port), reject=True)
    assert len(archive.held) == 4
    for number, one in enumerate(archive.held.values()):
        path = tmp_path / f"{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        done = run_tool("dciodvfy", path, check=False)
        assert [text for text in (done.stdout + done.stderr).splitlines() if text.startswith("Error")] == []


@pytest.mark.programs
def test_the_rejection_note_follows_its_template(tmp_path: Path, start: Callable[..., Archive]) -> None:
    archive = start()
    flown(configured(tmp_path, archive.port), reject=True)
    (note,) = (one for one in archive.held.values() if one.Modality == "KO")
    assert note.ConceptNameCodeSequence[0].CodeMeaning == "Rejected for Quality Reasons"
    assert note.ContentTemplateSequence[0].TemplateIdentifier == "2010"
    items = [item for item in note.ContentSequence if item.ValueType in {"IMAGE", "COMPOSITE"}]
    referenced = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items}
    assert referenced == archive.held.keys() - {note.SOPInstanceUID}
    assert not any("ConceptNameCodeSequence" in item for item in items)
    note.save_as(tmp_path / "note.dcm", enforce_file_format=True)
    assert "Rejected for Quality Reasons" in run_tool("dsr2html", tmp_path / "note.dcm").stdout


# --- PACS that nobody on this project wrote --------------------------------------------------------------------------


@contextmanager
def orthanc(folder: Path, **changes: Any) -> Iterator[int]:
    program = tool("Orthanc")
    dicom, http = free_port(), free_port()
    storage = folder / "orthanc"
    storage.mkdir()
    config = {
        "DicomAet": "PACS",
        "DicomPort": dicom,
        "HttpPort": http,
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "DicomModalities": {"node": ["AINODE", "127.0.0.1", 11112]},
        "Plugins": [],
        **changes,
    }
    (storage / "orthanc.json").write_text(json.dumps(config))
    command = [program, storage / "orthanc.json"]
    with (storage / "log").open("wb") as log, running(command, stdout=log, stderr=log):
        wait_until(lambda: listens(dicom) and listens(http), "Orthanc to listen")
        yield dicom


@pytest.mark.programs
def test_orthanc_is_ready(tmp_path: Path) -> None:
    with orthanc(tmp_path) as port:
        told = flown(configured(tmp_path, port), reject=True)
    assert bad(told) == ["clean up"]  # it knows nothing of IOCM
    assert line(told, "C-GET sr").startswith("ok came back, all ")
    assert line(told, "in all") == "ok PACS took 3 of 3 objects, kept 3, changed 0"


@pytest.mark.programs
def test_orthanc_that_takes_implicit_vr_only(tmp_path: Path) -> None:
    with orthanc(tmp_path, AcceptedTransferSyntaxes=[ImplicitVRLittleEndian]) as port:
        told = flown(configured(tmp_path, port))
    assert bad(told) == ["SOP class"] * 3
    assert line(told, "C-GET sr").startswith("ok came back, all ")


@pytest.mark.programs
def test_orthanc_that_does_not_know_us(tmp_path: Path) -> None:
    changes = {"DicomModalities": {}, "DicomAlwaysAllowStore": False, "DicomAlwaysAllowEcho": False}
    with orthanc(tmp_path, **changes) as port:
        told = flown(configured(tmp_path, port))
    assert line(told, "association").startswith(
        "FAIL rejected: it does not know our AE title 'AINODE': in the PACS's list"
    )


@pytest.mark.programs
def test_orthanc_of_another_name(tmp_path: Path) -> None:
    with orthanc(tmp_path, DicomCheckCalledAet=True, DicomAet="OTHER") as port:
        told = flown(configured(tmp_path, port))
    assert line(told, "association").startswith("FAIL rejected: it does not answer to AE title 'PACS'")


@pytest.mark.programs
def test_orthanc_that_lets_us_call_but_neither_store_nor_query(tmp_path: Path) -> None:
    with orthanc(tmp_path, DicomModalities={}, DicomAlwaysAllowStore=False) as port:
        told = flown(configured(tmp_path, port))
    assert line(told, "C-ECHO").startswith("ok ")
    assert "or does not let AINODE store" in line(told, "C-STORE source image")
    assert line(told, "C-STORE") == "FAIL broken off after 2 objects without an answer; not sent: sc"


@pytest.mark.programs
def test_orthanc_that_may_not_be_queried(tmp_path: Path) -> None:
    with orthanc(tmp_path, DicomModalities={}) as port:
        told = flown(configured(tmp_path, port))
    assert line(told, "C-FIND").startswith("warn it did not answer the query, or ended the association at it")
    assert line(told, "in all") == "warn PACS took 3 of 3 objects, what it kept is not known"


@pytest.mark.programs
def test_orthanc_that_drops_reports(tmp_path: Path) -> None:
    script = tmp_path / "filter.lua"
    script.write_text("function ReceivedInstanceFilter(dicom)\n  return dicom.Modality ~= 'SR'\nend\n")
    with orthanc(tmp_path, LuaScripts=[str(script)]) as port:
        told = flown(configured(tmp_path, port))
    assert line(told, "C-STORE sr").startswith("ok ")
    assert line(told, "kept sr").startswith("FAIL answered as stored, but not found")
    assert line(told, "kept sc").startswith("ok ")


@contextmanager
def dcmtk(folder: Path, program: str, *arguments: object, port: int) -> Iterator[None]:
    command = [tool(program), *arguments]
    with running(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: listens(port), f"{program} to listen")
        yield


@pytest.mark.programs
@pytest.mark.parametrize("option", ["+xe", "+xi"])
def test_dcmtks_storescp(tmp_path: Path, option: str) -> None:
    port, folder = free_port(), tmp_path / "stored"
    folder.mkdir()
    with dcmtk(tmp_path, "storescp", option, "-aet", "PACS", "-od", folder, port, port=port):
        told = flown(configured(tmp_path, port))
    assert bad(told) == ["SOP class"] * (3 * (option == "+xi")) + ["C-FIND", "in all"]
    assert len(list(folder.iterdir())) == 3
    for file in folder.iterdir():
        assert pydicom.dcmread(file).PatientID == "TEST-DICOM-NODE"


@pytest.mark.programs
def test_dcmtks_archive(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "db").mkdir()
    (tmp_path / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nPACS {tmp_path / 'db'} RW (100, 1024mb) ANY\nAETable END\n"
    )
    with dcmtk(tmp_path, "dcmqrscp", "-c", tmp_path / "qr.cfg", port=port):
        told = flown(configured(tmp_path, port))
    assert line(told, "in all") == "ok PACS took 3 of 3 objects, kept 3, changed 0", told


# --- comparing -------------------------------------------------------------------------------------------------------


def of(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ({"PatientName": "A^B"}, {"PatientName": "A^B^^^"}),
        ({"PatientID": "A "}, {"PatientID": "A"}),
        ({"SeriesNumber": "1"}, {"SeriesNumber": "001"}),
        ({"StudyTime": "120000"}, {"StudyTime": "120000.000"}),
        ({"StudyTime": "120000.123"}, {"StudyTime": "120000"}),
        ({"StudyDescription": "A"}, {"StudyDescription": ""}),
        ({"StudyDescription": "A"}, {}),
        ({}, {"StudyDescription": ""}),
    ],
)
def test_what_is_no_difference_of_an_answer(sent: dict[str, str], returned: dict[str, str]) -> None:
    keywords = list(sent | returned)
    assert compare.answered(of(**sent), of(**returned), keywords, ["PatientID"]) == []


def test_a_required_attribute_that_is_gone_is_a_difference() -> None:
    (one,) = compare.answered(of(PatientID="A"), of(PatientID=""), ["PatientID"], ["PatientID"])
    assert str(one) == "PatientID (0010,0020) was sent as 'A' and did not come back"


def test_differences_beyond_the_first_are_counted() -> None:
    sent = of(**dict.fromkeys(("PatientID", "StudyID", "AccessionNumber"), "1"))
    assert compare.told(list(compare.elements(sent, Dataset())) * 4).endswith("; and 4 more")


def test_a_value_that_cannot_be_decoded_is_a_difference() -> None:
    back = Dataset()
    tag = pydicom.tag.Tag("InstanceNumber")
    back[tag] = pydicom.dataelem.RawDataElement(tag, "IS", 4, b"one ", 0, False, True)
    (one,) = compare.elements(of(InstanceNumber=1), back)
    assert one.kind == "altered"


def test_every_return_key_is_documented() -> None:
    text = (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
    for level, keywords in KEYS.items():
        assert f"\n* {level}: {', '.join(dictionary_description(keyword) for keyword in keywords)}\n" in text


# --- the command ------------------------------------------------------------------------------------------------------


def dicom_node(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_node", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=scaled(120), cwd=ROOT)


@pytest.mark.slow
def test_the_command_prints_a_line_a_point_and_ends_with_status_1_where_one_failed(
    tmp_path: Path, start: Callable[..., Archive]
) -> None:
    archive = start()
    file = configured(tmp_path, archive.port)
    done = dicom_node("check", "--peer", "pacs", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(re.match(r"(ok  |warn|FAIL)  [a-zA-Z -]+: ", text) for text in done.stdout.splitlines())
    assert "ok    in all: PACS took 3 of 3 objects" in done.stdout
    archive.answer = lambda _: 0xA900
    assert dicom_node("check", "--peer", "pacs", "--config", file).returncode == 1


def test_reject_needs_a_peer(tmp_path: Path) -> None:
    done = dicom_node("check", "--reject", "--config", configured(tmp_path, 104))
    assert (done.returncode, done.stderr) == (1, "dicom-node: --reject goes with --peer\n")


@pytest.mark.slow
def test_no_torch_is_loaded() -> None:
    code = "import sys, dicom_node.operations.preflight.storing; print(sorted({'torch', 'monai'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=scaled(60), cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
