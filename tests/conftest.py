"""What the tests share: real data, real peers, nodes on free ports, and waiting for what is to happen."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from dicom_node import log
from dicom_node.config.settings import Settings
from dicom_node.network.pynetdicom_setup import configure_pynetdicom, on_open
from dicom_node.node import Node

ROOT = Path(__file__).resolve().parent.parent
ORTHANC_PLUGINS = Path("/usr/share/orthanc/plugins")
DATA = Path(os.environ.get("DICOM_NODE_REAL_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure() -> None:
    """In a virtual environment that is switched on, pip's echoscu and gdcminfo would stand before the real ones."""
    own = Path(sys.prefix) / "bin"
    os.environ["PATH"] = os.pathsep.join(each for each in os.get_exec_path() if Path(each) != own)


@pytest.fixture(autouse=True)
def _quiet_libraries() -> None:
    """As in a running node: libraries' warnings quote data sets and are not shown."""
    log.silence_libraries()


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (DATA / "MANIFEST.tsv").is_file():
        pytest.skip(f"real test data is not at {DATA}; set DICOM_NODE_REAL_DATA to where it is")
    return DATA


def tool(name: str) -> str:
    """The path of a program that scripts/test installs; a test that needs it is skipped where it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (scripts/test installs it by apt-get)")
    return found


def run_tool(name: str, *args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(name), *map(str, args)], check=check, capture_output=True, text=True, timeout=120, errors="replace"
    )


def sr_validator_errors(path: Path) -> list[str]:
    """What DicomSRValidator calls an error in a report or a key object selection."""
    # JDK 17 caps XPath operators below what the validator needs.
    java = "-Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"
    done = subprocess.run(
        [tool("DicomSRValidator"), path],
        env={"PATH": "/usr/bin:/bin", "JAVA_TOOL_OPTIONS": java},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait for something to become true and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def make_image(**attributes: Any) -> FileDataset:
    """A small valid chest radiograph (CR), every attribute replaceable; of nobody."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = ComputedRadiographyImageStorage
    image.SOPInstanceUID = generate_uid(None)
    image.StudyInstanceUID = generate_uid(None)
    image.SeriesInstanceUID = generate_uid(None)
    image.Modality = "CR"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = "PA"
    image.StudyDescription = "Chest"
    image.SeriesDescription = "PA"
    image.PatientName = "TEST^NOBODY"
    image.PatientID = "TEST-1"
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyDate = "20260101"
    image.StudyTime = "120000"
    image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.SeriesNumber = image.InstanceNumber = 1
    image.Rows = image.Columns = 64
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 2048, 4096
    image.PixelData = np.arange(64 * 64, dtype=np.uint16).tobytes()
    for name, value in attributes.items():
        setattr(image, name, value)
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def associate(port: int, *contexts: tuple[str, str], calling: str = "TESTER", called: str = "AINODE") -> Any:
    """An established association to a node under test, proposing (SOP class, transfer syntax) pairs."""
    configure_pynetdicom()
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    for sop_class, syntax in dict.fromkeys(contexts):
        ae.add_requested_context(sop_class, syntax)
    for _ in range(5):
        association = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, on_open)])
        if not association.is_aborted or association.acceptor.primitive is not None:
            break
        # A rejection that comes at once: pynetdicom looks for the connection when it is closed again, and misses both.
    return association


