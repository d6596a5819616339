"""Retention: what goes and when, what stays, and that a crash or an image that comes again meanwhile costs nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner

from dicom_node import log
from dicom_node.cli.main import app
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.retention import Retention as RetentionSettings
from dicom_node.config.settings import Settings
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance, NewReading, NewResult
from dicom_node.node import Node
from dicom_node.reading.warm_process import _REMOVED
from dicom_node.results.words.reasons import translated
from dicom_node.storage.ingest import Store
from dicom_node.storage.retention import Retention
from dicom_node.storage.spool import Spool
from tests.node.test_way import detail, ended, radiograph
from tests.support.nodes import settings_for
from tests.support.peers import Pacs, associate, send
from tests.support.programs import ROOT
from tests.support.samples import make_image, reading_text
from tests.support.waiting import scaled, wait_until

DAY = 86400.0
StartNode = Callable[..., Node]
StartPacs = Callable[..., Pacs]


@pytest.fixture
def logged() -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    stream = io.StringIO()
    log.configure(stream)
    yield lambda event: [e for e in map(json.loads, stream.getvalue().splitlines()) if e["event"] == event]


class Place:
    """An index and files in which studies grow old at once; ``now`` is day 100."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 100 * DAY
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / INDEX_FILE, create=True)
        self.store = Store(self.index, self.spool, lambda: self.now)

    def retention(self, days: float | None = 30.0, **wishes: Any) -> Retention:
        keys = {key: wishes.pop(key) for key in ("free_gb", "committed_days") if key in wishes}
        kept = RetentionSettings(days=days, **keys)
        return Retention(
            SettingsHolder(Settings(retention=kept)), self.index, self.spool, self.store, lambda: self.now, **wishes
        )

    def receive(self, study: str, day: float, *, images: int = 2) -> None:
        for number in range(images):
            uid = f"{study}.1.{number}"
            part = self.spool.part_for(uid)
            part.write([memoryview(b"pixels")])
            file = self.spool.place(part, uid)
            new = NewInstance(uid, "1.2", "1.2", study, f"{study}.1", "CR", "CHEST", "", "", "MOD", file, 6)
            self.index.add_instance(new, day * DAY)
            part.discard()

    def finish(self, study: str, day: float, state: str) -> None:
        """Bring a study to a state on a day: its jobs are what they are in a node."""
        (row,) = self.index.studies_with_state(study)
        now = day * DAY
        routes = [] if state == "no route" else [("r", "m")]
        assert self.index.complete(study, row.revision, row.last_received, routes, now)
        if not routes or state == "reading":
            return
        job = self.index.claim("read", None, now, 60.0)
        assert job is not None
        assert job.study == study
        if state == "failed":
            self.index.fail(job, now, "the model broke")
            return
        if state == "no eligible series":
            with self.index.transaction():
                self.index.finish(job, now, reason="modality")
            return
        (part,) = self.spool.write_parts([(b"a report",)])
        uid = f"{study}.9.{row.revision}"
        (file,) = self.spool.adopt([(part, uid)])
        with self.index.transaction():
            assert self.index.finish(job, now, run_key=f"k{study}.{row.revision}")
            reading = NewReading(f"k{study}.{row.revision}", study, "m", "1", "d", now, reading_text())
            self.index.add_reading(reading, [NewResult(uid, "1.3", f"{study}.9", 0, "sr", file, 8, "p")])
            self.index.queue_sends(job, reading.run_key, [("pacs", "p")], now)
        if state != "delivering":
            sent = self.index.claim("send", None, now, 60.0)
            assert sent is not None
            with self.index.transaction():
                self.index.finish(sent, now, outcome="not taken" if state == "not taken" else None)

    def files(self) -> int:
        return sum(1 for area in ("spool", "results") for _ in (self.folder / area).rglob("*.dcm"))

    def assert_true(self) -> None:
        """No row says that a file is there which is not, and no file is there that no row tells of."""
        rows = self.index._rows(
            "SELECT file FROM instances WHERE removed IS NULL UNION ALL SELECT file FROM results WHERE removed IS NULL"
        )
        there = {
            str(p.relative_to(self.folder)) for a in ("spool", "results") for p in (self.folder / a).rglob("*.dcm")
        }
        assert there == {row[0] for row in rows}

    def close(self) -> None:
        self.index.close()
        self.spool.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "node")
    yield place
    place.close()


