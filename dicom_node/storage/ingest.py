"""One received data set on its way to disk and index: written as it comes, fsynced, recorded.

The one way in for every image. It knows nothing of associations, so another way of receiving can feed it.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dicom_node.dicom.file_meta import file_head
from dicom_node.dicom.header import HEAD_BYTES, Header, glance, scan
from dicom_node.errors import Refused
from dicom_node.index.index import Index
from dicom_node.index.rows import NewInstance, Received
from dicom_node.log import logger, where
from dicom_node.storage.corrections import is_corrected
from dicom_node.storage.spool import Spool

_COMPARED_AT_ONCE = 1024 * 1024
_MOST_EDITIONS = 10  # of an instance: two senders that disagree must not have its study read for ever
_ASKED_SECONDS = 1.0  # how long an answer about the queue holds


class Incoming:
    """A data set that is being received: its bytes go to a partial file as they come, their beginning is kept.

    What it was announced as (the command's UIDs, which are checked to be UIDs) stands in the file's meta information.
    """

    def __init__(
        self, spool: Spool, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str
    ) -> None:
        """Begin the file.

        Raises:
            OSError: it cannot be written.
        """
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae = calling_ae
        self._head = bytearray()
        self._header: Header | None = None
        self._meta = file_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae)
        self._unwritten = [memoryview(self._meta)]  # it goes with the first bytes of the data set
        self.part = spool.part_for(sop_instance_uid)

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Append bytes of the data set.

        Raises:
            OSError: as the file system gave it (ENOSPC: the disk is full).
        """
        if len(self._head) < HEAD_BYTES:
            for piece in pieces:
                self._head += piece[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:  # now, while the rest is on its way
                self._header = glance(self._head, self.transfer_syntax_uid)
        if self._unwritten:
            pieces = [*self._unwritten, *pieces]
            self._unwritten.clear()
        self.part.write(pieces)

    @property
    def data_set_bytes(self) -> int:
        """How many bytes of the data set have come by now."""
        return self.part.size - len(self._meta)

    def header(self) -> Header:
        """Read the header of the whole data set, and hold it against what was announced.

        Raises:
            Refused: C000, it cannot be parsed; A900, its UIDs are others than the command's.
            OSError: the file cannot be read.
        """
        header = self._header
        if header is None and len(self._head) < HEAD_BYTES:  # otherwise it was looked at on the way
            header = glance(self._head, self.transfer_syntax_uid)
        if header is None:
            with Path(self.part.path).open("rb") as file:
                file.seek(len(self._meta))
                header = scan(file, self.transfer_syntax_uid)
        for name, ours, theirs in (
            ("Class", header.sop_class_uid, self.sop_class_uid),
            ("Instance", header.sop_instance_uid, self.sop_instance_uid),
        ):
            if ours != theirs:
                raise Refused(0xA900, f"the data set's SOP {name} UID {ours} is not the command's")
        return header

    def discard(self) -> None:
        """Close and delete the partial file; what was stored from it stays."""
        self.part.discard()


class Store:
    """Takes data sets, from any number of threads, to disk and index.

    It takes none while less than ``keep_free`` bytes are free: the results of what is stored, and the index, need room.
    While ``max_waiting`` studies wait to be read it takes no other one, but the rest of those that it has a part of: it
    would read half a study as if it were all of it.
    """

    def __init__(
        self,
        index: Index,
        spool: Spool,
        clock: Callable[[], float] = time.time,
        *,
        keep_free: int = 0,
        max_waiting: int | None = None,
    ) -> None:
        self._keep_free = keep_free
        self._max_waiting = max_waiting
        self._waiting = (0, float("-inf"))
        self._index = index
        self._spool = spool
        self.clock = clock
        self._commits = _Commits(index)
        # The same instance may arrive on two associations at once: one of the two stores it, the other finds it stored.
        self._free = threading.Condition()
        self._taken: set[str] = set()

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae: str) -> Incoming:
        """Begin to receive an instance; the UIDs are checked to be UIDs.

        Raises:
            Refused: A700, too little room is left.
            OSError: its file cannot be written.
        """
        if (reason := self.no_room()) is not None:
            raise Refused(0xA700, reason)
        return Incoming(self._spool, sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae)

    def no_room(self) -> str | None:
        """Why nothing is taken now; None where there is room.

        Raises:
            OSError: the file system does not say.
        """
        free = self._spool.free()
        if free >= self._keep_free:
            return None
        return (
            f"{free / 1e9:.2f} GB are free where data_dir lies, and node.keep_free_gb keeps {self._keep_free / 1e9:g}"
        )

    def backlog(self) -> str | None:
        """Why no other study is taken now; None while few enough wait to be read.

        What waits to be delivered does not count: it harms nothing but the disk, which has a mark of its own, and no
        modality is to fail because a PACS is down.

        Raises:
            sqlite3.Error: the index does not say.
        """
        if self._max_waiting is None:
            return None
        waiting, asked = self._waiting
        if (now := time.monotonic()) - asked > _ASKED_SECONDS:
            waiting = self._index.studies_waiting(self._max_waiting)
            self._waiting = (waiting, now)
        if not waiting:
            return None
        return f"{waiting} studies wait to be read, and node.max_waiting_studies is {self._max_waiting}"

    def put(self, incoming: Incoming, header: Header) -> bool:
        """Make an instance durable and known; the caller discards ``incoming`` afterwards, whatever comes of it.

        Returns:
            False where we had it already; nothing is changed then.

        Raises:
            Refused: C001, it is stored as an instance of another study; A700, no other study is taken now.
            OSError, sqlite3.Error: nothing of it is kept.
        """
        uid = header.sop_instance_uid
        if (reason := self.backlog()) is not None and not self._index.knows(header.study):
            raise Refused(0xA700, reason)
        with self._alone(uid):
            if self._added(incoming, header):
                return True
            known = self._index.received(uid)
            if known is None:
                raise RuntimeError("the index refuses an instance that it does not know")
            if known.study != header.study:
                raise Refused(0xC001, f"this SOP Instance UID is stored already, as an instance of study {known.study}")
            whole = known.removed is None and self._spool.is_whole(known.file, known.bytes)
            if whole and not self._is_corrected(known, header, incoming):
                return False
            if whole:
                self._correct(known, incoming, header)
                return True
            file = self._spool.place(incoming.part, uid, edition=known.edition, replace=True)
            self._index.replace_file(uid, file, incoming.part.size, incoming.transfer_syntax_uid, self.clock())
            log = logger().bind(study=header.study, instance=uid)
            if known.removed is None:
                reason = "its file was gone or damaged; the one that came again took its place"
                log.warning("instance.restored", reason=reason)
            else:
                log.info("instance.restored", reason="retention had removed its file; it came again, and is kept again")
        return True

    def remove(self, sop_instance_uid: str) -> int:
        """Delete the file of an instance that is recorded as removed, and has not come again since; for one thread.

        Returns:
            how many bytes it had; 0 where there was nothing to delete.

        Raises:
            OSError: it cannot be deleted.
        """
        with self._alone(sop_instance_uid):
            known = self._index.received(sop_instance_uid)
            if known is None or known.removed is None:
                return 0
            return self._spool.delete(known.file)

    def _added(self, incoming: Incoming, header: Header) -> bool:
        """Place and record an instance; False where the index knows it already, and nothing is changed."""
        try:
            file = self._spool.place(incoming.part, header.sop_instance_uid)
        except FileExistsError:
            if self._index.received(header.sop_instance_uid) is not None:
                return False
            file = self._spool.place(incoming.part, header.sop_instance_uid, replace=True)  # nobody was told of it
        try:
            self._commits.add(_new(incoming, header, file), self.clock())
        except BaseException as error:
            self._spool.take_back(incoming.part, file)
            if isinstance(error, sqlite3.IntegrityError):
                return False
            raise
        return True

    @contextmanager
    def _alone(self, sop_instance_uid: str) -> Iterator[None]:
        with self._free:
            while sop_instance_uid in self._taken:
                self._free.wait()
            self._taken.add(sop_instance_uid)
        try:
            yield
        finally:
            with self._free:
                self._taken.discard(sop_instance_uid)
                self._free.notify_all()

    def _is_corrected(self, known: Received, header: Header, incoming: Incoming) -> bool:
        """Whether an instance that is stored came again with another meaning, which is to take its place."""
        log = logger().bind(study=header.study, instance=header.sop_instance_uid)
        kept, came = self._spool.path(known.file), Path(incoming.part.path)
        if _end_alike(kept, came, incoming.data_set_bytes):
            log.debug("instance.repeated")
            return False
        if known.own or known.transfer_syntax_uid != incoming.transfer_syntax_uid:
            log.debug("instance.repeated", reason="it came again, as somebody else wrote it; the first one is kept")
            return False
        if known.edition >= _MOST_EDITIONS:
            log.warning(
                "instance.repeated", reason=f"it was corrected {_MOST_EDITIONS} times: do two senders disagree?"
            )
            return False
        try:
            lengths = (known.bytes - _head_bytes(kept), incoming.data_set_bytes)
            corrected = is_corrected(kept, came, lengths, incoming.transfer_syntax_uid)
        except (ValueError, struct.error) as error:
            log.warning("instance.repeated", reason="it came again and cannot be compared", error=where(error))
            return False
        if not corrected:
            log.info("instance.repeated", reason="it came again with other content, of no meaning; the first is kept")
        return corrected

    def _correct(self, known: Received, incoming: Incoming, header: Header) -> None:
        """Have a corrected instance take the place of the one that is stored; its study is to be read again."""
        edition = known.edition + 1
        file = self._spool.place(incoming.part, header.sop_instance_uid, edition=edition, replace=True)
        try:
            self._index.correct_instance(_new(incoming, header, file), edition, self.clock())
        except BaseException:
            self._spool.take_back(incoming.part, file)
            raise
        self._spool.take_back(incoming.part, known.file)
        reason = "it came again with another patient, geometry or pixels; it takes the place of the first one"
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
    """Group commit: what several threads record at the same time is one transaction, and one fsync.

    Whoever comes first commits for all who wait by then; nobody waits for company.
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
            else:  # it may be the fault of one, and is not to be everybody's
                for one in waiting:
                    self._commit([one])
        for one in waiting:
            one.done = True


class _Commit:
    """An instance that waits to be recorded."""

    __slots__ = ("done", "error", "new", "now")

    def __init__(self, new: NewInstance, now: float) -> None:
        self.new = new
        self.now = now
        self.done = False
        self.error: Exception | None = None


def _end_alike(first: Path, second: Path, count: int) -> bool:
    """Whether the last ``count`` bytes of two files are the same, and the first has no more than a head before them."""
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
    """How long the preamble and file meta information are that we wrote before a data set."""
    with path.open("rb") as file:
        file.seek(140)  # behind the prefix, and the tag, VR and length of the group's length
        return 144 + int.from_bytes(file.read(4), "little")
