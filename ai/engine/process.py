"""A warm process behind `concurrent.futures.Executor`.

Models are loaded once and stay loaded. A crash, a leak or an endless loop of a model ends with this process.

A larger site can put another executor in its place, such as that of a cluster; the callers stay the same.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

from ai.cage import Cage
from ai.cage.entrance import enter_alone
from ai.contract import BusyError, ReadingError
from ai.engine import answers
from ai.engine.pipe import UnsendableError, received, send
from ai.errors import LostError, where

#: How warm processes start. The tests fork them from a process that has imported torch: that takes seconds each time.
CONTEXT: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")

R = TypeVar("R")
_state: Any = None  # what the warm process loaded; None in every other process
_WATCH_SECONDS = 1.0  # how soon a process that died while idle is started again
_REST: Any = object()  # takes the place of a task in the queue: see `WarmProcess.rest`
_LOAD_SECONDS = 300.0  # loading that takes longer is stuck
_LONGEST_ANSWER = 1 << 31  # bytes, of which results may be most


def state() -> Any:
    """What ``load`` returned in this warm process; None in every other process."""
    return _state


class WarmProcessError(Exception):
    """The process could not do the task, and the message says why. Another attempt may succeed."""


class MachineError(WarmProcessError):
    """The machine (its disk, its memory) prevents a task; the task is not the cause. Tasks may raise it."""


_KINDS: dict[type[Exception], str] = {  # what a task raises on purpose, and how its answer says so
    ReadingError: "reading error",
    MachineError: "machine",
    BusyError: "busy",
    LostError: "lost",
}


class WarmProcess(Executor):
    """Runs tasks one after the other in one spawned process, which loads its state first and keeps it.

    Args:
        load: a picklable function without arguments; in the process, `state` returns its result.
        timeout: how many seconds one task may take; after that the process is killed and started again.
        on_load: called after each attempt to load, with "" if the process has loaded, else with the reason.
        eager: whether to load at once; if not, the first task loads.
        cage: what the process may still do; it enters the cage before anything is imported, loaded or read, with a
            private folder that is made here and deleted with the process. None for no cage.
        before: called in the process before it enters the cage, to start what it cannot start there.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        timeout: float,
        on_load: Callable[[str], None] = lambda _reason: None,
        eager: bool = True,
        cage: Cage | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._load = load
        self._cage = cage
        self._before = before
        self._private: tempfile.TemporaryDirectory[str] | None = None
        self._on_load = on_load
        self._eager = eager
        self._timeout = timeout
        self._tasks: queue.Queue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = queue.Queue()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._numbers = itertools.count(1)  # of the tasks; a load has 0
        self._ready = False
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="warm-process", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process id while the process lives."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    @property
    def warm(self) -> bool:
        """Whether the process has loaded and can take a task."""
        return self._ready and self.pid is not None

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        """Queue ``fn(*args)``; all of it must be picklable, but for open files (`ai.contract.OpenFile`).

        The process gets descriptors of its own for open files and closes them after the task. The caller's must stay
        open until the future is done.

        The future raises ReadingError and MachineError as the task raised them. It raises WarmProcessError if the
        process died, took too long or could not load.
        """
        if kwargs:
            raise TypeError("tasks take positional arguments only")
        if self._stopping:
            raise RuntimeError("the process is shutting down")
        future: Future[R] = Future()
        self._tasks.put((future, fn, args))
        return future

    def rest(self) -> None:
        """End the process after the tasks that are queued now; the next task starts it again."""
        self._tasks.put(_REST)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process at once; the running task fails."""
        self._stopping = True
        self._tasks.put(None)
        self._kill()
        if wait:
            self._thread.join()

    def _serve(self) -> None:
        loads = self._eager
        while not self._stopping:
            if loads:  # start it, also after it died; if it cannot load, the next task tries again and gets the reason
                try:
                    self._ensure_ready()
                except Exception as error:  # whatever it is, this thread serves the next task
                    loads = False
                    self._kill()
                    if not self._stopping:
                        self._on_load(str(error) if isinstance(error, WarmProcessError) else where(error))
            try:
                task = self._tasks.get(timeout=_WATCH_SECONDS)
            except queue.Empty:
                continue
            if task is None:
                break
            if task is _REST:
                loads = False
                self._kill()
                continue
            loads = True
            future, fn, args = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(fn, args))
            except BaseException as error:  # the future passes it to the caller
                future.set_exception(error)
        while True:
            try:
                rest = self._tasks.get_nowait()
            except queue.Empty:
                break
            if rest is not None and rest is not _REST:
                rest[0].set_exception(WarmProcessError("the reading process is shutting down"))
        self._kill()

    def _ensure_ready(self) -> Connection:
        if self._ready and self._pipe is not None and self._process.is_alive():
            return self._pipe
        self._kill()
        if self._stopping:
            raise WarmProcessError("the reading process is shutting down")
        ends: tuple[Connection, ...] = ()
        try:
            ours, theirs = ends = CONTEXT.Pipe()
            cage = self._cage
            if cage is not None:
                self._private = tempfile.TemporaryDirectory(prefix="dicom-node-", ignore_cleanup_errors=True)
                cage = replace(cage, private=os.path.realpath(self._private.name))
            process = CONTEXT.Process(target=_main, args=(theirs, cage, self._before), name="warm-process", daemon=True)
            process.start()
        except OSError as error:  # no memory, process or descriptor is left: a later attempt may succeed
            for end in ends:
                end.close()
            raise MachineError(f"the reading process could not be started: {error.strerror}") from error
        theirs.close()
        self._process, self._pipe = process, ours
        with suppress(OSError):  # it has ended already, which the next line tells
            send(ours, self._load)
        kind, value = self._receive(ours, 0, _LOAD_SECONDS, "loading the models")
        if kind != "ready":
            self._kill()
            raise WarmProcessError(f"the models could not be loaded: {value}")
        self._ready = True
        self._on_load("")
        return ours

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        pipe = self._ensure_ready()
        number = next(self._numbers)
        try:
            with self._limit():
                send(pipe, (number, fn, args))
        except UnsendableError as error:
            self._kill()
            raise MachineError(str(error)) from error
        except OSError as error:
            self._kill()
            raise WarmProcessError("the reading process is gone") from error
        kind, value = self._receive(pipe, number, self._timeout, "reading")
        if kind == "done":
            return value
        if kind == "reading error":
            raise ReadingError(value)
        if kind == "busy":
            raise WarmProcessError(value)
        if kind == "machine":
            raise MachineError(value)
        if kind == "lost":
            self._kill()
            raise WarmProcessError(f"{value}; the reading process is started anew")
        raise WarmProcessError(f"an unexpected error while reading: {value}")

    def _receive(self, pipe: Connection, number: int, seconds: float, doing: str) -> tuple[str, Any]:
        """The answer to a task: its kind and value. Unless it comes complete and in time, the process is ended."""
        try:
            answer = None
            if pipe.poll(seconds):
                with self._limit():
                    data = pipe.recv_bytes(_LONGEST_ANSWER)
                answer = answers.loads(data)
        except pickle.UnpicklingError as error:
            self._kill()
            raise WarmProcessError(f"the reading process gave no answer that is read here: {error}") from None
        except (EOFError, OSError):
            process = self._process
            if process is not None:
                process.join(5)
            code = process.exitcode if process is not None else None
            self._kill()
            raise WarmProcessError(f"the reading process died while {doing} ({_exit_text(code)})") from None
        except BaseException:  # the answer may be in the pipe still, where the next task would find it
            self._kill()
            raise
        if isinstance(answer, tuple) and len(answer) == 3 and answer[0] == number:
            return answer[1], answer[2]
        self._kill()
        if answer is None:
            raise WarmProcessError(f"{doing} took longer than {seconds:g} s; the reading process was stopped")
        # A study must never get the reading of another one.
        raise WarmProcessError(f"the reading process gave the answer to another task while {doing}")

    @contextmanager
    def _limit(self) -> Iterator[None]:
        """End the process if it does not take or give all of a large message in time: the pipe then breaks here."""
        timer = threading.Timer(self._timeout, self._process.kill)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:  # the system has no thread left: a later attempt may succeed
            raise MachineError("the reading process could not be watched: no thread can be started") from error
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self._ready = False
        process, pipe = self._process, self._pipe
        if process is not None and process.is_alive():
            process.kill()
            process.join(5)
        if pipe is not None and threading.current_thread() is self._thread:
            pipe.close()
            self._pipe = None
            if self._private is not None:
                self._private.cleanup()
                self._private = None


def _exit_text(code: int | None) -> str:
    if code is None:
        return "exit status unknown"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"ended by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"exit status {code}"


def _main(pipe: Connection, cage: Cage | None, before: Callable[[], None] | None) -> None:
    """Run in the process: enter the cage, load, report that, then do one task after the other until the parent is gone.

    What loads comes over the pipe: to unpickle it imports large libraries, which start threads of their own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which decides when this process ends
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each image of a study is an open file
    global _state  # noqa: PLW0603 - one process, one state, set once: as an executor's initializer does
    try:
        if cage is not None:
            enter_alone(cage, before or _nothing)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        with received(pipe) as load:
            _state = load()
    except BaseException as error:
        text = str(error) if isinstance(error, ValueError | ReadingError) else where(error)
        pipe.send((0, "load error", text))
        return
    pipe.send((0, "ready", None))
    while True:
        try:
            answer = _next_answer(pipe)
        except EOFError:
            return
        pipe.send(answer)


def _next_answer(pipe: Connection) -> tuple[int, str, Any]:
    """Do the next task; its arguments are released with the end of this call. The answer has the task's number."""
    with received(pipe) as (number, fn, args):
        try:
            return number, "done", fn(*args)
        except tuple(_KINDS) as error:
            return number, next(kind for each, kind in _KINDS.items() if isinstance(error, each)), str(error)
        except Exception as error:
            if _lost_its_gpu(error):
                return number, "lost", f"the GPU failed while reading ({where(error)})"
            return number, "error", where(error)


def _nothing() -> None:
    pass


def _lost_its_gpu(error: Exception) -> bool:
    """Whether the driver refuses this process from now on: after such an error each call to the GPU fails."""
    torch = sys.modules.get("torch")  # if it is not imported, the error is not from it
    return torch is not None and isinstance(error, torch.AcceleratorError)


def _end_with_parent() -> None:
    """End this process as soon as the node is gone, whatever this process is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
