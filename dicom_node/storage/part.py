"""A file that is being written: its bytes, their digest, and when they are durable."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_MOST_PIECES = 64  # of one writev(2), which takes at most 1024; more pieces are joined first
_WRITEBACK_BYTES = 128 * 1024  # unwritten bytes after which the system is told to write them


class Part:
    """The open partial file of an instance that is being received. It is used by one thread only."""

    def __init__(self, path: str) -> None:
        """Create the file. It is not read again: a process in a cage puts results where it may read nothing.

        Raises:
            OSError: the file exists already, or cannot be created.
        """
        self.path = path
        self.size = 0
        self.marks_unrecorded = False  # an unrecorded file in place could not be deleted; this part's name leads to it
        self._started = 0  # bytes that the system was told to write to the disk
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash: hashlib._Hash | None = None
        self._hash_begin = 0

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Append bytes.

        Raises:
            OSError: the file system refused them (ENOSPC: the disk is full).
        """
        total = sum(map(len, pieces))
        if len(pieces) > _MOST_PIECES:
            pieces = [memoryview(b"".join(pieces))]
        written = os.writev(self._file, pieces)
        if written < total:  # a nearly full disk writes less; the next write raises the reason
            rest = memoryview(b"".join(pieces))
            while written < total:
                written += os.write(self._file, rest[written:])
        self.size += total
        if self.size - self._started >= _WRITEBACK_BYTES:
            # What the disk writes while the rest is received, the final fsync does not wait for.
            _start_writing(self._file, self._started, self.size - self._started)
            self._started = self.size
        if self._hash is not None:
            self._add_to_digest(pieces, self.size - total)

    def begin_digest(self, begin: int) -> None:
        """Take the SHA-256 of what will be written from byte ``begin`` on, while it comes."""
        self._hash, self._hash_begin = hashlib.sha256(), begin

    def _add_to_digest(self, pieces: Sequence[memoryview], at: int) -> None:
        """Take bytes that were written from ``at`` on.

        From memory and in this thread: a thread of its own had to read them back, and cost more than it won on two
        processors. hashlib releases Python's lock meanwhile.
        """
        if self._hash is None:
            return
        for piece in pieces:
            self._hash.update(piece[max(self._hash_begin - at, 0) :])
            at += len(piece)

    def digest(self) -> bytes:
        """The SHA-256 of what was written; `begin_digest` was called before."""
        if self._hash is None:
            raise RuntimeError("no digest was begun")
        return self._hash.digest()

    def write_preamble(self, preamble: bytes) -> None:
        """Write over the 128 bytes with which the file begins.

        Raises:
            OSError: the file system refused it.
        """
        os.pwrite(self._file, preamble, 0)

    def sync(self) -> None:
        """Make the file's content and its links durable.

        Raises:
            OSError: the disk did not confirm it.
        """
        os.fsync(self._file)

    def close(self) -> Path:
        """Close the file, keep it, and return its path."""
        os.close(self._file)
        self._file = -1
        return Path(self.path)

    def discard(self) -> None:
        """Close the file and delete it. It stays if the next start needs it to find an unrecorded file."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
            if not self.marks_unrecorded:
                with suppress(OSError):
                    os.unlink(self.path)


def _writeback() -> Callable[[int, int, int], None]:
    """The function (file, offset, bytes) that tells the system to begin writing a range of a file to the disk.

    It uses Linux's sync_file_range(2), and does nothing where the C library has none.
    """
    try:
        sync_file_range = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return lambda _file, _offset, _count: None
    sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def start(file: int, offset: int, count: int) -> None:
        sync_file_range(file, offset, count, 2)  # SYNC_FILE_RANGE_WRITE; a failure shows in the later fsync

    return start


_start_writing = _writeback()
