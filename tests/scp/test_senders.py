"""Senders that nobody on this project wrote: every image arrives as it was, every association is released.

DCMTK, GDCM, Orthanc, PixelMed (Java), dcmjs-dimse (JavaScript) and pynetdicom; test_real_files has more images.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)
from pynetdicom import evt
from pynetdicom.dsutils import split_dataset

from dicom_node import log
from dicom_node.network.pynetdicom_setup import application_entity, on_open
from dicom_node.node import Node
from tests.support import wire
from tests.support.nodes import settings_for
from tests.support.peers import Orthanc
from tests.support.programs import ROOT, run_tool, tool
from tests.support.samples import make_image
from tests.support.waiting import scaled, wait_until

StartNode = Callable[..., Node]

DCMJS = ROOT / ".cache" / "dcmjs-dimse-0.3.3"  # scripts/test names the same folder
PIXELMED = Path("/usr/share/java/pixelmed.jar")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One smaller than a PDU, one of many PDUs, one compressed, all of one study."""
    folder = tmp_path_factory.mktemp("images")
    study, series = generate_uid(None), generate_uid(None)
    paths = []
    for name, size, compressed in (("small", 64, False), ("large", 601, False), ("compressed", 300, True)):
        pixels = np.random.default_rng(size).integers(0, 4096, (size, size), dtype=np.uint16)
        image = make_image(
            Rows=size,
            Columns=size,
            PixelData=pixels.tobytes(),
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            StudyDescription="흉부 X선",
        )
        if compressed:
            image.compress(JPEGLSLossless, pixels, generate_instance_uid=False)
        paths.append(folder / f"{name}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


class Watched:
    """A node whose log is kept."""

    def __init__(self, node: Node, stream: io.StringIO) -> None:
        self.node = node
        self._stream = stream

    @property
    def port(self) -> str:
        return str(self.node.port)

    def assert_holds(self, files: Sequence[Path]) -> None:
        """The data sets of these files, byte for byte, and nothing else; nobody was aborted, rejected or refused."""
        for file in files:
            meta, offset = split_dataset(file)
            kept = self.node.received(meta.MediaStorageSOPInstanceUID)
            assert kept is not None, file
            assert split_dataset(kept[0])[0].TransferSyntaxUID == meta.TransferSyntaxUID
            same = wire.stored_bytes(self.node, meta.MediaStorageSOPInstanceUID) == file.read_bytes()[offset:]
            assert same, f"the bytes of {file.name} are not those that were sent"
        self.assert_no_complaint(len(files))

    def assert_no_complaint(self, count: int) -> None:
        wire.assert_nothing_left(self.node)
        assert self.node.index is not None
        assert [row.instances for row in self.node.index.studies_with_state()] == [count]
        assert len(list((self.node.settings.node.data_dir / "spool").rglob("*.dcm"))) == count
        lines = map(json.loads, self._stream.getvalue().splitlines())
        assert [line for line in lines if line["level"] not in ("debug", "info")] == []


@pytest.fixture
def watched(start_node: StartNode, tmp_path: Path) -> Iterator[Watched]:
    stream = io.StringIO()
    log.configure(stream)
    peers = [{"name": "orthanc", "ae_title": "PACS", "host": "127.0.0.1", "may_store": True}]
    yield Watched(start_node(settings_for(tmp_path / "node", peers=peers)), stream)


@pytest.mark.programs
@pytest.mark.parametrize("longest", [4096, 16384, 131072])
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk(watched: Watched, images: list[Path], program: str, longest: int) -> None:
    propose = ["--propose-jls-lossless"] if program == "storescu" else ["--decompress-never"]
    pdus = ["--max-pdu", longest, "--max-send-pdu", longest]
    run_tool(program, *propose, *pdus, "-aet", "TESTER", "-aec", "AINODE", "127.0.0.1", watched.port, *images)
    watched.assert_holds(images)


@pytest.mark.programs
def test_many_of_dcmtk_at_once(watched: Watched, images: list[Path]) -> None:
    command = [tool("storescu"), "--propose-jls-lossless", "-aec", "AINODE", "127.0.0.1", watched.port]
    running = [
        subprocess.Popen([*command, "--max-send-pdu", str(longest), *map(str, images[n % 2 :])])
        for n, longest in enumerate((4096, 5000, 16384, 65536))
    ]
    assert [one.wait(scaled(60)) for one in running] == [0] * len(running)
    watched.assert_holds(images)


@pytest.mark.programs
def test_gdcm(watched: Watched, images: list[Path]) -> None:
    run_tool("gdcmscu", "--echo", "--aetitle", "TESTER", "--call", "AINODE", "127.0.0.1", watched.port, check=False)
    done = run_tool(
        "gdcmscu",
        "--store",
        "--aetitle",
        "TESTER",
        "--call",
        "AINODE",
        "127.0.0.1",
        watched.port,
        *images,
        check=False,
    )
    # Debian's dies with this when everything is released, whoever it talked to.
    assert done.returncode == 0 or "ProtocolStream as nullptr" in done.stderr
    watched.assert_holds(images)


@pytest.mark.programs
def test_orthanc(watched: Watched, images: list[Path], orthanc: Orthanc) -> None:
    def ask(method: str, path: str, body: bytes) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=scaled(60)) as answer:
            return json.loads(answer.read() or "{}")

    ids = [ask("POST", "/instances", file.read_bytes())["ID"] for file in images]
    node = {"AET": "AINODE", "Host": "127.0.0.1", "Port": watched.node.port}
    ask("PUT", "/modalities/node", json.dumps(node).encode())
    ask("POST", "/modalities/node/echo", b"{}")
    done = ask("POST", "/modalities/node/store", json.dumps({"Resources": ids, "Synchronous": True}).encode())
    assert done["FailedInstancesCount"] == 0
    wait_until(lambda: not wire.associations(), "Orthanc to release, which it does after some seconds", 30)
    watched.assert_holds(images)