def removed(place: Place, study: str) -> bool:
    return place.index.studies_with_state(study)[0].removed is not None


# -- what goes


@pytest.mark.parametrize("state", ["delivered", "no route", "no eligible series", "not taken"])
def test_what_is_done_with_and_old_goes_and_stays_known(place: Place, state: str, logged: Any) -> None:
    place.receive("1.1", 60)
    place.finish("1.1", 65, state)
    there = place.files()
    before = place.index.studies_with_state("1.1")[0].state
    assert place.retention().look() == 1
    assert place.files() == 0
    place.assert_true()
    (row,) = place.index.studies_with_state("1.1")
    assert (row.state, row.instances, row.removed) == (before, 2, 100 * DAY)
    (told,) = logged("study.removed")
    assert (told["study"], told["removed"]) == ("1.1", there)
    assert told["bytes"] == 12 + 8 * (there - 2)
    assert told["reason"] == f"{before}, finished 35.0 days ago; retention.days is 30"
    assert place.retention().look() == 0
    assert len(logged("study.removed")) == 1


@pytest.mark.parametrize("state", ["failed", "reading", "delivering", "receiving"])
def test_what_is_not_done_with_stays_however_old(place: Place, state: str) -> None:
    place.receive("1.1", 1)
    if state != "receiving":
        place.finish("1.1", 2, state)
    assert place.index.studies_with_state("1.1")[0].state == state
    there = place.files()
    assert place.retention().look() == 0
    assert place.files() == there


def test_what_happened_last_counts(place: Place) -> None:
    place.receive("1.1", 60)
    place.finish("1.1", 75, "delivered")
    assert place.retention().look() == 0, "it was delivered 25 days ago"
    place.now += 5.1 * DAY
    assert place.retention(last_byte=lambda study: float(study == "1.1")).look() == 0, "an association has images of it"
    assert place.retention(days=None).look() == 0
    assert place.retention().look() == 1


@pytest.mark.parametrize("kind", ["send", "shadow"])
def test_while_a_job_of_any_kind_is_open_nothing_goes(place: Place, kind: str) -> None:
    place.receive("1.1", 60)
    place.finish("1.1", 60, "delivered")
    with place.index.transaction():
        place.index._run(
            """INSERT INTO jobs (kind, subject, study, revision, route, target, state, due, created)
            VALUES (?, 'x', '1.1', 0, 'r', 't', 'queued', 0, 0)""",
            kind,
        )
    assert place.retention().look() == 0
    job = place.index.claim(kind, None, place.now, 60.0)  # type: ignore[arg-type]
    assert job is not None
    assert place.retention().look() == 0
    with place.index.transaction():
        place.index.finish(job, 65 * DAY)
    assert place.retention().look() == 1


def test_the_oldest_goes_first_and_no_more_than_room_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    monkeypatch.setattr("dicom_node.storage.retention._AT_ONCE", 3)
    for number in range(12):
        place.receive(f"1.{number}", 50 - number)
        place.finish(f"1.{number}", 50 - number, "failed" if number % 4 == 3 else "delivered")

    def usage(_path: object) -> SimpleNamespace:
        return SimpleNamespace(free=10_000_000_000 - place.files() * 200_000_000)

    monkeypatch.setattr("dicom_node.storage.spool.shutil.disk_usage", usage)
    assert place.files() == 33
    place.spool.free()  # what was free a moment ago does not count
    assert place.retention(free_gb=5.0).look() == 3
    told = logged("study.removed")
    assert [each["study"] for each in told] == ["1.10", "1.9", "1.8"]
    assert told[0]["reason"].endswith("; 3.40 GB are free, and retention.free_gb is 5")
    assert place.retention(free_gb=5.0).look() == 0
    assert place.retention().look() == 6
    assert [row.study for row in place.index.studies_with_state() if row.removed is None] == [
        "1.3",
        "1.7",
        "1.11",
    ]
    place.assert_true()


def test_a_link_that_somebody_put_there_is_not_followed(place: Place, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"not ours")
    place.receive("1.1", 60)
    place.finish("1.1", 60, "no route")
    (one, _) = (place.folder / "spool").rglob("*.dcm")
    one.unlink()
    one.symlink_to(precious)
    assert place.retention().look() == 1
    assert precious.read_bytes() == b"not ours"
    assert not one.is_symlink()


