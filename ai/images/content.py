"""Opening an image wherever its bytes are: a path, an open descriptor, bytes in memory.

Everything that reads an image opens it here, so all of them can read from everywhere.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from ai.contract import Content, LentFile, OpenFile


def open_content(content: Content) -> BinaryIO:
    """Open the bytes of an image for reading, at their start; close what is returned.

    A path is opened anew. An open file is read by position and stays open; bytes are read where they are, uncopied.

    Raises:
        FileNotFoundError: there is no content, or no file at the path.
        OSError: as the file system gave it.
    """
    if content is None:
        raise FileNotFoundError
    if isinstance(content, OpenFile):
        return io.BufferedReader(_OpenFile(content.descriptor))
    if isinstance(content, bytes):
        return io.BufferedReader(_Bytes(content))
    return Path(content.path if isinstance(content, LentFile) else content).open("rb")


class _Positioned(io.RawIOBase):
    """A readable that keeps its own position; pydicom asks each `io.BufferedReader` for the name of its file."""

    name = ""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._at = start + offset
        return self._at

    def readall(self) -> bytes:
        pieces = []
        while piece := self.read(max(self._size - self._at, 1)):
            pieces.append(piece)
        return b"".join(pieces)


class _OpenFile(_Positioned):
    """A file by its descriptor, which others may read at the same time."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(os.fstat(descriptor).st_size)
        self._descriptor = descriptor

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has it wider
        count = os.preadv(self._descriptor, [buffer], self._at)
        self._at += count
        return count


class _Bytes(_Positioned):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self._data = memoryview(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as above
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class Spliced(_Positioned):
    """Parts of an open file, one behind the other, as if they were a file; the file must stay open.

    ``spans`` are where they begin and end, in bytes from the start of ``file``.
    """

    def __init__(self, file: BinaryIO, spans: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._spans = [(begin, end) for begin, end in spans if end > begin]
        # Where each span begins in what is read here, and where the last one ends.
        self._starts = list(accumulate((end - begin for begin, end in self._spans), initial=0))
        super().__init__(self._starts[-1])

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as above
        """Read on from the position into a buffer; how many bytes it got, 0 at the end."""
        done = 0
        number = bisect_right(self._starts, self._at) - 1
        while done < len(buffer) and number < len(self._spans):
            begin, end = self._spans[number]
            at = begin + self._at - self._starts[number]
            self._file.seek(at)
            piece = self._file.read(min(len(buffer) - done, end - at))
            if not piece:  # the file was cut off meanwhile
                break
            buffer[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
            number += self._at == self._starts[number + 1]
        return done
