"""The store: what is answered 0000 is durable and known, what is not leaves no trace, whatever fails and whenever."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from dicom_node.dicom.header import HEAD_BYTES
from dicom_node.errors import ConfigError
from dicom_node.index.index import INDEX_FILE, Index
from dicom_node.index.rows import NewInstance
from dicom_node.node import Node
from dicom_node.storage.ingest import Store
from dicom_node.storage.part import Part
from dicom_node.storage.spool import Spool
from tests.support import wire
from tests.support.nodes import settings_for
from tests.support.programs import ROOT
from tests.support.waiting import scaled, wait_until
from tests.support.wire import ECHO, associated, data_set, echo_rq, message, new_uid, store_message

StartNode = Callable[..., Node]


class Place:
    """A store with its index and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = Spool(folder)
        self.spool.open()
        self.index = Index(folder / INDEX_FILE, create=True)
        self.store = Store(self.index, self.spool)

    def take(self, uid: str) -> bool | Exception:
        """Receive a small instance."""
        incoming = self.store.begin(ComputedRadiographyImageStorage, uid, ExplicitVRLittleEndian, "TESTER")
        try:
            incoming.write([memoryview(data_set(uid, b"pixels"))])
            return self.store.put(incoming, incoming.header())
        except Exception as error:
            return error
        finally:
            incoming.discard()

    def take_at_once(self, uids: list[str], *, while_waiting: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Receive instances in a thread each, of which all are placed before the first one is recorded."""
        went: dict[str, Any] = {}
        threads = [threading.Thread(target=lambda uid=uid: went.update({uid: self.take(uid)})) for uid in uids]
        with self.index.transaction():  # which nobody else gets into
            for thread in threads:
                thread.start()
            wait_until(lambda: len(self.files()) == len(uids), "every file to be in its place")
            while_waiting()
        for thread in threads:
            thread.join()
        return went

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in (self.folder / "spool").rglob("*.dcm")}

    def assert_holds(self, *uids: str) -> None:
        """Exactly these instances, whole."""
        known = [self.index.received(uid) for uid in uids]
        assert {one.file for one in known if one is not None} == self.files()
        for uid, one in zip(uids, known, strict=True):
            assert one is not None
            assert self.spool.path(one.file).read_bytes().endswith(data_set(uid, b"pixels"))
            assert self.spool.path(one.file).stat().st_size == one.bytes
        assert not list((self.folder / "incoming").iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "node")
    yield place
    place.index.close()
    place.spool.close()


# -- group commit


def test_what_many_threads_store_at_once_is_all_recorded(place: Place) -> None:
    uids = [new_uid() for _ in range(200)]
    went: dict[str, Any] = {}

    def take(mine: list[str]) -> None:
        for uid in mine:
            went[uid] = place.take(uid)

    threads = [threading.Thread(target=take, args=(uids[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert went == dict.fromkeys(uids, True)
    place.assert_holds(*uids)


def test_those_who_wait_are_recorded_together(place: Place) -> None:
    uids = [new_uid() for _ in range(12)]
    statements: list[str] = []
    place.index._db.conn.set_trace_callback(statements.append)
    commits = place.store._commits

    def all_wait() -> None:
        wait_until(lambda: len(commits._waiting) == 11, "all but the one who commits to wait")

    assert place.take_at_once(uids, while_waiting=all_wait) == dict.fromkeys(uids, True)
    assert statements.count("COMMIT") == 3, "the test's own, the first one's, that of all who waited"
    place.assert_holds(*uids)


@pytest.mark.parametrize("bad", [0, 5, 11])
def test_one_that_cannot_be_recorded_takes_nobody_with_it(
    place: Place, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [new_uid() for _ in range(12)]
    add_instance = Index.add_instance

    def failing(self: Index, new: NewInstance, now: float) -> int:
        revision = add_instance(self, new, now)
        if new.sop_instance_uid == uids[bad]:
            raise sqlite3.OperationalError("an error of the index")
        return revision

    monkeypatch.setattr(Index, "add_instance", failing)
    went = place.take_at_once(uids)
    assert isinstance(went.pop(uids[bad]), sqlite3.OperationalError)
    others = [uid for uid in uids if uid != uids[bad]]
    assert went == dict.fromkeys(others, True)
    place.assert_holds(*others)
    monkeypatch.undo()
    assert place.take(uids[bad]) is True
    place.assert_holds(*uids)


def test_an_index_that_cannot_commit_keeps_nothing(place: Place, tmp_path: Path) -> None:
    uids = [new_uid() for _ in range(6)]
    place.index._db.conn.execute("PRAGMA busy_timeout=0")
    other = sqlite3.connect(place.folder / INDEX_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # another process writes, and does not come to an end
    went = [place.take(uid) for uid in uids]
    assert [type(one) for one in went] == [sqlite3.OperationalError] * 6
    place.assert_holds()
    other.execute("ROLLBACK")
    other.close()
    assert [place.take(uid) for uid in uids] == [True] * 6
    place.assert_holds(*uids)


def test_an_instance_that_the_index_knows_without_a_file_is_restored_once(place: Place) -> None:
    uid = new_uid()
    assert place.take(uid) is True
    known = place.index.received(uid)
    assert known is not None
    place.spool.path(known.file).unlink()
    went: list[Any] = []
    threads = [threading.Thread(target=lambda: went.append(place.take(uid))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(went) == [False, False, False, True]
    place.assert_holds(uid)


def test_a_file_that_is_as_long_as_it_was_and_damaged_is_restored(place: Place) -> None:
    uid = new_uid()
    assert place.take(uid) is True
    known = place.index.received(uid)
    assert known is not None
    path = place.spool.path(known.file)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert place.take(uid) is True
    assert place.take(uid) is False
    place.assert_holds(uid)


# -- what success promises


def test_a_file_is_durable_in_its_folder_before_the_index_knows_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = new_uid()
    happened: list[str] = []
    fsync, add_instance = os.fsync, Index.add_instance

    def note_fsync(file: int) -> None:
        fsync(file)
        happened.append(str(Path(f"/proc/self/fd/{file}").readlink()))

    def note_known(self: Index, new: NewInstance, now: float) -> int:
        happened.append(new.file)
        return add_instance(self, new, now)

    monkeypatch.setattr("dicom_node.storage.spool.os.fsync", note_fsync)
    monkeypatch.setattr(Index, "add_instance", note_known)
    assert place.take(uid) is True
    known = place.index.received(uid)
    assert known is not None
    part, folder, name = happened
    assert part.startswith(f"{place.folder}/incoming/")
    assert (folder, name) == (str((place.folder / known.file).parent), known.file)
    (row,) = place.index._rows("PRAGMA synchronous")
    assert row[0] == 2, "FULL: a commit is durable when it returns"


def test_no_more_than_the_beginning_of_an_image_is_held(place: Place) -> None:
    uid = new_uid()
    incoming = place.store.begin(ComputedRadiographyImageStorage, uid, ExplicitVRLittleEndian, "TESTER")
    data = memoryview(data_set(uid, bytes(100_000)))
    for at in range(0, len(data), 5000):
        incoming.write([data[at : at + 1000], data[at + 1000 : at + 5000]])
    assert incoming._head == data[:HEAD_BYTES]
    assert incoming.data_set_bytes == len(data)
    incoming.discard()


# -- a disk that fails


def failing(number: int) -> Callable[..., None]:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("what", "number", "status"),
    [
        ("dicom_node.storage.part.Part.sync", errno.EIO, 0x0110),
        ("dicom_node.storage.part.Part.sync", errno.ENOSPC, 0xA700),
        ("dicom_node.storage.spool.Spool._folder", errno.EIO, 0x0110),
        ("dicom_node.storage.spool.os.link", errno.EIO, 0x0110),
        ("dicom_node.storage.spool.os.link", errno.EMLINK, 0x0110),
        ("dicom_node.storage.part.Part.__init__", errno.EDQUOT, 0xA700),
        ("dicom_node.storage.part.Part.__init__", errno.EMFILE, 0x0110),
        ("dicom_node.storage.spool.os.writev", errno.EIO, 0x0110),
        ("dicom_node.storage.spool.os.writev", errno.EFBIG, 0xA700),
    ],
)
def test_a_disk_that_fails_is_answered_and_leaves_nothing(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, what: str, number: int, status: int
) -> None:
    node = start_node(settings_for(tmp_path / "node"))
    uid = new_uid()
    with associated(node) as raw:
        monkeypatch.setattr(what, failing(number))
        raw.send(store_message(uid, data_set(uid, bytes(600_000))))
        assert raw.status() == status
        assert not list((tmp_path / "node/spool").rglob("*.dcm"))
        wait_until(lambda: not list((tmp_path / "node/incoming").iterdir()), "the partial file to go, after the answer")
        assert node.received(uid) is None
        monkeypatch.undo()
        raw.send(store_message(uid, data_set(uid, bytes(600_000)), 2) + message(ECHO, echo_rq(3)))
        assert (raw.status(2), raw.status(3)) == (0x0000, 0x0000)
        raw.release()
    assert wire.stored_bytes(node, uid) == data_set(uid, bytes(600_000))
    wire.assert_nothing_left(node)


def test_a_disk_that_fills_amid_an_image_gets_its_room_back_at_once(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(settings_for(tmp_path / "node"))
    uid = new_uid()
    write, incoming = Part.write, tmp_path / "node/incoming"

    def fills(part: Part, pieces: Any) -> None:
        if part.size > 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, pieces)

    monkeypatch.setattr(Part, "write", fills)
    stream = store_message(uid, data_set(uid, bytes(2_000_000)))
    with associated(node) as raw:
        raw.send(stream[:100_000])
        wait_until(lambda: any(incoming.iterdir()), "the partial file")
        raw.send(stream[100_000:-10])
        wait_until(lambda: not any(incoming.iterdir()), "the partial file to go")
        raw.send(stream[-10:])
        assert raw.status() == 0xA700
        raw.release()
    assert node.received(uid) is None


def test_a_disk_that_takes_few_bytes_at_a_time_gets_them_all(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start_node(settings_for(tmp_path / "node"))
    writev, write = os.writev, os.write
    monkeypatch.setattr(
        "dicom_node.storage.spool.os.writev", lambda file, pieces: writev(file, [b"".join(pieces)[:1000]])
    )
    monkeypatch.setattr("dicom_node.storage.spool.os.write", lambda file, data: write(file, data[:70_000]))
    uid = new_uid()
    data = data_set(uid, bytes(range(256)) * 2000)
    with associated(node) as raw:
        raw.send(store_message(uid, data, longest=100_000))
        assert raw.status() == 0x0000
        raw.release()
    monkeypatch.undo()
    assert wire.stored_bytes(node, uid) == data


def test_what_could_not_be_deleted_is_deleted_at_the_next_start(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = new_uid()
    with monkeypatch.context() as broken:
        for what in ("Path.unlink", "os.unlink"):
            broken.setattr(f"dicom_node.storage.spool.{what}", failing(errno.EROFS))
        broken.setattr("dicom_node.storage.commits.Commits.add", failing(errno.EROFS))
        error = place.take(uid)
    assert isinstance(error, OSError)
    assert error.errno == errno.EROFS
    assert len(place.files()) == 1
    assert place.spool.recover(place.index.known_files) == 2
    place.assert_holds()
    with monkeypatch.context() as broken:  # the file stays, the part could be deleted, and would be missed
        broken.setattr("dicom_node.storage.spool.Path.unlink", failing(errno.EROFS))
        broken.setattr("dicom_node.storage.commits.Commits.add", failing(errno.EROFS))
        assert isinstance(place.take(uid), OSError)
    assert place.spool.recover(place.index.known_files) == 2
    place.assert_holds()


def test_a_folder_that_cannot_be_put_in_order_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    (folder / "incoming" / "0.part").mkdir(parents=True)  # which cannot be deleted as a file
    with pytest.raises(ConfigError, match=rf"data_dir {folder}: cannot be put in order: \w+Error in "):
        Node(settings_for(folder)).start()


# -- crashes

CRASH = """
import os, sys
from pathlib import Path
from dicom_node.storage import commits, part, spool
from tests.support.nodes import settings_for
from dicom_node.dicom.header import HEAD_BYTES
from dicom_node.node import Node
from tests.support.wire import associated, data_set, store_message

point, folder, uid = sys.argv[1:]
sync, add = part.Part.sync, commits.Commits.add

def crash(*_args, **_options):
    os._exit(77)

def crash_after(*args):
    add(*args)
    os._exit(77)

if point == "linked":
    part.Part.sync = crash
elif point == "placed":
    commits.Commits.add = crash
elif point == "recorded":
    commits.Commits.add = crash_after
else:
    spool.Spool.place = crash
node = Node(settings_for(Path(folder)))
node.start()
with associated(node) as raw:
    raw.send(store_message(uid, data_set(uid, bytes(300_000))))
    raw.pdu()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "in_place", "kept"),
    [("written", False, False), ("linked", True, False), ("placed", True, False), ("recorded", True, True)],
)
def test_after_a_crash_the_index_and_the_files_agree(
    start_node: StartNode, tmp_path: Path, point: str, in_place: bool, kept: bool
) -> None:
    folder, uid = tmp_path / "node", new_uid()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CRASH, point, str(folder), uid], env=environment, check=False, timeout=scaled(60)
    )
    assert done.returncode == 77
    assert len(list((folder / "incoming").iterdir())) == 1
    assert len(list((folder / "spool").rglob("*.dcm"))) == in_place
    node = start_node(settings_for(folder))
    assert not list((folder / "incoming").iterdir())
    assert len(list((folder / "spool").rglob("*.dcm"))) == kept
    assert wire.stored_bytes(node, uid) == (data_set(uid, bytes(300_000)) if kept else None)
    with associated(node) as raw:
        raw.send(store_message(uid, data_set(uid, bytes(300_000))))
        assert raw.status() == 0x0000
        raw.release()
    assert wire.stored_bytes(node, uid) == data_set(uid, bytes(300_000))


def test_a_crash_while_an_instance_comes_again_does_not_cost_the_first_one(
    start_node: StartNode, tmp_path: Path
) -> None:
    folder, uid = tmp_path / "node", new_uid()
    place = Place(folder)
    assert place.take(uid) is True
    left = place.spool.part_for(uid)
    left.write([memoryview(b"half of it, whi")])
    place.index.close()
    place.spool.close()
    node = start_node(settings_for(folder))
    assert not list((folder / "incoming").iterdir())
    assert wire.stored_bytes(node, uid) == data_set(uid, b"pixels")
    left.discard()