# -- crashes and faults


CRASH = """
import os, sys
from pathlib import Path
from tests.storage.test_retention import Place
point, folder = sys.argv[1:]
place = Place(Path(folder))
place.receive("1.1", 60)
place.finish("1.1", 60, "delivered")
count = iter(range(100))
delete, left, record = place.spool.delete, place.index.nothing_left, place.index.removed_files
if point == "recorded":
    place.index.removed_files = lambda study: os.kill(os.getpid(), 9)
elif point == "half":
    place.spool.delete = lambda *args: delete(*args) if next(count) < 1 else os.kill(os.getpid(), 9)
else:
    place.index.nothing_left = lambda study: os.kill(os.getpid(), 9)
place.retention().look()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("point", "files"), [("recorded", 3), ("half", 2), ("deleted", 0)])
def test_after_a_kill_no_row_tells_of_a_file_that_is_gone_and_what_is_left_goes(
    tmp_path: Path, point: str, files: int, logged: Any
) -> None:
    folder = tmp_path / "node"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CRASH, point, str(folder)], env=environment, check=False, timeout=scaled(60)
    )
    assert done.returncode == -9
    place = Place(folder)
    assert place.files() == files
    kept = place.index._rows("SELECT 1 FROM instances WHERE removed IS NULL")
    assert not kept
    assert place.index.leftover() == ["1.1"]
    assert place.retention(days=None).look() == 0, "nothing is to be removed any more, but what was begun is ended"
    assert place.files() == 0
    assert place.index.leftover() == []
    place.assert_true()
    assert logged("study.removed")[0]["removed"] == files
    place.close()


def test_a_kill_before_an_image_that_came_again_is_recorded_leaves_no_file(place: Place) -> None:
    place.receive("1.1", 60)
    place.finish("1.1", 60, "no route")
    assert place.retention().look() == 1
    uid = place.index.removed_from("1.1")[0].sop_instance_uid
    part = place.spool.part_for(uid)
    part.write([memoryview(b"pixels")])
    place.spool.place(part, uid)  # and here the node dies: nobody was answered
    assert place.spool.recover(place.index.known_files) == 2
    place.assert_true()


def test_files_that_cannot_be_deleted_are_told_and_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, logged: Any
) -> None:
    for study in ("1.1", "1.2"):
        place.receive(study, 60)
        place.finish(study, 60, "no route")
    unlink = os.unlink
    refused = str(place.spool.path(place.index.instances_of("1.1")[0].file))

    def refuse(path: Any, **kwargs: Any) -> None:
        if str(path) == refused:
            raise PermissionError(13, "Permission denied")
        unlink(path, **kwargs)

    monkeypatch.setattr("dicom_node.storage.spool.os.unlink", refuse)
    assert place.retention().look() == 2
    (told,) = logged("retention.failed")
    assert (told["study"], told["reason"]) == ("1.1", "Permission denied")
    assert place.files() == 2
    assert place.index.leftover() == ["1.1"]
    monkeypatch.undo()
    place.retention().look()
    assert (place.files(), place.index.leftover()) == (0, [])


# -- what comes again


def aged(node: Node, clock: list[float]) -> Retention:
    """The node's retention, a month later."""
    clock[0] += 40 * DAY
    assert node._retention is not None
    return node._retention


