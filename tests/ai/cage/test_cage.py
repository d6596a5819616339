"""The cage: what a process in it can no longer do, tried from inside."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ai import cage
from ai.cage import Cage, landlock, seccomp, walls
from ai.contract import LentFile, OpenFile, ReadingError
from ai.engine import answers
from ai.engine.process import WarmProcess, WarmProcessError
from ai.images import helpers
from tests.support.waiting import scaled, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not landlock.abi() or not seccomp.available(), reason="no Landlock or no seccomp here"),
]


def nothing() -> None:
    pass


def tried(attempt: Callable[..., object], *arguments: object) -> str:
    """What came of something that is tried in the cage: "done", or the error's name."""
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "done"


def connect(family: int) -> None:
    with socket.socket(family) as one:
        one.connect(("127.0.0.1" if family == socket.AF_INET else "::1", 9))


def read(path: str) -> None:
    Path(path).read_bytes()


def write(path: str) -> None:
    Path(path).write_bytes(b"written")


def run_a_program() -> None:
    os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})


def become_a_program() -> None:
    os.execv("/bin/true", ["true"])


def list_folder(path: str) -> None:
    list(Path(path).iterdir())


def rename(old: str, new: str) -> None:
    Path(old).rename(new)


def change_mode(path: str) -> None:
    Path(path).chmod(0o777)


def end_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)


def new_namespace() -> None:
    _call(ctypes.CDLL(None, use_errno=True).unshare(0x10000000))


def look_into_parent() -> None:
    Path(f"/proc/{os.getppid()}/environ").read_bytes()


def ring() -> None:
    _call(ctypes.CDLL(None, use_errno=True).syscall(425, 4, None))


def limit_parent() -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))


def slow_parent() -> None:
    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)


def datagram_to_anybody() -> None:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", "/dev/log")


def raw_socket_of_netlink() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


def _call(answer: int) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")


def what_a_lent_file_holds(file: OpenFile | None) -> bytes | None:
    return None if file is None else os.pread(file.descriptor, 100, 0)


def limits() -> tuple[tuple[int, int], int, tuple[int, int]]:
    dumped = Path("/proc/self/coredump_filter").read_text().strip()
    return resource.getrlimit(resource.RLIMIT_CORE), int(dumped, 16), resource.getrlimit(resource.RLIMIT_DATA)


def use_threads_and_private_folder() -> str:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_text("mine")
        done: list[str] = []
        thread = threading.Thread(target=lambda: done.append((Path(folder) / "file").read_text()))
        thread.start()
        thread.join()
        return done[0]


