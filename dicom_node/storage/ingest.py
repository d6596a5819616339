"""Stores received instances (C-STORE, PS3.4 annex B): writes the data set, fsyncs it, records it in the index.

Every image comes in here. The module knows nothing of associations, so another protocol can deliver images as well.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.dicom.header import Header
from dicom_node.errors import Refused
from dicom_node.index.index import Index
from dicom_node.index.rows import NewInstance, Received
from dicom_node.log import logger, where
from dicom_node.storage.corrections import Correction, correction
from dicom_node.storage.incoming import Incoming
from dicom_node.storage.spool import Spool

_COMPARED_AT_ONCE = 1024 * 1024
_MOST_EDITIONS = 10  # of an instance; two senders that disagree would otherwise have its study read again without end
_ASKED_SECONDS = 1.0  # for which a count of the queue is used again


class Store:
    """Stores instances on disk and in the index. It may be used from any number of threads.

    It accepts no instance while fewer than ``keep_free`` bytes are free, since the index and the results need space
    too. While ``max_waiting`` studies wait to be read, it accepts no instance of a new study. It still accepts
    instances of studies that it has begun to receive: otherwise half a study would be read as if it were complete.
    """

    def __init__(
        self,
        index: Index,
        spool: Spool,
        clock: Callable[[], float] = time.time,
        *,
        keep_free: Callable[[], int] = lambda: 0,
        max_waiting: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._keep_free = keep_free
        self._max_waiting = max_waiting
        self._waiting = (0, float("-inf"))
        self._index = index
        self._node = index.node_id()
        self._spool = spool
        self.clock = clock
        self._commits = _Commits(index)
        # The same instance may arrive on two associations at once: one thread stores it, the other finds it stored.
        self._released = threading.Condition()
        self._locked: set[str] = set()  # SOP Instance UIDs

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str) -> Incoming:
        """Begin to receive an instance. The caller has checked that the UIDs are valid UIDs.

        Raises:
            Refused: A700, too little disk space is free.
            OSError: the partial file cannot be created.
        """
        if (reason := self.no_room()) is not None:
            raise Refused(0xA700, reason)
        return Incoming(self._spool, sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae)

    def no_room(self) -> str | None:
        """The reason if too little disk space is free to accept an instance. None if there is enough.

        Raises:
            OSError: the file system cannot be asked.
        """
        free = self._spool.free()
        keep_free = self._keep_free()
        if free >= keep_free:
            return None
        return f"{free / 1e9:.2f} GB are free where data_dir lies, and node.keep_free_gb keeps {keep_free / 1e9:g}"

    def backlog(self) -> str | None:
        """The reason if too many studies wait to be read to accept a new one. None if there are few enough.

        Results that wait to be delivered do not count. They only use disk space, which has its own limit (`no_room`),
        and a modality must not fail because a PACS is down.

        Raises:
            sqlite3.Error: the index cannot be read.
        """
        max_waiting = self._max_waiting()
        if max_waiting is None:
            return None
        waiting, asked = self._waiting
        if (now := time.monotonic()) - asked > _ASKED_SECONDS:
            waiting = self._index.studies_waiting(max_waiting)
            self._waiting = (waiting, now)
        if not waiting:
            return None
        return f"{waiting} studies wait to be read, and node.max_waiting_studies is {max_waiting}"

    def put(self, incoming: Incoming, header: Header) -> bool:
        """Store an instance durably and record it. In every case the caller discards ``incoming`` afterwards.

        Returns:
            False if the instance was stored already; nothing has changed then.

        Raises:
            Refused: C001, the instance is stored as part of another study; A700, no new study is accepted now.
            OSError, sqlite3.Error: the instance is not stored.
        """
        uid = header.sop_instance_uid
        if (reason := self.backlog()) is not None and not self._index.knows(header.study):
            raise Refused(0xA700, reason)
        with self._alone(uid):
            if self._added(incoming, header):
                return True
            stored = self._index.received(uid)
            if stored is None:
                raise RuntimeError("the index refused an instance as a duplicate, and has no record of it")
            if stored.study != header.study:
                raise Refused(0xC001, f"this SOP Instance UID is already stored as an instance of study {stored.study}")
            whole = stored.removed is None and self._spool.is_whole(stored.file, stored.bytes)
            if whole:
                corrected = self._correction(stored, header, incoming)
                if corrected is not None:
                    self._correct(stored, incoming, header, corrected)
                return corrected is not None
            file = self._place(incoming, edition=stored.edition, replace=True)
            self._index.replace_file(uid, file, incoming.part.size, incoming.transfer_syntax_uid, self.clock())
            log = logger().bind(study=header.study, instance=uid)
            if stored.removed is None:
                reason = "the stored file was missing or damaged; the instance came again and replaced it"
                log.warning("instance.restored", reason=reason)
            else:
                log.info(
                    "instance.restored",
                    reason="retention had removed the file; the instance came again and is stored again",
                )
        return True

    def remove(self, sop_instance_uid: str) -> int:
        """Delete the file of an instance that is recorded as removed, unless it came again. For one thread only.

        Returns:
            the file's size in bytes; 0 if nothing was deleted.

        Raises:
            OSError: the file cannot be deleted.
        """
        with self._alone(sop_instance_uid):
            stored = self._index.received(sop_instance_uid)
            if stored is None or stored.removed is None:
                return 0
            return self._spool.delete(stored.file)

    def _added(self, incoming: Incoming, header: Header) -> bool:
        """Place and record a new instance. False if the index has it already; nothing has changed then."""
        try:
            file = self._place(incoming)
        except FileExistsError:
            if self._index.received(header.sop_instance_uid) is not None:
                return False
            # An earlier run left the file and never acknowledged it.
            file = self._place(incoming, replace=True)
        try:
            self._commits.add(_new(incoming, header, file), self.clock())
        except BaseException as error:
            self._spool.remove_placed(incoming.part, file)
            if isinstance(error, sqlite3.IntegrityError):
                return False
            raise
        return True

    def _place(self, incoming: Incoming, *, edition: int = 1, replace: bool = False) -> str:
        """Put a received instance into place with its record, durably; its file name, as `Spool.place` raises."""

        def record(edition: int) -> bytes:
            return incoming.record(self._node, self.clock(), edition)

        uid = incoming.sop_instance_uid
        return self._spool.place(incoming.part, uid, edition=edition, replace=replace, record=record)

    @contextmanager
    def _alone(self, sop_instance_uid: str) -> Iterator[None]:
        """Hold the lock of one instance, so that two threads do not store or remove it at the same time."""
        with self._released:
            while sop_instance_uid in self._locked:
                self._released.wait()
            self._locked.add(sop_instance_uid)
        try:
            yield
        finally:
            with self._released:
                self._locked.discard(sop_instance_uid)
                self._released.notify_all()

    def _correction(self, stored: Received, header: Header, incoming: Incoming) -> Correction | None:
        """What a repeated instance corrects (`correction`), so that it must replace the stored one; None if nothing."""
        log = logger().bind(study=header.study, instance=header.sop_instance_uid)
        kept, came = self._spool.path(stored.file), Path(incoming.part.path)
        if _end_alike(kept, came, incoming.data_set_bytes):
            log.debug("instance.repeated")
            return None
        if stored.own or stored.transfer_syntax_uid != incoming.transfer_syntax_uid:
            log.debug(
                "instance.repeated",
                reason="results of this node and other transfer syntaxes are not compared; the stored one is kept",
            )
            return None
        if stored.edition >= _MOST_EDITIONS:
            log.warning(
                "instance.repeated",
                reason=f"{_MOST_EDITIONS} versions of the instance came; the last is kept: do two senders disagree?",
            )
            return None
        try:
            lengths = (stored.bytes - _head_bytes(kept), incoming.data_set_bytes)
            corrected = correction(kept, came, lengths, incoming.transfer_syntax_uid)
        except (ValueError, struct.error) as error:
            log.warning(
                "instance.repeated",
                reason="the instance came again and cannot be compared; the stored one is kept",
                error=where(error),
            )
            return None
        if corrected is None:
            log.info(
                "instance.repeated",
                reason="the instance came again and differs only in attributes that no reading uses; it is not stored",
            )
        return corrected

    def _correct(self, stored: Received, incoming: Incoming, header: Header, corrected: Correction) -> None:
        """Replace a stored instance with its correction. The index opens the study again, so that it is read again."""
        edition = stored.edition + 1
        file = self._place(incoming, edition=edition, replace=True)
        try:
            safety = corrected is Correction.SAFETY
            self._index.correct_instance(_new(incoming, header, file), edition, self.clock(), safety=safety)
        except BaseException:
            self._spool.remove_placed(incoming.part, file)
            raise
        self._spool.remove_placed(incoming.part, stored.file)
        reason = "the instance came again with another patient, geometry or pixels; it replaces the first one"
        logger().warning("instance.corrected", study=header.study, instance=header.sop_instance_uid, reason=reason)


def _new(incoming: Incoming, header: Header, file: str) -> NewInstance:
    return NewInstance(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=incoming.transfer_syntax_uid,
        study=header.study,
        series=header.series,
        modality=header.modality,
        body_part=header.body_part,
        study_description=header.study_description,
        series_description=header.series_description,
        calling_ae=incoming.calling_ae,
        file=file,
        bytes=incoming.part.size,
    )


class _Commits:
    """Group commit: instances that several threads record at the same time share one transaction, and so one fsync.

    A thread that finds no commit in progress commits at once, with everything that waits by then. It does not wait for
    further instances.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._turn = threading.Lock()
        self._listing = threading.Lock()
        self._waiting: list[_Commit] = []

    def add(self, new: NewInstance, now: float) -> None:
        """Record an instance durably.

        Raises:
            sqlite3.Error: it is not recorded.
        """
        mine = _Commit(new, now)
        with self._listing:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._listing:
                    waiting, self._waiting = self._waiting, []
                self._commit(waiting)
        if mine.error is not None:
            raise mine.error

    def _commit(self, waiting: list[_Commit]) -> None:
        try:
            with self._index.transaction():
                for one in waiting:
                    self._index.add_instance(one.new, one.now)
        except Exception as error:
            if len(waiting) == 1:
                waiting[0].error = error
            else:  # one instance may be the cause: record each alone, so that the others are kept
                for one in waiting:
                    self._commit([one])
        for one in waiting:
            one.done = True


class _Commit:
    """An instance that waits to be recorded, and whether that went well."""

    __slots__ = ("done", "error", "new", "now")

    def __init__(self, new: NewInstance, now: float) -> None:
        self.new = new
        self.now = now
        self.done = False
        self.error: Exception | None = None


def _end_alike(first: Path, second: Path, count: int) -> bool:
    """Whether two files end with the same ``count`` bytes, and the first is long enough for a file head before them."""
    with first.open("rb") as one, second.open("rb") as other:
        start = os.fstat(one.fileno()).st_size - count
        if start < 132:
            return False
        one.seek(start)
        other.seek(-count, os.SEEK_END)
        while piece := one.read(_COMPARED_AT_ONCE):
            if other.read(len(piece)) != piece:
                return False
    return True


def _head_bytes(path: Path) -> int:
    """The length of preamble, prefix and file meta information in a file that we wrote (PS3.10 7.1)."""
    with path.open("rb") as file:
        file.seek(140)  # behind the prefix, and the tag, VR and length of the group's length
        return 144 + int.from_bytes(file.read(4), "little")
