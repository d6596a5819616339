"""What every use of pynetdicom here needs: its process-wide switches and a socket that does not wait."""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, transport
from pynetdicom.dimse_primitives import C_STORE

from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

SILENT_SECONDS = 60.0  # how long an open association may send nothing


def configure_pynetdicom() -> None:
    """Set pynetdicom's process-wide switches; harmless to repeat."""
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage SOP class, private ones included
    _config.LOG_HANDLER_LEVEL = "none"  # its handlers describe every message, patient data included
    _config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, not decoded and encoded again
    # A malformed C-STORE gets a status from us. pynetdicom would abort on a bad UID, and not answer at all where a UID
    # or the data set is missing, so that the sender waits until it gives up.
    _config.VALIDATORS["UI"] = lambda _value: (True, "")
    C_STORE.REQUEST_KEYWORDS = ("MessageID",)
    # Titles padded with NUL or in another alphabet are rejected by us with a reason, not aborted without a word.
    _config.VALIDATORS["AE"] = lambda _value: (True, "")
    _config.CODECS = ("ascii", "iso8859-1")
    transport.select = _Poll


class _Poll:
    """What pynetdicom asks of the module ``select``: whether something came on a socket.

    select(2) takes no file number from 1024 on, and pynetdicom then thinks that the connection is gone: with hundreds
    of associations open nothing could be delivered.
    """

    @staticmethod
    def select(
        sockets: list[socket.socket], _writable: list[Any], _strange: list[Any], seconds: float
    ) -> tuple[list[socket.socket], list[Any], list[Any]]:
        """As ``select.select``, for one socket to be read."""
        poll = select.poll()
        poll.register(sockets[0], select.POLLIN)
        return (sockets if poll.poll(1000 * seconds) else []), [], []


def application_entity(ae_title: str, kind: type[AE] = AE) -> AE:
    """An AE that says which implementation it is (PS3.7 D.3.3.2); the caller of this function sets its time-outs."""
    configure_pynetdicom()
    ae = kind(ae_title=ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    return ae


class _Checkpoint(threading.Event):
    """Where pynetdicom's thread of an association waits while a request is under way and its answer is awaited.

    pynetdicom asks a flag whether it waits, which that thread takes down a moment after it went on. A request made in
    that moment has its answer read by the thread, which has no use for it, and would be awaited in vain. Here the flag
    is down by the time the thread goes on.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self.set()
        self._association = association
        self._passing = threading.Lock()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, and say that the thread goes on."""
        while super().wait(timeout):
            with self._passing:
                if self.is_set():
                    self._association._is_paused = False
                    return True
        return False

    def clear(self) -> None:
        """Let nothing pass from now on; what has passed has said so."""
        with self._passing:
            super().clear()


def on_open(event: Any) -> None:
    """For EVT_CONN_OPEN of every association that we ask for: no answer is waited for longer than it takes."""
    sock = event.assoc.dul.socket.socket
    if sock is not None:  # Nagle's algorithm against delayed acknowledgements costs 40 ms a message
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event.assoc._reactor_checkpoint = _Checkpoint(event.assoc)  # its thread does not run yet
