"""The Storage SCPs that are compared, each with its fastest settings, as processes on loopback in their own folders."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PDU = 131072  # bytes: the largest that DCMTK takes
AE_TITLE = "BENCH"
_START_SECONDS = 60.0
# Without it every program waits 40 ms a message: Nagle's algorithm against delayed acknowledgements.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


class MissingError(Exception):
    """A program is not installed."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens: its port, how many instances it has stored by now, and its process."""

    port: int
    stored: Callable[[], int]
    pid: int


@dataclass(frozen=True, slots=True)
class Server:
    """A Storage SCP: what it is called, what its success (0000) promises, and how it is started in a folder.

    ``prepare`` writes what it needs into the folder and returns the command line and what counts its instances.
    """

    name: str
    promise: str
    prepare: Callable[[Path, int], tuple[list[str], Callable[[], int]]]

    @contextmanager
    def running(self, folder: Path) -> Iterator[Running]:
        """Start it, and end it.

        Raises:
            MissingError: it is not installed, or does not listen.
        """
        folder.mkdir()
        port = free_port()
        command, stored = self.prepare(folder, port)
        with listening(self.name, command, folder, port) as process:
            yield Running(port, stored, process.pid)


@contextmanager
def listening(name: str, command: list[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on ``port``, from then on and until it is ended.

    Raises:
        MissingError: it does not listen.
    """
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=folder)
    try:
        began = time.monotonic()
        while not listens(port):
            if process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                said = (folder / "log").read_bytes()[-500:].decode(errors="replace").strip()
                raise MissingError(f"{name} does not listen; its last words: {said or 'none'}")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """The path of a program.

    Raises:
        MissingError: there is none.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingError(f"{name} is not installed (scripts/test installs it by apt-get)")
    return found


def listens(port: int) -> bool:
    """Whether anything listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _files(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.rglob(pattern))


def _dicom_node(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    (folder / "node.toml").write_text(
        f'[node]\nae_title = "{AE_TITLE}"\nhost = "127.0.0.1"\nport = {port}\ndata_dir = "data"\n'
        '[[peers]]\nname = "sender"\nae_title = "STORESCU"\nhost = "127.0.0.1"\nmay_store = true\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "dicom_node", "run", "--config", "node.toml"]
    return command, lambda: _files(folder / "data" / "spool", "*.dcm")


def _storescp(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    received = folder / "received"
    received.mkdir()
    # --fork serves associations side by side, +B writes what came as it came.
    command = [program("storescp"), "--fork", "-pdu", str(PDU), "+B", "-aet", AE_TITLE, "-od", str(received), str(port)]
    return command, lambda: _files(received, "*.*")


def _pynetdicom(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    received = folder / "received"
    received.mkdir()
    command = [sys.executable, "-m", "pynetdicom", "storescp", "-q", "-pdu", str(PDU), "-aet", AE_TITLE]
    return [*command, "-ba", "127.0.0.1", "-od", str(received), str(port)], lambda: _files(received, "*")


def _orthanc(folder: Path, port: int) -> tuple[list[str], Callable[[], int]]:
    http = free_port()
    config = {
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "HttpPort": http,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": PDU,
        "DicomThreadsCount": 8,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")

    def stored() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/statistics", timeout=60) as answer:
            return int(json.load(answer)["CountInstances"])

    return [program("Orthanc"), str(folder / "orthanc.json")], stored


SERVERS = {
    "dicom-node": Server("dicom-node", "fsynced, indexed, committed", _dicom_node),
    "dcmtk": Server("DCMTK storescp", "written, no fsync, no index", _storescp),
    "orthanc": Server("Orthanc", "fsynced, indexed", _orthanc),
    "pynetdicom": Server("pynetdicom storescp", "written, no fsync, no index", _pynetdicom),
}
