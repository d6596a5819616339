"""The Storage SCP: who may associate, C-ECHO, and C-STORE to disk and index before the answer.

What a success (0000) promises: the data set's bytes are in a file, fsynced, and the index knows it, committed. What
goes wrong gets the status that the sender can act on (PS3.4 B.2.3, PS3.7 C):

======  ==========================================================================================
status  when
======  ==========================================================================================
0000    stored and recorded; also when we had the instance already
0110    an unexpected error of ours
0117    the SOP Instance UID breaks the rules for UIDs
0122    the SOP Class UID breaks the rules for UIDs
0124    the caller may not store (``may_store = false``)
A700    no room on the disk; the sender tries again
A900    the data set's SOP Class or Instance UID is not the command's
C000    the data set cannot be parsed, or names no study and series
C001    its SOP Instance UID is stored already, of another study
======  ==========================================================================================
"""

from __future__ import annotations

import errno
import io
import itertools
import socket
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from dicom_node.config import Peer, Settings
from dicom_node.errors import ConfigError
from dicom_node.log import logger, printable, silence_libraries, where
from dicom_node.net import SILENT_SECONDS, application_entity, bounded
from dicom_node.store import Header, Refused, Store, is_uid, scan

_MAX_ASSOCIATIONS = 100
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# PS3.8 9.3.4: rejected permanently by the service user; 3 = calling, 7 = called AE title not recognised.
_REJECT_CALLING = (0x01, 0x01, 0x03)
_REJECT_CALLED = (0x01, 0x01, 0x07)


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who opened an association; without peers it is an unknown one, and unknown ones are let in."""

    ae_title: str
    peers: tuple[Peer, ...]


@dataclass(slots=True)
class _Open:
    """An open association: when its last byte came (epoch seconds), and which studies it brought instances of."""

    last_byte: float
    studies: set[str] = field(default_factory=set)


class Receiver:
    """Listens as an AE; associations are pynetdicom's, what happens to a data set is ours."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._numbers = itertools.count(1)
        self._open: dict[Any, _Open] = {}  # by association; entries are added and taken out as one step each
        self._ae: AE | None = None
        self._server: Any = None

    @property
    def port(self) -> int:
        """The TCP port in use: the configured one, or the one that the system chose for port 0."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Bind and listen.

        Raises:
            ConfigError: the address or port cannot be used.
        """
        silence_libraries()
        node = self._settings.node
        ae = application_entity(node.ae_title)
        ae.maximum_pdu_size = 128 * 1024
        ae.maximum_associations = _MAX_ASSOCIATIONS
        ae.acse_timeout = 10
        ae.network_timeout = SILENT_SECONDS
        ae.add_supported_context(Verification)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, bounded),
            (evt.EVT_DATA_RECV, self._on_bytes),
            (evt.EVT_CONN_CLOSE, self._on_closed),
            (evt.EVT_REJECTED, self._on_limit),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, _on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_ABORTED, self._on_aborted),
        ]
        try:
            self._server = ae.start_server((node.host, node.port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ConfigError(
                f"node.host, node.port: cannot listen on {node.host}:{node.port}: {error.strerror or error}"
            ) from error
        self._ae = ae

    def stop(self) -> None:
        """Stop listening and abort what is open; what was acknowledged is stored already."""
        if self._ae is None:
            return
        for association in self._ae.active_associations:
            sock = association.dul.socket.socket if association.dul.socket is not None else None
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the rest of a message
        self._ae.shutdown()
        self._ae = None

    def last_byte(self, study: str) -> float:
        """When a byte last came on an open association that brought instances of ``study`` (epoch s; 0: never)."""
        return max((one.last_byte for one in list(self._open.values()) if study in one.studies), default=0.0)

    def _on_bytes(self, event: Any) -> None:
        known = self._open.get(event.assoc)
        if known is not None:
            known.last_byte = self._store.clock()

    def _on_closed(self, event: Any) -> None:
        self._open.pop(event.assoc, None)

    def _on_limit(self, event: Any) -> None:
        """pynetdicom rejected it by itself, which it does where too many are open at once."""
        logger().warning(
            "association.rejected",
            address=event.assoc.requestor.address,
            reason=f"{_MAX_ASSOCIATIONS} associations are open already; the caller may try again",
        )

    def _on_requested(self, event: Any) -> None:
        """Judge a caller; whatever goes wrong in judging rejects it.

        pynetdicom goes on to accept where a handler raises, so nothing may be raised here, and an association that was
        not judged to the end may not store (`_may_store`).
        """
        event.assoc.caller = None
        try:
            self._judge(event)
        except Exception as error:
            event.assoc.caller = None
            self._reject(event, _REJECT_CALLING, f"an unexpected error: {where(error)}", "")

    def _judge(self, event: Any) -> None:
        """Reject a caller that IT has not named, and say what IT would have to add."""
        request = event.assoc.requestor.primitive
        calling, called = request.calling_ae_title.strip(" \0"), request.called_ae_title.strip(" \0")
        address = event.assoc.requestor.address
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            association=next(self._numbers), calling_ae=calling, called_ae=called, address=address
        )
        if called != self._settings.node.ae_title:
            self._reject(
                event,
                _REJECT_CALLED,
                f"it called AE title '{printable(called)}', but this node is '{self._settings.node.ae_title}'",
                "correct the called AE title on the sender, or node.ae_title here",
            )
            return
        titled = [peer for peer in self._settings.peers if peer.ae_title == calling]
        peers = tuple(peer for peer in titled if peer.any_host or _calls_from(peer, address))
        if not peers and not self._settings.node.accept_unknown_callers:
            if titled:
                hosts = ", ".join(str(peer.host) for peer in titled)
                reason = f"AE title '{printable(calling)}' may call from {hosts}, not from {address}"
                fix = f"set host = '{address}' (or any_host = true) on [[peers]] {titled[0].name}"
            else:
                reason = f"AE title '{printable(calling)}' at {address} is no peer of this node"
                fix = (
                    'add to the configuration: [[peers]] name = "...", '
                    f'ae_title = "{printable(calling)}", host = "{address}", may_store = true'
                )
            self._reject(event, _REJECT_CALLING, reason, fix)
            return
        event.assoc.caller = _Caller(calling, peers)
        self._open[event.assoc] = _Open(self._store.clock())
        logger().debug("association.accepted", peer=", ".join(peer.name for peer in peers) or "unknown caller")

    @staticmethod
    def _reject(event: Any, answer: tuple[int, int, int], reason: str, fix: str) -> None:
        event.assoc.acse.send_reject(*answer)
        event.assoc.kill()  # waits until the rejection is on the wire; without it the peer may see a closed connection
        logger().warning("association.rejected", reason=reason, fix=fix)

    @staticmethod
    def _on_aborted(event: Any) -> None:
        logger().warning("association.aborted", address=event.assoc.requestor.address)

    def _on_store(self, event: Any) -> int:
        """Answer a C-STORE request; never raises, so that the association lives on."""
        request = event.request
        sop_class_uid = str(request.AffectedSOPClassUID or "").strip(" \0")
        sop_instance_uid = str(request.AffectedSOPInstanceUID or "").strip(" \0")
        log = logger().bind(instance=sop_instance_uid, sop_class=sop_class_uid)
        began = time.perf_counter()
        try:
            self._may_store(event)
            if not is_uid(sop_instance_uid):
                raise Refused(0x0117, "the command's Affected SOP Instance UID breaks the rules for UIDs")  # noqa: TRY301
            if not is_uid(sop_class_uid):
                raise Refused(0x0122, "the command's Affected SOP Class UID breaks the rules for UIDs")  # noqa: TRY301
            stream = request.DataSet or io.BytesIO()
            stream.seek(0)
            syntax = str(event.context.transfer_syntax)
            header = scan(stream, syntax)
            _agree(header, sop_class_uid, sop_instance_uid)
            log = log.bind(study=header.study)
            data_set = stream.getbuffer()
            known = self._open.get(event.assoc)
            if known is not None:
                known.studies.add(header.study)
            new = self._store.put(header, syntax, event.assoc.caller.ae_title, data_set)
        except Refused as refused:
            log.warning("instance.refused", status=f"{refused.status:04X}", reason=refused.reason)
            return refused.status
        except OSError as error:
            full = error.errno in _FULL
            reason = "no room left on the disk" if full else f"the disk gave an error: {error.strerror}"
            log.error("instance.refused", status="A700" if full else "0110", reason=reason)
            return 0xA700 if full else 0x0110
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            reason = "no room left on the disk for the index" if full else "the index gave an error"
            log.error("instance.refused", status="A700" if full else "0110", reason=reason, error=where(error))
            return 0xA700 if full else 0x0110
        except Exception as error:  # the sender gets a status, not a broken association; the log says where
            log.error("instance.refused", status="0110", reason="an unexpected error", error=where(error))
            return 0x0110
        if new:
            log.debug("instance.stored", bytes=len(data_set), seconds=round(time.perf_counter() - began, 4))
        return 0x0000

    def _may_store(self, event: Any) -> None:
        caller: _Caller | None = event.assoc.caller
        if caller is None:
            raise Refused(0x0124, "the caller of this association was never judged")
        if caller.peers and not any(peer.may_store for peer in caller.peers):
            raise Refused(0x0124, f"peer {caller.peers[0].name} may not store: set may_store = true to let it")


def _agree(header: Header, sop_class_uid: str, sop_instance_uid: str) -> None:
    for name, ours, theirs in (
        ("Class", header.sop_class_uid, sop_class_uid),
        ("Instance", header.sop_instance_uid, sop_instance_uid),
    ):
        if ours != theirs:
            raise Refused(0xA900, f"the data set's SOP {name} UID {ours} is not the command's")


def _calls_from(peer: Peer, address: str) -> bool:
    """Whether ``address`` is the peer's; a host name is looked up now, since IT may have moved it."""
    if peer.host is None:
        return False
    if peer.host == address:
        return True
    try:
        found = socket.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a name that cannot be looked up, or is none at all
        return False
    return address.removeprefix("::ffff:") in {str(entry[4][0]) for entry in found}


def _on_echo(_event: Any) -> int:
    return 0x0000
