"""The warm process: loaded once, kept warm; what it does to itself is told and mended. Processes really die here."""

from __future__ import annotations

import itertools
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ai.contract import BusyError, OpenFile, ReadingError
from ai.engine import process as engine
from ai.engine.process import MachineError, WarmProcess, WarmProcessError
from tests.support.programs import ROOT
from tests.support.waiting import scaled, wait_until


def load(path: Path) -> dict[str, int]:
    with path.open("a") as file:
        file.write("loaded\n")
    return {"pid": os.getpid()}


def load_badly() -> None:
    raise ValueError("models/model.pt: is missing")


def loaded_pid() -> int:
    return int(engine.state()["pid"])


def double(value: int) -> int:
    return value * 2


def refuse() -> None:
    raise ReadingError("multi-frame: one single image was expected")


def be_busy() -> None:
    raise BusyError("model m needs about 900 MiB of memory: cpu has 100 MiB free")


def find_no_room() -> None:
    raise MachineError("the disk gave an error: No space left on device")


def break_down() -> None:
    raise KeyError("HONG^GILDONG")


def lose_the_gpu() -> None:
    import torch  # noqa: PLC0415

    raise torch.AcceleratorError("CUDA error: unspecified launch failure")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def hang() -> None:
    time.sleep(600)


def read_all(files: list[OpenFile]) -> list[bytes]:
    assert len({each.descriptor for each in files}) == len(set(files))
    return [os.pread(each.descriptor, 100, 0) for each in files]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


Start = Callable[..., WarmProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(other_load: Callable[[], object] | None = None, timeout: float | None = None) -> WarmProcess:
            process = WarmProcess(other_load or partial(load, tmp_path / "loads"), timeout=timeout or scaled(30.0))
            stack.callback(process.shutdown)
            return process

        yield start


def test_it_is_loaded_once_and_warm_before_the_first_task(start: Start, tmp_path: Path) -> None:
    process = start()
    wait_until(lambda: process.warm, "the process to be warm")
    assert [process.submit(double, n).result() for n in range(5)] == [0, 2, 4, 6, 8]
    assert process.submit(loaded_pid).result() == process.pid
    assert (tmp_path / "loads").read_text() == "loaded\n"


def test_one_that_is_not_eager_loads_for_its_first_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    class Tasks(queue.Queue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            waits.set()
            return super().get(block, timeout)

    monkeypatch.setattr(queue, "Queue", Tasks)
    process = WarmProcess(partial(load, tmp_path / "loads"), timeout=scaled(30.0), eager=False)
    try:
        assert waits.wait(scaled(30.0)), "it waits for a task"
        assert process.pid is None
        assert process.submit(double, 2).result() == 4
        assert process.warm
        assert (tmp_path / "loads").read_text() == "loaded\n"
    finally:
        process.shutdown()


@pytest.mark.slow
def test_one_that_rests_gives_its_memory_back_and_is_started_anew_for_the_next_task(tmp_path: Path) -> None:
    process = WarmProcess(partial(load, tmp_path / "loads"), timeout=scaled(30.0))
    try:
        before = process.submit(loaded_pid).result()
        process.rest()
        wait_until(lambda: process.pid is None, "the process to end")
        time.sleep(1.5)  # longer than it takes to miss a process that died by itself
        assert process.pid is None
        assert process.submit(loaded_pid).result() != before
        process.rest()
    finally:
        process.shutdown()


def test_a_refusal_keeps_its_words_and_the_process(start: Start) -> None:
    process = start()
    pid = process.submit(loaded_pid).result()
    with pytest.raises(ReadingError, match="multi-frame: one single image was expected"):
        process.submit(refuse).result()
    assert process.submit(loaded_pid).result() == pid


def test_a_model_without_memory_may_have_it_later(start: Start) -> None:
    process = start()
    pid = process.submit(loaded_pid).result()
    with pytest.raises(WarmProcessError, match="needs about 900 MiB"):
        process.submit(be_busy).result()
    assert process.submit(loaded_pid).result() == pid


def test_an_unexpected_error_is_told_without_its_message(start: Start) -> None:
    with pytest.raises(WarmProcessError, match=r"KeyError in break_down, line \d+") as caught:
        start().submit(break_down).result()
    assert "HONG" not in str(caught.value)


def test_what_the_machine_keeps_from_being_done_is_told_apart(start: Start) -> None:
    process = start()
    pid = process.submit(loaded_pid).result()
    with pytest.raises(MachineError, match="No space left on device"):
        process.submit(find_no_room).result()
    assert process.submit(loaded_pid).result() == pid


def test_a_process_that_finds_no_file_to_be_had_starts_later(tmp_path: Path) -> None:
    process = WarmProcess(partial(load, tmp_path / "loads"), timeout=scaled(30.0), eager=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    try:
        for more in range(4):  # each step of the start is the one that finds none
            first = next(number for number in itertools.count() if number not in there)
            resource.setrlimit(resource.RLIMIT_NOFILE, (first + more, hard))
            try:
                told = process.submit(double, 2)
                error = told.exception(60)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert isinstance(error, MachineError)
            assert "could not be started" in str(error)
        assert process.submit(double, 2).result(60) == 4
    finally:
        process.shutdown()


@pytest.mark.slow
def test_a_process_whose_gpu_failed_is_started_anew(start: Start) -> None:
    process = start()
    pid = process.submit(loaded_pid).result()
    with pytest.raises(WarmProcessError, match="the GPU failed while reading"):
        process.submit(lose_the_gpu).result()
    assert process.submit(loaded_pid).result() != pid


@pytest.mark.parametrize(("crash", "told"), [(die, "SIGKILL"), (leave, "exit status 7")])
def test_a_crash_fails_that_task_and_the_next_one_runs(start: Start, crash: Callable[[], None], told: str) -> None:
    process = start()
    with pytest.raises(WarmProcessError, match=f"died while reading .*{told}"):
        process.submit(crash).result()
    assert process.submit(double, 21).result() == 42


@pytest.mark.slow
def test_a_task_that_takes_too_long_is_stopped(start: Start) -> None:
    process = start(timeout=0.5)
    pid = process.submit(loaded_pid).result()
    with pytest.raises(WarmProcessError, match=r"longer than 0\.5 s"):
        process.submit(hang).result()
    assert process.submit(loaded_pid).result() != pid


@pytest.mark.slow
def test_a_process_that_is_killed_while_idle_is_warm_again_by_itself(start: Start) -> None:
    process = start()
    wait_until(lambda: process.warm, "the process to be warm")
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process.warm and process.pid != pid, "a new process to be warm")
    assert process.submit(double, 1).result() == 2


@pytest.mark.slow
def test_what_cannot_be_loaded_is_told_to_each_task(start: Start) -> None:
    process = start(load_badly)
    for _ in range(2):
        with pytest.raises(WarmProcessError, match=r"could not be loaded: models/model\.pt: is missing"):
            process.submit(double, 1).result()


def test_shutting_down_ends_what_runs_and_what_waits(start: Start) -> None:
    process = start()
    running, waiting = process.submit(hang), process.submit(double, 1)
    wait_until(running.running, "the task to run")
    process.shutdown()
    for future in (running, waiting):
        with pytest.raises(WarmProcessError):
            future.result(timeout=scaled(10))
    assert process.pid is None


def test_no_process_is_left_behind_when_the_node_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from tests.ai.engine import test_process\n"
        "from functools import partial; from pathlib import Path; from ai.engine.process import WarmProcess\n"
        "if __name__ == '__main__':\n"
        "    p = WarmProcess(partial(test_process.load, Path(sys.argv[1])), timeout=99)\n"
        "    p.submit(test_process.loaded_pid).result(); print(p.pid, flush=True)\n"
        "    p.submit(test_process.hang).result()\n"
    )
    script = tmp_path / "node.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "loads")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as node:
        assert node.stdout is not None
        pid = int(node.stdout.readline())
        node.kill()
        node.wait()
        wait_until(lambda: not _alive(pid), "the reading process to end with its node", 20)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_open_files_are_handed_over_and_closed_after_the_task(start: Start, tmp_path: Path) -> None:
    process = start()
    before = process.submit(open_files).result()
    descriptors = []
    for number in range(20):
        file = tmp_path / f"{number}"
        file.write_bytes(b"content %d" % number)
        descriptors.append(os.open(file, os.O_RDONLY))
        file.unlink()  # it is the file that travels, not its name
    files = [OpenFile(each) for each in descriptors]
    contents = [b"content %d" % number for number in range(20)]
    try:
        for _ in range(3):
            assert process.submit(read_all, [*files, files[0]]).result() == [*contents, contents[0]]
        assert process.submit(open_files).result() == before
        assert [os.pread(each, 100, 0) for each in descriptors] == contents, "here they stay open"
    finally:
        for each in descriptors:
            os.close(each)
    with pytest.raises(WarmProcessError, match="the reading process is gone"):
        process.submit(read_all, files).result()
    assert process.submit(double, 2).result() == 4


@pytest.mark.slow
def test_a_process_that_does_not_take_a_large_task_is_killed(start: Start) -> None:
    process = start(timeout=2.0)
    large = bytes(50_000_000)
    assert process.submit(len, large).result() == len(large)
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WarmProcessError, match="the reading process is gone"):
        process.submit(len, large).result(60)
    assert process.submit(double, 2).result() == 4
    assert process.pid != pid


