"""What every use of pynetdicom here needs: its process-wide switches and a socket that does not wait."""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom import _config
from pynetdicom.dimse_primitives import C_STORE


def configure_pynetdicom() -> None:
    """Set pynetdicom's process-wide switches; harmless to repeat."""
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage SOP class, private ones included
    _config.LOG_HANDLER_LEVEL = "none"  # its handlers describe every message, patient data included
    _config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, not decoded and encoded again
    # A malformed C-STORE gets a status from us. pynetdicom would abort on a bad UID, and not answer at all where a UID
    # or the data set is missing, so that the sender waits until it gives up.
    _config.VALIDATORS["UI"] = lambda _value: (True, "")
    C_STORE.REQUEST_KEYWORDS = ("MessageID",)


def no_delay(event: Any) -> None:
    """For EVT_CONN_OPEN: Nagle's algorithm against delayed acknowledgements costs 40 ms a message."""
    sock = event.assoc.dul.socket.socket
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