def with_retention(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention": RetentionSettings(days=30.0)})


def quiet_node(start_node: StartNode, folder: Path) -> tuple[Node, Index, list[float]]:
    """A node without routes whose clock a test sets forward."""
    clock = [0.0]
    node = start_node(
        with_retention(settings_for(folder)), clock=lambda: time.time() + clock[0], synchronised=lambda: True
    )
    assert node.index is not None
    return node, node.index, clock


@pytest.mark.parametrize("swept", [True, False], ids=["deleted", "recorded"])
def test_an_image_that_comes_again_is_kept_again_and_not_read_again(
    start_node: StartNode, tmp_path: Path, swept: bool, logged: Any
) -> None:
    node, index, clock = quiet_node(start_node, tmp_path / "node")
    image, other = make_image(), make_image()
    other.StudyInstanceUID = image.StudyInstanceUID
    assert send(node.port, image, other) == [0x0000, 0x0000]
    wait_until(lambda: index.studies_with_state()[0].state == "no route", "the study to be complete")
    wait_until(lambda: not node._server._open, "the association to end")  # type: ignore[union-attr]
    retention = aged(node, clock)
    if swept:
        assert retention.look() == 1
        assert not list((tmp_path / "node/spool").rglob("*.dcm"))
    else:  # the node has recorded it, and not begun to delete
        now = time.time() + clock[0]
        assert index.remove_files(image.StudyInstanceUID, 1, now - DAY, now)
    assert node.received(image.SOPInstanceUID) is None
    assert send(node.port, image, image) == [0x0000, 0x0000]
    retention.look()
    kept = node.received(image.SOPInstanceUID)
    assert kept is not None
    assert pydicom.dcmread(kept[0]) == image
    assert node.received(other.SOPInstanceUID) is None
    assert [path.name for path in (tmp_path / "node/spool").rglob("*.dcm")] == [kept[0].name]
    assert len(logged("instance.restored")) == 1
    assert "retention had removed the file" in logged("instance.restored")[0]["reason"]
    (row,) = index.studies_with_state()
    assert (row.revision, row.state, row.instances) == (1, "no route", 2)
    clock[0] += 20 * DAY
    assert retention.look() == 0, "it came again 20 days ago"
    clock[0] += 20 * DAY
    wait_until(lambda: not node._server._open, "the association to end")  # type: ignore[union-attr]
    assert retention.look() == 1
    assert not list((tmp_path / "node/spool").rglob("*.dcm"))


def test_images_that_come_again_while_they_are_removed_are_there_or_not_as_the_index_says(place: Place) -> None:
    place.receive("1.1", 60, images=60)
    place.finish("1.1", 60, "no route")
    began, stop = threading.Event(), threading.Event()
    failed: list[BaseException] = []
    names = {each.sop_instance_uid: each for each in place.index.instances_of("1.1")}

    def again() -> None:
        try:
            while not stop.is_set():
                for uid, each in names.items():
                    with place.store._alone(uid):
                        known = place.index.received(uid)
                        assert known is not None
                        if known.removed is None:
                            continue
                        part = place.spool.part_for(uid)
                        part.write([memoryview(b"pixels")])
                        file = place.spool.place(part, uid, replace=True)
                        place.index.replace_file(known.study, uid, file, 6, each.sop_class_uid, now=place.now)
                        part.discard()
                    began.set()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=again)
    thread.start()
    try:
        assert place.retention().look() == 1
        assert began.wait(scaled(20))
        for _ in range(5):
            place.now += 40 * DAY
            place.retention().look()
    finally:
        stop.set()
        thread.join()
    assert not failed
    place.assert_true()


def test_the_results_that_a_pacs_sends_back_later_go_too(place: Place) -> None:
    place.receive("1.1", 20)
    place.finish("1.1", 20, "delivered")
    assert place.retention().look() == 1
    part = place.spool.part_for("1.1.9.1")
    part.write([memoryview(b"report")])
    new = NewInstance(
        "1.1.9.1", "1.3", "1.2", "1.1", "1.1.9", "SR", "", "", "", "PACS", place.spool.place(part, "1.1.9.1"), 6
    )
    part.discard()
    assert place.index.add_instance(new, 60 * DAY) == 1
    assert place.retention().look() == 1
    assert place.files() == 0


