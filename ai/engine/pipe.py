"""A pipe to another process of this machine that hands over open files with what it sends.

A descriptor is a number of one process. Each `OpenFile` in a message therefore travels as a place in a list, and its
descriptor beside the message over the pipe's own socket (SCM_RIGHTS, unix(7)); no other connection is needed.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

from ai.contract import OpenFile


class _Pickler(ForkingPickler):
    """Notes the open files of a message."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.descriptors: list[int] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, OpenFile):
            return None
        if value.descriptor not in self.descriptors:
            self.descriptors.append(value.descriptor)
        return self.descriptors.index(value.descriptor)


class _Unpickler(pickle.Unpickler):
    """Puts the open files of a message back into their places."""

    def __init__(self, file: io.BytesIO, descriptors: list[int]) -> None:
        super().__init__(file)
        self._descriptors = descriptors

    def persistent_load(self, place: int) -> OpenFile:
        return OpenFile(self._descriptors[place])


def send(pipe: Connection, message: object) -> None:
    """Send a picklable message; its open files stay open here, and are the sender's to close.

    Raises:
        OSError: the process at the other end is gone, or a descriptor is closed.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(message)
    pipe.send(len(pickler.descriptors))
    for descriptor in pickler.descriptors:
        send_handle(pipe, descriptor, None)
    pipe.send_bytes(buffer.getbuffer())


@contextmanager
def received(pipe: Connection) -> Iterator[Any]:
    """Wait for a message of `send`; its open files are closed when the block ends.

    Raises:
        EOFError: the process at the other end is gone.
        OSError: there are more open files than a process may have.
    """
    descriptors: list[int] = []
    try:
        for _ in range(pipe.recv()):
            descriptors.append(recv_handle(pipe))
        yield _Unpickler(io.BytesIO(pipe.recv_bytes()), descriptors).load()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
