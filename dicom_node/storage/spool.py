"""Instance and result files: written durably, read, deleted. The only code that makes a path.

Layout under ``data_dir``, where every name is a digest and none is text from the network::

    spool/<aa>/<SHA-256 of the SOP Instance UID>.dcm     what modalities sent, byte for byte; ...-2.dcm once corrected
    results/<aa>/<SHA-256 of the SOP Instance UID>.dcm   what we made, kept to be sent again as it is
    incoming/*.part                                      being written; nothing here was ever acknowledged

A result is written and fsynced under ``incoming/``, then renamed into place and its folder fsynced: after a crash it is
there whole or not at all. A received instance is linked into place instead, and its partial file, which is named after
it, goes only when the index knows it: what a crash leaves in ``incoming/`` names every file that nobody was told of.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import itertools
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from dicom_node.errors import ConfigError

_WORTH_STARTING = 128 * 1024  # bytes
_ASKED_SECONDS = 1.0  # how long an answer about the room on the disk holds
_MOST_PIECES = 64  # of one write; more and smaller ones are joined first (the system takes 1024)


class Part:
    """The open partial file of an instance that is being received; for one thread."""

    def __init__(self, path: str) -> None:
        """Create it.

        Raises:
            OSError: it exists already, or as the file system gave it.
        """
        self.path = path
        self.size = 0
        self.names_a_stray = False  # a file in place that the index does not know, and that could not be deleted
        self._on_its_way = 0  # bytes that the system was told to write to the disk
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Append ``pieces``.

        Raises:
            OSError: as the file system gave it (ENOSPC: the disk is full).
        """
        total = sum(map(len, pieces))
        if len(pieces) > _MOST_PIECES:
            pieces = [memoryview(b"".join(pieces))]
        written = os.writev(self._file, pieces)
        if written < total:  # a nearly full disk takes less than it is given, and says why the next time
            rest = memoryview(b"".join(pieces))
            while written < total:
                written += os.write(self._file, rest[written:])
        self.size += total
        if self.size - self._on_its_way >= _WORTH_STARTING:
            # What is on its way to the disk while the rest comes is nothing to wait for at the end.
            _start_writing(self._file, self._on_its_way, self.size - self._on_its_way)
            self._on_its_way = self.size

    def sync(self) -> None:
        """Make the file durable, with what the file system did to it so far (its links).

        Raises:
            OSError: it is not.
        """
        os.fsync(self._file)

    def closed(self) -> Path:
        """Close it and keep it; where it is."""
        os.close(self._file)
        self._file = -1
        return Path(self.path)

    def discard(self) -> None:
        """Close it and delete its name, unless the next start is to find a stray file by it."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
            if not self.names_a_stray:
                with suppress(OSError):
                    os.unlink(self.path)


def _writeback() -> Callable[[int, int, int], None]:
    """What has the system begin to write a range of a file to the disk (file, offset, bytes); Linux can."""
    try:
        sync_file_range = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return lambda _file, _offset, _count: None
    sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def start(file: int, offset: int, count: int) -> None:
        sync_file_range(file, offset, count, 2)  # SYNC_FILE_RANGE_WRITE; where it fails, fsync says so

    return start


_start_writing = _writeback()


class Spool:
    """The files of one node, below one folder that one node owns at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir
        self._incoming = data_dir / "incoming"
        self._lock: IO[str] | None = None
        self._numbers = itertools.count(1)
        self._folders: dict[str, int] = {}
        self._opening = threading.Lock()
        self._thinned: set[str] = set()  # folders that files were deleted from, until `settle`
        self._free = (0, float("-inf"))

    @property
    def root(self) -> Path:
        """The node's folder of state."""
        return self._root

    def open(self) -> None:
        """Make the folders and lock them for this process.

        Raises:
            ConfigError: the folder cannot be written, or another node uses it.
        """
        try:
            for folder in (self._root, self._incoming, self._root / "spool", self._root / "results"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._make_folders()
            self._lock = (self._root / "lock").open("w")
        except OSError as error:
            raise ConfigError(f"data_dir {self._root}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"data_dir {self._root}: another node is running on this folder") from error

    def _make_folders(self) -> None:
        """Make the folders of all digests at once: one by one, each of the first images would pay for its own."""
        for area in (self._root / "spool", self._root / "results"):
            there = {each.name for each in area.iterdir()}
            missing = [name for number in range(256) if (name := f"{number:02x}") not in there]
            for name in missing:
                (area / name).mkdir(mode=0o750)
            if missing:
                _fsync_folder(area)

    def recover(self, known: Callable[[Collection[str]], Collection[str]]) -> int:
        """Delete what an earlier run left unfinished, none of which was ever acknowledged.

        Args:
            known: which of some files, named as `place` names them, the index knows.

        Returns:
            how many files were deleted.
        """
        parts = list(self._incoming.glob("*.part"))
        there = {name for part in parts for name in self._editions(part.name.split(".", 1)[0])}
        unknown = there - set(known(there)) if there else set()
        for name in unknown:
            self.path(name).unlink()
        for part in parts:  # only now: until here each says where its file may stand
            part.unlink()
        return len(parts) + len(unknown)

    def _editions(self, digest: str) -> list[str]:
        """The names of every file of an instance that there is."""
        base = self.path(_name("spool", digest))
        return [str(path.relative_to(self._root)) for path in base.parent.glob(f"{base.stem}*.dcm")]

    def is_whole(self, name: str, size: int) -> bool:
        """Whether a recorded file of ``size`` bytes stands in its place."""
        path = self.path(name)
        return path.is_file() and path.stat().st_size == size

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
        with self._opening:
            for folder in self._folders.values():
                os.close(folder)
            self._folders.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def free(self, *, now: bool = False) -> int:
        """How many bytes are free on the disk of the data, at most a second ago, or ``now``.

        Raises:
            OSError: the file system does not say.
        """
        found, asked = self._free
        if now or time.monotonic() - asked > _ASKED_SECONDS:
            found = shutil.disk_usage(self._root).free
            self._free = (found, time.monotonic())
        return found

    def write_parts(self, contents: Iterable[Sequence[bytes | memoryview]], batch: str = "") -> list[Path]:
        """Write each of ``contents``, in pieces, to a new partial file, durably; on any error nothing is left behind.

        One is on its way to the disk while the next is made, where ``contents`` are made when they are asked for.

        Raises:
            OSError: as the file system gave it (ENOSPC: the disk is full).
        """
        parts: list[Part] = []
        batch = batch or uuid.uuid4().hex
        try:
            for pieces in contents:
                parts.append(Part(f"{self._incoming}/{batch}.{len(parts)}.part"))
                parts[-1].write([memoryview(each) for each in pieces])
            for part in parts:  # when all are on their way: the first of these waits for what the others would
                part.sync()
        except BaseException:
            for part in parts:
                part.discard()
            raise
        return [part.closed() for part in parts]

    def discard_parts(self, batch: str) -> None:
        """Delete what a process that is gone has left of a batch of `write_parts`."""
        for part in self._incoming.glob(f"{batch}.*.part"):
            self.discard_part(part)

    @staticmethod
    def discard_part(part: Path) -> None:
        """Delete a partial file; where that cannot be done, the next start does it."""
        with suppress(OSError):
            part.unlink()

    def adopt(self, parts: Sequence[tuple[Path, str]]) -> list[str]:
        """Rename the durable partial files of results into place, replacing unrecorded ones of the same instances.

        Args:
            parts: each with its SOP Instance UID.

        Returns:
            the files' names relative to ``data_dir``, as the index keeps them.
        """
        names = [_name("results", _digest(uid)) for _, uid in parts]
        for (part, _), name in zip(parts, names, strict=True):
            part.replace(self.path(name))
        for name in names:  # after all are renamed: the first of these writes what the others would
            os.fsync(self._folder(os.path.dirname(self.path(name))))
        return names

    def part_for(self, sop_instance_uid: str) -> Part:
        """Begin the partial file of an instance that is being received.

        Raises:
            OSError: it cannot be written.
        """
        return Part(f"{self._incoming}/{_digest(sop_instance_uid)}.{next(self._numbers)}.part")

    def place(self, part: Part, sop_instance_uid: str, *, edition: int = 1, replace: bool = False) -> str:
        """Make a received instance durable in its place; each edition has one of its own.

        ``part`` is to be discarded when the index knows the file, not before.

        Returns:
            the file's name relative to ``data_dir``, as the index keeps it.

        Raises:
            FileExistsError: there is a file in its place, which is not to be replaced.
            OSError: as the file system gave it; the file is not in its place.
        """
        digest = _digest(sop_instance_uid)
        name = _name("spool", digest, f"-{edition}" if edition > 1 else "")
        path = f"{self._root}/{name}"
        if replace:
            with suppress(FileNotFoundError):
                os.unlink(path)
        os.link(part.path, path)
        try:
            # After the link, which is part of what fsync writes: the folder's own fsync has nothing left to write.
            part.sync()
            os.fsync(self._folder(os.path.dirname(path)))
        except BaseException:
            self.take_back(part, name)
            raise
        return name

    def _folder(self, path: str) -> int:
        """A folder of the spool, opened once: opening it costs as much as having it written."""
        with self._opening:
            if path not in self._folders:
                self._folders[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return self._folders[path]

    def take_back(self, part: Part, name: str) -> None:
        """Delete the file that a part was placed as; where that cannot be done, the part stays and names it."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError:
            part.names_a_stray = True

    def delete(self, name: str) -> int:
        """Delete the recorded file of an image or a result; for one thread. It is durable after `settle`.

        Returns:
            how many bytes it had; 0 where it was gone already.

        Raises:
            OSError: it cannot be deleted.
        """
        path = f"{self._root}/{name}"
        self._thinned.add(os.path.dirname(path))
        try:
            size = os.lstat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def settle(self) -> None:
        """Make everything durable that was deleted.

        Raises:
            OSError: it is not.
        """
        for folder in sorted(self._thinned):
            os.fsync(self._folder(folder))
        self._thinned.clear()

    def path(self, name: str) -> Path:
        """The absolute path of a name that `adopt` or `place` returned."""
        return self._root / name


def _digest(sop_instance_uid: str) -> str:
    return hashlib.sha256(sop_instance_uid.encode("utf-8")).hexdigest()


def _name(area: str, digest: str, edition: str = "") -> str:
    return f"{area}/{digest[:2]}/{digest}{edition}.dcm"


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
