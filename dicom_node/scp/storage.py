"""The Storage SCP (PS3.4 annex B): C-STORE to disk and index, and the status that each one gets."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dicom_node.dicom.attributes import is_uid
from dicom_node.errors import Refused
from dicom_node.log import logger, where
from dicom_node.network import dimse
from dicom_node.scp.access import PeerIdentity
from dicom_node.scp.service import AcceptedContext, OpenAssociation, StreamingService
from dicom_node.storage.incoming import Incoming
from dicom_node.storage.ingest import Store
from dicom_node.storage.sender import Submitter

_SUCCESS = dimse.Answer(0x0000)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEMBERED_SECONDS = 600.0  # how long the release of an association is evidence; studies are complete long before


class StorageSCP(StreamingService):
    """Serves C-STORE of every storage SOP class, private ones included, and knows which associations bring which study.

    pynetdicom negotiates the SOP classes (`network.pynetdicom_setup`), so that ``supported`` names none.
    ``on_release`` is called when an association has brought instances and was released.

    Success means that the bytes of the data set are in a file, fsynced, and that the index knows it, committed. Every
    failure gets the status that the sender can act on (PS3.4 B.2.3, PS3.7 annex C):

    ======  ==========================================================================================
    status  when
    ======  ==========================================================================================
    0000    stored and recorded; also if we had the instance already
    0110    an unexpected error of ours
    0117    the SOP Instance UID breaks the rules for UIDs
    0122    the SOP Class UID breaks the rules for UIDs
    0124    the caller may not store (``may_store = false``); or its image differs from the stored one, which another
            peer sent, and it may not correct it (``may_correct``): then the image is kept in quarantine
    A700    no room on the disk, or less than ``keep_free_gb``; or the instance is of a study that the node has
            nothing of, while ``max_waiting_studies`` wait to be read; the sender tries again
    A900    the data set's SOP Class or Instance UID is not the command's
    C000    the data set is missing, cannot be parsed, or names no study and series
    C001    it contradicts a stored image as in 0124, or has the SOP Instance UID of an instance of another study,
            while the quarantine is full
    ======  ==========================================================================================
    """

    commands = frozenset({dimse.C_STORE_RQ})
    on_any_context = True

    def __init__(
        self,
        store: Store,
        *,
        on_release: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is the server's, which no step of the machine's clock moves (s)."""
        self._store = store
        self._on_release = on_release
        self._clock = clock
        self._noting = threading.Lock()
        self._bringing: dict[OpenAssociation, _Bringing] = {}  # those that have brought, or tried to
        self._released: dict[str, float] = {}  # study to when an association that brings whole studies was released

    def begin(self, command: dimse.Command, context: AcceptedContext, association: OpenAssociation) -> _Receipt:
        """Open the file that the data set is to go to."""
        bringing = self._bringing.get(association)
        if bringing is None:
            with self._noting:
                bringing = self._bringing[association] = _Bringing()
        receipt = _Receipt(self._store, command, bringing, _submitter(association.peer))
        try:
            receipt.incoming = self._incoming(command, context, association)
        except Exception as error:  # it is answered when the data set is through
            receipt.failure = error
        return receipt

    def ended(self, association: OpenAssociation) -> None:
        """Note that an association has ended, and whether that says that its studies are complete."""
        with self._noting:
            bringing = self._bringing.pop(association, None)
            if bringing is None or not bringing.studies:
                return
            for study in bringing.studies:
                self._released.pop(study, None)
            whole = association.released and not bringing.refused
            if whole and any(peer.sends_whole_studies for peer in association.peer.peers):
                now = self._clock()
                for study in [each for each, when in self._released.items() if when < now - _REMEMBERED_SECONDS]:
                    del self._released[study]
                self._released.update(dict.fromkeys(bringing.studies, now))
        if association.released:
            self._on_release()

    def last_byte(self, study: str) -> float:
        """When a byte last came on an open association that brought instances of ``study`` (s of the clock; 0: no)."""
        with self._noting:
            open_ = [each for each, bringing in self._bringing.items() if study in bringing.studies]
        return max((each.last_byte for each in open_), default=0.0)

    def released(self, study: str) -> float:
        """When the last association that brought instances of ``study`` was released (s of the clock; 0: never).

        Only if the caller brings whole studies (``sends_whole_studies``), and no open association has brought of it.
        """
        with self._noting:
            when = self._released.get(study, 0.0)
            return 0.0 if when and any(study in each.studies for each in self._bringing.values()) else when

    def _incoming(self, command: dimse.Command, context: AcceptedContext, association: OpenAssociation) -> Incoming:
        if not command.has_data_set:
            raise Refused(0xC000, "the request has no data set")
        peer = association.peer
        if not peer.may_store:
            raise Refused(0x0124, f"peer {peer.peers[0].name} may not store: set may_store = true to let it")
        if not is_uid(command.sop_instance_uid):
            raise Refused(0x0117, "the command's Affected SOP Instance UID breaks the rules for UIDs")
        if not is_uid(command.sop_class_uid):
            raise Refused(0x0122, "the command's Affected SOP Class UID breaks the rules for UIDs")
        return self._store.begin(
            command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax, peer.ae_title
        )