def by_transfer_syntax(files: list[Path]) -> list[list[Path]]:
    """For senders that send an image in whatever presentation context of its class they come upon."""
    return [files[:2], files[2:]]


@pytest.mark.programs
def test_pixelmed(watched: Watched, images: list[Path]) -> None:
    if not PIXELMED.is_file():
        pytest.skip("PixelMed's library is not installed (scripts/test installs it by apt-get)")
    sender = ["-cp", str(PIXELMED), "com.pixelmed.network.StorageSOPClassSCU"]
    for files in by_transfer_syntax(images):
        done = subprocess.run(
            [tool("java"), *sender, "127.0.0.1", watched.port, "AINODE", "TESTER", "-"],
            input="".join(f"{path}\n" for path in files),
            capture_output=True,
            text=True,
            timeout=scaled(120),
            check=True,
        )
        assert "Exception" not in done.stdout + done.stderr
    watched.assert_holds(images)


@pytest.mark.programs
def test_dcmjs(watched: Watched, images: list[Path]) -> None:
    """It encodes anew, in Implicit VR where that is taken, and in other fragments: values are compared."""
    if not (DCMJS / "node_modules/dcmjs-dimse").is_dir():
        pytest.skip(f"dcmjs-dimse is not in {DCMJS.relative_to(ROOT)} (scripts/test installs it by npm)")
    for files in by_transfer_syntax(images):
        done = subprocess.run(
            [tool("node"), str(ROOT / "tests/support/dcmjs/store.js"), watched.port, *map(str, files)],
            env={**os.environ, "NODE_PATH": str(DCMJS / "node_modules")},
            capture_output=True,
            text=True,
            timeout=scaled(120),
            check=False,
        )
        assert (done.returncode, done.stdout.split()) == (0, ["0000"] * len(files) + ["released"]), done.stderr
    for file in images:
        sent = dcmread(file)
        kept = watched.node.received(sent.SOPInstanceUID)
        assert kept is not None
        stored = dcmread(kept[0])
        assert np.array_equal(stored.pixel_array, sent.pixel_array)
        del stored.PixelData, sent.PixelData
        assert stored == sent
        compressed = sent.file_meta.TransferSyntaxUID == JPEGLSLossless
        assert stored.file_meta.TransferSyntaxUID == (JPEGLSLossless if compressed else ImplicitVRLittleEndian)
    watched.assert_no_complaint(len(images))


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "data set"])
@pytest.mark.parametrize("longest", [0, 16384])
def test_pynetdicom(watched: Watched, images: list[Path], longest: int, as_file: bool) -> None:
    """A file goes as its bytes, in pieces (`configure_pynetdicom`); ``longest``: what it takes itself, 0: anything."""
    ae = application_entity("TESTER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = scaled(30)
    for syntax in (ExplicitVRLittleEndian, JPEGLSLossless):
        ae.add_requested_context(ComputedRadiographyImageStorage, syntax)
    association = ae.associate(
        "127.0.0.1", watched.node.port, ae_title="AINODE", max_pdu=longest, evt_handlers=[(evt.EVT_CONN_OPEN, on_open)]
    )
    assert association.is_established
    statuses = [association.send_c_store(file if as_file else dcmread(file)).Status for file in images]
    association.release()
    assert association.is_released
    assert statuses == [0x0000] * 3
    watched.assert_holds(images)
