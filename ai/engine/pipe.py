"""A pipe to another process of this machine that hands over open files with what it sends.

A descriptor is a number of one process. Each `OpenFile` in a message therefore travels as a place in a list, and its
descriptor beside the message over the pipe's own socket (SCM_RIGHTS, unix(7)); no other connection is needed. A
`LentFile` is opened for that moment alone, so that a study of any size takes one descriptor of the sender.
"""

from __future__ import annotations

import io
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

from ai.contract import LentFile, OpenFile

_SPARE = 64  # descriptors that a process has open beside those of a message


class UnsendableError(Exception):
    """The files of a message cannot be opened, or are more than a process may have open; the message says which."""


class _Pickler(ForkingPickler):
    """Notes the open files of a message, and those that are to be opened: descriptors and paths."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.files: dict[int | str, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, OpenFile):
            return self.files.setdefault(value.descriptor, len(self.files))
        if isinstance(value, LentFile):
            return self.files.setdefault(value.path, len(self.files))
        return None


class _Unpickler(pickle.Unpickler):
    """Puts the open files of a message back into their places."""

    def __init__(self, file: io.BytesIO, descriptors: list[int | None]) -> None:
        super().__init__(file)
        self._descriptors = descriptors

    def persistent_load(self, place: int) -> OpenFile | None:
        descriptor = self._descriptors[place]
        return None if descriptor is None else OpenFile(descriptor)


def send(pipe: Connection, message: object) -> None:
    """Send a picklable message; its open files stay open here, and are the sender's to close.

    Raises:
        OSError: the process at the other end is gone, or a descriptor is closed.
        UnsendableError: a file that is to be lent cannot be opened, or there are too many. Nothing can be sent after.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(message)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and len(pickler.files) > most - _SPARE:
        raise UnsendableError(f"{len(pickler.files)} files are to be read, and a process here may open {most}")
    pipe.send_bytes(str(len(pickler.files)).encode())
    for file in pickler.files:
        if isinstance(file, int):
            _hand_over(pipe, file)
            continue
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pipe.send_bytes(b"-")
            continue
        except OSError as error:
            raise UnsendableError(f"an image cannot be opened: {error.strerror}") from error
        try:
            _hand_over(pipe, descriptor)
        finally:
            os.close(descriptor)
    pipe.send_bytes(buffer.getbuffer())


def _hand_over(pipe: Connection, descriptor: int) -> None:
    pipe.send_bytes(b"+")
    send_handle(pipe, descriptor, None)


@contextmanager
def received(pipe: Connection) -> Iterator[Any]:
    """Wait for a message of `send`; its open files are closed when the block ends.

    Raises:
        EOFError: the process at the other end is gone.
        OSError: there are more open files than a process may have.
    """
    descriptors: list[int | None] = []
    try:
        for _ in range(int(pipe.recv_bytes())):
            descriptors.append(recv_handle(pipe) if pipe.recv_bytes() == b"+" else None)
        yield _Unpickler(io.BytesIO(pipe.recv_bytes()), descriptors).load()
    finally:
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)