def send(port: int, *images: FileDataset, calling: str = "TESTER", called: str = "AINODE") -> list[int]:
    """C-STORE images over one association and give the statuses."""
    contexts = [(image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images]
    association = associate(port, *contexts, calling=calling, called=called)
    assert association.is_established
    try:
        return [int(association.send_c_store(image).Status) for image in images]
    finally:
        association.release()


@dataclass
class Pacs:
    """A storage SCP that answers what a test tells it to; it keeps the bytes of what it took."""

    port: int
    answer: Callable[[str], int] = lambda _uid: 0x0000
    stored: list[tuple[str, bytes]] = field(default_factory=list)
    associations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uids(self) -> list[str]:
        with self.lock:
            return [uid for uid, _ in self.stored]


@pytest.fixture
def start_pacs() -> Iterator[Callable[..., Pacs]]:
    """Start storage SCPs: ``start_pacs(port=0, ae_title="PACS", contexts=None, require_calling=())``."""
    with ExitStack() as stack:

        def start(
            port: int = 0,
            *,
            ae_title: str = "PACS",
            require_calling: tuple[str, ...] = (),
            syntaxes: tuple[str, ...] = (),
        ) -> Pacs:
            configure_pynetdicom()
            ae = AE(ae_title=ae_title)
            ae.require_called_aet = True
            if require_calling:
                ae.require_calling_aet = list(require_calling)
            pacs = Pacs(port)

            def on_store(event: Any) -> int:
                uid = str(event.request.AffectedSOPInstanceUID)
                status = pacs.answer(uid)
                if status == 0x0000 or status & 0xF000 == 0xB000:
                    with pacs.lock:
                        pacs.stored.append((uid, event.encoded_dataset(include_meta=False)))
                return status

            def on_accepted(_event: Any) -> None:
                pacs.associations += 1

            server = ae.start_server(
                ("127.0.0.1", port),
                block=False,
                evt_handlers=[(evt.EVT_C_STORE, on_store), (evt.EVT_ACCEPTED, on_accepted)],
            )
            pacs.port = server.server_address[1]
            stack.callback(ae.shutdown)
            return pacs

        yield start


@dataclass
class Orthanc:
    """A PACS that nobody on this project wrote."""

    dicom: int
    http: int

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def know(self, port: int) -> None:
        """Have it know AINODE, which listens on a port: it lets nobody else query, and calls nobody else back."""
        known = json.dumps({"AET": "AINODE", "Host": "127.0.0.1", "Port": port}).encode()
        put = urllib.request.Request(f"http://127.0.0.1:{self.http}/modalities/ainode", data=known, method="PUT")

        def told() -> bool:
            with suppress(OSError):  # right after its start it resets a connection now and then
                urllib.request.urlopen(put, timeout=10).close()
                return True
            return False

        wait_until(told, "Orthanc to know the node", 20)

    def objects(self, study: str) -> dict[str, FileDataset]:
        """What it holds of a study, by SOP Instance UID."""
        found = {}
        for one in self.get("/instances"):
            dataset = pydicom.dcmread(BytesIO(self.fetch(f"/instances/{one}/file")))
            if dataset.StudyInstanceUID == study:
                found[str(dataset.SOPInstanceUID)] = dataset
        return found


@contextmanager
def running_orthanc(folder: Path, *plugins: str) -> Iterator[Orthanc]:
    """Orthanc on free ports, with its files in a new folder; its plugins are named as their files are."""
    program = tool("Orthanc")
    files = [ORTHANC_PLUGINS / f"{name}.so" for name in plugins]
    for file in files:
        if not file.is_file():
            pytest.skip(f"{file.name} is not installed (scripts/test installs it by apt-get)")
    pacs = Orthanc(free_port(), free_port())
    folder.mkdir()
    config = {
        "DicomAet": "PACS",
        "DicomPort": pacs.dicom,
        "HttpPort": pacs.http,
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [str(file) for file in files],
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    # Without TCP_NODELAY it waits 40 ms a message (Nagle against delayed ACK).
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, env=environment)
    try:
        wait_until(lambda: listens(pacs.http) and listens(pacs.dicom), "Orthanc to listen")
        yield pacs
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as pacs:
        yield pacs


def settings_for(data_dir: Path, *, pacs_port: int | None = None, **changes: Any) -> Settings:
    """A node on a free port that TESTER and STORESCU may push to; with a PACS, a route that takes every study."""
    raw: dict[str, Any] = {
        "node": {"port": 0, "data_dir": data_dir, "quiet_seconds": 0.1, **changes.pop("node", {})},
        "peers": [
            {"name": "tester", "ae_title": "TESTER", "host": "127.0.0.1", "may_store": True},
            {"name": "storescu", "ae_title": "STORESCU", "host": "127.0.0.1", "may_store": True},
            *changes.pop("peers", []),
        ],
        "routes": changes.pop("routes", []),
    }
    if pacs_port is not None:
        raw["peers"].append(
            {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port, "destination": True}
        )
        raw["routes"] = raw["routes"] or [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"]}]
    assert not changes, f"unused: {changes}"
    return Settings.model_validate(raw)


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    """Start nodes; each is stopped when the test ends."""
    with ExitStack() as stack:

        def start(settings: Settings, **kwargs: Any) -> Node:
            node = Node(settings, **kwargs)
            node.start()
            stack.callback(node.stop)
            return node

        yield start