class Place:
    """A process in a cage beside a folder that it must not see."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.hidden, self.model, self.made = folder / "data", folder / "data/models/m", folder / "data/made"
        for each in (self.model, self.made):
            each.mkdir(parents=True)
        (self.hidden / "index.sqlite").write_bytes(b"patients")
        (self.model / "weights").write_bytes(b"weights")
        wanted = Cage(None, reads=(str(self.model),), drops=(str(self.made),), hides=(str(self.hidden),), **more)
        self.process = WarmProcess(nothing, timeout=scaled(30.0), cage=wanted, before=helpers.start)

    def tried(self, attempt: Callable[..., object], *arguments: object) -> str:
        return self.process.submit(tried, attempt, *map(str, arguments)).result()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    one = Place(tmp_path_factory.mktemp("cage"))
    wait_until(lambda: one.process.warm, "the process in the cage")
    yield one
    one.process.shutdown()


def test_what_it_may_do_it_does(place: Place) -> None:
    assert place.tried(read, place.model / "weights") == "done"
    assert place.tried(write, place.made / "result.part") == "done"
    assert (place.made / "result.part").read_bytes() == b"written"
    assert place.process.submit(use_threads_and_private_folder).result() == "mine"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_no_network(place: Place, family: int) -> None:
    assert place.process.submit(tried, connect, family).result() == "EPERM"


def test_no_other_kind_of_socket(place: Place) -> None:
    assert place.tried(raw_socket_of_netlink) == "EPERM"


def test_no_file_of_the_node_is_read(place: Place) -> None:
    assert place.tried(read, place.hidden / "index.sqlite") == "EACCES"
    assert place.tried(read, "/etc/hostname") == "EACCES"
    assert place.tried(read, Path(__file__).parent.parent.parent.parent / "setup.cfg") == "EACCES"


def test_what_others_made_is_neither_listed_nor_read(place: Place) -> None:
    (place.made / "other.part").write_bytes(b"a result")
    assert place.tried(list_folder, place.made) == "EACCES"
    assert place.tried(read, place.made / "other.part") == "EACCES"


def test_nothing_is_written_elsewhere(place: Place, tmp_path: Path) -> None:
    assert place.tried(write, place.hidden / "index.sqlite") == "EACCES"
    assert place.tried(write, place.model / "weights") == "EACCES"
    assert place.tried(write, tmp_path / "new") == "EACCES"
    assert place.tried(rename, place.model / "weights", place.made / "weights") in ("EACCES", "EXDEV")
    assert place.tried(change_mode, place.hidden / "index.sqlite") == "EPERM"
    assert (place.hidden / "index.sqlite").read_bytes() == b"patients"
    assert (place.model / "weights").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "attempt",
    [run_a_program, become_a_program, new_namespace, ring, end_parent, limit_parent, slow_parent, datagram_to_anybody],
)
def test_no_program_no_namespace_no_other_process(place: Place, attempt: Callable[..., object]) -> None:
    assert place.tried(attempt) == "EPERM"


def test_no_other_process_is_looked_into(place: Place) -> None:
    assert place.tried(look_into_parent) == "EACCES"


def test_limits(place: Place) -> None:
    core, dumped, data = place.process.submit(limits).result()
    assert core == (0, 0)
    assert dumped == 0
    if cage.group_limit() is None:
        assert data[0] == cage.data_limit() == data[1]


def test_a_file_that_is_lent_comes_open_and_one_that_is_gone_does_not(place: Place) -> None:
    index = place.hidden / "index.sqlite"
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert place.process.submit(what_a_lent_file_holds, LentFile(str(index))).result() == b"patients"
    gone = LentFile(str(place.hidden / "gone"))
    assert place.process.submit(what_a_lent_file_holds, gone).result() is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_its_private_folder_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = WarmProcess(nothing, timeout=scaled(30.0), cage=Cage(None))
    try:
        assert process.submit(use_threads_and_private_folder).result() == "mine"
        (folder,) = tmp_path.glob("dicom-node-*")
        assert folder.stat().st_mode & 0o077 == 0
    finally:
        process.shutdown()
    assert not folder.exists()


# --- what it answers --------------------------------------------------------------------------------------------------


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch escaped",)


def hostile_answer() -> object:
    return Hostile()


def test_an_answer_runs_nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    place = Place(tmp_path / "place")
    try:
        with pytest.raises(WarmProcessError, match=r"names \S+\.system, which is no plain value"):
            place.process.submit(hostile_answer).result()
        assert not list((tmp_path / "here").iterdir())
        assert place.tried(read, place.model / "weights") == "done", "another process answers"
    finally:
        place.process.shutdown()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "ai.images.helpers.start",
                                  "ai.engine.process.WarmProcess", "ai.engine.process.os", "pathlib.Path"])  # fmt: skip
def test_an_answer_names_plain_values_alone(name: str) -> None:
    module, _, function = name.rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match="which is no plain value"):
        answers.loads(f"c{module}\n{function}\n.".encode())


def test_plain_values_come_through() -> None:
    values = (1, "text", {"a": frozenset({2})}, LentFile("path"))
    assert answers.loads(pickle.dumps(values)) == values


# --- in other surroundings --------------------------------------------------------------------------------------------


def test_it_holds_in_a_child_of_a_process_with_threads_of_its_own(tmp_path: Path) -> None:
    """As in a worker of another system, whose main module starts threads while it is imported."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"""\
import sys, threading, time
sys.path[:] = {sys.path!r}
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from ai.cage import Cage
from ai.engine.process import WarmProcess
from tests.ai.cage.test_cage import connect, nothing, read, run_a_program, tried

if __name__ == "__main__":
    process = WarmProcess(nothing, timeout=60, cage=Cage(None))
    for attempt, arguments in ((connect, (2,)), (read, ("/etc/hostname",)), (run_a_program, ())):
        print(process.submit(tried, attempt, *arguments).result())
    process.shutdown()
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=scaled(60), check=False)
    assert done.stdout.split() == ["EPERM", "EACCES", "EPERM"], done.stderr


def test_a_process_with_threads_does_not_enter() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="must be entered with one thread"):
            cage.enter(Cage(None))
    finally:
        stop.set()
        thread.join()
    with socket.socket():
        pass


def test_with_a_gpu_unix_sockets_can_be_made_and_nothing_more(tmp_path: Path) -> None:
    place = Place(tmp_path, gpu=True)
    try:
        assert place.tried(wait_for_others) == "done"
        assert place.tried(connect_to_a_path) == "EPERM"
        assert place.process.submit(tried, connect, socket.AF_INET).result() == "EPERM"
        assert place.tried(datagram) == "EPERM"
    finally:
        place.process.shutdown()


def wait_for_others() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("\0of-the-driver")
        one.listen()


def connect_to_a_path() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("/run/docker.sock")


def datagram() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM):
        pass


def test_the_walls_are_told_as_they_are(tmp_path: Path) -> None:
    secret = tmp_path / "index.sqlite"
    secret.write_bytes(b"patients")
    found = {each.name: each for each in walls.standing(Cage(None, hides=(str(tmp_path),)), secret)}
    assert [name for name, each in found.items() if not each.stands] == []
    assert set(found) == {"files", "network", "programs", "processes", "core dumps", "memory"}
    open_to_it = walls.standing(Cage(None, reads=(str(tmp_path),)), secret)
    assert [(each.name, each.stands) for each in open_to_it if not each.stands] == [("files", False)]
    assert "read is possible" in open_to_it[0].text


def test_an_error_of_a_reading_still_comes_through(place: Place) -> None:
    with pytest.raises(ReadingError, match="no image"), suppress(KeyboardInterrupt):
        place.process.submit(refuse).result()


def refuse() -> None:
    raise ReadingError("no image")