class _Bringing:
    """What one association has brought."""

    __slots__ = ("log", "refused", "studies")

    def __init__(self) -> None:
        self.studies: set[str] = set()
        self.refused = False  # whether an image was not stored, which the caller will send again
        self.log: Any = logger().bind()  # made once an association, not for each image


class _Receipt:
    """A C-STORE request whose data set is coming: ``incoming`` takes it, unless ``failure`` says why not."""

    __slots__ = ("_began", "_bringing", "_command", "_sender", "_store", "failure", "incoming")

    def __init__(self, store: Store, command: dimse.Command, bringing: _Bringing, sender: Submitter) -> None:
        self._began = time.perf_counter()
        self._store = store
        self._command = command
        self._bringing = bringing
        self._sender = sender
        self.incoming: Incoming | None = None
        self.failure: Exception | None = None

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Write bytes to the file; the rest of an image that cannot be written is read and dropped."""
        if self.incoming is None:
            return
        try:
            self.incoming.write(pieces)
        except Exception as error:
            self.failure = error
            self.incoming.discard()  # releases its room on the disk now
            self.incoming = None

    def end(self) -> dimse.Answer:
        """Make the instance durable and known; returns what is answered."""
        incoming, study = self.incoming, None
        try:
            if self.failure is not None:
                raise self.failure  # noqa: TRY301 - answered like what goes wrong here
            if incoming is None:
                raise RuntimeError("nothing took the data set")  # noqa: TRY301
            header = incoming.header()
            study = header.study
            # Before the index knows it: the quiet time of the study must not begin without this association.
            self._bringing.studies.add(study)
            new = self._store.put(incoming, header, self._sender)
        except Exception as error:
            self._bringing.refused = True
            return _answer(error, self._command, study)
        if new:
            self._bringing.log.debug(
                "instance.stored",
                study=study,
                instance=header.sop_instance_uid,
                bytes=incoming.data_set_bytes,
                seconds=round(time.perf_counter() - self._began, 4),
            )
        return _SUCCESS

    def discard(self) -> None:
        """Close and delete the partial file; what was stored from it stays."""
        if self.incoming is not None:
            self.incoming.discard()


def _submitter(peer: PeerIdentity) -> Submitter:
    """A caller as the store knows it."""
    names = tuple(each.name for each in peer.peers)
    return Submitter(peer.ae_title, names, may_correct=any(each.may_correct for each in peer.peers))


def _answer(error: Exception, command: dimse.Command, study: str | None) -> dimse.Answer:
    """What is answered to a C-STORE that failed; the log gets the reason."""
    log = logger().bind(instance=command.sop_instance_uid, sop_class=command.sop_class_uid)
    if study is not None:
        log = log.bind(study=study)
    if isinstance(error, Refused):
        log.warning("instance.refused", status=f"{error.status:04X}", reason=error.reason)
        return dimse.Answer(error.status, error.comment)
    full = False
    if isinstance(error, OSError):
        full = error.errno in _FULL
        reason = "no room left on the disk" if full else f"the disk gave an error: {error.strerror}"
    elif isinstance(error, sqlite3.Error):
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        reason = "no room left on the disk for the index" if full else "the index gave an error"
    else:  # the sender gets a status, not a broken association; the log says where
        reason = "an unexpected error"
    status = 0xA700 if full else 0x0110
    log.error("instance.refused", status=f"{status:04X}", reason=reason, error=where(error))
    return dimse.Answer(status)