class NoThread:
    """Threads that watch the process, of which some cannot be started: the system has no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> None:
        start, self.started = threading.Timer.start, itertools.count(1)

        def refused(timer: threading.Timer) -> None:
            if next(self.started) in failing:
                raise RuntimeError("can't start new thread")
            start(timer)

        monkeypatch.setattr(threading.Timer, "start", refused)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [1, 2], ids=["while a task is given", "while its answer is taken"])
def test_no_task_gets_the_answer_of_another_where_the_system_has_no_thread(
    start: Start, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    process = start()
    assert process.submit(double, 1).result() == 2
    NoThread(monkeypatch, {failing})
    with pytest.raises(MachineError, match="no thread can be started"):
        process.submit(double, 10).result()
    assert [process.submit(double, each).result() for each in (20, 30)] == [40, 60]


@pytest.mark.slow
def test_it_is_loaded_later_where_the_system_had_no_thread_to_watch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NoThread(monkeypatch, {1})
    told: queue.Queue[str] = queue.Queue()
    process = WarmProcess(partial(load, tmp_path / "loads"), timeout=scaled(60), on_load=told.put)
    try:
        assert "no thread can be started" in told.get(timeout=scaled(60))
        assert process.submit(double, 1).result(timeout=scaled(60)) == 2
    finally:
        process.shutdown()


@pytest.mark.slow
def test_an_answer_to_another_task_ends_the_process_and_is_nobodys(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    assert process.submit(double, 1).result() == 2
    first = process.pid
    monkeypatch.setattr(process, "_numbers", itertools.chain([7], itertools.count(8)))
    send = engine.send

    def misnumbered(pipe: Any, message: Any) -> None:
        is_task = isinstance(message, tuple)
        send(pipe, (message[0] + (message[0] == 7), *message[1:]) if is_task else message)

    monkeypatch.setattr(engine, "send", misnumbered)
    with pytest.raises(WarmProcessError, match="the answer to another task"):
        process.submit(double, 10).result()
    assert process.submit(double, 20).result() == 40
    assert process.pid != first
