"""Instance and result files: written durably, read, deleted. The only code that makes a path.

Layout under ``data_dir``, where every name is a digest and none is text from the network::

    spool/<aa>/<SHA-256 of the SOP Instance UID>.dcm     what modalities sent, byte for byte
    results/<aa>/<SHA-256 of the SOP Instance UID>.dcm   what we made, kept to be sent again as it is
    incoming/*.part                                      being written; nothing here was ever acknowledged

A file is first written and fsynced under ``incoming/``, then renamed into place and its folder fsynced: after a crash
it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from dicom_node.errors import ConfigError

Area = Literal["spool", "results"]


class Spool:
    """The files of one node, below one folder that one node owns at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir
        self._incoming = data_dir / "incoming"
        self._lock: IO[str] | None = None

    @property
    def root(self) -> Path:
        """The node's folder of state."""
        return self._root

    def open(self) -> int:
        """Make the folders, lock them for this process and delete what was never acknowledged.

        Returns:
            how many partial files an earlier run left.

        Raises:
            ConfigError: the folder cannot be written, or another node uses it.
        """
        try:
            for folder in (self._root, self._incoming, self._root / "spool", self._root / "results"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._lock = (self._root / "lock").open("w")
        except OSError as error:
            raise ConfigError(f"data_dir {self._root}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"data_dir {self._root}: another node is running on this folder") from error
        left = list(self._incoming.glob("*.part"))
        for part in left:
            part.unlink()
        return len(left)

    def in_use(self) -> bool:
        """Whether a node holds the folder now."""
        try:
            with (self._root / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Give the folder free for another node."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def new_part(self) -> Path:
        """A fresh name below ``incoming/`` for a file that is about to be written."""
        return self._incoming / f"{uuid.uuid4().hex}.part"

    def write_part(self, *chunks: bytes | memoryview) -> Path:
        """Write ``chunks`` to a new partial file and fsync it; on any error nothing is left behind.

        Raises:
            OSError: as the file system gave it (ENOSPC: the disk is full).
        """
        part = self.new_part()
        try:
            write_durably(part, *chunks)
        except BaseException:
            discard(part)
            raise
        return part

    def adopt(self, part: Path, area: Area, sop_instance_uid: str) -> str:
        """Rename a durable partial file into place, replacing an unrecorded one of the same instance.

        Returns:
            the file's name relative to ``data_dir``, as the index keeps it.
        """
        name = f"{area}/{self._digest(sop_instance_uid)}"
        path = self._root / name
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True, mode=0o750)
            _fsync_folder(path.parent.parent)
        part.replace(path)
        _fsync_folder(path.parent)
        return name

    def path(self, name: str) -> Path:
        """The absolute path of a name that `adopt` returned."""
        return self._root / name

    @staticmethod
    def _digest(sop_instance_uid: str) -> str:
        digest = hashlib.sha256(sop_instance_uid.encode("utf-8")).hexdigest()
        return f"{digest[:2]}/{digest}.dcm"


def write_durably(path: Path, *chunks: bytes | memoryview) -> None:
    """Create ``path`` with ``chunks`` one after the other and fsync it.

    Raises:
        OSError: it exists already, or as the file system gave it.
    """
    with path.open("xb", buffering=0) as file:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:  # an unbuffered write may take less than it is given
                rest = rest[file.write(rest) or 0 :]
        os.fsync(file.fileno())


def discard(part: Path) -> None:
    """Delete a partial file; a file that is gone already, or a disk that cannot, is no error."""
    with suppress(OSError):
        part.unlink()


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
