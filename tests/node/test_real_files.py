"""Every real file that there is, pushed by two senders; what is stored holds the bytes that were sent."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.dsutils import split_dataset

from dicom_node.config.settings import Peer
from dicom_node.dicom.files import dicom_files
from dicom_node.network.storage_scu import push
from dicom_node.node import Node
from tests.support.nodes import settings_for
from tests.support.peers import free_port, listens
from tests.support.programs import running, tool
from tests.support.waiting import scaled, wait_until

StartNode = Callable[..., Node]

# storescu's option that proposes a compressed (or another unusual) transfer syntax
_PROPOSE = {
    "1.2.840.10008.1.2.2": "--propose-big",
    "1.2.840.10008.1.2.1.99": "--propose-deflated",
    "1.2.840.10008.1.2.4.50": "--propose-jpeg8",
    "1.2.840.10008.1.2.4.51": "--propose-jpeg12",
    "1.2.840.10008.1.2.4.70": "--propose-lossless",
    "1.2.840.10008.1.2.4.80": "--propose-jls-lossless",
    "1.2.840.10008.1.2.4.81": "--propose-jls-lossy",
    "1.2.840.10008.1.2.4.90": "--propose-j2k-lossless",
    "1.2.840.10008.1.2.4.91": "--propose-j2k-lossy",
    "1.2.840.10008.1.2.5": "--propose-rle",
}


def with_sop_class(real_data: Path) -> list[Path]:
    """The files of the manifest that a Storage SCU can send: DICOM Part 10 with a SOP class of the storage service."""
    with (real_data / "MANIFEST.tsv").open(encoding="utf-8") as table:
        named = [real_data / row["file"] for row in csv.DictReader(table, delimiter="\t")]
    found = []
    for file in named:
        with suppress(Exception):
            (path,) = dicom_files([file])
            if split_dataset(path)[0].MediaStorageSOPClassUID != "1.2.840.10008.1.3.10":  # DICOMDIR is never sent
                found.append(path)
    return found


def data_set(file: Path) -> bytes:
    return file.read_bytes()[split_dataset(file)[1] :]


def uids(file: Path) -> Dataset:
    tags = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
    return dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)


def is_whole(file: Path) -> bool:
    """Whether the data set names its class, instance, study and series."""
    found = uids(file)
    return all(found.get(name) for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))


def expected(file: Path) -> int:
    """What the file deserves of us: A900 where its meta information (and so the command) names another object."""
    if not is_whole(file):
        return 0xC000
    meta, found = split_dataset(file)[0], uids(file)
    same = (found.SOPClassUID, found.SOPInstanceUID) == (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
    return 0x0000 if same else 0xA900


def rounds(files: list[Path]) -> list[list[Path]]:
    """The files in groups in which every SOP Instance UID stands once: of a repeated instance the first is kept."""
    groups: list[dict[str, Path]] = []
    for file in files:
        uid = str(uids(file).get("SOPInstanceUID", file))
        group = next((g for g in groups if uid not in g), None)
        if group is None:
            groups.append(group := {})
        group[uid] = file
    return [list(group.values()) for group in groups]


@pytest.mark.slow
def test_every_file_by_pynetdicom(start_node: StartNode, real_data: Path, tmp_path: Path) -> None:
    count: dict[str, int] = {}
    for number, group in enumerate(rounds(with_sop_class(real_data))):
        node = start_node(settings_for(tmp_path / str(number)))
        for file in group:
            meta = split_dataset(file)[0]
            if not meta.MediaStorageSOPInstanceUID:
                continue  # pynetdicom cannot send it; test_receive sends a command without a UID
            (answer,) = push(
                [file], Peer(name="node", ae_title="AINODE", host="127.0.0.1", port=node.port), calling_ae="TESTER"
            )
            assert answer.status == expected(file), file
            count[f"{answer.status:04X}"] = count.get(f"{answer.status:04X}", 0) + 1
            if answer.status == 0x0000:
                kept = node.received(uids(file).SOPInstanceUID)
                assert kept is not None
                assert data_set(kept[0]) == data_set(file), file
    print(count)
    assert count["0000"] >= 290


@pytest.mark.programs
@pytest.mark.timeout(600)
def test_every_file_by_dcmtk(start_node: StartNode, real_data: Path, tmp_path: Path) -> None:
    """storescu encodes anew, with the data set's UIDs in the command: what DCMTK's storescp keeps was on the wire."""
    count: dict[str, int] = {}
    for number, group in enumerate(rounds(with_sop_class(real_data))):
        node = start_node(settings_for(tmp_path / f"node-{number}"))
        wire = tmp_path / f"wire-{number}"
        wire.mkdir()
        port = free_port()
        command = [tool("storescp"), "--bit-preserving", "--accept-all", "--unique-filenames"]
        with running([*command, "-od", wire, port], stderr=subprocess.DEVNULL):
            wait_until(lambda port=port: listens(port), "DCMTK's storescp to listen")
            for file in group:
                status = _storescu(file, node.port)
                if status is None or not is_whole(file):
                    key = "not sent" if status is None else "refused"
                    assert status != "Success", file
                    count[key] = count.get(key, 0) + 1
                    continue
                assert status == "Success", (file, status)
                count["stored"] = count.get("stored", 0) + 1
                before = set(wire.iterdir())
                assert _storescu(file, port) == "Success"
                (sent,) = set(wire.iterdir()) - before
                kept = node.received(uids(file).SOPInstanceUID)
                assert kept is not None
                assert data_set(kept[0]) == data_set(sent), file
    print(count)
    assert count["stored"] >= 290


def _storescu(file: Path, port: int) -> str | None:
    """storescu's word for the status; None where storescu would not send the file at all."""
    syntax = _PROPOSE.get(str(split_dataset(file)[0].TransferSyntaxUID))
    command = [
        tool("storescu"),
        "-v",
        "--required",
        *([syntax] if syntax else []),
        "-aec",
        "AINODE",
        "127.0.0.1",
        str(port),
    ]
    done = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, errors="replace", check=False, timeout=scaled(60)
    )
    for line in (done.stdout + done.stderr).splitlines():
        if "Received Store Response (" in line:
            return line.split("(", 1)[1].rstrip(")")
    return None
