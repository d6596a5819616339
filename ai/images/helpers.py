"""Decodes compressed frames in helper processes, which a damaged or hostile frame may end without harm.

A frame that crashes its decoder, or takes too long or too much memory, ends one helper: the caller gets a
`ReadingError` in words at once, and the next frame a new helper. Helpers are kept, and replaced after some frames.
Several threads may decode at once, each with a helper of its own.

What a helper answers is looked at as bytes and numbers: a decoder that was taken over can lie about pixels alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from ai.contract import ReadingError
from ai.errors import LostError
from ai.images.codecs import Form, decoder_of
from ai.images.decode_process import LENGTH, STATUS, receive, seconds_for

_FRAMES: Final = 100  # see ai.images.decode_process
_MOST: Final = 4  # helpers at once
_LONGEST_ANSWER: Final = 4096
_PATIENCE: Final = 6.0  # of the clock for one second of a processor: others may use it, too
_CODE: Final = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from ai.images import decode_process
decode_process.main()
"""
_ENV_UNWANTED: Final = ("LD_PRELOAD", "PYTHONSTARTUP", "PYTHONINSPECT")


class _Helper:
    """One helper process, and the socket to it."""

    def __init__(self, link: socket.socket, process: int) -> None:
        self.link = link
        self.process = process
        self.left = _FRAMES
        self.status = 0  # once it has ended: as of `os.waitstatus_to_exitcode`


class _Helpers:
    """The helpers of this process; the process that forks them is started with the first, or by `start`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(max(1, min(_MOST, os.cpu_count() or 1)))
        self._idle: list[_Helper] = []
        self._forker: socket.socket | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the process that forks helpers; it is ready some tenths of a second later."""
        with self._lock:
            self._ensure()

    def _ensure(self) -> socket.socket:
        if self._forker is None or self._owner != os.getpid():  # after a fork it is the parent's
            self._idle.clear()
            self._forker, self._owner = _start_forker(), os.getpid()
        return self._forker

    @contextmanager
    def helper(self) -> Iterator[_Helper]:
        """A helper for one frame. It is kept if the block ends well, and ended if not."""
        with self._places:
            one = self._take()
            try:
                yield one
            except BaseException:
                self.end(one)
                raise
            one.left -= 1
            with self._lock:
                if one.left:
                    self._idle.append(one)
                    return
            self.end(one)

    def _take(self) -> _Helper:
        with self._lock:
            forker = self._ensure()
            if self._idle:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(forker, [STATUS.pack(0)], [theirs.fileno()])
                return _Helper(ours, STATUS.unpack(receive(forker, STATUS.size))[0])
            except (EOFError, OSError):
                ours.close()
                self._forget()
                raise LostError("the process that starts decoders is gone") from None
            finally:
                theirs.close()

    def end(self, one: _Helper) -> None:
        """End a helper, if it has not ended by itself, and note its exit status."""
        one.link.close()
        with self._lock:
            forker = self._forker
            if forker is None or self._owner != os.getpid() or not one.process:
                return
            process, one.process = one.process, 0
            try:
                forker.sendall(STATUS.pack(process))
                one.status = int(STATUS.unpack(receive(forker, STATUS.size))[0])
            except (EOFError, OSError):
                self._forget()

    def _forget(self) -> None:
        if self._forker is not None:
            self._forker.close()
        self._forker = None
        self._idle.clear()


def _start_forker() -> socket.socket:
    ours, theirs = socket.socketpair()
    try:
        environment = {name: value for name, value in os.environ.items() if name not in _ENV_UNWANTED}
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", _CODE, json.dumps([os.path.abspath(each) for each in sys.path])],  # noqa: PTH100
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
        )
    except OSError:
        ours.close()
        raise LostError("the process that starts decoders cannot be started") from None
    finally:
        theirs.close()
    return ours


_helpers = _Helpers()


def start() -> None:
    """Prepare to decode. A process that enters a cage calls it before, since no program can be started there."""
    _helpers.start()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Stored words of a frame: their bytes, how many bytes each has, their shape, and what they mean."""

    data: bytearray
    word: int
    shape: tuple[int, ...]
    photometric: str


def decode(frame: bytes, form: Form, syntax: str, bits: int, *, rgb: bool = False) -> Decoded:
    """Decode one frame in a helper; arguments as in `ai.images.codecs.decode`.

    Raises:
        ReadingError: the frame cannot be decoded. The message holds nothing of the file.
        LostError: no helper can be started.
    """
    name = decoder_of(syntax, bits)
    samples = form.rows * form.columns * form.samples
    head = json.dumps({"form": asdict(form), "syntax": str(syntax), "bits": bits, "rgb": rgb}).encode()
    seconds = seconds_for(samples)
    one: _Helper | None = None
    try:
        with _helpers.helper() as one:
            link = one.link
            link.settimeout(seconds * _PATIENCE)
            link.sendall(LENGTH.pack(len(head)) + head + LENGTH.pack(len(frame)))
            link.sendall(frame)
            said = json.loads(receive(link, _length(link, _LONGEST_ANSWER)))
            data = receive(link, _length(link, 4 * samples))
    except TimeoutError:
        raise ReadingError(f"PixelData cannot be decoded: {name} did not come to an end with it") from None
    except (EOFError, OSError, ValueError):
        raise ReadingError(f"PixelData cannot be decoded: {name} {_ended(one, seconds)}") from None
    return _checked(said, data, form, name, syntax)


def _length(link: socket.socket, longest: int) -> int:
    """The length of what comes next.

    Raises:
        ValueError: it is longer than it may be.
    """
    (length,) = LENGTH.unpack(receive(link, LENGTH.size))
    if length > longest:
        raise ValueError
    return int(length)


def _checked(said: Any, data: bytearray, form: Form, name: str, syntax: str) -> Decoded:
    error = said.get("error") if isinstance(said, dict) else "TypeError"
    if error is not None:
        if error == "MemoryError":
            raise ReadingError(f"PixelData cannot be decoded: {name} wanted more memory for it than an image needs")
        kind = error if isinstance(error, str) and error.isidentifier() and len(error) < 80 else "an error"
        raise ReadingError(
            f"PixelData is damaged or not of its transfer syntax {syntax}; it cannot be decoded ({kind})"
        )
    shape = (form.rows, form.columns) if form.samples == 1 else (form.rows, form.columns, form.samples)
    word = said.get("bytes")
    if said.get("shape") != list(shape) or word not in (1, 2, 4):
        raise ReadingError(f"{name} gave no array of {' x '.join(map(str, shape))}")
    if len(data) != form.rows * form.columns * form.samples * word:
        raise ReadingError(f"{name} gave {len(data)} bytes of pixels, and says that it gave another number")
    return Decoded(data, word, shape, str(said.get("photometric"))[:16])


def _ended(one: _Helper | None, seconds: int) -> str:
    """How a helper came to its end, in words."""
    number = -one.status if one is not None else 0
    if number == signal.SIGXCPU:
        return f"took more than {seconds} seconds of a processor for it"
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    return f"was ended by it ({name})" if name else "ended at it"
