"""Stores received instances (C-STORE, PS3.4 annex B): writes the data set, fsyncs it, records it in the index.

Every image comes in here. The module knows nothing of associations, so another protocol can deliver images as well.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.dicom.header import Header
from dicom_node.errors import Refused
from dicom_node.index.index import Index
from dicom_node.index.rows import Change, NewInstance, Received
from dicom_node.log import logger
from dicom_node.storage.commits import Commits
from dicom_node.storage.corrections import correction, end_alike
from dicom_node.storage.incoming import Incoming
from dicom_node.storage.quarantine import Quarantine
from dicom_node.storage.sender import UNKNOWN, Submitter
from dicom_node.storage.spool import Spool

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
        self._commits = Commits(index)
        self._quarantine = Quarantine(index, spool)
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

    def put(self, incoming: Incoming, header: Header, sender: Submitter = UNKNOWN) -> bool:
        """Store an instance durably and record it. In every case the caller discards ``incoming`` afterwards.

        An instance that comes again with another content is a further edition: the earlier ones stay. One that comes
        under another study is stored for both.

        Returns:
            False if the instance was stored already; nothing has changed then.

        Raises:
            Refused: 0124, another sender's image came changed and is in quarantine now; C001, the same or an image of
                two studies, while the quarantine is full; A700, no new study is accepted now.
            OSError, sqlite3.Error: the instance is not stored.
        """
        uid = header.sop_instance_uid
        if (reason := self.backlog()) is not None and not self._index.knows(header.study):
            raise Refused(0xA700, reason)
        with self._alone(uid):
            if self._added(incoming, header, sender):
                return True
            stored = self._index.received(uid, header.study)
            if stored is None:
                self._add_to_another_study(incoming, header, sender)
                return True
            if stored.removed is None and self._spool.is_whole(stored.file, stored.bytes):
                return self._put_again(stored, incoming, header, sender)
            self._restore(stored, incoming, header, sender)
        return True

    def remove(self, study: str, sop_instance_uid: str) -> int:
        """Delete the editions of an instance that are recorded as removed, unless it came again. For one thread only.

        Returns:
            the size of the deleted files in bytes; 0 if nothing was deleted.

        Raises:
            OSError: a file cannot be deleted.
        """
        with self._alone(sop_instance_uid):
            return sum(map(self._spool.delete, self._index.removed_editions(study, sop_instance_uid)))

    def _added(self, incoming: Incoming, header: Header, sender: Submitter) -> bool:
        """Place and record a new instance. False if the index has its UID already; nothing has changed then."""
        uid = header.sop_instance_uid
        try:
            file = self._place(incoming, sender.peer)
        except FileExistsError:
            if self._index.received(uid) is not None:
                return False
            # An earlier run left the file and never acknowledged it.
            file = self._place(incoming, sender.peer, replace=True)
        try:
            self._commits.add(_new(incoming, header, file, sender), self.clock())
        except BaseException as error:
            self._spool.remove_placed(incoming.part, file)
            if isinstance(error, sqlite3.IntegrityError):
                return False
            raise
        return True

    def _add_to_another_study(self, incoming: Incoming, header: Header, sender: Submitter) -> None:
        """Store an instance whose UID came before under another study. Both are read, and shown as contradicted."""
        uid = header.sop_instance_uid
        studies = self._index.studies_of(uid)
        if not studies:
            raise RuntimeError("the index refused an instance as a duplicate, and has no record of it")
        self._quarantine.refuse_if_full(header.study, studies[0])
        file = self._place(incoming, sender.peer, study=header.study, replace=True)
        try:
            new = _new(incoming, header, file, sender)
            self._index.add_to_another_study(new, studies, self.clock())
        except BaseException:
            self._spool.remove_placed(incoming.part, file)
            raise
        reason = f"its UID is that of an instance of study {studies[0]}: both are kept and read"
        logger().warning("instance.contradicted", study=header.study, instance=uid, reason=reason)

    def _put_again(self, stored: Received, incoming: Incoming, header: Header, sender: Submitter) -> bool:
        """An instance that is stored came again: keep what is changed. False if nothing is."""
        uid = header.sop_instance_uid
        log = logger().bind(study=header.study, instance=uid)
        kept, came = self._spool.path(stored.file), Path(incoming.part.path)
        syntaxes = (stored.transfer_syntax_uid, incoming.transfer_syntax_uid)
        if syntaxes[0] == syntaxes[1] and end_alike(kept, came, incoming.data_set_bytes):
            log.debug("instance.repeated")
            return False
        change = correction(kept, came, syntaxes)
        authorized = sender.may_replace(self._index.first_sender(header.study, uid))
        if change is None or (change == "none" and not authorized):
            log.info(
                "instance.repeated",
                reason="the instance came again and differs only in attributes that no reading uses; it is not stored",
            )
            return False
        if not (authorized or stored.own):
            new = _new(incoming, header, "", sender)
            record = incoming.record(self._node, self.clock(), stored.edition + 1, sender.peer)
            self._quarantine.hold(incoming, new, record, stored.edition, change, now=self.clock())
        self._add_edition(stored, incoming, header, sender, change)
        if stored.own:
            log.debug("instance.repeated", reason="a result of this node came back changed; it is kept and not read")
        else:
            log.warning("instance.corrected", edition=stored.edition + 1, reason=_CHANGED[change])
        return True

    def _add_edition(
        self, stored: Received, incoming: Incoming, header: Header, sender: Submitter, change: Change
    ) -> None:
        """Store a further edition. The index opens the study again, so that it is read again."""
        edition = stored.edition + 1
        another = header.study if stored.studies_before else ""
        file = self._place(incoming, sender.peer, edition=edition, study=another, replace=True)
        try:
            new = _new(incoming, header, file, sender)
            self._index.correct_instance(new, edition, self.clock(), change=change, own=bool(stored.own))
        except BaseException:
            self._spool.remove_placed(incoming.part, file)
            raise

    def _restore(self, stored: Received, incoming: Incoming, header: Header, sender: Submitter) -> None:
        """Store the newest edition of an instance again, whose file is missing, damaged or removed by retention."""
        uid = header.sop_instance_uid
        another = header.study if stored.studies_before else ""
        file = self._place(incoming, sender.peer, edition=stored.edition, study=another, replace=True)
        size, syntax = incoming.part.size, incoming.transfer_syntax_uid
        self._index.replace_file(header.study, uid, file, size, syntax, now=self.clock())
        log = logger().bind(study=header.study, instance=uid)
        if stored.removed is None:
            reason = "the stored file was missing or damaged; the instance came again and replaced it"
            log.warning("instance.restored", reason=reason)
        else:
            log.info(
                "instance.restored",
                reason="retention had removed the file; the instance came again and is stored again",
            )

    def _place(self, incoming: Incoming, peer: str, *, edition: int = 1, study: str = "", replace: bool = False) -> str:
        """Put a received instance into place with its record, durably; its file name, as `Spool.place` raises."""

        def record(edition: int) -> bytes:
            return incoming.record(self._node, self.clock(), edition, peer)

        uid = incoming.sop_instance_uid
        return self._spool.place(
            incoming.part, uid, edition=edition, another_study=study, replace=replace, record=record
        )

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


_CHANGED: dict[Change, str] = {
    "safety": "the instance came again with another patient, side or pixels; it is read from now on",
    "quality": "the instance came again changed in what a reading or its results use; it is read from now on",
    "unknown": "the instance came again and cannot be compared here; it is read from now on",
    "none": "the instance came again in another transfer syntax; it is read from now on",
}


def _new(incoming: Incoming, header: Header, file: str, sender: Submitter) -> NewInstance:
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
        peer=sender.peer,
    )
