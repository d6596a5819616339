"""What every use of pynetdicom in the node needs: its process-wide switches, and mends for its sockets and threads."""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, transport
from pynetdicom.dimse_primitives import C_STORE

from dicom_node import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

SILENT_SECONDS = 60.0  # the longest time that an open association may send nothing


def configure_pynetdicom() -> None:
    """Set pynetdicom's process-wide switches; it may be called again."""
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage SOP class, private ones included
    _config.LOG_HANDLER_LEVEL = "none"  # its log handlers describe every message with its patient data
    _config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, not decoded and encoded again
    # The node answers a malformed C-STORE with a status. pynetdicom would abort on an invalid UID. It would not answer
    # where a UID or the data set is missing, and the sender would wait until its time-out.
    _config.VALIDATORS["UI"] = lambda _value: (True, "")
    C_STORE.REQUEST_KEYWORDS = ("MessageID",)
    # The node rejects AE titles with NUL padding or in another alphabet, and gives the reason. pynetdicom would abort.
    _config.VALIDATORS["AE"] = lambda _value: (True, "")
    _config.CODECS = ("ascii", "iso8859-1")
    transport.select = _Poll


class _Poll:
    """Stands for the module ``select`` in pynetdicom, which asks it whether a socket has something to read.

    select(2) fails for file numbers from 1024 on, and pynetdicom takes this for a closed connection. With hundreds of
    open associations the node could deliver nothing.
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
    """Holds an association's own thread while another thread sends a request and reads the response.

    pynetdicom has a flag that says whether the own thread is held. That thread clears the flag shortly after it goes
    on. A request made in between sees the old flag: the own thread then reads the response and discards it, and the
    other thread waits until its time-out. Here the flag is cleared before the thread goes on.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self.set()
        self._association = association
        self._passing = threading.Lock()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, then clear the flag of the association."""
        while super().wait(timeout):
            with self._passing:
                if self.is_set():
                    self._association._is_paused = False
                    return True
        return False

    def clear(self) -> None:
        """Hold the thread from now on; if it has passed, the flag of the association is clear."""
        with self._passing:
            super().clear()


def on_open(event: Any) -> None:
    """Handle EVT_CONN_OPEN of every association that we request: no response is delayed and none is lost."""
    sock = event.assoc.dul.socket.socket
    if sock is not None:  # Nagle's algorithm against delayed acknowledgements costs 40 ms a message
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    event.assoc._reactor_checkpoint = _Checkpoint(event.assoc)  # its thread does not run yet
