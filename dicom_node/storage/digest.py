"""The SHA-256 of a data set, taken by another thread while it is received.

hashlib and reading a file release Python's lock, so that the hash runs beside the network and the disk. The thread
reads what was written back from the file, which is in memory still: the network's buffer is used again at once.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor

_AT_ONCE = 256 * 1024  # bytes: fewer are not worth waking a thread
_HASHERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="digest")


class GrowingDigest:
    """The digest of an open file's bytes from ``begin`` on, while others are appended."""

    def __init__(self, file: int, begin: int) -> None:
        self._file = file
        self._done = begin
        self._hash = hashlib.sha256()
        self._running: Future[None] | None = None

    def grow(self, size: int) -> None:
        """The file has ``size`` bytes now. Raises what reading the file raised before."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
            self._running = None
        if size - self._done >= _AT_ONCE:
            self._running = _HASHERS.submit(self._catch_up, size)

    def finish(self, size: int) -> bytes:
        """The digest of all bytes up to ``size``.

        Raises:
            OSError: the file cannot be read.
        """
        self.wait()
        self._catch_up(size)
        return self._hash.digest()

    def wait(self) -> None:
        """Wait until nothing reads the file any more, so that it can be closed."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def _catch_up(self, size: int) -> None:
        while self._done < size:
            piece = os.pread(self._file, min(_AT_ONCE, size - self._done), self._done)
            if not piece:
                raise OSError(0, "the file ends before what was written to it")
            self._hash.update(piece)
            self._done += len(piece)
