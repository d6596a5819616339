"""The index is lost or damaged: it is made anew, and nothing is lost, read or sent twice."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigError, NodeError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.journal import base
from dicom_node.node import Node
from dicom_node.operations import index_start
from dicom_node.operations.backup import SUMMARY, backup
from dicom_node.operations.index_check import Checked, check
from dicom_node.operations.index_rebuild import rebuild
from dicom_node.operations.quarantine import accept, listed
from dicom_node.storage.spool import Spool
from tests.node.test_way import detail, ended, radiograph
from tests.support.archive import HidingArchive, hiding_archive
from tests.support.nodes import settings_for
from tests.support.peers import send
from tests.support.samples import make_image
from tests.support.waiting import wait_until
from tests.support.wire import associated, data_set, new_uid, store_message

StartNode = Callable[..., Node]


@pytest.fixture
def archive() -> Iterator[HidingArchive]:
    with hiding_archive() as archive:
        yield archive


def lose(folder: Path) -> None:
    for file in folder.glob(f"{INDEX_FILE}*"):
        file.unlink()


def tables(folder: Path, *, without: frozenset[str] = frozenset()) -> dict[str, list[Any]]:
    """Every row of the tables, but for columns that a rebuilt index need not have."""
    with closing(sqlite3.connect(folder / INDEX_FILE)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        names = [row[0] for row in found if not row[0].startswith(("_", "sqlite_"))]
        return {
            name: sorted(
                json.dumps({key: row[key] for key in row.keys() if key not in without}, sort_keys=True)  # noqa: SIM118
                for row in connection.execute(f"SELECT * FROM {name}")
            )
            for name in names
        }


def faults(folder: Path, *, sample: int | None = None) -> list[tuple[str, str]]:
    return [(each.what, each.wrong) for each in check(folder, Checked(), sample=sample)]


@pytest.mark.slow
def test_a_lost_index_is_made_anew_and_nothing_is_lost_read_or_sent_twice(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "destination": True}
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"]}]
    settings = settings_for(tmp_path / "node", peers=[{**pacs, "iocm": True}], routes=routes)
    folder = settings.node.data_dir
    node = start_node(settings)
    images = [radiograph(7, "nodule"), radiograph(8)]
    for image in images:
        assert send(node.port, image) == [0x0000]
        assert ended(node, image.StudyInstanceUID)["state"] == "delivered"
    images[0].ImageLaterality = "R"  # a correction: the earlier results are withdrawn
    send(node.port, images[0])
    wait_until(lambda: detail(node, images[0].StudyInstanceUID)["revision"] == 2, "the correction")
    assert ended(node, images[0].StudyInstanceUID)["state"] == "delivered"
    wait_until(lambda: archive.notes, "the withdrawal")
    wait_until(
        lambda: {each["state"] for each in detail(node, images[0].StudyInstanceUID)["withdrawals"]} == {"done"},
        "the withdrawal's end",
    )
    node.stop()
    before, order = tables(folder), list(archive.order)

    lose(folder)
    with pytest.raises(ConfigError, match=r"has images.*dicom-node index rebuild"):
        Node(settings).start()
    found = rebuild(folder, now=time.time())
    assert (found.images, found.studies, found.reopened, found.unreadable) == (2, 2, 0, [])
    # Times of an instance are those of its record, which is written just before its row. The name that its sender has
    # in the configuration is lost: its AE title counts alone.
    loose = frozenset({"received", "first_received", "last_received", "peer"})
    after = tables(folder, without=loose)
    assert after == {name: sorted(_without(row, loose) for row in rows) for name, rows in before.items()}
    assert faults(folder) == []

    node = start_node(settings)
    assert detail(node, images[1].StudyInstanceUID)["state"] == "delivered"
    late = radiograph(8, study_uid=images[1].StudyInstanceUID)
    send(node.port, late)
    wait_until(lambda: detail(node, images[1].StudyInstanceUID)["revision"] == 2, "the late image")
    assert ended(node, images[1].StudyInstanceUID)["state"] == "delivered"
    assert len(archive.order) == len(set(archive.order)), "nothing was sent twice"
    assert archive.order[: len(order)] == order
    assert archive.refusals == []


def _without(row: str, columns: frozenset[str]) -> str:
    return json.dumps({key: value for key, value in json.loads(row).items() if key not in columns}, sort_keys=True)


@pytest.mark.slow
def test_without_a_journal_the_node_keeps_its_identity_and_its_images(
    start_node: StartNode, archive: HidingArchive, tmp_path: Path
) -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "destination": True}
    routes = [{"name": "all", "models": ["phantom_cxr"], "to": ["pacs"]}]
    settings = settings_for(tmp_path / "node", peers=[pacs], routes=routes)
    folder = settings.node.data_dir
    node = start_node(settings)
    image = radiograph(7, "nodule")
    send(node.port, image)
    found = ended(node, image.StudyInstanceUID)
    results = {one["instance"] for one in found["readings"][0]["results"]}
    node.stop()
    lose(folder)
    shutil.rmtree(folder / "journal")
    assert rebuild(folder, now=time.time()).images == 1
    node = start_node(settings)
    found = ended(node, image.StudyInstanceUID)
    assert {one["instance"] for one in found["readings"][0]["results"]} == results, "the same UIDs"
    assert archive.visible(image.StudyInstanceUID) == results


def stored(settings: Settings, count: int) -> list[str]:
    """Images of one study that a node has stored; it is stopped again."""
    node = Node(settings)
    node.start()
    uids = [new_uid() for _ in range(count)]
    try:
        with associated(node) as raw:
            for number, uid in enumerate(uids, 1):
                raw.send(store_message(uid, data_set(uid, os.urandom(1000)), number))
                assert raw.status(number) == 0x0000
    finally:
        node.stop()
    return uids


def files(folder: Path) -> list[Path]:
    return sorted((folder / "spool").rglob("*.dcm"))


def test_editions_other_studies_and_the_quarantine_are_found_again(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    node = Node(settings)
    node.start()
    try:
        corrected, accepted, held, shared = (make_image(StudyInstanceUID=generate_uid()) for _ in range(4))
        assert send(node.port, corrected, accepted, held, shared) == [0x0000] * 4
        for image in (corrected, accepted, held):
            image.PatientID = "ANOTHER"
        shared.StudyInstanceUID, shared.SeriesInstanceUID = generate_uid(), generate_uid()
        assert send(node.port, corrected, shared) == [0x0000] * 2
        assert send(node.port, accepted, held, calling="STORESCU") == [0x0124] * 2
        assert node.index is not None
        number = next(each["number"] for each in listed(node.index, accepted.StudyInstanceUID))
        accept(node.index, Spool(folder), number, time.time())
    finally:
        node.stop()
    loose = frozenset({"received", "first_received", "last_received"})
    before = tables(folder)
    assert len(before["instances"]) == 7
    assert len(before["contradictions"]) == 2
    assert faults(folder) == []
    config = tmp_path / "node.toml"
    config.touch()
    backup(folder, config, tmp_path / "copy")
    assert faults(tmp_path / "copy") == []
    lose(folder)
    rebuild(folder, now=time.time())
    after = tables(folder, without=loose)
    assert after == {name: sorted(_without(row, loose) for row in rows) for name, rows in before.items()}
    assert faults(folder) == []


def test_a_damaged_index_is_refused_in_words_and_made_anew(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    stored(settings, 3)
    index = folder / INDEX_FILE
    index.write_bytes(b"damaged!" * 512 + index.read_bytes()[4096:])
    with pytest.raises(ConfigError, match=r"the index is damaged .*dicom-node index rebuild"):
        Node(settings).start()
    with pytest.raises(ConfigError, match=r"is damaged .*index rebuild"):
        faults(folder)
    found = rebuild(folder, now=time.time())
    assert found.images == 3
    assert found.kept_as is not None
    assert found.kept_as.read_bytes().startswith(b"damaged!"), "the former index is kept"
    assert faults(folder) == []
    node = Node(settings)
    node.start()
    node.stop()


def test_an_empty_index_over_files_is_refused_and_an_unrecorded_file_alone_is_not(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    stored(settings, 1)
    lose(folder)
    Index(folder / INDEX_FILE, create=True).close()
    with pytest.raises(ConfigError, match=r"knows no image, but .*spool has images"):
        Node(settings).start()
    assert len(files(folder)) == 1, "nothing was deleted"
    (folder / "incoming" / f"{files(folder)[0].stem}.1.part").touch()  # the node died before it acknowledged the image
    node = Node(settings)
    node.start()
    node.stop()
    assert files(folder) == []


def test_a_node_that_begins_needs_no_index(tmp_path: Path) -> None:
    index_start.refuse_without_index(tmp_path)


def test_check_finds_what_does_not_agree(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    stored(settings, 6)
    assert faults(folder) == []
    missing, changed, cut, other, swapped, whole = files(folder)
    names = {each: str(each.relative_to(folder)) for each in files(folder)}
    missing.unlink()
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-2])
    extra = other.with_name(f"{other.stem}-7.dcm")
    shutil.copy(other, extra)
    swapped.write_bytes(whole.read_bytes())
    assert sorted(faults(folder)) == sorted(
        [
            (names[missing], "the file of an image is missing"),
            (names[changed], "the data set is not the one that was received: its SHA-256 differs"),
            (names[cut], f"the file has {cut.stat().st_size} bytes, the index says {cut.stat().st_size + 2}"),
            (str(extra.relative_to(folder)), "the file of an image is not in the index"),
            (names[swapped], "the file is of another instance"),
        ]
    )
    counts = Checked()
    list(check(folder, counts, sample=0))
    assert counts.digests == 0
    found = rebuild(folder, now=time.time())
    assert sorted(found.unreadable) == sorted([names[cut], names[swapped]])


def test_a_backup_of_a_working_node_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    config = tmp_path / "node.toml"
    config.write_text("# the configuration\n")
    node = Node(settings)
    node.start()
    acknowledged: list[str] = []
    ending = threading.Event()

    def push() -> None:
        with associated(node) as raw:
            while not ending.is_set():
                uid = new_uid()
                raw.send(store_message(uid, data_set(uid, bytes(100_000)), 1))
                assert raw.status(1) == 0x0000
                acknowledged.append(uid)

    sender = threading.Thread(target=push)
    sender.start()
    try:
        wait_until(lambda: len(acknowledged) > 20, "images")
        before = list(acknowledged)
        made = backup(settings.node.data_dir, config, tmp_path / "copy")
        during = len(acknowledged) - len(before)
    finally:
        ending.set()
        sender.join()
        node.stop()
    assert made.images >= len(before)
    assert json.loads((tmp_path / "copy" / SUMMARY).read_text())["images"] == made.images
    assert (tmp_path / "copy" / "node.toml").read_text() == "# the configuration\n"
    assert faults(tmp_path / "copy") == []
    restored = Node(settings_for(tmp_path / "copy"))
    restored.start()
    try:
        assert all(restored.received(uid) is not None for uid in before), during
    finally:
        restored.stop()


def test_a_backup_refuses_what_is_not_whole(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    config = tmp_path / "node.toml"
    config.touch()
    stored(settings, 2)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(NodeError, match="is there already"):
        backup(settings.node.data_dir, config, tmp_path / "there")
    one, _ = files(settings.node.data_dir)
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    one.write_bytes(data)
    with pytest.raises(NodeError, match="SHA-256 differs"):
        backup(settings.node.data_dir, config, tmp_path / "damaged")
    assert not (tmp_path / "damaged" / SUMMARY).exists()
    one.unlink()
    with pytest.raises(NodeError, match="is missing"):
        backup(settings.node.data_dir, config, tmp_path / "missing")
    assert not (tmp_path / "missing" / SUMMARY).exists()


def test_the_look_at_the_index_ends_in_time_and_finds_damage(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    index = settings.node.data_dir / INDEX_FILE
    stored(settings, 200)
    stopping = threading.Event()
    assert index_start.damage(index, 5.0, stopping) == ""
    assert index_start.damage(index, 0.0, stopping) == ""
    data = bytearray(index.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    index.write_bytes(data)
    assert index_start.damage(index, 5.0, stopping) != ""


def test_a_journal_with_many_changes_gets_another_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path / INDEX_FILE, create=True)
    identity = index.node_id()
    first = index.begin_journal()
    assert first is not None
    assert base.write_base(index.file, first, lambda: False)
    assert index.begin_journal() is None
    monkeypatch.setattr(base, "LARGE", -1)
    second = index.begin_journal()
    assert second is not None
    names = [each.name for each in sorted((tmp_path / "journal").iterdir())]
    assert names == ["00000002.base", "00000002.log", "00000003.log"], "1 was what came before the first base"
    assert not base.write_base(index.file, second, lambda: True), "the node stops"
    assert first.exists()
    assert base.write_base(index.file, second, lambda: False)
    assert not first.exists()
    index.close()
    lose(tmp_path)
    (tmp_path / "spool").mkdir()
    rebuild(tmp_path, now=time.time())
    index = Index(tmp_path / INDEX_FILE)
    assert index.node_id() == identity
    index.close()


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    stored(settings, 1)
    log = sorted((folder / "journal").glob("*.log"))[-1]
    log.write_bytes(log.read_bytes() + b'["jobs", {"id": 3, "ki')
    lose(folder)
    found = rebuild(folder, now=time.time())
    assert (found.images, found.unused_lines) == (1, 1)


def test_an_image_of_an_earlier_version_is_found_without_its_record(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    folder = settings.node.data_dir
    (uid,) = stored(settings, 1)
    (file,) = files(folder)
    file.write_bytes(bytes(128) + file.read_bytes()[128:])
    os.utime(file, (1_700_000_000, 1_700_000_000))
    lose(folder)
    found = rebuild(folder, now=time.time())
    assert (found.images, found.without_record) == (1, 1)
    index = Index(folder / INDEX_FILE)
    known = index.received(uid)
    assert known is not None
    assert known.received == 1_700_000_000
    index.close()
    counts = Checked()
    assert list(check(folder, counts)) == []
    assert counts.without_record == 1


def test_another_node_keeps_the_folder(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    node = Node(settings)
    node.start()
    try:
        send(node.port, make_image(StudyInstanceUID=generate_uid()))
        with pytest.raises(ConfigError, match="another node is running"):
            rebuild(settings.node.data_dir, now=time.time())
        assert faults(settings.node.data_dir) == []
    finally:
        node.stop()