@pytest.mark.slow
def test_a_late_image_of_a_removed_study_is_read_and_the_results_say_what_is_gone(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    pacs, clock = start_pacs(), [0.0]
    settings = with_retention(settings_for(tmp_path / "node", pacs_port=pacs.port))
    node = start_node(settings, clock=lambda: time.time() + clock[0], synchronised=lambda: True)
    sick = radiograph(7, "nodule")
    uids = {"study_uid": sick.StudyInstanceUID, "series_uid": sick.SeriesInstanceUID}
    assert send(node.port, sick) == [0x0000]
    assert ended(node, sick.StudyInstanceUID)["state"] == "delivered"
    wait_until(lambda: not node._server._open, "the association to end")  # type: ignore[union-attr]
    retention = aged(node, clock)
    assert retention.look() == 1
    assert not list((tmp_path / "node/results").rglob("*.dcm"))
    first = len(pacs.uids())
    assert send(node.port, radiograph(8, **uids)) == [0x0000]

    def read_again() -> dict[str, Any] | None:
        found = detail(node, sick.StudyInstanceUID)
        return found if (found["revision"], found["state"]) == (2, "delivered") else None

    found = wait_until(read_again, "the late image to be read")
    assert "incomplete: 1 of the images could not be read: it was removed from this system" in found["reason"]
    assert found["times"]["removed"] is not None
    old, new = found["readings"]
    assert [each["uid"] for each in new["failed"]] == old["sources"]
    assert "present" in {each["presence"] for each in old["classes"]}
    assert "absent" not in {each["presence"] for each in new["classes"]}, "nobody looked at the older image"
    report = next(each["instance"] for each in new["results"] if each["role"] == "sr")
    assert report in pacs.uids()[first:]
    path = node.result_file(report)
    assert path is not None
    assert "PredecessorDocumentsSequence" not in pydicom.dcmread(path), "what was found on the older one still stands"
    assert node.result_file(old["results"][0]["instance"]) is None


@pytest.mark.slow
def test_a_late_image_that_no_model_reads_tells_of_those_that_are_gone(
    start_node: StartNode, start_pacs: StartPacs, tmp_path: Path
) -> None:
    clock = [0.0]
    settings = with_retention(settings_for(tmp_path / "node", pacs_port=start_pacs().port))
    node = start_node(settings, clock=lambda: time.time() + clock[0], synchronised=lambda: True)
    first = make_image(Modality="CT")
    late = make_image(Modality="CT", StudyInstanceUID=first.StudyInstanceUID)
    assert send(node.port, first) == [0x0000]
    assert ended(node, first.StudyInstanceUID)["state"] == "no eligible series"
    wait_until(lambda: not node._server._open, "the association to end")  # type: ignore[union-attr]
    assert aged(node, clock).look() == 1
    association = associate(node.port, (late.SOPClassUID, late.file_meta.TransferSyntaxUID))
    assert association.send_c_store(late).Status == 0x0000
    association.release()
    wait_until(lambda: detail(node, first.StudyInstanceUID)["revision"] == 2, "the next revision")
    found = ended(node, first.StudyInstanceUID)
    assert found["state"] == "no eligible series"
    assert found["reason"].endswith("1 earlier image was removed by retention")


# -- trying again


def test_what_needs_files_that_are_gone_is_not_tried_again_and_retry_says_so(place: Place, tmp_path: Path) -> None:
    place.receive("1.1", 60)
    place.finish("1.1", 60, "not taken")
    place.receive("1.2", 60)
    place.finish("1.2", 60, "delivered")
    with place.index.transaction():
        place.index._run(
            """INSERT INTO jobs (kind, subject, study, revision, route, target, state, due, created, finished)
            VALUES ('shadow', '1.2/1', '1.2', 1, 'r', 't', 'failed', 0, 0, 0)"""
        )
    assert place.retention().look() == 2
    assert place.index.revive(None, place.now) == 0
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{place.folder}"\n', encoding="utf-8")
    for uid in ("1.1", "1.2"):
        told = CliRunner().invoke(app, ["retry", uid, "--config", str(config)])
        assert told.exit_code == 0
        assert "nothing can be tried again" in told.output
        assert "retention has removed files of this study" in told.output
    place.receive("1.3", 60)
    place.finish("1.3", 60, "no route")
    assert place.retention().look() == 1
    shown = CliRunner().invoke(app, ["studies", "1.3", "--config", str(config)])
    assert "files       removed by retention 1970-04-1" in shown.output
    assert "removed by retention" in CliRunner().invoke(app, ["studies", "--config", str(config)]).output
    (uid, _) = (each.sop_instance_uid for each in place.index.removed_from("1.2"))
    part = place.spool.part_for(uid)
    part.write([memoryview(b"pixels")])
    place.index.replace_file("1.2", uid, place.spool.place(part, uid), 6, "1.2", now=place.now)
    part.discard()
    assert place.index.revive("1.2", place.now) == 1, "there is an image to read again"


def test_what_is_said_of_a_removed_image_is_one_sentence_in_every_language() -> None:
    assert len({translated(_REMOVED, "en"), translated(_REMOVED, "ko"), translated(_REMOVED, "ja")}) == 3
