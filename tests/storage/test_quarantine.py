"""Who may correct an image: others' corrections wait in quarantine, and a UID under two studies is kept for both."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from dicom_node.cli.main import app
from dicom_node.config.settings import Settings
from dicom_node.index.index import INDEX_FILE
from dicom_node.node import Node
from dicom_node.storage import quarantine
from tests.storage.test_corrections import changed, completed, files, image_in, revision
from tests.support.nodes import settings_for
from tests.support.peers import associate
from tests.support.waiting import wait_until

StartNode = Callable[..., Node]

PEERS: list[dict[str, Any]] = [
    {"name": "modality", "ae_title": "MODALITY", "host": "127.0.0.1", "may_store": True},
    {"name": "other", "ae_title": "OTHER", "host": "127.0.0.1", "may_store": True},
    {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "may_store": True, "may_correct": True},
]


def settings(tmp_path: Path) -> Settings:
    return settings_for(
        tmp_path / "node", peers=PEERS, routes=[], node={"quiet_seconds": 60.0, "accept_unknown_callers": False}
    )


def answer(node: Node, image: FileDataset, calling: str) -> tuple[int, str]:
    """The status of a C-STORE and its Error Comment."""
    association = associate(node.port, (image.SOPClassUID, image.file_meta.TransferSyntaxUID), calling=calling)
    assert association.is_established
    try:
        got = association.send_c_store(image)
    finally:
        association.release()
    return int(got.Status), str(got.get("ErrorComment", ""))


def in_quarantine(node: Node) -> list[Path]:
    return sorted((node.settings.node.data_dir / "quarantine").iterdir())


def run(node: Node, *arguments: object) -> str:
    """A command on the folder of a node."""
    config = node.settings.node.data_dir.parent / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{node.settings.node.data_dir}"\n')
    done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


def open_contradictions(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(node, "quarantine", "list", "--json"))
    return found


@pytest.fixture
def image() -> FileDataset:
    return image_in(ExplicitVRLittleEndian)


@pytest.fixture
def node(start_node: StartNode, tmp_path: Path, image: FileDataset) -> Node:
    """One that has an image of the modality, and has completed its study."""
    node = start_node(settings(tmp_path))
    assert answer(node, image, "MODALITY") == (0x0000, "")
    completed(node)
    return node


@pytest.mark.parametrize("calling", ["MODALITY", "PACS"])
def test_the_first_sender_and_a_pacs_may_correct(node: Node, image: FileDataset, calling: str) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), calling) == (0x0000, "")
    assert (len(files(node)), revision(node), in_quarantine(node)) == (2, 2, [])


def test_another_sender_may_not_and_what_it_sent_is_kept_apart(node: Node, image: FileDataset) -> None:
    (kept,) = files(node)
    before = kept.read_bytes()
    assert node.index is not None
    for _ in range(2):  # a sender that tries again leaves no second copy
        status, comment = answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")
        assert status == 0x0124
        assert comment == quarantine.NOT_AUTHORIZED
        assert len(comment) <= 64
        (held,) = in_quarantine(node)
    assert pydicom.dcmread(held).PatientName == "Doe^Jane"
    assert files(node) == [kept]
    assert kept.read_bytes() == before
    assert revision(node) == 1
    (one,) = open_contradictions(node)
    assert (one["change"], one["calling_ae"], one["peer"]) == ("safety", "OTHER", "other")
    assert "contradicted" in run(node, "studies", image.StudyInstanceUID)
    assert json.loads(run(node, "studies", "--json"))[0]["contradictions"] == 1


def test_another_sender_may_repeat(node: Node, image: FileDataset) -> None:
    for calling in ("OTHER", "PACS"):
        assert answer(node, image, calling) == (0x0000, "")
        assert answer(node, changed(image, {"RetrieveAETitle": "PACS"}), calling) == (0x0000, "")
    assert (len(files(node)), revision(node), in_quarantine(node)) == (1, 1, [])


def test_what_is_accepted_is_read_and_what_was_stored_stays(node: Node, image: FileDataset) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    (one,) = open_contradictions(node)
    assert "read again" in run(node, "quarantine", "accept", one["number"])
    assert open_contradictions(node) == []
    assert node.index is not None
    (read,) = node.index.instances_of(image.StudyInstanceUID)
    assert read.edition == 2
    assert pydicom.dcmread(node.settings.node.data_dir / read.file).PatientName == "Doe^Jane"
    assert revision(node) == 2
    assert (len(files(node)), in_quarantine(node)) == (2, [])
    run(node, "index", "check")
    # The right to correct stays with the first sender, whatever was accepted from another.
    completed(node)
    assert answer(node, changed(image, {"PatientName": "Doe^Joan"}), "OTHER")[0] == 0x0124
    assert answer(node, changed(image, {"PatientName": "Doe^June"}), "MODALITY")[0] == 0x0000
    assert node.index.instances_of(image.StudyInstanceUID)[0].edition == 3


def test_what_is_dropped_is_deleted_and_nothing_else(node: Node, image: FileDataset) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    (one,) = open_contradictions(node)
    assert "is deleted" in run(node, "quarantine", "drop", one["number"])
    assert (open_contradictions(node), in_quarantine(node)) == ([], [])
    assert (len(files(node)), revision(node)) == (1, 1)
    config = node.settings.node.data_dir.parent / "node.toml"
    for verb in ("drop", "accept"):
        done = CliRunner().invoke(app, ["quarantine", verb, str(one["number"]), "--config", str(config)])
        assert "there is no contradiction" in str(done.exception)


def test_what_is_in_quarantine_survives_a_restart(
    node: Node, image: FileDataset, start_node: StartNode, tmp_path: Path
) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    held = in_quarantine(node)
    node.stop()
    again = start_node(settings(tmp_path))
    assert in_quarantine(again) == held
    assert len(open_contradictions(again)) == 1


def test_what_a_crash_left_in_quarantine_unrecorded_is_deleted(node: Node, image: FileDataset) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    spool, index = node._spool, node.index
    assert index is not None
    part = spool.part_for(image.SOPInstanceUID)
    part.write([memoryview(bytes(200))])
    left = spool.place_in_quarantine(part, bytes(128), image.SOPInstanceUID)
    assert spool.recover(index.known_files) == 2
    assert spool.path(left) not in in_quarantine(node)
    assert len(in_quarantine(node)) == 1


@pytest.mark.parametrize("bound", ["MOST", "MOST_BYTES"])
def test_a_full_quarantine_refuses_and_loses_nothing(
    node: Node, image: FileDataset, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    monkeypatch.setattr(quarantine, bound, 1)
    status, _ = answer(node, changed(image, {"PatientName": "Doe^Joan"}), "OTHER")
    assert status == 0xC001
    assert len(in_quarantine(node)) == 1
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124, "it is there already"
    if bound == "MOST":
        assert answer(node, changed(image, {"StudyInstanceUID": "1.2.3"}), "OTHER")[0] == 0xC001
    assert answer(node, changed(image, {"StudyInstanceUID": image.StudyInstanceUID}), "PACS") is not None


def test_an_image_under_a_second_study_is_kept_for_both(node: Node, image: FileDataset) -> None:
    first = image.StudyInstanceUID
    assert node.index is not None
    for calling in ("OTHER", "OTHER", "MODALITY"):  # the same again is a repetition
        assert answer(node, changed(image, {"StudyInstanceUID": "1.2.3"}), calling) == (0x0000, "")
    kept = {study: node.index.instances_of(study)[0].file for study in (first, "1.2.3")}
    for study, file in kept.items():
        assert pydicom.dcmread(node.settings.node.data_dir / file).StudyInstanceUID == study
    (one,) = open_contradictions(node)
    assert (one["study"], one["other_study"], one["instances"]) == ("1.2.3", first, 1)
    shown = {each["study"]: each["contradictions"] for each in json.loads(run(node, "studies", "--json"))}
    assert shown == {first: 1, "1.2.3": 1}
    # Each study has its own editions.
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER") == (0x0000, "")
    assert node.index.instances_of("1.2.3")[0].edition == 2
    assert node.index.instances_of(first)[0].edition == 1
    assert len(files(node)) == 3
    config = node.settings.node.data_dir.parent / "node.toml"
    done = CliRunner().invoke(app, ["quarantine", "drop", str(one["number"]), "--config", str(config)])
    assert "nothing of it is in quarantine" in str(done.exception)
    assert "both studies keep" in run(node, "quarantine", "accept", one["number"])
    assert len(files(node)) == 3
    shown = {each["study"]: each["contradictions"] for each in json.loads(run(node, "studies", "--json"))}
    assert shown == {first: 0, "1.2.3": 0}


def test_a_crash_amid_an_image_of_a_second_study_leaves_no_trace(node: Node, image: FileDataset) -> None:
    """The name of the partial file leads to the file under the second study, too."""
    spool, index = node._spool, node.index
    assert index is not None
    part = spool.part_for(image.SOPInstanceUID)
    part.write([memoryview(bytes(200))])
    spool.place(part, image.SOPInstanceUID, another_study="1.2.3")
    assert len(files(node)) == 2
    assert spool.recover(index.known_files) == 2
    assert len(files(node)) == 1


@pytest.mark.slow
def test_both_studies_are_read(start_node: StartNode, tmp_path: Path, image: FileDataset) -> None:
    node = start_node(settings_for(tmp_path / "node", peers=PEERS, routes=[], node={"quiet_seconds": 0.5}))
    assert answer(node, image, "MODALITY")[0] == 0x0000
    assert answer(node, changed(image, {"StudyInstanceUID": "1.2.3"}), "MODALITY")[0] == 0x0000
    index = node.index
    assert index is not None
    wait_until(lambda: {row.state for row in index.studies_with_state()} == {"no route"}, "both to be completed")
    assert {row.instances for row in index.studies_with_state()} == {1}


@pytest.mark.parametrize("journal", [True, False])
def test_a_lost_index_is_made_anew_with_every_edition_and_the_quarantine(
    node: Node, image: FileDataset, journal: bool
) -> None:
    first = image.StudyInstanceUID
    assert answer(node, changed(image, {"PatientName": "Doe^Jane"}), "OTHER")[0] == 0x0124
    assert answer(node, changed(image, {"PatientName": "Doe^Joan"}), "MODALITY")[0] == 0x0000
    assert answer(node, changed(image, {"StudyInstanceUID": "1.2.3"}), "OTHER")[0] == 0x0000
    assert answer(node, changed(image, {"PatientName": "Doe^June"}), "OTHER")[0] == 0x0000

    def known() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(node.settings.node.data_dir / INDEX_FILE)) as index:
            return index.execute(
                "SELECT study, edition, newest, meaning, studies_before, file FROM instances ORDER BY study, edition"
            ).fetchall()

    before, held = known(), open_contradictions(node)
    assert [row[:5] for row in before] == [
        ("1.2.3", 1, 0, 1, 1),
        ("1.2.3", 2, 1, 2, 1),
        (first, 1, 0, 1, 0),
        (first, 2, 1, 2, 0),
    ]
    node.stop()
    folder = node.settings.node.data_dir
    (folder / INDEX_FILE).unlink()
    if not journal:
        shutil.rmtree(folder / "journal")
    run(node, "index", "rebuild")
    assert known() == before
    now = open_contradictions(node)
    if journal:
        assert now == held
    else:  # who sent it by which name, and what it changed, nobody knows; the image is there
        assert [(one["kind"], one["file"], one["change"]) for one in now] == [
            ("not authorized", held[0]["file"], "unknown")
        ]
        assert "read again" in run(node, "quarantine", "accept", now[0]["number"])
    run(node, "index", "check")
