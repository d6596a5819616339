"""What decodes: a process that forks helpers, and the helpers, each of which decodes a number of frames.

The first process never sees an image. It imports the decoders, enters a cage (`ai.cage`), and forks a helper whenever
`ai.images.helpers` asks for one, which takes some milliseconds. A helper lives as long as its socket.

All messages are lengths and bytes, and text in JSON: whoever reads what a helper says runs nothing of it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
from contextlib import suppress
from typing import Any, Final

LENGTH: Final = struct.Struct("!Q")
STATUS: Final = struct.Struct("!q")
_LONGEST_HEAD: Final = 1 << 16
_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_MIB: Final = 1 << 20
_BYTES_PER_SAMPLE: Final = 24  # of a decoder: whole numbers of 32 bits for each sample, several times over
_FRAMES: Final = 100  # after which a helper is replaced: a decoder may have leaked or been damaged


def seconds_for(samples: int) -> int:
    """The seconds of a processor that a frame of so many samples may take: thirty times what it takes."""
    return 10 + samples // 500_000


def receive(link: socket.socket, count: int) -> bytearray:
    """Exactly ``count`` bytes.

    Raises:
        EOFError: the other end is gone.
        OSError: as the socket gave it, TimeoutError among them.
    """
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        got = link.recv_into(view[at:])
        if not got:
            raise EOFError
        at += got
    return data


def main() -> None:
    """Be the process that forks: standard input is the socket of whoever asks."""
    import ctypes  # noqa: PLC0415  (the other end, which imports this module, does without)

    from ai import cage  # noqa: PLC0415
    from ai.images import codecs  # noqa: PLC0415

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever asks decides when this ends
        signal.signal(each, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("900")  # of 1000: where memory runs out, a helper goes before a model
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    asked = socket.socket(fileno=os.dup(0))
    cage.enter(cage.Cage(private=None, memory=False, signals=True))
    codecs.load_all()
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, STATUS.size, 1)
        if len(message) < STATUS.size:
            os._exit(0)
        (number,) = STATUS.unpack(message)
        if descriptors:
            if (child := os.fork()) == 0:
                ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
                asked.close()
                _help(socket.socket(fileno=descriptors[0]))
            os.close(descriptors[0])
            children.add(child)
            asked.sendall(STATUS.pack(child))
        elif number in children:
            children.remove(number)
            os.kill(number, signal.SIGKILL)
            asked.sendall(STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])))


def _help(link: socket.socket) -> None:
    """Be a helper: decode one frame after the other, each within its own limits. It never returns."""
    from ai.cage import lower, no_core_dumps, seccomp  # noqa: PLC0415  (see main)

    try:
        no_core_dumps(hidden=True)
        seccomp.restrict(unix=False)
        # A hard limit for all of its frames; each frame has a soft one of its own.
        for which, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_CPU, 3600)):
            lower(which, value)
        base = _address_space()
        for _ in range(_FRAMES):
            head = json.loads(receive(link, _length(link, _LONGEST_HEAD)))
            frame = bytes(receive(link, _length(link, 1 << 40)))
            _answer(link, head, frame, base)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def _answer(link: socket.socket, head: dict[str, Any], frame: bytes, base: int) -> None:
    from ai.images import codecs  # noqa: PLC0415  (see main)

    form = codecs.Form(**head["form"])
    samples = form.rows * form.columns * form.samples
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(spent + seconds_for(samples), hard), hard))
    memory = base + 256 * _MIB + _BYTES_PER_SAMPLE * samples + 4 * len(frame)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    try:
        words, photometric = codecs.decode(frame, form, head["syntax"], head["bits"], rgb=head["rgb"])
        said = {"shape": list(words.shape), "bytes": words.dtype.itemsize, "photometric": photometric}
        data = words.tobytes()
    except Exception as error:  # decoders raise errors of many types, and their messages may quote the file
        said, data = {"error": type(error).__name__}, b""
    text = json.dumps(said).encode()
    link.sendall(LENGTH.pack(len(text)) + text + LENGTH.pack(len(data)))
    link.sendall(data)


def _length(link: socket.socket, longest: int) -> int:
    (length,) = LENGTH.unpack(receive(link, LENGTH.size))
    if length > longest:
        raise EOFError
    return int(length)


def _address_space() -> int:
    """The bytes of address space that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()
