"""A study gives the same results whether its images reach the reading process as files, open descriptors or bytes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from ai.bundle.files import shipped
from ai.bundle.pins import Pinned
from ai.cage import Cage
from ai.contract import LentFile, OpenFile
from ai.engine import process
from ai.engine.pipe import received, send
from ai.engine.process import WarmProcess
from ai.images import helpers
from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Profile
from dicom_node.errors import Permanent
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance
from dicom_node.reading import loading
from dicom_node.reading.messages import ReadAnswer, ReadRequest, Wanted, by_value, lent
from dicom_node.reading.read_job import Reader
from dicom_node.storage.spool import Spool
from tests.node.test_way import radiograph
from tests.support import bundles
from tests.support.nodes import settings_for

ROUTES = [{"name": "all", "models": ["phantom_cxr", "dense"], "to": ["pacs"]}]
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "destination": True}

Travel = Callable[[ReadRequest], AbstractContextManager[ReadRequest]]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The models of this process, which reads as a warm process does."""
    there = {
        "phantom_cxr": shipped()["phantom_cxr"],
        "dense": bundles.ct_segmentation(tmp_path_factory.mktemp("bundle") / "dense", finding=True, spacing=1.0),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_state", loading.loader({name: Pinned(path) for name, path in there.items()}, "cpu")())
        yield there


def chest(syntax: uid.UID = uid.ExplicitVRLittleEndian) -> list[Dataset]:
    image = radiograph(7, "nodule", rows=500, columns=400, study_uid="1.2.9", series_uid="1.2.9.1", sop_uid="1.2.9.1.1")
    if syntax.is_encapsulated:
        image.compress(syntax, generate_instance_uid=False)
    return [image]


def stack(folder: Path) -> list[Dataset]:
    body = np.full((40, 48, 64), -1000, dtype=np.int16)
    body[:, 8:40, 8:56] = 40
    body[10:20, 16:28, 20:40] = 600
    folder.mkdir()
    return [dcmread(ref.content) for ref in bundles.ct_series(folder, body)]


STUDIES: dict[str, tuple[str, Callable[[Path], list[Dataset]], int]] = {
    "DX": ("phantom_cxr", lambda _: chest(), 4),
    "JPEG 2000": ("phantom_cxr", lambda _: chest(uid.JPEG2000Lossless), 4),
    "JPEG-LS": ("phantom_cxr", lambda _: chest(uid.JPEGLSLossless), 4),
    "CT": ("dense", stack, 4),
}


class OneNode:
    """What a reading needs of a node: its folder and its index, with one study that is complete."""

    def __init__(self, folder: Path, images: list[Dataset], model: str) -> None:
        self.folder, self.model, self.study = folder, model, str(images[0].StudyInstanceUID)
        self.settings = settings_for(folder, peers=[PACS], routes=ROUTES)
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / INDEX_FILE, create=True)
        for number, image in enumerate(images):
            part = self.spool.part_for(image.SOPInstanceUID)
            file = folder / f"{number}.dcm"
            image.save_as(file, enforce_file_format=True)
            part.write([memoryview(file.read_bytes())])
            file.unlink()
            name = self.spool.place(part, image.SOPInstanceUID)
            texts = (image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality, "CHEST", "", "", "MOD", name)
            uids = (image.SOPInstanceUID, image.SOPClassUID, image.file_meta.TransferSyntaxUID)
            self.index.add_instance(NewInstance(*map(str, (*uids, *texts)), part.size), 10.0)
            part.discard()
        revision = self.index.revision(self.study)
        assert self.index.complete(self.study, revision, 10.0, [("all", model)], 20.0)

    def read(self, executor: Executor) -> str:
        """Do the job "read"; its reason."""
        job = self.index.claim("read", None, 30.0, 60.0)
        assert job is not None
        reader = Reader(SettingsHolder(self.settings), self.index, self.spool, executor, "site", clock=lambda: 30.0)
        done = reader(job)
        with self.index.transaction():
            assert self.index.finish(job, 40.0, reason=done.reason, run_key=done.run_key)
            done.effects()
        return done.reason

    def stored(self) -> dict[str, bytes]:
        """The result files, all of which the index knows."""
        files = {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.glob("results/*/*.dcm")}
        for name in files:
            known = self.index.result(str(dcmread(self.folder / name, specific_tags=["SOPInstanceUID"]).SOPInstanceUID))
            assert known is not None
            assert known.file == name
        assert not list(self.folder.glob("incoming/*"))
        return files

    def close(self) -> None:
        self.index.close()
        self.spool.close()


class Here(Executor):
    """Does a task at once, in this process unless told otherwise, on a request that has travelled."""

    def __init__(self, travel: Travel, do: Callable[..., Any] = lambda fn, *args: fn(*args)) -> None:
        self.travel, self.do = travel, do
        self.answers: list[ReadAnswer] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        request, *others = args
        future: Future[Any] = Future()
        with self.travel(request) as moved:
            try:
                self.answers.append(self.do(fn, moved, *others))
                future.set_result(self.answers[-1])
            except Exception as error:
                future.set_exception(error)
        return future


