"""The spool: files of received images and of results. The only module that builds the path of one.

Layout below ``data_dir``. Every file name is a digest; no text from the network becomes part of a path::

    spool/<aa>/<SHA-256 of the SOP Instance UID>.dcm     received images, byte for byte; ...-2.dcm for a correction
    spool/<aa>/<the same>.<SHA-256 of the study's UID>.dcm  where the UID came before under another study
    quarantine/<the same>.<random>.dcm                   images that an administrator decides on (`storage.quarantine`)
    results/<aa>/<SHA-256 of the SOP Instance UID>.dcm   result objects, kept so that they can be sent again unchanged
    incoming/*.part                                      images that are being received; none of them is acknowledged
    made/*.part                                          results that are being written, by a process in a cage

A result is written and fsynced below ``made/``, renamed into place, and its folder is fsynced. After a crash it is
complete or absent.

A received image is hard-linked into place. Its partial file, whose name has the same digest, is deleted only when the
index has recorded the image. So after a crash the partial files in ``incoming/`` name every image file that may be in
place without being recorded or acknowledged (`Spool.recover`).
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import itertools
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dicom_node.errors import ConfigError
from dicom_node.log import logger
from dicom_node.storage.durable import fsync_folder
from dicom_node.storage.part import Part
from dicom_node.storage.record import PREAMBLE_BYTES, record_in

_QUARANTINE = "quarantine"
_ASKED_SECONDS = 1.0  # for which a measurement of the free disk space is used again


class Spool:
    """The files of one node in one folder, which a single running node owns."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir
        self._incoming = data_dir / "incoming"
        self._made = data_dir / "made"
        self._locks: list[int] = []
        self._numbers = itertools.count(1)
        self._folders: dict[str, int] = {}
        self._opening = threading.Lock()
        self._deleted_from: set[str] = set()  # folders with deletions that are not durable yet
        self._free = (0, float("-inf"))

    @property
    def root(self) -> Path:
        """The folder that holds all state of the node."""
        return self._root

    def open(self) -> None:
        """Create the folders and lock them for this process.

        Raises:
            ConfigError: the folder cannot be written, or another node uses it.
        """
        try:
            inside = [self._root / name for name in ("spool", "results", _QUARANTINE)]
            for folder in (self._root, self._incoming, self._made, *inside):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_folders()
            self._lock()
        except OSError as error:
            raise ConfigError(f"data_dir {self._root}: cannot be written: {error.strerror}") from error
        self._close_to_others()

    def _lock(self) -> None:
        """Lock the folder itself: no file in it can be deleted to get round that. Earlier versions lock a file."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._locks = [
            os.open(self._root, flags | os.O_DIRECTORY),
            os.open(self._root / "lock", flags | os.O_CREAT, 0o600),
        ]
        try:
            for lock in self._locks:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ConfigError(f"data_dir {self._root}: another node is running on this folder") from error

    def others_may(self) -> str:
        """The mode of the folder in words, if users other than the node's may enter it; otherwise empty."""
        mode = stat.S_IMODE(self._root.stat().st_mode)
        return f"its mode is {mode:04o}: other users of this machine may enter it" if mode & 0o077 else ""

    def _close_to_others(self) -> None:
        """Take the rights of all other users from the folder, which holds patients' images; the log tells it."""
        if not (found := self.others_may()):
            return
        try:
            self._root.chmod(stat.S_IMODE(self._root.stat().st_mode) & ~0o077)
        except OSError as error:  # it belongs to another user
            fix = f"give it to the node's user alone: chown, then chmod 700 {self._root}"
            logger().warning("folder.open", folder=str(self._root), reason=f"{found} ({error.strerror})", fix=fix)
        else:
            logger().warning("folder.closed", folder=str(self._root), reason=f"{found}; now it is the node's alone")

    def _make_folders(self) -> None:
        """Create the folders of all digests at once. Otherwise each of the first images would wait for its own."""
        for area in (self._root / "spool", self._root / "results"):
            there = {each.name for each in area.iterdir()}
            missing = [name for number in range(256) if (name := f"{number:02x}") not in there]
            for name in missing:
                (area / name).mkdir(mode=0o700)
            if missing:
                fsync_folder(area)

    def recover(self, recorded: Callable[[Collection[str]], Collection[str]]) -> int:
        """Delete what an earlier run left unfinished. None of it was acknowledged to a sender.

        Args:
            recorded: returns those of some file names (as `place` returns them) that the index has recorded.

        Returns:
            how many files were deleted.
        """
        parts = list(self._incoming.glob("*.part"))
        there = {name for part in parts for name in self._editions(part.name.split(".", 1)[0])}
        unrecorded = there - set(recorded(there)) if there else set()
        for name in unrecorded:
            self.path(name).unlink()
        for part in parts:  # last: until its image file is deleted, a partial file is needed to find it
            part.unlink()
        made = list(self._made.glob("*.part"))
        for part in made:
            part.unlink()
        return len(parts) + len(unrecorded) + len(made)

    def _editions(self, digest: str) -> list[str]:
        """The names of all files of an instance that are in place, or in quarantine."""
        base = self.path(_name("spool", digest))
        folders = (base.parent, self._root / _QUARANTINE)
        return [str(path.relative_to(self._root)) for each in folders for path in each.glob(f"{base.stem}*.dcm")]

    def is_whole(self, name: str, size: int) -> bool:
        """Whether a recorded file is in place, has its recorded size in bytes, and is what was received.

        The data set is read and its SHA-256 compared with that of the file's record; an image of an earlier version has
        none, and counts by its size.
        """
        try:
            with self.path(name).open("rb") as file:
                record = record_in(file.read(PREAMBLE_BYTES))
                if os.fstat(file.fileno()).st_size != size:
                    return False
                return record is None or record.is_of(file, size)
        except OSError:
            return False

    def in_use(self) -> bool:
        """Whether a running node has locked the folder."""
        for path in (self._root, self._root / "lock"):
            try:
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError:  # of another user: nobody knows
                return True
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(lock)
        return False

    def close(self) -> None:
        """Release the folder so that another node can use it."""
        with self._opening:
            for folder in self._folders.values():
                os.close(folder)
            self._folders.clear()
        while self._locks:
            os.close(self._locks.pop())

    def free(self, *, now: bool = False) -> int:
        """Free bytes on the disk of ``data_dir``. The measurement is at most a second old; with ``now`` it is new.

        Raises:
            OSError: the file system cannot be asked.
        """
        found, asked = self._free
        if now or time.monotonic() - asked > _ASKED_SECONDS:
            found = shutil.disk_usage(self._root).free
            self._free = (found, time.monotonic())
        return found

    def write_parts(self, contents: Iterable[Sequence[bytes | memoryview]], batch: str = "") -> list[Path]:
        """Write each of ``contents``, given in pieces, durably to a partial file. After an error none is left.

        If ``contents`` is a generator, the disk writes one file while the next is made.

        Args:
            contents: the pieces of each file.
            batch: begins the file names, so that `discard_parts` finds them; a random text if empty.

        Raises:
            OSError: a file cannot be written (ENOSPC: the disk is full).
        """
        parts: list[Part] = []
        batch = batch or uuid.uuid4().hex
        try:
            for pieces in contents:
                parts.append(Part(f"{self._made}/{batch}.{len(parts)}.part"))
                parts[-1].write([memoryview(each) for each in pieces])
            for part in parts:  # after all are written: the first fsync does most of the work of the others
                part.sync()
        except BaseException:
            for part in parts:
                part.discard()
            raise
        return [part.close() for part in parts]

    def discard_parts(self, batch: str) -> None:
        """Delete the partial files that a dead process left of a batch of `write_parts`."""
        for part in self._made.glob(f"{batch}.*.part"):
            self.discard_part(part)

    def made(self, name: str) -> Path:
        """The partial file that another process says it has made of a result; it may have named anything.

        Raises:
            ValueError: it is no plain file of `write_parts`.
        """
        file = self._made / os.path.basename(name)
        if str(file) != name or not name.endswith(".part") or not stat.S_ISREG(os.lstat(file).st_mode):
            raise ValueError("what is named as a result is none")
        return file

    @staticmethod
    def discard_part(part: Path) -> None:
        """Delete a partial file. If that fails, the next start deletes it."""
        with suppress(OSError):
            part.unlink()

    def adopt(self, parts: Sequence[tuple[Path, str]]) -> list[str]:
        """Move durable partial files of results into place. An unrecorded file of the same instance is replaced.

        Args:
            parts: each path with its SOP Instance UID.

        Returns:
            the file names relative to ``data_dir``, for the index.

        Raises:
            OSError: a file cannot be moved, or the disk did not confirm it.
        """
        names = [_name("results", _digest(uid)) for _, uid in parts]
        for (part, _), name in zip(parts, names, strict=True):
            part.replace(self.path(name))
        for name in names:  # after all are renamed: the first fsync does most of the work of the others
            os.fsync(self._folder(os.path.dirname(self.path(name))))
        return names

    def part_for(self, sop_instance_uid: str) -> Part:
        """Create the partial file of an instance that is being received.

        Raises:
            OSError: it cannot be created.
        """
        return Part(f"{self._incoming}/{_digest(sop_instance_uid)}.{next(self._numbers)}.part")

    def place(
        self,
        part: Part,
        sop_instance_uid: str,
        *,
        edition: int = 1,
        another_study: str = "",
        replace: bool = False,
        record: Callable[[int], bytes] | None = None,
    ) -> str:
        """Link a received instance into place, durably.

        ``record`` gives the preamble of an edition (`storage.record`).

        Each edition has its own file (1: as first received, 2: the first correction), and so has an instance whose UID
        came before under another study (``another_study`` is its own). The caller discards ``part`` only when the
        index has recorded the file.

        Returns:
            the file name relative to ``data_dir``, for the index.

        Raises:
            FileExistsError: a file is in place already, and ``replace`` is False.
            OSError: the disk did not confirm it; the file is not in place.
        """
        digest = _digest(sop_instance_uid)
        study = f".{_digest(another_study)}" if another_study else ""
        name = _name("spool", digest, study + (f"-{edition}" if edition > 1 else ""))
        if record is not None:
            part.write_preamble(record(edition))
        return self._link(part, name, replace=replace)

    def place_in_quarantine(self, part: Part, record: bytes, sop_instance_uid: str) -> str:
        """Link a received instance, with the preamble ``record``, into the quarantine, durably, beside others with its
        UID; returns as `place`.

        Raises:
            OSError: the disk did not confirm it; the file is not in place.
        """
        part.write_preamble(record)
        return self._link(part, f"{_QUARANTINE}/{_digest(sop_instance_uid)}.{uuid.uuid4().hex}.dcm", replace=False)

    def accept(self, name: str, sop_instance_uid: str, edition: int, *, another_study: str = "") -> str:
        """Link an image in quarantine into the spool too, as an edition, durably; returns the file name there.

        The name is one that no received image gets: an edition that comes at the same moment does not touch it.

        Raises:
            FileExistsError: it was accepted as this edition before.
            OSError: the disk did not confirm it.
        """
        study = f".{_digest(another_study)}" if another_study else ""
        accepted = _name("spool", _digest(sop_instance_uid), f"{study}-{edition}-accepted")
        with self.path(name).open("r+b") as file:
            if (record := record_in(file.read(PREAMBLE_BYTES))) is not None:
                file.seek(0)
                file.write(dataclasses.replace(record, edition=edition).preamble())
                file.flush()
            os.link(self.path(name), self.path(accepted))
            os.fsync(file.fileno())
        os.fsync(self._folder(os.path.dirname(self.path(accepted))))
        return accepted

    def _link(self, part: Part, name: str, *, replace: bool) -> str:
        path = f"{self._root}/{name}"
        if replace:
            with suppress(FileNotFoundError):
                os.unlink(path)
        os.link(part.path, path)
        try:
            # After the link, so that this fsync writes the link too and the folder's fsync finds nothing left to write.
            part.sync()
            os.fsync(self._folder(os.path.dirname(path)))
        except BaseException:
            self.remove_placed(part, name)
            raise
        return name

    def _folder(self, path: str) -> int:
        """The open descriptor of a folder of the spool. It is kept: opening a folder takes as long as its fsync."""
        with self._opening:
            if path not in self._folders:
                self._folders[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return self._folders[path]

    def remove_placed(self, part: Part, name: str) -> None:
        """Delete a placed file of the part's instance. If that fails, keep the part, whose name leads to it."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError:
            part.marks_unrecorded = True

    def delete(self, name: str) -> int:
        """Delete the recorded file of an image or a result. `sync_deletions` makes it durable. For one thread only.

        Returns:
            the file's size in bytes; 0 if there was no file.

        Raises:
            OSError: it cannot be deleted.
        """
        path = f"{self._root}/{name}"
        self._deleted_from.add(os.path.dirname(path))
        try:
            size = os.lstat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def sync_deletions(self) -> None:
        """Make all deletions durable.

        Raises:
            OSError: the disk did not confirm it.
        """
        for folder in sorted(self._deleted_from):
            os.fsync(self._folder(folder))
        self._deleted_from.clear()

    def path(self, name: str) -> Path:
        """The absolute path of a name that `adopt` or `place` returned."""
        return self._root / name


def _digest(sop_instance_uid: str) -> str:
    return hashlib.sha256(sop_instance_uid.encode("utf-8")).hexdigest()


def _name(area: str, digest: str, edition: str = "") -> str:
    return f"{area}/{digest[:2]}/{digest}{edition}.dcm"
