"""Real peers: a PACS that answers what a test tells it to, Orthanc, and a modality that sends."""

from __future__ import annotations

import json
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileDataset
from pynetdicom import AE, evt

from dicom_node.network.pynetdicom_setup import configure_pynetdicom, on_open
from tests.support.programs import running, tool
from tests.support.waiting import scaled, wait_until

ORTHANC_PLUGINS = Path("/usr/share/orthanc/plugins")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def associate(port: int, *contexts: tuple[str, str], calling: str = "TESTER", called: str = "AINODE") -> Any:
    """An established association to a node under test, proposing (SOP class, transfer syntax) pairs."""
    configure_pynetdicom()
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = scaled(30)
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


@dataclass
class Orthanc:
    """A PACS that nobody on this project wrote."""

    dicom: int
    http: int

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=scaled(60)) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path))

    def know(self, port: int) -> None:
        """Have it know AINODE, which listens on a port: it lets nobody else query, and calls nobody else back."""
        known = json.dumps({"AET": "AINODE", "Host": "127.0.0.1", "Port": port}).encode()
        put = urllib.request.Request(f"http://127.0.0.1:{self.http}/modalities/ainode", data=known, method="PUT")

        def told() -> bool:
            with suppress(OSError):  # right after its start it resets a connection now and then
                urllib.request.urlopen(put, timeout=scaled(10)).close()
                return True
            return False

        wait_until(told, "Orthanc to know the node", 20)

    def put(self, one: FileDataset) -> None:
        """Give it an object by HTTP, of whatever SOP class."""
        content = BytesIO()
        one.save_as(content)
        address = f"http://127.0.0.1:{self.http}/instances"
        urllib.request.urlopen(urllib.request.Request(address, data=content.getvalue()), timeout=scaled(60)).close()

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
    command = [program, folder / "orthanc.json"]
    with (folder / "log").open("wb") as log, running(command, stdout=log, stderr=log, env=environment):
        wait_until(lambda: listens(pacs.http) and listens(pacs.dicom), "Orthanc to listen")
        yield pacs