@contextmanager
def elsewhere(request: ReadRequest) -> Iterator[ReadRequest]:
    """On a machine that has no disk in common with the node: while it reads, the node's files are not there."""
    moved: ReadRequest = pickle.loads(pickle.dumps(by_value(request)))
    assert moved.data_dir is None
    names = [ref.content.path for one in request.series for ref in one.instances if isinstance(ref.content, LentFile)]
    folder = Path(names[0]).parents[2] if names else Path("/nowhere")
    for area in ("spool", "incoming", "results"):
        (folder / area).rename(folder / f"{area}.away")
    try:
        yield moved
    finally:
        for area in ("spool", "incoming", "results"):
            (folder / f"{area}.away").rename(folder / area)


@contextmanager
def caged(request: ReadRequest) -> Iterator[ReadRequest]:
    """In a process that may open no file of the node: it gets them open, and gives bytes back."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    sending = threading.Thread(target=send, args=(ours, dataclasses.replace(lent(request), data_dir=None)))
    sending.start()
    with received(theirs) as moved:
        sending.join()
        files = [ref.content for one in moved.series for ref in one.instances]
        assert {type(each) for each in files} <= {OpenFile, type(None)}
        yield moved
    for each in files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each.descriptor if each is not None else -1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, list[Dataset], str], OneNode]]:
    nodes: list[OneNode] = []

    def start(name: str, images: list[Dataset], model: str) -> OneNode:
        nodes.append(OneNode(tmp_path / name, images, model))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_gives_the_same_result_files_however_it_travels(
    tmp_path: Path, start: Callable[..., OneNode], study: str
) -> None:
    model, make, least = STUDIES[study]
    images = make(tmp_path / "made")
    stored: dict[str, dict[str, bytes]] = {}
    answers: dict[str, ReadAnswer] = {}
    travels: dict[str, Travel] = {"path": nullcontext, "bytes": elsewhere, "descriptor": caged}
    for name, travel in travels.items():
        node, executor = start(name, images, model), Here(travel)
        assert node.read(executor) == ""
        (answers[name],) = executor.answers
        stored[name] = node.stored()
    assert len(stored["path"]) >= least
    assert {type(part.content) for part in answers["path"].parts} == {str}
    assert stored["bytes"] == stored["path"]
    assert stored["descriptor"] == stored["path"]
    for name, answer in answers.items():
        reading = answer.reading
        assert reading is not None
        assert [ref.sop_instance_uid for ref in reading.sources]
        assert {ref.content for ref in reading.sources} == {None}, "images do not travel back"
        if name != "path":
            assert sorted(part.content for part in answer.parts) == sorted(stored["path"].values())
            assert b"PATIENT" not in repr(answer).encode()


def test_a_file_that_is_gone_fails_alike_however_it_travels(start: Callable[..., OneNode]) -> None:
    reasons = []
    for name, travel in {"path": nullcontext, "bytes": elsewhere, "descriptor": caged}.items():
        node = start(name, chest(), "phantom_cxr")
        (path,) = node.folder.glob("spool/*/*.dcm")
        path.unlink()
        with pytest.raises(Permanent) as error:
            node.read(Here(travel))
        reasons.append(str(error.value))
    assert "the file is not there" in reasons[0]
    assert len(set(reasons)) == 1


def test_results_that_cannot_be_written_leave_nothing_behind(
    start: Callable[..., OneNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start("node", chest(), "phantom_cxr")

    def full(*_: object) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node.spool, "adopt", full)
    with pytest.raises(OSError, match="No space left"):
        node.read(Here(elsewhere))
    assert not list(node.folder.glob("incoming/*"))
    assert node.index.known_runs(node.study) == {}


@pytest.mark.slow
def test_a_warm_process_reads_what_came_as_bytes(start: Callable[..., OneNode], models: dict[str, Path]) -> None:
    """Over the real border between two processes."""
    local = start("path", chest(), "phantom_cxr")
    local.read(Here(nullcontext))
    pinned = {"phantom_cxr": Pinned(models["phantom_cxr"])}
    cage = Cage(None, reads=(str(models["phantom_cxr"]),), hides=(str(local.folder.parent),))
    warm = WarmProcess(loading.loader(pinned, "cpu"), timeout=120.0, cage=cage, before=helpers.start)
    try:
        for name, travel in {"bytes": elsewhere, "descriptor": caged}.items():
            node = start(name, chest(), "phantom_cxr")
            node.read(Here(travel, lambda fn, *args: warm.submit(fn, *args).result()))
            assert node.stored() == local.stored()
    finally:
        warm.shutdown()


def test_a_run_that_was_withdrawn_for_a_wanted_profile_is_not_named_again() -> None:
    korean, english = Profile(language="ko"), Profile(language="en")
    request = ReadRequest("m", "1", (), "site", 0.0, (Wanted(english, None),), {}, None)

    def key(withdrawn: dict[str, Profile | None], *wanted: Profile) -> str:
        digests = {run: frozenset({"" if one is None else one.digest}) for run, one in withdrawn.items()}
        asked = dataclasses.replace(request, wanted=tuple(Wanted(each, None) for each in wanted), withdrawn=digests)
        return asked.key(lambda count: f"run {count}")

    assert key({}, english) == "run 0"
    assert key({"run 0": english}, english) == "run 1"
    assert key({"run 0": english, "run 1": english, "run 3": english}, english) == "run 2"
    assert key({"run 0": korean}, english) == "run 0", "other objects, with other UIDs"
    assert key({"run 0": korean}, english, korean) == "run 1"
    assert key({"run 0": None}, english) == "run 1", "results from before there were profiles"
    assert key({"run 0": english}) == "run 0", "a reading in shadow makes no objects"
